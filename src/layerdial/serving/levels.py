"""The depths that requests can share: those that no mix of a shallower and a deeper one beats."""

from __future__ import annotations

from layerdial.runtime.controller import DepthController, DepthOption

_SECONDS = 10.0  # of the request whose cost counts


def shared_levels(controller: DepthController) -> tuple[int, ...]:
    """Return depths, shallowest first: the lower convex hull of WER over cost; all depths where WER is not known.

    Above the hull, running some requests shallower and others deeper takes as long and makes fewer errors.
    """
    hull = list[DepthOption]()
    for option in controller.options:
        while len(hull) > 1 and _is_beaten(controller, hull[-2], hull[-1], option):
            hull.pop()
        hull.append(option)
    return tuple(option.depth for option in hull)


def _is_beaten(controller: DepthController, shallower: DepthOption, option: DepthOption, deeper: DepthOption) -> bool:
    """Return whether a mix of two depths that takes as long as the one between them has fewer errors."""
    if shallower.wer is None or option.wer is None or deeper.wer is None:
        return False
    low, middle, high = (controller.costs.usual(one.depth, _SECONDS) for one in (shallower, option, deeper))
    share = (middle - low) / (high - low) if high > low else 0.0
    return shallower.wer + share * (deeper.wer - shallower.wer) < option.wer
