"""The average of the weights of models that were trained from the same start (Wortsman et al. 2022, model soups)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network, resolve_model, save_model
from layerdial.models.network import Network
from layerdial.text.tokenizer import Tokenizer


def average_models(models: Sequence[Path], out: Path) -> None:
    """Write a model folder whose weights are the mean of those of `models`, with the ladder that they share.

    Raises `UserError` where `out` exists, for fewer than two models, and where networks, tokens or ladders differ.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    if len(models) < 2:
        raise UserError(f"an average is of two models or more, found {len(models)}")
    first, *others = [resolve_model(model) for model in models]
    network, tokenizer = load_network(first)
    ladder = Ladder.beside(first, network.n_blocks)
    total = _floats(network)
    for folder in others:
        other, its_tokenizer = load_network(folder)
        _check((first, network, tokenizer), (folder, other, its_tokenizer))
        _check_ladder(first, ladder, folder, Ladder.beside(folder, network.n_blocks))
        total = {name: total[name] + tensor for name, tensor in _floats(other).items()}
    mean = {name: tensor / len(models) for name, tensor in total.items()}
    network.load_state_dict({**network.state_dict(), **mean})
    save_model(out, network, tokenizer, {"average_of": [str(first), *map(str, others)]}, ladder)


_Loaded = tuple[Path, Network, Tokenizer]


def _check(one: _Loaded, other: _Loaded) -> None:
    """Raise `UserError` unless two networks have the same weights by name and shape, and the same tokens."""
    shapes, others = ({name: tuple(t.shape) for name, t in net.state_dict().items()} for _, net, _ in (one, other))
    name = next((name for name in sorted({*shapes, *others}) if shapes.get(name) != others.get(name)), None)
    if name is not None:
        raise UserError(
            f"{other[0]} is no average partner of {one[0]}: {name} has shape {others.get(name)} there and "
            f"{shapes.get(name)} here; average models of the same start"
        )
    if one[2].tokens != other[2].tokens:
        raise UserError(f"{other[0]} has other tokens than {one[0]}; average models of the same start")


def _check_ladder(one: Path, ladder: Ladder | None, other: Path, its: Ladder | None) -> None:
    """Raise `UserError` unless two models run the same blocks at every depth."""
    here, there = (found and [rung.subset for rung in found.rungs] for found in (ladder, its))
    if here != there:
        raise UserError(
            f"{one} and {other} run other blocks at the same depth ({here}, {there}); search one ladder for both"
        )


def _floats(network: Network) -> dict[str, Tensor]:
    """Return the weights and statistics that can be averaged; counters are the first model's."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
