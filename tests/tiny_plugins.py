"""Files that register something, and names that a test registers forgotten at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerdial.config import plugins
from layerdial.config.network import NETWORKS
from layerdial.config.objective import OBJECTIVES
from layerdial.config.policies import POLICIES
from layerdial.config.registry import forget

ROOT = Path(__file__).parents[1]
FIRST_BLOCK = ROOT / "experiments" / "plugins" / "first_block.py"
CONFIDENCE_PENALTY = ROOT / "experiments" / "plugins" / "confidence_penalty.py"
CONV_STACK = ROOT / "experiments" / "plugins" / "conv_stack.py"

# a policy whose two methods say what is put in here
POLICY = """
from layerdial import BlockSubset, Policy, Searched, register_policy

@register_policy("{name}")
class Own(Policy):
    def draw(self, step, stack, rng):
        return {draw}

    def subset_at(self, depth, stack):
        return {subset}
"""
LAST_BLOCKS = "BlockSubset(stack.n_blocks, tuple(range(stack.n_blocks - {depth}, stack.n_blocks)))"


@pytest.fixture
def own_names() -> Iterator[None]:
    """What is registered inside is forgotten afterwards."""
    registries = {kind: dict(kind.entries) for kind in (POLICIES, OBJECTIVES, NETWORKS)}
    loaded = dict(plugins._loaded)
    yield
    for kind, entries in registries.items():
        kind.entries.clear()
        kind.entries.update(entries)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)


def forget_plugins() -> None:
    """As if no file had been loaded."""
    for source in plugins._loaded.values():
        forget(source)
    plugins._loaded.clear()


def write_policy(
    file: Path,
    name: str = "own",
    draw: str = f"({LAST_BLOCKS.format(depth='rng.randint(1, stack.n_blocks)')},)",
    subset: str = LAST_BLOCKS.format(depth="depth"),
) -> Path:
    """A policy that trains the last n blocks, n at random, unless told otherwise."""
    file.write_text(POLICY.format(name=name, draw=draw, subset=subset))
    return file
