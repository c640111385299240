"""Training: what learns, what must stay as it is, and what can go wrong."""

from __future__ import annotations

import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from layerdial import load_model
from layerdial.config.policies import Prefix
from layerdial.config.recipe import OptimConfig
from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import open_cuts
from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.ladder import Ladder, Rung
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.modules.losses import LossTerms
from layerdial.subset import BlockSubset
from layerdial.training import checkpoints, log_window, scoring, update
from layerdial.training.loop import train
from layerdial.training.objective import skip_if_not_finite
from layerdial.training.optim import learning_rate, make_optimizer
from layerdial.utils.rows import read_rows
from tiny import (
    HERTZ,
    LOG_MEL,
    RANDOM,
    equal,
    losses,
    noise,
    remember_references,
    sentences,
    tiny_network,
    tiny_recipe,
    weights,
    write_corpus,
)

# ------------------------------------------------------------------------------------------------------ learning


def test_a_tiny_overfit_reaches_wer_0_at_every_depth(learnt: Path, corpus, recognizer: TorchRecognizer) -> None:
    for cuts in (corpus.train, corpus.dev):
        batches = FeatureBatches(cuts, LOG_MEL, workers=0)
        for depth in (1, 2, 3):
            assert evaluate(recognizer, batches, BlockSubset.even(3, depth)).wer.rate == 0
    dev = json.loads((learnt.parent / "dev.json").read_text())
    assert set(dev) == {f"dev_{unit}_at_{depth}" for unit in ("wer", "cer") for depth in (1, 2, 3)}


