"""Which workers there are, what each can do, and which of them can run a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


__all__ = ["ResourceDef", "ResourceTask", "Scheduler", "Worker", "WorkerSet"]


ResourceDef: TypeAlias = dict[Literal["CPU", "compute", "ndarray", "CUDA"], int]
"""How many of each a worker offers, or a task asks for; ``"ndarray"``: it takes NumPy arrays, or CuPy's on a GPU."""


class ResourceTask(Protocol):
    """The part of a task that decides where it can run."""

    def get_resources(self) -> ResourceDef:
        """Return what the task needs; nothing means that it fits everywhere."""
        ...


class Worker:
    """One worker process or thread group of an executor.

    Parameters
    ----------
    name
        Unique within the executor.
    host
        Name or address of the machine it runs on.
    resources
        What it offers, for example ``{"CPU": 1, "compute": 1, "ndarray": 1}``.
    nthreads
        How many tasks it runs at a time.

    Notes
    -----
    Two workers are equal when name and host are equal.
    """

    __slots__ = ("host", "name", "nthreads", "resources")

    def __init__(self, name: str, host: str, resources: ResourceDef, nthreads: int) -> None:
        self.name = name
        self.host = host
        self.resources = resources
        self.nthreads = nthreads

    def has_cpu(self) -> bool:
        """Return whether it takes tasks for the CPU."""
        return bool(self.resources.get("CPU"))

    def has_cuda(self) -> bool:
        """Return whether it takes tasks for a CUDA device."""
        return bool(self.resources.get("CUDA"))

    def can_run(self, request: ResourceDef) -> bool:
        """Return whether it offers everything that `request` asks for."""
        return all(key in self.resources and self.resources[key] >= amount for key, amount in request.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worker) and self.name == other.name and self.host == other.host

    def __hash__(self) -> int:
        return hash((self.name, self.host))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Worker {self.name} on {self.host} with {self.resources}, nthreads={self.nthreads}>"


class WorkerSet:
    """The workers of an executor, or some of them, in a fixed order."""

    __slots__ = ("workers",)

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers: list[Worker] = list(workers)

    def group_by_host(self) -> list[WorkerSet]:
        """Return one set for each host, in the order in which the hosts appear."""
        groups: dict[str, list[Worker]] = {}
        for worker in self.workers:
            groups.setdefault(worker.host, []).append(worker)
        return [WorkerSet(group) for group in groups.values()]

    def get_by_host(self, host: str) -> WorkerSet:
        """Return the workers on the given host."""
        return self.filter(lambda worker: worker.host == host)

    def example(self) -> Worker:
        """Return the first worker.

        Raises
        ------
        ValueError
            When the set is empty.
        """
        if not self.workers:
            msg = "there is no worker in this set to take as an example"
            raise ValueError(msg)
        return self.workers[0]

    def filter(self, predicate: Callable[[Worker], bool]) -> WorkerSet:
        """Return the workers for which `predicate` is true."""
        return WorkerSet([worker for worker in self.workers if predicate(worker)])

    def has_cpu(self) -> WorkerSet:
        """Return the workers that take tasks for the CPU."""
        return self.filter(Worker.has_cpu)

    def has_cuda(self) -> WorkerSet:
        """Return the workers that take tasks for a CUDA device."""
        return self.filter(Worker.has_cuda)

    def has_threaded_workers(self) -> bool:
        """Return whether any worker runs more than one task at a time."""
        return any(worker.nthreads != 1 for worker in self.workers)

    def concurrency(self) -> int:
        """Return how many tasks all workers together run at a time."""
        return sum(worker.nthreads for worker in self.workers)

    def hosts(self) -> set[str]:
        """Return the hosts of all workers."""
        return {worker.host for worker in self.workers}

    def names(self) -> list[str]:
        """Return the names of all workers, in order."""
        return [worker.name for worker in self.workers]

    def extend(self, other: WorkerSet) -> WorkerSet:
        """Return a new set of these workers followed by those of `other`."""
        return WorkerSet(self.workers + other.workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    def __len__(self) -> int:
        return len(self.workers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkerSet) and self.workers == other.workers

    def __hash__(self) -> int:
        return hash(tuple(self.workers))

    def __repr__(self) -> str:
        return f"<WorkerSet {self.workers}>"


class Scheduler:
    """Knows which workers can run which task.

    Parameters
    ----------
    all_workers
        Every worker of the executor, service workers (without resources) included.
    """

    def __init__(self, all_workers: WorkerSet) -> None:
        self._workers = all_workers

    def workers_for_task(self, task: ResourceTask) -> WorkerSet:
        """Return the workers that offer all resources that the task asks for; empty when there is none."""
        request = task.get_resources()
        return self._workers.filter(lambda worker: worker.can_run(request))

    def effective_worker_count(self) -> int:
        """Return how many tasks can really run at a time.

        A hybrid worker counts once: with CPU workers it is the larger of the CPU and CUDA concurrency, with CUDA
        workers alone theirs, and otherwise that of all workers.
        """
        cpu, cuda = self._workers.has_cpu(), self._workers.has_cuda()
        if len(cpu) > 0:
            return max(cpu.concurrency(), cuda.concurrency())
        if len(cuda) > 0:
            return cuda.concurrency()
        return self._workers.concurrency()
