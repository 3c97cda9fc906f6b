"""Pools of workers by themselves: specs, queues, and a worker function of one's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.common.scheduler import Scheduler, WorkerSet
from tilework.exceptions import ExecutorError, ExecutorSpecException, ResourceError, WorkerQueueEmpty
from tilework.executor.pipelined import (
    PipelinedExecutor,
    PoolStateError,
    WorkerPool,
    WorkerQueues,
    schedule_task,
    set_thread_name,
)
from tilework.executor.pipelined.selection import select_in_turn
from tilework.executor.pipelined.spec import describe_worker, resized
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.faults import FakeTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined import WorkerSpec


def echo(queues: WorkerQueues, spec: WorkerSpec) -> None:
    """A worker that sends back what it gets, with its name, until it gets None."""
    while True:
        with queues.request.get() as (header, payload):
            if header is None:
                return
            queues.response.put((spec["name"], header), payload)


def tell(queues: WorkerQueues, spec: WorkerSpec) -> None:
    """A worker that tells what becomes of a message with a payload."""
    try:
        queues.message.put("header", b"payload")
    except ExecutorError as error:
        queues.response.put(str(error).partition(":")[0])


def name_of(spec: list[WorkerSpec]) -> list[str]:
    return [each["name"] for each in spec]


def test_specs() -> None:
    """CUDA devices first, in the order in which they are named, then CPUs; every worker has a name of its own."""
    spec = PipelinedExecutor.make_spec(cpus=[3, 5], cudas=[1, 0, 1, 1], has_cupy=True)
    assert name_of(spec) == ["cuda-1-0", "cuda-0-0", "cuda-1-1", "cuda-1-2", "cpu-3", "cpu-5"]
    assert [each["worker_idx"] for each in spec] == list(range(6))
    assert [each["device_id"] for each in spec] == [1, 0, 1, 1, 3, 5]
    assert [each["has_cupy"] for each in spec] == [True] * 4 + [False] * 2
    assert describe_worker(spec[0]).resources == {"CUDA": 1, "compute": 1, "ndarray": 1}
    assert describe_worker(spec[5]).resources == {"CPU": 1, "compute": 1, "ndarray": 1}
    bare = PipelinedExecutor.make_spec(cpus=(), cudas=[0])
    assert describe_worker(bare[0]).resources == {"CUDA": 1, "compute": 1}
    assert name_of(PipelinedExecutor.make_spec(2, 0)) == ["cpu-0", "cpu-1"]
    with pytest.raises(ExecutorSpecException, match="at least one worker"):
        PipelinedExecutor.make_spec(0, 0)
    assert name_of(PipelinedExecutor.make_spec(np.int64(1), np.array([2]))) == ["cuda-2-0", "cpu-0"]  # type: ignore[arg-type]
    for wrong in (1.5, "2", ["0"], [0.5], None):
        with pytest.raises(ExecutorSpecException, match=r"cpus must be an integer, or a list"):
            PipelinedExecutor.make_spec(wrong, [])  # type: ignore[arg-type]
    for negative in (-1, [0, -1]):
        with pytest.raises(ExecutorSpecException, match="cudas must not be negative"):
            PipelinedExecutor.make_spec(1, negative)
    with pytest.raises(ExecutorSpecException, match="resize asks for 100000 workers"):
        resized(PipelinedExecutor.make_spec(1, []), 100_000)
    with pytest.raises(ExecutorSpecException, match="several times: cpu-1"):
        PipelinedExecutor.make_spec([1, 1], [])
    with pytest.raises(ExecutorSpecException, match="at least one worker"):
        PipelinedExecutor([])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("x", "must be a list .* not 'x'"),
        ({"cpus": [0], "cudas": []}, "must be a list"),
        (3, "must be a list"),
        ([{"name": "x"}], "must be a dictionary with device_id, device_kind, .* not {'name': 'x'}"),
        (["cpu-0"], "must be a dictionary with"),
        ([{**PipelinedExecutor.make_spec(1, 0)[0], "device_kind": "TPU"}], "'CPU' or 'CUDA', not 'TPU'"),
        ([{**PipelinedExecutor.make_spec(1, 0)[0], "device_id": "0"}], "whole number, not '0'"),
    ],
)
def test_what_is_no_spec(spec: Any, told: str) -> None:
    """The error says what is wrong, and how to make a spec."""
    with pytest.raises(ExecutorSpecException, match=told + ".*make_spec"):
        PipelinedExecutor(spec)


def test_a_thread_has_a_name() -> None:
    with open("/proc/thread-self/comm") as file:  # noqa: PTH123
        before = file.read().strip()
    set_thread_name("a long name that is cut")
    with open("/proc/thread-self/comm") as file:  # noqa: PTH123
        assert file.read().strip() == "a long name tha"
    set_thread_name(before)


class TestPool(ExecutorHarness):
    """Each test proves that nothing is left behind."""

    can_lose_workers = True

    @pytest.fixture
    def pool(self, nothing_left: None) -> Iterator[WorkerPool]:
        pool = WorkerPool(echo, PipelinedExecutor.make_spec(2, []))
        yield pool
        pool.close(timeout=0.1)  # they wait for a message that does not come

    def receive(self, queues: WorkerQueues) -> Any:
        with queues.response.get(timeout=10) as (header, _):
            return header

    def test_queues(self, pool: WorkerPool) -> None:
        """Each worker has queues of its own; headers may be anything that cloudpickle can pickle."""
        assert pool.size == 2
        assert pool.all_alive()
        for info in pool.workers:
            info.queues.request.put(("hello", 1))
            assert self.receive(info.queues) == (info.spec["name"], ("hello", 1))
        offset = 3
        pool.get_worker_queues(0).request.put(lambda x: x + offset)
        assert self.receive(pool.get_worker_queues(0))[1](4) == 7
        with pytest.raises(WorkerQueueEmpty, match="in time"):
            pool.workers[0].queues.response.get(block=False).__enter__()
        with pytest.raises(ExecutorError, match="reads from this"):
            pool.workers[0].queues.request.get().__enter__()

    def test_payloads(self, pool: WorkerPool) -> None:
        """They go both ways, and arrive as bytes."""
        queues = pool.get_worker_queues(1)
        for payload in (b"four", memoryview(bytearray(b"of an array")), b""):
            queues.request.put("put", payload)
            with queues.response.get(timeout=10) as got:
                assert got == (("cpu-1", "put"), bytes(payload))
        with queues.request.put_nocopy("nocopy", 3) as view:
            view[:] = b"abc"
        with queues.response.get(timeout=10) as got:
            assert got == (("cpu-1", "nocopy"), b"abc")

    def test_a_message_with_a_payload(self, nothing_left: None) -> None:
        pool = WorkerPool(tell, PipelinedExecutor.make_spec(1, []))
        assert self.receive(pool.get_worker_queues(0)) == "messages of tasks have no payload"
        pool.close()

    def test_scheduling(self, pool: WorkerPool) -> None:
        """A task is given to a worker that has what it needs, as the selector chooses."""
        by_worker = {describe_worker(info.spec): info for info in pool.workers}
        scheduler = Scheduler(WorkerSet(list(by_worker)))
        chosen = [schedule_task(i, FakeTask(i), pool, scheduler, by_worker, select_in_turn)[0] for i in range(4)]
        assert chosen == [0, 1, 0, 1]
        idx, queues = schedule_task(0, FakeTask(), pool, scheduler, by_worker, lambda e, *_: e[-1])
        assert (idx, queues) == (1, pool.workers[1].queues)
        with pytest.raises(ResourceError, match="No worker available with resources"):
            schedule_task(0, FakeTask(0, resources={"CUDA": 1}), pool, scheduler, by_worker, select_in_turn)

    def test_a_worker_ends(self, pool: WorkerPool) -> None:
        """That can be seen; a pool that must be whole is closed then."""
        pool.kill_worker(pool.workers[1], timeout=1)
        assert not pool.all_alive()
        assert pool.workers[0].process.is_alive()
        with pytest.raises(PoolStateError, match="cpu-1"):
            pool.assert_all_alive()
        with pytest.raises(PoolStateError, match="closed"):
            pool.get_worker_queues(0)

    def test_workers_that_do_not_end(self, pool: WorkerPool) -> None:
        """They are killed when their time is over."""
        pool.close(timeout=0.1)
        pool.close()
        assert pool.size == 0

    def test_killed(self, pool: WorkerPool) -> None:
        pids = [info.process.pid for info in pool.workers]
        pool.kill()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
