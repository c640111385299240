"""The reference's posteriors computed once: what is stored, what is noticed, that training with them is the same."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

from layerdial.audio.features import fbank
from layerdial.audio.files import change_speed
from layerdial.config.recipe import Recipe
from layerdial.data.batching import Batch, Position, training_batches
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.data.posteriors import PosteriorStore, StalePosteriors, Stored, TopPosteriors, key_of, stack, write_shard
from layerdial.errors import UserError
from layerdial.training import precompute as posteriors
from layerdial.training.loop import train
from layerdial.training.precompute import stored_posteriors
from layerdial.training.reference import Reference
from layerdial.training.setup import make_accelerator
from layerdial.utils.rows import read_rows
from tiny import LOG_MEL, RANDOM, equal, in_child, losses, sentences, tiny_recipe, weights, write_corpus
from tiny_training import kill, kill_at_step, on_two_ranks, told, train_and_tell

MASKED = "spec_augment={freq_masks: 2, time_masks: 2}"


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    """A corpus of its own: eight cuts, whose store lies beside them."""
    return write_corpus(tmp_path / "corpus" / "few.cuts.jsonl.gz", sentences(8))


def dld(run: Path, cuts: Path, reference: Path, *changes: str, teacher: str = "cached") -> Recipe:
    """Four steps of DLD from the reference."""
    return tiny_recipe(
        *(run, cuts, cuts, f"reference={reference}", "init=reference", "objective.distil.weight=1"),
        *("train.steps=4", "train.eval_every=4", f"objective.distil.teacher={teacher}", *changes),
    )


def make(recipe: Recipe) -> PosteriorStore:
    return stored_posteriors(recipe, Reference.load(recipe.reference), make_accelerator(recipe))  # type: ignore[arg-type]


def few(recipe: Recipe, store: PosteriorStore, count: int = 6) -> list[Batch]:
    """The first batches of a run with these posteriors."""
    tokenizer = Reference.load(recipe.reference).tokenizer  # type: ignore[arg-type]
    return list(islice(training_batches(recipe.data, tokenizer, LOG_MEL, 0, Position(), posteriors=store), count))


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many utterances each call of a reference heard, from now on."""
    calls: list[int] = []
    posteriors_of = Reference.posteriors

    def counting(self: Reference, inputs: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        calls.append(len(lengths_B))
        return posteriors_of(self, inputs, lengths_B)

    monkeypatch.setattr(Reference, "posteriors", counting)
    return calls


def own_posteriors(reference: Reference, cut: Any, speed: float) -> torch.Tensor:
    """What the reference makes of a cut alone: (T, V)."""
    heard = torch.from_numpy(fbank(change_speed(load_samples(cut), speed)))
    return reference.posteriors(heard.unsqueeze(0), torch.tensor([len(heard)]))[0]


# ---------------------------------------------------------------------------------------------------- the format


@pytest.mark.parametrize(("vocabulary", "k"), [(5, 16), (40, 16), (40, 1), (300, 4), (40_000, 2)])
def test_the_best_tokens_keep_their_probabilities_and_the_others_share_the_rest(vocabulary: int, k: int) -> None:
    logp_TV = (3 * torch.randn(50, vocabulary, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    found_TV = TopPosteriors.of(logp_TV, k).expand(torch.device("cpu"))
    torch.testing.assert_close(found_TV.exp().sum(-1), torch.ones(50), atol=1e-5, rtol=0)
    best_TK = logp_TV.topk(min(k, vocabulary)).indices
    torch.testing.assert_close(found_TV.gather(1, best_TK), logp_TV.gather(1, best_TK), atol=0.01, rtol=1e-3)
    others_TV = found_TV.scatter(1, best_TK, float("nan"))
    for row in others_TV:
        rest = row[~row.isnan()]
        assert len(rest) == max(vocabulary - k, 0) and (not len(rest) or float(rest.max() - rest.min()) == 0)


def test_a_frame_that_is_sure_and_one_without_hope_stay_finite() -> None:
    logp_TV = torch.tensor([[0.0, -200.0, -2e5, -torch.inf], [-torch.inf, -torch.inf, 0.0, -torch.inf]])
    for k in (1, 2, 4):
        found_TV = TopPosteriors.of(logp_TV, k).expand(torch.device("cpu"))
        assert found_TV.isfinite().all()
        torch.testing.assert_close(found_TV.exp(), logp_TV.exp())


def test_an_utterance_in_a_batch_is_what_it_is_alone() -> None:
    utterances = [TopPosteriors.of(torch.randn(t, 9).log_softmax(-1), 3) for t in (4, 7)]
    batch = stack(utterances)
    assert batch is not None and stack([]) is None
    whole_BTV = batch.expand(torch.device("cpu"))
    assert whole_BTV.shape == (2, 7, 9) and whole_BTV.isfinite().all()
    for row, utterance in zip(whole_BTV, utterances, strict=True):
        assert torch.equal(row[: len(utterance.logp)], utterance.expand(torch.device("cpu")))


def test_another_number_of_frames_is_refused_with_both_numbers(tmp_path: Path) -> None:
    top = TopPosteriors.of(torch.randn(6, 9).log_softmax(-1), 3)
    write_shard(tmp_path, [Stored(posteriors.key_of("a", 1.0), 0, top), Stored(posteriors.key_of("b", 0.9), 0, top)])
    store = PosteriorStore(tmp_path, 9)
    assert torch.equal(store.read("b", 0.9, 6).logp, top.logp)
    with pytest.raises(UserError, match=r"cut b at speed 0\.9 has posteriors of 6 frames .*, the network makes 7"):
        store.read("b", 0.9, 7)
    with pytest.raises(UserError, match=r"cut b at speed 1 has no posteriors in"):
        store.read("b", 1.0, 6)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read .*; remove it") as problem:
        PosteriorStore(tmp_path, 9)
    assert "\n" not in str(problem.value)


# ------------------------------------------------------------------------------------------------ what is stored


@pytest.mark.parametrize("part", ["tokens", "logp", "frames"])
def test_one_damaged_number_of_a_shard_is_found_when_it_is_read(tmp_path: Path, part: str) -> None:
    utterances = [Stored(key_of(name, 1.0), 0, TopPosteriors.of(torch.randn(5, 9).log_softmax(-1), 4)) for name in "ab"]
    write_shard(tmp_path, utterances)
    [shard] = tmp_path.iterdir()
    PosteriorStore(tmp_path, 9).read("a", 1.0, 5)
    tensors = load_file(shard)
    tensors[part].flat[0] += 1
    save_file(tensors, shard)
    with pytest.raises(StalePosteriors, match=r"is damaged \(cut a\); remove it" if part != "frames" else "frames"):
        PosteriorStore(tmp_path, 9).read("a", 1.0, 5)


def test_shards_of_earlier_versions_have_no_sums_and_are_read(tmp_path: Path) -> None:
    write_shard(tmp_path, [Stored(key_of("a", 1.0), 0, TopPosteriors.of(torch.randn(5, 9).log_softmax(-1), 4))])
    [shard] = tmp_path.iterdir()
    save_file({name: tensor for name, tensor in load_file(shard).items() if name != "sums"}, shard)
    assert len(PosteriorStore(tmp_path, 9).read("a", 1.0, 5).logp) == 5


def test_stored_are_the_references_own_posteriors_at_every_speed(learnt: Path, cuts: Path, tmp_path: Path) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt, "data.speeds=[0.9, 1.0, 1.1]", "objective.distil.top_k=2")
    store, reference = make(recipe), Reference.load(learnt)
    assert len(store) == 3 * 8
    for cut in open_cuts(cuts):
        for speed in (0.9, 1.0, 1.1):
            own_TV = own_posteriors(reference, cut, speed)
            found_TV = store.read(cut.id, speed, len(own_TV)).expand(torch.device("cpu"))
            kept_TV = TopPosteriors.of(own_TV, 2).expand(own_TV.device)
            torch.testing.assert_close(found_TV.exp(), kept_TV.exp(), atol=1e-3, rtol=1e-3)
            best_TK = own_TV.topk(2).indices
            torch.testing.assert_close(
                found_TV.gather(1, best_TK).exp(), own_TV.gather(1, best_TK).exp(), atol=2e-3, rtol=1e-3
            )


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_bring_the_posteriors_of_what_is_heard(learnt: Path, cuts: Path, tmp_path: Path, workers: int) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt, "data.speeds=[0.8, 1.2]", f"data.workers={workers}")
    reference = Reference.load(learnt)
    lengths: dict[str, set[int]] = {}
    for batch in few(recipe, make(recipe)):
        assert batch.posteriors is not None
        found_BTV = batch.posteriors.expand(torch.device("cpu"))
        own_BTV = reference.posteriors(batch.inputs, batch.input_lengths_B)
        assert found_BTV.shape == own_BTV.shape
        for row, frames in enumerate(LOG_MEL.frames(batch.input_lengths_B).tolist()):
            torch.testing.assert_close(found_BTV[row, :frames].exp(), own_BTV[row, :frames].exp(), atol=2e-3, rtol=1e-3)
            lengths.setdefault(batch.ids[row], set()).add(frames)
    assert any(len(found) > 1 for found in lengths.values())  # both speeds were heard


def test_new_cuts_and_speeds_are_computed_and_nothing_twice(
    learnt: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch)
    recipe = dld(tmp_path / "run", cuts, learnt)
    make(recipe)
    assert sum(calls) == 8
    make(recipe)
    assert sum(calls) == 8
    write_corpus(cuts, sentences(10))  # the first eight are as they were
    make(recipe)
    assert sum(calls) == 8 + 2
    make(dld(tmp_path / "run", cuts, learnt, "data.speeds=[1.0, 0.9]"))
    assert sum(calls) == 8 + 2 + 10


def test_cuts_that_cannot_be_read_or_are_too_long_are_left_to_training(
    learnt: Path, cuts: Path, tmp_path: Path
) -> None:
    (cuts.parent / "audio" / "few.cuts.jsonl-3.wav").unlink()
    longest = max(cut.duration for cut in open_cuts(cuts))
    n_longest = sum(cut.duration == longest for cut in open_cuts(cuts))
    recipe = dld(tmp_path / "run", cuts, learnt, f"data.max_seconds={longest - 0.01}", "train.steps=3")
    run = train(recipe).parent
    assert [row["id"] for row in read_rows(run / "rejected.jsonl")] == ["few.cuts.jsonl-3"]
    assert len(make(recipe)) == 8 - 1 - n_longest


# ---------------------------------------------------------------------------------------------------- in training


@pytest.mark.medium
def test_a_run_with_stored_posteriors_has_the_losses_of_one_that_asks_the_reference(
    learnt: Path, cuts: Path, tmp_path: Path
) -> None:
    found = {}
    for teacher in ("augmented", "clean", "cached"):
        train(dld(tmp_path / teacher, cuts, learnt, "data.speeds=[0.9, 1.1]", teacher=teacher))
        found[teacher] = losses(tmp_path / teacher)
    assert found["augmented"] == found["clean"]
    for step, row in found["augmented"].items():
        assert row[2] > 0 and found["cached"][step] == pytest.approx(row, rel=1e-2, abs=1e-3)


def test_spec_augment_reaches_the_student_alone_unless_the_teacher_is_augmented(
    learnt: Path, cuts: Path, tmp_path: Path
) -> None:
    found = {}
    for teacher in ("augmented", "clean", "cached"):
        train(dld(tmp_path / teacher, cuts, learnt, MASKED, "train.steps=1", "policy.name=none", teacher=teacher))
        found[teacher] = losses(tmp_path / teacher)[1]
    # from the same weights, with all blocks: what the reference hears as the student does, they agree on
    assert found["augmented"][2] == pytest.approx(0, abs=1e-6) and found["clean"][2] > 0.01
    assert found["cached"][:3] == pytest.approx(found["clean"][:3], rel=1e-2)


def test_the_reference_is_not_called_in_any_step(
    learnt: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch)
    train(dld(tmp_path / "first", cuts, learnt))
    assert sum(calls) == 8  # each utterance once, to be stored
    train(dld(tmp_path / "second", cuts, learnt, "train.seed=1"))
    assert sum(calls) == 8
    assert all(row[2] > 0 for row in losses(tmp_path / "second").values())


@pytest.mark.medium
def test_a_killed_run_goes_on_as_if_nothing_had_happened(learnt: Path, cuts: Path, tmp_path: Path) -> None:
    whole, killed = (dld(tmp_path / name, cuts, learnt, *RANDOM) for name in ("whole", "killed"))
    train(whole)

    def killed_run() -> None:
        kill_at_step(5)
        train(killed)

    assert in_child(killed_run).code < 0
    train(killed, resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


@pytest.mark.medium
def test_two_ranks_read_what_the_first_has_written(learnt: Path, cuts: Path, tmp_path: Path) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt, "data.batch_seconds=3", "train.steps=2")
    first, second = told(on_two_ranks(lambda rank: train_and_tell(recipe, rank)))
    assert first["weights"] == second["weights"] and first["ids"] != second["ids"]
    assert all(row[2] > 0 for row in losses(tmp_path / "run").values())


# ------------------------------------------------------------------------------------------- what can be wrong


def test_a_kill_while_they_are_computed_costs_what_was_not_yet_written(
    learnt: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt, "data.batch_seconds=2")
    whole = make(recipe)
    shutil.copytree(whole.folder, tmp_path / "whole")
    shutil.rmtree(whole.folder)
    monkeypatch.setattr(posteriors, "_SHARD_SECONDS", 2.0)
    write = posteriors.write_shard

    def killed_making() -> None:
        written = []

        def deadly(folder: Path, utterances: list[Stored]) -> None:
            if len(written) == 2:
                kill()
            write(folder, utterances)
            written.append(utterances)

        posteriors.write_shard = deadly
        make(recipe)

    assert in_child(killed_making).code < 0
    kept = len(PosteriorStore(whole.folder, whole.vocabulary))
    assert 0 < kept < 8
    calls = count_calls(monkeypatch)
    store, whole = make(recipe), PosteriorStore(tmp_path / "whole", whole.vocabulary)
    assert sum(calls) == 8 - kept and len(store.shards) > 2
    for cut in open_cuts(cuts):
        frames = LOG_MEL.frames(len(fbank(load_samples(cut))))
        torch.testing.assert_close(
            store.read(cut.id, 1.0, frames).expand(torch.device("cpu")).exp(),
            whole.read(cut.id, 1.0, frames).expand(torch.device("cpu")).exp(),
        )


def test_another_reference_has_a_store_of_its_own(learnt: Path, cuts: Path, tmp_path: Path) -> None:
    other = train(tiny_recipe(tmp_path / "other", cuts, cuts, "train.steps=1"))
    stores = [make(dld(tmp_path / "run", cuts, reference)) for reference in (learnt, other)]
    wider = make(dld(tmp_path / "run", cuts, learnt, "objective.distil.top_k=3"))
    assert len({store.folder for store in (*stores, wider)}) == 3 and all(len(s) == 8 for s in (*stores, wider))
    assert {store.folder.parent for store in stores} == {cuts.parent / "few.posteriors"}


def test_a_corpus_made_anew_under_the_same_names_is_computed_anew(
    learnt: Path, cuts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt)
    make(recipe)
    for file in (cuts.parent / "audio").iterdir():
        samples, rate = soundfile.read(file)
        soundfile.write(file, samples[::-1], rate)
    store, reference = make(recipe), Reference.load(learnt)
    assert "the audio has changed" in caplog.text and len(store) == 8
    cut = next(iter(open_cuts(cuts)))
    own_TV = own_posteriors(reference, cut, 1.0)
    found_TV = store.read(cut.id, 1.0, len(own_TV)).expand(torch.device("cpu"))
    torch.testing.assert_close(found_TV.exp(), own_TV.exp(), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_cut_whose_audio_has_changed_stops_the_run_with_one_line(
    learnt: Path, cuts: Path, tmp_path: Path, workers: int
) -> None:
    recipe = dld(tmp_path / "run", cuts, learnt, f"data.workers={workers}")
    folder = make(recipe).folder
    changed = cuts.parent / "audio" / "few.cuts.jsonl-5.wav"
    samples, rate = soundfile.read(changed)
    soundfile.write(changed, np.zeros_like(samples), rate)
    with pytest.raises(
        UserError, match=r"cut few\.cuts\.jsonl-5: its audio or text is not what the reference had"
    ) as problem:
        train(recipe)
    assert str(folder) in str(problem.value) and "\n" not in str(problem.value)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_written(
    learnt: Path, cuts: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    recipe = dld(tmp_path / "run", cuts, learnt, f"data.posteriors={tmp_path / 'file'}")
    with pytest.raises(UserError, match=r"cannot write .*file.*data\.posteriors says where") as problem:
        train(recipe)
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


def test_a_finished_store_needs_no_writing(learnt: Path, cuts: Path, tmp_path: Path) -> None:
    """As under a folder of corpora that only the administrator writes."""
    recipe = dld(tmp_path / "run", cuts, learnt, f"data.posteriors={tmp_path / 'store'}")
    before = make(recipe)
    times = {file: file.stat().st_mtime_ns for file in [before.folder, *before.folder.iterdir()]}
    assert len(make(recipe)) == 8
    assert {file: file.stat().st_mtime_ns for file in [before.folder, *before.folder.iterdir()]} == times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["objective.distil.weight=0"], r"objective\.distil\.weight: .*greater than 0, found 0"),
        (
            ["objective.distil=null", "data.posteriors=x"],
            r"data\.posteriors .* needs objective\.distil\.teacher: cached",
        ),
        (
            ["objective.distil.teacher=clean", "objective.distil.top_k=8"],
            r"objective\.distil: top_k .* needs teacher: cached",
        ),
        (
            ["objective.distil.teacher=clean", "data.posteriors=x"],
            r"data\.posteriors .* needs objective\.distil\.teacher",
        ),
        (["objective.distil.teacher=deaf"], r"objective\.distil\.teacher: .*found 'deaf'"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        dld(tmp_path / "run", tmp_path, tmp_path, *changes)
    assert "\n" not in str(problem.value)
