"""The ladder: for each depth the subset to run, with its measured loss and WER. Shipped beside the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, overload

from layerdial.errors import UserError
from layerdial.subset import Blocks, BlockSubset, SelectorDepth, check_depth
from layerdial.utils.records import parsing, read_record, write_record

FORMAT = 1
_REMEDY = "make it again with layerdial search"


@dataclass(frozen=True, slots=True)
class Rung:
    """The subset of one depth: its key, mean CTC loss an utterance (None if not finite), WER with errors and words."""

    depth: int
    subset: str
    loss: float | None
    wer: float
    errors: int
    words: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """One rung for each depth shallowest..n_blocks, in that order; `metric` chose them on the `utterances` of `cuts`.

    `metric` is "trained" where nothing was chosen: one subset a depth was trained, and measured there. Depths below
    `shallowest` were not, and what they write is no text of the audio.
    """

    n_blocks: int
    metric: str
    cuts: str
    utterances: int
    rungs: tuple[Rung, ...]
    shallowest: int = 1

    def __post_init__(self) -> None:
        depths = [rung.depth for rung in self.rungs]
        check_depth(self.shallowest, self.n_blocks)
        # their number first: a file may claim more blocks than there is memory for
        if len(depths) != self.n_blocks - self.shallowest + 1 or depths != list(self.depths):
            raise UserError(
                f"a ladder of {self.n_blocks} blocks has rungs {self.shallowest} to {self.n_blocks}, found {depths}"
            )
        for rung in self.rungs:
            subset = BlockSubset.from_key(rung.subset)
            if (subset.n_blocks, subset.depth) != (self.n_blocks, rung.depth):
                raise UserError(f"rung {rung.depth} of {self.n_blocks} blocks cannot have the subset {rung.subset}")

    @property
    def depths(self) -> range:
        """The depths that the model can run at."""
        return range(self.shallowest, self.n_blocks + 1)

    def subset(self, depth: int) -> BlockSubset:
        """Return the blocks to run at `depth`. Raises `UserError` unless shallowest <= depth <= n_blocks."""
        if check_depth(depth, self.n_blocks, self.shallowest) < self.shallowest:
            raise UserError(
                f"this model was trained at depths {self.shallowest} to {self.n_blocks}, found depth {depth}: "
                "with fewer blocks it writes nonsense"
            )
        return BlockSubset.from_key(self.rungs[depth - self.shallowest].subset)

    def save(self, path: Path) -> None:
        """Write ladder.json in one step."""
        write_record(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path, n_blocks: int | None = None) -> Ladder:
        """Read ladder.json.

        Raises `UserError` if it is missing, damaged, of another format, or not for `n_blocks` blocks.
        """
        stored = read_record(path, _REMEDY, format=FORMAT)
        with parsing(path, _REMEDY):
            ladder = cls._parse(stored)
        if n_blocks not in (None, ladder.n_blocks):
            raise UserError(
                f"{path} is for {ladder.n_blocks} blocks, this model has {n_blocks}; run layerdial search again"
            )
        return ladder

    @classmethod
    def beside(cls, folder: Path, n_blocks: int) -> Ladder | None:
        """Return the ladder in a model folder, or None unless training or `search` has made one."""
        file = folder / "ladder.json"
        return cls.load(file, n_blocks) if file.is_file() else None

    @classmethod
    def _parse(cls, stored: dict[str, Any]) -> Ladder:
        rungs = tuple(
            Rung(
                depth=int(rung["depth"]),
                subset=str(rung["subset"]),
                loss=None if rung.get("loss") is None else float(rung["loss"]),
                wer=float(rung["wer"]),
                errors=int(rung["errors"]),
                words=int(rung["words"]),
            )
            for rung in stored["rungs"]
        )
        named = str(stored["metric"]), str(stored["cuts"])
        shallowest = stored.get("shallowest", 1)
        for name, number in (("n_blocks", stored["n_blocks"]), ("shallowest", shallowest)):
            if not isinstance(number, int):  # a float may be a number of 300 digits
                raise TypeError(f"{name} is {number!r}")
        return cls(stored["n_blocks"], *named, int(stored["utterances"]), rungs, shallowest)


RULES = ("ladder", "prefix", "even", "random", "chosen", "full")
FixedRule = Literal["ladder", "prefix", "even", "random", "full"]


@overload
def select(
    rule: FixedRule | None, n_blocks: int, depth: int | None, ladder: Ladder | None = None, seed: int | Random = 0
) -> BlockSubset: ...
@overload
def select(
    rule: str | None, n_blocks: int, depth: int | None, ladder: Ladder | None = None, seed: int | Random = 0
) -> Blocks: ...
def select(
    rule: str | None, n_blocks: int, depth: int | None, ladder: Ladder | None = None, seed: int | Random = 0
) -> Blocks:
    """Return the blocks at `depth` (None: all) by a rule; without one the ladder's, or evenly spaced blocks.

    "prefix": the first; "even": evenly spaced; "ladder": the ladder's; "random": drawn with `seed`; "chosen": left to
    the network's selector; "full": all, at full depth alone. Raises `UserError` for another rule, and for a depth or a
    ladder that does not exist.
    """
    rule = rule or ("ladder" if ladder else "even")
    if rule not in RULES:
        raise UserError(f"unknown selection rule {rule!r}; choose one of {', '.join(RULES)}")
    least = 1 if ladder is None else ladder.shallowest
    depth = n_blocks if depth is None else check_depth(depth, n_blocks, least)
    if rule == "ladder":
        if ladder is None:
            raise UserError("the model has no ladder.json; run layerdial search first, or choose --select even")
        return ladder.subset(depth)
    if rule == "full" and depth != n_blocks:
        raise UserError(f"a model of {n_blocks} blocks that runs whole is tested at depth {n_blocks} alone")
    if rule == "full" or (rule == "chosen" and depth == n_blocks):
        return BlockSubset.full(n_blocks)
    if rule == "chosen":
        return SelectorDepth(n_blocks, depth)
    if rule == "random":
        return BlockSubset.random(n_blocks, depth, seed)
    return BlockSubset.prefix(n_blocks, depth) if rule == "prefix" else BlockSubset.even(n_blocks, depth)


def select_all(
    rule: str, depths: Sequence[int] | None, n_blocks: int, ladder: Ladder | None = None, seed: int = 0
) -> list[Blocks]:
    """Return the blocks that run at each depth (None: every one that the model can run at) by a rule of `select`."""
    return [select(rule, n_blocks, depth, ladder, seed) for depth in depths or depths_of(ladder, n_blocks)]


def depths_of(ladder: Ladder | None, n_blocks: int) -> range:
    """Return the depths that a model can run at: the ladder's, or all without one."""
    return range(1, n_blocks + 1) if ladder is None else ladder.depths
