"""What a run needs before its first step: processes and device, tokenizer, network; each checked against the others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from layerdial.config import Recipe
from layerdial.errors import UserError
from layerdial.features import N_MELS
from layerdial.models.checkpoint import load_network
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.text import Tokenizer, build_tokenizer, load_tokenizer
from layerdial.training.reference import Reference

_LONGEST_EVALUATION = timedelta(hours=4)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, precision and the processes of a distributed run, as `torchrun` or `accelerate launch` set them up."""
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    precision = recipe.train.precision
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision fp16 needs a GPU and none was found; use fp32 or bf16")
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    return Accelerator(
        cpu=torch.backends.mps.is_available(),  # torch has no CTC loss for Apple's GPUs
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=_leaves_blocks_unused(recipe)),
            InitProcessGroupKwargs(timeout=_LONGEST_EVALUATION),  # the other ranks wait while one evaluates
        ],
    )


def _leaves_blocks_unused(recipe: Recipe) -> bool:
    """Whether a skipped block can be without gradient, on every rank, in the backward pass that exchanges gradients.

    The search for unused parameters costs a walk through the graph a step. The sandwich ends with all blocks.
    """
    return recipe.policy.name not in ("none", "sandwich")


def make_tokenizer(recipe: Recipe, reference: Reference | None) -> Tokenizer:
    """The recipe's tokenizer, else the reference's; `UserError` when both exist and differ."""
    config = recipe.tokenizer
    if config is None:
        assert reference is not None  # the recipe's own check
        return reference.tokenizer
    if config.path is not None:
        tokenizer = load_tokenizer(config.path)
    else:
        assert config.kind is not None
        tokenizer = build_tokenizer(config.kind, _texts(recipe.data.train), config.size)
    if reference is not None:
        reference.check_vocabulary(tokenizer)
    return tokenizer


def make_network(recipe: Recipe, tokenizer: Tokenizer, reference: Reference | None) -> ConformerCTC:
    """A new network, or one that begins with the reference's weights or those of another model folder."""
    if recipe.init != "scratch":
        folder = reference.folder if recipe.init == "reference" and reference is not None else Path(recipe.init)
        return _from_folder(folder, recipe, tokenizer)
    config = recipe.model or (reference.network.config if reference else None)
    assert config is not None  # the recipe's own check
    if config.n_mels != N_MELS:
        raise UserError(f"model.n_mels is {config.n_mels}, the features have {N_MELS} bins; leave it out")
    torch.manual_seed(recipe.train.seed)
    return ConformerCTC(config, len(tokenizer.tokens))


def _from_folder(folder: Path, recipe: Recipe, tokenizer: Tokenizer) -> ConformerCTC:
    network, its_tokenizer = load_network(folder)
    if its_tokenizer.tokens != tokenizer.tokens:
        raise UserError(
            f"init: {folder} has another vocabulary ({len(its_tokenizer.tokens)} tokens) than this run "
            f"({len(tokenizer.tokens)}); set tokenizer.path to that folder"
        )
    if recipe.model is not None:
        shape = ("n_mels", "n_blocks", "width", "heads", "ffn_width", "kernel", "conv_norm", "block_norm")
        for name in shape:
            asked, found = getattr(recipe.model, name), getattr(network.config, name)
            if asked != found:
                raise UserError(f"init: {folder} has {name} {found}, the recipe's model {asked}; leave `model` out")
        # dropout and the skip rule have no weights: the recipe may change them
        rebuilt = ConformerCTC(recipe.model, len(tokenizer.tokens))
        rebuilt.load_state_dict(network.state_dict())
        return rebuilt
    return network


def _texts(cuts: Path) -> Iterator[str]:
    from layerdial.data.manifest import cut_text, open_cuts

    return (cut_text(cut) for cut in open_cuts(cuts))
