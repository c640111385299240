"""`layerdial transcribe`, `export`, `profile`, and what makes a model of others: `average`, `join`, `prune` ..."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from layerdial.cli.bulk import HELP, BulkOptions, run_bulk
from layerdial.cli.exporting import WEB_HELP, run_export_web
from layerdial.cli.options import (
    DeviceOption,
    ModelArgument,
    PluginOption,
    ThreadsOption,
    load_own,
    with_request_options,
)
from layerdial.cli.request_options import STREAM_HELP, RequestOption, StreamFlags
from layerdial.errors import UserError, WorseThanFloat
from layerdial.request import Request

if TYPE_CHECKING:
    from layerdial.recognizer import Recognizer


@with_request_options
def transcribe(
    request: Request,
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[MODEL] AUDIO...",
            help="Audio files or folders, behind a model or none: a model folder, an exported folder, a hub id, or a "
            "name of `layerdial models` (english if left out).",
        ),
    ] = None,
    vad: Annotated[Optional[bool], typer.Option("--vad/--no-vad", help=RequestOption("vad", bool).help)] = None,  # noqa: UP045
    format_: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", help="text, json (an object a file), or subtitles: srt, vtt, tsv; text if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="--format json.")] = False,
    output_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Write a file for each recording into this folder."),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what has its file in --output-dir.")
    ] = False,
    channel: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="left, right, a number from 1 on, or each, with its name; all channels mixed if left out."),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help=STREAM_HELP["stream"])] = False,
    chunk_ms: Annotated[Optional[int], typer.Option(metavar="MS", help=STREAM_HELP["chunk_ms"])] = None,  # noqa: UP045
    pause: Annotated[Optional[float], typer.Option(metavar="SECONDS", help=STREAM_HELP["pause"])] = None,  # noqa: UP045
    manifest: Annotated[Optional[Path], typer.Option(metavar="FILE", help=HELP["manifest"])] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help=HELP["out"])] = None,  # noqa: UP045
    finish_by: Annotated[Optional[str], typer.Option(metavar="TIME", help=HELP["finish_by"])] = None,  # noqa: UP045
    workers: Annotated[Optional[int], typer.Option(help=HELP["workers"])] = None,  # noqa: UP045
    ray: Annotated[bool, typer.Option("--ray", help=HELP["ray"])] = False,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    plugin: PluginOption = None,
) -> None:
    """Print what is said in audio files of any sample rate and length."""
    load_own(plugin)
    from layerdial.evaluation.load import load_model
    from layerdial.registry.words import split_words
    from layerdial.runtime.commands import transcribe_files
    from layerdial.runtime.outputs import Output, format_of, plan

    request = replace(request, vad=vad)
    bulk = BulkOptions(manifest, out, finish_by, workers, ray)
    flags = StreamFlags(stream, chunk_ms, pause)
    whole = {"output_dir": output_dir, "skip_existing": skip_existing}
    if bulk.asked({"format": format_, "json": as_json, **whole, "channel": channel, "stream": stream}):
        raise typer.Exit(run_bulk(names or (), bulk, request, lambda model: _loading(model, device, threads, plugin)))
    model, audio = split_words(names or ())
    output = Output(format_of(format_, as_json), output_dir, skip_existing, channel)
    streamed, jobs = flags.asked(whole), plan(audio, output)
    if streamed:
        from layerdial.runtime.streamed_files import stream_files

        load = partial(load_model, model, device, threads)
        raise typer.Exit(stream_files(load, jobs, request, output, chunk_ms, pause))
    raise typer.Exit(transcribe_files(load_model(model, device, threads), jobs, request, output))


def _loading(model: str, device: str, threads: int | None, plugins: list[str] | None) -> Callable[[], Recognizer]:
    """Return what loads a model in each of several processes, with one thread, unless there is to be another number."""
    return partial(_load, model, device, threads or 1, plugins)


def _load(model: str, device: str, threads: int, plugins: list[str] | None) -> Recognizer:
    from layerdial.evaluation.load import load_model

    load_own(plugins)
    return load_model(model, device, threads)


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that devices get.")],
    int8: Annotated[bool, typer.Option("--int8", help="Matrix products in int8: smaller and faster.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights in half precision: half the size, as fast.")] = False,
    cuts: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Dev cuts on which --int8 is checked at every depth; blocks that it hurts stay in float."),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="layerdial; sherpa-onnx for that runtime (one depth); or web, a page that runs in the browser alone.",
        ),
    ] = "layerdial",
    depth: Annotated[Optional[int], typer.Option(help="For sherpa-onnx: how many blocks run.")] = None,  # noqa: UP045
    streaming: Annotated[
        bool, typer.Option("--streaming", help="For speech as it comes: chunks and caches in and out, at any depth.")
    ] = False,
    chunk_ms: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="For --streaming: the size of chunks in which files are transcribed, and sherpa-onnx hears."),
    ] = None,
    licence: Annotated[Optional[str], typer.Option(help="The licence of the weights, for the metadata.")] = None,  # noqa: UP045
    name: Annotated[Optional[str], typer.Option(help="The model's name, for the metadata.")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Write an int8 export that does worse than float by its own check.")
    ] = False,
    onnxruntime_web: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help=f"For web: {WEB_HELP}."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write a model as ONNX, for devices without torch: one file with a depth dial.

    Exit code 3, and nothing written, where int8 does worse than float on --cuts.
    """
    load_own(plugin)
    if int8 and fp16:
        raise UserError("--int8 and --fp16 exclude each other; export twice, into two folders")
    if format_ not in ("layerdial", "sherpa-onnx", "web"):
        raise UserError(f"--format is {format_!r}; choose layerdial, sherpa-onnx or web")
    if cuts is not None and (not int8 or format_ == "sherpa-onnx"):
        raise UserError("--cuts is for --int8 in layerdial's own format and for web, which is checked on them")
    if onnxruntime_web is not None and format_ != "web":
        raise UserError("--onnxruntime-web is for --format web; other formats hold no runtime")
    precision: Any = "int8" if int8 else "float16" if fp16 else "float32"
    if chunk_ms is not None and not streaming:
        raise UserError("--chunk-ms is for --streaming; other exports take whole utterances")
    if streaming and format_ == "web":
        raise UserError("the page of --format web recognises whole utterances; leave out --streaming")
    if depth is not None and format_ != "sherpa-onnx":
        raise UserError("--depth is for --format sherpa-onnx; other exports run at every depth")
    if format_ == "web":
        with _exit_3_if_worse():
            run_export_web(model, out, onnxruntime_web, precision, cuts, licence, name, _note, force, accept)
        return
    from layerdial.export.export import export_model, export_sherpa, export_sherpa_online
    from layerdial.export.streaming import Streaming
    from layerdial.export.writer import graph_files

    if format_ == "sherpa-onnx":
        if depth is None:
            raise UserError("sherpa-onnx runs one depth: say which, for example --depth 6")
        if streaming:
            if chunk_ms is None:
                raise UserError("sherpa-onnx hears chunks of one size: say which, for example --chunk-ms 320")
            subset = export_sherpa_online(model, out, depth, chunk_ms, precision, licence, name, force)
        else:
            subset = export_sherpa(model, out, depth, precision, licence, name, note=_note, force=force)
        print(f"sherpa-onnx: {out} (blocks {', '.join(map(str, subset.kept))} of {subset.n_blocks})")
        if int8:
            print("checked:     not for WER; an export in layerdial's own format is, with --cuts")
        print(f"next:        see {out / 'README.md'}")
        return
    with _exit_3_if_worse():
        in_chunks = Streaming(chunk_ms) if streaming else None
        manifest = export_model(model, out, precision, cuts, licence, name, _note, force, accept, in_chunks)
    size = sum(file.stat().st_size for file in graph_files(out)) / 1e6
    worst = max(row.largest_difference for row in manifest.parity)
    print(f"exported: {out} ({precision}, {size:.1f} MB, {manifest.n_blocks} blocks)")
    sizes = " and size of chunks" if streaming else ""
    print(f"compared: log-probabilities within {worst:.2g} of torch at every depth{sizes}")
    if not manifest.wer.get("holds", True):
        print("checked:  WER is worse than in float, which you accept; manifest.json says by how much")
    if int8 and cuts is None:
        print("checked:  not for WER; --cuts DEV_CUTS does that at every depth")
    print(
        f"next:     layerdial profile {out}"
        if manifest.decoder is None
        else f"next:     layerdial transcribe {out} AUDIO"
    )


