"""Batches: their order, what is left out of them and why, and going on in the middle of an epoch."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Corpus
from layerdial.audio.features import fbank
from layerdial.config.recipe import DataConfig, SpecAugmentConfig
from layerdial.data.batching import FRAME_LABELS, Batch, FeatureBatches, Position, training_batches
from layerdial.data.manifest import open_cuts, write_cuts
from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.text.tokenizer import Tokenizer, build_tokenizer
from layerdial.training.augment import spec_augment
from layerdial.training.loop import train
from tiny import HERTZ, LOG_MEL, noise, sentences, speak, tiny_network, tiny_recipe, write_corpus, write_cut


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve cuts for training: some four batches an epoch."""
    folder = tmp_path_factory.mktemp("few")
    return Corpus(
        write_corpus(folder / "train.cuts.jsonl.gz", sentences(12, seed=0)),
        write_corpus(folder / "dev.cuts.jsonl.gz", sentences(5, seed=1)),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer("word", list(HERTZ))


def config(cuts: Path, **changes) -> DataConfig:
    numbers = {"batch_seconds": 5, "buckets": 2, "workers": 0, "speeds": (0.9, 1.0, 1.1)}
    return DataConfig(train=cuts, dev=cuts, **{**numbers, **changes})


def take(count: int, settings: DataConfig, tokenizer: Tokenizer, seed: int = 0, start: Position | None = None):
    return list(islice(training_batches(settings, tokenizer, LOG_MEL, seed, start or Position()), count))


def same(a: Batch, b: Batch) -> bool:
    return (a.ids, a.epoch, a.position) == (b.ids, b.epoch, b.position) and torch.equal(a.inputs, b.inputs)


def test_an_epoch_holds_every_cut_once_and_the_next_in_another_order(corpus, tokenizer: Tokenizer) -> None:
    epochs: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for batch in training_batches(config(corpus.train), tokenizer, LOG_MEL, 0, Position()):
        if batch.epoch == 3:
            break
        epochs[batch.epoch] += batch.ids
    assert all(Counter(ids) == Counter(epochs[0]) and len(set(ids)) == len(ids) == 12 for ids in epochs.values())
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_holds_features_lengths_and_labels(corpus, tokenizer: Tokenizer) -> None:
    texts = {f"train.cuts.jsonl-{i}": text for i, text in enumerate(sentences(12, seed=0))}
    for batch in take(4, config(corpus.train, speeds=()), tokenizer):
        assert batch.inputs.shape == (len(batch.ids), int(batch.input_lengths_B.max()), 80)
        assert batch.tokens_BU.shape == (len(batch.ids), int(batch.token_lengths_B.max()))
        for row, name in enumerate(batch.ids):
            features = fbank(speak(texts[name], int(name.rsplit("-", 1)[1])))
            length, labels = batch.input_lengths_B[row], batch.tokens_BU[row, : batch.token_lengths_B[row]]
            assert length == len(features) and (batch.inputs[row, length:] == 0).all()
            np.testing.assert_allclose(batch.inputs[row, :length], features, atol=0.2)  # a WAV of 16 bits
            assert tokenizer.decode(labels.tolist()) == texts[name]
        assert batch.audio_seconds == pytest.approx(batch.input_lengths_B.sum().item() / 100, abs=0.1)
        assert batch.audio_seconds <= 5


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_depend_on_the_seed_alone(corpus, tokenizer: Tokenizer, workers: int) -> None:
    settings = config(corpus.train, workers=workers)
    first = take(6, config(corpus.train), tokenizer)
    torch.manual_seed(99)
    assert all(same(a, b) for a, b in zip(first, take(6, settings, tokenizer), strict=True))
    assert [b.ids for b in take(6, settings, tokenizer, seed=1)] != [b.ids for b in first]


@pytest.mark.parametrize("done", [1, 3, 7])
def test_going_on_gives_the_very_batches_that_would_have_come(corpus, tokenizer: Tokenizer, done: int) -> None:
    settings = config(corpus.train)
    whole = take(12, settings, tokenizer)
    start = Position(whole[done].epoch, whole[done].position)
    rest = take(12 - done, settings, tokenizer, start=start)
    assert all(same(a, b) for a, b in zip(whole[done:], rest, strict=True))


def test_each_epoch_draws_speeds_anew(corpus, tokenizer: Tokenizer) -> None:
    lengths: dict[str, set[int]] = {}
    for batch in take(40, config(corpus.train), tokenizer):
        for name, length in zip(batch.ids, batch.input_lengths_B.tolist(), strict=True):
            lengths.setdefault(name, set()).add(length)
    assert all(len(found) > 1 for found in lengths.values())


def test_two_ranks_share_the_cuts_of_an_epoch(corpus, tokenizer: Tokenizer) -> None:
    ids: list[list[str]] = []
    for rank in (0, 1):
        batches = training_batches(config(corpus.train, batch_seconds=3), tokenizer, LOG_MEL, 0, Position(), rank, 2)
        ids.append([name for batch in islice(batches, 2) for name in batch.ids])
    assert ids[0] and ids[1] and not set(ids[0]) & set(ids[1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_cuts_than_buckets_still_train(tmp_path: Path, tokenizer: Tokenizer, count: int) -> None:
    texts = sentences(count)
    cuts = [write_cut(tmp_path, f"c{i}", speak(text, i), text) for i, text in enumerate(texts)]
    write_cuts(cuts, tmp_path / "few.cuts.jsonl.gz")
    batches = take(2 * count, config(tmp_path / "few.cuts.jsonl.gz", buckets=10), tokenizer)
    assert {name for batch in batches for name in batch.ids} == {f"c{i}" for i in range(count)}


@pytest.fixture
def partly_broken(tmp_path: Path) -> Path:
    """Two good cuts, and one of each kind of broken one."""
    good = [write_cut(tmp_path, f"good{i}", speak("low high", i), "low high") for i in range(2)]
    gone = write_cut(tmp_path, "gone", speak("low"), "low")
    (tmp_path / "gone.wav").unlink()
    short = write_cut(tmp_path, "short", speak("low"), "low")
    (tmp_path / "short.wav").write_bytes((tmp_path / "short.wav").read_bytes()[:3000])
    unknown = write_cut(tmp_path, "unknown", speak("low"), "low loud")
    crowded = write_cut(tmp_path, "crowded", speak("low"), "low " * 30)
    silent = write_cut(tmp_path, "silent", speak("low"), "")
    cuts = tmp_path / "broken.cuts.jsonl.gz"
    write_cuts([*good, gone, short, unknown, crowded, silent], cuts)
    return cuts


def test_broken_cuts_are_left_out_with_their_reason(partly_broken: Path, tokenizer: Tokenizer) -> None:
    rejected, kept = {}, set()
    for batch in training_batches(config(partly_broken), tokenizer, LOG_MEL, 0, Position()):
        if batch.epoch:
            break
        kept |= set(batch.ids)
        rejected |= {problem.cut_id: problem.reason for problem in batch.rejected}
    assert kept == {"good0", "good1"}
    for name, reason in {
        "gone": "does not exist",
        "short": "is truncated",
        "unknown": "no word 'loud'",
        "crowded": "needs 59 frames for CTC",
        "silent": "text is empty",
    }.items():
        assert reason in rejected.pop(name)
    assert not rejected


def test_evaluation_leaves_out_what_cannot_be_heard_but_no_text(partly_broken: Path) -> None:
    batches = FeatureBatches(partly_broken, LOG_MEL, workers=0)
    for _ in range(2):  # loaded, and from memory
        assert [name for batch in batches for name in batch.ids] == ["good0", "good1", "unknown", "crowded", "silent"]
        assert [problem.cut_id for problem in batches.rejected] == ["gone", "short"]


def unscorable(folder: Path, what: str) -> Path:
    """A manifest of two cuts, neither of which can be scored."""
    texts = {"gone": "low high", "damaged": "low high", "wordless": " --- ", "noises": "[noise] <unk>", "none": ""}
    cuts = [write_cut(folder, f"{what}{i}", speak("low high", i), texts[what]) for i in range(2)]
    for cut in cuts:
        file = Path(cut.recording.sources[0].source)
        if what == "gone":
            file.unlink()
        elif what == "damaged":
            file.write_bytes(file.read_bytes()[:1000])
    path = folder / f"{what}.cuts.jsonl.gz"
    write_cuts(cuts, path)
    return path


@pytest.mark.parametrize(
    ("what", "reason"),
    [("gone", "does not exist"), ("damaged", "truncated"), ("wordless", "no words"), ("none", "no words")],
)
def test_a_dev_set_that_cannot_be_scored_is_refused_before_anything_else(
    corpus, tmp_path: Path, what: str, reason: str
) -> None:
    dev = unscorable(tmp_path, what)
    words = rf"{what}.cuts.jsonl.gz: none of its 2 cuts can be scored.*{what}0.*{reason}"
    with pytest.raises(UserError, match=words):
        FeatureBatches(dev, LOG_MEL, workers=0)
    for changes in ((), ("objective.exits={at: all}", "policy.name=none", "model.self_condition=true")):
        with pytest.raises(UserError, match=words):
            train(tiny_recipe(tmp_path / "run", corpus.train, dev, *changes))
        assert not (tmp_path / "run").exists()


def test_what_turns_unreadable_later_is_not_scored_as_perfect(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recognizer = TorchRecognizer(tiny_network(), tokenizer)
    cut = write_cut(tmp_path, "one", speak("low high"), "low high")
    write_cuts([cut], tmp_path / "dev.cuts.jsonl.gz")
    batches = FeatureBatches(tmp_path / "dev.cuts.jsonl.gz", LOG_MEL, workers=0)
    Path(cut.recording.sources[0].source).unlink()
    with pytest.raises(UserError, match="nothing to score: the cuts hold no utterance to be read"):
        evaluate(recognizer, batches, recognizer.subset(1))


def test_evaluation_batches_are_the_manifest_in_order(corpus) -> None:
    batches = list(FeatureBatches(corpus.dev, LOG_MEL, batch_seconds=4, workers=0))
    assert len(batches) > 1
    assert [text for batch in batches for text in batch.texts] == sentences(5, seed=1)


def test_cuts_that_are_too_long_are_left_out_and_nothing_left_is_said(corpus, tokenizer: Tokenizer) -> None:
    longest = max(batch.input_lengths_B.max() for batch in take(8, config(corpus.train, max_seconds=1.5), tokenizer))
    assert 100 < longest <= 150 / 0.9
    with pytest.raises(UserError, match=r"no cut of at most 0\.1 s \(data\.max_seconds\)"):
        take(1, config(corpus.train, max_seconds=0.1), tokenizer)


def test_how_many_cuts_are_too_long_is_said_once(
    corpus, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "layerdial")
    too_long = sum(cut.duration > 1.5 for cut in open_cuts(corpus.train))
    take(12, config(corpus.train, max_seconds=1.5), tokenizer)
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"{too_long} cuts of {corpus.train} are longer than 1.5 s (data.max_seconds) and are left out"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for GPUs")
def test_batches_for_a_gpu_come_in_pinned_memory(corpus, tokenizer: Tokenizer) -> None:
    for workers in (0, 1):
        [batch] = take(1, config(corpus.train, workers=workers), tokenizer)
        assert batch.inputs.is_pinned() and batch.tokens_BU.is_pinned() and batch.input_lengths_B.is_pinned()


def test_alignable_means_enough_frames_and_some_text() -> None:
    FRAME_LABELS.check(3, [1, 2, 3])
    FRAME_LABELS.check(5, [1, 2, 2, 3])
    for frames, labels in ((2, [1, 2, 3]), (4, [1, 2, 2, 3]), (3, [])):
        with pytest.raises(UserError):
            FRAME_LABELS.check(frames, labels)


def test_spec_augment_masks_within_its_bounds_and_with_the_mean() -> None:
    settings = SpecAugmentConfig(freq_masks=1, freq_width=10, time_masks=1, time_width=20, time_share=0.5)
    inputs_BTF, lengths_B = noise([100, 30])
    for seed in range(20):
        torch.manual_seed(seed)
        masked_BTF = spec_augment(inputs_BTF, lengths_B, settings)
        for row, (length, longest) in enumerate(((100, 20), (30, 15))):
            changed_TF = (masked_BTF != inputs_BTF)[row, :length]
            assert 0 <= changed_TF.all(dim=0).sum() <= 10 and changed_TF.all(dim=1).sum() <= longest
            mean_F = inputs_BTF[row, :length].mean(0).expand(length, -1)
            torch.testing.assert_close(masked_BTF[row, :length][changed_TF], mean_F[changed_TF])


def test_spec_augment_repeats_itself_by_torchs_seed_and_can_be_nothing() -> None:
    batch = noise([50, 30])
    torch.manual_seed(3)
    first = spec_augment(*batch, SpecAugmentConfig())
    torch.manual_seed(3)
    assert torch.equal(spec_augment(*batch, SpecAugmentConfig()), first) and not torch.equal(first, batch[0])
    assert torch.equal(spec_augment(*batch, SpecAugmentConfig(freq_masks=0, time_masks=0)), batch[0])
