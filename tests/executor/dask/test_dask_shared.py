"""Clusters that do other things as well: runs inside Dask tasks, and workers that come when there is demand."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, get_client, get_worker, worker_client

from dask_clusters import wait_until
from tilework.api import Context
from tilework.common.executor import NoopCommHandler, Priority, RunOptions
from tilework.exceptions import ResourceError
from tilework.executor.dask import DaskJobExecutor, connection
from tilework.executor.dask.roster import _ignore
from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.remote import dumps
from tilework.testing.faults import CallTask
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A cluster without workers."""
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def total(executor: DaskJobExecutor) -> float:
    ctx = Context(executor)
    data = np.ones((4, 4, 4, 4), dtype=np.float32)
    result = ctx.run_udf(dataset=ctx.load("memory", data=data, num_partitions=4), udf=SumUDF())
    return float(result["intensity"].data.sum())


def _inside(how: str) -> Any:
    if how == "worker_client":
        with worker_client() as client, DaskJobExecutor(client) as executor:
            return total(executor), executor.run_function(sum, [1, 2])
    with DaskJobExecutor(get_client()) as executor:
        return total(executor), executor.run_function(sum, [1, 2])


@pytest.mark.parametrize("how", ["get_client", "worker_client"])
@pytest.mark.parametrize("n_runs", [1, 3])
def test_runs_inside_dask_tasks(cluster: LocalCluster, client: Client, how: str, n_runs: int) -> None:
    """Also where there are as many of them as workers, or more: they leave their threads to their own tasks."""
    cluster.scale(1 if n_runs == 1 else 2)
    runs = client.map(_inside, [how] * n_runs, pure=False)
    assert client.gather([client.submit(lambda x: x, run) for run in runs], direct=False) == [(256.0, 3)] * n_runs


def test_workers_that_come_on_demand(cluster: LocalCluster, client: Client) -> None:
    """A run brings a cluster from no workers to one, the first time and when all have gone; none is kept."""
    cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=3)
    with DaskJobExecutor(client) as executor:
        for _ in range(2):
            assert total(executor) == 256.0
            while executor.get_available_workers():
                client.sync(_sleep)
        assert executor.run_function(sum, [1, 2]) == 3


