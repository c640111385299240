"""Hugging Face checkpoints on disk: they come and go bit for bit, and what does not fit is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    BertConfig,
    ProcessorMixin,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from layerdial import load_model
from layerdial.errors import UserError
from layerdial.models.checkpoint import fingerprint, load_network, save_model
from layerdial.subset import BlockSubset
from tiny import command, equal, speak
from tiny_hf import LOWER, UPPER, letters, save_tiny, tiny_model, tiny_processor, variants

Harm = Callable[[Path], object]


@pytest.fixture(scope="module", params=variants())
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("original") / request.param, request.param)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("wavlm") / "wavlm", "wavlm-base")


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("parakeet") / "parakeet", "parakeet")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def change(file: Path, *path: str, **changes: Any) -> None:
    """Set keys of a JSON file, or of the object at `path` within."""
    config = json.loads(file.read_text())
    inner = config
    for key in path:
        inner = inner[key]
    inner.update(changes)
    file.write_text(json.dumps(config))


# ----------------------------------------------------------------------------------------------------- round trip


@pytest.fixture(scope="module")
def copied(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint after it has been our network."""
    folder = tmp_path_factory.mktemp("copied") / original.name
    save_model(folder, *load_network(original), {"made": "here"})
    return folder


def test_weights_come_back_bit_for_bit_under_their_names(original: Path, copied: Path) -> None:
    assert equal(stored(original), stored(copied))
    ours, theirs = load_network(copied)[0], AutoModelForCTC.from_pretrained(copied)
    assert equal(dict(AutoModelForCTC.from_pretrained(original).state_dict()), dict(theirs.state_dict()))
    assert equal({f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}, dict(ours.state_dict()))


def test_the_config_stays_but_for_the_layer_drop(original: Path, copied: Path) -> None:
    """Which is switched off. (And the library notes a precision in an inner config.)"""
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (original, copied))
    for settings in (before, after):
        inner = settings.pop("encoder_config", {})
        inner.pop("dtype", None)
        settings |= inner
    assert after.pop("layerdrop") == 0.0 != before.pop("layerdrop")
    assert after == before
    assert json.loads((copied / "meta.json").read_text()) == {"made": "here"}


def test_the_processor_travels_along(original: Path, copied: Path) -> None:
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (original, copied))
    assert type(before) is type(after)
    assert before.feature_extractor.to_dict() == after.feature_extractor.to_dict()
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    text = "HELLO HIGHER LOW" if original.name.endswith("base") else "hello higher low"
    ids = before.tokenizer(text).input_ids
    assert after.tokenizer(text).input_ids == ids
    assert after.tokenizer.decode(ids, group_tokens=False) == before.tokenizer.decode(ids, group_tokens=False) == text


# -------------------------------------------------------------------------------------- what the hub's files are like


def in_half(folder: Path) -> None:
    model = AutoModelForCTC.from_pretrained(folder, dtype=torch.float16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)


def in_shards(folder: Path) -> None:
    model = AutoModelForCTC.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2


