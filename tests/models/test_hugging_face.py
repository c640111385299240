"""Hugging Face networks equal the library's own, whichever blocks run and whatever else is in the batch."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCTC, AutoProcessor

from layerdial.audio.windows import WINDOW_SECONDS
from layerdial.config.network import HuggingFaceConfig
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network
from layerdial.models.cost import subset_cost
from layerdial.models.huggingface.ctc import HuggingFaceCTC
from layerdial.models.huggingface.processor import HuggingFaceTokenizer
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.subset import BlockSubset
from layerdial.text.ctc import greedy_ctc
from layerdial.training.reference import Reference
from tiny_hf import save_tiny, variants

N_BLOCKS = 4
FULL = BlockSubset.full(N_BLOCKS)
EVERY_SUBSET = [BlockSubset(N_BLOCKS, kept) for depth in (1, 2, 3, 4) for kept in combinations(range(N_BLOCKS), depth)]
SUBSETS = pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
SECOND = 16000
LENGTHS = (16000, 9000, 12345, 22400)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),  # WavLM's own attention
]


@dataclass
class Pair:
    """The same checkpoint as our network and as the library's own model."""

    folder: Path
    network: HuggingFaceCTC
    tokenizer: HuggingFaceTokenizer
    theirs: Any
    processor: Any

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def recognizer(self) -> TorchRecognizer:
        return TorchRecognizer(self.network, self.tokenizer)

    def batch(self, samples: Sequence[np.ndarray]) -> FeatureBatch:
        names = [""] * len(samples)
        return collate_features(names, [self.network.features(one) for one in samples], names, 0.0)

    def inputs(self, samples: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        batch = self.batch(samples)
        return torch.from_numpy(batch.inputs).to(self.dtype), torch.from_numpy(batch.lengths_B)

    def ours_says(self, samples: Sequence[np.ndarray], subset: BlockSubset = FULL) -> list[Tensor]:
        """Log-probabilities (T, V) of each utterance, heard in one padded batch."""
        logp_BTV, frames_B, _ = self.network(*self.inputs(samples), subset)
        return [logp_TV[:frames] for logp_TV, frames in zip(logp_BTV, frames_B.tolist(), strict=True)]

    def theirs_says(self, **inputs: Tensor) -> Tensor:
        """What the untouched model makes of what its own feature extractor made, in our order: the blank first."""
        blank = self.tokenizer.blank
        order = [blank, *(i for i in range(len(self.tokenizer.tokens)) if i != blank)]
        cast = {name: made.to(self.dtype) if made.is_floating_point() else made for name, made in inputs.items()}
        return self.theirs(**cast).logits.log_softmax(-1)[..., order]

    def theirs_says_alone(self, samples: np.ndarray) -> Tensor:
        """(T, V), without the frame that Parakeet's extractor adds and masks."""
        logp_BTV = self.theirs_says(
            **self.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")
        )
        return logp_BTV[0, : self.network.features.frames(len(self.network.features(samples)))]


def load_pair(folder: Path, dtype: torch.dtype = torch.float32) -> Pair:
    network, tokenizer = load_network(folder)
    assert isinstance(network, HuggingFaceCTC) and isinstance(tokenizer, HuggingFaceTokenizer)
    theirs, processor = AutoModelForCTC.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    return Pair(folder, network.to(dtype), tokenizer, theirs.to(dtype), processor)


@pytest.fixture(scope="module", params=variants())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hf") / request.param, request.param)


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return load_pair(folder)


@pytest.fixture(scope="module")
def exact(folder: Path) -> Pair:
    """In double precision, where a difference is a mistake and no rounding."""
    return load_pair(folder, torch.float64)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def noise(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# ----------------------------------------------------------------------------------------------------- all blocks


def test_all_blocks_equal_the_untouched_library(pair: Pair) -> None:
    for samples in noise(*LENGTHS):
        (ours,) = pair.ours_says([samples])
        theirs = pair.theirs_says_alone(samples)
        assert theirs.std(0).max() > 0.1  # frames differ, so that equality says something
        assert difference(ours, theirs) < 1e-5


def test_a_padded_batch_equals_the_library_on_each_utterance_alone(exact: Pair) -> None:
    samples = noise(*LENGTHS)
    for ours, alone in zip(exact.ours_says(samples), samples, strict=True):
        assert difference(ours, exact.theirs_says_alone(alone)) < 1e-10


def test_a_padded_batch_equals_the_library_with_its_attention_mask(pair: Pair) -> None:
    """Where the library feeds one; wav2vec2-base and its like hear padding as silence, and come out different."""
    samples = noise(*LENGTHS)
    made = pair.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt", padding=True)
    theirs = pair.theirs_says(**made)
    differences = [difference(ours, logp_TV[: len(ours)]) for ours, logp_TV in zip(pair.ours_says(samples), theirs)]  # noqa: B905
    assert differences[-1] < 1e-5  # the longest, which has no padding
    assert (max(differences) < 1e-5) == ("attention_mask" in made)


def test_a_wider_batch_changes_nothing(exact: Pair) -> None:
    inputs, lengths_B = exact.inputs(noise(*LENGTHS))
    wider = nn.functional.pad(inputs, (*(0, 0) * (inputs.ndim - 2), 0, 5000 if inputs.ndim == 2 else 31))
    narrow, frames_B, _ = exact.network(inputs, lengths_B, FULL)
    wide, same_B, _ = exact.network(wider, lengths_B, FULL)
    assert wide.shape[1] > narrow.shape[1] and torch.equal(frames_B, same_B)
    for row, frames in enumerate(frames_B.tolist()):
        assert difference(narrow[row, :frames], wide[row, :frames]) < 1e-10


def test_batch_1_equals_batch_8(exact: Pair) -> None:
    alike, mixed = noise(*[8000] * 8), noise(8000, 4321, 7999, 5000, 1000, 6400, 3200, 640)
    for subset in (FULL, BlockSubset.from_key("0100"), BlockSubset.from_key("1011")):
        for samples in (alike, mixed):
            for together, alone in zip(exact.ours_says(samples, subset), samples, strict=True):
                assert difference(together, exact.ours_says([alone], subset)[0]) < 1e-10


# -------------------------------------------------------------------------------------------------------- subsets


def without_the_others(theirs: Any, subset: BlockSubset, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of the library's model with the list of its blocks cut down to those that are kept."""
    encoder = getattr(theirs.base_model, "encoder", theirs.base_model)
    all_layers = encoder.layers
    encoder.layers = nn.ModuleList(all_layers[i] for i in subset.kept)
    try:
        return theirs(**inputs).logits
    finally:
        encoder.layers = all_layers


def wavlm_by_hand(theirs: Any, subset: BlockSubset, inputs: dict[str, Tensor]) -> Tensor:
    """The library's own parts of WavLM in a loop, with the position bias made beforehand of block 0's table."""
    base, encoder = theirs.base_model, theirs.base_model.encoder
    x_BTD, _ = base.feature_projection(base.feature_extractor(inputs["input_values"]).transpose(1, 2))
    x_BTD = x_BTD + encoder.pos_conv_embed(x_BTD)
    stable = theirs.config.do_stable_layer_norm
    x_BTD = x_BTD if stable else encoder.layer_norm(x_BTD)
    bias_HTT = encoder.layers[0].attention.compute_bias(x_BTD.shape[1], x_BTD.shape[1])
    for i in subset.kept:
        x_BTD, _ = encoder.layers[i](x_BTD, position_bias=bias_HTT)
    return theirs.lm_head(encoder.layer_norm(x_BTD) if stable else x_BTD)


@SUBSETS
def test_every_subset_equals_the_library_with_only_these_blocks(exact: Pair, subset: BlockSubset) -> None:
    """In a padded batch, against the library on each utterance alone."""
    samples = noise(5000, 8000)
    reference = wavlm_by_hand if exact.theirs.config.model_type == "wavlm" else without_the_others
    for ours, alone in zip(exact.ours_says(samples, subset), samples, strict=True):
        made = exact.processor.feature_extractor(alone, sampling_rate=16000, return_tensors="pt")
        cast = {name: value.to(exact.dtype) if value.is_floating_point() else value for name, value in made.items()}
        logits_TV = reference(exact.theirs, subset, cast)[0, : len(ours)]
        blank = exact.tokenizer.blank
        theirs = torch.cat([logits_TV[:, [blank]], logits_TV[:, :blank], logits_TV[:, blank + 1 :]], 1).log_softmax(-1)
        assert difference(ours, theirs) < 1e-10


@pytest.mark.parametrize("key", ["1111", "0111", "1010"])
def test_exit_n_is_the_pass_of_the_first_n_kept_blocks(pair: Pair, key: str) -> None:
    inputs, subset = pair.inputs(noise(5000, 8000)), BlockSubset.from_key(key)
    depths = range(1, subset.depth)
    last, _, early = pair.network(*inputs, subset, exits=depths)
    assert torch.equal(last, pair.network(*inputs, subset)[0])
    for depth, found in zip(depths, early, strict=True):
        assert torch.equal(found, pair.network(*inputs, BlockSubset(N_BLOCKS, subset.kept[:depth]))[0])


def test_subsets_matter(exact: Pair) -> None:
    said = [exact.ours_says(noise(8000), subset)[0] for subset in EVERY_SUBSET]
    assert all(difference(a, b) > 1e-2 for a, b in combinations(said, 2))


@SUBSETS
def test_a_skipped_block_is_never_called(pair: Pair, subset: BlockSubset) -> None:
    called: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, name=f"{i}.{name}": called.update([name]))
        for i, block in enumerate(pair.network.blocks)
        for name, module in block.named_modules()
    ]
    try:
        pair.ours_says(noise(8000, 4000), subset)
    finally:
        for hook in hooks:
            hook.remove()
    assert {name: calls for name, calls in called.items() if name.endswith(".")} == {f"{i}.": 1 for i in subset.kept}
    table = {"0.attention.rel_attn_embed"} if pair.theirs.config.model_type == "wavlm" else set()
    assert {name for name in called if int(name[0]) not in subset} == (table if 0 not in subset else set())


def test_a_subset_for_other_blocks_is_refused(pair: Pair) -> None:
    with pytest.raises(UserError, match="subset is for 12 blocks, this encoder has 4"):
        pair.ours_says(noise(8000), BlockSubset.full(12))


def test_a_call_leaves_nothing_behind(pair: Pair) -> None:
    before = {name: tensor.clone() for name, tensor in pair.network.state_dict().items()}
    first = pair.ours_says(noise(8000))[0]
    pair.ours_says(noise(8000, 4000), BlockSubset.from_key("0001"))
    assert torch.equal(pair.ours_says(noise(8000))[0], first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.network.state_dict().items())


def test_a_block_costs_what_it_computes(pair: Pair) -> None:
    """Blocks are alike but for WavLM's table, which is in use whichever blocks run."""
    one, two, all_four = (subset_cost(pair.network, BlockSubset.from_key(k), 1.0) for k in ("0100", "0101", "1111"))
    for numbers in zip(*((cost.parameters, cost.macs_per_second) for cost in (one, two, all_four)), strict=True):
        assert numbers[0] < numbers[1] and 3 * (numbers[1] - numbers[0]) == pytest.approx(numbers[2] - numbers[0])
    assert all_four.parameters == sum(p.numel() for p in pair.network.parameters())


# ------------------------------------------------------------------------------------------------------ gradients


@dataclass
class Backward:
    """What one training step left: gradients by name, and how often each block's first part was called."""

    network: HuggingFaceCTC
    gradients: dict[str, Tensor]
    calls: list[int]


def backward(pair: Pair, subset: BlockSubset, freeze: bool, checkpointing: bool) -> Backward:
    network = copy.deepcopy(pair.network).train()
    network.prepare_training(HuggingFaceConfig(freeze_front_end=freeze, gradient_checkpointing=checkpointing))
    calls: Counter[int] = Counter()
    for i, block in enumerate(network.blocks):
        first = next(block.children())
        first.register_forward_pre_hook(lambda *_, i=i: calls.update([i]))
    torch.manual_seed(0)  # of dropout
    with torch.enable_grad():
        inputs = torch.randn(2, 8000) if network.features.takes_samples else torch.randn(2, 60, 80)
        logp_BTV, _, _ = network(inputs.double(), torch.tensor([inputs.shape[1], inputs.shape[1] // 2]), subset)
        (logp_BTV * torch.randn_like(logp_BTV)).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return Backward(network, gradients, [calls[i] for i in range(N_BLOCKS)])


def block_of(name: str) -> int | None:
    """The block that a parameter belongs to."""
    _, found, after = name.partition("encoder.layers.")
    return int(after.split(".")[0]) if found else None


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("key", ["1111", "0101", "0010", "1000"])
def test_kept_blocks_and_only_those_get_gradient(exact: Pair, key: str, checkpointing: bool) -> None:
    subset = BlockSubset.from_key(key)
    made = backward(exact, subset, False, checkpointing)
    for name, parameter in made.network.named_parameters():
        block = block_of(name)
        if name.endswith("masked_spec_embed"):
            assert not parameter.requires_grad and name not in made.gradients
        elif block is not None and block not in subset and "rel_attn_embed" not in name:
            assert name not in made.gradients, name
        else:
            assert made.gradients[name].isfinite().all(), name
    for i in subset.kept:
        assert any(g.abs().max() > 1e-6 for name, g in made.gradients.items() if block_of(name) == i)
    tables = [g for name, g in made.gradients.items() if "rel_attn_embed" in name]
    assert len(tables) == (made.network.model.config.model_type == "wavlm") and all(g.abs().max() > 0 for g in tables)
    assert made.calls == [(1 + checkpointing) * (i in subset) for i in range(N_BLOCKS)]


@pytest.mark.parametrize("freeze", [False, True], ids=["", "frozen"])
def test_gradient_checkpointing_changes_no_gradient(exact: Pair, freeze: bool) -> None:
    """Nor does dropout: the second pass draws what the first drew."""
    plain, again = (backward(exact, BlockSubset.from_key("0111"), freeze, way).gradients for way in (False, True))
    assert plain.keys() == again.keys()
    assert all(difference(gradient, again[name]) < 1e-10 for name, gradient in plain.items())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_frozen_front_end_gets_no_gradient_and_the_rest_its_own(exact: Pair, checkpointing: bool) -> None:
    free, frozen = (backward(exact, FULL, way, checkpointing) for way in (False, True))
    convolutions = {name for name in free.gradients if in_front(name)}
    assert convolutions and frozen.gradients.keys() == free.gradients.keys() - convolutions
    assert all(difference(gradient, free.gradients[name]) < 1e-10 for name, gradient in frozen.gradients.items())
    still = [parameter for name, parameter in frozen.network.named_parameters() if in_front(name)]
    assert len(still) == len(convolutions) and not any(parameter.requires_grad for parameter in still)


def in_front(name: str) -> bool:
    """Whether a parameter is one of the convolutions before the encoder."""
    return ".feature_extractor." in name or ".subsampling.layers." in name


def test_the_statistics_of_batch_norms_stay(exact: Pair) -> None:
    before = dict(exact.network.named_buffers())
    assert any("running_mean" in name for name in before) == (exact.folder.name == "parakeet")
    made = backward(exact, FULL, False, False).network
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.named_buffers())
    assert made.training and not any(m.training for m in made.modules() if isinstance(m, nn.BatchNorm1d))


@pytest.mark.parametrize("variant", variants())
def test_the_library_drops_and_masks_nothing_by_itself(tmp_path: Path, variant: str) -> None:
    """Its LayerDrop and SpecAugment are switched on in the config of many checkpoints."""
    own = {} if variant == "parakeet" else {"mask_time_prob": 0.9, "mask_feature_prob": 0.9, "apply_spec_augment": True}
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    none = dict.fromkeys(("dropout", *dropouts[1:3]) if variant == "parakeet" else dropouts, 0.0)
    network = load_pair(save_tiny(tmp_path, variant, layerdrop=0.9, **own, **none), torch.float64).network
    inputs = torch.randn(2, 8000) if network.features.takes_samples else torch.randn(2, 60, 80)
    lengths_B = torch.tensor([inputs.shape[1], inputs.shape[1] // 2])
    evaluated, _, _ = network(inputs.double(), lengths_B, FULL)
    for _ in range(5):
        assert difference(network.train()(inputs.double(), lengths_B, FULL)[0], evaluated) < 1e-10


# ----------------------------------------------------------------------------------------------------- long audio


def test_transcribing_up_to_30_seconds_is_recognising(pair: Pair) -> None:
    for samples in noise(SECOND, 7 * SECOND):
        for subset in (FULL, BlockSubset.from_key("0110")):
            (expected,) = pair.recognizer.recognize(pair.batch([samples]), subset)
            assert len(expected) > 3
            assert pair.recognizer.transcribe(samples, subset=subset).text == expected


def save_local(folder: Path, variant: str, do_normalize: bool = False) -> Path:
    """A network that hears less than two seconds, for its attention adds nothing; by default audio as it is."""
    save_tiny(folder, variant)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if ".out_proj." in name or ".o_proj." in name:
            weights[name].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change_extractor(folder, do_normalize=do_normalize)
    return folder


def change_extractor(folder: Path, **changes: Any) -> None:
    file = folder / "processor_config.json"
    config = json.loads(file.read_text())
    config["feature_extractor"].update(changes)
    file.write_text(json.dumps(config))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variant", "key", "seconds"),
    [("wav2vec2-large", "1111", 30.0), ("wav2vec2-large", "0100", 30.01), ("hubert-large", "1111", 57.37)],
)
def test_long_audio_in_windows_equals_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, key: str, seconds: float
) -> None:
    """Frame by frame: none is lost at a seam, and none comes twice."""
    kept: list[list[int]] = []
    for user in ("text.ctc", "recognition.ctc"):
        monkeypatch.setattr(f"layerdial.{user}.greedy_ctc", lambda ids: kept.append(list(ids)) or greedy_ctc(ids))
    pair, (samples,) = load_pair(save_local(tmp_path, variant)), noise(round(seconds * SECOND))
    assert np.array_equal(pair.network.features(samples), samples)
    (whole,) = pair.recognizer.recognize(pair.batch([samples]), BlockSubset.from_key(key))
    heard = pair.recognizer.transcribe(samples, subset=BlockSubset.from_key(key))
    assert len(whole) > 200 and heard.text == whole
    assert kept[0] == kept[1] and len(kept[0]) == (len(samples) - 400) // 320 + 1
    assert heard.seconds == pytest.approx(seconds)


@pytest.mark.medium
@pytest.mark.parametrize("variant", ["wavlm-base", "wavlm-large", "wav2vec2-base", "hubert-base", "parakeet"])
def test_long_audio_whose_statistics_repeat_equals_one_pass(tmp_path: Path, variant: str) -> None:
    """Also where something is normalised over the whole of what is heard."""
    pair, (second,) = load_pair(save_local(tmp_path, variant, do_normalize=True)), noise(SECOND, seed=1)
    samples = np.tile(second, 33)
    (whole,) = pair.recognizer.recognize(pair.batch([samples]), FULL)
    assert len(whole) > 50 and pair.recognizer.transcribe(samples).text == whole


@pytest.mark.medium
def test_the_network_never_hears_more_than_30_seconds(tmp_path: Path) -> None:
    """So memory does not grow with the length of the audio."""
    pair = load_pair(save_tiny(tmp_path, "wav2vec2-large", conv_dim=[2] * 7))
    heard: list[int] = []
    pair.network.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0].shape[1]))
    assert pair.recognizer.transcribe(noise(300 * SECOND)[0], subset=BlockSubset.from_key("0100")).seconds == 300
    assert max(heard) == WINDOW_SECONDS * SECOND and sum(heard) > 300 * SECOND


