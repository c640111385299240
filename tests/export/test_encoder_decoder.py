"""Exported Whisper: logits and texts are those of torch at every depth, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.export.export import export_model
from layerdial.export.quality import quantised
from layerdial.export.writer import Traced, write_folder
from layerdial.models.huggingface.whisper_decoding import TorchEncoded
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import DECODER, ENCODER, Manifest
from layerdial.subset import BlockSubset
from layerdial.text.byte_level import ByteTable
from layerdial.text.prompt import DecoderUse
from tiny import command
from tiny_whisper import EVERY_SUBSET, FULL, LENGTHS, N_BLOCKS, Pair, samples, save_whisper, traced_student

pytest_plugins = ["tiny_whisper_edge"]

LABELS = np.array([[3, 4, 10, 11], [1, 11, 0, 0], [5, 6, 7, 11]])
CLOSE = 1e-4


@pytest.fixture(scope="session")
def traced(folders: Path) -> Traced:
    return traced_student(folders)


def torch_log_probs(pair: Pair, batch: FeatureBatch, subset: BlockSubset) -> NDArray[np.float32]:
    inputs, lengths_B = torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B)
    with torch.inference_mode():
        output = pair.network(inputs, lengths_B, subset, (), torch.from_numpy(LABELS[: len(batch.ids)]))
    return output.log_probs_BTV.numpy()  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------ logits


@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_every_subset_equals_torch(pair: Pair, subset: BlockSubset) -> None:
    batch = pair.batch(*LENGTHS)
    found = pair.session.posteriors(batch.inputs, batch.lengths_B, subset, LABELS)
    np.testing.assert_allclose(found, torch_log_probs(pair, batch, subset), atol=CLOSE)


def test_an_utterance_does_not_depend_on_the_others_in_its_batch(pair: Pair) -> None:
    batch = pair.batch(*LENGTHS)
    together = pair.session.posteriors(batch.inputs, batch.lengths_B, FULL, LABELS)
    for row, length in enumerate(LENGTHS):
        one = pair.batch(length)
        alone = pair.session.posteriors(one.inputs, one.lengths_B, FULL, LABELS[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=CLOSE)


@pytest.mark.parametrize("length", [1, 160, 480000])
def test_audio_of_any_length_equals_torch(pair: Pair, length: int) -> None:
    batch = pair.batch(length)
    found = pair.session.posteriors(batch.inputs, batch.lengths_B, FULL, LABELS[:1])
    np.testing.assert_allclose(found, torch_log_probs(pair, batch, FULL), atol=CLOSE)


@pytest.mark.parametrize("blocks", ["11", "01", "10"])
def test_steps_with_cached_keys_equal_torch_with_any_blocks_of_the_decoder(pair: Pair, blocks: str) -> None:
    use, batch = DecoderUse(pair.network.decoder_use.prompt, BlockSubset.from_key(blocks)), pair.batch(*LENGTHS)
    with torch.no_grad():
        memory, _ = pair.network.encode(torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B), FULL)
    ours = pair.session.encode(batch.inputs, batch.lengths_B, FULL, use).begin()
    theirs = TorchEncoded(pair.network, memory, use).begin()
    tokens_BU = np.tile(np.array(use.prompt), (3, 1))
    for u in range(LABELS.shape[1]):
        np.testing.assert_allclose(ours.next(tokens_BU), theirs.next(tokens_BU), atol=CLOSE)
        tokens_BU = LABELS[:, u : u + 1]


def test_the_manifest_says_how_close_each_depth_is(pair: Pair) -> None:
    assert [row.depth for row in pair.onnx.manifest.parity] == [1, 2, 3, 4]
    assert all(row.largest_difference < CLOSE for row in pair.onnx.manifest.parity)


# ------------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "wishes", [{}, {"decoder_depth": 1}, {"beams": 3}, {"hotwords": ["abc d"], "beams": 2}], ids=str
)
def test_the_text_is_that_of_torch_at_every_depth(pair: Pair, depth: int, wishes: dict[str, Any]) -> None:
    request = Request(depth=depth, **wishes)
    for length in LENGTHS[:2]:
        ours, theirs = (model.answer(samples(length), request) for model in (pair.onnx, pair.torch))
        assert (ours.text, ours.subset, ours.seconds) == (theirs.text, theirs.subset, theirs.seconds)
        assert ours.text


def test_a_batch_gives_the_texts_of_its_utterances(pair: Pair) -> None:
    for subset in (FULL, BlockSubset.from_key("1001")):
        batch = pair.batch(*LENGTHS)
        assert pair.onnx.recognize(batch, subset) == pair.torch.recognize(batch, subset)
        assert pair.onnx.transcribe_batch([samples(n) for n in LENGTHS], subset=subset) == [
            pair.torch.recognize(pair.batch(n), subset)[0] for n in LENGTHS
        ]


def test_long_audio_is_transcribed_piece_by_piece(pair: Pair) -> None:
    audio = np.tile(samples(16000), 45)
    ours, theirs = (model.transcribe(audio, depth=1) for model in (pair.onnx, pair.torch))
    assert ours.text == theirs.text and ours.seconds == theirs.seconds
    both = zip(ours.chunks, theirs.chunks, strict=True)
    assert all((a.start, a.end, a.subset, a.reason) == (b.start, b.end, b.subset, b.reason) for a, b in both)


@pytest.mark.parametrize("level", [0.0, 3e-6])
def test_silence_has_no_text(pair: Pair, level: float) -> None:
    quiet = np.random.default_rng(0).normal(0.0, level, 16000).astype(np.float32)
    assert pair.onnx.transcribe(quiet).text == ""
    batch = collate_features(["", ""], [pair.onnx.features(x) for x in (quiet, samples(9000))], ["", ""], 1.0)
    first, second = pair.onnx.recognize(batch, FULL)
    assert not first and second


def test_the_command_transcribes_with_an_export(folders: Path, pair: Pair, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", samples(16000), 16000, subtype="FLOAT")
    for model in ("edge", "model"):
        ended = command("transcribe", folders / model, tmp_path / "a.wav", "--depth", "3", "--decoder-depth", "1")
        assert (
            ended.code == 0
            and ended.out.strip() == pair.onnx.answer(samples(16000), Request(depth=3, decoder_depth=1)).text
        )


@pytest.mark.slow  # another model to trace
def test_the_padded_input_of_a_published_checkpoint_and_its_languages(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "hf", max_source_positions=1500)
    settings = json.loads((folder / "generation_config.json").read_text())
    made = {"is_multilingual": True, "language": "de", "task": "translate"}
    (folder / "generation_config.json").write_text(json.dumps(settings | made))
    export_model(folder, tmp_path / "edge")
    both = Recognizer(tmp_path / "edge", threads=1), load_torch_model(folder)
    texts = set()
    for request in (Request(), Request(language="en", depth=2), Request(task="transcribe")):
        ours, theirs = (model.answer(samples(16000), request).text for model in both)
        assert ours == theirs
        texts.add(ours)
    assert len(texts) > 1
    with pytest.raises(UserError, match=r"no <\|xx\|>"):
        both[0].answer(samples(16000), Request(language="xx"))


# -------------------------------------------------------------------------------------------------------- timestamps


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_timestamps_are_those_of_torch(pair: Pair, depth: int, beams: int) -> None:
    request = Request(depth, beams=beams, timestamps=True)
    for audio in (samples(16000), samples(7000), np.tile(samples(16000), 45)):
        ours, theirs = (model.answer(audio, request) for model in (pair.onnx, pair.torch))
        assert (ours.text, ours.segments) == (theirs.text, theirs.segments)
        assert [(chunk.start, chunk.end) for chunk in ours.chunks] == [(c.start, c.end) for c in theirs.chunks]
        letters = "".join(segment.text for segment in ours.segments).replace(" ", "")
        assert ours.text.replace(" ", "") == letters != ""
        times = [time for segment in ours.segments for time in (segment.start, segment.end)]
        assert times == sorted(times) and 0 <= times[0] <= 1.0 and times[-1] <= ours.seconds


def test_the_command_writes_a_line_a_segment(folders: Path, pair: Pair, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", samples(16000), 16000, subtype="FLOAT")
    expected = pair.onnx.answer(samples(16000), Request(timestamps=True)).segments
    for model in ("edge", "model"):
        words = ("transcribe", folders / model, tmp_path / "a.wav", "--timestamps")
        ended = command(*words)
        assert ended.out.splitlines() == [f"[{one.start:.2f} --> {one.end:.2f}] {one.text}" for one in expected]
        rows = json.loads(command(*words, "--json").out)["segments"]
        assert [row["text"] for row in rows] == [one.text for one in expected]
        assert [(row["start"], row["end"]) for row in rows] == [
            (round(one.start, 3), round(one.end, 3)) for one in expected
        ]
    assert "segments" not in json.loads(command("transcribe", folders / "edge", tmp_path / "a.wav", "--json").out)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(decoder_depth=3), "depth 3 does not exist"),
        (Request(language="de"), "knows English alone"),
        (Request(depth=5), "depth 5 does not exist"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_the_model_cannot_do_is_refused(pair: Pair, request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pair.onnx.answer(samples(16000), request_)


def test_more_audio_than_the_encoder_takes_is_refused(pair: Pair) -> None:
    with pytest.raises(UserError, match="3001 frames of log-mel; the encoder takes up to 3000"):
        pair.session.encode(np.zeros((1, 3001, 80), np.float32), np.array([3001]), FULL)


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_a_graph_that_is_missing_or_of_another_export_is_refused(folders: Path, tmp_path: Path, name: str) -> None:
    edge = shutil.copytree(folders / "edge", tmp_path / "edge")
    model = ir.load(edge / name)
    model.metadata_props["layerdial.model_id"] = "another"
    ir.save(model, edge / name)
    with pytest.raises(UserError, match=f"{name} and manifest.json are not from one export"):
        Recognizer(edge)
    (edge / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist"):
        Recognizer(edge)


def test_a_damaged_record_of_the_decoder_is_refused(folders: Path, tmp_path: Path) -> None:
    edge = shutil.copytree(folders / "edge", tmp_path / "edge")
    stored = json.loads((edge / "manifest.json").read_text())
    for name, value in (("prompt", []), ("suppressed", ["a"]), ("n_heads", 0), ("end", None)):
        changed = stored | {"decoder": stored["decoder"] | {name: value}}
        (edge / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"manifest\.json"):
            Recognizer(edge)


# --------------------------------------------------------------------------------------------------------- the folder


def test_every_block_is_a_branch_and_weights_are_stored_once(folders: Path, pair: Pair) -> None:
    graphs = [ir.load(folders / "edge" / name).graph for name in (ENCODER, DECODER)]
    choices = [[node for node in graph if node.op_type == "If"] for graph in graphs]
    assert [len(found) for found in choices] == [N_BLOCKS + 2, 2]
    outside = [sum(node.op_type == "MatMul" for node in graph) for graph in graphs]
    assert outside == [0, 1]  # the output layer
    for choice in (choice for found in choices for choice in found):
        assert any(node.op_type == "MatMul" for node in choice.attributes["then_branch"].as_graph())
        assert not any(node.op_type == "MatMul" for node in choice.attributes["else_branch"].as_graph())
    stored = sum(value.const_value.size for graph in graphs for value in graph.initializers.values())
    parameters = sum(p.numel() for p in pair.network.parameters())
    assert parameters <= stored < 1.02 * parameters


def test_the_command_says_size_and_difference(folders: Path) -> None:
    said = (folders / "said.txt").read_text()
    size = sum(file.stat().st_size for file in (folders / "edge").glob("*.onnx")) / 1e6
    assert f"(float32, {size:.1f} MB, 4 blocks)" in said and "within" in said
    assert Manifest.load(folders / "edge").licence == "MIT"


def test_it_runs_without_torch_and_transformers(folders: Path, tmp_path: Path, pair: Pair) -> None:
    soundfile.write(tmp_path / "a.wav", samples(16000), 16000, subtype="FLOAT")
    code = (
        "import sys\n"
        "from layerdial.runtime import Recognizer\n"
        "print(Recognizer(sys.argv[1], threads=1).transcribe(sys.argv[2], depth=2).text)\n"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'lhotse'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(folders / "edge"), str(tmp_path / "a.wav")]
    text, heavy = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert text == pair.onnx.transcribe(samples(16000), depth=2).text and heavy == "[]"


def test_tokens_spell_what_the_library_spells(pair: Pair) -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        ids = random.integers(0, len(pair.onnx.tokenizer.tokens), 12).tolist()
        assert pair.onnx.tokenizer.decode(ids) == pair.torch.tokenizer.decode(ids)


def test_bytes_of_a_character_may_be_of_several_tokens() -> None:
    table = ByteTable(["Ã", "¤", "Ġgut", "<|endoftext|>"], end=3)
    assert table.decode([0, 1, 2, 3]) == "ä gut" and table.decode([0, 2]) == "\ufffd gut"


# ---------------------------------------------------------------------------------------------------------- precision


def test_half_precision_halves_the_weights(folders: Path, tmp_path: Path, pair: Pair, traced: Traced) -> None:
    from layerdial.export.precision import to_float16

    assert traced.decoder is not None
    halves = to_float16(traced.model), to_float16(traced.decoder)
    manifest = write_folder(tmp_path / "half", traced, halves[0], traced.manifest, decoder=halves[1])
    assert all(row.largest_difference < 0.05 for row in manifest.parity)
    half, whole = (
        sum(f.stat().st_size for f in place.glob("*.onnx")) for place in (tmp_path / "half", folders / "edge")
    )
    assert half < whole
    assert Recognizer(tmp_path / "half", threads=1).transcribe(samples(16000)).seconds == 1.0


def test_int8_reaches_into_the_branches_and_the_embeddings(tmp_path: Path, pair: Pair, traced: Traced) -> None:
    graphs = quantised(traced, float_blocks=(0, N_BLOCKS))  # a block of the encoder, and one of the decoder
    counts = [[products(choice) for choice in graph.graph if choice.op_type == "If"] for graph in graphs if graph]
    assert counts == [[0, 6, 6, 6, 0, 2], [0, 8]]
    _, decoder = graphs
    assert decoder is not None
    tables = [value for value in decoder.graph.initializers.values() if value.shape == ir.Shape([47, 16])]
    assert [value.dtype for value in tables] == [ir.DataType.INT8]
    write_folder(tmp_path / "int8", traced, *graphs[:1], traced.manifest, compared=False, decoder=decoder)
    small, batch = Recognizer(tmp_path / "int8", threads=1), pair.batch(16000)
    found = small.session.posteriors(batch.inputs, batch.lengths_B, FULL, LABELS[:1])
    np.testing.assert_allclose(found, torch_log_probs(pair, batch, FULL), atol=0.5)


def products(choice: ir.Node) -> int:
    return sum(node.op_type == "MatMulInteger" for node in choice.attributes["then_branch"].as_graph())
