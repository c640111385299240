"""A smaller ordinary model from a frozen subset: the kept blocks alone, computing what the dynamic model computes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from layerdial.errors import UserError
from layerdial.ladder import Ladder, select
from layerdial.models.checkpoint import hugging_face, is_conformer, is_hugging_face, resolve_model, save_model, seal
from layerdial.models.conformer_ctc import ConformerCTC, load_conformer
from layerdial.models.tensors import disk_errors
from layerdial.subset import BlockSubset
from layerdial.utils.files import replacing, write_json


def prune_model(model: Path, out: Path, depth: int) -> BlockSubset:
    """Write the model that `model` is at `depth` (the ladder's subset, else evenly spaced) as the model folder `out`.

    A Hugging Face model stays one: plain `transformers` loads the smaller checkpoint, where it has a class for it.
    Raises `UserError` where `out` exists, and for a Conformer whose skip rule is not the identity.
    """
    folder = resolve_model(model)
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    if is_hugging_face(folder):
        return _prune_hugging_face(folder, out, depth)
    if not is_conformer(folder):
        raise UserError(
            f"{folder} is of a family that is not built in; Conformers and Hugging Face models can be pruned"
        )
    return _prune_conformer(folder, out, depth)


def _subset(folder: Path, n_blocks: int, depth: int) -> BlockSubset:
    return select(None, n_blocks, depth, Ladder.beside(folder, n_blocks))


def _origin(folder: Path, subset: BlockSubset) -> dict[str, Any]:
    """Return the entries of meta.json about the model's origin."""
    return {"pruned_from": str(folder), "subset": subset.key}


def _prune_conformer(folder: Path, out: Path, depth: int) -> BlockSubset:
    network, tokenizer = load_conformer(folder)
    subset = _subset(folder, network.n_blocks, depth)
    if network.config.skip == "norm" and subset.depth < network.n_blocks:
        raise UserError(f"{folder} keeps the final norm of dropped blocks (skip: norm), so it cannot lose whole blocks")
    save_model(out, pruned_conformer(network, subset), tokenizer, _origin(folder, subset))
    return subset


def pruned_conformer(network: ConformerCTC, subset: BlockSubset) -> ConformerCTC:
    """Return a Conformer of the kept blocks alone, with the head of their number."""
    assert network.blueprint is not None
    changes = {"size": None, "n_blocks": subset.depth, "exit_heads": False, "selector": None}
    smaller = ConformerCTC(network.config.model_copy(update=changes), network.blueprint.vocab_size)
    network = deepcopy(network)
    norm, head = network.head_of(subset.depth)
    network.norm, network.head = norm, head  # type: ignore[assignment]
    network.encoder.blocks = nn.ModuleList(network.encoder.blocks[i] for i in subset.kept)
    smaller.load_state_dict({name: network.state_dict()[name] for name in smaller.state_dict()})
    return smaller.eval()


def _prune_hugging_face(folder: Path, out: Path, depth: int) -> BlockSubset:
    """Write the kept blocks as stored: in the checkpoint's own precision and config but for the number of blocks."""
    model, save_beside, family = hugging_face().load_plain(folder)
    from layerdial.models.huggingface.ctc import silence_transformers

    config, blocks = family.parts.encoder_of(model).config, family.parts.blocks_of(model)
    always = family.always_run(config)
    subset = _subset(folder, len(blocks) - always, depth)
    family.check_pruned(config, subset)
    first, kept = blocks[0], [*blocks[:always], *(blocks[always + i] for i in subset.kept)]
    if model.config.model_type == "wavlm":
        # the table of the position bias is in block 0, and must be in the block that becomes block 0
        kept[0].attention.rel_attn_embed = first.attention.rel_attn_embed
    family.parts.replace_blocks(model, nn.ModuleList(kept))
    config.num_hidden_layers = len(kept)
    with replacing(out) as temporary:
        with disk_errors(temporary), silence_transformers():
            model.save_pretrained(temporary)
        save_beside(temporary)
        seal(temporary)
        write_json(temporary / "meta.json", _origin(folder, subset))
    return subset
