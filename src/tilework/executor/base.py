"""What all executors have in common: open or closed, runs by name, events, what happened, and the way to asyncio."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, ClassVar

from tilework.common.executor import Environment, JobExecutor
from tilework.common.subscriptions import SubscriptionManager
from tilework.exceptions import ExecutorError, ExecutorSpecException
from tilework.executor.async_adapter import AsyncAdapter
from tilework.utils.devices import detect, has_cupy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Executor

    from tilework.common.executor import AsyncJobExecutor, GenericTaskProtocol, GPUSpec
    from tilework.common.subscriptions import Callback
    from tilework.executor.driver import RunControl
    from tilework.executor.run import Run

__all__ = ["AsyncAdapter", "BaseJobExecutor", "make_canonical"]

_KEPT_EVENTS = 100


def make_canonical(main_gpu: GPUSpec) -> int | None:
    """Return the CUDA device that the main process uses, or None for none.

    Parameters
    ----------
    main_gpu
        The number of a device; True for the first one; False for none; None for the first one if there is one and CuPy
        can use it.

    Raises
    ------
    ExecutorSpecException
        When a GPU was asked for that is not there, or that CuPy cannot use.
    ValueError
        When it is something else than a number, a bool or None.
    """
    if main_gpu is False:
        return None
    given: object = main_gpu
    if given is not None and not isinstance(given, int):
        msg = f"main_process_gpu must be the number of a CUDA device, a bool or None, not {main_gpu!r}"
        raise ValueError(msg)
    devices = [int(device) for device in detect()["cudas"]]
    if main_gpu is None:
        return devices[0] if devices and has_cupy() else None
    if not devices:
        msg = f"main_process_gpu={main_gpu!r} asks for a GPU, but no CUDA device was found; use False to work without"
        raise ExecutorSpecException(msg)
    if main_gpu is True:
        return devices[0]
    if main_gpu not in devices:
        msg = f"main_process_gpu={main_gpu} is not among the CUDA devices that were found: {devices}"
        raise ExecutorSpecException(msg)
    if not has_cupy():
        msg = f"main_process_gpu={main_gpu} needs CuPy, which cannot be imported; install it, or use False"
        raise ExecutorSpecException(msg)
    return main_gpu


class BaseJobExecutor(JobExecutor):
    """The parts of an executor that do not depend on what its workers are.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs in the main process; see `make_canonical`.

    Notes
    -----
    Subscribers are told of ``"run_start"`` (with ``cancel_id``) and ``"run_end"`` (with ``cancel_id``, ``state`` and
    how many ``tasks`` were done), each in the thread that consumes the run.
    """

    _survives_fork: ClassVar = False
    """Whether it is as good in a process that was forked, which has no other threads and none of our processes."""

    def __init__(self, main_process_gpu: GPUSpec = None) -> None:
        self._pid = os.getpid()
        self._main_process_gpu = main_process_gpu
        if main_process_gpu is not None:
            self._main_process_gpu = make_canonical(main_process_gpu)
        self._is_main_gpu_known = main_process_gpu is not None
        self._subscriptions = SubscriptionManager()
        # The garbage collector may come by while a thread holds it, and end a run there that nobody has any more.
        self._lock = threading.RLock()
        self._is_closed = False
        # A run is in here from the call that makes its generator until the generator ends, or is forgotten unused.
        self._controls: weakref.WeakValueDictionary[int, RunControl] = weakref.WeakValueDictionary()
        self._counts: Counter[str] = Counter()
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)

    # ---- for subclasses ----

    def _release(self) -> None:
        """Give up all workers; called once, when no new work is taken any more. By default there is nothing to do."""

    def _limits(self) -> dict[str, Any]:
        """Return what the report says about limits: by default, nothing."""
        return {}

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid and not self._survives_fork

    def _check_process(self) -> None:
        """Raise ExecutorError in a process that was forked, where nobody would do anything."""
        if self._is_forked():
            msg = f"this {type(self).__name__} belongs to the process that this one was forked from: make a new one"
            raise ExecutorError(msg)

    def _check_open(self) -> None:
        self._check_process()
        if self._is_closed:
            msg = f"this {type(self).__name__} is closed: make a new one"
            raise ExecutorError(msg)

    def _begin(self, control: RunControl) -> None:
        """Make a run known, so that it can be cancelled."""
        with self._lock:
            self._check_open()
            self._controls[id(control)] = control

    def _end(self, control: RunControl) -> None:
        if self._is_forked():
            return
        with self._lock:
            self._controls.pop(id(control), None)

    def _runs_under_way(self) -> list[RunControl]:
        # First a list that is made in one step: a run may end while it is gone through, also in this thread.
        with self._lock:
            return [control for each in self._controls.valuerefs() if (control := each()) is not None]

    def _note_start(self, control: RunControl) -> None:
        self._note("run_start", {"cancel_id": control.cancel_id})

    def _note_end(self, control: RunControl, run: Run[Any]) -> None:
        if self._is_forked():
            return
        with self._lock:
            self._counts[f"runs {run.state.value}"] += 1
            self._counts["tasks"] += run.delivered
            self._counts["losses"] += run.losses
        self._note("run_end", {"cancel_id": control.cancel_id, "state": run.state.value, "tasks": run.delivered})

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _note(self, topic: str, message: dict[str, Any]) -> None:
        """Keep an event for the report, and tell the subscribers; an error of theirs does not harm a run."""
        plain = {key: value if isinstance(value, int | float | str) else repr(value) for key, value in message.items()}
        self._events.append({"event": topic, "time": time.time(), **plain})
        self._subscriptions.tell(topic, message)

    # ---- the interface ----

    def cancel(self, cancel_id: Any) -> bool:
        """Cancel all runs with the given name; see `JobExecutor.cancel`."""
        if self._is_forked():
            return False
        controls = [control for control in self._runs_under_way() if control.cancel_id == cancel_id]
        for control in controls:
            control.cancel("the run was cancelled")
        return bool(controls)

    def close(self) -> None:
        """Cancel all runs, and give up all workers; may be called twice, and from any thread.

        In a process that was forked from the one that has the workers, it does nothing.
        """
        if self._is_forked():
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._cancel_all("the executor was closed")
        self._release()

    def _cancel_all(self, reason: str) -> None:
        for control in self._runs_under_way():
            control.cancel(reason)

    def run_process_local(
        self, task: GenericTaskProtocol, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``task(args, kwargs, environment)`` here; see `JobExecutor.run_process_local`."""
        return task(args, kwargs or {}, environment=self._get_local_env())

    def _get_local_env(self) -> Environment:
        """Return the environment of the main process: no limits, and other tasks may run in other threads."""
        return Environment(threads_per_worker=None, threaded_executor=True, gpu_id=self._main_gpu())

    def _main_gpu(self) -> int | None:
        if not self._is_main_gpu_known:  # looking for devices takes time: only when somebody asks
            self._main_process_gpu = make_canonical(None)
            self._is_main_gpu_known = True
        return self._main_process_gpu

    def ensure_async(self, pool: Executor | None = None) -> AsyncJobExecutor:
        """Return this executor for use with asyncio; see `JobExecutor.ensure_async`."""
        return AsyncAdapter(self, pool)

    def subscribe(self, topic: str, callback: Callback) -> str:
        """Call ``callback(topic, message)`` for every event of this topic; see the notes of the class."""
        return self._subscriptions.subscribe(topic, callback)

    def unsubscribe(self, key: str) -> bool:
        """Remove a subscription; returns whether there was one."""
        return self._subscriptions.unsubscribe(key)

    def get_resource_details(self) -> list[dict[str, Any]]:
        """Return a dictionary for each host with its name under ``"host"``, and what its workers offer together."""
        return [
            {
                "host": group.example().host,
                "workers": group.names(),
                "concurrency": group.concurrency(),
                "cuda_workers": group.has_cuda().names(),
            }
            for group in self.get_available_workers().group_by_host()
        ]

    def report(self) -> dict[str, Any]:
        """Return who runs where, with what limits, and what happened so far.

        Returns
        -------
        dict
            ``executor`` (class), ``closed``; ``workers``: list of name, host, resources and threads; ``limits``;
            ``runs``: how many are active, and how many ended in which state; ``tasks``: how many were done;
            ``losses``: how often a worker was lost with a task; ``functions``: how many calls there were; ``events``:
            the latest, oldest first.
        """
        with self._lock:
            counts = Counter(self._counts)
            n_active = len(self._controls)
            events = list(self._events)
            is_closed = self._is_closed
        ended = {key.removeprefix("runs "): n for key, n in counts.items() if key.startswith("runs ")}
        return {
            "executor": type(self).__name__,
            "closed": is_closed,
            "workers": [
                {"name": w.name, "host": w.host, "resources": dict(w.resources), "threads": w.nthreads}
                for w in ([] if is_closed else self.get_available_workers())
            ],
            "limits": self._limits(),
            "runs": {"active": n_active, **ended},
            "tasks": counts["tasks"],
            "losses": counts["losses"],
            "functions": counts["functions"],
            "events": events,
        }
