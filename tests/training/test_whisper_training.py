"""Training Whisper: the objectives and policies that exist, with cross-entropy in the place of CTC."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from layerdial.config.recipe import Recipe
from layerdial.data.batching import Position, training_batches
from layerdial.data.manifest import cut_text, load_samples, open_cuts, write_cuts
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network
from layerdial.models.huggingface.whisper import WhisperNetwork
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.training.loop import train
from layerdial.training.precompute import stored_posteriors
from layerdial.training.pseudo_labels import write_pseudo_labels
from layerdial.training.reference import Reference
from layerdial.training.setup import make_accelerator
from layerdial.utils.rows import read_rows
from tiny import command, equal, in_child, losses, tiny_recipe, weights
from tiny_training import kill_at_step
from tiny_whisper import N_BLOCKS, save_whisper, write_spoken

pytestmark = pytest.mark.medium  # each trains a network of the library


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(
        tmp_path_factory.mktemp("published") / "hf", max_target_positions=20
    )  # short texts, soon written


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return write_spoken(tmp_path / "corpus" / "few.cuts.jsonl.gz", 6)


def fine_tune(run: Path, cuts: Path, start: Path, *changes: str) -> Recipe:
    """Return a recipe of three updates of all parts but the embeddings, from a checkpoint; dev is one utterance.

    To write nonsense to its longest, and to search again because it loops, takes longer than the updates.
    """
    start_keys = (f"reference={start}", "init=reference", "tokenizer=null", "model={family: hf}")
    write_cuts(islice(open_cuts(cuts), 1), run.with_suffix(".dev.jsonl.gz"))
    short = ("train.steps=3", "train.eval_every=3")
    return tiny_recipe(run, cuts, run.with_suffix(".dev.jsonl.gz"), *start_keys, *short, *changes)


DLD = "objective={distil: {weight: 1, teacher: cached}}"


def test_posteriors_on_disk_are_those_of_the_padded_reference(published: Path, cuts: Path, tmp_path: Path) -> None:
    recipe = fine_tune(tmp_path / "run", cuts, published, DLD)
    reference = Reference.load(published)
    assert isinstance(reference.network, WhisperNetwork) and reference.network.pads_input
    store = stored_posteriors(recipe, reference, make_accelerator(recipe))
    for cut in open_cuts(cuts):
        labels = reference.tokenizer.encode(cut_text(cut))
        mel = torch.from_numpy(reference.network.features(load_samples(cut)))
        live = reference.posteriors(mel.unsqueeze(0), torch.tensor([len(mel)]), torch.tensor([labels]))[0]
        stored = store.read(cut.id, 1.0, len(labels)).expand(torch.device("cpu"))
        best = live.topk(16, dim=-1).indices
        torch.testing.assert_close(stored.gather(1, best).exp(), live.gather(1, best).exp(), atol=2e-3, rtol=2e-3)


def test_posteriors_of_another_text_are_not_used(published: Path, cuts: Path, tmp_path: Path) -> None:
    train(fine_tune(tmp_path / "run", cuts, published, DLD))
    other = write_spoken(tmp_path / "other" / "few.cuts.jsonl.gz", 6, longest="ab abd")
    shutil.copytree(cuts.parent / "few.posteriors", other.parent / "few.posteriors")
    changed = [cut.with_id(f"cut-{5 - i}" if i < 6 else cut.id) for i, cut in enumerate(open_cuts(other))]
    assert {cut.id for cut in changed} == {f"cut-{i}" for i in range(7)}
    train(fine_tune(tmp_path / "again", other, published, DLD))  # computed anew where the text is another


@pytest.mark.parametrize(
    "changes",
    [
        ("objective={distil: {weight: 1, teacher: clean}}",),
        (DLD, "policy={name: uniform_count, subsets: even}"),
        ("policy={name: bernoulli, keep_prob: 0.5}",),
        ("policy={name: prefix}",),
        ("policy={name: sandwich}", "objective={in_place: {weight: 1}}"),
        ("policy={name: none}", "objective={exits: {at: all, power: 1}}"),
    ],
    ids=["clean", "cached", "bernoulli", "prefix", "sandwich", "exits"],
)
def test_the_policies_and_objectives_that_exist_train_it(
    published: Path, cuts: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    train(fine_tune(run, cuts, published, *changes))
    assert all(torch.isfinite(torch.tensor(row)).all() for row in losses(run).values())
    before, after = load_network(published)[0].state_dict(), load_network(run / "model")[0].state_dict()
    assert not equal(before, after)
    assert (
        load_torch_model(run / "model").transcribe(load_samples(next(iter(open_cuts(cuts))))).subset.depth == N_BLOCKS
    )


@pytest.mark.parametrize(
    ("frozen", "stays"),
    [
        ("", {"conv1", "conv2", "embed_tokens"}),
        ("freeze_decoder: none, freeze_front_end: false", set()),
        ("freeze_decoder: all", {"conv1", "conv2", "decoder"}),
    ],
)
def test_what_is_frozen_stays_as_it_was(
    published: Path, cuts: Path, tmp_path: Path, frozen: str, stays: set[str]
) -> None:
    recipe = fine_tune(tmp_path / "run", cuts, published, f"model={{family: hf, {frozen}}}", "policy={name: none}")
    train(recipe)
    before, after = load_network(published)[0].state_dict(), load_network(recipe.out / "model")[0].state_dict()
    for name, tensor in before.items():
        fixed = any(part in name for part in stays) or "encoder.embed_positions" in name
        assert torch.equal(tensor, after[name]) == fixed, name


def test_a_student_takes_audio_as_long_as_it_is_and_says_so_on_disk(
    published: Path, cuts: Path, tmp_path: Path
) -> None:
    train(fine_tune(tmp_path / "run", cuts, published))
    assert json.loads((tmp_path / "run/model/config.json").read_text())["takes_any_length"] is True
    student, _ = load_network(tmp_path / "run" / "model")
    assert isinstance(student, WhisperNetwork) and not student.pads_input


def test_a_killed_run_goes_on_as_if_nothing_had_happened(published: Path, cuts: Path, tmp_path: Path) -> None:
    changes = (DLD, "train.steps=4", "train.eval_every=2")
    whole, killed = (fine_tune(tmp_path / name, cuts, published, *changes) for name in ("whole", "killed"))
    train(whole)

    def run() -> None:
        kill_at_step(3)
        train(killed)

    in_child(run)
    train(killed, resume=True)
    assert equal(weights(whole.out), weights(killed.out))


def test_a_text_with_too_many_tokens_is_left_out_and_listed(published: Path, tmp_path: Path) -> None:
    cuts = write_spoken(tmp_path / "corpus" / "few.cuts.jsonl.gz", 4, longest="a" * 30)
    run = tmp_path / "run"
    train(fine_tune(run, cuts, published, "data.batch_seconds=60"))
    (reason,) = {row["reason"] for row in read_rows(run / "rejected.jsonl")}
    assert "32 tokens, the decoder writes at most 18" in reason


def test_freezing_a_decoder_that_is_not_there_is_refused(published: Path, cuts: Path, tmp_path: Path) -> None:
    from tiny_hf import save_tiny

    wavlm = save_tiny(tmp_path / "wavlm", "wavlm-base")
    recipe = fine_tune(tmp_path / "run", cuts, wavlm, "model={family: hf, freeze_decoder: all}")
    with pytest.raises(UserError, match="freeze_decoder is for encoder-decoder models"):
        train(recipe)


def test_another_tokenizer_and_training_from_scratch_are_refused(published: Path, cuts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave `tokenizer` out"):
        train(
            fine_tune(
                tmp_path / "run", cuts, published, "tokenizer={kind: char}", "reference=null", f"init={published}"
            )
        )
    scratch = ("model={family: hf, config: {model_type: whisper}, freeze_front_end: false}", "init=scratch")
    with pytest.raises(UserError, match="Whisper is not trained from scratch"):
        train(fine_tune(tmp_path / "run", cuts, published, *scratch, "tokenizer={kind: char}", "reference=null"))


def test_pauses_are_trained_with_and_an_example_without_words_ends_at_once(
    published: Path, cuts: Path, tmp_path: Path
) -> None:
    pauses = "data.pauses={share: 1.0, seconds: 0.5, joined: 1.0, alone: 1.0}"
    clean = "objective={distil: {weight: 1, teacher: clean}}"
    seen: list[list[int]] = []
    recipe = fine_tune(tmp_path / "run", cuts, published, pauses, clean, "data.batch_seconds=3", "data.max_seconds=2.9")
    network, tokenizer = load_network(published)
    for batch in islice(
        training_batches(recipe.data, tokenizer, network.features, 0, Position(), labels=network.labels), 6
    ):
        rows = zip(batch.tokens_BU.tolist(), batch.token_lengths_B.tolist(), strict=True)
        seen += [labels[:length] for labels, length in rows]
    end = tokenizer.encode("")[0]
    assert [end] in seen and all(labels.index(end) == len(labels) - 1 for labels in seen)
    assert max(map(len, seen)) > max(len(tokenizer.encode(text)) for text in texts_of(cuts).values())
    train(recipe)
    assert all(torch.isfinite(torch.tensor(row)).all() for row in losses(recipe.out).values())


def test_stored_posteriors_of_a_decoder_and_pauses_exclude_each_other(
    published: Path, cuts: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="teacher: clean, or leave them out"):
        train(fine_tune(tmp_path / "run", cuts, published, DLD, "data.pauses={share: 1.0}"))


@pytest.mark.slow
def test_it_learns_six_utterances_by_heart_at_every_depth(published: Path, cuts: Path, tmp_path: Path) -> None:
    changes = ("policy={name: sandwich, subsets: even}", "optim.lr=5e-3", "train.steps=500", "train.eval_every=500")
    train(fine_tune(tmp_path / "run", cuts, published, *changes, "train.eval_depths=[1, 2, 3, 4]", f"data.dev={cuts}"))
    assert set(json.loads((tmp_path / "run/dev.json").read_text()).values()) == {0.0}


# --------------------------------------------------------------------------------------------------- pseudo-labels


def texts_of(cuts: Path) -> dict[str, str]:
    return {cut.id: cut_text(cut) for cut in open_cuts(cuts)}


def test_pseudo_labels_are_what_the_model_recognises(published: Path, cuts: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.cuts.jsonl.gz"
    found = write_pseudo_labels(published, cuts, out, words="recognised", max_wer=100.0)
    model = load_torch_model(published)
    expected = {cut.id: model.transcribe(load_samples(cut)).text for cut in open_cuts(cuts)}
    assert texts_of(out) == expected and found.kept == 6 and found.left_out == found.unread == 0


def test_cuts_with_too_many_errors_are_left_out_and_none_is_no_corpus(
    published: Path, cuts: Path, tmp_path: Path
) -> None:
    ended = command("pseudo-label", published, cuts, tmp_path / "own.cuts.jsonl.gz", "--max-wer", 0)
    assert ended.code == 2 and "no text was recognised within 0%" in ended.err
    assert not (tmp_path / "own.cuts.jsonl.gz").exists()


def test_what_was_recognised_is_kept_for_the_next_call(
    published: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "own.cuts.jsonl.gz", tmp_path / "again.cuts.jsonl.gz"
    write_pseudo_labels(published, cuts, out, max_wer=100.0)
    (tmp_path / f"{out.name}.recognised.jsonl").rename(tmp_path / f"{again.name}.recognised.jsonl")
    calls: list[Any] = []
    monkeypatch.setattr("layerdial.models.torch_recognizer.TorchRecognizer.recognize", lambda *a: calls.append(a))
    write_pseudo_labels(published, cuts, again, max_wer=100.0)
    assert not calls and again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("option", "said"), [("--words", "choose transcript or recognised"), ("--precision", "choose fp32 or bf16")]
)
def test_unknown_choices_are_named(published: Path, cuts: Path, tmp_path: Path, option: str, said: str) -> None:
    ended = command("pseudo-label", published, cuts, tmp_path / "own.cuts.jsonl.gz", option, "x")
    assert ended.code == 2 and said in ended.err
