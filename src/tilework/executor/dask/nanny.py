"""A cluster on this machine, and the nannies of its workers. Imports distributed: only for what is to be started."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dask
from distributed import Nanny, SpecCluster
from distributed.core import Status

from tilework.executor.dask.roster import PID
from tilework.executor.dask.spawning import (
    METHOD,
    own_pid,
    stderr_of_new_processes,
    template_of_new_processes,
    told_of_new_processes,
)
from tilework.executor.dask.stderr import StderrRelay
from tilework.executor.dask.template import Template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Exit", "LocalNanny", "LocalSpecCluster"]

_ATTEMPTS: Final = 5
_KEPT_EXITS: Final = 5
_ENDING: Final = {Status.closing, Status.closed, Status.closing_gracefully, Status.failed}

_lock = threading.Lock()
_n_starting = 0
_setting: Any = None


@contextmanager
def _our_way_to_start_processes() -> Iterator[None]:
    """Let Dask start processes our way, for as long as any of our workers is being started."""
    global _n_starting, _setting  # noqa: PLW0603
    with _lock:
        if _n_starting == 0:
            _setting = dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        _n_starting += 1
    try:
        yield
    finally:
        with _lock:
            _n_starting -= 1
            if _n_starting == 0:
                _setting.__exit__(None, None, None)


def _copy(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(part) if isinstance(part, dict) else part for name, part in config.items()}


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker process ended."""

    pid: int | None
    """Its number; not its address, which is not known here for a moment when it has begun to work; None: not known."""
    code: int
    """Exit code; negative for a signal."""
    stderr: tuple[str, ...]
    """The last lines that it wrote."""


class LocalNanny(Nanny):  # type: ignore[misc]
    """A nanny whose worker does not load the main module, and is started again also when it dies in starting."""

    exits: deque[Exit]
    """How its latest workers ended."""

    def __init__(self, *args: Any, silence_logs: Any = None, **kwargs: Any) -> None:
        self.exits = deque(maxlen=_KEPT_EXITS)
        self._starting = asyncio.Lock()
        self._template = Template.shared()
        self._stderr: StderrRelay | None = None
        self._latest: int | None = None
        # Here it would concern the whole process, in which whoever started the cluster has set the level.
        kwargs["startup_information"] = {PID: own_pid, **kwargs.get("startup_information", {})}
        super().__init__(*args, **kwargs)
        self.silence_logs = silence_logs
        # Dask's is made of the parts of what is configured at each moment: a worker that is started again, after the
        # cluster was, would have another configuration than the first.
        self.config: dict[str, Any] = _copy(self.config)

    def _on_worker_exit_sync(self, exitcode: int) -> None:
        self._end_stderr()
        self.exits.append(Exit(self._latest, exitcode, self._stderr.last_lines if self._stderr else ()))
        super()._on_worker_exit_sync(exitcode)

    async def instantiate(self) -> Any:
        """Start the worker."""
        result = None
        async with self._starting:
            for _ in range(_ATTEMPTS):
                if self.process is not None and self.process.status is Status.running:
                    return Status.running  # the one who had the lock before has started it
                with _our_way_to_start_processes(), self._forked(), self._relayed_stderr(), self._told():
                    result = await super().instantiate()
                if result is Status.running or self.status in _ENDING:
                    break
        return result

    @contextmanager
    def _forked(self) -> Iterator[None]:
        """Let the worker that is started inside the block be a fork of the template."""
        token = template_of_new_processes.set(self._template)
        try:
            yield
        finally:
            template_of_new_processes.reset(token)

    @contextmanager
    def _relayed_stderr(self) -> Iterator[None]:
        """Let the worker that is started inside the block write to stderr by way of us."""
        if not StderrRelay.is_possible:
            yield
            return
        self._end_stderr()
        self._stderr = StderrRelay(asyncio.get_running_loop())
        token = stderr_of_new_processes.set(self._stderr.there)
        try:
            yield
        finally:
            stderr_of_new_processes.reset(token)
            self._stderr.hand_over()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Take note of the number of the worker that is started inside the block."""

        def take_note(pid: int) -> None:
            self._latest = pid

        self._latest = None
        token = told_of_new_processes.set(take_note)
        try:
            yield
        finally:
            told_of_new_processes.reset(token)

    def _end_stderr(self) -> None:
        if self._stderr is not None:
            self._stderr.close()

    async def kill(self, *args: Any, **kwargs: Any) -> None:
        """End the worker; one that is about to start in a cluster that ends is not waited for."""
        process = self.process
        if self.status in _ENDING and process is not None and process.status is Status.starting:
            is_waited_for = not process.running.is_set()
            try:
                await process.process.kill()
            except AttributeError:  # there is none, as it could not be started: whoever has tried tells why
                return
            if is_waited_for:
                await process.running.wait()  # until whoever was starting it has noticed, who would be cancelled else
        await super().kill(*args, **kwargs)

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """End the worker, and itself."""
        try:
            return await super().close(*args, **kwargs)
        finally:
            self._end_stderr()
            self._template = None  # which ends with the last that holds it: this may be garbage for long


class LocalSpecCluster(SpecCluster):  # type: ignore[misc]
    """A cluster that does not close the nanny of a worker that has been away for a while: it is starting it again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._owner = os.getpid()
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # Dask leaves its event loop when it is the scheduler that cannot be started, as at a port that is taken.
            runner: Any = getattr(self, "_loop_runner", None)
            if runner is not None and not self.asynchronous:
                runner.stop()
            raise

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """End scheduler and workers; nothing in a fork, which has no event loop that could, when Dask asks at exit."""
        return super().close(*args, **kwargs) if os.getpid() == self._owner else None

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super(SpecCluster, self)._update_worker_status(op, msg)
