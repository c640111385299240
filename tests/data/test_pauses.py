"""Training examples with pauses: what is drawn, where the words are, and what the reference says about the rest."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdial.audio.features import fbank
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT
from layerdial.audio.noise import rms
from layerdial.config.recipe import DataConfig
from layerdial.data.batching import Batch, Position, training_batches
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.data.pauses import Example, Spoken, examples
from layerdial.data.posteriors import TopPosteriors, placed
from layerdial.errors import UserError
from layerdial.modules.losses import ctc
from layerdial.modules.normalisation import FixedNorm
from layerdial.text.ctc import BLANK
from layerdial.text.tokenizer import Tokenizer, build_tokenizer
from layerdial.training.loop import train
from tiny import (
    HERTZ,
    LOG_MEL,
    equal,
    losses,
    noise,
    sentences,
    speak,
    tiny_network,
    tiny_recipe,
    weights,
    write_corpus,
)

HOP = LOG_MEL.samples_per_frame
ALWAYS = {"share": 1.0, "seconds": 1.0, "joined": 0.0, "alone": 0.0}


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("pauses") / "train.cuts.jsonl.gz", sentences(12))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer("word", list(HERTZ))


def settings(cuts: Path, gain_db: tuple[float, float] | None = None, **pauses: Any) -> DataConfig:
    numbers = {"batch_seconds": 5, "buckets": 2, "workers": 0, "speeds": (0.9, 1.1), "gain_db": gain_db}
    return DataConfig.model_validate({"train": cuts, "dev": cuts, "pauses": ALWAYS | pauses, **numbers})


def take(count: int, config: DataConfig, tokenizer: Tokenizer, start: Position | None = None) -> list[Batch]:
    return list(islice(training_batches(config, tokenizer, LOG_MEL, 0, start or Position()), count))


def spoken(count: int) -> list[Spoken]:
    return [Spoken(f"u{i}", 1.0, speak(text, i), [i + 1]) for i, text in enumerate(sentences(count))]


def labels_of(example: Example) -> list[list[int]]:
    return [part.labels for _, part in example.parts]


def many(cuts: Path, gain_db: tuple[float, float] | None = None, **pauses: Any) -> list[Example]:
    """The examples of twenty batches of four utterances."""
    config = settings(cuts, gain_db, **pauses)
    return [example for i in range(20) for example in examples(spoken(4), config, HOP, 0, f"batch {i}")]


# ------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("level", [0.0, 0.003, 0.03])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_a_pause_moves_no_feature_of_the_speech_under_fixed_statistics(level: float, seconds: float) -> None:
    rng, samples, n_pause = np.random.default_rng(0), speak("low middle high low"), round(seconds * SAMPLE_RATE)
    before, after = (rng.normal(0.0, level, n_pause).astype(np.float32) if level else np.zeros(n_pause) for _ in "ab")
    alone, longer = fbank(samples), fbank(np.concatenate([before, samples, after]).astype(np.float32))
    network = tiny_network(normalise="fixed")
    assert isinstance(network.normalise, FixedNorm)
    network.normalise.set_statistics(torch.from_numpy(alone.mean(0)), torch.from_numpy(alone.std(0)))
    # the first and the last two frames have windows that reach over the ends of the speech
    found, start = [], n_pause // SHIFT
    for frames in (alone, longer):
        found.append(network.normalise(torch.from_numpy(frames)[None], torch.tensor([len(frames)]))[0])
    torch.testing.assert_close(found[1][start + 2 : start + len(alone) - 2], found[0][2:-2], rtol=0, atol=1e-5)


def test_a_pause_moves_all_of_them_under_statistics_of_the_utterance() -> None:
    alone = torch.from_numpy(fbank(speak("low middle high low")))
    longer = torch.from_numpy(fbank(np.pad(speak("low middle high low"), (8000, 0))))
    norm = tiny_network().normalise
    found = norm(alone[None], torch.tensor([len(alone)])), norm(longer[None], torch.tensor([len(longer)]))
    assert (found[1][0, 52:-2] - found[0][0, 2:-2]).abs().mean() > 0.3


def test_the_statistics_are_those_of_the_training_corpus_and_lie_in_the_model(cuts: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path / "run", cuts, cuts, "model.normalise=fixed", "train.steps=1", "train.eval_every=1"))
    frames = np.concatenate([fbank(load_samples(cut)) for cut in open_cuts(cuts)])
    stored = weights(tmp_path / "run")
    np.testing.assert_allclose(stored["normalise.mean_F"], frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(1 / stored["normalise.scale_F"], frames.std(0).clip(0.5), rtol=1e-4)


def test_a_model_to_start_from_has_the_normalisation_that_the_recipe_says(cuts: Path, tmp_path: Path) -> None:
    few = ("train.steps=1", "train.eval_every=1")
    train(tiny_recipe(tmp_path / "first", cuts, cuts, "model.normalise=fixed", *few))
    start = (f"init={tmp_path / 'first' / 'model'}", "policy.name=none", *few)
    with pytest.raises(UserError, match="has normalise fixed, the recipe's model utterance; leave `model` out"):
        train(tiny_recipe(tmp_path / "second", cuts, cuts, *start))
    train(tiny_recipe(tmp_path / "third", cuts, cuts, *start, "model=null"))
    for name in ("mean_F", "scale_F"):
        assert torch.equal(*(weights(tmp_path / run)[f"normalise.{name}"] for run in ("first", "third")))


def test_a_level_has_no_effect_on_a_network_that_begins_with_fixed_statistics() -> None:
    torch.manual_seed(0)
    front_end = tiny_network(normalise="fixed").front_end
    x_BTF, lengths_B = noise([40])
    quiet, loud = front_end(x_BTF, lengths_B), front_end(x_BTF + 1.5, lengths_B)
    torch.testing.assert_close(quiet[:, 1:-1], loud[:, 1:-1], rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ examples


def test_utterances_lie_at_whole_frames_with_silence_or_noise_around_them(cuts: Path) -> None:
    made, silent, noisy = many(cuts), 0, 0
    for example in made:
        [(start, utterance)] = example.parts
        assert start % HOP == 0 and labels_of(example) == [utterance.labels] and example.id == utterance.id
        end = start + len(utterance.samples)
        around = np.concatenate([example.samples[:start], example.samples[end:]])
        inside = example.samples[start:end] - utterance.samples
        speech = np.sqrt(np.mean(utterance.samples**2))
        assert np.sqrt(np.mean(inside**2)) < 0.4 * speech
        if len(around) > 1000:
            silent += not around.any()
            noisy += 1e-4 * speech < np.sqrt(np.mean(around**2)) < 0.5 * speech
    assert silent > 10 and noisy > 20 and silent + noisy <= len(made)
    assert 0 < sum(example.parts[0][0] > 0 for example in made) < len(made)


def test_batches_grow_to_twice_what_was_asked_at_most(cuts: Path, tokenizer: Tokenizer) -> None:
    config = settings(cuts, seconds=30.0, alone=1.0)
    lengths = [batch.inputs.shape[0] * batch.inputs.shape[1] / 100 for batch in take(12, config, tokenizer)]
    assert 5 < max(lengths) <= 2 * config.batch_seconds + 0.1


def test_joined_utterances_have_the_words_of_all_and_a_pause_between_them(cuts: Path) -> None:
    made = many(cuts, share=0.0, joined=1.0)
    assert {len(example.parts) for example in made} >= {2, 3, 4}
    for example in made:
        end = 0
        for start, part in example.parts:
            assert start % HOP == 0 and (start == 0 or 0.1 <= (start - end) / SAMPLE_RATE <= 1.0 + HOP / SAMPLE_RATE)
            assert not example.samples[end:start].any() or example.samples[end:start].std() < 0.4 * rms(part.samples)
            end = start + len(part.samples)
        assert len(example.samples) == end
    assert [part.id for example in made[:4] for _, part in example.parts][:4] == ["u0", "u1", "u2", "u3"]


def test_utterances_without_room_for_long_pauses_are_left_out_of_a_batch(cuts: Path, tokenizer: Tokenizer) -> None:
    tight = take(12, settings(cuts, from_epoch=1000), tokenizer)
    made = take(12, settings(cuts, seconds=5.0), tokenizer)
    assert all(set(batch.ids) <= set(whole.ids) for batch, whole in zip(made, tight, strict=True))
    assert any(1 <= len(batch.ids) < len(whole.ids) for batch, whole in zip(made, tight, strict=True))
    assert max(int(batch.input_lengths_B.max()) for batch in made) > 400


def test_utterances_are_not_joined_to_more_than_a_cut_may_have(cuts: Path) -> None:
    config = settings(cuts, share=0.0, joined=1.0).model_copy(update={"max_seconds": 1.5})
    assert [len(example.parts) for example in examples(spoken(4), config, HOP, 0, "batch")] == [1, 1, 1, 1]


def test_pauses_make_no_example_longer_than_a_cut_may_be(cuts: Path, tokenizer: Tokenizer) -> None:
    config = settings(cuts, seconds=9.0).model_copy(update={"max_seconds": 2.5})
    longest = max(int(batch.input_lengths_B.max()) for batch in take(12, config, tokenizer))
    assert 200 < longest <= 250


def test_an_example_without_words_is_silence_or_noise_of_any_level(cuts: Path) -> None:
    made = [example for example in many(cuts, alone=1.0) if not example.parts]
    assert len(made) == 20 and all(labels_of(example) == [] and len(example.samples) > 1000 for example in made)
    levels = [np.sqrt(np.mean(example.samples**2)) for example in made]
    assert min(levels) == 0.0 and max(levels) > 0.05 and all(np.abs(example.samples).max() <= 1 for example in made)


def test_training_batches_have_pauses_and_examples_without_words(cuts: Path, tokenizer: Tokenizer) -> None:
    plain = take(12, settings(cuts, from_epoch=1000), tokenizer)
    made = take(12, settings(cuts, alone=1.0, seconds=0.5), tokenizer)
    for tight, batch in zip(plain, made, strict=True):
        assert batch.ids[:-1] == tight.ids and batch.token_lengths_B[-1] == 0
        assert torch.equal(batch.token_lengths_B[:-1], tight.token_lengths_B)
        assert (batch.input_lengths_B[:-1] >= tight.input_lengths_B).all()
        assert batch.inputs.shape[:2] == (len(batch.ids), int(batch.input_lengths_B.max()))
    assert sum(batch.audio_seconds for batch in made) > 1.1 * sum(batch.audio_seconds for batch in plain)


def test_levels_change_within_their_range_and_nothing_clips(cuts: Path) -> None:
    made = many(cuts, (-20.0, 30.0), from_epoch=1)
    peaks = [np.abs(example.parts[0][1].samples).max() for example in made]
    gains = [20 * np.log10(np.abs(example.samples).max() / peak) for example, peak in zip(made, peaks, strict=True)]
    assert -20 <= min(gains) < -15 and max(gains) > 5
    assert all(np.abs(example.samples).max() <= 1.0 for example in made)


# ----------------------------------------------------------------------------------------------------- repetition


def same(a: Batch, b: Batch) -> bool:
    return a.ids == b.ids and torch.equal(a.inputs, b.inputs) and torch.equal(a.tokens_BU, b.tokens_BU)


def test_pauses_depend_on_seed_and_epoch_alone(cuts: Path, tokenizer: Tokenizer) -> None:
    config = settings(cuts, (-10.0, 0.0), joined=0.5, alone=0.5)
    whole = take(12, config, tokenizer)
    in_workers = take(12, config.model_copy(update={"workers": 2, "cache_mb": 10}), tokenizer)
    assert all(same(a, b) for a, b in zip(whole, in_workers, strict=True))
    rest = take(5, config, tokenizer, Position(whole[7].epoch, whole[7].position))
    assert all(same(a, b) for a, b in zip(whole[7:], rest, strict=True))
    lengths = [sorted(batch.input_lengths_B.tolist()) for batch in whole]
    assert len({tuple(found) for found in lengths}) == len(lengths)


def test_a_run_with_pauses_that_is_resumed_goes_on_as_it_would_have(cuts: Path, tmp_path: Path) -> None:
    pauses = ("data.pauses={share: 1, joined: 0.5, alone: 1}", "data.gain_db=[-10, 0]", "model.normalise=fixed")
    steps = ("train.steps=6", "train.eval_every=3")
    train(tiny_recipe(tmp_path / "whole", cuts, cuts, *pauses, *steps))
    train(tiny_recipe(tmp_path / "halves", cuts, cuts, *pauses, "train.steps=3", "train.eval_every=3"))
    with pytest.raises(UserError, match=r"was begun with data\.pauses"):
        train(tiny_recipe(tmp_path / "halves", cuts, cuts, *pauses[1:], "train.steps=3"), resume=True)
    assert all(np.isfinite(row).all() for row in losses(tmp_path / "whole").values())
    again = tiny_recipe(tmp_path / "again", cuts, cuts, *pauses, *steps)
    train(again)
    assert equal(weights(tmp_path / "again"), weights(tmp_path / "whole"))


# ------------------------------------------------------------------------------------------- losses and posteriors


def test_ctc_of_an_example_without_words_is_the_cost_of_its_blanks() -> None:
    logp_BTV = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1).requires_grad_()
    tokens_BU, lengths_B = torch.tensor([[1, 2], [0, 0]]), torch.tensor([9, 6])
    both = ctc(logp_BTV, lengths_B, tokens_BU, torch.tensor([2, 0]))
    words = ctc(logp_BTV[:1], lengths_B[:1], tokens_BU[:1], torch.tensor([2]))
    torch.testing.assert_close(both, words - logp_BTV[1, :6, BLANK].sum() / 2)
    [gradient] = torch.autograd.grad(both, logp_BTV)
    assert gradient.isfinite().all() and gradient[1, :6].abs().sum() > 0 and not gradient[1, 6:].any()


@pytest.mark.parametrize(("vocabulary", "k"), [(5, 16), (40, 4), (300, 1)])
def test_posteriors_are_the_reference_s_at_the_words_and_the_blank_elsewhere(vocabulary: int, k: int) -> None:
    parts = [TopPosteriors.of(torch.randn(t, vocabulary).log_softmax(-1), k) for t in (4, 3)]
    made = placed([(2, parts[0]), (8, parts[1])], 10, k, vocabulary)
    found_TV = made.expand(torch.device("cpu"))
    assert torch.equal(found_TV[2:6], parts[0].expand(torch.device("cpu")))
    assert torch.equal(found_TV[8:10], parts[1].expand(torch.device("cpu"))[:2])
    for frame in (0, 1, 6, 7):
        assert found_TV[frame, BLANK] == pytest.approx(0.0, abs=1e-6) and found_TV[frame].argmax() == BLANK


@pytest.mark.parametrize("changes", [(), ("data.speeds=[0.9, 1.1]",)])
def test_distillation_from_stored_posteriors_goes_with_pauses(cuts: Path, tmp_path: Path, changes: Any) -> None:
    few = ("train.steps=2", "train.eval_every=2")
    train(tiny_recipe(tmp_path / "reference", cuts, cuts, "policy.name=none", *few))
    student = (f"reference={tmp_path / 'reference' / 'model'}", "init=reference", "objective.distil.weight=1")
    pauses = "data.pauses={share: 1, joined: 0.5, alone: 1}"
    stored = f"data.posteriors={tmp_path / 'posteriors'}"
    cached = (*student, "objective.distil.teacher=cached", stored, pauses, *few, *changes)
    train(tiny_recipe(tmp_path / "student", cuts, cuts, *cached))
    assert all(np.isfinite(row).all() for row in losses(tmp_path / "student").values())


# --------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.pauses={noise_db: [60, 10]}", r"noise_db is \[60.0, 10.0\]; give the lower number first"),
        ("data.pauses={share: 0, joined: 0, alone: 0}", "there would be no pauses; leave the group out"),
        ("data.pauses={share: 2}", "data.pauses.share"),
        ("data.pauses={length: 2}", "unknown config key data.pauses.length"),
        ("data.gain_db=[3, -3]", r"gain_db is \[3.0, -3.0\]; give the lower number first"),
        ("model.normalise=mean", "model.normalise"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(
    cuts: Path, tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tiny_recipe(tmp_path / "run", cuts, cuts, change)
