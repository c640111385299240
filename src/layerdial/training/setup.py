"""What a run needs before its first step: processes and device, network and tokenizer, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from layerdial.audio.files import SAMPLE_RATE
from layerdial.config.network import ConformerConfig, HuggingFaceConfig
from layerdial.config.recipe import Recipe
from layerdial.data.pauses import changes_samples
from layerdial.data.statistics import feature_statistics
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import hugging_face, is_hugging_face, load_network, resolve_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.family import build_network
from layerdial.models.network import Network
from layerdial.modules.normalisation import FixedNorm
from layerdial.subset import check_depth
from layerdial.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from layerdial.training.chunks import check_depth_per_chunk
from layerdial.training.reference import Reference

if TYPE_CHECKING:
    from layerdial.models.huggingface.ctc import HuggingFaceCTC

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
            DistributedDataParallelKwargs(),
            InitProcessGroupKwargs(timeout=_LONGEST_EVALUATION),  # the other ranks wait while one evaluates
        ],
    )


def expect_unused_parts(accelerator: Accelerator, recipe: Recipe, network: Network) -> None:
    """Tell DDP whether a part can be without gradient, on every rank, in the backward pass that exchanges gradients.

    The search for unused parameters costs a walk through the graph a step. The sandwich ends with all blocks, but a
    pass of all blocks asks no selector, nor, without exits, the heads of other depths. Where depths change from chunk
    to chunk, a block may run in none.
    """
    drops = not recipe.policy.last_is_full or recipe.train.depth_per_chunk > 0
    idle_heads = bool(network.optional_heads) and not recipe.objective.trains_every_depth(network.n_blocks)
    assert accelerator.ddp_handler is not None
    accelerator.ddp_handler.find_unused_parameters = drops or idle_heads or network.selector is not None


def check_abilities(recipe: Recipe, network: Network) -> None:
    """`UserError` where the recipe asks for what this network does not have."""
    if recipe.spec_augment.freq_masks and network.features.per_second == SAMPLE_RATE:
        raise UserError(
            "spec_augment.freq_masks is set, but this network takes samples, which have no bands; leave it out"
        )
    asked = recipe.objective.asks_reference()
    stored = asked is not None and asked.inputs == "cached"
    if network.labels.teacher_forced and stored and changes_samples(recipe.data):
        raise UserError(
            "data.pauses and data.gain_db change examples, and a decoder's stored posteriors are of the texts "
            "as they are; set objective.distil.teacher: clean, or leave them out"
        )
    for depth in recipe.train.eval_depths or ():
        if check_depth(depth, network.n_blocks) < recipe.policy.shallowest():
            raise UserError(
                f"train.eval_depths has {depth}, but policy.min_depth is {recipe.policy.shallowest()}: shallower "
                "depths are not trained"
            )
    if recipe.policy.needs() == "selector" and network.selector is None:
        raise UserError(
            f"{recipe.policy.needing()}, but the network has no selector; set model.selector: input or scores"
        )
    check_depth_per_chunk(recipe, network)
    if network.skip == "norm" and any(recipe.objective.exits_at(n + 1) for n in range(network.n_blocks)):
        raise UserError(
            f"{recipe.objective.part('exits')} leaves out the norms that skip 'norm' keeps of later blocks; "
            "set model.skip: identity"
        )


def starting_ladder(recipe: Recipe, n_blocks: int) -> Ladder | None:
    """The ladder of the model that the run starts from, where the policy asks for it."""
    if recipe.policy.needs() != "ladder":
        return None
    folder = recipe.reference if recipe.init == "reference" else Path(recipe.init)
    assert folder is not None  # the recipe's own check
    ladder = Ladder.beside(resolve_model(folder), n_blocks)
    if ladder is None:
        raise UserError(f"{recipe.policy.needing()}, but {folder} has no ladder.json; run layerdial search there first")
    return ladder


def make_student(recipe: Recipe, reference: Reference | None) -> tuple[Network, Tokenizer]:
    """The network as training begins, and its tokenizer, both checked against the reference's."""
    start = _start(recipe, reference)
    make = _hugging_face_student if _wants_hugging_face(recipe, start, reference) else _own_student
    network, tokenizer = make(recipe, start, reference)
    if reference is not None:
        reference.check_vocabulary(tokenizer)
        reference.check_features(network)
    return network, tokenizer