# ------------------------------------------------------------------------------------------------------- features


def test_frames_are_those_that_the_network_makes(pair: Pair) -> None:
    features = pair.network.features
    assert features.samples_per_frame == (1280 if pair.folder.name == "parakeet" else 320)
    for length in (1, 100, 399, 400, 401, 719, 720, 721, 1279, 1280, 1281, 2559, 2560, 2561, 9999, 16000):
        (samples,) = noise(length)
        heard = features(samples)
        assert heard.dtype == np.float32
        if length >= 400:
            assert len(heard) == length * features.per_second // SECOND
        logp_BTV, frames_B, _ = pair.network(*pair.inputs([samples]), FULL)
        assert logp_BTV.shape[:2] == (1, frames_B.item()) and features.frames(len(heard)) == frames_B.item() >= 1
        assert abs(frames_B.item() - length / features.samples_per_frame) < 1.26
    lengths = torch.tensor([400, 720, 16000]) * features.per_second // SECOND
    assert features.frames(lengths).tolist() == [features.frames(int(length)) for length in lengths]


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_moment_of_audio_gives_one_frame(pair: Pair, length: int) -> None:
    (logp_TV,) = pair.ours_says(noise(length))
    assert logp_TV.shape == (1, len(pair.tokenizer.tokens)) and logp_TV.isfinite().all()
    assert difference(logp_TV.exp().sum(-1), torch.ones(1)) < 1e-5
    together = pair.ours_says(noise(length, 8000))
    assert difference(together[0], logp_TV) < 1e-4 and together[1].isfinite().all()


