"""Training Hugging Face models: what learns, what must stay as it is, and what does not fit together."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCTC, AutoProcessor

from layerdial import load_model
from layerdial.config.network import HuggingFaceConfig
from layerdial.config.policies import Prefix
from layerdial.config.recipe import OptimConfig, SpecAugmentConfig
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network
from layerdial.models.huggingface.ctc import HuggingFaceCTC
from layerdial.subset import BlockSubset
from layerdial.training.augment import mask_samples
from layerdial.training.loop import train
from layerdial.training.optim import make_optimizer
from layerdial.utils.rows import read_rows
from tiny import command, equal, in_child, losses, remember_references, speak, tiny_recipe, weights, write_recipe
from tiny_hf import save_tiny, tiny_model, tiny_processor
from tiny_training import kill_at_step, on_two_ranks, told, train_and_tell

SIZES = "hidden_size: 16, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 32"
CONVOLUTIONS = "conv_dim: [8, 8, 8, 8, 8, 8, 8], num_conv_pos_embeddings: 16, num_conv_pos_embedding_groups: 4"
PARAKEET = f"model={{family: hf, freeze_front_end: false, config: {{{SIZES}, model_type: parakeet_ctc}}}}"
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
NO_DROPOUT = ", ".join(f"{name}: 0.0" for name in DROPOUTS)
FEW = ("train.steps=3", "train.eval_every=3")
ONE = ("train.steps=1", "train.eval_every=1")

pytestmark = [
    pytest.mark.medium,  # each trains a network of the library
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
]


def from_scratch(settings: str = "model_type: wavlm", freeze: bool = False) -> tuple[str, str]:
    """The keys of a recipe for a small network with random weights and the characters of the corpus."""
    given = set(re.findall(r"(\w+):", settings))  # which a YAML table may not have twice
    sizes = [part for part in SIZES.split(", ") if part.partition(":")[0] not in given]
    config = ", ".join([*sizes, CONVOLUTIONS, settings])
    model = f"{{family: hf, freeze_front_end: {str(freeze).lower()}, config: {{{config}}}}}"
    return f"model={model}", "tokenizer={kind: char}"


def starting_from(folder: Path, settings: str = "", **options: bool) -> tuple[str, str, str]:
    """The keys of a recipe that goes on from a checkpoint with its own head."""
    switches = "".join(f", {name}: {str(value).lower()}" for name, value in options.items())
    return f"init={folder}", f"model={{family: hf, config: {{{settings}}}{switches}}}", "tokenizer=null"


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hf") / "wavlm", "wavlm-large")


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hf") / "parakeet", "parakeet")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without head or tokenizer, as microsoft/wavlm-base is on the hub."""
    folder = tmp_path_factory.mktemp("hf") / "pretrained"
    tiny_model("wavlm-base").base_model.save_pretrained(folder)
    extractor = tiny_processor("wavlm-base").feature_extractor
    extractor.do_normalize = False
    extractor.save_pretrained(folder)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def in_front(name: str) -> bool:
    return "feature_extractor." in name or ".subsampling.layers." in name


