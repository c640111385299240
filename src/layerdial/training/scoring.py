"""How good the network is on dev, and the model folder that a run ends with."""

from __future__ import annotations

from layerdial.config import Recipe
from layerdial.data.batching import FeatureBatches
from layerdial.evaluate import evaluate
from layerdial.files import write_json
from layerdial.models.checkpoint import save_model
from layerdial.models.network import Network
from layerdial.models.recognizer import TorchRecognizer
from layerdial.subset import BlockSubset
from layerdial.text import Tokenizer
from layerdial.training import checkpoints
from layerdial.training.run_folder import RunFolder


def dev_scores(
    network: Network, tokenizer: Tokenizer, dev: FeatureBatches, recipe: Recipe
) -> tuple[dict[str, float], float]:
    """WER and CER on dev at each of `eval_depths` (default: full, and a quarter where blocks drop), and their mean."""
    n_blocks = network.n_blocks
    default = (n_blocks,) if recipe.policy.name == "none" else (n_blocks, max(1, n_blocks // 4))
    choose = BlockSubset.prefix if recipe.policy.name == "prefix" else BlockSubset.even
    recognizer = TorchRecognizer(network, tokenizer)
    row: dict[str, float] = {}
    scores = []
    for depth in recipe.train.eval_depths or default:
        result = evaluate(recognizer, dev, choose(n_blocks, depth))
        row[f"dev_wer_at_{depth}"], row[f"dev_cer_at_{depth}"] = result.wer.rate, result.cer.rate
        scores.append(row[f"dev_{recipe.train.select_by}_at_{depth}"])
    return row, sum(scores) / len(scores)


def write_final_model(
    folder: RunFolder,
    network: Network,
    tokenizer: Tokenizer,
    dev: FeatureBatches,
    recipe: Recipe,
    progress: checkpoints.Progress,
) -> None:
    """Put the average of the best checkpoints into `network`, measure it on dev, and write the run's model folder.

    Where the average does worse on dev than the best checkpoint alone, as it does when the run was still learning fast
    between them, the best checkpoint is taken.
    """
    steps = checkpoints.best_steps(progress, recipe.train.average_best)
    checkpoints.average_weights(folder.checkpoints, steps, network)
    row, score = dev_scores(network, tokenizer, dev, recipe)
    if len(steps) > 1 and score > progress.scores[steps[0]]:
        steps = steps[:1]
        checkpoints.average_weights(folder.checkpoints, steps, network)
        row, _ = dev_scores(network, tokenizer, dev, recipe)
    meta = {
        "run": str(folder.path),
        "averaged_steps": sorted(steps),
        "audio_seconds_seen": progress.audio_seconds,
        "parameters": sum(p.numel() for p in network.parameters()),
        **row,
        "dev_rejected": len(dev.rejected),
        "recipe": recipe.model_dump(mode="json"),
    }
    save_model(folder.model, network, tokenizer, meta)
    write_json(folder.path / "dev.json", row)
