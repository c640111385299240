"""A Hugging Face processor as this package's features and tokenizer.

The model's own feature extractor and tokenizer do the work. These classes add what training and decoding need.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Processor

from layerdial.audio.features import Convolution, Framing, Lengths, fewest_inputs, frames_after
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import WINDOW
from layerdial.audio.windows import CONTEXT_SECONDS
from layerdial.errors import UserError
from layerdial.utils.temporary import temporary_folder

_log = logging.getLogger(__name__)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # texts are short, and data workers are forks


def framing_of(extractor: Any) -> Framing:
    """Return how a feature extractor of the library cuts frames, by the library's name for its class."""
    kind = type(extractor).__name__
    if kind == "SeamlessM4TFeatureExtractor":
        return Framing(window=WINDOW, stacked=int(extractor.stride))  # the library has the numbers in its code
    window = int(extractor.win_length) if kind == "LasrFeatureExtractor" else None
    return Framing(int(extractor.hop_length), window, int(getattr(extractor, "frame_stacking", 1)))  # Granite's stacks


class HuggingFaceFeatures:
    """A feature extractor, and the convolutions of the front end behind it as (kernel, stride, padding).

    wav2vec2 and its relatives take samples; Parakeet, LASR and wav2vec2-BERT each their own kind of log-mel.
    `fewest_frames` is how many frames of the network the shortest audio is padded to.
    """

    def __init__(self, extractor: Any, convolutions: Sequence[Convolution], fewest_frames: int = 1) -> None:
        if extractor.sampling_rate != SAMPLE_RATE:
            raise UserError(f"the model takes {extractor.sampling_rate} Hz; layerdial gives {SAMPLE_RATE} Hz")
        self.extractor = extractor
        self.convolutions = tuple(convolutions)
        self.fewest_frames = fewest_frames
        self._name = extractor.model_input_names[0]
        if CONTEXT_SECONDS * SAMPLE_RATE % self.samples_per_frame:
            raise UserError(
                f"a frame of the model is {self.samples_per_frame} samples, of which {CONTEXT_SECONDS} s are no whole "
                "number; long audio could not be cut into windows"
            )

    @property
    def takes_samples(self) -> bool:
        return bool(self._name == "input_values")

    @property
    def per_second(self) -> int:
        return SAMPLE_RATE if self.takes_samples else SAMPLE_RATE // framing_of(self.extractor).samples_per_input

    @property
    def samples_per_frame(self) -> int:
        return SAMPLE_RATE // self.per_second * math.prod(stride for _, stride, _ in self.convolutions)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the inputs (S,) or (T, F) of samples (S,). Audio too short for one frame is padded with silence."""
        samples = np.pad(samples, (0, max(0, self._fewest_samples() - len(samples))))
        made = self.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")
        if self.takes_samples:
            return np.asarray(made[self._name][0], dtype=np.float32)
        inputs = np.asarray(made[self._name][0], dtype=np.float32)
        return inputs[: int(np.asarray(made["attention_mask"][0]).sum())] if "attention_mask" in made else inputs

    def frames(self, lengths: Lengths) -> Lengths:
        return frames_after(self.convolutions, lengths)

    def _fewest_samples(self) -> int:
        inputs = fewest_inputs(self.convolutions, self.fewest_frames)
        return inputs if self.takes_samples else framing_of(self.extractor).fewest_samples(inputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HuggingFaceFeatures) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self.convolutions)

    def __repr__(self) -> str:
        return f"{type(self.extractor).__name__} at {SAMPLE_RATE / self.samples_per_frame:g} frames a second"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the inputs."""
        settings = self.extractor.to_dict()
        return {k: v for k, v in settings.items() if k not in ("processor_class", "return_attention_mask")}

    def _identity(self) -> tuple[Any, ...]:
        return self.convolutions, self.fewest_frames, self.settings


class HuggingFaceTokenizer:
    """A CTC tokenizer of the library. Token 0 is the blank here; the others keep their order behind it."""

    def __init__(self, processor: Any, n_outputs: int, where: str) -> None:
        self.processor = processor
        self._tokenizer = processor.tokenizer
        self.blank = _blank_of(self._tokenizer, n_outputs, where)
        self._hf_ids = [self.blank, *(i for i in range(n_outputs) if i != self.blank)]
        self._own_ids = {hf_id: own for own, hf_id in enumerate(self._hf_ids)}
        self.tokens: list[str] = self._tokenizer.convert_ids_to_tokens(self._hf_ids)
        self._upper = _writes_capitals(self.tokens)
        if beyond := _letters_beyond_a_to_z(self.tokens):
            _log.warning("%s writes letters beyond a-z (%s); training text and WER know a-z only", where, beyond)

    def encode(self, text: str) -> list[int]:
        """Return the ids of normalised text, which is put in capitals where the vocabulary has only these.

        Raises `UserError` for text with characters outside the vocabulary.
        """
        written = text.upper() if self._upper else text
        unknown = self._tokenizer.unk_token_id
        try:
            ids = self._library_ids(written)
        except ValueError:  # a vocabulary without a token for the unknown
            ids = [unknown]
        if any(i == unknown or i not in self._own_ids for i in ids) or not self._is_spelt(written, ids):
            known = "".join(sorted(token for token in self.tokens if len(token) == 1))
            raise UserError(f"the model's tokenizer cannot spell {text[:60]!r}; its characters are {known!r}")
        return [self._own_ids[i] for i in ids]

    def _library_ids(self, text: str) -> list[int]:
        """Return the library's ids; it would spell a word delimiter of several characters letter by letter."""
        delimiter = getattr(self._tokenizer, "word_delimiter_token", None) or " "
        if len(delimiter) == 1:
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)
        words = [list(self._tokenizer(word, add_special_tokens=False).input_ids) for word in text.split()]
        between = int(self._tokenizer.word_delimiter_token_id)
        return [i for n, word in enumerate(words) for i in ([between, *word] if n else word)]

    def _is_spelt(self, text: str, ids: list[int]) -> bool:
        """Return whether the pieces are the letters of a text: LASR's tokenizer writes unknown ones as a word start."""
        if type(self._tokenizer).__name__ != "LasrTokenizer":
            return True
        pieces = "".join(self._tokenizer.convert_ids_to_tokens(ids))
        return pieces.replace("▁", "") == "".join(text.split())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text as the model writes it."""
        hf_ids = [self._hf_ids[i] for i in ids]
        text: str = self._tokenizer.decode(hf_ids, group_tokens=False, skip_special_tokens=True)
        return " ".join(text.split())

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)


def character_processor(texts: Iterable[str], extractor: Any) -> Wav2Vec2Processor:
    """Return a processor for the characters of `texts`: blank, unknown, `|` for the space, letters in order."""
    letters = sorted({letter for text in texts for letter in text} - {" "})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "|", *letters])}
    with temporary_folder() as folder:
        file = folder / "vocab.json"
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def vocabulary_size(tokenizer: Any) -> int:
    """Return the number of outputs of a head for this tokenizer: its tokens and the blank.

    Special tokens with ids behind both are left out.
    """
    special = set(tokenizer.all_special_ids)
    return 1 + max(int(i) for i in tokenizer.get_vocab().values() if i not in special or i == tokenizer.pad_token_id)


def _letters_beyond_a_to_z(tokens: Sequence[str]) -> str:
    letters = (token for token in tokens if len(token) == 1 and token.isalpha())
    return "".join(letter for letter in letters if letter.lower() not in "abcdefghijklmnopqrstuvwxyz")[:20]


def _blank_of(tokenizer: Any, n_outputs: int, where: str) -> int:
    """Return the id of the blank. Raises `UserError` when tokenizer and head do not belong together."""
    blank = tokenizer.pad_token_id
    if blank is None:
        raise UserError(f"{where}: its tokenizer has no padding token, which is the blank of a CTC model")
    special = set(tokenizer.all_special_ids)
    ids = {i for token, i in tokenizer.get_vocab().items() if i not in special or i == blank or i < n_outputs}
    if ids != set(range(n_outputs)):
        raise UserError(
            f"{where}: its head has {n_outputs} outputs, its tokenizer {len(ids)} tokens; they do not belong together"
        )
    return int(blank)


def _writes_capitals(tokens: Sequence[str]) -> bool:
    letters = [token for token in tokens if len(token) == 1 and token.isalpha()]
    return bool(letters) and all(letter.isupper() for letter in letters)