# --------------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        ("model_type: wavlm", False),
        ("model_type: wav2vec2, feat_extract_norm: layer, do_stable_layer_norm: true", True),
        ("model_type: hubert", False),
    ],
)
def test_a_network_from_scratch_becomes_an_ordinary_checkpoint(
    corpus, tmp_path: Path, settings: str, mask: bool
) -> None:
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *from_scratch(settings), *FEW))
    plain, found = AutoModelForCTC.from_pretrained(model, output_loading_info=True)
    assert not any(found.values()) and plain.config.num_hidden_layers == 3
    processor = AutoProcessor.from_pretrained(model)
    vocabulary = processor.tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == ["<pad>", "<unk>", "|", *sorted(set("lowmiddlehigh"))]
    assert plain.config.vocab_size == len(vocabulary) and plain.config.pad_token_id == 0
    assert processor.feature_extractor.return_attention_mask == mask
    rows = losses(tmp_path / "run")
    assert list(rows) == [1, 2, 3] and all(0 < row[0] < 20 for row in rows.values())
    samples = speak("low high")
    theirs = plain(**processor(samples, sampling_rate=16000, return_tensors="pt")).logits.log_softmax(-1)
    network, _ = load_network(model)
    inputs = torch.from_numpy(network.features(samples)).unsqueeze(0)
    ours, _, _ = network(inputs, torch.tensor([len(samples)]), BlockSubset.full(3))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_it_learns(corpus, tmp_path: Path) -> None:
    changes = ("train.steps=25", "train.eval_every=25", "optim.lr=0.01", "policy.name=none")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *from_scratch(), *changes))
    found = [row[0] for row in losses(tmp_path / "run").values()]
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_a_run_repeats_itself(corpus, wavlm: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        torch.manual_seed(hash(str(run)))
        train(tiny_recipe(run, corpus.train, corpus.dev, *starting_from(wavlm), *FEW))
    assert losses(runs[0]) == losses(runs[1]) and equal(*map(weights, runs))


def test_resumed_equals_uninterrupted(corpus, wavlm: Path, tmp_path: Path) -> None:
    """With dropout, masks, speeds, several batches a step, and blocks computed twice."""
    everything = ("data.speeds=[0.9, 1.0, 1.1]", "train.accumulate=2", "train.steps=4", "train.eval_every=2")
    masks = "spec_augment={time_masks: 2}"
    whole, killed = (
        tiny_recipe(
            *(tmp_path / name, corpus.train, corpus.dev),
            *(*starting_from(wavlm, gradient_checkpointing=True), *everything, masks),
        )
        for name in ("whole", "killed")
    )
    train(whole)

    def killed_run() -> None:
        kill_at_step(3)
        train(killed)

    assert in_child(killed_run).code == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    train(killed, resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_gradient_checkpointing_changes_no_loss(corpus, wavlm: Path, tmp_path: Path) -> None:
    found = []
    for way in (False, True):
        run = tmp_path / str(way)
        train(tiny_recipe(run, corpus.train, corpus.dev, *starting_from(wavlm, gradient_checkpointing=way), *FEW))
        found.append([number for row in losses(run).values() for number in row])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
def test_exits_train_every_depth_and_the_model_comes_with_its_ladder(
    corpus, request: pytest.FixtureRequest, tmp_path: Path, start: str, checkpointing: bool
) -> None:
    folder = request.getfixturevalue(start)
    exits = ("policy.name=none", "objective={exits: {at: all, power: 2}}")
    changes = (*starting_from(folder, gradient_checkpointing=checkpointing), *exits, *FEW)
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    ladder = Ladder.beside(model, 4)
    assert ladder is not None and [rung.subset for rung in ladder.rungs] == ["1000", "1100", "1110", "1111"]
    moved = changed(stored(folder), stored(model))
    assert all(any(f"layers.{block}." in name for name in moved) for block in range(4))
    assert type(AutoModelForCTC.from_pretrained(model)) is type(AutoModelForCTC.from_pretrained(folder))


@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
def test_half_precision_trains(corpus, request: pytest.FixtureRequest, tmp_path: Path, start: str) -> None:
    folder = request.getfixturevalue(start)
    found = []
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        train(tiny_recipe(run, corpus.train, corpus.dev, *starting_from(folder), *ONE, f"train.precision={precision}"))
        found.append(losses(run)[1])
        assert all(t.dtype == torch.float32 for name, t in weights(run).items() if "num_batches" not in name)
    assert found[0] != found[1] and found[0][0] == pytest.approx(found[1][0], rel=0.05)


def test_two_ranks_end_with_the_same_weights(corpus, wavlm: Path, tmp_path: Path) -> None:
    """Though block 0 of WavLM, which lends its table to the others, is left out at some steps."""
    changes = (*starting_from(wavlm, gradient_checkpointing=True), *FEW, "train.seed=2")
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes)
    first, second = told(on_two_ranks(lambda rank: train_and_tell(recipe, rank)))
    assert first["subsets"] == second["subsets"] and any(key[0] == "0" for key in first["subsets"])
    assert first["weights"] == second["weights"]


# ---------------------------------------------------------------------------------------------------- what may move


@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "free"])
def test_a_frozen_front_end_stays_and_the_rest_moves(
    corpus, request: pytest.FixtureRequest, tmp_path: Path, start: str, freeze: bool
) -> None:
    folder = request.getfixturevalue(start)
    settings = starting_from(folder, freeze_front_end=freeze)
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *settings, *FEW, "policy.name=none"))
    before = stored(folder)
    still = {n for n in before if "masked_spec" in n or "running" in n or "batches" in n or (freeze and in_front(n))}
    assert still and changed(before, weights(tmp_path / "run")) == before.keys() - still


