"""A pruned model is an ordinary smaller one that computes what the dynamic model computes with that subset."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCTC, AutoProcessor

from layerdial import load_model
from layerdial.errors import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.prune import prune_model
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from tiny import command, equal, in_child, noise, sentences, speak, tiny_network
from tiny_hf import save_tiny, variants

FULL = BlockSubset.full

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.fixture(
    scope="module", params=variants("wavlm-base", "wavlm-large", "wav2vec2-base", "hubert-large", "parakeet")
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every rung of its ladder but the last leaves block 0 out."""
    folder = save_tiny(tmp_path_factory.mktemp("prune") / request.param, request.param)
    write_ladder(folder, "0010", "0101", "0111", "1111")
    return folder


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("wavlm") / "wavlm", "wavlm-large")


def write_ladder(folder: Path, *keys: str) -> None:
    rungs = tuple(Rung(depth, key, 0.0, 0.0, 0, 1) for depth, key in enumerate(keys, 1))
    Ladder(len(keys), "loss", "dev", 1, rungs).save(folder / "ladder.json")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def hear(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded batch of noise."""
    generator = torch.Generator().manual_seed(0)
    longest = 9000 if network.features.takes_samples else 70
    shape = (2, longest) if network.features.takes_samples else (2, longest, 80)
    inputs, lengths_B = torch.randn(shape, generator=generator), torch.tensor([longest, longest // 2])
    inputs[1, longest // 2 :] = 0.0
    return inputs, lengths_B


# --------------------------------------------------------------------------------------------------- Hugging Face


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3])
def test_the_smaller_checkpoint_is_the_dynamic_model_at_that_depth(model: Path, tmp_path: Path, depth: int) -> None:
    subset = prune_model(model, tmp_path / "out", depth)
    assert subset.key == ("0010", "0101", "0111", "1111")[depth - 1]
    dynamic, pruned = load_network(model)[0], load_network(tmp_path / "out")[0]
    assert pruned.n_blocks == depth
    inputs, lengths_B = hear(dynamic)
    expected, frames_B, _ = dynamic(inputs, lengths_B, subset)
    for length, a, b in zip(frames_B.tolist(), expected, pruned(inputs, lengths_B, FULL(depth))[0], strict=True):
        assert torch.equal(a[:length], b[:length])


@torch.no_grad()
def test_plain_transformers_loads_it_and_computes_the_same(model: Path, tmp_path: Path) -> None:
    prune_model(model, tmp_path / "out", 2)
    plain, found = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values())  # nothing missing, nothing left over
    encoder = getattr(plain.base_model, "encoder", plain.base_model)
    assert len(encoder.layers) == 2 == encoder.config.num_hidden_layers
    dynamic, tokenizer = load_network(model)
    inputs, _ = hear(dynamic)
    theirs = plain.eval()(inputs).logits.log_softmax(-1)
    blank = tokenizer.blank  # type: ignore[attr-defined]
    theirs = torch.cat([theirs[..., [blank]], theirs[..., :blank], theirs[..., blank + 1 :]], -1)
    lengths_B = torch.full((2,), inputs.shape[1])
    assert (theirs - dynamic(inputs, lengths_B, BlockSubset.from_key("0101"))[0]).abs().max() < 1e-5


def test_it_transcribes_the_same_text_and_has_no_ladder(model: Path, tmp_path: Path) -> None:
    prune_model(model, tmp_path / "out", 3)
    samples = speak("low high middle")
    pruned = load_model(tmp_path / "out")
    text = load_model(model).transcribe(samples, depth=3).text
    assert pruned.transcribe(samples).text == text != ""
    assert pruned.ladder is None
    assert json.loads((tmp_path / "out" / "meta.json").read_text()) == {"pruned_from": str(model), "subset": "0111"}
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (model, tmp_path / "out"))
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    assert before.feature_extractor.to_dict() == after.feature_extractor.to_dict()


def test_its_weights_are_those_of_the_kept_blocks(model: Path, tmp_path: Path) -> None:
    prune_model(model, tmp_path / "out", 2)
    before, after = stored(model), stored(tmp_path / "out")
    for name, tensor in after.items():
        front, block, rest = re.fullmatch(r"((?:.*\.)?encoder\.layers\.)(\d)(\..*)|.*", name).groups()  # type: ignore
        moved = block and not rest.endswith("rel_attn_embed.weight")  # block 0's table stays with block 0
        assert torch.equal(tensor, before[front + {"0": "1", "1": "3"}[block] + rest if moved else name]), name
    assert {name for name in before if "encoder.layers." not in name} <= after.keys()


def test_without_a_ladder_the_blocks_are_spread_evenly(wavlm: Path, tmp_path: Path) -> None:
    assert prune_model(wavlm, tmp_path / "out", 2).key == "1001"
    assert prune_model(tmp_path / "out", tmp_path / "again", 1).key == "10"
    assert load_network(tmp_path / "again")[0].n_blocks == 1


def test_at_full_depth_nothing_changes(wavlm: Path, tmp_path: Path) -> None:
    prune_model(wavlm, tmp_path / "out", 4)
    assert equal(stored(wavlm), stored(tmp_path / "out"))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (wavlm, tmp_path / "out"))
    assert before == after  # the library's own layer drop too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", ["wavlm-base", "parakeet"])
def test_half_precision_stays(tmp_path: Path, variant: str, dtype: torch.dtype) -> None:
    folder = save_tiny(tmp_path / "model", variant)
    half = AutoModelForCTC.from_pretrained(folder, dtype=dtype)
    half.save_pretrained(folder)
    prune_model(folder, tmp_path / "out", 2)
    before, after = stored(folder), stored(tmp_path / "out")
    assert {t.dtype for n, t in after.items() if "num_batches" not in n} == {dtype}
    assert all(tensor.dtype == before[name].dtype for name, tensor in after.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


# ------------------------------------------------------------------------------------------------------ Conformer


@torch.no_grad()
@pytest.mark.parametrize("rule", [{}, {"block_norm": True}], ids=["", "block_norm"])
def test_a_conformer_is_pruned_too(tmp_path: Path, rule: dict[str, Any]) -> None:
    network = tiny_network(**rule)
    save_model(tmp_path / "model", network, build_tokenizer("word", ["a b c d e f"]), {})
    write_ladder(tmp_path / "model", "0010", "0101", "0111", "1111")
    assert prune_model(tmp_path / "model", tmp_path / "out", 2).key == "0101"
    pruned, tokenizer = load_network(tmp_path / "out")
    assert pruned.n_blocks == 2 and len(tokenizer.tokens) == 7
    batch = noise([61, 40])
    assert torch.equal(pruned(*batch, FULL(2))[0], network(*batch, BlockSubset.from_key("0101"))[0])


def test_a_pruned_conformer_hears_what_it_heard(learnt: Path, tmp_path: Path) -> None:
    ended = command("prune", learnt, tmp_path / "out", "--depth", 2)
    assert ended.code == 0, ended.err
    assert f"model: {tmp_path / 'out'} (blocks 0, 2 of 3)" in ended.out
    dynamic, pruned = load_model(learnt), load_model(tmp_path / "out")
    assert pruned.n_blocks == 2
    for seed, text in enumerate(sentences(3, seed=9)):
        samples = speak(text, seed)
        assert pruned.transcribe(samples).text == dynamic.transcribe(samples, depth=2).text == text


def test_a_conformer_that_keeps_norms_of_dropped_blocks_is_refused(tmp_path: Path) -> None:
    network = tiny_network(block_norm=True, skip="norm")
    save_model(tmp_path / "model", network, build_tokenizer("word", ["a b c d e f"]), {})
    with pytest.raises(UserError, match=r"keeps the final norm of dropped blocks \(skip: norm\)"):
        prune_model(tmp_path / "model", tmp_path / "out", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    prune_model(tmp_path / "model", tmp_path / "out", 4)
    assert equal(stored(tmp_path / "model"), stored(tmp_path / "out"))


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("depth", [0, 5, -1])
def test_a_depth_that_does_not_exist_is_refused(wavlm: Path, tmp_path: Path, depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} does not exist in an encoder of 4 blocks; choose 1 to 4"):
        prune_model(wavlm, tmp_path / "out", depth)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken_is_refused(wavlm: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        ended = command("prune", wavlm, tmp_path / name, "--depth", 2)
        assert ended.code == 2 and not ended.out
        assert ended.err == f"layerdial: {tmp_path / name} exists already; choose another folder\n"
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "folder").iterdir())


def test_a_damaged_model_or_ladder_is_refused(wavlm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(wavlm, tmp_path / "model")
    write_ladder(folder, "01", "11")
    with pytest.raises(UserError, match=r"ladder\.json is for 2 blocks, this model has 4"):
        prune_model(folder, tmp_path / "out", 2)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="its weights cannot be read"):
        prune_model(folder, tmp_path / "out", 2)
    with pytest.raises(UserError, match="nowhere is not a model folder"):
        prune_model(tmp_path / "nowhere", tmp_path / "out", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["wavlm", "conformer"])
def test_a_full_disk_leaves_nothing_half_written(wavlm: Path, learnt: Path, tmp_path: Path, kind: str) -> None:
    def on_a_full_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises((UserError, OSError)) as problem:
            prune_model(wavlm if kind == "wavlm" else learnt, tmp_path / "out", 2)
        print(problem.value)

    ended = in_child(on_a_full_disk)
    assert ended.code == 0, ended.err
    assert "too large" in ended.out and not list(tmp_path.iterdir())
