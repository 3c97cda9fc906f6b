"""When the interpreter exits, all runs are cancelled first: it joins the threads of pools, whatever they do.

Threads and processes of pools are joined before atexit handlers run, and would be waited for until their tasks end by
themselves. The hook for that moment is not public; without it, an exit in the middle of a run takes until its running
tasks are done. Hooks are called last in, first out, and every kind of pool has its own, made when it is imported or
first used. So ours is registered again for each kind, once that was used.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cancellable", "before_threads_are_joined", "cancel_at_exit", "come_before", "no_more"]


class Cancellable(Protocol):
    """Something that runs are made with, such as an executor."""

    def _cancel_all(self, reason: str) -> None: ...


_open: weakref.WeakSet[Cancellable] = weakref.WeakSet()
_known: set[type] = set()


def before_threads_are_joined(hook: Callable[[], None]) -> None:
    """Call `hook` when the interpreter exits, while threads still work; nothing where Python has no such moment."""
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(hook)


def cancel_at_exit(executor: Cancellable) -> None:
    """Cancel all runs of an executor when the interpreter exits while they go on."""
    _open.add(executor)


def no_more(executor: Cancellable) -> None:
    """Forget an executor: it is closed."""
    _open.discard(executor)


def come_before(kind: type) -> None:
    """See to it that runs are cancelled before pools of this kind are joined; called after the first use of one."""
    if kind in _known:
        return
    _known.add(kind)
    before_threads_are_joined(_cancel_all)


def _cancel_all() -> None:
    for executor in list(_open):
        executor._cancel_all("the interpreter exits")
