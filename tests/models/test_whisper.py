"""Whisper as a dynamic network equals the library's own, whichever blocks run and whatever else is in the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import write_cuts
from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.models.checkpoint import load_network
from layerdial.models.cost import subset_cost
from layerdial.models.huggingface.whisper import WhisperNetwork, new_cache
from layerdial.models.huggingface.whisper_decoding import TorchEncoded
from layerdial.models.huggingface.whisper_tokenizer import WhisperTextTokenizer
from layerdial.models.prune import prune_model
from layerdial.models.torch_recognizer import TorchRecognizer, load_torch_model
from layerdial.modules.losses import distillation
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.text.token_beams import decode_with_beams
from layerdial.text.token_decoding import decode_greedily
from layerdial.text.token_fallback import decode_with_fallback
from layerdial.text.token_rules import TokenRules, Written, looping_phrase, without_loop
from layerdial.utils.rows import read_rows
from tiny import command, write_cut
from tiny_whisper import EVERY_SUBSET, FULL, LENGTHS, N_BLOCKS, save_encoder, save_whisper, write_spoken

SUBSETS = pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
LABELS = torch.tensor([[3, 4, 10, 11], [1, 11, 0, 0], [5, 6, 7, 11]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "hf")


@pytest.fixture
def network(folder: Path) -> WhisperNetwork:
    return whisper(folder)


def whisper(folder: Path, pads: bool = False) -> WhisperNetwork:
    network, _ = load_network(folder)
    assert isinstance(network, WhisperNetwork)
    network.pads_input = pads
    return network


def samples(length: int) -> NDArray[np.float32]:
    return np.random.default_rng(length).normal(0.0, 0.1, length).astype(np.float32)


def batch_of(network: WhisperNetwork, *lengths: int, texts: tuple[str, ...] = ()) -> FeatureBatch:
    texts = texts or ("",) * len(lengths)
    return collate_features([str(n) for n in lengths], [network.features(samples(n)) for n in lengths], texts, 1.0)


def tensors(batch: FeatureBatch) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_padded_audio_gives_the_logits_of_transformers(tmp_path: Path, n_mels: int) -> None:
    folder = save_whisper(tmp_path / "hf", n_mels)
    network, theirs = whisper(folder, pads=True), WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=3)
    mel = extractor([samples(n) for n in LENGTHS], sampling_rate=16000, return_tensors="pt").input_features
    given = torch.cat([torch.tensor(network.decoder_use.prompt).expand(3, -1), LABELS[:, :-1]], dim=1)
    with torch.no_grad():
        expected = theirs(input_features=mel, decoder_input_ids=given)
        inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
        memory, _ = network.encode(inputs, lengths_B, FULL)
        found = network(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV
    torch.testing.assert_close(memory.states_BTD, expected.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)
    logits = expected.logits[:, len(network.decoder_use.prompt) - 1 :]
    torch.testing.assert_close(found, logits.log_softmax(dim=-1), atol=1e-5, rtol=1e-5)


def test_an_utterance_does_not_depend_on_the_others_in_its_batch(network: WhisperNetwork) -> None:
    together, lengths_B = tensors(batch_of(network, *LENGTHS))
    with torch.no_grad():
        found = network(together, lengths_B, FULL, (1,), LABELS)
        for row, length in enumerate(LENGTHS):
            alone = network(*tensors(batch_of(network, length)), FULL, (1,), LABELS[row : row + 1])
            torch.testing.assert_close(found.log_probs_BTV[row], alone.log_probs_BTV[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.exits_BTV[0][row], alone.exits_BTV[0][0], atol=1e-5, rtol=1e-5)


def test_padding_in_the_batch_may_hold_anything(network: WhisperNetwork) -> None:
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    other = inputs.clone()
    for row, length in enumerate(lengths_B.tolist()):
        other[row, length:] = 7.0
    for network.pads_input in (False, True):
        with torch.no_grad():
            expected = network(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV
            torch.testing.assert_close(network(other, lengths_B, FULL, (), LABELS).log_probs_BTV, expected)


@SUBSETS
def test_every_subset_equals_the_librarys_own_layers(
    folder: Path, network: WhisperNetwork, subset: BlockSubset
) -> None:
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval().model.encoder
    inputs, lengths_B = tensors(batch_of(network, 16000))
    gelu = torch.nn.functional.gelu
    with torch.no_grad():
        x_BTD = gelu(theirs.conv2(gelu(theirs.conv1(inputs.transpose(1, 2))))).transpose(1, 2)
        x_BTD = x_BTD + theirs.embed_positions.weight[: x_BTD.shape[1]]
        for i in subset.kept:
            x_BTD = theirs.layers[i](x_BTD, None)
        memory, _ = network.encode(inputs, lengths_B, subset)
    torch.testing.assert_close(memory.states_BTD, theirs.layer_norm(x_BTD), atol=1e-5, rtol=1e-5)


def test_the_exit_after_n_blocks_is_the_network_of_these_blocks(network: WhisperNetwork) -> None:
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    with torch.no_grad():
        exits = network(inputs, lengths_B, BlockSubset(N_BLOCKS, (0, 2, 3)), (1, 2), LABELS).exits_BTV
        for exit_BUV, kept in zip(exits, ((0,), (0, 2)), strict=True):
            alone = network(inputs, lengths_B, BlockSubset(N_BLOCKS, kept), (), LABELS).log_probs_BTV
            torch.testing.assert_close(exit_BUV, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder_blocks", ["11", "01", "10"])
def test_cached_decoding_equals_teacher_forcing(network: WhisperNetwork, decoder_blocks: str) -> None:
    network.decoder_use = replace(network.decoder_use, subset=BlockSubset.from_key(decoder_blocks))
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    with torch.no_grad():
        memory, _ = network.encode(inputs, lengths_B, FULL)
        at_once = network.score(memory, LABELS)
        cache, n_before = new_cache(), 0
        tokens_BU = torch.tensor(network.decoder_use.prompt).expand(3, -1)
        for u in range(LABELS.shape[1]):
            step = network.next_token(tokens_BU, memory, cache, n_before)[:, -1].log_softmax(dim=-1)
            torch.testing.assert_close(step, at_once[:, u], atol=1e-5, rtol=1e-5)
            n_before += tokens_BU.shape[1]
            tokens_BU = LABELS[:, u : u + 1]


def test_a_decoder_block_left_out_has_no_part_in_the_result(network: WhisperNetwork) -> None:
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    network.decoder_use = replace(network.decoder_use, subset=BlockSubset.from_key("01"))
    with torch.no_grad():
        before = network(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV
        for parameter in network.decoder.layers.blocks[0].parameters():
            parameter.fill_(float("nan"))
        assert torch.equal(network(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV, before)


def test_only_kept_blocks_get_gradients(network: WhisperNetwork) -> None:
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    network(inputs, lengths_B, BlockSubset.from_key("1010"), (), LABELS).log_probs_BTV.sum().backward()
    has = [any(p.grad is not None for p in block.parameters()) for block in network.blocks]
    assert has == [True, False, True, False]


def test_identical_networks_have_no_divergence_and_padding_has_no_part(folder: Path, network: WhisperNetwork) -> None:
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    with torch.no_grad():
        a = network(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV
        b = whisper(folder)(inputs, lengths_B, FULL, (), LABELS).log_probs_BTV
    assert distillation(a, b, torch.tensor([4, 2, 4])).abs() < 1e-6
    b[1, 2:] = -50.0
    assert distillation(a, b, torch.tensor([4, 2, 4])).abs() < 1e-6


def test_a_block_costs_what_it_computes_and_the_decoder_counts(network: WhisperNetwork) -> None:
    costs = [subset_cost(network, BlockSubset.even(N_BLOCKS, depth), seconds=2.0) for depth in (1, 2, 3, 4)]
    steps = np.diff([cost.macs_per_second for cost in costs])
    assert np.allclose(steps, steps[0]) and steps[0] > 0
    assert len(set(np.diff([cost.parameters for cost in costs]))) == 1
    network.decoder_use = replace(network.decoder_use, subset=BlockSubset.from_key("10"))
    assert subset_cost(network, FULL, seconds=2.0).macs_per_second < costs[-1].macs_per_second


# -------------------------------------------------------------------------------------------------------- decoding


@pytest.fixture
def recognizer(folder: Path) -> TorchRecognizer:
    return load_torch_model(folder)


def test_a_batch_gives_the_texts_of_its_utterances(recognizer: TorchRecognizer) -> None:
    network: Any = recognizer.network
    for subset in (FULL, BlockSubset.from_key("1001")):
        alone = [recognizer.recognize(batch_of(network, length), subset)[0] for length in LENGTHS]
        assert recognizer.recognize(batch_of(network, *LENGTHS), subset) == alone


def rules_of(recognizer: TorchRecognizer) -> TokenRules:
    return recognizer.decoding.rules  # type: ignore[attr-defined, no-any-return]


def encoded_of(network: Any, *lengths: int) -> TorchEncoded:
    with torch.no_grad():
        memory, _ = network.encode(*tensors(batch_of(network, *lengths)), FULL)
    return TorchEncoded(network, memory, network.decoder_use)


def test_greedy_decoding_takes_the_best_token_that_is_allowed(recognizer: TorchRecognizer) -> None:
    network: Any = recognizer.network
    settings, rules, tokens = network.model.generation_config, rules_of(recognizer), recognizer.tokenizer.tokens
    encoded = encoded_of(network, 16000)
    with torch.no_grad():
        (written,) = decode_greedily(encoded, [1.0], rules)
        logits = network.score(encoded.memory, torch.tensor([[*written.tokens, 0]]))[0].numpy()
    assert written.tokens and not set(written.tokens) & {*settings.suppress_tokens, *range(rules.end, len(tokens))}
    assert written.tokens[0] not in settings.begin_suppress_tokens
    assert written.tokens[0] == int(np.where(rules.not_first, -np.inf, logits[0]).argmax())
    assert written.tokens[1] == int(np.where(rules.never, -np.inf, logits[1]).argmax())


def test_one_beam_is_greedy_and_more_find_texts_that_are_at_least_as_likely(recognizer: TorchRecognizer) -> None:
    network, rules = recognizer.network, rules_of(recognizer)
    with torch.no_grad():
        for length in LENGTHS:
            encoded = encoded_of(network, length)
            (greedy,) = decode_greedily(encoded, [length / 16000], rules)
            one, four = (decode_with_beams(encoded, length / 16000, rules, beams) for beams in (1, 4))
            assert one.tokens == greedy.tokens and one.no_speech == pytest.approx(greedy.no_speech)
            assert one.language is greedy.language is None  # the checkpoint knows English alone
            if not (greedy.looped or four.looped):
                assert four.mean_logp >= greedy.mean_logp - 1e-5


def test_beams_find_the_likeliest_of_all_texts_where_they_hold_them_all(tmp_path: Path) -> None:
    recognizer = load_torch_model(save_whisper(tmp_path / "hf", max_target_positions=5))  # three tokens at most
    network, rules = recognizer.network, rules_of(recognizer)
    encoded = encoded_of(network, 16000)
    memory = encoded.memory
    with torch.no_grad():
        found = decode_with_beams(encoded, 1.0, rules, 64)
        allowed = [i for i in range(rules.end) if not rules.never[i]]
        texts = [(a,) for a in allowed if not rules.not_first[a]]
        texts += [(a, b) for (a,) in texts for b in allowed]
        best = max(texts, key=lambda text: mean_logp(network, memory, [*text, rules.end], rules))
    assert tuple(found.tokens) == best


def mean_logp(network: Any, memory: Any, labels: list[int], rules: TokenRules) -> float:
    """The mean log-probability of a text under the rules."""
    logits = network.score(memory, torch.tensor([labels]))[0]
    logits[0, torch.from_numpy(rules.not_first)] = -torch.inf
    logits[1:, torch.from_numpy(rules.never)] = -torch.inf
    return float(logits.log_softmax(dim=-1).gather(1, torch.tensor(labels).unsqueeze(1)).mean())


def test_a_request_asks_for_beams(recognizer: TorchRecognizer) -> None:
    audio = samples(16000)
    assert recognizer.answer(audio, Request(beams=1)).text == recognizer.transcribe(audio).text
    with torch.no_grad():
        found = decode_with_beams(encoded_of(recognizer.network, 16000), 1.02, rules_of(recognizer), 3)
    assert recognizer.answer(audio, Request(beams=3)).text == recognizer.tokenizer.decode(found.tokens)
    with pytest.raises(UserError, match="beams is 0"):
        Request(beams=0)


def test_a_text_that_repeats_itself_is_cut_after_the_phrase() -> None:
    looping = [1, 2, 3, 4, 5, 4, 5, 4, 5, 4, 5]
    assert looping_phrase(looping) == [4, 5] and without_loop(looping, [4, 5]) == [1, 2, 3, 4, 5]
    assert looping_phrase([9] * 8) == [9] and without_loop([9] * 8, [9]) == [9]
    assert looping_phrase([9] * 7) is None  # "no no no" is said
    assert looping_phrase([1, 2, 1, 2, 1, 2]) is None
    assert looping_phrase(list(range(40)) * 4) == list(range(40))
    assert looping_phrase([]) is None


def test_where_a_text_loops_the_other_searches_are_tried_and_the_rest_of_the_batch_stays(
    recognizer: TorchRecognizer,
) -> None:
    encoded, rules = encoded_of(recognizer.network, *LENGTHS), rules_of(recognizer)
    seconds = [length / 16000 for length in LENGTHS]
    with torch.no_grad():
        greedy = decode_greedily(encoded, seconds, rules)
        found = decode_with_fallback(encoded, seconds, rules)
        beams = [decode_with_beams(encoded.of(row), seconds[row], rules, 5) for row in range(3)]
    assert any(row.looped for row in greedy)
    for before, after, searched in zip(greedy, found, beams, strict=True):
        if not before.looped:
            assert after == before
        elif searched.is_good:
            assert after == searched
        else:
            assert after == before or not set(after.tokens) & set(before.phrase)


def test_a_loop_in_a_request_is_decoded_again_with_all_blocks(recognizer: TorchRecognizer, folder: Path) -> None:
    network: Any = recognizer.network
    with torch.no_grad():  # a network that writes one letter for ever, at any depth
        network.decoder.layer_norm.weight.zero_()
        network.decoder.layer_norm.bias.copy_(network.decoder.embed_tokens.weight[3] * 100)
    found = recognizer.answer(samples(16000), Request(depth=2))
    assert found.text == "d" and found.chunks[0].subset == FULL and "repeated" in found.chunks[0].reason


@pytest.mark.parametrize(("level", "speaks"), [(0.0, False), (3e-6, False), (3e-3, True)])
def test_silence_is_not_decoded(recognizer: TorchRecognizer, level: float, speaks: bool) -> None:
    quiet = np.random.default_rng(0).normal(0.0, level, 16000).astype(np.float32)
    network: Any = recognizer.network
    batch = collate_features(["", ""], [network.features(quiet), network.features(samples(9000))], ["", ""], 1.0)
    first, second = recognizer.recognize(batch, FULL)
    assert bool(first) == bool(recognizer.transcribe(quiet).text) == speaks and second


def test_nobody_speaks_where_the_decoder_says_so_and_is_unsure() -> None:
    assert Written([1], mean_logp=-1.2, no_speech=0.7, looped=False).is_silence
    assert not Written([1], mean_logp=-0.5, no_speech=0.7, looped=False).is_silence
    assert not Written([1], mean_logp=-1.2, no_speech=0.5, looped=False).is_silence


def test_a_request_says_how_many_blocks_of_the_decoder_run(recognizer: TorchRecognizer) -> None:
    network: Any = recognizer.network
    expected = recognizer.answer(samples(16000), Request(decoder_depth=1)).text
    assert network.decoder_use.subset == BlockSubset.full(2)
    network.decoder_use = replace(network.decoder_use, subset=BlockSubset.even(2, 1))
    assert recognizer.transcribe(samples(16000)).text == expected
    with pytest.raises(UserError, match="depth 3 does not exist"):
        recognizer.answer(samples(16000), Request(decoder_depth=3))


def test_a_request_says_language_and_task(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "hf")
    with pytest.raises(UserError, match="knows English alone"):
        load_torch_model(folder).answer(samples(16000), Request(language="de"))
    settings = json.loads((folder / "generation_config.json").read_text())
    made = {"is_multilingual": True, "language": "de", "task": "translate"}
    (folder / "generation_config.json").write_text(json.dumps(settings | {"is_multilingual": True}))
    recognizer = load_torch_model(folder)
    found = recognizer.answer(samples(16000), Request(language="de", task="translate")).text
    heard = [recognizer.answer(samples(16000), Request(language=code)).other_language for code in ("en", "de")]
    assert heard in (["de", ""], ["", "en"])  # one of two languages is the likelier one
    (folder / "generation_config.json").write_text(json.dumps(settings | made))
    assert load_torch_model(folder).transcribe(samples(16000)).text == found
    with pytest.raises(UserError, match="task is 'sing'"):
        Request(task="sing")


def test_long_audio_is_transcribed_piece_by_piece(tmp_path: Path) -> None:
    recognizer = load_torch_model(save_whisper(tmp_path / "hf", max_source_positions=1500))
    audio = np.tile(samples(16000), 45)
    found = recognizer.transcribe(audio, depth=1)
    assert len(found.chunks) == 2 and found.chunks[0].end == found.chunks[1].start
    assert found.seconds == pytest.approx(45.0)
    cut = round(found.chunks[0].end * 16000)
    pieces = [recognizer.transcribe(part, depth=1).text for part in (audio[:cut], audio[cut:])]
    assert found.text == " ".join(filter(None, pieces))


# ------------------------------------------------------------------------------------------------ tokenizer, folders


def test_texts_begin_with_a_space_and_end(recognizer: TorchRecognizer) -> None:
    tokenizer = recognizer.tokenizer
    ids = tokenizer.encode(" ab  c ")
    assert [tokenizer.tokens[i] for i in ids] == ["\u0120ab", "\u0120", "c", "<|endoftext|>"]
    assert tokenizer.decode(ids) == "ab c"
    assert tokenizer.decode([*ids, tokenizer.tokens.index("<|en|>")]) == "ab c"
    assert tokenizer.encode("") == [tokenizer.tokens.index("<|endoftext|>")]


def test_the_prompt_has_a_language_where_the_checkpoint_has_several(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "hf")
    assert names_of_prompt(folder) == ["<|startoftranscript|>", "<|notimestamps|>"]
    settings = json.loads((folder / "generation_config.json").read_text())
    write = (folder / "generation_config.json").write_text
    write(json.dumps(settings | {"is_multilingual": True}))
    assert names_of_prompt(folder) == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    write(json.dumps(settings | {"is_multilingual": True, "language": "de", "task": "translate"}))
    assert names_of_prompt(folder) == ["<|startoftranscript|>", "<|de|>", "<|translate|>", "<|notimestamps|>"]
    write(json.dumps(settings | {"is_multilingual": True, "language": "xx"}))
    with pytest.raises(UserError, match=r"no <\|xx\|>"):
        load_network(folder)


def names_of_prompt(folder: Path) -> list[str]:
    network, tokenizer = load_network(folder)
    assert isinstance(network, WhisperNetwork) and isinstance(tokenizer, WhisperTextTokenizer)
    return [tokenizer.tokens[i] for i in network.decoder_use.prompt]


def test_a_folder_without_decoder_is_refused_unless_it_gets_a_ctc_head(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "hf")
    with pytest.raises(UserError, match=r"has no decoder \(model\.decoder\..*model\.head: ctc") as raised:
        load_network(folder)
    assert "\n" not in str(raised.value)


def test_a_preprocessor_of_another_mel_size_is_refused(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "hf")
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    with pytest.raises(UserError, match="feature_size 128, its encoder takes 80"):
        load_network(folder)


def test_audio_above_the_positions_of_the_encoder_is_refused(network: WhisperNetwork) -> None:
    with pytest.raises(UserError, match="takes up to 300"):
        network.encode(torch.zeros(1, 301, 80), torch.tensor([301]), FULL)


def test_weights_are_saved_once_and_load_again(network: WhisperNetwork, tmp_path: Path) -> None:
    state = network.state_dict()
    assert "model.proj_out.weight" not in state and "model.model.decoder.embed_tokens.weight" in state
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    network.load_state_dict(state)
    assert network.head.weight is network.decoder.embed_tokens.weight


def test_all_commands_that_measure_take_it(tmp_path: Path) -> None:
    cuts = write_spoken(tmp_path / "few.cuts.jsonl.gz", 2)
    short = {"max_source_positions": 1500, "max_target_positions": 12}  # timings are of ten seconds of audio
    model = save_whisper(tmp_path / "model", **short)
    assert command("search", model, cuts).code == 0
    assert (model / "ladder.json").is_file()
    ended = command("sweep", model, cuts, "--depths", "1,4", "--out", tmp_path / "sweep")
    assert ended.code == 0, ended.err
    rows = read_rows(tmp_path / "sweep" / "sweep.jsonl")
    assert [row["depth"] for row in rows] == [1, 4] and rows[0]["macs_per_second"] < rows[1]["macs_per_second"]


def test_an_utterance_above_30_s_is_scored_in_the_pieces_that_transcribe_makes_and_has_no_loss(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).normal(0.0, 0.1, 31 * 16000).astype(np.float32)
    short, long = (write_cut(tmp_path / "audio", name, a, "one two") for name, a in (("a", audio[:8000]), ("b", audio)))
    write_cuts(iter([short, long]), tmp_path / "cuts.jsonl.gz")
    recognizer = load_torch_model(save_whisper(tmp_path / "model", max_source_positions=1500))
    batches = FeatureBatches(tmp_path / "cuts.jsonl.gz", recognizer.features)
    found = evaluate(recognizer, batches, recognizer.subset())
    assert found.ids == ("a", "b") and found.texts == ("one two", "one two")
    assert found.recognized[1] == recognizer.transcribe(audio).text
    with pytest.raises(UserError, match="cut b is longer than the network takes at once, so it has no loss"):
        recognizer.loss(list(batches)[-1], recognizer.subset())


def test_pruning_equals_dropping_and_plain_transformers_loads_it(folder: Path, tmp_path: Path) -> None:
    network = whisper(folder, pads=True)
    subset = prune_model(folder, tmp_path / "small", depth=2)
    small, theirs = (
        whisper(tmp_path / "small", pads=True),
        WhisperForConditionalGeneration.from_pretrained(tmp_path / "small"),
    )
    inputs, lengths_B = tensors(batch_of(network, *LENGTHS))
    given = torch.cat([torch.tensor(network.decoder_use.prompt).expand(3, -1), LABELS[:, :-1]], dim=1)
    mel = WhisperFeatureExtractor(chunk_length=3)(
        [samples(n) for n in LENGTHS], sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        expected = network(inputs, lengths_B, subset, (), LABELS).log_probs_BTV
        found = small(inputs, lengths_B, BlockSubset.full(2), (), LABELS).log_probs_BTV
        plain = theirs.eval()(input_features=mel.input_features, decoder_input_ids=given).logits.log_softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain[:, len(network.decoder_use.prompt) - 1 :], expected, atol=1e-5, rtol=1e-5)
