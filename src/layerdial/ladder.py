"""The ladder: for each depth the subset to run, with what it was measured to do. Shipped beside the model's weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.files import read_json, write_json
from layerdial.subset import Blocks, BlockSubset, Budget, check_depth

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rung:
    """The subset of one depth: its key, mean CTC loss an utterance (none if not finite), WER and what it divides."""

    depth: int
    subset: str
    loss: float | None
    wer: float
    errors: int
    words: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """One rung for each depth 1..n_blocks, shallowest first; `metric` chose them on the `utterances` of `cuts`.

    It is "trained" where nothing was chosen: one subset a depth was trained, and measured there.
    """

    n_blocks: int
    metric: str
    cuts: str
    utterances: int
    rungs: tuple[Rung, ...]

    def __post_init__(self) -> None:
        depths = [rung.depth for rung in self.rungs]
        if depths != list(range(1, self.n_blocks + 1)):
            raise UserError(f"a ladder of {self.n_blocks} blocks has rungs 1 to {self.n_blocks}, found {depths}")
        for rung in self.rungs:
            subset = BlockSubset.from_key(rung.subset)
            if (subset.n_blocks, subset.depth) != (self.n_blocks, rung.depth):
                raise UserError(f"rung {rung.depth} of {self.n_blocks} blocks cannot have the subset {rung.subset}")

    def subset(self, depth: int) -> BlockSubset:
        """The blocks to run at `depth`; `UserError` unless 1 <= depth <= n_blocks."""
        return BlockSubset.from_key(self.rungs[check_depth(depth, self.n_blocks) - 1].subset)

    def save(self, path: Path) -> None:
        """Write ladder.json in one step."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path, n_blocks: int | None = None) -> Ladder:
        """Read ladder.json; `UserError` if it is missing, damaged, of another format, or not for `n_blocks` blocks."""
        stored = read_json(path)
        found = stored.get("format") if isinstance(stored, dict) else None
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r}; this layerdial reads format {FORMAT}")
        try:
            ladder = cls._parse(stored)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); make it again with layerdial search") from error
        except UserError as error:
            raise UserError(f"{path} is damaged ({error}); make it again with layerdial search") from error
        if n_blocks not in (None, ladder.n_blocks):
            raise UserError(
                f"{path} is for {ladder.n_blocks} blocks, this model has {n_blocks}; run layerdial search again"
            )
        return ladder

    @classmethod
    def beside(cls, folder: Path, n_blocks: int) -> Ladder | None:
        """The ladder in a model folder, if training or `search` has made one."""
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
        return cls(int(stored["n_blocks"]), *named, int(stored["utterances"]), rungs)


def blocks_at(rule: str, n_blocks: int, depth: int, ladder: Ladder | None = None) -> Blocks:
    """What runs at `depth` by a rule: "prefix" or "even" blocks, the "ladder"'s, or those "chosen" by the network."""
    check_depth(depth, n_blocks)
    if rule == "ladder":
        if ladder is None:
            raise UserError("the model has no ladder.json; run layerdial search first, or choose --select even")
        return ladder.subset(depth)
    if rule == "chosen":
        return BlockSubset.full(n_blocks) if depth == n_blocks else Budget(n_blocks, depth)
    return BlockSubset.prefix(n_blocks, depth) if rule == "prefix" else BlockSubset.even(n_blocks, depth)


def choose_subset(ladder: Ladder | None, n_blocks: int, depth: int | None) -> BlockSubset:
    """The blocks to run at `depth` (None: all): the ladder's choice, or evenly spaced without a ladder."""
    if depth is None:
        return BlockSubset.full(n_blocks)
    check_depth(depth, n_blocks)
    return ladder.subset(depth) if ladder else BlockSubset.even(n_blocks, depth)
