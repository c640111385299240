"""How good the network is on dev, and the model folder that a run ends with."""

from __future__ import annotations

from layerdial.config.recipe import Recipe
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import evaluate
from layerdial.evaluation.search import trained_ladder
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import save_model
from layerdial.models.network import Network
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.modules.selector import LearnedScores
from layerdial.subset import BlockSubset, SelectorDepth
from layerdial.text.tokenizer import Tokenizer
from layerdial.training import checkpoints
from layerdial.training.chunks import on_dev
from layerdial.training.policies import evaluated_subset, subset_at
from layerdial.training.run_folder import RunFolder
from layerdial.utils.files import write_json
from layerdial.utils.version import code_version


def dev_scores(
    network: Network, tokenizer: Tokenizer, dev: FeatureBatches, recipe: Recipe, ladder: Ladder | None = None
) -> tuple[dict[str, float], float]:
    """WER and CER on dev at each of `eval_depths`, and the mean of what the run is selected by.

    Left out, the depths are all blocks and, where shallower ones are trained too, a quarter, or the fewest trained. A
    streaming network hears the largest chunks that it is trained for.
    """
    n_blocks = network.n_blocks
    whole = not recipe.policy.drops and not recipe.objective.trains_every_depth(n_blocks)
    default = (n_blocks,) if whole else (n_blocks, max(recipe.policy.shallowest(), n_blocks // 4))
    recognizer = TorchRecognizer(network, tokenizer)
    row: dict[str, float] = {}
    scores = []
    for depth in recipe.train.eval_depths or default:
        blocks = on_dev(evaluated_subset(recipe, n_blocks, depth, ladder), network)
        result = evaluate(recognizer, dev, blocks)
        row[f"dev_wer_at_{depth}"], row[f"dev_cer_at_{depth}"] = result.wer.rate, result.cer.rate
        scores.append(row[f"dev_{recipe.train.select_by}_at_{depth}"])
    return row, sum(scores) / len(scores)


def write_final_model(
    folder: RunFolder,
    network: Network,
    tokenizer: Tokenizer,
    dev: FeatureBatches,
    recipe: Recipe,
    progress: checkpoints.TrainState,
    ladder: Ladder | None,
) -> None:
    """Put the average of the best checkpoints into `network`, measure it on dev, and write the run's model folder.

    Where the average does worse on dev than the best checkpoint alone, as it does when the run was still learning fast
    between them, the best checkpoint is taken.
    """
    steps = checkpoints.best_steps(progress, recipe.train.average_best)
    checkpoints.average_weights(folder.checkpoints, steps, network)
    row, score = dev_scores(network, tokenizer, dev, recipe, ladder)
    if len(steps) > 1 and score > progress.scores[steps[0]]:
        steps = steps[:1]
        checkpoints.average_weights(folder.checkpoints, steps, network)
        row, _ = dev_scores(network, tokenizer, dev, recipe, ladder)
    meta = {
        "run": str(folder.path),
        "commit": code_version(),
        "averaged_steps": sorted(steps),
        "audio_seconds_seen": progress.audio_seconds,
        "train_seconds": progress.train_seconds,
        "updates": progress.step,
        "parameters": sum(p.numel() for p in network.parameters()),
        **row,
        "dev_rejected": len(dev.rejected),
        "recipe": recipe.model_dump(mode="json"),
    }
    own = own_subsets(network, recipe, ladder)  # where there is one of each depth, nothing is left to search
    found = trained_ladder(TorchRecognizer(network, tokenizer), dev, str(dev.cuts), own) if own else None
    write_json(folder.path / "dev.json", row)
    save_model(folder.model, network, tokenizer, meta, found)  # last: a run that has it is finished


def own_subsets(network: Network, recipe: Recipe, ladder: Ladder | None) -> list[BlockSubset] | None:
    """Return the one subset of each depth that was trained, shallowest first; none where there are several.

    `ladder` is that of the model that the run started from, for `policy.subsets: ladder`.
    """
    depths = range(recipe.policy.shallowest(), network.n_blocks + 1)
    found = [subset_at(recipe, network.n_blocks, depth, ladder) for depth in depths]
    fixed = [_by_scores(network, blocks) if isinstance(blocks, SelectorDepth) else blocks for blocks in found]
    subsets = [blocks for blocks in fixed if isinstance(blocks, BlockSubset)]
    return subsets if len(subsets) == len(found) else None


def _by_scores(network: Network, chosen: SelectorDepth) -> BlockSubset | None:
    """Return what a selector with a score a block chooses, for every utterance alike; none for another selector."""
    if not isinstance(network.selector, LearnedScores):
        return None
    best_first = network.selector.score_N.argsort(descending=True).tolist()
    return BlockSubset(chosen.n_blocks, tuple(sorted(best_first[: chosen.depth])))
