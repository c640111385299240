"""A Ray cluster: that of RAY_ADDRESS, or one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from layerdial.errors import UserError, needing
from layerdial.runtime.session import usable_cpus

_STORE_BYTES = 100 * 2**20  # of a cluster that is started here: what is sent is names of files, and texts

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_worker_niceness": "0",  # Ray's own 15 leaves little of a machine that has other work
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # with Ray's own 5 a busy machine starts its proxy again and again
}


@contextmanager
def cluster() -> Iterator[int]:
    """Yield the number of CPUs of a cluster: the one that this process uses, that of RAY_ADDRESS, or a new one here.

    What was started here ends with the context. Raises `UserError` where ray is missing or the cluster does not answer.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with needing("ray", "--ray needs"):
        import ray
    if ray.is_initialized():
        yield _cpus()
        return
    here = {"num_cpus": usable_cpus(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(**({"address": address} if address else here), logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"the Ray cluster {address or 'of this machine'} does not start or answer: {error}") from None
    try:
        yield _cpus()
    finally:
        ray.shutdown()


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
