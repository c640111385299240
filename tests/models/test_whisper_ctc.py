"""Whisper's encoder under a CTC head equals the library's own layers, whichever blocks run, also as an export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor, WhisperModel

from layerdial import load_model
from layerdial.errors import UserError
from layerdial.export.export import export_model
from layerdial.models.checkpoint import load_network
from layerdial.models.cost import subset_cost
from layerdial.models.huggingface.checkpoint import with_ctc_head
from layerdial.models.huggingface.whisper_ctc import WhisperCTC
from layerdial.models.prune import prune_model
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import BpeTokenizer, build_tokenizer
from layerdial.utils.rows import read_rows
from tiny import command, equal, sentences, speak
from tiny_whisper import (
    EVERY_SUBSET,
    FULL,
    LENGTHS,
    N_BLOCKS,
    save_encoder,
    save_whisper,
    save_whisper_ctc,
    write_spoken,
)

SUBSETS = pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper_ctc(tmp_path_factory.mktemp("whisper") / "ctc")


@pytest.fixture
def network(folder: Path) -> WhisperCTC:
    return ctc(folder)


def ctc(folder: Path) -> WhisperCTC:
    network, _ = load_network(folder)
    assert isinstance(network, WhisperCTC)
    return network


def samples(length: int) -> NDArray[np.float32]:
    return np.random.default_rng(length).normal(0.0, 0.1, length).astype(np.float32)


def batch_of(network: WhisperCTC, *lengths: int) -> FeatureBatch:
    names = [str(n) for n in lengths]
    return collate_features(names, [network.features(samples(n)) for n in lengths], names, 1.0)


def tensors(network: WhisperCTC, *lengths: int) -> tuple[Tensor, Tensor]:
    batch = batch_of(network, *lengths)
    return torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B)


def classified(folder: Path, states_BTD: Tensor) -> Tensor:
    """Log-probabilities by the head that is stored in a folder."""
    stored = load_file(folder / "model.safetensors")
    return F.linear(states_BTD, stored["ctc_head.weight"], stored["ctc_head.bias"]).log_softmax(dim=-1)


# ----------------------------------------------------------------------------------------------------- the network


@torch.no_grad()
def test_all_blocks_on_the_longest_input_equal_the_librarys_encoder(folder: Path, network: WhisperCTC) -> None:
    inputs = torch.randn(2, 300, 80, generator=torch.Generator().manual_seed(0))
    theirs = WhisperModel.from_pretrained(folder).encoder.eval()
    expected = classified(folder, theirs(inputs.transpose(1, 2)).last_hidden_state)
    found, frames_B, _ = network(inputs, torch.tensor([300, 300]), FULL)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert frames_B.tolist() == [150, 150] and found.shape[2] == 7


@torch.no_grad()
@SUBSETS
def test_every_subset_equals_the_librarys_own_layers(folder: Path, network: WhisperCTC, subset: BlockSubset) -> None:
    theirs = WhisperModel.from_pretrained(folder).encoder.eval()
    inputs, lengths_B = tensors(network, 16000)
    x_BTD = F.gelu(theirs.conv2(F.gelu(theirs.conv1(inputs.transpose(1, 2))))).transpose(1, 2)
    x_BTD = x_BTD + theirs.embed_positions.weight[: x_BTD.shape[1]]
    for i in subset.kept:
        x_BTD = theirs.layers[i](x_BTD, None)
    expected = classified(folder, theirs.layer_norm(x_BTD))
    torch.testing.assert_close(network(inputs, lengths_B, subset)[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_utterance_does_not_depend_on_the_others_in_its_batch(network: WhisperCTC) -> None:
    together, frames_B, exits_BTV = network(*tensors(network, *LENGTHS), FULL, (1,))
    for row, length in enumerate(LENGTHS):
        alone, (frames,), (exit_BTV,) = network(*tensors(network, length), FULL, (1,))
        assert frames == frames_B[row] == alone.shape[1]
        torch.testing.assert_close(together[row, :frames], alone[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(exits_BTV[0][row, :frames], exit_BTV[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_in_the_batch_may_hold_anything(network: WhisperCTC) -> None:
    inputs, lengths_B = tensors(network, *LENGTHS)
    expected, frames_B, _ = network(inputs, lengths_B, FULL)
    for row, length in enumerate(lengths_B.tolist()):
        inputs[row, length:] = 7.0
    for found, before, frames in zip(network(inputs, lengths_B, FULL)[0], expected, frames_B.tolist(), strict=True):
        torch.testing.assert_close(found[:frames], before[:frames])


@torch.no_grad()
def test_the_exit_after_n_blocks_is_the_network_of_these_blocks(network: WhisperCTC) -> None:
    inputs, lengths_B = tensors(network, *LENGTHS)
    exits = network(inputs, lengths_B, BlockSubset(N_BLOCKS, (0, 2, 3)), (1, 2)).exits_BTV
    for exit_BTV, kept in zip(exits, ((0,), (0, 2)), strict=True):
        alone = network(inputs, lengths_B, BlockSubset(N_BLOCKS, kept)).log_probs_BTV
        torch.testing.assert_close(exit_BTV, alone, atol=1e-5, rtol=1e-5)


def test_only_kept_blocks_get_gradients(network: WhisperCTC) -> None:
    network(*tensors(network, *LENGTHS), BlockSubset.from_key("1010")).log_probs_BTV.sum().backward()
    has = [any(p.grad is not None for p in block.parameters()) for block in network.blocks]
    assert has == [True, False, True, False]


def test_each_block_costs_as_much_and_there_is_no_decoder(network: WhisperCTC) -> None:
    costs = [subset_cost(network, BlockSubset.even(N_BLOCKS, depth), seconds=2.0) for depth in (1, 2, 3, 4)]
    steps = np.diff([cost.macs_per_second for cost in costs])
    assert np.allclose(steps, steps[0]) and steps[0] > 0
    assert costs[-1].parameters == sum(p.numel() for p in network.parameters())
    assert not any("decoder" in name for name, _ in network.named_parameters())


def test_audio_above_the_positions_of_the_encoder_is_refused(network: WhisperCTC) -> None:
    with pytest.raises(UserError, match="takes up to 300"):
        network(torch.zeros(1, 301, 80), torch.tensor([301]), FULL)


# --------------------------------------------------------------------------------------------------------- folders


def test_the_decoder_of_a_whole_checkpoint_is_left_out(tmp_path: Path) -> None:
    tokenizer = build_tokenizer("char", ["ab"])
    states = []
    for folder in (save_whisper(tmp_path / "hf"), save_encoder(tmp_path / "encoder")):
        torch.manual_seed(0)
        states.append(with_ctc_head(folder, tokenizer)[0].state_dict())
    assert equal(*states)


def test_a_folder_loads_as_it_was_saved(folder: Path, network: WhisperCTC, tmp_path: Path) -> None:
    network.save(tmp_path)
    assert equal(load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors"))
    assert {file.name for file in folder.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "tokens.txt", "meta.json")
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["WhisperForCTC"] and config["vocab_size"] == 7
    ids = [config[f"{name}_token_id"] for name in ("pad", "bos", "eos", "decoder_start")]
    assert all(i is None or i < 7 for i in ids)  # or the library warns in every command


def test_a_new_head_is_random_also_where_the_folder_has_one(folder: Path) -> None:
    other, tokenizer = with_ctc_head(folder, build_tokenizer("char", ["bcdef"]))
    before, after = ctc(folder).state_dict(), other.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.ctc_head.weight",
        "model.ctc_head.bias",
    }
    assert tokenizer.tokens == ["<blk>", *"bcdef", "▁"]


def test_pieces_of_words_are_stored_with_their_model(tmp_path: Path) -> None:
    from layerdial.models.checkpoint import save_model

    network, tokenizer = with_ctc_head(
        save_encoder(tmp_path / "encoder"), build_tokenizer("bpe", ["ab abd abgh abd"], 10)
    )
    save_model(tmp_path / "ctc", network, tokenizer, {})
    stored, read = load_network(tmp_path / "ctc")
    assert isinstance(read, BpeTokenizer) and read.tokens == tokenizer.tokens
    assert equal(stored.state_dict(), network.state_dict())


def test_parts_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = save_whisper_ctc(tmp_path / "ctc")
    tokens = (copy / "tokens.txt").read_text()
    (copy / "tokens.txt").write_text(tokens + "x 7\n")
    with pytest.raises(UserError, match=r"tokens\.txt has 8 tokens, the model 7"):
        load_network(copy)
    (copy / "tokens.txt").write_text(tokens)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(copy)
    with pytest.raises(UserError, match="feature_size 128, its encoder takes 80"):
        load_network(copy)


def test_pruning_equals_dropping(folder: Path, network: WhisperCTC, tmp_path: Path) -> None:
    subset = prune_model(folder, tmp_path / "small", depth=2)
    small = ctc(tmp_path / "small")
    inputs, lengths_B = tensors(network, *LENGTHS)
    with torch.no_grad():
        expected, found = network(inputs, lengths_B, subset)[0], small(inputs, lengths_B, BlockSubset.full(2))[0]
    assert torch.equal(found, expected)


# -------------------------------------------------------------------------------------------------------- commands


def test_all_commands_that_measure_take_it(tmp_path: Path) -> None:
    cuts = write_spoken(tmp_path / "few.cuts.jsonl.gz", 2)
    model = save_whisper_ctc(tmp_path / "model", max_source_positions=1500)  # timings are of ten seconds
    assert command("search", model, cuts).code == 0 and (model / "ladder.json").is_file()
    ended = command("sweep", model, cuts, "--depths", "1,4", "--out", tmp_path / "sweep")
    assert ended.code == 0, ended.err
    rows = read_rows(tmp_path / "sweep" / "sweep.jsonl")
    assert [row["depth"] for row in rows] == [1, 4] and rows[0]["macs_per_second"] < rows[1]["macs_per_second"]


def test_options_of_a_decoder_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="decoder_depth"):
        load_model(folder).answer(samples(16000), Request(decoder_depth=2))


# ---------------------------------------------------------------------------------------------------------- export


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with positions for 30 s, and its export."""
    place = tmp_path_factory.mktemp("edge")
    folder = save_whisper_ctc(place / "ctc", max_source_positions=1500)
    export_model(folder, place / "edge")
    return folder, place / "edge"


