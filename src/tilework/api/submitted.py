"""The runs that a context has begun in the background, which end with it."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilework.api.runs import UDFRun

__all__ = ["SubmittedRuns"]


class SubmittedRuns:
    """The runs of one context, for as long as anybody has them; any thread may add one, or cancel all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: weakref.WeakSet[UDFRun[Any]] = weakref.WeakSet()
        self._is_over = False

    def add(self, run: UDFRun[Any]) -> None:
        """Take one more, which is cancelled if the others were."""
        with self._lock:
            self._runs.add(run)
        if self._is_over:  # before, or meanwhile
            run.cancel()

    def cancel_all(self) -> None:
        """Cancel all, also those of which the executor does not know yet, and those to come."""
        self._is_over = True
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            run.cancel()