def _start(recipe: Recipe, reference: Reference | None) -> Path | None:
    """The folder whose weights the student begins with; none from scratch."""
    if recipe.init == "scratch":
        return None
    return (
        reference.folder if recipe.init == "reference" and reference is not None else resolve_model(Path(recipe.init))
    )


def _wants_hugging_face(recipe: Recipe, start: Path | None, reference: Reference | None) -> bool:
    """The folder to begin with decides, else the recipe's model, else the reference; `UserError` if they contradict."""
    asked = isinstance(recipe.model, HuggingFaceConfig)
    if start is None:
        return asked or (recipe.model is None and reference is not None and is_hugging_face(reference.folder))
    found = is_hugging_face(start)
    if recipe.model is not None and asked != found:
        holds = "a Hugging Face model" if found else "no Hugging Face model"
        raise UserError(f"init: {start} holds {holds}, but model.family is {recipe.model.family!r}; leave `model` out")
    return found


# ------------------------------------------------------------------------------------- Conformers, and a user's own


def _own_student(recipe: Recipe, start: Path | None, reference: Reference | None) -> tuple[Network, Tokenizer]:
    tokenizer = _make_tokenizer(recipe, start, reference)
    if start is not None:
        return _network_from(start, recipe, tokenizer), tokenizer
    of_reference = reference.network.blueprint if reference is not None else None
    settings = recipe.model or (of_reference.settings if of_reference is not None else None)
    if settings is None:
        raise UserError("model is missing; for example model: {size: xs}")
    torch.manual_seed(recipe.train.seed)
    if isinstance(settings, ConformerConfig):
        conformer = ConformerCTC(settings, len(tokenizer.tokens))
        if isinstance(conformer.normalise, FixedNorm):
            statistics = feature_statistics(recipe.data.train, conformer.features)
            conformer.normalise.set_statistics(*map(torch.from_numpy, statistics))
        return conformer, tokenizer
    return build_network(settings, len(tokenizer.tokens)), tokenizer


def _make_tokenizer(recipe: Recipe, start: Path | None, reference: Reference | None) -> Tokenizer:
    """The recipe's tokenizer, else the reference's, else that of the folder to begin with."""
    config = recipe.tokenizer
    if config is None:
        if reference is not None:
            return reference.tokenizer
        assert start is not None  # the recipe's own check
        return load_tokenizer(start)
    if config.path is not None:
        return load_tokenizer(config.path)
    assert config.kind is not None
    return build_tokenizer(config.kind, _texts(recipe.data.train), config.size)


def _network_from(folder: Path, recipe: Recipe, tokenizer: Tokenizer) -> Network:
    """Return the network of a folder, which the recipe's model may change where no weights depend on it."""
    network, its_tokenizer = load_network(folder)
    if its_tokenizer.tokens != tokenizer.tokens:
        raise UserError(
            f"init: {folder} has another vocabulary ({len(its_tokenizer.tokens)} tokens) than this run "
            f"({len(tokenizer.tokens)}); set tokenizer={{path: {folder}}}"
        )
    if recipe.model is None:
        return network
    if isinstance(network, ConformerCTC) and isinstance(recipe.model, ConformerConfig):
        return _conformer_from(network, folder, recipe.model, recipe.train.seed)
    assert network.blueprint is not None
    if recipe.model != network.blueprint.settings:
        raise UserError(
            f"init: {folder} is of family {network.blueprint.settings.family} and has other settings than the recipe's "
            "model; leave `model` out"
        )
    return network


def _conformer_from(network: ConformerCTC, folder: Path, model: ConformerConfig, seed: int) -> ConformerCTC:
    """Return a Conformer with the settings of `model` and the weights of another; `UserError` where they do not fit."""
    shape = ("n_blocks", "width", "heads", "ffn_width", "kernel", "block_norm", "normalise")
    for name in shape:
        asked, found = getattr(model, name), getattr(network.config, name)
        if asked != found:
            raise UserError(f"init: {folder} has {name} {found}, the recipe's model {asked}; leave `model` out")
    # without it, blocks would get other inputs than they were trained on
    if network.config.self_condition and not model.self_condition:
        raise UserError(f"init: {folder} has self_condition, the recipe's model has not; set model.self_condition=true")
    # dropout and the skip rule have no weights: the recipe may change them
    torch.manual_seed(seed)  # for what the folder has not
    assert network.blueprint is not None
    rebuilt = ConformerCTC(model, network.blueprint.vocab_size)
    rebuilt.start_from(network)
    return rebuilt