@pytest.mark.medium
@pytest.mark.parametrize("lengths", [[9000], [30000, 9000, 500], [1], [480_000, 1234]], ids=str)
def test_the_graph_equals_torch_at_every_subset(exported: tuple[Path, Path], lengths: list[int]) -> None:
    network, session = ctc(exported[0]), Recognizer(exported[1], threads=1).session
    batch = batch_of(network, *lengths)
    for subset in EVERY_SUBSET:
        ours_BTV, frames_B = session.posteriors(batch.inputs, batch.lengths_B, subset)
        with torch.inference_mode():
            theirs_BTV, expected_B, _ = network(
                torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B), subset
            )
        assert frames_B.tolist() == expected_B.tolist()
        for ours, theirs, frames in zip(ours_BTV, theirs_BTV.numpy(), frames_B, strict=True):
            np.testing.assert_allclose(ours[:frames], theirs[:frames], atol=1e-4)


@pytest.mark.medium
def test_the_manifest_says_how_close_each_depth_is_and_what_it_costs(exported: tuple[Path, Path]) -> None:
    manifest = Manifest.load(exported[1])
    assert [row.depth for row in manifest.parity] == [1, 2, 3, 4]
    assert all(row.largest_difference < 1e-4 for row in manifest.parity)
    assert manifest.family == "WhisperCTC" and manifest.features == {"kind": "whisper-mel", "n_mels": 80}
    for depth in (1, 3):
        subset = BlockSubset.even(N_BLOCKS, depth)
        ours, counted = manifest.costs.of(subset), subset_cost(ctc(exported[0]), subset)
        assert ours.parameters == counted.parameters
        assert ours.macs_per_second == pytest.approx(counted.macs_per_second)


