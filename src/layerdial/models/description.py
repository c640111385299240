"""The config.json of a model folder that is not Hugging Face's: the settings of its network, as recipes say them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.config.network import NETWORKS, NetworkConfig
from layerdial.errors import UserError
from layerdial.text.tokenizer import Tokenizer, load_tokenizer
from layerdial.utils.files import write_json
from layerdial.utils.records import read_record

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What a config.json holds: the settings as stored, how many tokens, frames a second, and whose the family is."""

    model: dict[str, Any]
    vocab_size: int
    frame_rate: float
    plugin: str | None = None

    @property
    def family(self) -> str:
        return str(self.model.get("family", "conformer"))


def write_description(folder: Path, settings: NetworkConfig, vocab_size: int, features: Features) -> None:
    """Write config.json. For a family of the user's it also says who registered it."""
    described: dict[str, Any] = {
        "format": FORMAT,
        "vocab_size": vocab_size,
        "frame_rate": SAMPLE_RATE / features.samples_per_frame,
        "model": settings.model_dump(mode="json", exclude_none=True),
    }
    if not NETWORKS.is_built_in(settings.family):
        described["plugin"] = NETWORKS.source(settings.family).who
    write_json(folder / "config.json", described)


def read_description(folder: Path) -> Description:
    """Read config.json; `UserError` where it is of another format or lacks something."""
    file = folder / "config.json"
    stored = read_record(file, "copy it again", format=FORMAT)
    missing = sorted({"vocab_size", "frame_rate", "model"} - set(stored))
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}; copy it again")
    if not isinstance(stored["model"], dict):
        raise UserError(f"{file} is damaged (model is {stored['model']!r:.80}); copy it again")
    return Description(stored["model"], stored["vocab_size"], stored["frame_rate"], stored.get("plugin"))


def tokenizer_of(folder: Path, vocab_size: int) -> Tokenizer:
    """Load the tokenizer of a model folder; `UserError` where it has another number of tokens than the network."""
    tokenizer = load_tokenizer(folder)
    if len(tokenizer.tokens) != vocab_size:
        raise UserError(f"{folder}: tokens.txt has {len(tokenizer.tokens)} tokens, the model {vocab_size!r}")
    return tokenizer


def check_frame_rate(folder: Path, description: Description, features: Features, whose: str) -> None:
    """Raise `UserError` where the stored network makes frames at another rate than this code would."""
    rate = SAMPLE_RATE / features.samples_per_frame
    if description.frame_rate != rate:
        raise UserError(f"{folder} has {description.frame_rate!r} frames a second, {whose} {rate}")
