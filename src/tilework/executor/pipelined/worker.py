"""What runs in a worker process.

::

    main thread:   pipelined_worker ─ set up ─► worker_loop ─► worker_run_task / worker_run_function / scattered objects
    watch thread:  waits for the end of the main process, and ends this one

Who owns what: everything belongs to the main thread, but threads of a task may read its stream (see `worker_queues`).
Scattered objects lie in the working memory as they came, and are unpickled when the first task needs them, and so are
functions; so what cannot be unpickled is an error of the tasks that want it, and of nobody else, also when it ends the
process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from tilework.common.executor import Environment
from tilework.common.tracing import attach_to_parent, maybe_setup_tracing, send_spans
from tilework.exceptions import ExecutorError
from tilework.executor.calling import call_task, note_unpicklable_result, note_unusable
from tilework.executor.forked import end_fork
from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.control import WorkerStopFlag
from tilework.executor.pipelined.memory import SharedMemoryFullError, map_segment
from tilework.executor.pipelined.parcel import pack
from tilework.executor.pipelined.worker_queues import (
    MessageQueue,
    PipelinedWorkerContext,
    RequestQueue,
    ResponseQueue,
    StreamQueue,
)
from tilework.executor.remote import loads, pack_error

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from tilework.executor.pipelined.parcel import Parcel
    from tilework.executor.pipelined.spec import WorkerSpec
    from tilework.executor.pipelined.worker_queues import WorkerQueues

__all__ = [
    "be_worker",
    "pipelined_worker",
    "set_thread_name",
    "worker_loop",
    "worker_run_function",
    "worker_run_task",
]

log = logging.getLogger(__name__)

_PR_SET_NAME: Final = 15


def set_thread_name(name: str) -> None:
    """Name the calling thread, for tools such as ``top -H``; nothing where the system has no such names.

    Parameters
    ----------
    name
        The name; the system keeps the first 15 bytes.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


# ---- set up ----


def pipelined_worker(
    queues: WorkerQueues,
    pin: bool,
    spec: WorkerSpec,
    span_context: Any,
    early_setup: Callable[[], Any] | None = None,
) -> None:
    """Be a worker, until there is no more to do.

    Parameters
    ----------
    queues
        To and from the main process.
    pin
        Whether a worker for the CPU stays on one CPU.
    spec
        This worker.
    span_context
        OpenTelemetry span under which the set-up is traced, or None.
    early_setup
        Called before anything else.
    """
    if early_setup is not None:
        early_setup()
    from tilework.common.backend import set_file_limit, set_use_cpu, set_use_cuda

    set_thread_name(f"worker-{spec['worker_idx']}")
    maybe_setup_tracing("tilework_worker", spec["name"])
    with attach_to_parent(span_context):
        set_file_limit()
        gpu_id = None
        if spec["device_kind"] == "CPU":
            if pin:
                pin_to_cpu(spec["device_id"])
            set_use_cpu(spec["device_id"])
        else:
            gpu_id = spec["device_id"]
            set_use_cuda(gpu_id)
        env = Environment(threads_per_worker=1, threaded_executor=False, gpu_id=gpu_id)
    queues.response.put(say.StartupDone())
    try:
        worker_loop(queues, {}, spec["worker_idx"], env)
    finally:
        send_spans()


def be_worker(
    queues: WorkerQueues, spec: WorkerSpec, *, pin: bool, span_context: Any, early_setup: Callable[[], Any] | None
) -> None:
    """Call `pipelined_worker` as a pool does: with its queues and its spec.

    It is here, because a worker imports the module of the function that it is given.
    """
    pipelined_worker(queues, pin, spec, span_context, early_setup)


