"""Whose line a warning is about."""

from __future__ import annotations

import sys

__all__ = ["outside_level"]


def outside_level() -> int:
    """Return the `stacklevel` with which a warning of the caller is about the line that called this package.

    Python shows a warning once for each line that it is about. Those about a line of this package would be shown once
    in a process, whoever causes them.
    """
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
