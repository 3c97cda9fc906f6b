"""How worker processes ended, for people."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["STDERR_LINES", "describe_exit", "describe_last_words"]

STDERR_LINES: Final = 60
"""How many of the last lines that a worker wrote to stderr are kept."""

_MEANINGS: Final = {
    "SIGKILL": ": the system does that when memory runs out, or somebody did",
    "SIGSEGV": ": a crash in compiled code",
    "SIGBUS": ": a file became shorter while it was read, or memory ran out",
    "SIGABRT": ": compiled code gave up",
}


def describe_exit(code: int | None) -> str:
    """Return in words how a process ended.

    Parameters
    ----------
    code
        Exit code; negative for a signal; None when it is not known.
    """
    if code is None:
        return "it is gone, nobody knows how"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"it was ended by signal {-code} ({name}{_MEANINGS.get(name, '')})"


def describe_last_words(lines: Iterable[str]) -> str:
    """Return what a process wrote to stderr at last, to be appended to how it ended; empty if it wrote nothing."""
    text = "\n  ".join(lines)
    return f"; the last it wrote was:\n  {text}" if text else ""