def test_silence_is_finite(pair: Pair) -> None:
    assert all(logp_TV.isfinite().all() for logp_TV in pair.ours_says([np.zeros(n, np.float32) for n in (8000, 3000)]))


def test_features_are_equal_where_they_hear_alike(tmp_path: Path) -> None:
    variants = ("wavlm-base", "hubert-large", "parakeet")
    made = {variant: load_network(save_tiny(tmp_path / variant, variant))[0].features for variant in variants}
    again, _ = load_network(tmp_path / "wavlm-base")
    assert made["wavlm-base"] == again.features and hash(made["wavlm-base"]) == hash(again.features)
    assert made["wavlm-base"] == made["hubert-large"]  # the attention mask is no part of what is heard
    assert made["parakeet"] != made["wavlm-base"] != object()
    faster, _ = load_network(save_tiny(tmp_path / "faster", "wavlm-base", conv_stride=[5, 2, 2, 2, 2, 2, 1]))
    assert faster.features != made["wavlm-base"]
    change_extractor(tmp_path / "wavlm-base", do_normalize=False)
    quiet, _ = load_network(tmp_path / "wavlm-base")
    assert quiet.features != again.features
    with pytest.raises(UserError, match=r"a second \(do_normalize False, the student's True\); frames can only"):
        Reference.load(tmp_path / "wavlm-base").check_features(again)


