"""A distributed run of which a process is gone: one line in place of what the exchange of gradients raises."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed

from layerdial.errors import UserError

_SIGNS = ("closed by peer", "reset by peer", "broken pipe", "connection refused", "remote process exited")


@contextmanager
def naming_lost_processes(folder: Path) -> Iterator[None]:
    """Raise `UserError` where the exchange with the other processes of the run in `folder` breaks off."""
    try:
        yield
    except RuntimeError as error:  # gloo has no type of its own
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not _is_broken_off(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"another process of the run in {folder} is gone ({reason}); its own messages say why. "
            "With --resume and as many processes the run goes on from its last checkpoint"
        ) from None


def _is_broken_off(error: RuntimeError) -> bool:
    lost = isinstance(error, torch.distributed.DistNetworkError)
    return lost or any(sign in str(error).lower() for sign in _SIGNS)