def with_names_of_old(folder: Path) -> None:
    """As facebook/wav2vec2-base-960h stores its positional convolution."""
    new = "conv.parametrizations.weight.original"
    weights = {
        name.replace(f"{new}0", "conv.weight_g").replace(f"{new}1", "conv.weight_v"): tensor
        for name, tensor in stored(folder).items()
    }
    assert weights.keys() != stored(folder).keys()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(stored(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_the_mask(folder: Path) -> None:
    without("wavlm.masked_spec_embed")(folder)


def with_an_old_preprocessor(folder: Path) -> None:
    """Until its version 5 the library wrote the feature extractor into a file of its own."""
    config = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(config["feature_extractor"]))


@pytest.mark.medium
@pytest.mark.parametrize(
    "rewrite", [in_half, in_shards, with_names_of_old, pickled, without_the_mask, with_an_old_preprocessor]
)
def test_other_ways_to_store_a_checkpoint_are_read(wavlm: Path, tmp_path: Path, rewrite: Harm) -> None:
    folder = shutil.copytree(wavlm, tmp_path / "model")
    rewrite(folder)
    network, tokenizer = load_network(folder)
    expected, same_tokenizer = load_network(wavlm)
    assert tokenizer.tokens == same_tokenizer.tokens and network.features == expected.features
    half = rewrite is in_half
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        if not name.endswith("masked_spec_embed"):
            wanted = expected.state_dict()[name]
            assert torch.equal(tensor, wanted.half().float() if half else wanted), name
    assert (fingerprint(folder) == fingerprint(wavlm)) == (rewrite is with_an_old_preprocessor)


def test_tokens_beyond_the_head_are_left_out(tmp_path: Path) -> None:
    """The library adds <s> and </s> to a vocabulary without them, behind the outputs that the head has."""
    tokens = [token for token in UPPER if token not in ("<s>", "</s>")]
    processor = Wav2Vec2Processor(tiny_processor("wavlm-base").feature_extractor, letters(tokens))
    assert len(processor.tokenizer) == len(tokens) + 2
    tiny_model("wavlm-base", vocab_size=len(tokens)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    network, tokenizer = load_network(tmp_path)
    assert tokenizer.tokens == tokens and tokenizer.decode(tokenizer.encode("hello higher")) == "HELLO HIGHER"
    log_probs, _, _ = network(torch.randn(1, 8000), torch.tensor([8000]), BlockSubset.full(4))
    assert log_probs.shape[-1] == len(tokens)


# --------------------------------------------------------------------------------------------- what does not fit


def config(**changes: Any) -> Harm:
    return lambda folder: change(folder / "config.json", **changes)


def extractor(**changes: Any) -> Harm:
    return lambda folder: change(folder / "processor_config.json", "feature_extractor", **changes)


def without(*names: str) -> Harm:
    """Without these weights."""

    def harm(folder: Path) -> None:
        kept = {name: tensor for name, tensor in stored(folder).items() if name not in names}
        assert len(kept) == len(stored(folder)) - len(names)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return harm


def removed(*files: str) -> Harm:
    return lambda folder: [(folder / file).unlink() for file in files]


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_tokens(folder: Path) -> None:
    tiny_processor("wavlm-base" if folder.name == "parakeet" else "parakeet").save_pretrained(folder)


def no_padding_token(folder: Path) -> None:
    processor = tiny_processor("wavlm-base")
    processor.tokenizer.pad_token = None
    processor.save_pretrained(folder)


def pretrained(folder: Path) -> None:
    """The encoder alone, as microsoft/wavlm-base has it, but with a tokenizer."""
    (folder / "model.safetensors").unlink()
    tiny_model("wavlm-base").base_model.save_pretrained(folder)


def t5(folder: Path) -> None:
    shutil.rmtree(folder)
    settings = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(settings).save_pretrained(folder)


def whisper(folder: Path) -> None:
    """With a tokenizer that is not Whisper's."""
    shutil.rmtree(folder)
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
    size = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
    settings = WhisperConfig(d_model=8, vocab_size=3, max_source_positions=9, max_target_positions=9, **size, **ends)
    WhisperForConditionalGeneration(settings).save_pretrained(folder)
    tokenizer = WhisperTokenizer(vocab={"<|endoftext|>": 0, "a": 1, "b": 2}, merges=[])
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)


def bert(folder: Path) -> None:
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(folder)


WHAT_IS_READ = r"layerdial reads CTC models \(WavLM, wav2vec2, .*, Parakeet, .*\) and Whisper"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (other_tokens, "its head has 32 outputs, its tokenizer 53 tokens; they do not belong together"),
        (no_padding_token, "has no padding token, which is the blank|its tokenizer 3. tokens"),
        (config(vocab_size=40), r"lm_head\.\w+ has shape \(32,.*\), its config\.json asks for \(40,"),
        (config(hidden_size=32), r"has shape \(.*16.*\), its config\.json asks for \(.*32"),
        (config(num_hidden_layers=5), r"lacks \d+ weights, the first wavlm\.encoder\.layers\.4\."),
        (
            without("wavlm.encoder.layers.2.attention.k_proj.weight"),
            "lacks 1 weights, .*2.attention.k_proj.weight; copy",
        ),
        (without("lm_head.weight", "lm_head.bias"), r"has no CTC head \(lm_head\.\w+ is missing\); .*train"),
        (pretrained, r"has no CTC head \(lm_head\.\w+ is missing\); .*train"),
        (t5, f"holds T5ForConditionalGeneration, an encoder-decoder model; {WHAT_IS_READ}"),
        (whisper, r"the model's vocabulary has no <\|startoftranscript\|>"),
        (bert, f"holds .*, of type bert; {WHAT_IS_READ}"),
        (
            config(model_type="nonsense"),
            r"is no config of a known model \(.*`nonsense`.*\); CTC models \(WavLM, ",
        ),
        (config(add_adapter=True), r"lacks \d+ weights, the first wavlm\.adapter\.layers\.0"),
        (extractor(sampling_rate=8000), "the model takes 8000 Hz; layerdial gives 16000 Hz"),
        (removed("vocab.json", "tokenizer_config.json"), "has no processor .*comes with .*tokenizer"),
        (removed("vocab.json"), "has no processor .*comes with .*tokenizer"),
        (removed("processor_config.json"), r"has no processor .*comes with preprocessor_config\.json"),
        (removed("model.safetensors"), r"its weights cannot be read: .*model\.safetensors"),
        (removed("config.json"), r"not a model folder: it has no config\.json"),
        (cut_short, "its weights cannot be read: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "its weights cannot be read: "),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not valid JSON"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "has no processor that can be read"),
        (lambda folder: (folder / "processor_config.json").write_text("{"), "has no processor that can be read"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(wavlm: Path, tmp_path: Path, harm: Harm, message: str) -> None:
    folder = shutil.copytree(wavlm, tmp_path / "model")
    harm(folder)
    with pytest.raises(UserError, match=message) as problem:
        load_network(folder)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (other_tokens, "its head has 53 outputs, its tokenizer 32 tokens"),
        (config(vocab_size=60), r"ctc_head\.\w+ has shape \(53,.*\), its config\.json asks for \(60,"),
        (without("ctc_head.weight", "ctc_head.bias"), r"has no CTC head \(ctc_head\.\w+ is missing\)"),
        (without("encoder.layers.1.conv.norm.running_mean"), r"lacks 1 weights, the first encoder\.layers\.1\.conv"),
        (
            config(model_type="parakeet_tdt", architectures=["ParakeetForTDT"]),
            f"holds ParakeetForTDT, .*{WHAT_IS_READ}",
        ),
        (removed("tokenizer.json", "tokenizer_config.json"), "has no processor .*comes with .*tokenizer"),
        (removed("processor_config.json"), r"has no processor .*preprocessor_config\.json"),
        (extractor(sampling_rate=8000), "the model takes 8000 Hz"),
    ],
)
def test_what_does_not_fit_parakeet_is_said_in_one_line(
    parakeet: Path, tmp_path: Path, harm: Harm, message: str
) -> None:
    folder = shutil.copytree(parakeet, tmp_path / "parakeet")
    harm(folder)
    with pytest.raises(UserError, match=message) as problem:
        load_network(folder)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("harm", [cut_short, t5, removed("processor_config.json")])
