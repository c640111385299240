"""Policies, objectives and networks of one's own: what they say is what is drawn, measured and minimised."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network
from layerdial.models.prune import prune_model
from layerdial.subset import BlockSubset
from layerdial.training import scoring, update
from layerdial.training.loop import train
from layerdial.training.policies import check_policy, evaluated_subset, make_policy
from layerdial.utils.files import read_json
from layerdial.utils.rows import read_rows
from tiny import command, losses, tiny_recipe
from tiny_plugins import CONFIDENCE_PENALTY, CONV_STACK, FIRST_BLOCK, forget_plugins, own_names, write_policy

__all__ = ["own_names"]
pytestmark = pytest.mark.usefixtures("own_names")
TWO_STEPS = ("train.steps=2", "train.eval_every=2", "train.eval_depths=[1,2,3]")
SEVERAL = "Searched(BlockSubset(stack.n_blocks, tuple(range(stack.n_blocks - depth, stack.n_blocks))))"


def recipe_with(folder: Path, corpus, plugin: Path, *changes: str) -> Recipe:
    return tiny_recipe(folder / "run", corpus.train, corpus.dev, f"plugins=[{plugin}]", *TWO_STEPS, *changes)


def last_blocks(depth: int, n_blocks: int = 3) -> BlockSubset:
    return BlockSubset(n_blocks, tuple(range(n_blocks - depth, n_blocks)))


def watch(monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], list[str]]:
    """The keys of the subsets that are trained from now on, and of those that are measured on dev."""
    trained: set[str] = set()
    measured: list[str] = []
    terms_of, evaluate = update.loss_terms, scoring.evaluate
    monkeypatch.setattr(update, "loss_terms", lambda *parts: (trained.add(parts[3].key), terms_of(*parts))[1])
    monkeypatch.setattr(scoring, "evaluate", lambda *parts: (measured.append(parts[2].key), evaluate(*parts))[1])
    return trained, measured


# ----------------------------------------------------------------------------------------------------------- policies


def test_a_policy_is_measured_on_what_it_trains_and_that_is_its_ladder(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, measured = watch(monkeypatch)
    recipe = recipe_with(tmp_path, corpus, write_policy(tmp_path / "mine.py"), "policy.name=own", "train.steps=8")
    model = train(recipe)
    ladder = Ladder.beside(model, 3)
    assert ladder is not None and ladder.metric == "trained"
    assert [rung.subset for rung in ladder.rungs] == ["001", "011", "111"]
    assert set(measured) == {"001", "011", "111"} >= trained
    assert len(trained) > 1


def test_a_policy_of_several_subsets_a_depth_leaves_its_ladder_to_a_search(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, measured = watch(monkeypatch)
    file = write_policy(tmp_path / "mine.py", subset=SEVERAL)
    model = train(recipe_with(tmp_path, corpus, file, "policy.name=own"))
    assert set(measured) == {"001", "011", "111"}
    assert Ladder.beside(model, 3) is None


def test_the_policy_of_the_documents_keeps_the_first_block(corpus, tmp_path: Path) -> None:
    policy = recipe_with(tmp_path, corpus, FIRST_BLOCK, "policy={name: first_block, keep_prob: 0.3}").policy
    draw = make_policy(policy, 8, seed=0)
    drawn = [draw(step)[0] for step in range(2000)]
    assert all(0 in subset for subset in drawn)
    for block in range(1, 8):
        assert sum(block in subset for subset in drawn) / 2000 == pytest.approx(0.3, abs=0.05)
    order = random.Random(0).choices(range(2000), k=50)
    assert [draw(step)[0] for step in order] == [drawn[step] for step in order]
    assert drawn != [make_policy(policy, 8, seed=1)(step)[0] for step in range(2000)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": "BlockSubset.full(stack.n_blocks)"}, r"policy own drew 111 for 3 blocks; draw returns a tuple"),
        ({"draw": "()"}, r"policy own drew \(\) for 3 blocks"),
        ({"draw": "(BlockSubset.full(2),)"}, r"policy own drew \(11\) for 3 blocks"),
        ({"draw": "(BlockSubset(stack.n_blocks, ()),)"}, r"policy own at step 0: a subset of 3 blocks keeps none"),
        (
            {"subset": "None"},
            r"says that depth 1 of 3 blocks runs None; subset_at returns a BlockSubset of 1",
        ),
        ({"subset": "BlockSubset.full(stack.n_blocks)"}, r"policy own says that depth 1 of 3 blocks runs 111"),
        ({"subset": "Searched(BlockSubset.full(2))"}, r"policy own says that depth 1 of 3 blocks runs Searched\("),
    ],
)
def test_a_policy_that_draws_or_says_nonsense_stops_before_the_first_step(
    corpus, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    file = write_policy(tmp_path / "mine.py", **changes)
    with pytest.raises(UserError, match=message) as problem:
        train(recipe_with(tmp_path, corpus, file, "policy.name=own"))
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


def test_a_policy_that_promises_a_full_pass_has_to_make_it(corpus, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py", draw="(BlockSubset.prefix(stack.n_blocks, 1),)")
    file.write_text(file.read_text().replace("    def draw", "    last_is_full = True\n\n    def draw"))
    recipe = recipe_with(tmp_path, corpus, file, "policy.name=own", "objective.in_place.weight=1")
    with pytest.raises(UserError, match=r"policy own says last_is_full, but drew \(100\), which ends otherwise"):
        check_policy(recipe, 3, None)


def test_a_teacher_in_place_takes_any_policy_that_ends_with_all_blocks(corpus, tmp_path: Path) -> None:
    draw = "(BlockSubset.prefix(stack.n_blocks, 1), BlockSubset.full(stack.n_blocks))"
    file = write_policy(tmp_path / "mine.py", draw=draw)
    with pytest.raises(UserError, match="in_place needs a full-depth pass in every step: policy sandwich, not own"):
        recipe_with(tmp_path, corpus, file, "policy.name=own", "objective.in_place.weight=1")
    file.write_text(file.read_text().replace("    def draw", "    last_is_full = True\n\n    def draw"))
    recipe = recipe_with(tmp_path, corpus, file, "policy.name=own", "objective.in_place.weight=1")
    train(recipe)
    assert losses(recipe.out).keys() == {1, 2}


def test_what_a_policy_needs_is_asked_of_the_recipe_and_the_network(corpus, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    policy = file.read_text()
    file.write_text(policy + '\n    def needs(self):\n        return "ladder"\n')
    with pytest.raises(UserError, match="policy own needs a ladder but a run from scratch starts from no model"):
        recipe_with(tmp_path, corpus, file, "policy.name=own")
    file.write_text(policy + '\n    def needs(self):\n        return "selector"\n')
    with pytest.raises(UserError, match="policy own needs a selector, but the network has no selector"):
        train(recipe_with(tmp_path, corpus, file, "policy.name=own"))


def test_without_dropping_exits_of_an_objective_of_ones_own_are_no_early_exit(corpus, tmp_path: Path) -> None:
    objective = f"plugins=[{CONFIDENCE_PENALTY}]", "policy.name=none", "objective.name=confidence_penalty"
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *objective)
    assert evaluated_subset(recipe, 4, 2) == BlockSubset.even(4, 2)  # as there is no output after every block


# --------------------------------------------------------------------------------------------------------- objectives

DISTIL = """
from layerdial import register_objective
from layerdial.config.objective import ReferenceUse
from layerdial.modules.losses import LossTerms
from layerdial.training.objective import Objective

