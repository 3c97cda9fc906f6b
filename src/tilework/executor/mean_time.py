"""How long the tasks of a run take."""

from __future__ import annotations

from typing import Final

__all__ = ["mean_time"]

_SMOOTHING: Final = 0.25
"""Weight of the newest task."""


def mean_time(before: float | None, seconds: float) -> float:
    """Return the running mean of what tasks took, now that one more took `seconds`; None: it is the first."""
    return seconds if before is None else before + (seconds - before) * _SMOOTHING
