"""Normalised text: what is left of any writing, and that twice is once."""

from __future__ import annotations

from random import Random

import pytest

from layerdial.text.normalise import normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Author of the danger trail, Philip Steels, etc.", "author of the danger trail philip steels etc"),
        ("It\u2019s  9\u201410 o'clock!", "it's 9 10 o'clock"),
        ("CAFÉ naïve", "cafe naive"),
        ("yes\u2014no \u201csaid\u201d", "yes no said"),
        ("well-known\tand\nnew", "well known and new"),
        ("' '' quoted '", "quoted"),
        ("\u3053\u3093 ...", ""),
        ("", ""),
        # notes of a transcriber
        ("[noise] hello <unk> there (laughs)", "hello there"),
        ("{breath} well [noise [loud]] yes <s> </s> [PAD]", "well yes"),
        ("\uff3bnoise\uff3d hello \uff08laughs\uff09", "hello"),
        ("\u3010noise\u3011 a \u27e8unk\u27e9 b \u3008unk\u3009 c \u3014laughs\u3015 d", "a b c d"),
        ("3 < 4 and 5 > 2, a [ b", "3 4 and 5 2 a b"),
        ("[" + "word " * 30 + "] end", "word " * 30 + "end"),
        (
            "(speaks a foreign language) we came (which he had not been told before) late",
            "we came which he had not been told before late",
        ),
        (
            "(two (nested) notes) it was (as they all ( it seems ) thought then) so",
            "it was as they all thought then so",
        ),
        # entities of HTML
        ("salt &amp; pepper don&#39;t it&#x2019;s&nbsp;fine &lt;unk&gt;", "salt pepper don't it's fine"),
        ("r&d; at&t &nosuchthing; &", "r d at t nosuchthing"),
        # apostrophes by other names
        *((f"I don{sign}t", "i don't") for sign in "'\u02bc\u2018\u2019\u00b4\u2032`\u201b\uff07\u02b9\ua78c\u055a"),
        # quotation marks, and apostrophes that are none
        ("he said 'go away' to 'them'", "he said go away to them"),
        ("\u2018Hello,\u2019 he said, \u2018I don\u2019t.\u2019", "hello he said i don't"),
        ("\u201aHallo\u2018 \u2039x\u203a ``y'' \u201ez\u201c", "hallo x y z"),
        ("'A quote that goes on", "a quote that goes on"),
        ("and ends here.' Yes", "and ends here yes"),
        ("'cause the dogs' bone, 'tis rock 'n' roll o' the '90s, goin' on", None),
        # signs that nobody sees
        ("so\u00adft ze\u200bro no\u200dw a\u2060b \ufeffend \u202aleft\u202c", "soft zero now ab end left"),
    ],
)
def test_normalised_text_holds_letters_digits_apostrophes_and_single_spaces(text: str, plain: str | None) -> None:
    plain = text.replace(",", "") if plain is None else plain  # as it is
    assert normalise(text) == plain
    assert normalise(plain) == plain


def test_normalising_twice_changes_nothing() -> None:
    random = Random(0)
    for _ in range(20_000):
        text = "".join(random.choices("ab'' \u2019[]()<>{}.sn1\u00ad", k=random.randint(0, 14)))
        once = normalise(text)
        assert normalise(once) == once, text