def test_a_block_that_never_runs_keeps_its_weights(
    corpus, wavlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the table of WavLM's block 0, which the others use."""
    monkeypatch.setattr(Prefix, "draw", lambda self, step, stack, rng: (BlockSubset(stack.n_blocks, (1, 3)),))
    decay = ("policy.name=prefix", "optim.weight_decay=0.5")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *starting_from(wavlm), *FEW, *decay))
    moved = changed(stored(wavlm), weights(tmp_path / "run"))
    in_blocks = {name.partition("encoder.layers.")[2][:1]: name for name in moved if "encoder.layers." in name}
    assert in_blocks.keys() == {"0", "1", "3"}
    assert {name for name in moved if ".layers.0." in name} == {
        "wavlm.encoder.layers.0.attention.rel_attn_embed.weight"
    }


def test_the_head_has_a_rate_of_its_own(wavlm: Path) -> None:
    network, _ = load_network(wavlm)
    assert isinstance(network, HuggingFaceCTC)
    network.prepare_training(HuggingFaceConfig())
    config = OptimConfig(lr=1e-4, head_lr=1e-2, weight_decay=0.1)
    groups = make_optimizer(network, config).param_groups
    names = {parameter: name for name, parameter in network.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert {name: scale for name, scale in scales.items() if scale != 1} == {
        "model.lm_head.weight": pytest.approx(100),
        "model.lm_head.bias": pytest.approx(100),
    }
    assert all(group["lr"] == pytest.approx(1e-4 * group["lr_scale"]) for group in groups)
    assert scales.keys() == {name for name in names.values() if not in_front(name) and "masked_spec" not in name}
    decaying = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    assert not any(name.endswith("bias") or "norm" in name for name in decaying)


def test_a_rate_of_its_own_moves_the_head_alone(corpus, parakeet: Path, tmp_path: Path) -> None:
    rates = ("optim.lr=1e-12", "optim.head_lr=1e-2")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *starting_from(parakeet), *FEW, *rates))
    before, after = stored(parakeet), weights(tmp_path / "run")
    far = {name for name in before if (before[name] - after[name]).abs().max() > 1e-6}
    assert far == {"ctc_head.weight", "ctc_head.bias"}


# ------------------------------------------------------------------------------------------------ where it begins


def test_a_new_head_goes_onto_a_pretrained_encoder(corpus, pretrained: Path, tmp_path: Path) -> None:
    changes = ("model=null", "tokenizer={kind: char}", *FEW, "optim.lr=1e-12", "optim.head_lr=1e-2")
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"init={pretrained}", *changes))
    plain, found = AutoModelForCTC.from_pretrained(model, output_loading_info=True)
    assert not any(found.values())
    encoder = {name.removeprefix("wavlm."): tensor for name, tensor in stored(model).items() if "lm_head" not in name}
    assert encoder.keys() == stored(pretrained).keys()
    assert all((tensor - encoder[name]).abs().max() < 1e-6 for name, tensor in stored(pretrained).items())
    assert plain.lm_head.out_features == len(load_network(model)[1].tokens) == 12
    assert plain.config.pad_token_id == 0 and AutoProcessor.from_pretrained(model).tokenizer.pad_token_id == 0


def test_a_new_head_hears_as_its_encoder_was_trained_to(corpus, pretrained: Path, tmp_path: Path) -> None:
    changes = ("model=null", "tokenizer={kind: char}", *FEW)
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"init={pretrained}", *changes))
    assert AutoProcessor.from_pretrained(model).feature_extractor.do_normalize is False


