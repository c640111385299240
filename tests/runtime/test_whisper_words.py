"""Words of a tiny random Whisper: those of torch and of the export are the same, in order, within the audio."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import soundfile
import torch

from layerdial.errors import UserError
from layerdial.models.huggingface.whisper_attention import alignment_heads
from layerdial.models.huggingface.whisper_decoding import TorchEncoded
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import DECODER, Manifest
from layerdial.text.cross_attention import mean_attention
from layerdial.text.token_fallback import decode_once
from layerdial.transcript import Transcript
from tiny import command
from tiny_whisper import N_BLOCKS, Pair, samples, save_whisper

pytest_plugins = ["tiny_whisper_edge"]

AUDIO = samples(33123)
LONG = np.tile(samples(16000), 45)


def spans(made: Transcript) -> list[tuple[str, float, float]]:
    return [(word.text, round(word.start, 6), round(word.end, 6)) for word in made.words]


def check_order(made: Transcript) -> None:
    times = [time for word in made.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= made.seconds
    assert all(0 < word.confidence <= 1 for word in made.words)
    assert "".join(word.text for word in made.words) == made.text.replace(" ", "")


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "request_",
    [Request(depth, words=True) for depth in range(1, N_BLOCKS + 1)]
    + [Request(words=True, **more) for more in ({"beams": 3}, {"timestamps": True}, {"decoder_depth": 1})],  # type: ignore[arg-type]
    ids=str,
)
@pytest.mark.parametrize("audio", [AUDIO, samples(1700), LONG[: 40 * 16000]], ids=len)
def test_words_are_those_of_torch_in_order_and_the_whole_text(pair: Pair, request_: Request, audio: Any) -> None:
    ours, theirs = pair.onnx.answer(audio, request_), pair.torch.answer(audio, request_)
    assert ours.words and spans(ours) == spans(theirs)
    confidence = [[word.confidence for word in made.words] for made in (ours, theirs)]
    np.testing.assert_allclose(*confidence, rtol=1e-3)
    check_order(ours)
    assert ours.text == pair.onnx.answer(audio, replace(request_, words=None)).text


def test_pieces_of_long_audio_have_their_words_in_their_own_time(pair: Pair) -> None:
    made = pair.onnx.answer(LONG, Request(words=True))
    (first, second) = made.chunks
    assert any(word.end <= first.end for word in made.words) and any(word.start >= second.start for word in made.words)
    check_order(made)


def test_without_the_request_there_are_none(pair: Pair) -> None:
    assert pair.onnx.answer(AUDIO, Request()).words == pair.torch.answer(AUDIO, Request(words=False)).words == ()


def test_silence_has_no_words(pair: Pair) -> None:
    silence = np.zeros(16000, np.float32)
    assert pair.onnx.answer(silence, Request(words=True)).words == ()
    assert pair.torch.answer(silence, Request(words=True)).words == ()


def test_words_go_with_constraints(pair: Pair) -> None:
    for wishes in ({"deadline_ms": 1e9}, {"target_rtf": 1e6}, {"max_cpu": 1e6}, {"confidence": 0.0}):
        check_order(pair.onnx.answer(AUDIO, Request(**wishes, words=True)))  # type: ignore[arg-type]


def test_what_a_greedy_search_notes_is_what_another_run_over_its_text_gives(pair: Pair) -> None:
    """Otherwise texts of beams, which are run over again, would have other times."""
    use = pair.session.default_use().for_request(
        Request(words=True), pair.onnx.tokenizer.tokens, False, pair.session.facts.alignment_heads
    )
    inputs = pair.onnx.features(AUDIO)
    encoded = pair.session.encode(inputs[None], np.array([len(inputs)]), pair.onnx.subset(), use)
    rules = pair.onnx.decoding.rules
    noted = decode_once(encoded, 2.07, rules, 1)
    steps = encoded.begin()
    steps.next(np.array([[*encoded.prompt, *noted.tokens]]))
    before = encoded.begin()
    for token in (*encoded.prompt, *noted.tokens):
        before.next(np.array([[token]]))
    np.testing.assert_allclose(steps.queries(), before.queries(), atol=1e-4)
    assert len(noted.spoken) == len(noted.logps) == len(noted.tokens)
    assert all(one.end == other.start for one, other in pairwise(noted.spoken))


# ---------------------------------------------------------------------------------------------------------- attention


def test_attention_is_that_of_transformers(tmp_path: Path) -> None:
    """On input that is padded to the length that the library takes, by its eager attention."""
    model = load_torch_model(save_whisper(tmp_path / "model"))
    network: Any = model.network
    use = replace(network.decoder_use, heads=((0, 1), (1, 0), (1, 1)))
    batch = torch.from_numpy(model.features(samples(16000))[None])
    tokens = [*use.prompt, 0, 1, 2]
    with torch.inference_mode():
        memory, _ = network.encode(batch, torch.tensor([batch.shape[1]]), model.subset())
        encoded = TorchEncoded(network, memory, use)
        steps = encoded.begin()
        steps.next(np.array([tokens[:2]]))
        steps.next(np.array([tokens[2:]]))
        found_UT = mean_attention(steps.queries(), encoded.keys())
        from transformers import WhisperForConditionalGeneration

        library: Any = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model", attn_implementation="eager")
        output = library(
            decoder_input_ids=torch.tensor([tokens]),
            encoder_outputs=(memory.states_BTD,),
            output_attentions=True,
        )
    expected_UT = np.mean([output.cross_attentions[block][0, head].numpy() for block, head in use.heads], axis=0)
    np.testing.assert_allclose(found_UT, expected_UT, atol=1e-5)


def test_heads_are_those_of_the_checkpoint_else_of_the_last_half_of_the_blocks(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_torch_model(Path(pair.torch.name)).network.model
    settings: Any = model.generation_config
    settings.alignment_heads = [[0, 1], [1, 0]]
    assert alignment_heads(model) == ((0, 1), (1, 0))
    settings.alignment_heads = None
    assert alignment_heads(model) == ((1, 0), (1, 1)) and not caplog.records
    settings.alignment_heads = [[0, 1], [7, 0]]
    assert alignment_heads(model) == ((1, 0), (1, 1))
    assert "those of another decoder" in caplog.text


# ------------------------------------------------------------------------------------------------------------ refusals


def test_words_come_from_the_heads_in_blocks_that_run(pair: Pair) -> None:
    tokens, use = pair.onnx.tokenizer.tokens, pair.session.default_use()
    both = use.for_request(Request(words=True), tokens, False, ((0, 1), (1, 0)))
    assert both.heads == ((0, 1), (1, 0)) and use.heads == ()
    first = Request(words=True, decoder_depth=1)
    assert use.for_request(first, tokens, False, ((0, 1), (1, 0))).heads == ((0, 1),)
    with pytest.raises(UserError, match=r"words: their times come from blocks 1 of .* decoder_depth 1; give more"):
        use.for_request(first, tokens, False, ((1, 0), (1, 1)))


def test_words_of_a_translation_are_refused(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"is_multilingual": True}))
    model = load_torch_model(folder)
    assert model.answer(AUDIO, Request(words=True, language="de")).words
    with pytest.raises(UserError, match="words: a translation does not follow the audio"):
        model.answer(AUDIO, Request(words=True, language="de", task="translate"))


def old_export(folder: Path, out: Path) -> Path:
    """Write an export as earlier versions made it: its decoder gives no queries."""
    shutil.copytree(folder / "edge", out)
    graph = ir.load(out / DECODER)
    for value in [value for value in graph.graph.outputs if (value.name or "").startswith("queries_")]:
        graph.graph.outputs.remove(value)
    ir.save(graph, out / DECODER)
    manifest = Manifest.load(out)
    assert manifest.decoder is not None
    replace(manifest, decoder=replace(manifest.decoder, alignment_heads=()), sha256={}).save(out)
    stored = json.loads((out / "manifest.json").read_text())
    del stored["decoder"]["alignment_heads"], stored["checksum"]
    (out / "manifest.json").write_text(json.dumps(stored))
    return out


def test_an_export_of_an_earlier_version_runs_and_refuses_words_in_one_line(
    folders: Path, pair: Pair, tmp_path: Path
) -> None:
    old = old_export(folders, tmp_path / "old")
    assert Recognizer(old, threads=1).transcribe(AUDIO).text == pair.onnx.transcribe(AUDIO).text
    soundfile.write(tmp_path / "a.wav", AUDIO, 16000)
    ended = command("transcribe", old, tmp_path / "a.wav", "--words")
    assert ended.code == 2 and ended.out == ""
    assert ended.err.count("\n") == 1 and "exported by an earlier version, without their times; export it" in ended.err


def test_heads_that_a_decoder_does_not_have_are_a_damaged_manifest(folders: Path, tmp_path: Path) -> None:
    edge = shutil.copytree(folders / "edge", tmp_path / "edge")
    stored = json.loads((edge / "manifest.json").read_text())
    stored["decoder"]["alignment_heads"] = [[9, 0]]
    (edge / "manifest.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="alignment head"):
        Recognizer(edge)


# ------------------------------------------------------------------------------------------------------- command lines


def test_the_command_prints_a_line_for_each_word_or_json(folders: Path, pair: Pair, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", AUDIO, 16000, subtype="FLOAT")
    words = pair.onnx.answer(AUDIO, Request(words=True)).words
    ended = command("transcribe", folders / "edge", tmp_path / "a.wav", "--words")
    assert ended.out.splitlines() == [f"[{word.start:.2f} --> {word.end:.2f}] {word.text}" for word in words]
    ended = command("transcribe", folders / "edge", tmp_path / "a.wav", "--words", "--json")
    assert json.loads(ended.out)["words"] == [
        {
            "word": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 3),
        }
        for word in words
    ]
