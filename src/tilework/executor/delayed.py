"""Tasks as parts of a Dask graph: nothing is read or computed before somebody computes a result.

::

    run_tasks            adds a node per task to a graph, and yields what stands for its results
    dask.compute(...)    on any of Dask's schedulers: runs the nodes that the wanted results need
      TaskNode           on a worker of that scheduler: the task itself, in an environment of its own

The executor only builds graphs; functions (`run_function`, `map`, …) run at once, in the calling thread. How partial
results are put together is the business of whoever calls `run_tasks`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from tilework.common.array_backends import as_names, resources_for
from tilework.common.backend import get_use_cuda
from tilework.common.dask_buffers import DaskBufferWrapper, to_dask_buffer
from tilework.common.dask_graphs import ArraySpec, Constant, Item, LazyGraph, import_dask
from tilework.common.executor import Environment, RunOptions, TaskCommHandler
from tilework.common.without_options import options_of
from tilework.exceptions import ExecutorError
from tilework.executor.calling import call_task, partition_name, stopped_iteration
from tilework.executor.driven import is_streamed
from tilework.executor.inline import InlineBackend
from tilework.executor.local import LocalJobExecutor, LocalStore, workers_here
from tilework.executor.remote import contained, dumps, loads
from tilework.executor.run import Bounds
from tilework.executor.storing import patched
from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from tilework.common.executor import GPUSpec, Priority, StopFlag, TaskProtocol, WorkerContext
    from tilework.common.scheduler import ResourceDef, WorkerSet
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.local import Work
    from tilework.executor.run import Ticket

__all__ = ["DelayedJobExecutor"]

V = TypeVar("V")


class DelayedJobExecutor(LocalJobExecutor):
    """Makes Dask graphs of tasks instead of running them.

    Results of UDFs that are run on it have ``delayed_data`` and ``delayed_raw_data``, Dask arrays that can be computed
    with, and computed on any of Dask's schedulers; ``data`` computes at once.

    A graph is pure: what is scattered belongs to the nodes that are made afterwards, as it is then.
    `scatter_update` and `scatter_update_patch` change it for nodes that are made later, never for those that are
    there; nobody else may change it. Runs of UDFs scatter parameters whose NumPy arrays are copies.

    Since nothing runs here, no time limit can be kept, and `cancel` has no hold on what a scheduler computes; data that
    is streamed to tasks, as from a detector, is refused, and tasks cannot send messages.

    Parameters
    ----------
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Raises
    ------
    ExecutorSpecException
        When Dask cannot be imported, or the GPU is not there.
    """

    _survives_fork = True

    def __init__(self, main_process_gpu: GPUSpec = None) -> None:
        import_dask("DelayedJobExecutor")
        super().__init__(main_process_gpu)
        self._store = PureStore(self._transfer)
        self._registered = threading.local()

    # ---- tasks ----

    def register_master_udfs(self, udfs: Iterable[Any]) -> None:
        """Say what the tasks of the next `run_tasks` of this thread return.

        Parameters
        ----------
        udfs
            Main-side instances in the order of the tasks' results, whose ``results`` hold declared buffers.
        """
        self._registered.udfs = tuple(udfs)

    def run_tasks(
        self,
        tasks: Iterable[TaskProtocol],
        params_handle: Any,
        cancel_id: Any,
        task_comm_handler: TaskCommHandler,
        *,
        options: RunOptions = RunOptions(),
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        """Make nodes of a graph from tasks, one by one, in task order.

        Parameters
        ----------
        tasks, params_handle
            As of `JobExecutor.run_tasks`. A task gets the parameters as they are when its node is made.
        cancel_id
            Name for `cancel`, which ends the making of nodes; it has no hold on those that are made.
        task_comm_handler
            Must not stream data.
        options
            ``timeout`` must be None; order and priority are those of Dask.

        Yields
        ------
        result, task
            After `register_master_udfs`, in the same thread: a tuple with the results of each UDF, whose buffers
            hold Dask arrays in place of NumPy arrays. Otherwise a `dask.delayed.Delayed` of what the task returns.

        Raises
        ------
        ExecutorError
            When nothing is scattered under the handle, or data is to be streamed.
        ResourceError
            When a task asks for something that no worker offers.
        ValueError
            When there is a time limit.
        """
        options = options_of(params_handle, options)
        udfs = self._registered.__dict__.pop("udfs", None)
        handler: object = task_comm_handler
        if isinstance(handler, TaskCommHandler) and is_streamed(handler):
            msg = "data that is streamed to tasks cannot wait until somebody computes: use another executor for it"
            raise ExecutorError(msg)
        if options.timeout is not None:
            msg = "DelayedJobExecutor runs nothing, so it cannot keep a time limit: leave out timeout"
            raise ValueError(msg)
        given = tasks if udfs is None else (FlatTask(task, self.unwrap_results) for task in tasks)
        results = super().run_tasks(given, params_handle, cancel_id, task_comm_handler, options=options)
        return results if udfs is None else self._with_arrays(results, udfs)

    @staticmethod
    def _with_arrays(
        results: Generator[tuple[Any, TaskProtocol], None, None], udfs: Sequence[Any]
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        """Yield the results of each task in the form in which it returns them, with Dask arrays in the buffers."""
        with closing(results):
            for delayed, flat in results:
                assert isinstance(flat, FlatTask)
                graph = LazyGraph("results")
                graph.use(delayed)
                specs = _array_specs(udfs, flat.get_partition())
                arrays = iter(
                    graph.arrays(
                        ArraySpec.whole(f"{i}-{name}", (Item(i), delayed.key), shape, dtype)
                        for i, (name, shape, dtype) in enumerate(specs)
                    )
                )
                yield tuple(_like(udf.results, arrays) for udf in udfs), flat.task

    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        look_up, handle = self._store.look_up, asked.params_handle
        return InlineBackend(NodeWork(lambda: look_up(handle), Environment(1, True, None, get_use_cuda())))

    @staticmethod
    def unwrap_results(results: Iterable[Any]) -> tuple[Any, ...]:
        """Return the arrays in the results of a task, those of all UDFs one after the other.

        Parameters
        ----------
        results
            What a task returns: buffers by name for each UDF.
        """
        return tuple(buffer.raw_data for result in results for buffer in result.as_dict().values() if buffer.has_data())

    @staticmethod
    def get_resources_from_udfs(udfs: Any, user_backends: str | tuple[str, ...] | None = None) -> ResourceDef:
        """Return what a worker must have to run some UDFs together.

        Parameters
        ----------
        udfs
            One UDF or several.
        user_backends
            Array backends that may be used; None, or none: all.

        Raises
        ------
        ValueError
            When one of them needs a GPU and another the CPU, or one can use none of the backends that may be used.
        """
        user = set() if user_backends is None else set(as_names(user_backends))
        each = []
        for udf in udfs if isinstance(udfs, Iterable) else (udfs,):
            backends = set(as_names(udf.get_backends()))
            usable = backends & user if user else backends
            if not usable:
                msg = f"{type(udf).__name__} supports {', '.join(sorted(backends))}, of which none may be used here"
                raise ValueError(msg)
            each.append(usable)
        return resources_for(each)

    def modify_buffer_type(self, buf: V) -> V:
        """Return a result buffer of the main side as one that holds a Dask array, when it can be large."""
        result: V = to_dask_buffer(buf)
        return result

    def run_delayed(
        self, fn: Callable[..., Any], *args: Any, _delayed_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Return the `dask.delayed.Delayed` of ``fn(*args, **kwargs)``.

        Parameters
        ----------
        fn
            The function.
        *args, **kwargs
            Its arguments; they may be or contain `Delayed` objects.
        _delayed_kwargs
            Keyword arguments of `dask.delayed.delayed` itself, such as ``nout``.
        """
        self._check_open()
        return import_dask().delayed(fn, **(_delayed_kwargs or {}))(*args, **kwargs)

    # ---- functions, and what this executor tells of itself ----

    def get_available_workers(self) -> WorkerSet:
        """Return the one worker, ``delayed``: it stands for the scheduler that will compute."""
        return workers_here(["delayed"], available_cpu_count())

    def _open_backend(self, work: Work[V], control: RunControl, priority: Priority) -> Backend[V]:  # noqa: ARG002
        return InlineBackend(work)

    def _bounds(self, *, is_streamed: bool) -> Bounds:  # noqa: ARG002
        return Bounds(workers=1, prefetch=1, prefetch_short=1, deliver_first=True)

    def _task_environment(self, stop: StopFlag, context: WorkerContext) -> Environment:
        return Environment(1, True, context, get_use_cuda(), stop)

    def _limits(self) -> dict[str, Any]:
        return {"threads_per_worker": 1}

    def _release(self) -> None:
        """There is nothing: graphs live without their executor."""


