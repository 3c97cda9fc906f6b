"""The worker processes of one executor: started, ended, and started again.

Who owns what: a pool owns the processes, the lines to them, the memory that it shares with them, and the process that
forks them. Nothing in here waits for a worker but the constructor: later ones are launched, and admitted when their
line tells that they are there. A pool does nothing by itself; when one of its workers ends, whoever uses the pool
notices, and has it replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tilework.common.backend import set_file_limit
from tilework.common.standard_files import have_standard_files
from tilework.exceptions import PoolStateError
from tilework.executor.exits import describe_last_words
from tilework.executor.pipelined.arena import Arena
from tilework.executor.pipelined.budget import arena_size, available_shared_memory
from tilework.executor.pipelined.control import ControlPage
from tilework.executor.pipelined.main_queues import make_queues
from tilework.executor.pipelined.member import Launch, Member, MemberState, PoolWorkerInfo
from tilework.executor.pipelined.messages import (
    Forked,
    Setup,
    Shutdown,
    decode,
    encode,
)
from tilework.executor.pipelined.process import (
    Patience,
    WorkerProcess,
    Zygote,
    environ_of_workers,
    modules_of_workers,
    path_of_workers,
)
from tilework.executor.pipelined.spec import check_spec
from tilework.executor.pipelined.stderr import WorkerStderr
from tilework.executor.pipelined.telling import log_safely
from tilework.executor.pipelined.wire import Wire, WireClosedError
from tilework.executor.remote import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.worker_queues import WorkerQueues

__all__ = ["WorkerPool"]

log = logging.getLogger(__name__)


class WorkerPool:
    """Worker processes, each with a line of its own to this process.

    Parameters
    ----------
    worker_fn
        Called as ``worker_fn(queues, spec)`` in each worker process, which ends when it returns. Anything that
        cloudpickle can pickle.
    spec
        The workers.
    startup_timeout
        How long the set-up of a worker may take, in seconds.
    on_blocked
        Called with the wire when something could not be sent to a worker at once; then `Wire.flush` must be called
        when it is writable. None: sending blocks.
    on_launch
        Called with what `launch` returns; then `admit` must be called when its line has news.
    shared_memory
        The most shared memory that is taken, in bytes, but for scattered objects; None: half of what there is. One half
        is for what goes to the workers, the other for what comes from them.
    folder
        Where to make files for shared memory, which are removed at once; None: it is anonymous where the system can
        do that, and needs no place.

    Raises
    ------
    ExecutorSpecException
        When there is no worker in `spec`, or two have the same name; or on a system that is not Linux.
    """

    def __init__(
        self,
        worker_fn: Callable[[WorkerQueues, WorkerSpec], Any],
        spec: Sequence[WorkerSpec],
        *,
        startup_timeout: float = 30.0,
        on_blocked: Callable[[Wire], None] | None = None,
        on_launch: Callable[[Launch], None] | None = None,
        shared_memory: int | None = None,
        folder: str | None = None,
    ) -> None:
        check_spec(spec)
        have_standard_files()
        set_file_limit()  # each worker takes five descriptors here
        self.spec = list(spec)
        self.members: list[Member] = []
        self.launches: list[Launch] = []
        self.startup_timeout = startup_timeout
        self._worker_fn = dumps(worker_fn)
        self._on_blocked = on_blocked
        self._on_launch: Callable[[Launch], None] | None = None
        self._folder = folder
        self._preload = modules_of_workers()
        self._environ = environ_of_workers()  # also for those that come later
        self._rows = list(range(4095, -1, -1))
        self._is_closed = False
        total = available_shared_memory(folder) // 2 if shared_memory is None else shared_memory
        self.result_budget = arena_size(total // 2 // len(self.spec))
        with ExitStack() as undo:
            self._zygote = Zygote.shared(self._preload)
            undo.callback(self._zygote.release, 5.0)
            self.arena = Arena(arena_size(total // 2), folder)
            undo.callback(self.arena.close)
            self.page = ControlPage()
            undo.pop_all()
        self.patience = Patience()
        try:
            self._start()
        except BaseException:
            self.kill()
            raise
        self._on_launch = on_launch

    # ---- looking at it ----

    @property
    def workers(self) -> list[PoolWorkerInfo]:
        """The workers, in the order of the spec."""
        return [member.info for member in self.members]

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self.members)

    def all_alive(self) -> bool:
        """Return whether no worker has ended."""
        return all(info.process.is_alive() for info in self.workers)

    def assert_all_alive(self) -> None:
        """Raise PoolStateError, after killing the others, when a worker has ended."""
        if not self.all_alive():
            names = ", ".join(info.spec["name"] for info in self.workers if not info.process.is_alive())
            self.kill()
            msg = f"One or more workers failed to start, or have ended: {names}"
            raise PoolStateError(msg)

    def get_worker_queues(self, idx: int) -> WorkerQueues:
        """Return the queues of a worker."""
        self._check_open()
        return self.members[idx].info.queues

    def _check_open(self) -> None:
        if self._is_closed:
            msg = "the pool is closed"
            raise PoolStateError(msg)

    # ---- starting ----

    def _start(self) -> None:
        """Start all workers, and wait until their processes are there."""
        for launch in [self.launch(each) for each in self.spec]:
            try:
                self._wait_for(launch)
            except PoolStateError:
                # Somebody killed the process that forks. One that does not answer has had its time.
                if launch.wire.trouble is not None:
                    raise
                self._wait_for(self.launch(launch.spec))

    def _wait_for(self, launch: Launch) -> None:
        launch.zygote.flush()
        while self.admit(launch, min(launch.deadline, self.patience.date) - time.monotonic()) is None:
            self.patience.warn_if_slow()
            if time.monotonic() >= launch.deadline:
                self.give_up(launch)

    def launch(self, spec: WorkerSpec) -> Launch:
        """Ask for a worker, and return at once; see `admit`."""
        self._check_open()
        with ExitStack() as undo:
            wire, there = Wire.pair(self._on_blocked)
            undo.callback(wire.close)
            with there:
                stderr, stderr_there = os.pipe()
                output = WorkerStderr(spec["name"], stderr)
                undo.callback(output.close)
                os.set_blocking(stderr, False)
                try:
                    token = self._spawn(there.fileno(), stderr_there)
                finally:
                    os.close(stderr_there)
            undo.pop_all()
        launch = Launch(spec, wire, output, self._zygote, token, time.monotonic() + self.startup_timeout)
        self.launches.append(launch)
        if self._on_launch is not None:
            self._on_launch(launch)
        return launch

    def _spawn(self, wire_fd: int, stderr_fd: int) -> int:
        try:
            return self._zygote.spawn(wire_fd, stderr_fd, self._preload)
        except WireClosedError:
            # somebody killed it, or it was given up; the workers live on
            with contextlib.suppress(Exception):
                self._zygote.release(0.0)
            self._zygote = Zygote.shared(self._preload)
            return self._zygote.spawn(wire_fd, stderr_fd, self._preload)

    def admit(self, launch: Launch, timeout: float = 0.0) -> Member | None:
        """Take a worker that is there now, and have it set up; it is ready when it says so (`StartupDone`).

        Parameters
        ----------
        launch
            What `launch` returned; it is over when this does not return None.
        timeout
            How long to wait, in seconds.

        Returns
        -------
        Member or None
            None when nothing is known yet.

        Raises
        ------
        PoolStateError
            When there is no worker, and none will be.
        """
        try:
            frame = launch.wire.receive(timeout)
        except WireClosedError as error:
            launch.output.read_last()
            trouble = launch.wire.trouble or "One or more workers failed to start: it never came to be"
            text = f"{trouble}{describe_last_words(launch.output.lines)}"
            self.launches.remove(launch)
            launch.close()
            raise PoolStateError(text) from error
        if frame is None:
            return None
        message = decode(frame.body)
        assert isinstance(message, Forked)
        self.launches.remove(launch)
        wire = launch.wire
        process = WorkerProcess(message.pid, frame.descriptors[0], partial(launch.zygote.wait_status, launch.token))
        row = self._rows.pop()
        self.page.clear(row)
        member = Member(PoolWorkerInfo(make_queues(wire), process, launch.spec), wire, row, launch.output)
        member.deadline = time.monotonic() + self.startup_timeout
        self.members.append(member)
        setup = Setup(
            self._worker_fn,
            launch.spec,
            row,
            self.arena.size,
            self.result_budget,
            self._folder,
            path_of_workers(),
            list(sys.argv),
            _current_folder(),
            self._environ,
        )
        with contextlib.suppress(WireClosedError):  # it has died already, as will be seen
            wire.send(encode(setup), (self.page.fd, self.arena.fd))
        return member

    def give_up(self, launch: Launch) -> None:
        """End a launch that took too long: `admit` says so. Another process forks from now on."""
        launch.zygote.kill()
        launch.wire.give_up(
            f"Timeout while starting workers, no worker process was started within {self.startup_timeout:g} s: "
            "raise startup_timeout, or look at what is slow"
        )

    def remove(self, member: Member) -> str:
        """Forget a worker whose process has ended, or is killed now; returns in words how it ended."""
        process = member.info.process
        if not process.join(0.05):
            process.kill()
            process.join(1.0)
        code = process.wait_status()
        member.output.read_last()
        if member.state is MemberState.RETIRING:
            member.output.log_lines()
        else:
            member.output.leave_to_others()
        text = member.describe_end(code)
        member.close()
        if member in self.members:
            self.members.remove(member)
            self._rows.append(member.row)
        return text

    # ---- ending ----

    def kill_worker(self, info: PoolWorkerInfo, timeout: float = 5.0) -> None:
        """End a worker, asking first: SIGTERM, then after `timeout` seconds SIGKILL."""
        info.process.terminate()
        if not info.process.join(timeout):
            info.process.kill()
            info.process.join(30.0)

    def kill(self, timeout: float = 5.0) -> None:
        """End all workers without waiting for what they do; the pool is closed then."""
        for info in self.workers:
            info.process.kill()
        self.close(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """End all workers, those after `timeout` seconds by force that still do something; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        for member in self.members:
            with contextlib.suppress(WireClosedError):
                member.wire.send(encode(Shutdown()))
                member.wire.flush()
            member.wire.hang_up()  # nobody listens any more, for whom one that has much to say would wait
        until = time.monotonic() + timeout
        for member in self.members:
            process = member.info.process
            if not process.join(max(0.0, until - time.monotonic())):
                if timeout:
                    text = "worker %s did not end within %g s and is killed"
                    log_safely(log, logging.WARNING, text, member.name, timeout)
                process.kill()
                process.join(5.0)
        for member in self.members:
            member.output.read_last()
            member.output.log_lines()
            member.close()
        self.members.clear()
        for launch in self.launches:
            launch.close()
        self.launches.clear()
        self._zygote.release(5.0)
        self.page.close()
        self.arena.close()

    def forget(self) -> None:
        """Close everything here, and leave the workers alone: this process was forked from the one that has them."""
        self._is_closed = True
        for launch in self.launches:
            launch.forget()
        self._zygote.forget()
        self.arena.forget()
        self.page.forget()
        for member in self.members:  # last, as there may be no memory for their results
            member.forget()
        self.members.clear()
        self.launches.clear()


def _current_folder() -> str:
    """Return the folder that workers go to; empty when it was removed, then they stay where they are."""
    try:
        return os.getcwd()  # noqa: PTH109  (a name, to be sent)
    except OSError:
        return ""