def test_the_command_line_says_it_with_exit_code_2(wavlm: Path, tmp_path: Path, harm: Harm) -> None:
    folder = shutil.copytree(wavlm, tmp_path / "model")
    harm(folder)
    ended = command("transcribe", folder, "audio.wav")
    assert ended.code == 2 and not ended.out
    assert ended.err.startswith(f"layerdial: {folder}") and ended.err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- hub

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache as an earlier download of org/tiny left it, and no network."""
    repository = tmp_path / "hub" / "models--org--tiny"
    save_tiny(repository / "snapshots" / REVISION, "hubert-large", conv_dim=[4] * 7)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return repository / "snapshots" / REVISION


def test_a_hub_id_is_the_folder_in_the_cache(hub: Path) -> None:
    by_name, by_path = load_model("org/tiny"), load_model(hub)
    assert equal(dict(by_name.network.state_dict()), dict(by_path.network.state_dict()))
    samples = speak("low high low")
    assert by_name.transcribe(samples).text == by_path.transcribe(samples).text != ""
    processor = AutoProcessor.from_pretrained(hub)
    assert isinstance(processor, ProcessorMixin) and len(by_name.tokenizer.tokens) == len(LOWER)


@pytest.mark.medium
def test_the_commands_take_a_hub_id(hub: Path, corpus, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speak("low high low"), 16000)
    ended = command("transcribe", "org/tiny", tmp_path / "a.wav", "--depth", 2, "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    expected = load_model(hub).transcribe(tmp_path / "a.wav", subset=BlockSubset.from_key("1001")).text
    assert (said["depth"], said["subset"], said["text"]) == (2, "1001", expected)
    ended = command("sweep", "org/tiny", corpus.dev, "--depths", "1", "--workers", 0, "--out", tmp_path / "sweep")
    assert ended.code == 0, ended.err
    (row,) = [json.loads(line) for line in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()]
    assert (row["model"], row["subset"]) == ("org/tiny", "1000") and row["fingerprint"] == fingerprint(hub)


def test_what_the_hub_does_not_give_is_said(hub: Path) -> None:
    ended = command("transcribe", "org/none", "a.wav")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert ended.err.startswith("layerdial: org/none is neither a folder here nor a model that the hub gives (")


def test_a_mistyped_folder_is_not_looked_up_on_the_hub(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("runs/modle", "runs/x/modle", str(tmp_path / "modle")):
        with pytest.raises(UserError, match=rf"^{name} is not a model folder: it has no config\.json"):
            load_model(name)
    with pytest.raises(UserError, match=r"^there is no model 'modle': no folder of that name is here"):
        load_model("modle")


def test_a_folder_here_comes_before_the_hub(hub: Path, wavlm: Path) -> None:
    shutil.copytree(wavlm, "org/tiny")
    assert load_model("org/tiny").tokenizer.tokens == list(UPPER)
