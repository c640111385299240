"""Tokenizers: text to token ids and back. Token 0 is the CTC blank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from layerdial.errors import UserError
from layerdial.text.ctc import BLANK
from layerdial.utils.files import write_text

TokenizerKind = Literal["word", "char", "bpe"]
SPACE = "▁"  # SentencePiece's word boundary, here also the character for a space


def join_pieces(pieces: Iterable[str]) -> str:
    """Return the text of word pieces, in which `▁` is a space."""
    return " ".join("".join(pieces).replace(SPACE, " ").split())


class Tokenizer(Protocol):
    """Text to token ids and back. Ids run from 1; 0 is the blank."""

    @property
    def tokens(self) -> list[str]:
        """All tokens in the order of their ids, the blank first."""
        ...

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def save(self, folder: Path) -> None: ...


class ListTokenizer:
    """A token a word, or a token a character, by a plain list."""

    def __init__(self, tokens: list[str], kind: Literal["word", "char"]) -> None:
        self.tokens = tokens
        self.kind: TokenizerKind = kind
        self._ids = {token: i for i, token in enumerate(tokens)}

    @classmethod
    def build(cls, texts: Iterable[str], kind: Literal["word", "char"]) -> ListTokenizer:
        """Return a tokenizer of the words or characters of `texts`, sorted, behind the blank.

        The characters always include the space.
        """
        found = {unit for text in texts for unit in _units(text, kind)} | ({SPACE} if kind == "char" else set())
        return cls(["<blk>", *sorted(found)], kind)

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[unit] for unit in _units(text, self.kind)]
        except KeyError as error:
            raise UserError(
                f"the tokenizer has no {self.kind} {error.args[0]!r} (in {text[:60]!r}); "
                f"it knows the {len(self.tokens) - 1} {self.kind}s of the training text; kind bpe or char covers more"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        if self.kind == "word":
            return " ".join(self.tokens[i] for i in ids)
        return join_pieces(self.tokens[i] for i in ids)

    def save(self, folder: Path) -> None:
        save_tokens(self.tokens, folder)


class BpeTokenizer:
    """SentencePiece byte-pair encoding. The id of its piece 0 (`<unk>`) is the blank's."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self.kind: TokenizerKind = "bpe"
        self._pieces = SentencePieceProcessor(model_proto=model)
        self.tokens = ["<blk>", *(self._pieces.id_to_piece(i) for i in range(1, self._pieces.get_piece_size()))]

    @classmethod
    def build(cls, texts: Iterable[str], size: int) -> BpeTokenizer:
        """Train `size` tokens (the blank among them) on `texts`; deterministic."""
        import io

        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"a BPE of {size} tokens cannot be trained on this text: {reason}") from None
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        ids = list(self._pieces.encode(text))
        if BLANK in ids:
            raise UserError(f"the tokenizer has no piece for a character of {text[:60]!r}; was the text normalised?")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return join_pieces(self.tokens[i] for i in ids)

    def save(self, folder: Path) -> None:
        save_tokens(self.tokens, folder)
        (folder / "bpe.model").write_bytes(self.model)


def build_tokenizer(kind: TokenizerKind, texts: Iterable[str], size: int | None = None) -> Tokenizer:
    """Return a tokenizer for `texts`. `size` is for BPE only; `UserError` where BPE lacks it."""
    if kind != "bpe":
        return ListTokenizer.build(texts, kind)
    if size is None:
        raise UserError("tokenizer.size is missing; a BPE needs its number of tokens, for example 256")
    return BpeTokenizer.build(texts, size)


class PieceTable:
    """A decoder alone, all that an exported model needs: a piece of text a token, none for `silent` tokens."""

    def __init__(self, tokens: Sequence[str], silent: Iterable[int] = ()) -> None:
        self.tokens = list(tokens)
        written = dict.fromkeys(silent, "")
        self._pieces = [written.get(i, token) for i, token in enumerate(tokens)]

    def decode(self, ids: Iterable[int]) -> str:
        return join_pieces(self._pieces[i] for i in ids)

    def save(self, folder: Path) -> None:
        save_tokens(self.tokens, folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer stored in a model folder (`tokens.txt`, and `bpe.model` for BPE).

    Raises `UserError` where a file is missing or damaged.
    """
    tokens_file = folder / "tokens.txt"
    if (folder / "bpe.model").is_file():
        try:
            return BpeTokenizer((folder / "bpe.model").read_bytes())
        except RuntimeError:
            raise UserError(f"{folder / 'bpe.model'} is not a readable SentencePiece model; copy it again") from None
    if not tokens_file.is_file():
        raise UserError(
            f"{folder} has no tokens.txt; a model folder holds config.json, model.safetensors and tokens.txt"
        )
    tokens = read_tokens(tokens_file)
    return ListTokenizer(tokens, "char" if SPACE in tokens else "word")


def read_tokens(file: Path, blank: bool = True) -> list[str]:
    """Return the tokens of a `tokens.txt`, one "token id" a line, the blank first unless there is none.

    Raises `UserError` for a missing file and for other contents.
    """
    try:
        # not splitlines(), which would also split a line at a token that is another kind of line break
        rows = [line.rsplit(" ", 1) for line in file.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; it comes with the model, one token a line") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a list of tokens (it is no UTF-8 text); copy it again") from None
    if [row[-1] for row in rows] != [str(i) for i in range(len(rows))]:
        raise UserError(f"{file} is not a list of tokens, each with its number, counted from 0; copy it again")
    if not rows or (blank and rows[0][0] != "<blk>"):
        raise UserError(f"{file} does not begin with '<blk> 0'")
    return [row[0] for row in rows]


def _units(text: str, kind: TokenizerKind) -> Iterable[str]:
    return text.split() if kind == "word" else text.replace(" ", SPACE)


def save_tokens(tokens: Sequence[str], folder: Path) -> None:
    """Write `tokens.txt`."""
    write_text(folder / "tokens.txt", "".join(f"{token} {i}\n" for i, token in enumerate(tokens)))