@register_objective("distil_alone")
class DistilAlone(Objective):
    inputs: str = "clean"

    def asks_reference(self):
        return ReferenceUse(self.inputs, top_k=3)

    def loss(self, output, passed):
        {line}
        kl = passed.distillation(passed.teachers.reference_BTV, output.log_probs_BTV)
        return LossTerms(kl, passed.ctc(output.log_probs_BTV).detach(), kl.detach())
"""


def distil_alone(folder: Path, line: str = "") -> Path:
    (folder / "distil.py").write_text(DISTIL.format(line=line))
    return folder / "distil.py"


@pytest.mark.parametrize("inputs", ["clean", "cached"])
def test_an_objective_gets_the_reference_that_it_asks_for(corpus, learnt: Path, tmp_path: Path, inputs: str) -> None:
    changes = (f"reference={learnt}", "init=reference", "policy.name=none", "model=null", "tokenizer=null")
    objective = ("objective.name=distil_alone", f"objective.inputs={inputs}", f"data.posteriors={tmp_path / 'store'}")
    objective = objective if inputs == "cached" else objective[:2]
    recipe = recipe_with(tmp_path, corpus, distil_alone(tmp_path), *changes, *objective)
    train(recipe)
    first = losses(recipe.out)[1]
    loss, _, kl = first[:3]
    assert loss == kl == pytest.approx(0.0, abs=1e-4 if inputs == "clean" else 0.2)  # the student is the reference
    kept = [read_json(file)["top_k"] for file in (tmp_path / "store").glob("*/meta.json")]
    assert kept == ([3] if inputs == "cached" else [])


def test_an_objective_that_asks_the_reference_needs_one(corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="objective distil_alone is set but there is no reference to learn from"):
        recipe_with(tmp_path, corpus, distil_alone(tmp_path), "objective.name=distil_alone")


def test_an_objective_that_returns_no_losses_is_one_line(corpus, learnt: Path, tmp_path: Path) -> None:
    file = distil_alone(tmp_path, "return 1.5")
    recipe = recipe_with(tmp_path, corpus, file, f"reference={learnt}", "objective.name=distil_alone", "tokenizer=null")
    with pytest.raises(UserError, match=r"objective distil_alone returned 1\.5; loss returns LossTerms of scalars"):
        train(recipe)


def test_the_objective_of_the_documents_is_ctc_less_entropy(corpus, tmp_path: Path) -> None:
    found = {}
    for weight in (0.0, 0.5):
        changes = ("objective.name=confidence_penalty", f"objective.weight={weight}", "policy.name=none")
        recipe = recipe_with(tmp_path / str(weight), corpus, CONFIDENCE_PENALTY, *changes)
        train(recipe)
        found[weight] = losses(recipe.out)[1]
    plain = recipe_with(tmp_path / "plain", corpus, CONFIDENCE_PENALTY, "objective.exits.at=middle", "policy.name=none")
    train(plain)
    assert found[0.0][:2] == pytest.approx(losses(plain.out)[1][:2], rel=1e-6)  # CTC after all blocks and after half
    nats = (found[0.0][0] - found[0.5][0]) / 0.5
    assert 0.0 < nats <= torch.log(torch.tensor(4.0)).item()  # of four tokens
    assert found[0.5][1] == pytest.approx(found[0.0][1], rel=1e-6)


# ----------------------------------------------------------------------------------------------------------- networks


@pytest.fixture
def stack(corpus, tmp_path: Path) -> Recipe:
    model = "model={family: conv_stack, n_blocks: 3, width: 16, kernel: 5}"
    return recipe_with(tmp_path, corpus, CONV_STACK, model)


@pytest.mark.medium
def test_a_family_of_ones_own_trains_is_stored_and_starts_others(stack: Recipe, corpus, tmp_path: Path) -> None:
    model = train(stack)
    network, _ = load_network(model)
    assert network.n_blocks == 3 and network.blueprint is not None and network.blueprint.settings == stack.model
    stored = read_json(model / "config.json")
    assert stored["model"] == stack.model.model_dump() and stored["plugin"] == str(CONV_STACK)
    for changes in (
        ("model=null", f"init={model}", f"reference={model}", "objective.distil.weight=1", "tokenizer=null"),
        (f"model={stack.model.model_dump()}", f"init={model}", "tokenizer=null"),
        ("model=null", f"reference={model}", "tokenizer=null"),
    ):
        student = train(recipe_with(tmp_path / "student", corpus, CONV_STACK, *changes))
        assert load_network(student)[0].blueprint == network.blueprint
        shutil.rmtree(tmp_path / "student")
    other = (f"model={stack.model.model_dump() | {'width': 32}}", f"init={model}", "tokenizer=null")
    with pytest.raises(UserError, match=r"is of family conv_stack and has other settings .* leave `model` out"):
        train(recipe_with(tmp_path / "student", corpus, CONV_STACK, *other))
    with pytest.raises(UserError, match=r"is of family conv_stack and has other settings .* leave `model` out"):
        train(recipe_with(tmp_path / "student", corpus, CONV_STACK, "model={size: xs}", *other[1:]))
    with pytest.raises(UserError, match="of a family that is not built in; Conformers and Hugging Face models can"):
        prune_model(model, tmp_path / "pruned", 1)
    (model / "config.json").write_text((model / "config.json").read_text().replace("25.0", "50.0"))
    with pytest.raises(UserError, match=r"has 50\.0 frames a second, its family conv_stack now makes 25\.0"):
        load_network(model)


def test_a_model_folder_never_executes_the_file_that_made_it(stack: Recipe, corpus, tmp_path: Path, own_names) -> None:
    file = tmp_path / "stack.py"
    shutil.copy(CONV_STACK, file)
    model = train(stack)
    stored = (model / "config.json").read_text().replace(str(CONV_STACK), str(file))
    (model / "config.json").write_text(stored)
    file.write_text("raise SystemExit('executed')\n")
    forget_plugins()
    with pytest.raises(UserError, match=rf"of family 'conv_stack', which is not known here \(it was made with {file}"):
        load_network(model)


BAD_FAMILY = """
from layerdial import register_network
from layerdial.models.family import NetworkFamily
from layerdial.models.network import Network

