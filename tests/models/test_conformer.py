"""Facts about the dynamic network: what a subset runs, what it costs in gradient, and what padding must not do."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.modules.attention import FrameContext
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from tiny import VOCABULARY, noise, tiny_network

FULL = BlockSubset.full(4)
EVERY_SUBSET = [BlockSubset(4, kept) for depth in range(1, 5) for kept in combinations(range(4), depth)]
RULES = pytest.mark.parametrize(
    "rule",
    [{}, {"block_norm": True}, {"block_norm": True, "skip": "norm"}],
    ids=["residual", "block_norm", "block_norm_kept"],
)


def by_hand(network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, subset: BlockSubset) -> Tensor:
    """The network as a plain loop over its blocks."""
    x_BTD = network.front_end(network.normalise(inputs_BTF, lengths_B), lengths_B)
    width = network.config.width // network.config.heads
    context = FrameContext.make(network.features.frames(lengths_B), x_BTD.shape[1], width, x_BTD.dtype)
    for i, block in enumerate(network.encoder.blocks):
        if i in subset:
            x_BTD = block(x_BTD, context)
        elif network.config.skip == "norm":
            x_BTD = nn.functional.layer_norm(x_BTD, (x_BTD.shape[2],), block.norm.weight, block.norm.bias)
    return network.head(network.norm(x_BTD)).log_softmax(-1)


@RULES
def test_full_subset_equals_the_plain_loop_over_blocks(rule: dict[str, Any]) -> None:
    network, batch = tiny_network(**rule), noise([61, 40])
    assert torch.equal(network(*batch, FULL)[0], by_hand(network, *batch, FULL))


@RULES
@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_every_subset_is_the_loop_over_its_blocks(subset: BlockSubset, rule: dict[str, Any]) -> None:
    network, batch = tiny_network(**rule), noise([61, 40])
    assert torch.equal(network(*batch, subset)[0], by_hand(network, *batch, subset))


@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
@pytest.mark.parametrize("block_norm", [False, True])
def test_skipping_equals_deleting(subset: BlockSubset, block_norm: bool) -> None:
    network, batch = tiny_network(block_norm=block_norm), noise([61, 40])
    smaller = tiny_network(seed=1, n_blocks=subset.depth, block_norm=block_norm)
    for part in ("front_end", "norm", "head"):
        getattr(smaller, part).load_state_dict(getattr(network, part).state_dict())
    for block, kept in zip(smaller.encoder.blocks, subset.kept, strict=True):
        block.load_state_dict(network.encoder.blocks[kept].state_dict())
    assert torch.equal(network(*batch, subset)[0], smaller(*batch, BlockSubset.full(subset.depth))[0])


def test_subsets_matter() -> None:
    network, batch = tiny_network(), noise([61])
    outputs = [network(*batch, subset)[0] for subset in EVERY_SUBSET]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in combinations(outputs, 2))


@RULES
@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_a_skipped_block_is_never_called(subset: BlockSubset, rule: dict[str, Any]) -> None:
    network = tiny_network(**rule)
    called: set[str] = set()
    for name, module in network.encoder.blocks.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    network(*noise([61, 40]), subset)
    heavy = {name.split(".")[0] for name in called if name and not name.endswith(".norm")}
    assert heavy == {str(i) for i in subset.kept}
    final_norms = {name for name in called if name.count(".") == 1 and name.endswith(".norm")}
    assert final_norms == {f"{i}.norm" for i in (range(4) if "skip" in rule else subset.kept)}


@RULES
@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_kept_blocks_and_only_those_get_gradient(subset: BlockSubset, rule: dict[str, Any]) -> None:
    network = tiny_network(**rule).train()
    logp_BTV, _, _ = network(*noise([61, 40]), subset)
    (logp_BTV * torch.randn(logp_BTV.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for i, block in enumerate(network.encoder.blocks):
        for name, parameter in block.named_parameters():
            if i in subset:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            else:
                assert (parameter.grad is None) == ("skip" not in rule or not name.startswith("norm.")), name
        if i in subset:
            assert any(parameter.grad.abs().max() > 0 for parameter in block.parameters())
    assert all(p.grad is not None for p in (*network.front_end.parameters(), *network.head.parameters()))


@RULES
@pytest.mark.parametrize("lengths", [[83, 40, 61, 1], [7, 6, 5, 4], [33, 2, 3, 9]])
def test_padding_does_not_change_logits(lengths: list[int], rule: dict[str, Any]) -> None:
    network = tiny_network(**rule)
    inputs_BTF, lengths_B = noise(lengths)
    wider_BTF = nn.functional.pad(inputs_BTF, (0, 0, 0, 37), value=1e4)
    for row, length in enumerate(lengths):
        wider_BTF[row, length:] = float("nan")
    subset = BlockSubset.from_key("1011")
    together, out_lengths_B, _ = network(wider_BTF, lengths_B, subset)
    assert out_lengths_B.tolist() == [-(-length // 4) for length in lengths]
    for row, length in enumerate(lengths):
        alone, _, _ = network(inputs_BTF[row : row + 1, :length], lengths_B[row : row + 1], subset)
        assert alone.shape[1] == out_lengths_B[row]
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=2e-5, rtol=0)


def test_batch_1_equals_batch_8() -> None:
    network = tiny_network()
    inputs_BTF, lengths_B = noise([64] * 8)
    for subset in (FULL, BlockSubset.from_key("0100")):
        together = network(inputs_BTF, lengths_B, subset)[0]
        for row in range(8):
            alone = network(inputs_BTF[row : row + 1], lengths_B[row : row + 1], subset)[0]
            torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 41, 3001, 9001])
def test_there_is_no_shortest_and_no_longest_audio(n_frames: int) -> None:
    logp_BTV, lengths_B, _ = tiny_network()(*noise([n_frames]), FULL)
    assert logp_BTV.shape == (1, -(-n_frames // 4), VOCABULARY) and lengths_B.item() == logp_BTV.shape[1]
    assert logp_BTV.isfinite().all() and logp_BTV.dtype == torch.float32
    torch.testing.assert_close(logp_BTV.exp().sum(-1), torch.ones(logp_BTV.shape[:2]))


def test_the_level_of_the_audio_does_not_matter() -> None:
    network, (inputs_BTF, lengths_B) = tiny_network(), noise([61, 40])
    quiet, loud = network(inputs_BTF, lengths_B, FULL)[0], network(inputs_BTF + 5, lengths_B, FULL)[0]
    torch.testing.assert_close(quiet[0], loud[0], atol=1e-4, rtol=0)


def test_constant_features_are_finite_with_gradient() -> None:
    network = tiny_network().train()
    logp_BTV, _, _ = network(torch.zeros(2, 20, 80), torch.tensor([20, 1]), FULL)
    logp_BTV[..., 1].sum().backward()
    assert logp_BTV.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_call_leaves_nothing_behind() -> None:
    network, batch = tiny_network(), noise([61, 40])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = network(*batch, FULL)[0]
    network(*batch, BlockSubset.from_key("0001"))
    assert torch.equal(network(*batch, FULL)[0], first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_subset_for_other_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="subset is for 12 blocks, this encoder has 4"):
        tiny_network()(*noise([20]), BlockSubset.full(12))


@RULES
def test_a_stored_model_comes_back_bit_for_bit(tmp_path: Path, rule: dict[str, Any]) -> None:
    network = tiny_network(**rule)
    save_model(tmp_path / "model", network, build_tokenizer("word", ["a b c d e f"]), {"made": "here"})
    stored, tokenizer = load_network(tmp_path / "model")
    assert stored.config == network.config and not stored.training and len(tokenizer.tokens) == VOCABULARY
    assert stored.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(stored.state_dict().values(), network.state_dict().values()))  # noqa: B905
    subset = BlockSubset.from_key("0101")
    assert torch.equal(stored(*noise([30]), subset)[0], network(*noise([30]), subset)[0])


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def other_format(folder: Path) -> None:
    (folder / "config.json").write_text('{"format": 99}')


def incomplete_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"format": 1}')


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_network(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"n_blocks": 4', '"n_blocks": 5'))


def other_frame_rate(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"frame_rate": 25.0', '"frame_rate": 50.0'))


def more_tokens(folder: Path) -> None:
    with (folder / "tokens.txt").open("a") as file:
        file.write("z 7\n")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_config, r"config\.json is not valid JSON"),
        (other_format, "has format 99; this layerdial reads format 1"),
        (incomplete_config, r"config\.json .*vocab_size"),
        (cut_weights, r"model\.safetensors is not a readable"),
        (other_network, r"does not fit the network .* encoder\.blocks\.4"),
        (other_frame_rate, r"50\.0 frames a second, .* 25\.0"),
        (more_tokens, r"tokens\.txt has 8 tokens, the model 7"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not exist"),
        (lambda folder: (folder / "tokens.txt").unlink(), r"no tokens\.txt"),
        (lambda folder: (folder / "config.json").unlink(), r"not a model folder: it has no config\.json"),
    ],
)
def test_a_damaged_model_folder_is_said_in_one_line(tmp_path: Path, harm, message: str) -> None:
    folder = tmp_path / "model"
    save_model(folder, tiny_network(), build_tokenizer("word", ["a b c d e f"]), {})
    harm(folder)
    with pytest.raises(UserError, match=message) as problem:
        load_network(folder)
    assert "\n" not in str(problem.value)
