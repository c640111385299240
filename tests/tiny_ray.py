"""A Ray cluster on this machine, as small as it can be."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from layerdial.runtime.cluster import SETTINGS


@contextmanager
def two_workers() -> Iterator[None]:
    """A cluster with two CPUs, ended at last."""
    import ray

    os.environ.update(SETTINGS)
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
