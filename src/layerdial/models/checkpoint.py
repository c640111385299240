"""The model folder: config.json, model.safetensors, the tokenizer's files, meta.json, and after a search ladder.json.

A Conformer's folder holds `tokens.txt` (and `bpe.model`) beside them, as does that of Whisper's encoder under a CTC
head, for which `transformers` has no class. The folder of another Hugging Face model is what `save_pretrained` writes,
so plain `transformers` reads it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerdial.errors import UserError, installing
from layerdial.ladder import Ladder
from layerdial.models.conformer_ctc import load_conformer
from layerdial.models.description import read_description
from layerdial.models.family import load_family
from layerdial.models.network import Network
from layerdial.models.tensors import add_hash, beside_weights
from layerdial.text.tokenizer import Tokenizer
from layerdial.utils.checksums import check_files, checksums
from layerdial.utils.files import read_json, recover, replacing, write_json

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def save_model(
    folder: Path, network: Network, tokenizer: Tokenizer, meta: Mapping[str, Any], ladder: Ladder | None = None
) -> None:
    """Write a model folder in one step.

    A kill in that step leaves the old folder, at worst under the name `.NAME.old`.
    """
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        network.save(temporary)
        tokenizer.save(temporary)
        seal(temporary)
        write_json(temporary / "meta.json", dict(meta))
        if ladder is not None:
            ladder.save(temporary / "ladder.json")


def seal(folder: Path) -> None:
    """Write into the weights of a complete model folder their hash, and what the files beside them were.

    That is a hash of each, and of a config.json of ours what it says: it may be written anew by another version.
    """
    own = {} if is_hugging_face(folder) else read_json(folder / "config.json")
    beside = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith("model")]
    hashes = checksums(file for file in beside if not (own and file.name == "config.json"))
    for file in sorted(folder.glob("model*.safetensors")):
        add_hash(file, {"files": hashes, "config": own})


def check_seal(folder: Path) -> None:
    """Raise `UserError` for a file beside the weights that was changed since, as far as that was noted."""
    noted = next(map(beside_weights, sorted(folder.glob("model*.safetensors"))), {})
    check_files(folder, noted.get("files"), "copy it again")
    config = folder / "config.json"
    before, now = _settings(noted.get("config")), _settings(read_json(config))
    for key in [key for key in before if now.get(key) != before[key]]:
        raise UserError(f"{config} is damaged or was changed ({key} was {before[key]!r}); copy it again")


def _settings(config: Any) -> dict[str, Any]:
    """Return what a config.json says by dotted keys; nothing where it is none."""
    if not isinstance(config, dict):
        return {}
    model = config.get("model")
    inner = {f"model.{key}": value for key, value in model.items()} if isinstance(model, dict) else {}
    return {key: value for key, value in config.items() if key != "model"} | inner


def load_network(model: Path) -> tuple[Network, Tokenizer]:
    """Return the network (in `eval()`, on the CPU, in float32) and its tokenizer, from a folder or a hub id.

    Raises `UserError` that names what is missing or does not fit.
    """
    folder = resolve_model(model)
    if is_hugging_face(folder):
        found = hugging_face().load_hugging_face(folder)
    else:
        found = (load_conformer if is_conformer(folder) else load_family)(folder)
    check_seal(folder)  # last, because the readers name the part that does not fit
    return found  # type: ignore[no-any-return]


def is_conformer(folder: Path) -> bool:
    """Whether a model folder that is not Hugging Face's holds a Conformer, and not a network of a user's family."""
    return read_description(folder).family == "conformer"


def is_hugging_face(folder: Path) -> bool:
    """Return whether config.json is one of transformers', not layerdial's. Raises `UserError` where there is none."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json (a run keeps its model in RUN/model)")
    config = read_json(config_file)
    return isinstance(config, dict) and "format" not in config and ("model_type" in config or "architectures" in config)


def resolve_model(model: Path) -> Path:
    """Return the folder of a model: itself, or for a hub id such as ORG/NAME the folder of its downloaded files.

    Raises `UserError` for a folder with an adapter (LoRA and its like, of the library PEFT), which would be ignored.
    """
    folder: Path = (
        model if recover(model).exists() or not _may_be_hub_id(model) else hugging_face().download(str(model))
    )
    found = next((name for name in _ADAPTER if (folder / name).is_file()), None)
    if found is not None:
        raise UserError(
            f"{model} holds an adapter ({found}), which layerdial does not apply; merge it into its base model "
            "(PEFT's merge_and_unload, then save_pretrained) and give the merged folder"
        )
    return folder


def fingerprint(folder: Path) -> str:
    """Return a short hash of a model's weights, which keeps apart rows of different weights under the same path."""
    parts = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    digests = []
    for path in parts:  # more than one for some models of the hub
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16]


def _may_be_hub_id(model: Path) -> bool:
    """Return whether a path may be ORG/NAME. Where a folder ORG exists, it is not: NAME is a mistyped folder."""
    return not model.is_absolute() and len(model.parts) == 2 and not Path(model.parts[0]).exists()


def hugging_face() -> Any:
    """Import and return the module for Hugging Face models, only when one is loaded.

    transformers is an optional dependency and slow to import. Raises `UserError` where it is not installed.
    """
    try:
        from layerdial.models.huggingface import checkpoint as hf_checkpoint
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "huggingface_hub"):
            raise
        raise UserError(f"Hugging Face models need transformers: {installing('hf')}") from None
    return hf_checkpoint
