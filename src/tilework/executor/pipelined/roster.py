"""Which workers there are, and should be: started, replaced when they are lost, given up when they cannot be started.

Called by the hub thread alone, with the hub locked.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from tilework.exceptions import PoolStateError, WorkerLostError
from tilework.executor.pipelined.member import MemberState
from tilework.executor.pipelined.telling import log_safely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.executor.pipelined.member import Launch, Member
    from tilework.executor.pipelined.pool import WorkerPool
    from tilework.executor.pipelined.spec import WorkerSpec

__all__ = ["Roster"]

log = logging.getLogger(__name__)

_MOST_FAILED_STARTS: Final = 3
_MOST_LOST_SOON: Final = 6
_SOON_SECONDS: Final = 1.0
"""A worker that is lost so soon after it was ready, and has begun nothing, is as good as one that cannot be started."""
_RETRY_SECONDS: Final = 0.2
"""The first pause before another attempt; each is more than twice as long as the one before."""
_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE: Final = 60.0
_MOST_LAUNCHES: Final = 32
"""How many workers are asked for at a time."""


class Roster:
    """The workers of a pool that should be there, and what is done so that they are.

    Parameters
    ----------
    pool
        The pool.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._to_start: list[tuple[float, WorkerSpec]] = []
        self._failed_starts: Counter[str] = Counter()
        self._pauses: dict[str, float] = {}  # before the next attempt, of those whose process could not be had
        self.start_error: Exception | None = None
        """What went wrong with a worker before all had been ready once."""
        self._was_complete = False
        self._cause = ""  # how the last one ended that was given up

    @property
    def is_complete(self) -> bool:
        """Whether all workers that were there from the start have been ready."""
        if not self._was_complete and self.start_error is None:
            members = self._pool.members  # none is left when the last one has just failed
            self._was_complete = bool(members) and all(m.state is not MemberState.STARTING for m in members)
        return self._was_complete

    @property
    def is_hopeless(self) -> bool:
        """Whether there is no worker, and none will come."""
        return not self._pool.members and not self._pool.launches and not self._to_start

    def coming(self) -> list[WorkerSpec]:
        """Return the workers that were asked for, or will be."""
        launched = [launch.spec for launch in self._pool.launches if self.is_wanted(launch.name)]
        return launched + [spec for _, spec in self._to_start]

    def no_worker(self, target: str | None) -> WorkerLostError:
        """Return the error for who needs a worker that is not there, and will not come.

        Parameters
        ----------
        target
            Its name; None: any that can do the work would do.
        """
        if self.is_hopeless:
            return WorkerLostError(
                f"no worker is left, and none could be started again, the last one so: {self._cause}. "
                "Make a new executor when that is mended"
            )
        which = "no worker is left that can do this" if target is None else f"worker {target} is not there any more"
        return WorkerLostError(
            f"{which}: it was taken away by resize(), or could not be started again, about which the log says more"
        )

    def note_ready(self, member: Member) -> None:
        """Take note that a worker takes tickets."""
        self._pauses.pop(member.name, None)
        self._was_complete = self.is_complete  # now, as it may be lost before anybody asks

    def note_loss(self, member: Member, was: MemberState, cause: str, *, has_begun: bool) -> None:
        """Plan what replaces a worker that has ended.

        Parameters
        ----------
        member
            The worker.
        was
            Where it stood before.
        cause
            How it ended.
        has_begun
            Whether it has begun a ticket, ever.
        """
        if was is MemberState.RETIRING:
            return
        is_failed_start = was is MemberState.STARTING
        if is_failed_start and not self.is_complete:
            self.start_error = member.error or PoolStateError(f"One or more workers failed to start: {cause}")
            return
        if member.lacks_memory:
            self._try_later(member.info.spec, PoolStateError(cause))
            return
        name = member.name
        if is_failed_start or (not has_begun and time.monotonic() < member.ready_since + _SOON_SECONDS):
            self._failed_starts[name] += 1
        else:
            del self._failed_starts[name]
        n = self._failed_starts[name]
        if n >= (_MOST_FAILED_STARTS if is_failed_start else _MOST_LOST_SOON):
            self._cause = cause
            text = "worker %s could not be started, or was lost as soon as it was, %d times and is given up"
            log_safely(log, logging.ERROR, text, name, n)
            return
        # One that was ready is replaced at once, unless that is not the first time.
        steps = n if is_failed_start else max(0, n - 1)
        self._to_start.append((time.monotonic() + _RETRY_SECONDS * (2**steps - 1), member.info.spec))

    def set_wanted(self, spec: Sequence[WorkerSpec]) -> list[Member]:
        """Have the workers of `spec` from now on; returns those that are too many."""
        wanted = {each["name"] for each in spec}
        there = {m.name for m in self._pool.members if m.state is not MemberState.RETIRING}
        self._to_start = [each for each in self._to_start if each[1]["name"] in wanted]
        coming = {each[1]["name"] for each in self._to_start} | {each.name for each in self._pool.launches}
        self._to_start += [(0.0, each) for each in spec if each["name"] not in there | coming]
        self._pool.spec = list(spec)
        return [m for m in self._pool.members if m.state is not MemberState.RETIRING and m.name not in wanted]

    # ---- starting ----

    def admit(self, launch: Launch) -> Member | None:
        """Take the news of a worker that was asked for; returns it when it is there."""
        try:
            return self._pool.admit(launch)
        except PoolStateError as error:
            if self.is_wanted(launch.name):
                self._try_later(launch.spec, error)
            return None

    def is_wanted(self, name: str) -> bool:
        """Return whether a worker of this name should be there."""
        return any(each["name"] == name for each in self._pool.spec)

    def _try_later(self, spec: WorkerSpec, error: Exception) -> None:
        """Plan another attempt to start a worker, for which no process or memory can be had."""
        name = spec["name"]
        pause = self._pauses.get(name, _PAUSE_SECONDS)
        self._pauses[name] = min(2 * pause, _LONGEST_PAUSE)
        self._to_start.append((time.monotonic() + pause, spec))
        text = "worker %s cannot be started, the next attempt is in %g s: %s"
        log_safely(log, logging.WARNING, text, name, pause, error)

    # ---- in time ----

    def next_date(self) -> float:
        """Return when `keep_dates` has something to do next; infinity for never."""
        dates = [date for date, _ in self._to_start] if len(self._pool.launches) < _MOST_LAUNCHES else []
        dates += [launch.deadline for launch in self._pool.launches]
        dates += [m.deadline for m in self._pool.members if m.state is MemberState.STARTING]
        return min(dates, default=math.inf)

    def keep_dates(self, now: float) -> None:
        """Start what is to be started now, and end what takes too long to be set up."""
        due = [each for each in self._to_start if each[0] <= now][: _MOST_LAUNCHES - len(self._pool.launches)]
        for each in due:
            self._to_start.remove(each)
            try:
                self._pool.launch(each[1])
            except Exception as error:  # noqa: BLE001  (no descriptor, process or memory can be had)
                self._try_later(each[1], error)
        for launch in self._pool.launches:
            if now > launch.deadline:
                self._pool.give_up(launch)
        for member in self._pool.members:
            if member.state is MemberState.STARTING and now > member.deadline:
                member.deadline = math.inf
                member.error = PoolStateError(
                    f"Timeout while starting workers: {member.name} was not ready in {self._pool.startup_timeout:g} s; "
                    "raise startup_timeout, or look at what is slow"
                )
                member.info.process.kill()
