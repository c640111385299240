"""Transcripts in the style of a recogniser: the corpus' words, its capitals and punctuation."""

from __future__ import annotations

import pytest

from layerdial.text.normalise import normalise
from layerdial.text.restyle import restyle


@pytest.mark.parametrize(
    ("transcript", "recognised", "expected"),
    [
        ("OUR VIRTUES IT IS PROBABLE", "Our virtues! It is probable.", "Our virtues! It is probable."),
        ("OUR VIRTUES IT IS PROBABLE", "Our virtues! It is, probably.", "Our virtues! It is, probable."),
        ("CHAPTER SEVEN OUR VIRTUES", "Chapter 7. Our virtues", "Chapter seven. Our virtues"),
        ("TWO HUNDRED FIFTEEN AS IN", "215. As in", "Two hundred fifteen. As in"),
        ("MISTER GRAHAM IS HERE", "Mr. Graham is here.", "Mister. Graham is here."),
        ("AN ILL NATURED MAN", "An ill-natured man.", "An ill-natured man."),
        ("AN ILL MAN", "An ill-natured man.", "An ill man."),
        ("THE END", "The end. Thank you. Thank you.", "The end."),
        ("SHE DIDN'T GO AWAY", "She didn\u2019t", "She didn\u2019t go away"),
        ("WORDS", "", "words"),
    ],
)
def test_words_of_the_transcript_in_the_style_of_the_recogniser(
    transcript: str, recognised: str, expected: str
) -> None:
    found = restyle(transcript, recognised)
    assert found == expected
    assert normalise(found) == normalise(transcript)
