"""Facts that hold for every CTC model of the library: what is computed, what is left out, and what is stored."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC, Wav2Vec2Processor

from layerdial import load_model
from layerdial.config.network import HuggingFaceConfig
from layerdial.errors import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.huggingface import checkpoint
from layerdial.models.huggingface.ctc import HuggingFaceCTC
from layerdial.models.huggingface.families import FAMILIES, Family
from layerdial.models.prune import prune_model
from layerdial.subset import BlockSubset
from tiny import equal
from tiny_families import CASES, granite_without_torchaudio
from tiny_hf import LOWER, letters, save_tiny, tiny_model, tiny_processor, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),  # WavLM's own attention
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),  # LASR's own convolution
]


QUICK = ("sew", "wav2vec2-conformer", "wav2vec2-bert, adapted", "granite_speech5_ctc")
# variants of a family, with a comma in their names, are slow
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow if "," in name else pytest.mark.medium)
    for name in CASES
]
SUBSETS = [BlockSubset(4, kept) for depth in (1, 2, 3, 4) for kept in combinations(range(4), depth)]
FULL = BlockSubset.full(4)
# 12 x 160 + 400 samples are the fewest of which LASR makes a frame; lengths of an odd and an even number of frames
LENGTHS = (2320, 5200, 8080, 8400, 10240)


@dataclass
class Pair:
    """A checkpoint as our network and as the library's own model, in double precision."""

    name: str
    folder: Path
    network: HuggingFaceCTC
    tokenizer: Any
    theirs: Any
    processor: Any

    @property
    def always(self) -> int:
        """How many blocks halve time, and cannot be left out."""
        return CASES[self.name].always

    @property
    def family(self) -> Family:
        return FAMILIES[self.theirs.config.model_type]

    def inputs(self, *samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """A padded batch."""
        rows = [torch.from_numpy(self.network.features(one)).double() for one in samples]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def ours(self, *samples: np.ndarray, subset: BlockSubset = FULL) -> list[Tensor]:
        """Log-probabilities (T, V) of each utterance of a padded batch."""
        log_probs_BTV, frames_B, _ = self.network(*self.inputs(*samples), subset)
        return [row[:frames] for row, frames in zip(log_probs_BTV, frames_B.tolist(), strict=True)]

    def library(self, samples: np.ndarray) -> Tensor:
        """What the library's model makes (T, V) of what its own feature extractor made, the blank first."""
        made = self.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")
        cast = {name: value.double() if value.is_floating_point() else value for name, value in made.items()}
        if self.name == "wav2vec2-bert, adapted":  # its adapter would read the half frame that is masked
            cast = {name: value[:, : int(cast["attention_mask"].sum())] for name, value in cast.items()}
        logits_TV = self.theirs(**cast).logits[0]
        blank = self.tokenizer.blank
        ordered = torch.cat([logits_TV[:, [blank]], logits_TV[:, :blank], logits_TV[:, blank + 1 :]], 1)
        frames = self.network.features.frames(len(self.network.features(samples)))
        return ordered.log_softmax(-1)[:frames]  # Parakeet's extractor adds a frame, and masks it


@pytest.fixture(scope="module", autouse=True)
def granites_processor() -> Iterator[None]:
    with granite_without_torchaudio():
        yield


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = CASES[request.param].save(tmp_path_factory.mktemp("family") / "model")
    network, tokenizer = load_network(folder)
    assert isinstance(network, HuggingFaceCTC)
    theirs = AutoModelForCTC.from_pretrained(folder).eval().double()
    return Pair(request.param, folder, network.double(), tokenizer, theirs, checkpoint.load_processor(folder))


def noise(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# --------------------------------------------------------------------------------------------- the list of families


def test_every_ctc_class_of_the_library_has_a_row() -> None:
    classes = {name for name in dir(transformers) if name.endswith("ForCTC") and not name.startswith("Auto")}
    assert classes == {family.model for family in FAMILIES.values() if family.network}


def test_the_table_of_the_documentation_names_each_of_them() -> None:
    text = (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+ForCTC)` \| ([^|]+) \|", text, re.MULTILINE)
    wanted = [(family.model, family.name) for family in FAMILIES.values() if family.network]
    assert sorted((model, name.strip()) for model, name in rows) == sorted(wanted)


def test_every_family_is_tested() -> None:
    tested = {tiny_model(case.variant, **case.changes).config.model_type for case in CASES.values()}
    assert tested == {kind for kind, family in FAMILIES.items() if family.network}


# ----------------------------------------------------------------------------------------------------- computation


@torch.no_grad()
def test_all_blocks_equal_the_library(pair: Pair) -> None:
    for samples in noise(*LENGTHS):
        (ours,), theirs = pair.ours(samples), pair.library(samples)
        assert len(theirs) == 1 or theirs.std(0).max() > 0.1  # frames differ, so that equality says something
        assert difference(ours, theirs) < 1e-10


class LeftOut(nn.Module):
    """In the place of a block: its input. WavLM's block 0 also makes the position bias."""

    def __init__(self, block: nn.Module, wavlm: bool) -> None:
        super().__init__()
        self.block, self.wavlm = block, wavlm

    def forward(self, x_BTD: Tensor, *shared: Any, position_bias: Tensor | None = None, **rest: Any) -> Any:
        if not self.wavlm:
            return x_BTD
        if position_bias is None:
            attention: Any = self.block.attention
            position_bias = attention.compute_bias(x_BTD.shape[1], x_BTD.shape[1]).repeat(len(x_BTD), 1, 1)
        return x_BTD, position_bias


def library_without(pair: Pair, subset: BlockSubset, samples: np.ndarray) -> Tensor:
    """What the library makes with its own layers, those that are not kept replaced by their input."""
    parts = pair.family.parts
    every, always = list(parts.blocks_of(pair.theirs)), pair.always
    wavlm = pair.theirs.config.model_type == "wavlm"
    layers = [block if i < always or i - always in subset else LeftOut(block, wavlm) for i, block in enumerate(every)]
    parts.replace_blocks(pair.theirs, nn.ModuleList(layers))
    try:
        return pair.library(samples)
    finally:
        parts.replace_blocks(pair.theirs, nn.ModuleList(every))


@torch.no_grad()
def test_every_subset_equals_the_librarys_own_layers_without_the_others(pair: Pair) -> None:
    """In a padded batch, against the library on each utterance alone."""
    samples = noise(5200, 8400)
    for subset in SUBSETS:
        for ours, alone in zip(pair.ours(*samples, subset=subset), samples, strict=True):
            assert difference(ours, library_without(pair, subset, alone)) < 1e-10, subset.key


@torch.no_grad()
def test_every_block_matters(pair: Pair) -> None:
    (samples,) = noise(8400)
    (full,) = pair.ours(samples)
    assert all(difference(full, pair.ours(samples, subset=FULL.without(i))[0]) > 1e-2 for i in range(4))


@torch.no_grad()
@pytest.mark.parametrize("key", ["1111", "0110"])
def test_batch_1_equals_batch_n_and_a_wider_batch_changes_nothing(pair: Pair, key: str) -> None:
    samples, subset = noise(*LENGTHS, 8720, 8560), BlockSubset.from_key(key)
    inputs, lengths_B = pair.inputs(*samples)
    wider = nn.functional.pad(inputs, (*(0, 0) * (inputs.ndim - 2), 0, 5001 if inputs.ndim == 2 else 31))
    wide_BTV, frames_B, _ = pair.network(wider, lengths_B, subset)
    for i, (together, alone) in enumerate(zip(pair.ours(*samples, subset=subset), samples, strict=True)):
        (single,) = pair.ours(alone, subset=subset)
        assert difference(together, single) < 1e-10
        assert difference(wide_BTV[i, : frames_B[i]], single) < 1e-10


# of these, docs/hugging-face.md says why
READ_PADDING = {
    *("wav2vec2", "unispeech", "sew", "sew, not projected", "sew-d"),
    *("data2vec-audio", "wav2vec2-conformer", "wav2vec2-conformer, rotary"),
    *("wav2vec2, adapted", "wav2vec2-bert, adapted"),
}


@torch.no_grad()
def test_where_padding_changes_what_the_library_alone_computes(pair: Pair) -> None:
    inputs, lengths_B = pair.inputs(*noise(8400, 5680))
    mask_BT = torch.arange(inputs.shape[1]) < lengths_B[:, None]
    together_TV = pair.theirs(inputs, attention_mask=mask_BT.long()).logits[1]
    alone_TV = pair.theirs(inputs[1:, : lengths_B[1]], attention_mask=mask_BT[1:, : lengths_B[1]].long()).logits[0]
    changed = difference(together_TV[: len(alone_TV)], alone_TV) > 1e-6
    assert changed == (pair.name in READ_PADDING)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 399, 720, 1000])
def test_the_shortest_audio_makes_a_frame(pair: Pair, length: int) -> None:
    (alone,), (padded, _) = pair.ours(*noise(length)), pair.ours(*noise(length, 8000))
    assert len(alone) >= 1 and alone.isfinite().all() and difference(alone, padded) < 1e-10


@torch.no_grad()
def test_exits_are_passes_of_the_first_kept_blocks(pair: Pair) -> None:
    inputs, subset = pair.inputs(*noise(5200, 8400)), BlockSubset.from_key("1011")
    if pair.always:
        with pytest.raises(UserError, match="Granite Speech has no exits"):
            pair.network(*inputs, subset, exits=(1,))
        return
    last_BTV, frames_B, exits_BTV = pair.network(*inputs, subset, exits=(1, 2))
    passes = [pair.network(*inputs, BlockSubset(4, kept))[0] for kept in ((0,), (0, 2), (0, 2, 3))]
    for found, expected in zip([*exits_BTV, last_BTV], passes, strict=True):
        for i, frames in enumerate(frames_B.tolist()):
            assert torch.equal(found[i, :frames], expected[i, :frames])


# ------------------------------------------------------------------------------------------------------- training


def block_of(pair: Pair, name: str) -> int | None:
    """The number of the block that a parameter belongs to; none for other parts and for those that always run."""
    parts = pair.family.parts
    prefix = ".".join(filter(None, ("model", parts.base, parts.encoder, parts.blocks, "")))
    if not name.startswith(prefix + "."):
        return None
    index = int(name.removeprefix(prefix + ".").split(".")[0]) - pair.always
    return index if index >= 0 else None


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("key", ["0101", "1110"])
def test_kept_blocks_and_only_those_get_gradient(pair: Pair, key: str, checkpointing: bool) -> None:
    """And each is called, once: the library's own layer drop is off. A second call is for checkpointing."""
    subset, network = BlockSubset.from_key(key), copy.deepcopy(pair.network).train()
    network.prepare_training(HuggingFaceConfig(freeze_front_end=True, gradient_checkpointing=checkpointing))
    calls: Counter[int] = Counter()
    for i, block in enumerate(network.blocks):
        next(block.children()).register_forward_pre_hook(lambda *_, i=i: calls.update([i]))
    inputs, lengths_B = pair.inputs(*noise(8400, 5200))
    torch.manual_seed(0)  # of dropout
    log_probs_BTV, frames_B, _ = network(inputs, lengths_B, subset)
    real = [row[:frames] for row, frames in zip(log_probs_BTV, frames_B.tolist(), strict=True)]
    sum((row * torch.randn_like(row)).sum() for row in real).backward()  # type: ignore[union-attr]
    found = {block_of(pair, name) for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    table = {0} if pair.name == "wavlm" else set()  # of its position bias, among block 0's weights
    assert found - {None} == set(subset.kept) | table and None in found
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert set(calls) == set(subset.kept)
    assert all(p.grad is None for p in network.front_end.parameters())


def without_dropout(network: nn.Module) -> None:
    """Some modules of the library have dropouts as modules, others as numbers."""
    for module in network.modules():
        names = {"p", "drop_prob"} if isinstance(module, nn.Dropout) or hasattr(module, "drop_prob") else set()
        names |= {name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)}
        for name in names:
            setattr(module, name, 0.0)


def test_checkpointing_changes_no_gradient(pair: Pair) -> None:
    """Padding is masked when a block is computed again, too."""
    inputs, lengths_B = pair.inputs(*noise(8400, 5200))
    gradients = []
    for checkpointing in (False, True):
        network = copy.deepcopy(pair.network)
        without_dropout(network.train())
        network.prepare_training(HuggingFaceConfig(gradient_checkpointing=checkpointing))
        log_probs_BTV, frames_B, _ = network(inputs, lengths_B, FULL)
        sum(row[:n, 1].sum() for row, n in zip(log_probs_BTV, frames_B.tolist(), strict=True)).backward()  # type: ignore[union-attr]
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    assert all(difference(plain[name], again[name]) < 1e-9 for name in plain)


# ------------------------------------------------------------------------------------------------------- on disk


@torch.no_grad()
def test_it_is_saved_and_loaded_bit_for_bit(pair: Pair, tmp_path: Path) -> None:
    network, tokenizer = load_network(pair.folder)
    save_model(tmp_path / "out", network, tokenizer, {})
    plain, found = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values())
    assert equal(dict(plain.state_dict()), dict(AutoModelForCTC.from_pretrained(pair.folder).state_dict()))
    again, same = load_network(tmp_path / "out")
    assert same.tokens == tokenizer.tokens and again.features == network.features
    assert equal(dict(again.state_dict()), dict(network.state_dict()))


@torch.no_grad()
@pytest.mark.parametrize("depth", [2, 3])
def test_a_pruned_model_is_the_dynamic_one_at_that_depth(pair: Pair, tmp_path: Path, depth: int) -> None:
    folder = shutil.copytree(pair.folder, tmp_path / "model")
    keys = ["0010", "0101", "0111", "1111"]
    if pair.always:  # of eight blocks two always run; the middle stays in place for some subsets alone
        folder = CASES[pair.name].save(tmp_path / "longer", n_blocks=6)
        keys = ["000001", "000011", "000111", "100111", "101111", "111111"]
    rungs = tuple(Rung(depth, key, 0.0, 0.0, 0, 1) for depth, key in enumerate(keys, 1))
    Ladder(len(keys), "loss", "dev", 1, rungs).save(folder / "ladder.json")
    subset = prune_model(folder, tmp_path / "out", depth)
    dynamic, pruned = load_network(folder)[0].double(), load_network(tmp_path / "out")[0].double()
    assert pruned.n_blocks == depth < dynamic.n_blocks and subset.key == keys[depth - 1]
    inputs, lengths_B = pair.inputs(*noise(8400, 5200))
    expected_BTV, frames_B, _ = dynamic(inputs, lengths_B, subset)
    found_BTV, _, _ = pruned(inputs, lengths_B, BlockSubset.full(depth))
    plain, found = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values())
    theirs_BTV = plain.eval().double()(inputs[:1]).logits.log_softmax(-1)
    blank = pair.tokenizer.blank
    theirs_BTV = torch.cat([theirs_BTV[..., [blank]], theirs_BTV[..., :blank], theirs_BTV[..., blank + 1 :]], -1)
    for i, frames in enumerate(frames_B.tolist()):
        assert difference(found_BTV[i, :frames], expected_BTV[i, :frames]) < 1e-10
    assert difference(theirs_BTV[0, : frames_B[0]], expected_BTV[0, : frames_B[0]]) < 1e-10


# ------------------------------------------------------------------------------------------------------ languages

ENGLISH = ("<pad>", "<unk>", "|", *"'abcdefghijklmnopqrstuvwxyz")  # special tokens have the same ids in all languages
FRENCH = ("<pad>", "<unk>", "|", *"abcdefghilmnoprstuvé")


@pytest.fixture
def two_languages(tmp_path: Path) -> Path:
    """A folder as facebook/mms-1b-all: English in its weights, an adapter and a head of French beside them."""
    folder, changes = tmp_path / "mms", {"adapter_attn_dim": 4, "pad_token_id": 0}
    english = tiny_model("wav2vec2-large", vocab_size=len(ENGLISH), **changes)
    french = tiny_model("wav2vec2-large", seed=1, vocab_size=len(FRENCH), **changes)
    english.save_pretrained(folder)
    for language, model in (("eng", english), ("fra", french)):
        save_file(model._get_adapters(), folder / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    tokens = {"eng": ENGLISH, "fra": FRENCH}
    vocabulary = {language: {token: i for i, token in enumerate(row)} for language, row in tokens.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), target_lang="fra", bos_token=None, eos_token=None, pad_token="<pad>"
    )
    Wav2Vec2Processor(tiny_processor("wav2vec2-large").feature_extractor, tokenizer).save_pretrained(folder)
    return folder


def set_language(folder: Path, language: str | None) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_lang": language}))


@torch.no_grad()
def test_the_adapter_of_the_tokenizers_language_is_loaded(two_languages: Path) -> None:
    network, tokenizer = load_network(two_languages)
    theirs = Wav2Vec2ForCTC.from_pretrained(two_languages, target_lang="fra", ignore_mismatched_sizes=True).eval()
    (samples,) = noise(8000)
    inputs = torch.from_numpy(network.features(samples))[None]
    found, _, _ = network(inputs, torch.tensor([8000]), FULL)
    assert tokenizer.tokens == list(FRENCH)
    assert difference(found, theirs(inputs).logits.log_softmax(-1)) < 1e-5


@torch.no_grad()
def test_a_saved_model_has_the_language_in_its_weights(two_languages: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "out", *load_network(two_languages), {})
    assert not list((tmp_path / "out").glob("adapter.*"))
    prune_model(tmp_path / "out", tmp_path / "small", 2)
    for folder, depth in ((tmp_path / "out", 4), (tmp_path / "small", 2)):
        network, tokenizer = load_network(folder)
        assert tokenizer.tokens == list(FRENCH) and network.n_blocks == depth
        plain = AutoModelForCTC.from_pretrained(folder).eval()
        (samples,) = noise(8000)
        inputs = torch.from_numpy(network.features(samples))[None]
        found, _, _ = network(inputs, torch.tensor([8000]), BlockSubset.full(depth))
        assert difference(found, plain(inputs).logits.log_softmax(-1)) < 1e-5


@pytest.mark.parametrize("language", ["deu", None])
def test_a_language_without_adapter_is_said_in_one_line(two_languages: Path, language: str | None) -> None:
    set_language(two_languages, language)
    wanted = rf"has adapters for languages \(eng, fra\), and tokenizer_config.json has target_lang {language!r}; set it"
    with pytest.raises(UserError, match=wanted):
        load_network(two_languages)


def test_an_adapter_of_another_model_is_said_in_one_line(two_languages: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(20, 16)}, two_languages / "adapter.fra.safetensors")
    with pytest.raises(UserError, match=r"adapter\.fra\.safetensors is no adapter of this model \(.*missing keys"):
        load_network(two_languages)


def test_another_language_is_chosen_by_the_tokenizers_config(two_languages: Path) -> None:
    set_language(two_languages, "eng")
    assert load_network(two_languages)[1].tokens == list(ENGLISH)


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("sew_d-base", {"conv_kernel_size": 3}, "has conv_kernel_size, a convolution after block 0"),
        (
            "bert",
            {"add_adapter": True, "use_intermediate_ffn_before_adapter": True},
            "has use_intermediate_ffn_before_adapter, a feed-forward after the encoder",
        ),
        ("hubert-base", {"add_adapter": True}, "has add_adapter, which the library has no code for in HuBERT"),
        ("wav2vec2-base", {"add_adapter": True, "num_adapter_layers": 3}, "a frame of the model is 2560 samples"),
        ("granite", {"subsample_layers": [0, 5]}, r"last block halves time \(subsample_layers \[0, 5\] of 6 blocks\)"),
    ],
)
def test_what_cannot_be_made_dynamic_is_said_in_one_line(
    tmp_path: Path, variant: str, changes: dict[str, Any], message: str
) -> None:
    model = tiny_model(variant, **({} if variant.startswith(("sew", "hubert")) else changes))
    for key, value in changes.items():  # also those that the library has no code for
        setattr(getattr(model.config, "encoder_config", model.config), key, value)
    model.save_pretrained(tmp_path / "model")
    tiny_processor(variant).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=message) as problem:
        load_network(tmp_path / "model")
    assert "\n" not in str(problem.value)


def test_a_granite_model_whose_middle_would_move_is_not_pruned(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "granite")
    with pytest.raises(UserError, match=r"blocks 1000 have 3 blocks before the conditioned middle, .* have 1; ch"):
        prune_model(folder, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_granites_blocks_depend_on_the_vocabulary(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "granite")
    processor = Wav2Vec2Processor(tiny_processor("wavlm-base").feature_extractor, letters(LOWER))
    with pytest.raises(UserError, match="is Granite Speech, whose blocks depend on its vocabulary, so it gets no new"):
        checkpoint.with_new_head(folder, processor)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if family.from_scratch])
def test_the_others_are_made_with_random_weights_too(kind: str) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    front = {"conv_dim": [8] * 7, "conv_kernel": [10, *[3] * 4, 2, 2], "conv_stride": [5, *[2] * 6]}
    positions = {"num_conv_pos_embedding_groups": 4} | ({"num_feat_extract_layers": 7} if "sew" in kind else {})
    settings = {"model_type": kind, **size, **front, **positions}
    network, tokenizer = checkpoint.new_hugging_face(settings, tiny_processor("wavlm-base"))
    log_probs, frames_B, _ = network(torch.randn(1, 8000), torch.tensor([8000]), BlockSubset.from_key("01"))
    assert log_probs.shape == (1, int(frames_B), len(tokenizer.tokens)) and log_probs.isfinite().all()


@pytest.mark.parametrize("kind", ["wav2vec2-conformer", "wav2vec2-bert", "lasr_ctc", "granite_speech5_ctc"])
def test_models_with_batch_norm_or_features_of_their_own_are_not_trained_from_scratch(kind: str) -> None:
    with pytest.raises(UserError, match=f"{FAMILIES[kind].name} is not trained from scratch here"):
        checkpoint.new_hugging_face({"model_type": kind}, tiny_processor("wavlm-base"))


# ------------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize("text", ["5", "low é", "hello 5 times"])
def test_what_the_vocabulary_cannot_spell_is_refused(pair: Pair, text: str) -> None:
    with pytest.raises(UserError, match=f"cannot spell '{text}'"):
        pair.tokenizer.encode(text)
    assert pair.tokenizer.decode(pair.tokenizer.encode("she hears low")).lower() == "she hears low"


def test_it_transcribes(pair: Pair) -> None:
    """With its own features and tokenizer; random weights write nonsense."""
    text = load_model(pair.folder).transcribe(noise(48000)[0], depth=2).text
    assert text and set(text.lower()) <= set(" ".join(tiny_tokenizer(CASES[pair.name].variant).get_vocab()).lower())
