"""The average of the weights of models that were trained from the same start (Wortsman et al. 2022, model soups)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from layerdial.data.batching import FeatureBatches
from layerdial.errors import UserError
from layerdial.evaluation.search import trained_ladder
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network, resolve_model, save_model
from layerdial.models.network import Network
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import Tokenizer


def average_models(models: Sequence[Path], out: Path, cuts: Path | None = None) -> None:
    """Write a model folder whose weights are the mean of those of `models`.

    Its ladder has the depths that all of theirs have, measured anew on `cuts` (dev data). Raises `UserError` where
    `out` exists, for fewer than two models, where networks, tokens or blocks of a depth differ, and where there is a
    ladder but no `cuts`.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    if len(models) < 2:
        raise UserError(f"an average is of two models or more, found {len(models)}")
    first, *others = [resolve_model(model) for model in models]
    network, tokenizer = load_network(first)
    total = _floats(network)
    for folder in others:
        other, its_tokenizer = load_network(folder)
        _check((first, network, tokenizer), (folder, other, its_tokenizer))
        total = {name: total[name] + tensor for name, tensor in _floats(other).items()}
    subsets = _shared_rungs([first, *others], network.n_blocks)
    if subsets and cuts is None:
        raise UserError(f"{first} has a ladder, whose errors are not those of the average; give --cuts DEV_CUTS")
    mean = {name: tensor / len(models) for name, tensor in total.items()}
    network.load_state_dict({**network.state_dict(), **mean})
    ladder = _measured(network, tokenizer, subsets, cuts) if subsets and cuts else None
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


def _shared_rungs(folders: Sequence[Path], n_blocks: int) -> list[BlockSubset]:
    """Return the blocks of each depth that the ladders of all models have; none without ladders.

    Raises `UserError` where two models run other blocks at the same depth, or one alone has a ladder.
    """
    ladders = [(folder, Ladder.beside(folder, n_blocks)) for folder in folders]
    missing = [folder for folder, ladder in ladders if ladder is None]
    known = [(folder, ladder) for folder, ladder in ladders if ladder is not None]
    if missing and known:
        raise UserError(f"{known[0][0]} has a ladder.json and {missing[0]} has none; average models trained alike")
    rungs: list[BlockSubset] = []
    for depth in range(max((ladder.shallowest for _, ladder in known), default=n_blocks + 1), n_blocks + 1):
        found = {ladder.subset(depth): folder for folder, ladder in known}
        if len(found) > 1:
            (here, one), (there, other), *_ = found.items()
            raise UserError(
                f"at depth {depth} {one} runs {here.key}, {other} {there.key}; average models trained alike"
            )
        rungs += found
    return rungs


def _measured(network: Network, tokenizer: Tokenizer, subsets: Sequence[BlockSubset], cuts: Path) -> Ladder:
    batches = FeatureBatches(cuts, network.features)
    return trained_ladder(TorchRecognizer(network.eval(), tokenizer), batches, str(cuts), subsets)


def _floats(network: Network) -> dict[str, Tensor]:
    """Return the weights and statistics that can be averaged; counters are the first model's."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
