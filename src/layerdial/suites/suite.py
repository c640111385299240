"""Suites: the methods compared on a corpus. Strict frozen models, like recipes."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from layerdial.config.network import FRAME_MS, ChunkMs, ConformerConfig
from layerdial.config.old_keys import refuse_old_suite
from layerdial.config.plugins import with_plugins
from layerdial.config.recipe import RECIPE_VERSION, Recipe
from layerdial.config.strict import Strict, parse, read_yaml, set_key
from layerdial.errors import UserError
from layerdial.text.normalisers import Normalizer

SUITE_VERSION = 2
Selection = Literal["search", "prefix", "even", "full", "chosen"]
Metric = Literal["wer", "cer"]
_ROUND_SEEDS = 1000  # between the seeds of a chain's rounds, so that those of a suite's seeds stay apart
RunKey = tuple[str, int]  # an entry and a seed


class Method(Strict):
    """One entry of a suite: its changes to the common recipe, and the entries whose models it needs.

    `method` labels its rows and its line (default: the entry's name; static models of several depths share one).
    `reference` names the entry of its reference, `init` the entry that it starts from ("scratch" and paths are allowed
    too). `select` is the rule for the blocks at a depth; `full`, for a network without dropping, means all blocks.

    `continues` trains another entry's model further, in rounds of the same recipe with another seed. It stops when a
    round improves dev by less than `min_gain` (relative); the best round is the result. There are at most `rounds`, or
    as many as the chain `rounds_like` needed to its best.
    """

    method: str | None = None
    set: dict[str, Any] = Field(default={})
    reference: str | None = None
    init: str | None = None
    continues: str | None = None
    rounds: int | None = Field(default=None, ge=1)
    rounds_like: str | None = None
    min_gain: float = Field(default=0.01, ge=0, lt=1)
    select: Selection | None = None
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    depths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.continues is None:
            for name in ("rounds", "rounds_like"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for an entry that continues another")
            if self.min_gain != 0.01:
                raise ValueError("min_gain is for an entry that continues another")
        elif (self.rounds is None) == (self.rounds_like is None):
            raise ValueError("continues needs either rounds, for example 4, or rounds_like, the name of a chain")
        elif self.init is not None:
            raise ValueError("init and continues exclude each other: a chain starts from the entry that it continues")
        return self


@dataclass(frozen=True)
class Hearing:
    """A test set, heard whole or in chunks of so many milliseconds."""

    test: str
    chunk_ms: int | None

    @property
    def chunk_frames(self) -> int | None:
        return None if self.chunk_ms is None else self.chunk_ms // FRAME_MS


class Suite(Strict):
    """Methods by seeds on one corpus, as the file defines them. `plugins` are those of every recipe.

    Words are counted in the first of `normalizers`; rows have the errors by the others too.
    `chunk_ms` are the sizes of chunks in which streaming networks are tested; each counts as a test set of its own. The
    other networks are tested on whole utterances.
    """

    suite: Literal[2]
    name: str
    out: Path
    corpus: str
    plugins: tuple[Path, ...] = ()
    test: dict[str, Path] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    depths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    chunk_ms: tuple[ChunkMs, ...] = Field(default=("full",), min_length=1)
    metric: Metric = "wer"
    normalizers: tuple[Normalizer, ...] = Field(default=("basic",), min_length=1)
    recipe: dict[str, Any]
    methods: dict[str, Method] = Field(min_length=1)
    baselines: tuple[str, ...] = ("ld_long", "ld", "ld_from_reference", "early_exit", "static", "reference")
    targets: tuple[str, ...] = ("dld", "sc_exits")

    def label(self, name: str) -> str:
        """Return the name of an entry in rows and pictures."""
        return self.methods[name].method or name

    @property
    def hearings(self) -> dict[str, Hearing]:
        """What is tested, by its name in rows: each test set, whole or in chunks of each size."""
        return {
            test if size == "full" else f"{test}-{size}ms": Hearing(test, None if size == "full" else size)
            for test in self.test
            for size in self.chunk_ms
        }

    def hearings_of(self, name: str) -> dict[str, Hearing]:
        """Return what an entry is tested on; without chunks, unless its network is a streaming one."""
        model = self.recipe_of(name, self.seeds_of(name)[0]).model
        if isinstance(model, ConformerConfig) and model.streaming is not None:
            return self.hearings
        return {test: Hearing(test, None) for test in self.test}

    def seeds_of(self, name: str) -> tuple[int, ...]:
        return self.methods[name].seeds or self.seeds

    def folder(self, name: str, seed: int) -> Path:
        """Return the folder of an entry's run with a seed; its subfolder `model` holds the result."""
        return self.out / name / f"seed-{seed}"

    def model(self, name: str, seed: int) -> Path:
        return self.folder(name, seed) / "model"

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the entries whose models this one needs, each once. A chain also needs what its first round needs."""
        wanted: list[str] = []
        for link in self._line(name):
            entry = self.methods[link]
            wanted += [
                n for n in (entry.reference, entry.init, entry.continues, entry.rounds_like) if n in self.methods
            ]
        return tuple(dict.fromkeys(wanted))

    def rounds(self, name: str) -> int:
        """Return the largest number of rounds of an entry; 0 unless it continues another."""
        entry = self.methods[name]
        return self.rounds(entry.rounds_like) if entry.rounds_like else entry.rounds or 0

    def recipe_of(self, name: str, seed: int, round_: int = 1) -> Recipe:
        """Return the recipe of an entry's run; of a chain, that of a round, counted from 1."""
        data = {"recipe": RECIPE_VERSION} | self.changed(name) | {"out": str(self.folder(name, seed))}
        for link in self._line(name):
            for key in ("reference", "init"):
                if (other := getattr(self.methods[link], key)) is not None:
                    data[key] = str(self.model(other, seed)) if other in self.methods else other
        set_key(data, "train.seed", seed)
        data["train"].setdefault("select_by", self.metric)
        changed = {key for link in self._line(name) for key in self.methods[link].set}
        if self.select_of(name) == "full" and not changed & {"train", "train.eval_depths"}:
            data["train"].pop("eval_depths", None)  # trained without dropping: all blocks
        if (continued := self.methods[name].continues) is not None:
            rounds = [self.folder(name, seed) / f"round-{number}" for number in range(1, round_ + 1)]
            starts = [self.model(continued, seed), *(folder / "model" for folder in rounds)]
            data |= {"out": str(rounds[-1]), "init": str(starts[round_ - 1])}
            data["train"]["seed"] = seed + _ROUND_SEEDS * round_
        # loaded here, since each worker of a suite is a process of its own
        return parse(Recipe, with_plugins(data | {"plugins": self.plugins}), f"suite {self.name}, method {name}")

    def select_of(self, name: str) -> Selection:
        """Return the rule for the blocks at a depth: the entry's, or one that follows from its training.

        Without dropping it is the prefix where each depth has an exit, else all blocks. With dropping it is a search on
        dev.
        """
        for link in reversed(self._line(name)):
            if (select := self.methods[link].select) is not None:
                return select
        data = self.changed(name)
        # a value that is not a table of keys is refused later, as a recipe
        policy, objective = (part if isinstance(part := data.get(key), dict) else {} for key in ("policy", "objective"))
        if policy.get("name") != "none":
            return "search"
        exits = objective.get("exits")
        every_depth = isinstance(exits, dict) and exits.get("at", "all") == "all"
        return "prefix" if every_depth else "full"

    def depths_of(self, name: str) -> tuple[int, ...]:
        """Return the depths at which an entry is tested: its own, or those of the suite that it trains."""
        for link in reversed(self._line(name)):
            if (depths := self.methods[link].depths) is not None:
                return depths
        recipe = self.recipe_of(name, self.seeds_of(name)[0])
        blocks = recipe.model.block_count() if recipe.model is not None else None
        if self.select_of(name) == "full" and blocks is not None:
            return (blocks,)
        return tuple(depth for depth in self.depths if depth >= recipe.policy.shallowest())

    def order(self) -> list[str]:
        """Return the entries, each after those that it needs, otherwise as in the file."""
        graph = {name: self.needs(name) for name in self.methods}
        return list(TopologicalSorter(graph).static_order())

    def changed(self, name: str) -> dict[str, Any]:
        """Return the common recipe with the changes of an entry and of what it continues."""
        data = copy.deepcopy(self.recipe)
        for link in self._line(name):
            for key, value in self.methods[link].set.items():
                set_key(data, key, copy.deepcopy(value))
        return data

    def _line(self, name: str) -> list[str]:
        """Return the chain of entries that this one continues, the first one first, down to this one."""
        before = self.methods[name].continues
        return [*(self._line(before) if before else ()), name]


@dataclass(frozen=True)
class Origin:
    """The origin of a run: the code, the suite's settings (also without defaults), the hashes of the test sets."""

    commit: str
    asked: Mapping[str, Any]
    asked_briefly: Mapping[str, Any]
    tests: Mapping[str, str]

    @cached_property
    def asked_digest(self) -> str:
        return hashlib.sha256(json.dumps(self.asked_briefly, sort_keys=True).encode()).hexdigest()[:16]


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite and check all of it: every recipe, the needed entries, seeds and depths."""
    data = read_yaml(path, "suite", SUITE_VERSION, "experiments/suites/smoke.yaml", overrides, refuse_old_suite)
    suite = parse(Suite, with_plugins(data), f"suite {path}")
    for check in (_check_names, _check_references, _check_keys, _check_runs, _check_labels, _check_report):
        try:
            check(suite)
        except UserError as error:
            raise UserError(str(error).replace(f"suite {suite.name}", f"suite {path}", 1)) from None
    return suite


def _check_names(suite: Suite) -> None:
    for name in (suite.name, *suite.methods, *suite.test):
        if not re.fullmatch(r"\w[\w.-]*", name) or name == "scratch":
            raise UserError(f"suite {suite.name}: {name!r} cannot be a name; use letters, digits, _ and -")


def _check_references(suite: Suite) -> None:
    """Check that every entry that is named exists, and that no two wait for each other."""
    for name, entry in suite.methods.items():
        for key in ("reference", "init", "continues", "rounds_like"):
            other = getattr(entry, key)
            if other is None or other in suite.methods or (key == "init" and other == "scratch"):
                continue
            if key in ("reference", "init") and ("/" in other or Path(other).exists()):
                continue  # a model folder or a hub id
            known = ", ".join(suite.methods)
            raise UserError(f"suite {suite.name}: methods.{name}.{key} is {other!r}; methods are {known}")
        if entry.rounds_like and suite.methods[entry.rounds_like].rounds is None:
            raise UserError(
                f"suite {suite.name}: methods.{name}.rounds_like is {entry.rounds_like!r}, "
                "which is no chain with rounds"
            )
        if entry.continues and suite.methods[entry.continues].continues:
            raise UserError(
                f"suite {suite.name}: methods.{name} continues {entry.continues}, a chain itself; "
                f"give {entry.continues} more rounds"
            )
    try:
        suite.order()
    except CycleError as error:
        raise UserError(f"suite {suite.name}: methods wait for each other: {' -> '.join(error.args[1])}") from None


def _check_runs(suite: Suite) -> None:
    """Check every recipe, the seeds of the entries that it needs, and that its depths fit its number of blocks."""
    for name in suite.methods:
        recipe = suite.recipe_of(name, suite.seeds_of(name)[0])
        for other in suite.needs(name):
            if missing := set(suite.seeds_of(name)) - set(suite.seeds_of(other)):
                seeds = ", ".join(map(str, suite.seeds_of(other)))
                raise UserError(
                    f"suite {suite.name}: methods.{name} has seed {min(missing)}, {other}, which it needs, has {seeds}"
                )
        blocks = recipe.model.block_count() if recipe.model is not None else None
        if blocks is not None and max(suite.depths_of(name)) > blocks:
            raise UserError(
                f"suite {suite.name}: methods.{name} has {blocks} blocks and is tested at depth "
                f"{max(suite.depths_of(name))}; set its depths"
            )
        if suite.select_of(name) == "full" and blocks is None and len(suite.depths_of(name)) > 1:
            raise UserError(
                f"suite {suite.name}: methods.{name} runs whole; set its depths to the number of its blocks, "
                "for example [12]"
            )
        if suite.select_of(name) == "full" and blocks is not None and suite.depths_of(name) != (blocks,):
            raise UserError(
                f"suite {suite.name}: methods.{name} runs whole, at depth {blocks}, its depths are "
                f"{', '.join(map(str, suite.depths_of(name)))}; leave them out, or set select"
            )


def _check_keys(suite: Suite) -> None:
    """Check that no recipe has a key that the suite itself sets."""
    for name in suite.methods:
        changed = suite.changed(name)
        train = changed.get("train")
        for key, given in (("out", "out" in changed), ("train.seed", isinstance(train, dict) and "seed" in train)):
            if given:
                raise UserError(f"suite {suite.name}: methods.{name} has {key}, which the suite sets by itself")
        if "plugins" in changed:
            raise UserError(
                f"suite {suite.name}: methods.{name} has plugins; they are a key of the suite, for all of it"
            )


def _check_labels(suite: Suite) -> None:
    """Check that entries that share a label share no depth: their line has one point there."""
    seen: dict[tuple[str, int], str] = {}
    for name in suite.methods:
        for depth in suite.depths_of(name):
            other = seen.setdefault((suite.label(name), depth), name)
            if other != name:
                raise UserError(
                    f"suite {suite.name}: methods.{name} and methods.{other} are both called {suite.label(name)} "
                    f"at depth {depth}; give one of them another method"
                )


def _check_report(suite: Suite) -> None:
    """Check that the methods that the report compares exist."""
    labels = dict.fromkeys(suite.label(name) for name in suite.methods)
    for key in {"baselines", "targets"} & suite.model_fields_set:
        for name in getattr(suite, key):
            if name not in labels:
                raise UserError(f"suite {suite.name}: {key} has {name!r}; methods are called {', '.join(labels)}")