# ---------------------------------------------------------------------------------------------------- Hugging Face


def _hugging_face_student(recipe: Recipe, start: Path | None, reference: Reference | None) -> tuple[Network, Tokenizer]:
    """A checkpoint with its own head and tokenizer, its encoder under a new head, or a network from scratch."""
    library = hugging_face()
    settings = recipe.model if isinstance(recipe.model, HuggingFaceConfig) else HuggingFaceConfig()
    torch.manual_seed(recipe.train.seed)
    network: HuggingFaceCTC
    if start is None:
        if settings.head is not None:
            raise UserError("model.head is for Whisper checkpoints; begin with one: init=FOLDER_OR_HUB_ID")
        if settings.freeze_front_end:
            raise UserError(
                "a front end with random weights would stay as it is; "
                "set model.freeze_front_end=false, or init: reference"
            )
        config = settings.config or library.settings_of(reference.folder if reference else None)
        network, tokenizer = library.new_hugging_face(config, _make_processor(recipe, None, reference))
    elif settings.head == "ctc" or library.is_whisper_ctc(start):
        network, tokenizer = _whisper_ctc(recipe, start, reference, settings.config)
    elif recipe.tokenizer is not None:
        network, tokenizer = library.with_new_head(start, _make_processor(recipe, start, None), settings.config)
    else:
        network, tokenizer = _from_checkpoint(start, reference, settings.config)
    network.prepare_training(settings)
    return network, tokenizer


def _from_checkpoint(
    start: Path, reference: Reference | None, changes: dict[str, Any]
) -> tuple[HuggingFaceCTC, Tokenizer]:
    """A checkpoint with its own head; with one for the reference's vocabulary where it has none, or another."""
    library = hugging_face()
    if reference is None or start == reference.folder:
        return library.load_hugging_face(start, changes)  # type: ignore[no-any-return]
    try:
        network, tokenizer = library.load_hugging_face(start, changes)
        if tokenizer.tokens == reference.tokenizer.tokens:
            return network, tokenizer
    except UserError:  # no head, or no tokenizer; what else may be wrong with it is found again
        pass
    processor = library.load_processor(reference.folder)
    return library.with_new_head(start, processor, changes)  # type: ignore[no-any-return]


def _whisper_ctc(
    recipe: Recipe, start: Path, reference: Reference | None, changes: dict[str, Any]
) -> tuple[HuggingFaceCTC, Tokenizer]:
    """Whisper's encoder with the CTC head of its folder, or a new one for the tokens of the recipe or reference."""
    library = hugging_face()
    if reference is not None and reference.network.labels.teacher_forced:
        raise UserError(
            f"the reference {reference.folder} has a decoder, from which CTC cannot learn; leave it out "
            f"(init={reference.folder}), or train a reference with a CTC head first"
        )
    if recipe.tokenizer is None and library.is_whisper_ctc(start):
        network, tokenizer = library.load_hugging_face(start, changes)
        if reference is None or tokenizer.tokens == reference.tokenizer.tokens:
            return network, tokenizer
    elif recipe.tokenizer is None and reference is None:
        raise UserError(f"init: {start} has no CTC head; say for which tokens: tokenizer={{kind: char}}")
    return library.with_ctc_head(start, _make_tokenizer(recipe, start, reference), changes)  # type: ignore[no-any-return]


def _make_processor(recipe: Recipe, start: Path | None, reference: Reference | None) -> object:
    """The processor of another folder, or one for the characters of the training text."""
    library = hugging_face()
    config = recipe.tokenizer
    if config is None:
        assert reference is not None  # the recipe's own check
        return library.load_processor(reference.folder)
    if config.path is not None:
        return library.load_processor(resolve_model(config.path))
    if config.kind != "char":
        raise UserError(
            f"tokenizer.kind is {config.kind}; Hugging Face models get a tokenizer of characters: kind: char"
        )
    from layerdial.models.huggingface.processor import character_processor

    settings = recipe.model.config if isinstance(recipe.model, HuggingFaceConfig) else {}
    return character_processor(_texts(recipe.data.train), library.extractor_for(start, settings))


def _texts(cuts: Path) -> Iterator[str]:
    from layerdial.data.manifest import cut_text, open_cuts

    return (cut_text(cut) for cut in open_cuts(cuts))