@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
def test_a_new_head_replaces_one_of_another_vocabulary(
    corpus, request: pytest.FixtureRequest, tmp_path: Path, start: str
) -> None:
    folder = request.getfixturevalue(start)
    changes = ("model=null", "tokenizer={kind: char}", *FEW)
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"init={folder}", *changes))
    plain, processor = AutoModelForCTC.from_pretrained(model), AutoProcessor.from_pretrained(model)
    made = processor(speak("low high"), sampling_rate=16000, return_tensors="pt")
    assert plain(**made).logits.shape[-1] == 12 == len(processor.tokenizer)
    assert load_network(model)[0].features == load_network(folder)[0].features


def test_the_tokenizer_can_be_that_of_another_model(corpus, wavlm: Path, tmp_path: Path) -> None:
    changes = (from_scratch()[0], f"tokenizer={{path: {wavlm}}}", *FEW)
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    assert load_network(model)[1].tokens == load_network(wavlm)[1].tokens


# ----------------------------------------------------------------------------------------------------- distillation


@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
def test_a_student_learns_from_a_reference_that_stays_as_it_was(
    corpus, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    folder, loaded = request.getfixturevalue(start), remember_references(monkeypatch)
    changes = (f"reference={folder}", "init=reference", "objective.distil.weight=1", "model=null", "tokenizer=null")
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, *FEW))
    assert all(row[2] > 0 for row in losses(tmp_path / "run").values())
    network = loaded[0].network
    assert equal(dict(network.state_dict()), dict(load_network(folder)[0].state_dict()))
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
    assert stored(model).keys() == stored(folder).keys()


def test_a_student_identical_to_its_reference_has_no_kl_at_full_depth(corpus, wavlm: Path, tmp_path: Path) -> None:
    changes = (*starting_from(wavlm, NO_DROPOUT), f"reference={wavlm}", "objective.distil.weight=1")
    alike = ("policy.name=none", "train.steps=1", "spec_augment={time_masks: 2}")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, *alike))
    assert losses(tmp_path / "run")[1][2] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("start", ["wavlm", "parakeet"])
def test_stored_posteriors_teach_as_the_reference_does(
    corpus, request: pytest.FixtureRequest, tmp_path: Path, start: str
) -> None:
    folder = request.getfixturevalue(start)
    objective, found = ("reference=" + str(folder), "objective.distil.weight=1"), {}
    stored_whole = ("objective.distil.top_k=64", f"data.posteriors={tmp_path / 'store'}")
    for teacher, settings in (("clean", ()), ("cached", stored_whole)):
        changes = (f"objective.distil.teacher={teacher}", *settings, "data.speeds=[0.9, 1.1]", *FEW)
        train(tiny_recipe(tmp_path / teacher, corpus.train, corpus.dev, *objective, *starting_from(folder), *changes))
        found[teacher] = losses(tmp_path / teacher)
    for step, row in found["clean"].items():
        assert row[2] > 0 and found["cached"][step] == pytest.approx(row, rel=1e-2, abs=1e-3)


def test_a_student_from_scratch_takes_shape_and_vocabulary_of_its_reference(
    corpus, wavlm: Path, tmp_path: Path
) -> None:
    changes = (f"reference={wavlm}", "objective.distil.weight=1", "tokenizer=null", *FEW)
    model = "model={family: hf, freeze_front_end: false}"
    folder = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, model))
    assert {name: tensor.shape for name, tensor in stored(folder).items()} == {
        name: tensor.shape for name, tensor in stored(wavlm).items()
    }
    assert load_network(folder)[1].tokens == load_network(wavlm)[1].tokens


# ------------------------------------------------------------------------------------------------ what does not fit

