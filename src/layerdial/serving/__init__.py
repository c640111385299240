"""Many requests at once over one exported model, each at the depth that the load allows. Never imports torch.

>>> from layerdial.serving import Job, Pool                              # doctest: +SKIP
>>> with Pool(Recognizer("english")) as pool:                            # doctest: +SKIP
...     print(pool.submit(Job("a.flac", deadline_ms=500)).result().transcript.text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdial.serving.jobs import Job, Metrics, Refused, Served
    from layerdial.serving.pool import Pool

__all__ = ["Job", "Metrics", "Pool", "Refused", "Served"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the options of the command, which are here too, are read by every `--help`."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"layerdial.serving.{'pool' if name == 'Pool' else 'jobs'}"), name)
    raise AttributeError(f"module 'layerdial.serving' has no attribute {name!r}")