@pytest.fixture(scope="module")
def two_runs(corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recipe twice, 20 steps."""
    runs = [tmp_path_factory.mktemp(name) / "run" for name in ("first", "second")]
    for run in runs:
        torch.manual_seed(hash(str(run)))
        train(tiny_recipe(run, corpus.train, corpus.dev, *RANDOM[:4], "train.eval_every=20"))
    return runs[0], runs[1]


def test_tiny_run_reproduces_losses(two_runs: tuple[Path, Path]) -> None:
    first, second = map(losses, two_runs)
    assert list(first) == list(range(1, 21)) and first == second
    assert equal(*map(weights, two_runs))


def test_another_seed_gives_other_losses(two_runs: tuple[Path, Path], corpus, tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM, "train.steps=2", "train.seed=1"))
    assert losses(tmp_path / "run")[1] != losses(two_runs[0])[1]


def test_a_run_leaves_what_made_it(two_runs: tuple[Path, Path]) -> None:
    run = two_runs[0]
    meta = json.loads((run / "meta.json").read_text())
    assert meta["recipe"]["policy"]["name"] == "uniform_count" and meta["torch"] == torch.__version__
    assert {path.name for path in (run / "model").iterdir()} == {
        *("config.json", "meta.json", "model.safetensors", "tokens.txt")
    }
    assert list((run / "tensorboard").glob("events.*"))
    assert not list(run.rglob("*.tmp"))


# ----------------------------------------------------------------------------------------------------- reference


def test_the_reference_is_bit_identical_after_training_and_in_no_checkpoint(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = remember_references(monkeypatch)
    changes = (f"reference={learnt}", "objective.distil.weight=1", "model.dropout=0.1", "train.steps=4")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.eval_every=2"))
    network = loaded[0].network
    stored = load_file(learnt / "model.safetensors")
    assert equal(dict(network.state_dict()), stored)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
    assert all(row[2] > 0 for row in losses(tmp_path / "run").values())  # and it did teach
    own = set(weights(tmp_path / "run"))
    assert own == stored.keys()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    assert set(load_file(checkpoint / "model.safetensors")) == own
    assert {name.rpartition("/")[0] for name in load_file(checkpoint / "optimizer.safetensors")} <= own


def test_a_student_identical_to_its_reference_has_no_kl_at_full_depth(corpus, learnt: Path, tmp_path: Path) -> None:
    changes = (f"reference={learnt}", "init=reference", "objective.distil.weight=1", "policy.name=none")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.steps=1"))
    assert losses(tmp_path / "run")[1][2] == pytest.approx(0, abs=1e-6)


def test_a_student_from_its_reference_needs_neither_model_nor_tokenizer(corpus, learnt: Path, tmp_path: Path) -> None:
    changes = (f"reference={learnt}", "init=reference", "model=null", "tokenizer=null")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.steps=1", "optim.lr=1e-9"))
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, load_file(learnt / "model.safetensors")[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.train={other}"], "another vocabulary .4 tokens. than the student .3.; they differ from token 3 on"),
        (["tokenizer={{path: {learnt}}}", "init=reference", "model.width=64"], "width 32, the recipe's model 64"),
        (["tokenizer={{path: {learnt}}}", "init=reference", "model.block_norm=true"], "block_norm False, .* True"),
        (["reference=nowhere"], "nowhere is not a model folder"),
        (["init=nowhere"], "nowhere is not a model folder"),
        (["tokenizer={{path: nowhere}}"], r"nowhere has no tokens\.txt"),
        (["data.train=nowhere.jsonl"], r"nowhere\.jsonl does not exist"),
        (["data.dev=nowhere.jsonl"], r"nowhere\.jsonl does not exist"),
        (["train.eval_depths=[4]"], "depth 4 does not exist in an encoder of 3 blocks; choose 1 to 3"),
        (["train.precision=fp16"], "fp16 needs a GPU"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    corpus, learnt: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    if "fp16" in message and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    other = write_corpus(tmp_path / "other.cuts.jsonl.gz", ["low high"])
    filled = [change.format(learnt=learnt, other=other) for change in changes]
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"reference={learnt}", *filled)
    with pytest.raises(UserError, match=message) as problem:
        train(recipe)
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


def test_another_init_needs_its_vocabulary(corpus, learnt: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other.cuts.jsonl.gz", ["low high"])
    with pytest.raises(UserError, match=r"init: .* another vocabulary .4 tokens. .*3.; set tokenizer=.path: "):
        train(tiny_recipe(tmp_path / "run", other, corpus.dev, f"init={learnt}"))


# ---------------------------------------------------------------------------------------------- what can go wrong


def test_a_non_finite_loss_stops_with_the_ids_and_finite_weights(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.nn.Module] = []
    bad: list[tuple[str, ...]] = []
    terms_of = update.loss_terms

    def overflowing(student: torch.nn.Module, batch: Any, *rest: Any) -> Any:
        seen.append(student)
        terms = terms_of(student, batch, *rest)
        if len(seen) <= 4:
            return terms
        bad.append(batch.ids)
        return LossTerms(terms.total * float("inf"), terms.ctc, terms.distil)

    monkeypatch.setattr(update, "loss_terms", overflowing)
    with pytest.raises(UserError, match="loss is not finite at step 4 ") as problem:
        train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.eval_every=2", "train.log_every=7"))
    assert f"(batch: {', '.join(bad[0])})" in str(problem.value) and "\n" not in str(problem.value)
    assert len(bad) == 1
    assert all(parameter.isfinite().all() for parameter in seen[0].parameters())
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None
    assert all(tensor.isfinite().all() for tensor in load_file(latest / "model.safetensors").values())


def test_every_gradient_of_a_window_that_is_not_finite_is_named_not_the_last_alone() -> None:
    seen, fine = log_window.LogWindow(), torch.tensor(1.0)
    for step, norm in enumerate((fine, torch.tensor(float("inf")), fine)):
        for part in "ab":  # two passes an update
            seen.add(step, (f"{step}{part}",), 3, LossTerms(fine, fine, fine))
        seen.add_norm(norm)
    assert not seen.not_finite()
    assert [(bad.step, bad.ids) for bad in seen.gradient_not_finite()] == [(1, ("1b",))]


def test_broken_training_cuts_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    cuts = write_corpus(tmp_path / "train.cuts.jsonl.gz", sentences(4))
    (tmp_path / "audio" / "train.cuts.jsonl-2.wav").unlink()
    run = train(tiny_recipe(tmp_path / "run", cuts, cuts, "train.steps=4")).parent  # four epochs, and one line
    rejected = read_rows(run / "rejected.jsonl")
    assert [row["id"] for row in rejected] == ["train.cuts.jsonl-2"] and "does not exist" in rejected[0]["reason"]
    assert json.loads((run / "model" / "meta.json").read_text())["dev_rejected"] == 1


def test_nothing_usable_in_the_training_cuts_is_said(corpus, tmp_path: Path) -> None:
    cuts = write_corpus(tmp_path / "train.cuts.jsonl.gz", sentences(2))
    for file in (tmp_path / "audio").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"hold nothing usable; the last reason: .*does not exist"):
        train(tiny_recipe(tmp_path / "run", cuts, corpus.dev))


@pytest.mark.parametrize("policy", ["{name: sandwich}", "{name: prefix}", "{name: bernoulli, keep_prob: 0.5}"])
def test_every_policy_trains(corpus, tmp_path: Path, policy: str) -> None:
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"policy={policy}", "train.steps=2"))
    depths = [row[5] for row in losses(tmp_path / "run").values()]
    assert all(1 <= depth <= 3 for depth in depths)


def test_the_ladder_of_the_model_that_a_run_starts_from_says_what_it_trains_and_is_measured_at(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("policy.subsets=ladder", "train.steps=6", "train.eval_every=6", "train.eval_depths=[1,2]")
    start = shutil.copytree(learnt, tmp_path / "start", ignore=shutil.ignore_patterns("ladder.json"))
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, f"init={start}", *changes)
    with pytest.raises(UserError, match=rf"{start} has no ladder\.json; run layerdial search there first") as problem:
        train(recipe)
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()

    keys = ("010", "011", "111")
    rungs = tuple(Rung(depth, key, None, 0.0, 0, 1) for depth, key in enumerate(keys, 1))
    Ladder(3, "loss", "dev", 1, rungs).save(start / "ladder.json")
    trained, measured = set[str](), set[str]()
    terms_of, evaluated = update.loss_terms, scoring.evaluate
    monkeypatch.setattr(update, "loss_terms", lambda *parts: (trained.add(parts[3].key), terms_of(*parts))[1])
    monkeypatch.setattr(scoring, "evaluate", lambda *parts: (measured.add(parts[2].key), evaluated(*parts))[1])
    model = train(recipe)
    assert trained == set(keys) and measured == {"010", "011"}
    ladder = Ladder.beside(model, 3)
    assert ladder is not None and tuple(rung.subset for rung in ladder.rungs) == keys


@pytest.mark.parametrize("policy", ["uniform_count", "sandwich"])
def test_a_model_that_trains_no_shallow_depths_has_none_in_its_ladder(corpus, tmp_path: Path, policy: str) -> None:
    changes = (f"policy.name={policy}", "policy.subsets=even", "policy.min_depth=2", "train.steps=2")
    with pytest.raises(UserError, match=r"train\.eval_depths has 1, but policy\.min_depth is 2"):
        train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.eval_depths=[1,3]"))
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.eval_depths=null"))
    assert "dev_wer_at_2" in json.loads((tmp_path / "run" / "dev.json").read_text())
    ladder = Ladder.beside(model, 3)
    assert ladder is not None and [rung.depth for rung in ladder.rungs] == [2, 3]
    with pytest.raises(UserError, match="trained at depths 2 to 3, found depth 1"):
        load_model(model).subset(1)


@pytest.mark.medium
@pytest.mark.parametrize("changes", [("policy.subsets=chosen", "model.selector=input"), ("objective.exits.at=all",)])
def test_half_precision_trains_selectors_and_exits(corpus, tmp_path: Path, changes: tuple[str, ...]) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        more = ("train.steps=2", "policy.name=sandwich", "objective.in_place.weight=1", f"train.precision={precision}")
        train(tiny_recipe(run, corpus.train, corpus.dev, *changes, *more))
        found.append(losses(run)[1])
    assert found[0] != found[1] and found[0][0] == pytest.approx(found[1][0], rel=0.1)


@pytest.mark.medium
def test_half_precision_trains_after_a_run_in_full_precision(corpus, learnt: Path, tmp_path: Path) -> None:
    changes = (f"reference={learnt}", "init=reference", "objective.distil.weight=1", "train.steps=2")
    found = []
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        train(tiny_recipe(run, corpus.train, corpus.dev, *changes, f"train.precision={precision}"))
        found.append(losses(run)[1])
        assert all(tensor.dtype == torch.float32 for tensor in weights(run).values())
    assert found[0] != found[1] and found[0][0] == pytest.approx(found[1][0], abs=0.2)


@pytest.mark.medium
def test_half_precision_learns_and_is_measured_in_full_precision(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dev score of a run is the one that a sweep of its model will find."""
    measured: list[torch.Tensor] = []
    inputs, lengths = noise([40, 30])
    score, every = scoring.dev_scores, BlockSubset.full(3)

    def measure_too(network: Any, *rest: Any) -> Any:
        with torch.inference_mode():
            measured.append(network.eval()(inputs, lengths, every)[0])
        return score(network, *rest)

    monkeypatch.setattr(scoring, "dev_scores", measure_too)
    changes = ("train.precision=bf16", "train.steps=30", "train.eval_every=30", "policy.name=sandwich")
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    found = [row[0] for row in losses(tmp_path / "run").values()]
    assert sum(found[-3:]) < 0.6 * sum(found[:3])
    network = load_model(model).network
    with torch.inference_mode():
        assert torch.equal(measured[-1], network(inputs, lengths, every)[0])


def test_accumulating_equals_a_bigger_batch_of_as_many_labels_each(tmp_path: Path) -> None:
    texts = [" ".join(words) for words in permutations(HERTZ)][:4]
    cuts = write_corpus(tmp_path / "train.cuts.jsonl.gz", texts)
    found = []
    for seconds, accumulate in ((5.0, 1), (2.5, 2)):
        run = tmp_path / f"run-{accumulate}"
        changes = (f"data.batch_seconds={seconds}", f"train.accumulate={accumulate}", "train.steps=1")
        train(tiny_recipe(run, cuts, cuts, *changes))
        found.append(losses(run)[1])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0][-1] == pytest.approx(sum(cut.duration for cut in open_cuts(cuts)))