SCRATCH = "model_type: wavlm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (from_scratch(f"{SCRATCH}, layerdrop: 0.1"), "config.layerdrop is not used; `policy` says how blocks"),
        (from_scratch(f"{SCRATCH}, mask_time_prob: 0.1"), "config.mask_time_prob is not used; `spec_augment` says"),
        (from_scratch(f"{SCRATCH}, apply_spec_augment: no"), "config.apply_spec_augment is not used"),
        (from_scratch(f"{SCRATCH}, hidden_siz: 8"), r"model\.config: a wavlm config has no key 'hidden_siz'"),
        (from_scratch("model_type: whisper"), "Whisper is not trained from scratch here"),
        (from_scratch("model_type: t5"), r"model_type is 't5'; choose wavlm, wav2vec2, .* or sew-d"),
        (from_scratch("num_buckets: 8"), r"model_type is None; choose wavlm"),
        (
            from_scratch("model_type: wavlm, num_attention_heads: 3")[:1],
            "does not make a network: .*divisible by num_h",
        ),
        (from_scratch(freeze=True), r"random weights would stay as it is; set model\.freeze_front_end=false"),
        (("model={family: hf, freeze_front_end: false}",), r"model\.config is missing; for example model: {family: hf"),
        ((*from_scratch(), "spec_augment.freq_masks=1"), "freq_masks is set, but this network takes samples"),
        ((*from_scratch(), "tokenizer={kind: bpe, size: 20}"), "kind is bpe; Hugging Face models get .*kind: char"),
        ((*from_scratch(), "tokenizer={kind: word}"), "kind is word; Hugging Face models get .*kind: char"),
        ((*from_scratch(), "tokenizer={path: {learnt}}"), "has no processor that can be read"),
        ((*from_scratch(), "train.eval_depths=[4]"), "depth 4 does not exist in an encoder of 3 blocks"),
        (
            ("init={learnt}", from_scratch()[0]),
            "holds no Hugging Face model, but model.family is 'hf'; leave `model` out",
        ),
        (
            ("init={wavlm}", "model={size: xs}"),
            "holds a Hugging Face model, but model.family is 'conformer'; leave `mod",
        ),
        (
            ("init={wavlm}", "model={family: hf, config: {hiden_dropout: 0}}"),
            "a wavlm config has no key 'hiden_dropout'",
        ),
        (("init={wavlm}", "model={family: hf, config: {hidden_size: 8}}"), "over a checkpoint only dropouts can be"),
        (("init={pretrained}", "model=null", "tokenizer=null"), "has no CTC head .*; train one first"),
        (("reference={wavlm}", *from_scratch()), r"another vocabulary \(30 tokens\) than the student \(12\)"),
        (
            ("reference={wavlm}", from_scratch(f"{SCRATCH}, conv_stride: [5, 2, 2, 2, 2, 2, 1]")[0], "tokenizer=null"),
            "takes Wav2Vec2FeatureExtractor at 50 frames a second, the student .* at 100 frames a second",
        ),
        (("reference={wavlm}", "tokenizer=null"), "takes Wav2Vec2FeatureExtractor at 50 .*, the student LogMel"),
        (("reference={wavlm}", "init={parakeet}", "model=null", "tokenizer=null"), "takes .* at 50 .* at 12.5 frames"),
        pytest.param((PARAKEET,), "Parakeet is not trained from scratch", id="parakeet"),
        pytest.param((from_scratch()[0], "tokenizer={path: {parakeet}}"), "takes", id="wavlm hears log-mel"),
        pytest.param(from_scratch(f"{SCRATCH}, num_feat_extract_layers: 9"), ".", id="more convolutions"),
        pytest.param(from_scratch(f"{SCRATCH}, num_feat_extract_layers: 5"), ".", id="fewer convolutions"),
        pytest.param(from_scratch(f"{SCRATCH}, hidden_dropout: high"), "hidden_dropout", id="wrong type"),
        pytest.param(
            from_scratch(f"{SCRATCH}, add_adapter: true"), "a frame of the model is 2560 samples", id="add_adapter"
        ),
        pytest.param(from_scratch(f"{SCRATCH}, num_hidden_layers: 0"), "at least one block", id="no blocks"),
        pytest.param(
            ("init={wavlm}", "tokenizer=null", "model={family: hf, config: {num_hidden_layers: 2}}"),
            ".",
            id="fewer blocks than weights",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    corpus, learnt: Path, request: pytest.FixtureRequest, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    folders = {name: request.getfixturevalue(name) for name in ("wavlm", "parakeet", "pretrained")} | {"learnt": learnt}
    for name, folder in folders.items():
        changes = tuple(change.replace(f"{{{name}}}", str(folder)) for change in changes)
    with pytest.raises(UserError, match=message) as problem:
        recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "tokenizer={kind: char}", *changes, *FEW)
        train(recipe)
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- masked samples