class Empty(Network):
    features = None
    head = None
    blocks = ()

class Headless(Network):
    pass

@register_network("bad")
class Bad(NetworkFamily):
    what: str = "Empty"

    def build(self, vocab_size):
        return globals()[self.what]() if self.what in globals() else None
"""


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("Empty", "network bad builds Empty, which has no blocks"),
        ("Headless", "network bad builds Headless, which has no `features`"),
        ("nothing", r"network bad builds NoneType, which is no layerdial\.models\.network\.Network"),
    ],
)
def test_a_family_that_builds_no_network_is_one_line(corpus, tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(BAD_FAMILY)
    with pytest.raises(UserError, match=message):
        train(recipe_with(tmp_path, corpus, tmp_path / "bad.py", f"model={{family: bad, what: {what}}}"))


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.medium
def test_a_run_goes_on_with_a_plugin_that_moved_and_not_with_one_that_changed(corpus, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    recipe = recipe_with(tmp_path, corpus, file, "policy.name=own", "train.steps=4")
    train(recipe)
    expected = losses(recipe.out)
    shutil.rmtree(recipe.out / "model")  # as if it had been killed before its end
    file = file.rename(tmp_path / "moved.py")
    arguments = ["train", tmp_path / "run.yaml", "--resume", "--set", f"plugins=[{file}]", "--set", "policy.name=own"]
    arguments += [part for change in (*TWO_STEPS, "train.steps=4") for part in ("--set", change)]
    forget_plugins()
    ended = command(*arguments)
    assert ended.code == 0, ended.err
    assert losses(recipe.out) == expected
    assert read_json(recipe.out / "meta.json")["recipe"]["plugins"] == [str(file)]
    file.write_text(file.read_text() + "\n# a change\n")
    ended = command(*arguments)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert f"--resume: policy own has changed since {recipe.out} was begun; change it back" in ended.err


def test_rows_of_a_run_name_the_depths_that_its_policy_drew(corpus, tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py", draw="(BlockSubset(stack.n_blocks, (1,)),)", subset=SEVERAL)
    recipe = recipe_with(tmp_path, corpus, file, "policy.name=own")
    train(recipe)
    assert {row["depth"] for row in read_rows(recipe.out / "metrics.jsonl") if "loss" in row} == {1.0}