class PureStore(LocalStore):
    """What is scattered; an object that is in a graph is never changed."""

    def patch(self, handle: Any, patch: Any) -> None:
        """Let the handle stand for a patched copy; TypeError when the object has no method ``patch``."""
        self.update(handle, patched(loads(dumps(self.look_up(handle))), patch))


class NodeWork:
    """Makes the `Delayed` of each task, in place of its result.

    Parameters
    ----------
    params
        Returns the parameters as they are now. Each object that it returns is one node, which the tasks depend on.
    env
        Where the tasks run; nobody can stop them but the scheduler.
    """

    is_streamed = False

    def __init__(self, params: Callable[[], Any], env: Environment) -> None:
        self._get_params = params
        self._env = env
        self._params = Constant(None)
        self._params_node: Any = None

    def _look_at_params(self) -> Any:
        params = self._get_params()
        if self._params_node is None or params is not self._params.value:
            self._params = Constant(params)
            graph = LazyGraph("params")
            self._params_node = graph.delayed(graph.add("params", self._params))
        return self._params_node

    def prepare(self, ticket: Ticket[TaskProtocol]) -> None:
        """Nothing."""

    def feed(self, ticket: Ticket[TaskProtocol]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def __call__(self, ticket: Ticket[TaskProtocol]) -> Any:
        """Return the `Delayed` of the ticket's task."""
        params = self._look_at_params()
        graph = LazyGraph(f"partition-{ticket.number}")
        graph.use(params)
        return graph.delayed(graph.add("task", TaskNode(ticket.task, self._env), params.key))


class FlatTask:
    """A task that returns something made of what another task returns.

    Parameters
    ----------
    task
        The other task.
    unwrap
        Applied to what it returns.
    """

    __slots__ = ("_unwrap", "task")

    def __init__(self, task: TaskProtocol, unwrap: Callable[[Any], Any]) -> None:
        self.task = task
        self._unwrap = unwrap

    def __call__(self, params: Any, env: Environment) -> Any:
        """Run the other task."""
        return self._unwrap(self.task(params=params, env=env))

    def get_partition(self) -> Any:
        """Return the partition of the other task."""
        return self.task.get_partition()

    def get_resources(self) -> ResourceDef:
        """Return what a worker must offer for the other task."""
        return self.task.get_resources()

    def get_locations(self) -> WorkerSet | None:
        """Return the workers that should run the other task."""
        return self.task.get_locations()

    def get_tracing_span_context(self) -> Any:
        """Return the span context of the other task."""
        return self.task.get_tracing_span_context()


class TaskNode:
    """What a node of the graph calls: a task, with its environment."""

    __slots__ = ("_env", "_task")

    def __init__(self, task: TaskProtocol, env: Environment) -> None:
        self._task = task
        self._env = env

    def __call__(self, params: Any) -> Any:
        """Run the task. What would end a scheduler's thread arrives as a RemoteError."""
        try:
            return call_task(self._task, params, self._env)
        except StopIteration as error:
            raise stopped_iteration(f"the task of partition {partition_name(self._task)}", error) from error
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise contained(error) from error

    def __repr__(self) -> str:
        return f"<TaskNode of {partition_name(self._task)}>"


def _stored(results: Any) -> list[tuple[str, Any]]:
    """Return the buffers that tasks fill, by name; those of the final results only are not."""
    return [(name, buffer) for name, buffer in results.as_dict().items() if buffer.has_data()]


def _array_specs(udfs: Iterable[Any], partition: Any) -> list[tuple[str, tuple[int, ...], Any]]:
    """Return name, shape and dtype of the arrays that a task returns for a partition."""
    specs = []
    for udf in udfs:
        frames = partition.get_frame_count(udf.meta.roi)
        for name, declared in _stored(udf.results):
            shape = (frames, *declared.shape[1:]) if declared.kind == "nav" else declared.shape
            specs.append((name, shape, declared.dtype))
    return specs


def _like(results: Any, arrays: Iterator[Any]) -> Any:
    """Return buffers by name as `results` has them, around the next of the arrays."""
    return type(results)(
        {name: DaskBufferWrapper.around(next(arrays), declared) for name, declared in _stored(results)}
    )