def masked(seed: int = 0, **settings: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples with values of their own, which are masked, and lengths."""
    lengths_B = torch.tensor([16000, 9000, 700])
    inputs = torch.randn(3, 16000, generator=torch.Generator().manual_seed(9)) + 5
    inputs[torch.arange(16000) >= lengths_B.unsqueeze(1)] = 0.0
    torch.manual_seed(seed)
    return inputs, mask_samples(inputs, lengths_B, SpecAugmentConfig(**settings)), lengths_B


def test_a_stretch_of_samples_is_silent_within_its_bounds() -> None:
    """At most 100 ms, and at most a fifth of the utterance."""
    widths: list[list[int]] = [[], [], []]
    for seed in range(40):
        inputs, found, lengths_B = masked(seed, time_masks=1, time_width=10, time_share=0.2)
        for row, (before, after, length) in enumerate(zip(inputs, found, lengths_B.tolist(), strict=True)):
            (positions,) = (before != after).nonzero(as_tuple=True)
            widths[row].append(len(positions))
            if len(positions):
                first, last = int(positions[0]), int(positions[-1])
                assert last < length and len(positions) == last - first + 1  # one stretch, and no padding
                torch.testing.assert_close(after[first : last + 1], before[:length].mean().expand(len(positions)))
    assert 1400 < max(widths[0]) <= 1600 and 1400 < max(widths[1]) <= 1600 and 120 < max(widths[2]) <= 140


def test_masks_repeat_by_seed_and_are_as_many_as_asked_for() -> None:
    assert torch.equal(masked(3)[1], masked(3)[1]) and not torch.equal(masked(3)[1], masked(4)[1])
    inputs, found, _ = masked(time_masks=0)
    assert torch.equal(inputs, found)
    assert torch.equal(masked(5)[1], masked(5, freq_masks=2)[1])  # there are no bands
    shares = [
        float((before != after).float().mean()) for before, after, _ in (masked(s, time_masks=9) for s in range(5))
    ]
    assert 0.1 < sum(shares) / 5 < 0.8


# --------------------------------------------------------------------------------------------------------- commands


def test_the_commands_work_on_a_folder_of_the_library(corpus, tmp_path: Path) -> None:
    """Also without any training for dropping."""
    model = save_tiny(tmp_path / "hubert", "hubert-large", conv_dim=[4] * 7, num_hidden_layers=2)
    ended = command("search", model, corpus.dev, "--workers", 0)
    assert ended.code == 0 and "depth  1" in ended.out, ended.err
    assert load_model(model).ladder is not None
    for rule in ("even", "ladder"):
        arguments = ("--select", rule, "--workers", 0, "--out", tmp_path / "sweep")
        ended = command("sweep", model, corpus.dev, "--depths", "1", *arguments)
        assert ended.code == 0, ended.err
    rows = read_rows(tmp_path / "sweep" / "sweep.jsonl")
    assert rows[0]["subset"] == "10" and all(row["depth"] == 1 and row["macs_per_second"] > 0 for row in rows)
    soundfile.write(tmp_path / "a.wav", speak("low high low"), 16000)
    ended = command("transcribe", model, tmp_path / "a.wav", "--json")
    said = json.loads(ended.out)
    assert ended.code == 0 and (said["subset"], said["file"]) == ("11", str(tmp_path / "a.wav"))
    assert said["text"] == load_model(model).transcribe(tmp_path / "a.wav").text


def test_the_command_line_trains_and_resumes(corpus, wavlm: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    changes = [part for change in (*starting_from(wavlm), *FEW) for part in ("--set", change)]
    ended = command("train", recipe, *changes)
    assert ended.code == 0 and f"model: {tmp_path / 'run' / 'model'}" in ended.out, ended.err
    before = weights(tmp_path / "run")
    ended = command("train", recipe, *changes, "--resume")
    assert ended.code == 0 and equal(before, weights(tmp_path / "run")), ended.err
    ended = command("train", recipe, *changes, "--set", "model={family: hf, config: {layerdrop: 0.1}}")
    assert ended.code == 2 and "config.layerdrop is not used" in ended.err and ended.err.count("\n") == 1