@pytest.mark.medium
def test_the_text_is_that_of_torch_at_every_depth_also_of_long_audio(exported: tuple[Path, Path]) -> None:
    torchs, ours = load_model(exported[0]), Recognizer(exported[1], threads=1)
    long = np.concatenate([speak(text, i) for i, text in enumerate(sentences(40))])[: 36 * 16000]
    written = []
    for depth in (1, 2, 3, 4):
        for audio in (samples(30000), samples(500), long):
            found = ours.transcribe(audio, depth=depth)
            assert found.text == torchs.transcribe(audio, depth=depth).text
            written.append(found.text)
    assert len(found.chunks) == 2 and len("".join(written)) > 100


@pytest.mark.medium
def test_a_device_needs_neither_torch_nor_transformers(exported: tuple[Path, Path], tmp_path: Path) -> None:
    audio = tmp_path / "samples.npy"
    np.save(audio, samples(30000))
    code = """
import sys
sys.modules.update(torch=None, transformers=None)
import numpy
from layerdial.runtime import Recognizer
print(Recognizer(sys.argv[1], threads=1).transcribe(numpy.load(sys.argv[2]), depth=2).text)
"""
    called = [sys.executable, "-c", code, str(exported[1]), str(audio)]
    ended = subprocess.run(called, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == load_model(exported[0]).transcribe(samples(30000), depth=2).text != ""


@pytest.mark.medium
def test_sherpa_onnx_is_refused_in_one_line(exported: tuple[Path, Path], tmp_path: Path) -> None:
    from layerdial.export.sherpa import write_sherpa_folder
    from tiny_export import traced_again

    with pytest.raises(UserError, match="no CTC loader for Whisper's log-mel"):
        write_sherpa_folder(tmp_path / "out", traced_again(*exported), 2, "float32")
    assert not (tmp_path / "out").exists()
