"""Networks that choose their blocks: as many as the budget says, for each utterance by itself, and learnt."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layerdial.config.network import ConformerConfig
from layerdial.errors import UserError
from layerdial.export.writer import trace
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import macs_per_second, parameter_count
from layerdial.modules.selector import InputSelector, LearnedScores, top_gates
from layerdial.subset import BlockSubset, SelectorDepth
from layerdial.text.tokenizer import build_tokenizer
from layerdial.training.loop import train
from layerdial.training.scoring import own_subsets
from tiny import equal, noise, tiny_network, tiny_recipe, weights

N = 6
LENGTHS = [83, 40, 61, 17, 70, 25, 52, 33]
KINDS = pytest.mark.parametrize("kind", ["input", "scores"])


def network(kind: str = "input", **changes: Any) -> ConformerCTC:
    """One that chooses by what it hears or by its scores; the inputs of `LENGTHS` choose differently."""
    made = tiny_network(n_blocks=N, selector=kind, **changes)
    if isinstance(made.selector, LearnedScores):
        nn.init.normal_(made.selector.score_N)
    return made


def calls(of: ConformerCTC) -> Counter[int]:
    """From now on, how many utterances each block was called with."""
    counted: Counter[int] = Counter()
    for i, block in enumerate(of.encoder.blocks):
        block.register_forward_pre_hook(lambda _, inputs, i=i: counted.update({i: len(inputs[0])}))
    return counted


def choice(of: ConformerCTC, inputs: torch.Tensor, lengths_B: torch.Tensor, depth: int) -> BlockSubset:
    """The blocks that run for one utterance."""
    counted = calls(of)
    with torch.no_grad():
        of(inputs, lengths_B, SelectorDepth(N, depth))
    return BlockSubset(N, tuple(sorted(counted)))


# ------------------------------------------------------------------------------------------------- choosing, running


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_exactly_as_many_blocks_as_the_budget_says_run_for_each_utterance(kind: str, depth: int) -> None:
    of, (inputs, lengths_B) = network(kind), noise(LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = inputs[row : row + 1, :length], lengths_B[row : row + 1]
        subset = choice(of, *alone, depth)
        assert subset.depth == depth
        torch.testing.assert_close(of(*alone, SelectorDepth(N, depth))[0], of(*alone, subset)[0])


@torch.no_grad()
@KINDS
def test_utterances_choose_and_sound_in_a_batch_as_alone_whatever_stands_in_the_padding(kind: str) -> None:
    of, (inputs, lengths_B) = network(kind), noise(LENGTHS)
    wider = nn.functional.pad(inputs, (0, 0, 0, 37))
    for row, length in enumerate(LENGTHS):
        wider[row, length:] = float("nan")
    together, frames_B, _ = of(wider, lengths_B, SelectorDepth(N, 2))
    for row, (length, frames) in enumerate(zip(LENGTHS, frames_B.tolist(), strict=True)):
        alone = of(inputs[row : row + 1, :length], lengths_B[row : row + 1], SelectorDepth(N, 2))[0]
        torch.testing.assert_close(together[row, :frames], alone[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_block_is_called_with_the_utterances_that_chose_it_and_never_when_none_did() -> None:
    of, (inputs, lengths_B) = network(), noise(LENGTHS)
    chosen = [
        choice(network(), inputs[i : i + 1, :length], lengths_B[i : i + 1], 2) for i, length in enumerate(LENGTHS)
    ]
    assert len(set(chosen)) > 1
    expected = Counter(block for subset in chosen for block in subset.kept)
    assert len(expected) < N
    counted = calls(of)
    of(inputs, lengths_B, SelectorDepth(N, 2))
    assert counted == expected


@torch.no_grad()
def test_the_first_choice_of_one_budget_may_be_left_out_by_a_larger() -> None:
    of, batch = network(), noise([60])
    assert isinstance(of.selector, InputSelector)
    nn.init.normal_(of.selector.budget.weight, std=3.0)
    chosen = [set(choice(of, *batch, depth).kept) for depth in range(1, N)]
    assert any(not fewer <= more for fewer, more in pairwise(chosen))


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("changes", [{}, {"block_norm": True}, {"exit_heads": True}], ids=["", "block_norm", "heads"])
def test_a_budget_of_all_blocks_is_the_full_network(kind: str, changes: dict[str, Any]) -> None:
    of, batch = network(kind, **changes), noise([61, 40])
    torch.testing.assert_close(
        of(*batch, SelectorDepth(N, N))[0], of(*batch, BlockSubset.full(N))[0], rtol=1e-4, atol=1e-5
    )


@KINDS
def test_a_selector_costs_something_only_where_it_is_asked(kind: str) -> None:
    of, plain, subset = network(kind), tiny_network(n_blocks=N), BlockSubset.prefix(N, 2)
    assert of.selector is not None
    assert parameter_count(of, subset) == parameter_count(plain, subset)
    own = sum(p.numel() for p in of.selector.parameters())
    assert parameter_count(of, SelectorDepth(N, 2)) == parameter_count(plain, subset) + own
    difference = macs_per_second(of, SelectorDepth(N, 2), 2.0) - macs_per_second(plain, subset, 2.0)
    assert difference == (0 if kind == "scores" else (8 * 32 + 32 * N) / 2)


def test_what_cannot_choose_refuses_a_budget_in_one_line() -> None:
    for of, budget, message in (
        (tiny_network(), SelectorDepth(4, 2), "this network has no selector .* give a subset, or set model.selector"),
        (network(), SelectorDepth(12, 2), f"the depth is for 12 blocks, this encoder has {N}"),
    ):
        with pytest.raises(UserError, match=message) as problem:
            of(*noise([30]), budget)
        assert "\n" not in str(problem.value)
    for depth in (0, 5):
        with pytest.raises(UserError, match=f"depth {depth} does not exist in an encoder of 4 blocks; choose 1 to 4"):
            SelectorDepth(4, depth)


# ----------------------------------------------------------------------------------------------------------- learning


@KINDS
def test_scores_learn_and_of_the_blocks_those_that_ran_alone(kind: str) -> None:
    of = network(kind)
    counted = calls(of)
    logp_BTV, _, _ = of(*noise([61, 40]), SelectorDepth(N, 2))
    (logp_BTV * torch.randn(logp_BTV.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for i, block in enumerate(of.encoder.blocks):
        assert all((p.grad is not None) == (i in counted) for p in block.parameters())
    assert of.selector is not None
    for name, parameter in of.selector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_gradient_of_the_gates_is_that_of_a_softmax() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.5], [1.0, 0.9, 0.8, -2.0]], requires_grad=True)
    pulls = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0]])
    gates = top_gates(scores, 2, explore=False)
    assert torch.equal(gates.detach().round(), torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0]]))
    (gates * pulls).sum().backward()
    soft = scores.detach().softmax(1)
    torch.testing.assert_close(scores.grad, soft * (pulls - (soft * pulls).sum(1, keepdim=True)))


def test_training_explores_by_the_odds_of_the_scores_and_evaluation_does_not() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    torch.manual_seed(0)
    drawn = top_gates(scores, 1, explore=True)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.5, 0.3, 0.15, 0.05]), rtol=0, atol=0.03)
    assert (top_gates(scores, 3, explore=True).sum(1) == 3).all()
    assert torch.equal(top_gates(scores, 1, explore=False)[:, 0], torch.ones(4000))
    of, batch = network(), noise([61, 40])
    with torch.no_grad():
        assert torch.equal(of(*batch, SelectorDepth(N, 2))[0], of(*batch, SelectorDepth(N, 2))[0])
        of.train()  # without dropout: what changes is the choice
        outputs = [of(*batch, SelectorDepth(N, 2))[0] for _ in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_selector_learns_which_block_is_good_for_what_it_hears() -> None:
    """Two kinds of frames, each better served by another block: after some updates each kind asks for its own."""
    torch.manual_seed(0)
    selector, kinds = InputSelector(4, 2, 8), torch.tensor([0, 1] * 8)
    pattern_D, sign_B11 = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.where(kinds == 0, 1.0, -1.0).view(-1, 1, 1)
    frames, real = sign_B11 * pattern_D + 0.1 * torch.randn(16, 5, 4), torch.ones(16, 5, dtype=torch.bool)
    optimizer = torch.optim.Adam(selector.parameters(), lr=0.05)
    for _ in range(60):
        gates = selector(frames, real, 1)
        chosen = gates.detach() > 0.5
        cost = (gates * chosen * (torch.arange(2) != kinds.unsqueeze(1))).sum(1)  # only the block that ran tells
        optimizer.zero_grad()
        cost.mean().backward()
        optimizer.step()
    gates = selector.eval()(frames, real, 1)
    assert torch.equal(gates.argmax(1), kinds)


# ------------------------------------------------------------------------------------------------------ runs, folders

CHOSEN = ("policy.subsets=chosen", "train.steps=4", "train.eval_every=4")


@pytest.mark.parametrize("policy", ["uniform_count", "sandwich"])
def test_learned_scores_end_in_a_ladder_that_adds_the_next_best_block_at_each_rung(
    corpus, tmp_path: Path, policy: str
) -> None:
    changes = ("model.selector=scores", f"policy.name={policy}", *CHOSEN)
    model = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    score_N = weights(tmp_path / "run")["selector.score_N"]
    assert score_N.any()  # it has learnt
    ladder = Ladder.load(model / "ladder.json", 3)
    best_first = score_N.argsort(descending=True).tolist()
    assert [set(ladder.subset(depth).kept) for depth in (1, 2, 3)] == [set(best_first[:d]) for d in (1, 2, 3)]
    assert ladder.metric == "trained" and all(rung.words > 0 for rung in ladder.rungs)
    of, _ = load_network(model)
    batch = noise([61])
    with torch.no_grad():
        torch.testing.assert_close(of(*batch, SelectorDepth(3, 2))[0], of(*batch, ladder.subset(2))[0])


@pytest.mark.parametrize(
    ("subsets", "expected"),
    [("chosen", ["001", "101", "111"]), ("ladder", ["010", "011", "111"]), ("prefix", ["100", "110", "111"])],
)
def test_the_subset_of_each_depth_is_the_one_that_was_trained(
    corpus, tmp_path: Path, subsets: str, expected: Any
) -> None:
    of = tiny_network(n_blocks=3, selector="scores")
    of.selector.score_N.data = torch.tensor([0.2, 0.1, 0.3])  # type: ignore[union-attr, assignment]
    changes = ("model.selector=scores", f"policy.subsets={subsets}", "init=a model")
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes)
    rungs = tuple(Rung(key.count("1"), key, 0.1, 0.1, 1, 10) for key in ("010", "011", "111"))
    found = own_subsets(of, recipe, Ladder(3, "loss", "dev", 1, rungs))
    assert found is not None and [subset.key for subset in found] == expected


def test_a_run_that_adds_a_selector_to_a_model_is_a_function_of_its_seed(corpus, learnt: Path, tmp_path: Path) -> None:
    model = tiny_network(n_blocks=3, width=32, ffn_width=64, selector="input").config.model_dump(exclude_none=True)
    found = []
    for i in range(2):
        torch.manual_seed(i)
        changes = (f"init={learnt}", f"model={model}", *CHOSEN[:1], "train.steps=1")
        train(tiny_recipe(tmp_path / f"run-{i}", corpus.train, corpus.dev, *changes))
        found.append(weights(tmp_path / f"run-{i}"))
    assert equal(*found)
    assert any(name.startswith("selector.") for name in found[0])


@torch.no_grad()
def test_a_selector_of_another_kind_begins_anew_and_everything_else_is_taken() -> None:
    before = network()
    for changes in ({"selector": "scores"}, {"selector": None}):
        config = ConformerConfig.model_validate(before.config.model_dump() | changes)
        after = ConformerCTC(config, before.head.out_features)
        after.start_from(before)
        batch, full = noise([40]), BlockSubset.full(N)
        assert torch.equal(after.eval()(*batch, full)[0], before(*batch, full)[0])


def test_a_policy_that_lets_the_network_choose_needs_one_that_can(corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no selector; set model\.selector: input or scores") as problem:
        train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *CHOSEN))
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


def test_export_asks_for_a_ladder_where_the_network_would_choose(tmp_path: Path) -> None:
    save_model(tmp_path / "model", network(), build_tokenizer("word", ["a b c d e f"]), {})
    with pytest.raises(UserError, match=r"chooses its blocks by itself .* run layerdial search on it first") as problem:
        trace(tmp_path / "model")
    assert "\n" not in str(problem.value)