def test_features_travel_to_workers(pair: Pair) -> None:
    (samples,) = noise(5000)
    arrived = pickle.loads(pickle.dumps(pair.network.features))
    assert arrived == pair.network.features and np.array_equal(arrived(samples), pair.network.features(samples))
    words = pickle.loads(pickle.dumps(pair.tokenizer))
    assert words.encode("low high") == pair.tokenizer.encode("low high")


# ------------------------------------------------------------------------------------------------------ tokenizer

TEXTS = ("low middle high", "hello", "higher", "she's all aboard", "a", "zoo keeper", "aa bb")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_ids(pair: Pair, text: str) -> None:
    ids = pair.tokenizer.encode(text)
    assert pair.tokenizer.decode(ids).lower() == text
    assert ids and 0 not in ids and max(ids) < len(pair.tokenizer.tokens)
    assert pair.tokenizer.decode([]) == ""


def test_tokens_that_are_no_text_are_left_out(pair: Pair) -> None:
    special = [pair.tokenizer.tokens.index(token) for token in pair.processor.tokenizer.all_special_tokens]
    assert len(special) >= 2
    ids = [i for text in ("hello", "low") for i in (*special, *pair.tokenizer.encode(text))]
    assert pair.tokenizer.decode(ids).lower().replace(" ", "") == "hellolow"


