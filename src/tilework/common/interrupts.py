"""Ctrl-C where it must wait.

While code runs that loses it, such as a compiler, which calls Python from C: errors end there unheard. And in processes
that start, until they ignore it: a terminal sends it to them as well.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["interrupts_blocked", "interrupts_later", "let_interrupts_in"]


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, for which the program's own handler is called then.

    Only in the main thread, as the handler is called in no other.
    """
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if handler is None or not callable(handler):  # nobody's, or the system's
        yield
        return
    came: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *args: came.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Hold SIGINT back in this thread, and in a process that is started meanwhile, which lets it in by itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # only asks: a Ctrl-C that comes now must find `try`
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_interrupts_in() -> None:
    """Undo, in a process that was started so, what `interrupts_blocked` does."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
