"""The engine of a server, from its options: the model is loaded, warm, and fits them."""

from __future__ import annotations

from layerdial.registry import DEFAULT
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.serving.engine import Engine
from layerdial.serving.keys import ApiKeys, read_keys
from layerdial.serving.options import ServeOptions
from layerdial.serving.pool import Pool


def open_engine(options: ServeOptions) -> tuple[Engine, ApiKeys | None]:
    """Return the engine of a server, with a warm model, and its keys. Raises `UserError` for what cannot be served."""
    keys = read_keys(options.api_key_file) if options.api_key_file is not None else None
    recognizer = OnnxRecognizer(options.model or DEFAULT, options.threads)
    if options.min_depth is not None:
        recognizer.subset(options.min_depth)
    names = tuple(options.name) or (recognizer.manifest.name or recognizer.folder.name,)
    recognizer.warm_up()
    pool = Pool(recognizer, min_depth=options.min_depth)
    return Engine(recognizer, pool, names, options.limits, options.language), keys
