"""`layerdial serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.cli.options import ThreadsOption
from layerdial.serving.options import Limits, ServeOptions


def _help(name: str) -> str:
    text = ServeOptions.help(name)
    return f"{text[0].upper()}{text[1:]}."


def _limit(name: str) -> str:
    text = Limits.help(name)
    return f"{text[0].upper()}{text[1:]}."


def serve(
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="An exported folder, or a name of `layerdial models` (english if left out)."),
    ] = None,
    host: Annotated[str, typer.Option(help=_help("host"))] = ServeOptions.host,
    port: Annotated[int, typer.Option(help=_help("port"))] = ServeOptions.port,
    wyoming_port: Annotated[Optional[int], typer.Option(help=_help("wyoming_port"))] = None,  # noqa: UP045
    api_key_file: Annotated[Optional[Path], typer.Option(metavar="FILE", help=_help("api_key_file"))] = None,  # noqa: UP045
    name: Annotated[Optional[list[str]], typer.Option(help=_help("name"))] = None,  # noqa: UP045
    language: Annotated[Optional[str], typer.Option(help=_help("language"))] = None,  # noqa: UP045
    min_depth: Annotated[Optional[int], typer.Option(help=_help("min_depth"))] = None,  # noqa: UP045
    chunk_ms: Annotated[Optional[int], typer.Option(help=_help("chunk_ms"))] = None,  # noqa: UP045
    cors_origin: Annotated[Optional[list[str]], typer.Option(help=_help("cors_origin"))] = None,  # noqa: UP045
    allow_host: Annotated[Optional[list[str]], typer.Option(help=_help("allow_host"))] = None,  # noqa: UP045
    max_body_mb: Annotated[float, typer.Option(help=_limit("max_body_mb"))] = Limits().max_body_mb,
    max_audio_s: Annotated[float, typer.Option(help=_limit("max_audio_s"))] = Limits().max_audio_s,
    max_request_s: Annotated[float, typer.Option(help=_limit("max_request_s"))] = Limits().max_request_s,
    max_connections: Annotated[int, typer.Option(help=_limit("max_connections"))] = Limits().max_connections,
    threads: ThreadsOption = None,
    ray: Annotated[bool, typer.Option("--ray", help=_help("ray"))] = False,
    replicas: Annotated[Optional[int], typer.Option(help=_help("replicas"))] = None,  # noqa: UP045
) -> None:
    """Answer requests over HTTP, websockets and TCP: OpenAI's transcriptions and Realtime, and Wyoming."""
    from layerdial.serving.command import serve as run

    limits = Limits(max_body_mb, max_audio_s, max_request_s, max_connections)
    names, sites, hosts = (tuple(given or ()) for given in (name, cors_origin, allow_host))
    found = (host, port, wyoming_port, api_key_file, names, language, min_depth, chunk_ms, sites, hosts)
    run(ServeOptions(None if model is None else str(model), *found, threads, limits, ray, replicas))
