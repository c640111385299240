"""Where the parts of the library's CTC models are: names, so that a family is a row of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Parts:
    """The parts of a CTC model of the library, by attribute names, dotted where one part holds another.

    `base` is what the head stands on; where it is empty, the model itself. From the base: `encoder`, the strided
    convolutions `front_end` (empty: none), and `before`, which are called one after the other on their output; a model
    may lack some of these. From the encoder: `blocks`, its list of layers, and `after`, which it applies to the last
    block's output, where `after_if` is no key of the config or is true.

    Some convolutions read padding unless it is set to zero: `zeroed` of a block, which run after its part `masked`, and
    `zeroed_before` of the encoder. `adapted` are the convolutions in a layer of the adapter after the encoder, for
    models that may have one. `blocks_as` is the class of the one layer that runs the blocks, where theirs share more
    than their input.
    """

    base: str = ""
    encoder: str = "encoder"
    front_end: str = "feature_extractor"
    before: tuple[str, ...] = ("feature_projection",)
    blocks: str = "layers"
    after: str = ""
    after_if: str = ""
    head: str = "lm_head"
    zeroed: tuple[str, ...] = ()
    masked: str = "self_attn"
    zeroed_before: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    blocks_as: Callable[[Iterable[nn.Module]], nn.Module] | None = None

    def base_of(self, model: PreTrainedModel) -> Any:
        return part(model, self.base)

    def encoder_of(self, model: PreTrainedModel) -> Any:
        return part(self.base_of(model), self.encoder)

    def blocks_of(self, model: PreTrainedModel) -> Any:
        """Return the list of layers, or what `replace_blocks` has put in its place."""
        return part(self.encoder_of(model), self.blocks)

    def replace_blocks(self, model: PreTrainedModel, blocks: nn.Module) -> None:
        owner, _, name = self.blocks.rpartition(".")
        setattr(part(self.encoder_of(model), owner), name, blocks)


def part(module: Any, name: str) -> Any:
    """Return the part of a module with a dotted name; the module itself for an empty one."""
    return reduce(getattr, name.split("."), module) if name else module


def parts_in(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the parts with these names, and the members of those that are lists."""
    found = [part(module, name) for name in names]
    return [one for each in found for one in (each if isinstance(each, nn.ModuleList) else [each])]
