from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tilework.common.scheduler import Scheduler, Worker, WorkerSet

if TYPE_CHECKING:
    from tilework.common.scheduler import ResourceDef

CPU: ResourceDef = {"CPU": 1, "compute": 1, "ndarray": 1}
CUDA: ResourceDef = {"CUDA": 1, "compute": 1}
CUPY: ResourceDef = {"CUDA": 1, "compute": 1, "ndarray": 1}


@dataclass
class Task:
    resources: ResourceDef = field(default_factory=dict)

    def get_resources(self) -> ResourceDef:
        return self.resources


def cpu(name: str, host: str = "a", nthreads: int = 1) -> Worker:
    return Worker(name, host, CPU, nthreads)


MIXED = WorkerSet(
    [
        cpu("cpu-0", "a"),
        cpu("cpu-1", "b", nthreads=2),
        Worker("cuda-0", "a", CUDA, 1),
        Worker("cuda-1", "b", CUPY, 1),
        Worker("service", "c", {}, 1),
    ]
)


def test_workers_are_equal_by_name_and_host() -> None:
    assert cpu("x") == Worker("x", "a", {}, 7)
    assert hash(cpu("x")) == hash(Worker("x", "a", {}, 7))
    assert cpu("x") != cpu("x", host="b")
    assert cpu("x") != "x"
    assert str(cpu("x")) == "x"


def test_groups_and_filters() -> None:
    assert [group.names() for group in MIXED.group_by_host()] == [["cpu-0", "cuda-0"], ["cpu-1", "cuda-1"], ["service"]]
    assert MIXED.get_by_host("b").names() == ["cpu-1", "cuda-1"]
    assert MIXED.get_by_host("nowhere").names() == []
    assert MIXED.has_cpu().names() == ["cpu-0", "cpu-1"]
    assert MIXED.has_cuda().names() == ["cuda-0", "cuda-1"]
    assert MIXED.hosts() == {"a", "b", "c"}
    assert MIXED.example().name == "cpu-0"
    assert MIXED.concurrency() == 6
    assert MIXED.has_threaded_workers()
    assert not MIXED.has_cuda().has_threaded_workers()
    assert [w.name for w in MIXED] == MIXED.names()
    assert len(MIXED) == 5


def test_extend_makes_a_new_set() -> None:
    one, two = WorkerSet([cpu("x")]), WorkerSet([cpu("y")])
    assert one.extend(two) == WorkerSet([cpu("x"), cpu("y")])
    assert len(one) == 1
    assert one != two
    assert one != [cpu("x")]


def test_a_set_keeps_its_own_list() -> None:
    workers = [cpu("x")]
    kept = WorkerSet(workers)
    workers.append(cpu("y"))
    assert kept.names() == ["x"]


def test_example_of_nothing() -> None:
    with pytest.raises(ValueError, match="no worker"):
        WorkerSet([]).example()


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"compute": 1, "CPU": 1, "ndarray": 1}, ["cpu-0", "cpu-1"]),
        ({"compute": 1, "CUDA": 1, "ndarray": 1}, ["cuda-1"]),
        ({"compute": 1, "CUDA": 1}, ["cuda-0", "cuda-1"]),
        ({"compute": 1, "ndarray": 1}, ["cpu-0", "cpu-1", "cuda-1"]),
        ({"compute": 2}, []),
        ({}, MIXED.names()),
    ],
)
def test_a_task_goes_where_everything_it_needs_is(request_: ResourceDef, names: list[str]) -> None:
    assert Scheduler(MIXED).workers_for_task(Task(request_)).names() == names


@pytest.mark.parametrize(
    ("workers", "count"),
    [
        (MIXED, 3),
        (MIXED.has_cuda(), 2),
        (WorkerSet([cpu("cpu-0"), *[Worker(f"cuda-{i}", "a", CUDA, 1) for i in range(4)]]), 4),
        (WorkerSet([Worker("service", "a", {}, 3)]), 3),
        (WorkerSet([]), 0),
    ],
)
def test_effective_worker_count(workers: WorkerSet, count: int) -> None:
    assert Scheduler(workers).effective_worker_count() == count