def pin_to_cpu(number: int) -> None:
    """Stay on one CPU, where the system lets it; one that this process may use stands in for one that it may not."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, [number if number in allowed else allowed[number % len(allowed)]])
    except OSError as error:  # forbidden in some sandboxes; all work is done without, too
        log.warning("this worker moves between CPUs, because it cannot be pinned to one: %s", error)


# ---- the loop ----


class _Failure:
    """Stands in the working memory for an object that cannot be had."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Scattered:
    """An object as it came, and what is to be done to it."""

    def __init__(self, message: say.Scatter, descriptors: tuple[int, ...]) -> None:
        self._data = message.data
        self._spans = message.spans
        self._map: mmap.mmap | None = None
        self._patches: list[bytes] = []
        self._object: Any = None
        self._is_made = False
        if descriptors:
            try:
                self._map = map_segment(descriptors[0], message.segment, private=True)
            except SharedMemoryFullError as error:
                error.add_note("the parameters of the run arrived at a worker, which has no room for them")
                self._object, self._is_made = _Failure(error), True

    def patch(self, data: bytes) -> None:
        """Let the object be patched before it is used next."""
        self._patches.append(data)

    def get(self) -> Any:
        """Return the object, made when it is wanted for the first time."""
        if not self._is_made:
            buffers = []
            if self._map is not None:
                memory = memoryview(self._map)
                buffers = [memory[start : start + size] for start, size in self._spans]
            self._object = self._attempt(lambda: loads(self._data or buffers.pop(), buffers=buffers), "be unpickled")
            self._is_made = True
        while self._patches:
            data = self._patches.pop(0)
            if not isinstance(self._object, _Failure):
                done = self._attempt(lambda data=data: self._object.patch(loads(data)), "be patched")  # type: ignore[misc]
                if isinstance(done, _Failure):
                    self._object = done
        if isinstance(self._object, _Failure):
            raise self._object.error
        return self._object

    @staticmethod
    def _attempt(make: Callable[[], Any], what: str) -> Any:
        try:
            return make()
        except Exception as error:  # noqa: BLE001  (it is raised for every task that wants the object)
            note_unusable(error, what)
            if isinstance(error, ModuleNotFoundError):
                _note_module_path(error)
            return _Failure(error)


def _note_module_path(error: ModuleNotFoundError) -> None:
    error.add_note(
        "workers look for modules where the main process did when they were started: change sys.path before the "
        "context is made, or make a new one"
    )


class _Arrived:
    """A parcel that may be unpacked, or never: then `close` closes what came with it. One for each ticket."""

    __slots__ = ("_descriptors", "_parcel", "_requests")

    def __init__(self, requests: RequestQueue, parcel: Parcel, descriptors: tuple[int, ...]) -> None:
        self._requests = requests
        self._parcel = parcel
        self._descriptors = descriptors

    def unpack(self, *, copy: bool) -> Any:
        """Return the object; called once at most. See `RequestQueue.unpack`."""
        descriptors, self._descriptors = self._descriptors, ()
        try:
            return self._requests.unpack(self._parcel, descriptors, copy=copy)
        except ModuleNotFoundError as error:
            _note_module_path(error)
            raise

    def close(self) -> None:
        """Close the descriptors, unless it was unpacked."""
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors = ()


class _OpenRun:
    """What the tickets of a run share."""

    def __init__(self, message: say.OpenRun, descriptors: tuple[int, ...], queues: WorkerQueues, env: Environment):
        requests = queues.request
        assert isinstance(requests, RequestQueue)
        self.params_key = message.params_key
        self.span_context = message.span_context
        self.stop = WorkerStopFlag(requests.page, message.run, message.deadline)
        messages = queues.message
        if isinstance(messages, MessageQueue):
            messages = messages.of_run(message.run)
        self.messages = messages
        self.env = self.environment(env, None)
        self._parcel: _Arrived | None = _Arrived(requests, message.parcel, descriptors)
        self._fn: Any = None

    def function(self) -> Any:
        """Return the function of the tickets, made when the first of them has begun.

        So the main process knows whose fault it is when that ends this process. It keeps the memory of the parcel until
        no ticket of the run is at work.
        """
        if self._parcel is not None:
            parcel, self._parcel = self._parcel, None
            try:
                self._fn = parcel.unpack(copy=True)
            except BaseException as error:  # noqa: BLE001  (it is raised for every ticket)
                self._fn = _Failure(error)
        if isinstance(self._fn, _Failure):
            raise self._fn.error
        return self._fn

    def close(self) -> None:
        """Let go of a function that no ticket has wanted."""
        if self._parcel is not None:
            self._parcel.close()

    def environment(self, env: Environment, queue: StreamQueue | None) -> Environment:
        """Return the environment for a task."""
        context = PipelinedWorkerContext(queue, self.messages)
        return Environment(env.threads_per_worker, env.threaded_executor, context, env.gpu_id, self.stop)


def worker_loop(queues: WorkerQueues, work_mem: dict[Any, Any], worker_idx: int, env: Environment) -> None:
    """Do what the main process asks for, until it asks for the end.

    Parameters
    ----------
    queues
        To and from the main process.
    work_mem
        The worker's memory: scattered objects by key, and runs by number.
    worker_idx
        This worker.
    env
        The environment of which each task gets one of its own.

    Raises
    ------
    ExecutorError
        When it is asked for something that it does not know.
    """
    requests = queues.request
    assert isinstance(requests, RequestQueue)
    while True:
        message, descriptors = requests.next_message()
        if isinstance(message, say.RunTask):
            header = {"message": message, "descriptors": descriptors}
            if work_mem[message.run].params_key is None:
                worker_run_function({**header, "run": work_mem[message.run]}, queues, worker_idx)
            else:
                worker_run_task(header, work_mem, queues, worker_idx, env)
        elif isinstance(message, say.OpenRun):
            work_mem[message.run] = _OpenRun(message, descriptors, queues, env)
        elif isinstance(message, say.CloseRun):
            run = work_mem.pop(message.run, None)
            if run is not None:
                run.close()
        elif isinstance(message, say.Scatter):
            work_mem[message.key] = _Scattered(message, descriptors)
        elif isinstance(message, say.Patch):
            if message.key in work_mem:
                work_mem[message.key].patch(message.data)
        elif isinstance(message, say.Delete):
            work_mem.pop(message.key, None)
        elif isinstance(message, say.Shutdown):
            return
        else:
            msg = f"a worker got a message that it does not know: {message!r}"
            raise ExecutorError(msg)


