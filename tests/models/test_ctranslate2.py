"""A Whisper model of CTranslate2 becomes a Hugging Face folder; what cannot become one is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from layerdial.errors import UserError
from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2
from real_models import MODELS, SHARED, real_clip, real_model
from tiny import command
from tiny_ctranslate2 import SPECIAL, TOKENS, Weights, ctranslate2_weights, tiny_whisper, write_ctranslate2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_ctranslate2(tmp_path / "ct2", ctranslate2_weights(tiny_whisper()))


def logits(model: WhisperForConditionalGeneration) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(2, model.config.num_mel_bins, 50, generator=generator)
    with torch.no_grad():
        return model(input_features=mel, decoder_input_ids=torch.tensor([[12, 13, 16], [12, 14, 3]])).logits


@pytest.mark.parametrize("n_mels", [80, 128])
def test_logits_equal_those_of_the_model_that_was_written(tmp_path: Path, n_mels: int) -> None:
    model = tiny_whisper(n_mels)
    convert_ctranslate2(write_ctranslate2(tmp_path / "ct2", ctranslate2_weights(model)), tmp_path / "hf")
    loaded, report = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(logits(loaded), logits(model))


def test_half_precision_stays_on_disk_and_computes_in_float32(tmp_path: Path) -> None:
    weights = {name: x.astype(np.float16) if x.ndim else x for name, x in ctranslate2_weights(tiny_whisper()).items()}
    convert_ctranslate2(write_ctranslate2(tmp_path / "ct2", weights), tmp_path / "hf")
    assert {x.dtype for x in load_file(tmp_path / "hf" / "model.safetensors").values()} == {torch.float16}
    assert WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").dtype == torch.float32


def test_what_generate_needs_is_there(folder: Path, tmp_path: Path) -> None:
    convert_ctranslate2(folder, tmp_path / "hf")
    settings = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").generation_config
    assert settings.suppress_tokens == [1, 2] and settings.begin_suppress_tokens == [8, 11]
    assert settings.decoder_start_token_id == TOKENS.index("<|startoftranscript|>")
    assert settings.no_timestamps_token_id == TOKENS.index("<|notimestamps|>")
    assert settings.eos_token_id == TOKENS.index("<|endoftext|>") and settings.alignment_heads == [[0, 1]]
    assert settings.max_length == 20 and not settings.is_multilingual  # OpenAI's rule: below 51,865 tokens
    assert WhisperFeatureExtractor.from_pretrained(tmp_path / "hf").feature_size == 80


def test_the_tokenizer_knows_every_token(folder: Path, tmp_path: Path) -> None:
    convert_ctranslate2(folder, tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.convert_ids_to_tokens(range(len(TOKENS))) == TOKENS and len(tokenizer) == len(TOKENS)
    ids = tokenizer("ab hab", add_special_tokens=False).input_ids
    assert [TOKENS[i] for i in ids] == ["ab", "Ġ", "h", "ab"] and tokenizer.decode(ids) == "ab hab"
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)


def test_a_vocabulary_as_a_list_is_the_same(folder: Path, tmp_path: Path) -> None:
    convert_ctranslate2(folder, tmp_path / "lines")
    (folder / "vocabulary.txt").unlink()
    (folder / "vocabulary.json").write_text(json.dumps(TOKENS))
    convert_ctranslate2(folder, tmp_path / "listed")
    tokenizers = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("lines", "listed")]
    assert tokenizers[0] == tokenizers[1]


def test_the_command(folder: Path, tmp_path: Path) -> None:
    ended = command("convert", "ctranslate2", folder, tmp_path / "hf")
    assert ended.code == 0, ended.err
    assert "2 encoder blocks, 1 decoder blocks, width 8, 80 mel bins" in ended.out
    again = command("convert", "ctranslate2", folder, tmp_path / "hf")
    assert again.code == 2 and again.err.count("\n") == 1 and "exists already" in again.err


# ------------------------------------------------------------------------------------------------------ bad input


def int8(weights: Weights) -> None:
    name = "encoder/layer_0/ffn/linear_0/weight"
    weights[name], weights[name + "_scale"] = weights[name].astype(np.int8), np.ones(12, np.float32)


def without_a_norm(weights: Weights) -> None:
    del weights["decoder/layer_0/attention/layer_norm/beta"]


def of_another_width(weights: Weights) -> None:
    weights["encoder/layer_1/ffn/layer_norm/beta"] = np.zeros(9, np.float32)


def with_a_stranger(weights: Weights) -> None:
    weights["encoder/layer_0/self_attention/relative_position_keys"] = np.zeros((3, 3), np.float32)


def with_biased_keys(weights: Weights) -> None:
    weights["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(24, np.float32)


def of_three_and_a_bit(weights: Weights) -> None:
    weights["encoder/layer_0/self_attention/linear_0/weight"] = np.zeros((25, 8), np.float32)


def with_relu(weights: Weights) -> None:
    weights["decoder/activation"] = np.array(0, np.int8)


def of_three_heads(weights: Weights) -> None:
    weights["decoder/num_heads"] = np.array(3, np.int16)


def without_decoder(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("decoder/")]:
        del weights[name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (int8, "float32, int8, which have lost precision"),
        (without_a_norm, "model.decoder.layers.0.encoder_attn_layer_norm.bias has shape None"),
        (of_another_width, "has shape \\(9,\\), \\(8,\\) was expected"),
        (with_a_stranger, "relative_position_keys, which OpenAI's Whisper has not"),
        (with_biased_keys, "has a bias for keys"),
        (of_three_and_a_bit, "cannot be cut into 3 equal parts"),
        (with_relu, "decoder/activation is 0, in OpenAI's Whisper it is 3"),
        (of_three_heads, "decoder/num_heads is 3, which does not divide the width 8"),
        (without_decoder, "has no decoder/embeddings/weight"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path: Path, change: Callable[[Weights], None], said: str) -> None:
    weights = ctranslate2_weights(tiny_whisper())
    change(weights)
    folder = write_ctranslate2(tmp_path / "ct2", weights)
    with pytest.raises(UserError, match=said) as raised:
        convert_ctranslate2(folder, tmp_path / "hf")
    assert "\n" not in str(raised.value) and not (tmp_path / "hf").exists()


def test_another_model_and_another_version_are_refused(tmp_path: Path) -> None:
    weights = ctranslate2_weights(tiny_whisper())
    other = write_ctranslate2(tmp_path / "other", weights, spec="TransformerSpec")
    ended = command("convert", "ctranslate2", other, tmp_path / "hf")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "holds a TransformerSpec" in ended.err
    with pytest.raises(UserError, match="it begins with 99"):
        convert_ctranslate2(write_ctranslate2(tmp_path / "newer", weights, version=99), tmp_path / "hf")


def test_a_file_cut_anywhere_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.bin").read_bytes()
    for size in {0, 1, 5, 30, *range(100, len(whole), len(whole) // 50), len(whole) - 1}:
        (folder / "model.bin").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short"):
            convert_ctranslate2(folder, tmp_path / "hf")
    (folder / "model.bin").write_bytes(whole + b"x")
    with pytest.raises(UserError, match="1 bytes behind its end"):
        convert_ctranslate2(folder, tmp_path / "hf")


def test_changed_bytes_end_in_one_line_or_in_a_model(folder: Path, tmp_path: Path) -> None:
    whole, rng = (folder / "model.bin").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        damaged = bytearray(whole[:2000]), whole[2000:]
        damaged[0][rng.integers(0, 2000)] = rng.integers(0, 256)
        (folder / "model.bin").write_bytes(bytes(damaged[0]) + damaged[1])
        try:
            convert_ctranslate2(folder, tmp_path / "hf")
            shutil.rmtree(tmp_path / "hf")
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 2  # most bytes are weights, of which nothing can be said


@pytest.mark.parametrize("missing", ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"])
def test_a_missing_part_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing.replace(".", r"\.")):
        convert_ctranslate2(folder, tmp_path / "hf")


def test_parts_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    vocabulary = folder / "vocabulary.txt"
    vocabulary.write_text("\n".join(TOKENS[:-1]))
    with pytest.raises(UserError, match=f"has {len(TOKENS) - 1} tokens, the weights are for {len(TOKENS)}"):
        convert_ctranslate2(folder, tmp_path / "hf")
    vocabulary.write_text("\n".join(["x" if token == "<|notimestamps|>" else token for token in TOKENS]))
    with pytest.raises(UserError, match=r"no <\|notimestamps\|>"):
        convert_ctranslate2(folder, tmp_path / "hf")
    vocabulary.write_text("\n".join(TOKENS))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}, "merges": []}}))
    with pytest.raises(UserError, match="do not belong together"):
        convert_ctranslate2(folder, tmp_path / "hf")
    for model in ([], {"vocab": {"a": 0}, "merges": ["x y"]}, {"vocab": {"a": "b"}, "merges": []}, {"vocab": 1}):
        (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
        with pytest.raises(UserError, match=r"is not the tokenizer\.json of a Whisper model"):
            convert_ctranslate2(folder, tmp_path / "hf")
    for notes in ([], {"suppress_ids": 1}, {"suppress_ids": ["a"]}, {"alignment_heads": [[1, 2, 3]]}):
        (folder / "config.json").write_text(json.dumps(notes))
        with pytest.raises(UserError, match=r"is not the config\.json of a CTranslate2 Whisper model"):
            convert_ctranslate2(folder, tmp_path / "hf")


# ------------------------------------------------------------------------------------------------------ real models


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_real_models_have_the_encoders_that_are_handed_out_and_transcribe(tmp_path: Path, name: str) -> None:
    encoder, clip = SHARED / "models" / f"whisper-{name}-encoder", real_clip()
    if not encoder.is_dir():
        pytest.skip(f"{encoder} is missing")
    convert_ctranslate2(real_model(name, tmp_path / "ct2"), tmp_path / "hf")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", encoder))
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf")
    processor = WhisperProcessor.from_pretrained(tmp_path / "hf")
    samples, rate = soundfile.read(clip, dtype="float32")
    mel = processor(samples, sampling_rate=rate, return_tensors="pt").input_features
    text = processor.batch_decode(model.generate(mel), skip_special_tokens=True)[0]
    assert "sincere and massive virtues on account of which" in text


@pytest.mark.slow
def test_faster_whisper_reads_what_is_written_here(tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    model = tiny_whisper()
    folder = write_ctranslate2(tmp_path / "ct2", ctranslate2_weights(model))
    mel = torch.randn(1, 80, 50, generator=torch.Generator().manual_seed(1))
    encoded = ctranslate2.models.Whisper(str(folder), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(mel.numpy())
    )
    with torch.no_grad():
        expected = model.model.encoder(mel).last_hidden_state
    assert np.allclose(np.array(encoded), expected.numpy(), atol=1e-4)