def test_an_update_with_a_gradient_that_is_not_finite_changes_nothing() -> None:
    network = tiny_network()
    optimizer = make_optimizer(network, OptimConfig(lr=0.1))

    def update(gradient: float) -> list[torch.Tensor]:
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        skip_if_not_finite(optimizer, torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0))
        optimizer.step()
        state = [tensor for each in optimizer.state.values() for tensor in each.values()]
        return [tensor.detach().clone() for tensor in (*network.parameters(), *state)]

    first = update(1.0)
    for gradient in (float("nan"), float("inf")):
        assert all(map(torch.equal, update(gradient), first))
    assert not any(map(torch.equal, update(1.0), first))


def test_a_block_that_never_runs_keeps_its_weights(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weight decay nor momentum touches what had no gradient."""
    monkeypatch.setattr(Prefix, "draw", lambda self, step, stack, rng: (BlockSubset.prefix(stack.n_blocks, 2),))
    changes = (f"init={learnt}", "policy.name=prefix", "train.steps=3", "optim.weight_decay=0.5")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    before, after = load_file(learnt / "model.safetensors"), weights(tmp_path / "run")
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder.blocks.2."), name


# ------------------------------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_the_learning_rate_rises_to_its_peak_and_falls(schedule) -> None:
    config = OptimConfig(lr=2e-3, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(2e-3) and rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(2e-4)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(2e-5 if schedule == "cosine" else 2e-3 * (10 / 100) ** 0.5)


def test_norms_and_biases_do_not_decay() -> None:
    network = tiny_network()
    groups = make_optimizer(network, OptimConfig(weight_decay=0.1)).param_groups
    names = {parameter: name for name, parameter in network.named_parameters()}
    decaying = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    assert decaying == {name for name in names.values() if name.endswith("weight") and "norm" not in name}
