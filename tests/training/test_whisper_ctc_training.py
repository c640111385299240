"""Training a CTC head on Whisper's encoder: what learns, what stays as it is, and what does not fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layerdial.config.recipe import Recipe
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network
from layerdial.models.huggingface.whisper_ctc import WhisperCTC
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.training.loop import train
from tiny import command, losses, tiny_recipe, weights
from tiny_whisper import N_BLOCKS, save_encoder, save_whisper, save_whisper_ctc, write_spoken

pytestmark = pytest.mark.medium  # each trains a network of the library


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whole") / "hf")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "hf")


@pytest.fixture(scope="module")
def with_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper_ctc(tmp_path_factory.mktemp("ctc") / "hf")


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return write_spoken(tmp_path / "corpus" / "few.cuts.jsonl.gz", 6)


def with_ctc(run: Path, cuts: Path, start: Path, *changes: str) -> Recipe:
    """Return a recipe of three updates of a checkpoint's encoder under a CTC head for the characters of the texts."""
    keys = (f"init={start}", "model={family: hf, head: ctc}", "tokenizer={kind: char}")
    return tiny_recipe(run, cuts, cuts, *keys, "train.steps=3", "train.eval_every=3", *changes)


@pytest.mark.parametrize("start", ["whole", "encoder"])
def test_a_head_goes_onto_the_encoder_and_the_front_end_stays(
    request: pytest.FixtureRequest, cuts: Path, tmp_path: Path, start: str
) -> None:
    folder = request.getfixturevalue(start)
    model = train(with_ctc(tmp_path / "run", cuts, folder, "policy={name: none}"))
    before, after = load_file(folder / "model.safetensors"), weights(tmp_path / "run")
    trained = {name for name in after if name not in before or not torch.equal(before[name].float(), after[name])}
    assert after.keys() - before.keys() == {"ctc_head.weight", "ctc_head.bias"}
    assert after.keys() - trained == {
        *(f"model.encoder.conv{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")),
        "model.encoder.embed_positions.weight",
    }
    network, tokenizer = load_network(model)
    assert isinstance(network, WhisperCTC) and tokenizer.tokens == ["<blk>", *"abdgh", "▁"]


@pytest.mark.parametrize(
    "changes",
    [
        ("policy={name: uniform_count, subsets: even}",),
        ("policy={name: bernoulli, keep_prob: 0.5}",),
        ("policy={name: prefix}", "tokenizer={kind: bpe, size: 10}"),
        ("policy={name: sandwich}", "objective={in_place: {weight: 1}}"),
        ("policy={name: none}", "objective={exits: {at: all, power: 1}}"),
        ("model={family: hf, head: ctc, gradient_checkpointing: true}", "spec_augment={time_masks: 2, freq_masks: 1}"),
    ],
    ids=["even", "bernoulli", "prefix and pieces", "sandwich", "exits", "checkpointing"],
)
def test_the_policies_and_objectives_that_exist_train_it(
    encoder: Path, cuts: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    model = train(with_ctc(tmp_path / "run", cuts, encoder, *changes))
    assert all(torch.isfinite(torch.tensor(row)).all() for row in losses(tmp_path / "run").values())
    found = load_torch_model(model).transcribe(load_samples(next(iter(open_cuts(cuts)))), depth=2)
    assert found.subset.depth == 2


@pytest.mark.parametrize("teacher", ["clean", "cached"])
def test_a_student_learns_from_a_reference_with_a_ctc_head(
    with_head: Path, cuts: Path, tmp_path: Path, teacher: str
) -> None:
    changes = (f"reference={with_head}", "init=reference", "model=null", "tokenizer=null")
    recipe = with_ctc(tmp_path / "run", cuts, with_head, *changes, f"objective={{distil: {{teacher: {teacher}}}}}")
    model = train(recipe)
    rows = losses(tmp_path / "run")
    assert all(row[2] > 0 for row in list(rows.values())[1:])  # the student has moved away from it
    assert load_network(model)[1].tokens == load_network(with_head)[1].tokens


def test_the_head_of_the_folder_goes_on_unless_there_is_another_tokenizer(
    with_head: Path, whole: Path, cuts: Path, tmp_path: Path
) -> None:
    still = ("optim.lr=1e-12", "train.steps=1", "train.eval_every=1")
    train(with_ctc(tmp_path / "own", cuts, with_head, "tokenizer=null", *still))
    train(with_ctc(tmp_path / "other", cuts, with_head, *still))
    train(with_ctc(tmp_path / "path", cuts, whole, f"tokenizer={{path: {with_head}}}", *still))
    before = load_file(with_head / "model.safetensors")["ctc_head.weight"]
    own, other, path = (weights(tmp_path / name)["ctc_head.weight"] for name in ("own", "other", "path"))
    torch.testing.assert_close(own, before)
    assert not torch.allclose(other, before) and path.shape == before.shape


def test_exits_come_with_their_ladder(encoder: Path, cuts: Path, tmp_path: Path) -> None:
    exits = ("policy={name: none}", "objective={exits: {at: all}}")
    ladder = Ladder.beside(train(with_ctc(tmp_path / "run", cuts, encoder, *exits)), N_BLOCKS)
    assert ladder is not None and [rung.subset for rung in ladder.rungs] == ["1000", "1100", "1110", "1111"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("tokenizer=null",), "has no CTC head; say for which tokens"),
        (("model={family: hf}",), "leave `tokenizer` out of the recipe, or set model.head: ctc"),
        (("model={family: hf}", "tokenizer=null"), "has no decoder .* train a CTC head on it: model.head: ctc"),
        (("model={family: hf, head: ctc, freeze_decoder: all}",), "freeze_decoder is for encoder-decoder models"),
        (("init=scratch",), "begin with one: init=FOLDER_OR_HUB_ID"),
        (("model={family: hf, head: rnnt}",), "head"),
    ],
    ids=["no tokens", "no head", "no decoder", "no decoder to freeze", "scratch", "another head"],
)
def test_what_does_not_fit_together_is_refused_in_one_line(
    encoder: Path, cuts: Path, tmp_path: Path, changes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said) as raised:
        train(with_ctc(tmp_path / "run", cuts, encoder, *changes))
    assert "\n" not in str(raised.value)


def test_a_decoder_is_no_reference_for_ctc_and_other_models_have_their_own_head(
    whole: Path, cuts: Path, tmp_path: Path
) -> None:
    from tiny_hf import save_tiny

    with pytest.raises(UserError, match="has a decoder, from which CTC cannot learn"):
        train(with_ctc(tmp_path / "run", cuts, whole, f"reference={whole}", "init=reference"))
    wavlm = save_tiny(tmp_path / "wavlm", "wavlm-base")
    with pytest.raises(UserError, match=r"of type wavlm, a CTC model as it is; leave model\.head out"):
        train(with_ctc(tmp_path / "run", cuts, wavlm))


@pytest.mark.slow
def test_it_learns_six_utterances_by_heart_at_every_depth(encoder: Path, cuts: Path, tmp_path: Path) -> None:
    changes = ("policy={name: sandwich, subsets: even}", "optim.lr=5e-3", "train.steps=500", "train.eval_every=500")
    model = train(with_ctc(tmp_path / "run", cuts, encoder, *changes, "train.eval_depths=[1, 2, 3, 4]"))
    assert set(json.loads((tmp_path / "run/dev.json").read_text()).values()) == {0.0}
    ended = command("transcribe", model, next(iter(open_cuts(cuts))).recording.sources[0].source, "--depth", 1)
    assert ended.code == 0 and next(iter(open_cuts(cuts))).supervisions[0].text in ended.out