def test_workers_that_are_retired(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    """However many of them a task loses: it is not what has ended them."""
    file, answer = tmp_path / "address", tmp_path / "answer"

    def work() -> Any:
        file.write_text(get_worker().address)
        while not answer.exists():
            time.sleep(0.01)
        return get_worker().address

    cluster.scale(4)
    client.wait_for_workers(4)
    retired: set[str] = set()
    with DaskJobExecutor(client) as executor, ThreadPoolExecutor(1) as other:
        run = other.submit(executor.run_function, work)
        while len(retired) < 3:
            wait_until(lambda: file.exists() and file.read_text() not in {"", *retired}, "the task does not run", 60)
            address = file.read_text()
            assert client.retire_workers([address])
            retired.add(address)
        answer.touch()
        assert run.result(60) not in retired


@pytest.mark.parametrize("priority", [Priority.INTERACTIVE, Priority.BATCH])
def test_tasks_of_others_beside_a_run(cluster: LocalCluster, client: Client, priority: Priority) -> None:
    """They get their turns at the only thread while the run goes on, for it gives way to them."""
    has_begun, may_end = threading.Event(), threading.Event()

    def tasks() -> Iterator[CallTask]:
        for i in count():
            if may_end.is_set():
                return
            yield CallTask(i, fn=lambda params, env: time.sleep(0.2))  # longer than a new seat takes to come

    def run() -> int:
        n = 0
        options = RunOptions(priority=priority)
        with executor.scatter(None) as handle:
            for _ in executor.run_tasks(tasks(), handle, 0, NoopCommHandler(), options=options):
                n += 1
                has_begun.set()
        return n

    cluster.scale(1)
    with DaskJobExecutor(client) as executor, ThreadPoolExecutor(1) as other:
        running = other.submit(run)
        try:
            assert has_begun.wait(60)
            theirs = client.map(abs, range(-4, 0), pure=False)
            assert [each.result(timeout=20) for each in theirs] == [4, 3, 2, 1]
            assert not running.done()
        finally:
            may_end.set()
        assert running.result(60) > 0


@pytest.mark.parametrize("annotation", [{"resources": {"GPU": 1}}, {"workers": ["tcp://127.0.0.1:1"]}, {"retries": 3}])
def test_annotations_are_for_tasks_of_dask(cluster: LocalCluster, client: Client, annotation: dict[str, Any]) -> None:
    """They do not keep a run from its workers, where it would wait for ever, and all others behind it."""
    cluster.scale(1)
    with DaskJobExecutor(client) as executor:
        with dask.annotate(**annotation):
            assert total(executor) == 256.0
        assert total(executor) == 256.0


def test_large_parameters_on_their_way(cluster: LocalCluster, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of others do not wait until they have arrived, at the only worker."""
    scatter, is_asked, may_go = client.scatter, threading.Event(), threading.Event()

    async def slow_scatter(*args: Any, **kwargs: Any) -> Any:
        is_asked.set()
        while not may_go.is_set():
            await _sleep()
        return await scatter(*args, **kwargs)

    monkeypatch.setattr(client, "scatter", slow_scatter)
    cluster.scale(1)
    client.wait_for_workers(1)
    with (
        DaskJobExecutor(client) as executor,
        executor.scatter(np.ones(1 << 18)) as handle,
        ThreadPoolExecutor(2) as others,
    ):
        task = CallTask(0, fn=lambda params, env: float(params.sum()))
        run = others.submit(lambda: list(executor.run_tasks([task], handle, 0, NoopCommHandler())))
        try:
            assert is_asked.wait(60)
            assert others.submit(executor.run_function, abs, -1).result(60) == 1
        finally:
            may_go.set()
        assert [result for result, _ in run.result(60)] == [float(1 << 18)]


class Patched:
    """An array that is changed in place."""

    def __init__(self, n: int) -> None:
        self.array = np.zeros(n)

    def patch(self, patch: float) -> None:
        self.array += patch
        if "TILEWORK_TEST_PATCHES" in os.environ:
            raise ZeroDivisionError


def _look(params: Any, env: Any) -> tuple[str, float, float]:
    time.sleep(0.1)
    return get_worker().address, float(params.array.min()), float(params.array.max())


@pytest.mark.parametrize("n", [1 << 4, 1 << 18])
def test_patches_and_workers_that_come_later(cluster: LocalCluster, client: Client, n: int) -> None:
    """They may get the parameters from a worker that has patched its copy, and must not do so again."""
    cluster.scale(1)
    tasks = [CallTask(i, fn=_look) for i in range(8)]
    with DaskJobExecutor(client) as executor, executor.scatter(Patched(n)) as handle:
        executor.scatter_update_patch(handle, 1.0)
        assert {result[1:] for result, _ in executor.run_tasks(tasks, handle, 0, NoopCommHandler())} == {(1.0, 1.0)}
        cluster.scale(2)
        wait_until(lambda: len(executor.get_available_workers()) == 2, "no worker comes", 60)
        executor.scatter_update_patch(handle, 2.0)
        results = [result for result, _ in executor.run_tasks(tasks, handle, 0, NoopCommHandler())]
        assert {result[1:] for result in results} == {(3.0, 3.0)}
        assert len({address for address, _, _ in results}) == 2


def test_a_patch_that_fails_on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not applied again to what it has half changed."""
    sealed: SharedSealed = seal(Patched(1 << 18), SharedSealed)
    patches = [dumps(1.0), dumps(2.0)]
    for n, total in ((1, 1.0), (2, 3.0)):
        monkeypatch.setenv("TILEWORK_TEST_PATCHES", "fail")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                sealed.open_patched(patches[:n])
        monkeypatch.delenv("TILEWORK_TEST_PATCHES")
        assert set(sealed.open_patched(patches[:n]).array) == {total}
    assert set(sealed.open_patched(()).array) == {3.0}


def test_parameters_of_a_run_that_has_failed(cluster: LocalCluster, client: Client) -> None:
    """Workers forget them at once, also while somebody looks into what went wrong."""

    def fail(params: Any, env: Any) -> None:
        raise ZeroDivisionError

    def is_forgotten() -> bool:
        keys = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
        return not any("Sealed" in key for key in keys)

    cluster.scale(1)
    with DaskJobExecutor(client) as executor:
        with pytest.raises(ZeroDivisionError) as info, executor.scatter(np.ones(1 << 18)) as handle:
            list(executor.run_tasks([CallTask(0, fn=fail)], handle, 0, NoopCommHandler()))
        wait_until(is_forgotten, "they are still there", 20)
        assert info.tb is not None


def test_executors_that_are_dropped(cluster: LocalCluster, client: Client) -> None:
    """Without being closed: nothing of them is left at work for a client that goes on."""

    async def n_asking() -> int:
        return sum("_ask_again" in repr(task) for task in asyncio.all_tasks())

    def are_gone() -> bool:
        gc.collect()
        return client.sync(n_asking) == 0 and not any(ref() for ref in dropped)

    cluster.scale(1)
    topics = set(client._event_handlers)
    executors = [DaskJobExecutor(client) for _ in range(3)]
    dropped = [weakref.ref(executor) for executor in executors]
    assert [executor.run_function(abs, -1) for executor in executors] == [1, 1, 1]
    assert client.sync(n_asking) == 3
    executors.clear()
    wait_until(are_gone, "they are still there", 20)
    assert {topic for topic, handler in client._event_handlers.items() if handler is not _ignore} == topics
    known = set(client._event_handlers)
    with DaskJobExecutor(client) as executor:
        assert executor.run_function(abs, -1) == 1
    assert set(client._event_handlers) == known, "Dask forgets none"


def test_workers_in_this_process() -> None:
    """They get copies as well, which they may change, of parameters and of what functions are called with."""

    def change(array: Any) -> float:
        array += 1
        return float(array.sum())

    n = 1 << 18
    array = np.ones(n)
    quiet: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(processes=False, n_workers=2, threads_per_worker=1, **quiet) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskJobExecutor(client) as executor,
        executor.scatter(array) as handle,
    ):
        assert executor.map(change, [array]) == [2.0 * n]
        tasks = [CallTask(0, fn=lambda params, env: change(params))]
        assert [result for result, _ in executor.run_tasks(tasks, handle, 0, NoopCommHandler())] == [2.0 * n]
    assert array.sum() == n


async def _sleep() -> None:
    await asyncio.sleep(0.05)


def test_no_workers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do, and nothing is left that asks for any."""
    monkeypatch.setattr(connection, "NO_WORKER_SECONDS", 0.5)
    with DaskJobExecutor(client) as executor:
        with pytest.raises(ResourceError, match=r"no workers.* within 0\.5 s: start some.*wait_for_workers"):
            total(executor)
        while client.futures:
            client.sync(_sleep)
