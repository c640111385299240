"""The engine of a server, from its options: the model is loaded, warm, and fits them."""

from __future__ import annotations

from layerdial.errors import UserError
from layerdial.recognition.chunk_model import CHUNK_MS
from layerdial.registry import DEFAULT
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.serving.engine import Engine
from layerdial.serving.guard import Access
from layerdial.serving.hosts import Hosts
from layerdial.serving.keys import read_keys
from layerdial.serving.options import ServeOptions
from layerdial.serving.pool import Pool
from layerdial.serving.streams import StreamHub


def open_engine(options: ServeOptions) -> tuple[Engine, Access]:
    """Return a server's engine, with a warm model, and who is let in. Raises `UserError` for what cannot be served."""
    keys = read_keys(options.api_key_file) if options.api_key_file is not None else None
    recognizer = OnnxRecognizer(options.model or DEFAULT, options.threads)
    if options.min_depth is not None:
        recognizer.subset(options.min_depth)
    names = tuple(options.name) or (recognizer.manifest.name or recognizer.folder.name,)
    recognizer.warm_up()
    hosts = Hosts(options.host, options.allow_host, keys is not None)
    pool = Pool(recognizer, min_depth=options.min_depth)
    streams = _streams(recognizer, pool.workers, options)
    engine = Engine(recognizer, pool, names, options.limits, options.language, streams)
    return engine, Access(hosts, keys, options.cors_origin)


def _streams(recognizer: OnnxRecognizer, workers: int, options: ServeOptions) -> StreamHub | None:
    """Return what recognises speech as it comes, where the model takes chunks."""
    if recognizer.takes_chunks:
        return StreamHub(recognizer, workers, options.min_depth, options.chunk_ms or CHUNK_MS)
    if options.chunk_ms is not None:
        raise UserError(f"--chunk-ms is for streaming models; {recognizer.name} takes whole utterances")
    return None
