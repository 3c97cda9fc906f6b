"""A worker, as the main process has it: asked for, on its way, there, gone.

Who owns what: a member owns the line to its process, its descriptors, and what it said of its memory. The pool that it
belongs to decides what becomes of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from tilework.executor.exits import describe_exit, describe_last_words
from tilework.executor.pipelined.arena import ArenaReader
from tilework.executor.pipelined.memory import SharedMemoryFullError
from tilework.executor.pipelined.messages import Arrived, StartupDone, StartupFailed
from tilework.executor.remote import unpack_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.executor.pipelined.process import WorkerProcess, Zygote
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.stderr import WorkerStderr
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.pipelined.worker_queues import WorkerQueues

__all__ = ["Launch", "Member", "MemberState", "PoolWorkerInfo"]


class PoolWorkerInfo(NamedTuple):
    """A worker of a pool."""

    queues: WorkerQueues
    process: WorkerProcess
    spec: WorkerSpec


class MemberState(Enum):
    """Where a worker stands."""

    STARTING = "starting"  # its process is there, and is being set up
    READY = "ready"  # takes tickets
    RETIRING = "retiring"  # was told to end when it has done what it has
    GONE = "gone"  # its process has ended


@dataclass(eq=False, slots=True)
class Launch:
    """A worker that was asked for, and has not said yet that it is there."""

    spec: WorkerSpec
    wire: Wire
    output: WorkerStderr
    zygote: Zygote
    token: int
    deadline: float
    """When it must be there."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec["name"]

    def close(self) -> None:
        """Give it up: should it still come to be, it finds its line closed, and ends."""
        self.wire.close()
        self.output.close()

    def forget(self) -> None:
        """Close what is here of it, in a process that was forked from the one that wanted it."""
        self.wire.forget()
        self.output.close()


@dataclass(eq=False, slots=True)
class Member:
    """A worker, with all that the main process has of it."""

    info: PoolWorkerInfo
    wire: Wire
    row: int
    output: WorkerStderr
    state: MemberState = MemberState.STARTING
    arena: ArenaReader | None = None
    """Its memory, for large results."""
    error: Exception | None = None
    """What went wrong in its set-up."""
    deadline: float = float("inf")
    """When its set-up must be over."""
    ready_since: float = float("inf")
    """When its set-up was over."""
    reason: str | None = None
    """Why it was ended from here."""
    lacks_memory: bool = False
    """Whether its memory could not be mapped here, which may be possible later."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.spec["name"]

    @property
    def stderr(self) -> Iterable[str]:
        """The last lines that it wrote to stderr."""
        return self.output.lines

    def handle_startup(self, message: Any, descriptors: tuple[int, ...]) -> bool:
        """Take a message of the set-up; returns whether it was one."""
        if isinstance(message, Arrived):
            try:
                self.arena = ArenaReader(descriptors[0], message.arena_size, writable=True)
            except SharedMemoryFullError as error:  # it could never send a large result
                self.lacks_memory = True
                self.end(f"the memory that it shares with this process is missing: {error}")
        elif isinstance(message, StartupDone):
            # one that is to end, for whatever reason, is never ready
            if self.state is MemberState.STARTING and self.reason is None:
                self.state = MemberState.READY
                self.ready_since = time.monotonic()
        elif isinstance(message, StartupFailed):
            self.error = unpack_error(message.error)
        else:
            return False
        return True

    def end(self, reason: str) -> None:
        """Kill its process, and take note why; its loss is seen later, as any other."""
        if self.reason is None:
            self.reason = reason
        self.info.process.kill()

    def describe_end(self, code: int | None) -> str:
        """Return in words how its process ended, with what it wrote at last."""
        how = (self.reason or self.wire.trouble or describe_exit(code)) + describe_last_words(self.output.lines)
        return f"worker {self.name} (process {self.info.process.pid}): {how}"

    def close(self) -> None:
        """Release everything; the process must have ended, or will find its line closed."""
        self.wire.close()
        self._close_others()

    def forget(self) -> None:
        """Close what is here of it, in a process that was forked from the one that has it; results stay as they are."""
        arena = self.arena
        self.wire.forget()
        self._close_others()
        if arena is not None:
            arena.make_private()

    def _close_others(self) -> None:
        self.state = MemberState.GONE
        self.output.close()
        self.arena = None  # results that lie in there keep it
        self.info.process.close()