@contextmanager
def _exit_3_if_worse() -> Iterator[None]:
    """Say that int8 does worse than float, with an exit code of its own."""
    try:
        yield
    except WorseThanFloat as worse:
        _note(f"layerdial: {worse}")
        raise typer.Exit(3) from None


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def profile(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that layerdial export wrote.")],
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "--threads", min=1, help="Measure with so many threads; may be repeated. One and all if left out."
        ),
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds to measure for, about; 1 or more.")] = 60.0,
) -> None:
    """Measure an exported model on this device, so that deadlines can be kept from the first request on."""
    from layerdial.runtime.commands import profile_folder

    profile_folder(out, threads or (), budget)


def average(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Two model folders or more.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the average.")],
    cuts: Annotated[Path | None, typer.Option(help="Dev data that its ladder is measured on.")] = None,
) -> None:
    """Write the mean of the weights of models that were trained from the same start."""
    from layerdial.evaluation.average import average_models

    average_models(models, out, cuts)
    print(f"model: {out} (the mean of {len(models)})")
    print(f"next:  layerdial sweep {out} DEV_CUTS --out runs/average")


def difference(
    model: ModelArgument,
    start: Annotated[Path, typer.Argument(metavar="START", help="The model that its training began with.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the difference.")],
) -> None:
    """Write the weights of MODEL that are not those of START, in fp16: a small folder to share."""
    from layerdial.models.difference import write_difference

    count = write_difference(model, start, out)
    print(f"difference: {out} ({count} tensors)")
    print(f"next:       layerdial join {start} {out} JOINED")


def join(
    start: Annotated[Path, typer.Argument(metavar="START", help="The model that was changed: a folder or a hub id.")],
    difference: Annotated[Path, typer.Argument(metavar="DIFFERENCE", help="A folder that layerdial difference wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the whole model.")],
) -> None:
    """Write the model that START becomes with the weights in DIFFERENCE."""
    from layerdial.models.difference import join_difference

    network = join_difference(start, difference, out)
    print(f"model: {out} ({network.n_blocks} blocks)")
    print(f"next:  layerdial transcribe {out} AUDIO")


def prune(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the smaller model.")],
    depth: Annotated[int, typer.Option(help="How many blocks it has: those that MODEL runs at that depth.")],
) -> None:
    """Write the blocks that run at one depth as a smaller ordinary model, which has no dial."""
    from layerdial.models.prune import prune_model

    subset = prune_model(model, out, depth)
    print(f"model: {out} (blocks {', '.join(map(str, subset.kept))} of {subset.n_blocks})")
    print(f"next:  layerdial transcribe {out} AUDIO")
