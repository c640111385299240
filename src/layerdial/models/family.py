"""Network families that are not built in: made by their settings, stored and loaded like Conformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from layerdial.config.network import NETWORKS, NetworkConfig
from layerdial.config.strict import parse
from layerdial.errors import UserError
from layerdial.models.description import check_frame_rate, read_description, tokenizer_of
from layerdial.models.network import Blueprint, Network
from layerdial.models.tensors import load_weights
from layerdial.text.tokenizer import Tokenizer


class NetworkFamily(NetworkConfig, ABC):
    """The base of a family of one's own. Its fields are its settings in a recipe, beside `family`."""

    @abstractmethod
    def build(self, vocab_size: int) -> Network:
        """Return a network with random weights and a head for `vocab_size` tokens, of which token 0 is the blank.

        It says by itself what it takes (`features`), which module is its `head` and what its `blocks` are. Its
        `forward` calls the blocks of the subset alone, for example by `models.dynamic.run_blocks`. Its weights are its
        state_dict: what else it needs, `build` makes again.
        """


def build_network(settings: NetworkConfig, vocab_size: int) -> Network:
    """Return what a family of the user's builds; `UserError` where it builds no network."""
    if not isinstance(settings, NetworkFamily):
        raise UserError(f"network {settings.family} has no build; derive it from layerdial.models.family.NetworkFamily")
    network: Any = settings.build(vocab_size)
    for missing in _missing_parts(network):
        raise UserError(f"network {settings.family} builds {type(network).__name__}, {missing}; see docs/plugins.md")
    network.blueprint = Blueprint(settings, vocab_size)
    return network  # type: ignore[no-any-return]


def _missing_parts(network: Any) -> list[str]:
    if not isinstance(network, Network):
        return ["which is no layerdial.models.network.Network"]
    has = {name: name in dir(network) for name in ("features", "head")}
    missing = [f"which has no `{name}`" for name, there in has.items() if not there]
    return missing or ([] if network.n_blocks else ["which has no blocks"])


def load_family(folder: Path) -> tuple[Network, Tokenizer]:
    """Load a network of a user's family (in `eval()`, on the CPU) and its tokenizer.

    The file that its config.json names is never executed: the user gives it. Raises `UserError` where the family is not
    known, or something does not fit.
    """
    description = read_description(folder)
    settings = NETWORKS.find(description.family)
    if settings is None:
        made = f" (it was made with {description.plugin})" if description.plugin else ""
        raise UserError(
            f"{folder} is of family {description.family!r}, which is not known here{made}; "
            "give the file that registers it: --plugin FILE.py, or plugins in a recipe"
        )
    tokenizer = tokenizer_of(folder, description.vocab_size)
    network = build_network(parse(settings, description.model, str(folder / "config.json")), description.vocab_size)
    check_frame_rate(folder, description, network.features, f"its family {description.family} now makes")
    load_weights(network, folder / "model.safetensors")
    return network.eval(), tokenizer
