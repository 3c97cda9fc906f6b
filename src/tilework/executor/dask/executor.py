"""`DaskJobExecutor`: tasks and functions on the workers of a Dask cluster.

What it decides is in `dispatch`, what it does in `courier`, which workers it has in `connection`; here is what the
interface asks for in terms of these.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tilework.common.executor import RunOptions
from tilework.common.numbers import is_real
from tilework.common.snooze import SnoozeManager, awake
from tilework.exceptions import ExecutorError, ExecutorSpecException
from tilework.executor.base import make_canonical
from tilework.executor.dask.at_exit import lasting_executors, open_executors
from tilework.executor.dask.backend import DaskBackend
from tilework.executor.dask.calls import (
    SERVICE,
    Placed,
    PlacedCall,
    at_stations,
    call_need,
    function_label,
    one_for_each_host,
    task_label,
    task_need,
)
from tilework.executor.dask.connection import Connection, make_client
from tilework.executor.dask.dispatch import MAX_BATCH
from tilework.executor.dask.extra import require_dask
from tilework.executor.dask.lanes import Lane, Need
from tilework.executor.dask.local import LocalCluster, start_cluster
from tilework.executor.dask.nested import lend_thread
from tilework.executor.dask.scattered import Scattered
from tilework.executor.dask.sealed import seal
from tilework.executor.dask.shipment import Shipment
from tilework.executor.dask.spec import cluster_spec
from tilework.executor.dask.template import Template
from tilework.executor.driven import is_streamed, results_of
from tilework.executor.inbox import Inbox
from tilework.executor.run import Bounds
from tilework.executor.storing import SharingStore, StoringJobExecutor
from tilework.utils.devices import detect

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from tilework.common.executor import (
        GPUSpec,
        PartitionLike,
        TaskCommHandler,
        TaskProtocol,
    )
    from tilework.common.scheduler import Worker, WorkerSet
    from tilework.executor.dask.lanes import Station
    from tilework.executor.dask.worker import Outcome
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.run import Event

__all__ = ["DaskJobExecutor"]

T = TypeVar("T")
V = TypeVar("V")

UNDER_WAY_SECONDS = 0.1
"""Work per worker that should be under way: two batches, and what is on its way back."""


class _Store(SharingStore[Scattered]):
    def _share(self, handle: str, obj: Any) -> Scattered:  # noqa: ARG002
        return Scattered(obj)


class DaskJobExecutor(StoringJobExecutor):
    """Runs tasks and functions on the workers of a Dask cluster, on this machine or on many.

    Parameters
    ----------
    client
        A ``distributed.Client`` that is not asynchronous.
    is_local
        Whether to close the client with the executor.
    lt_resources
        Whether the workers have the resources of `cluster_spec`; None: found out, also of workers that come later.
        Without, all of them take tasks for the CPU.
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.

    Raises
    ------
    ExecutorSpecException
        When Dask is not installed, the client is not one that can be used, or the GPU is not there.

    Notes
    -----
    A `TaskCommHandler` that streams data to tasks is refused: Dask has no way to it that would keep up with a detector.
    Subscribers are also told of ``"worker_lost"``, with the worker's ``name`` and ``host``, in the thread of the
    client's event loop.
    """

    def __init__(
        self,
        client: Any,
        is_local: bool = False,
        lt_resources: bool | None = None,
        main_process_gpu: GPUSpec = None,
    ) -> None:
        require_dask()
        from distributed import Client

        if not isinstance(client, Client) or client.asynchronous:
            msg = f"client must be a distributed.Client with asynchronous=False, not {client!r}"
            raise ExecutorSpecException(msg)
        if client.status in {"closing", "closed"}:
            msg = f"the client is closed: make a new one, or use {type(self).__name__}.connect(address)"
            raise ExecutorSpecException(msg)
        super().__init__(main_process_gpu)
        self.client: Any = client
        self.is_local = is_local
        self._store: _Store = _Store()
        self._runs = 0
        self._snooze_manager: SnoozeManager | None = None
        self._connection = Connection(client, lt_resources, self._on_loss)
        self._courier = self._connection.courier
        weakref.finalize(self, self._connection.let_go).atexit = False
        open_executors.add(self)
        if is_local:
            lasting_executors.add(self)

    @classmethod
    def connect(
        cls, scheduler_uri: Any, *args: Any, client_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Self:
        """Connect to a scheduler.

        Parameters
        ----------
        scheduler_uri
            Its address, such as ``"tcp://host:8786"``, or whatever else ``distributed.Client`` takes.
        *args, **kwargs
            For the class.
        client_kwargs
            For ``distributed.Client``. The client does not become Dask's default unless ``set_as_default=True`` is
            among them; then it is not closed with the executor either.

        Raises
        ------
        NoSchedulerError
            When the scheduler cannot be reached.
        """
        require_dask()
        client, is_local = make_client(scheduler_uri, client_kwargs)
        kwargs.setdefault("is_local", is_local)
        try:
            return cls(client, *args, **kwargs)
        except BaseException:
            client.close()
            raise

    @classmethod
    def make_local(
        cls,
        spec: dict[str, Any] | None = None,
        cluster_kwargs: dict[str, Any] | None = None,
        client_kwargs: dict[str, Any] | None = None,
        preload: tuple[str, ...] | None = None,
        snooze_timeout: float | None = None,
        main_process_gpu: GPUSpec = None,
    ) -> Self:
        """Start a cluster on this machine.

        Parameters
        ----------
        spec
            The workers, as of `cluster_spec`; None: one for each CPU and each CUDA device, and one for services.
        cluster_kwargs
            For ``distributed.SpecCluster``.
        client_kwargs
            For ``distributed.Client``; ``set_as_default=True`` makes it Dask's default client, and lets it and the
            cluster live on when the executor is closed.
        preload
            What the workers load first; see `cluster_spec`.
        snooze_timeout
            Seconds without work after which all workers but one are released, until there is work again; None: never.
            `Context.make_with` counts minutes.
        main_process_gpu
            See the class.

        Returns
        -------
        DaskJobExecutor
            Ends the cluster when it is closed.

        Raises
        ------
        ExecutorSpecException
            When Dask is not installed, both `spec` and `preload` are given, or `snooze_timeout` is no positive number.
        ExecutorError
            In a daemon process, such as a worker of Dask, which cannot start others.
        """
        require_dask()
        if spec is not None and preload is not None:
            msg = "preload is part of a spec: give it to cluster_spec(), or leave out spec"
            raise ExecutorSpecException(msg)
        if snooze_timeout is not None and not (is_real(snooze_timeout) and snooze_timeout > 0):
            msg = f"snooze_timeout must be a positive number of seconds, not {snooze_timeout!r}"
            raise ExecutorSpecException(msg)
        if main_process_gpu is not None:
            make_canonical(main_process_gpu)  # before anything is started
        with Template.ahead():
            if spec is None:
                spec = cluster_spec(**detect(), preload=preload)
            cluster = start_cluster(spec, cluster_kwargs)
        try:
            return cls._for_cluster(cluster, client_kwargs, snooze_timeout, main_process_gpu)
        except BaseException:
            cluster.close()
            raise

    @classmethod
    def _for_cluster(
        cls,
        cluster: LocalCluster,
        client_kwargs: dict[str, Any] | None,
        snooze_timeout: float | None,
        main_process_gpu: GPUSpec,
    ) -> Self:
        client, is_local = make_client(cluster.cluster, client_kwargs)
        executor = cls(client, is_local=is_local, lt_resources=True, main_process_gpu=main_process_gpu)
        executor._connection.cluster = cluster
        lasting_executors.add(executor)
        if snooze_timeout is not None:
            executor._snooze_manager = SnoozeManager(
                up=executor._connection.scale_up,
                down=executor._connection.scale_down,
                timeout=snooze_timeout,
                subscriptions=executor._subscriptions,
            )
        return executor

    # ---- workers ----

    @property
    def lt_resources(self) -> bool:
        """Whether the workers that there are, or were, have the resources of `cluster_spec`."""
        return self._connection.is_tagged

    def get_available_workers(self) -> WorkerSet:
        """Return the workers that the scheduler knows of now, by name."""
        self._check_open()
        with awake(self._snooze_manager):
            return self._connection.workers()

    @property
    def snooze_manager(self) -> SnoozeManager | None:
        """What releases the workers while nobody needs them; None unless there is a ``snooze_timeout``."""
        return self._snooze_manager

    def _on_loss(self, worker: Worker) -> None:
        is_asleep = self._snooze_manager is not None and self._snooze_manager.is_snoozing
        if not self._is_closed and not is_asleep:
            self._note("worker_lost", {"name": worker.name, "host": worker.host})

    def _workers_to_fit(self) -> list[Worker]:
        return self._connection.known_workers()

    def get_resource_details(self) -> list[dict[str, Any]]:
        """Return a dictionary for each host: ``host``, and how many workers: ``cpu``, ``cuda``, ``service``."""
        details = []
        for group in self.get_available_workers().group_by_host():
            cpu, cuda = len(group.has_cpu()), len(group.has_cuda())
            service = len(group.filter(lambda worker: not worker.resources))
            details.append({"host": group.example().host, "cpu": cpu, "cuda": cuda, "service": service})
        return sorted(details, key=lambda each: str(each["host"]))

    def _bounds(self, *, is_streamed: bool) -> Bounds:  # noqa: ARG002
        workers = max(1, self._courier.dispatch.concurrency())
        return Bounds(workers, prefetch=2, prefetch_short=2 * MAX_BATCH, share_seconds=UNDER_WAY_SECONDS)

    # ---- tasks ----

    def check_handler(self, handler: TaskCommHandler) -> None:
        """Raise ExecutorError when the handler streams data to tasks."""
        if is_streamed(handler):
            msg = (
                f"{type(handler).__name__} streams data to tasks, which Dask workers cannot receive: use "
                "Context.make_with('pipelined'), or 'threads', for live data"
            )
            raise ExecutorError(msg)

    def _run_tasks(self, *args: Any) -> Generator[tuple[Any, TaskProtocol], None, None]:
        lend_thread()
        with awake(self._snooze_manager):
            yield from super()._run_tasks(*args)

    def _drive_calls(self, *args: Any) -> Generator[tuple[Any, Any], None, None]:
        lend_thread()
        with awake(self._snooze_manager):
            yield from super()._drive_calls(*args)

    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        inbox: Inbox[Event | Outcome] = Inbox()
        shipment = Shipment(
            lane=self._lane(asked.options),
            need_of=task_need,
            post=inbox.put,
            name_of=task_label,
            params=self._store.look_up(asked.params_handle),
            messages=asked.messages,
            deadline=asked.control.deadline,
        )
        return DaskBackend(self._courier, shipment, inbox, asked.control)

    def _lane(self, options: RunOptions) -> Lane:
        with self._lock:
            self._runs += 1
            return Lane(f"{self._connection.name}.{self._runs}", options.priority)

    # ---- functions ----

    def _open_calls(
        self,
        fn: Callable[[V], Any],
        control: RunControl,
        options: RunOptions,
    ) -> Backend[V]:
        inbox: Inbox[Event | Outcome] = Inbox()
        label = function_label(fn)
        shipment = Shipment(
            lane=self._lane(options),
            need_of=call_need,
            post=inbox.put,
            name_of=lambda _: label,
            fn=seal(fn),
            deadline=control.deadline,
        )
        return DaskBackend(self._courier, shipment, inbox, control)

    def run_function(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on some worker, on one for services where there is one that has time."""
        call = PlacedCall(fn, args, kwargs)
        ((result, _),) = list(self._call_each(call, (Placed(None, SERVICE),), RunOptions()))
        return result  # type: ignore[no-any-return]

    def run_each_host(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each host; results by host."""
        return self._run_each(one_for_each_host, fn, args, kwargs)

    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once on each worker; results by the worker's name."""
        return self._run_each(at_stations, fn, args, kwargs)

    def _run_each(
        self,
        place: Callable[[Iterable[Station]], list[Placed]],
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, T]:
        self._check_open()
        with awake(self._snooze_manager):
            placed = place(self._connection.stations())
        results = self._call_each(PlacedCall(fn, args, kwargs), placed, RunOptions(ordered=True))
        return {each.name: result for result, each in results}

    def run_each_partition(
        self, partitions: Iterable[PartitionLike], fn: Callable[[Any], T], all_nodes: bool = False
    ) -> Generator[T, None, None]:
        """Run ``fn(partition)`` for each partition; see `JobExecutor.run_each_partition`.

        With `all_nodes` it runs once on each host that has the partition, else on a worker of such a host, if any.
        """
        calls = self._call_each(PlacedCall(fn), self._place(partitions, all_nodes=all_nodes), RunOptions())
        return results_of(calls)

    def _place(self, partitions: Iterable[PartitionLike], *, all_nodes: bool) -> Iterator[Placed]:
        for partition in partitions:
            locations = partition.get_locations()
            hosts = frozenset[str]() if locations is None else frozenset(locations.hosts())
            if not all_nodes:
                yield Placed(partition, Need(hosts=hosts))
            elif hosts:
                stations = [s for s in self._connection.stations() if s.worker.host in hosts]
                yield from one_for_each_host(stations, partition)

    # ---- scattered objects ----

    @contextmanager
    def scatter(self, obj: Any) -> Iterator[str]:
        """Give all workers an object, for the duration of the block; yields its handle."""
        with super().scatter(obj) as handle, awake(self._snooze_manager):
            yield handle

    # ---- the end ----

    def _release(self) -> None:
        open_executors.discard(self)
        lasting_executors.discard(self)
        if self._connection.is_forked():
            return  # workers and connections are the parent's
        if self._snooze_manager is not None:
            self._snooze_manager.close()
        self._connection.close(is_local=self.is_local)