def worker_run_task(
    header: dict[str, Any],
    work_mem: dict[Any, Any],
    queues: WorkerQueues,
    worker_idx: int,  # noqa: ARG001  (the signature is public)
    env: Environment,
) -> None:
    """Run one task, and send its result or its error.

    Parameters
    ----------
    header
        ``"message"``: the `RunTask`; ``"descriptors"``: what came with it.
    work_mem
        The worker's memory.
    queues
        To and from the main process.
    worker_idx
        This worker.
    env
        The environment of which the task gets one of its own.
    """
    message: say.RunTask = header["message"]
    run: _OpenRun = work_mem[message.run]
    requests = queues.request
    assert isinstance(requests, RequestQueue)
    stream = StreamQueue(requests, message.serial) if message.is_streamed else None
    parcel = _Arrived(requests, message.parcel, header["descriptors"])

    def work() -> Any:
        scattered = work_mem.get(run.params_key)
        if scattered is None:
            msg = "the parameters of this task are not scattered any more: their block has ended"
            raise ExecutorError(msg)
        params = scattered.get()
        task = parcel.unpack(copy=False)  # its data, which is only read
        with attach_to_parent(run.span_context):
            return call_task(task, params, run.env if stream is None else run.environment(env, stream))

    try:
        _answer(message, run, queues, work)
    finally:
        parcel.close()
        if stream is not None:
            stream.end()


def worker_run_function(header: dict[str, Any], queues: WorkerQueues, worker_idx: int) -> None:  # noqa: ARG001
    """Call a function with one item, and send its result or its error.

    Parameters
    ----------
    header
        ``"message"``: the `RunTask`; ``"descriptors"``: what came with it; ``"run"``: what its tickets share.
    queues
        To and from the main process.
    worker_idx
        This worker.
    """
    message: say.RunTask = header["message"]
    run: _OpenRun = header["run"]
    requests = queues.request
    assert isinstance(requests, RequestQueue)
    parcel = _Arrived(requests, message.parcel, header["descriptors"])

    def work() -> Any:
        fn = run.function()
        return fn(parcel.unpack(copy=True))  # it may change what it gets, or keep it

    try:
        _answer(message, run, queues, work)
    finally:
        parcel.close()


def _answer(message: say.RunTask, run: _OpenRun, queues: WorkerQueues, work: Callable[[], Any]) -> None:
    """Do the work of a ticket, unless it was taken back or its run is over, and send what became of it."""
    requests, responses = queues.request, queues.response
    assert isinstance(requests, RequestQueue)
    assert isinstance(responses, ResponseQueue)
    serial = message.serial
    if not requests.may_begin(serial):
        responses.put(say.Skipped(serial))
        return
    start = time.perf_counter()
    pid = os.getpid()
    try:
        run.stop.raise_if_set()
        result = work()
        if os.getpid() != pid:
            end_fork(SystemExit())
        seconds = time.perf_counter() - start
        packed = _pack_result(result)
        del result
        responses.put_object(lambda parcel: say.Done(serial, seconds, parcel), packed, run.stop.is_set)
    except BaseException as error:  # noqa: BLE001  (users' code, which may raise anything, also what ends interpreters)
        if os.getpid() != pid:
            end_fork(error)
        responses.put(say.Failed(serial, pack_error(error)))


def _pack_result(result: Any) -> Any:
    try:
        return pack(result)
    except Exception as error:
        note_unpicklable_result(error, result)
        raise


# ---- the process ----


def serve(queues: WorkerQueues, spec: WorkerSpec, worker_fn: bytes) -> int:
    """Be a worker; returns the exit code. An error of the set-up is sent to the main process."""
    try:
        loads(worker_fn)(queues, spec)
    except BaseException as error:  # noqa: BLE001  (whatever ends a worker is reported)
        from tilework.executor.pipelined.wire import WireClosedError

        if isinstance(error, WireClosedError):
            return 0  # the main process is gone
        traceback.print_exc()
        with contextlib.suppress(WireClosedError):
            queues.response.put(say.StartupFailed(pack_error(error)))
        return 1
    return 0