def test_capitals_are_written_where_the_vocabulary_has_only_these(pair: Pair) -> None:
    written = pair.tokenizer.decode(pair.tokenizer.encode("low high"))
    assert written == ("LOW HIGH" if pair.folder.name.endswith("base") else "low high")


@pytest.mark.parametrize("text", ["route 66", "naïve"])
def test_what_cannot_be_spelt_is_refused(pair: Pair, text: str) -> None:
    with pytest.raises(UserError, match=f"cannot spell '{text}'; its characters are .*[eE]") as problem:
        pair.tokenizer.encode(text)
    assert "\n" not in str(problem.value)


def test_the_blank_is_token_0_and_the_others_keep_their_order(pair: Pair) -> None:
    vocabulary = pair.processor.tokenizer.get_vocab()
    blank = pair.processor.tokenizer.pad_token
    assert pair.tokenizer.tokens[0] == blank and pair.tokenizer.blank == vocabulary[blank]
    assert pair.tokenizer.blank == (0 if pair.folder.name.endswith("base") else len(vocabulary) - 1)
    others = [vocabulary[token] for token in pair.tokenizer.tokens[1:]]
    assert all(a < b for a, b in pairwise(others)) and len(others) == len(vocabulary) - 1


def test_what_is_spelt_equals_the_library(pair: Pair) -> None:
    theirs = pair.processor.tokenizer
    for text in TEXTS:
        ids = theirs(text.upper() if pair.folder.name.endswith("base") else text).input_ids
        assert [theirs.convert_ids_to_tokens(i) for i in ids] == [
            pair.tokenizer.tokens[i] for i in pair.tokenizer.encode(text)
        ]


def test_the_best_path_reads_as_in_the_library(pair: Pair) -> None:
    """Their `batch_decode` of the best ids merges repeats and drops blanks by itself."""
    special = {pair.tokenizer.tokens.index(t) for t in pair.processor.tokenizer.all_special_tokens} - {0}
    ordinary = [i for i in range(len(pair.tokenizer.tokens)) if i not in special]
    ids = np.random.default_rng(0).choice(ordinary, 300).repeat(np.random.default_rng(1).integers(1, 4, 300)).tolist()
    their_ids = pair.processor.tokenizer.convert_tokens_to_ids([pair.tokenizer.tokens[i] for i in ids])
    (expected,) = pair.processor.batch_decode(torch.tensor([their_ids]), skip_special_tokens=True)
    assert pair.tokenizer.decode(greedy_ctc(ids)) == " ".join(expected.split())
