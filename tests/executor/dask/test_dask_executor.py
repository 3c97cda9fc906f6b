"""What DaskJobExecutor does beyond the contract."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import Client, Scheduler, get_worker
from distributed.core import Status

from dask_clusters import process, scheduler_process, wait_for_workers
from tilework.api import Context
from tilework.common.executor import NoopCommHandler, RunOptions
from tilework.common.scheduler import Worker, WorkerSet
from tilework.exceptions import ExecutorError, ExecutorSpecException, ResourceError
from tilework.executor.dask import AsyncDaskJobExecutor, DaskJobExecutor, cluster_spec
from tilework.testing.faults import (
    BlockTask,
    CallTask,
    EchoTask,
    EndlessTask,
    FakePartition,
    FakeTask,
    Signals,
    StreamHandler,
    StreamTask,
)
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from tilework.common.executor import Environment


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskJobExecutor]:
    with DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False)) as executor:
        yield executor


def run(executor: DaskJobExecutor, tasks: Any, params: Any = None, **options: Any) -> list[Any]:
    with executor.scatter(params) as handle:
        results = executor.run_tasks(tasks, handle, "run", NoopCommHandler(), options=RunOptions(**options))
        return [result for result, _ in results]


def name_of_worker(*_: Any) -> str:
    return str(get_worker().name)


def wait_until_forgotten(executor: DaskJobExecutor) -> None:
    """Wait until neither client nor scheduler knows of any task."""
    until = time.monotonic() + 10
    scheduler = executor.client.cluster.scheduler
    while (executor.client.futures or scheduler.tasks) and time.monotonic() < until:
        time.sleep(0.02)
    assert list(executor.client.futures) == list(scheduler.tasks) == []


def test_services(executor: DaskJobExecutor) -> None:
    """Functions go to the worker that is reserved for them, tasks do not, and both have names on the dashboard."""
    assert executor.get_available_workers().names() == ["default-cpu-0", "default-cpu-1", "default-service-0"]
    assert executor.run_function(name_of_worker) == "default-service-0"
    assert executor.run_each_host(name_of_worker) == {"127.0.0.1": "default-service-0"}
    names = executor.run_each_worker(name_of_worker)
    assert names == {name: name for name in executor.get_available_workers().names()}
    tasks = [CallTask(i, fn=name_of_worker) for i in range(200)]
    assert set(run(executor, tasks)) == {"default-cpu-0", "default-cpu-1"}
    assert executor.get_resource_details() == [{"host": "127.0.0.1", "cpu": 2, "cuda": 0, "service": 1}]
    assert {"name_of_worker", "CallTask"} <= set(executor.client.cluster.scheduler.task_prefixes)


def test_large_parameters_travel_once(executor: DaskJobExecutor) -> None:
    """They are in each worker's memory once, shared by all tasks there, and gone with the block."""

    def look(params: Any, env: Environment) -> tuple[int, float]:
        return id(params), float(params[-1])

    def held() -> list[int]:
        data = executor.client.run(
            lambda dask_worker: [getattr(v, "nbytes", 0) for v in dict(dask_worker.data).values()]
        )
        return sorted(n for sizes in data.values() for n in sizes if n > 1e6)

    params = np.ones(4_000_000)
    with executor.scatter(params) as handle:
        tasks = [CallTask(i, fn=look) for i in range(300)]
        results = [r for r, _ in executor.run_tasks(tasks, handle, 0, NoopCommHandler())]
        assert {value for _, value in results} == {1.0}
        assert len({where for where, _ in results}) <= 2
        sizes = held()
        assert len(sizes) == 2
        assert params.nbytes <= min(sizes) <= max(sizes) < params.nbytes + 10_000
    wait_until_forgotten(executor)
    assert held() == []


@dataclass
class HeavyTask(FakeTask):
    """A task that is large, and has a large result."""

    data: Any = field(default=None, kw_only=True)

    def __call__(self, params: Any, env: Environment) -> Any:
        return self.data * 2


def test_large_tasks_and_results(executor: DaskJobExecutor) -> None:
    """They arrive as they are, without any warning of Dask about the size of its graph; results can be written to."""
    tasks = [HeavyTask(i, data=np.full((2_000_000,), i, np.float64)) for i in range(4)]
    for i, result in enumerate(run(executor, tasks, ordered=True)):
        assert (result == 2 * i).all()
        result[0] = 1
    wait_until_forgotten(executor)


def test_nothing_is_kept_of_runs_that_are_left_early(executor: DaskJobExecutor) -> None:
    """Not even of large tasks that are on their way to a worker when the run ends."""
    for _ in range(15):
        tasks = [HeavyTask(i, data=np.full(2**18, i)) for i in range(8)]
        with executor.scatter(None) as handle:
            results = executor.run_tasks(tasks, handle, "run", NoopCommHandler())
            next(results)
            results.close()
    wait_until_forgotten(executor)


def test_a_slow_task_among_many_short_ones(executor: DaskJobExecutor, tmp_path: Path) -> None:
    """It delays only itself, although short tasks travel in batches."""
    signals = Signals(str(tmp_path))
    tasks = [
        *(FakeTask(i) for i in range(400)),
        BlockTask(400, signals=signals),
        *(FakeTask(i) for i in range(401, 800)),
    ]
    with executor.scatter(None) as handle:
        results = executor.run_tasks(tasks, handle, "run", NoopCommHandler())
        assert sorted(next(results)[0] for _ in range(799)) == [*range(400), *range(401, 800)]
        signals.add("release")
        assert [result[0] for result, _ in results] == [400]


def test_two_hundred_runs_from_eight_threads(executor: DaskJobExecutor) -> None:
    """Every run gets its own results, in order, and nothing is left of any of them."""

    def one(number: int) -> None:
        results = run(executor, [EchoTask(i) for i in range(20)], number, ordered=True)
        assert results == [(i, number) for i in range(20)]
        assert executor.run_function(lambda: number) == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
    assert executor._courier._shipments == {}
    assert executor._courier._carriers == {}
    assert executor._store.keys() == ()
    wait_until_forgotten(executor)


def test_a_module_that_workers_lack(executor: DaskJobExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which worker it was, and what to do; that helps."""
    file = tmp_path / "only_of_the_program.py"
    file.write_text("def work(params, env):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = CallTask(0, fn=importlib.import_module(file.stem).work)
    with pytest.raises(ModuleNotFoundError, match=file.stem) as caught:
        run(executor, [task])
    (note,) = caught.value.__notes__
    assert re.search(r"worker default-cpu-\d at tcp://.* must be there.*client\.upload_file", note)
    executor.client.upload_file(str(file))
    assert run(executor, [task]) == [1]


def test_a_worker_that_lacks_tilework(tmp_path: Path) -> None:
    """It cannot even be told what to do, and the program, which has tilework, is told where it is missing."""
    (tmp_path / "tilework.py").write_text("raise ModuleNotFoundError('No module named tilework')\n")
    with scheduler_process(tmp_path) as address:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", "bare", "--nthreads", "1"]
        options = ["--no-dashboard", "--no-nanny", "--local-directory", str(tmp_path)]
        with process(["env", f"PYTHONPATH={tmp_path}", *command, *options], tmp_path / "log"):
            wait_for_workers(address, 1)
            with DaskJobExecutor.connect(address) as executor:
                with pytest.raises(ModuleNotFoundError, match="tilework") as caught:
                    executor.run_function(abs, -1)
                assert re.search("worker bare at tcp://.* tilework, and .* must be there", caught.value.__notes__[0])


def test_streaming_is_refused(executor: DaskJobExecutor) -> None:
    """At once, with what to use instead."""
    with executor.scatter(None) as handle, pytest.raises(ExecutorError, match=r"StreamHandler.*pipelined"):
        executor.run_tasks([StreamTask(0)], handle, 0, StreamHandler())


def test_locations(executor: DaskJobExecutor) -> None:
    """A host that nobody has is no obstacle; an empty set of places is an error of the task."""

    @dataclass
    class LocatedTask(FakeTask):
        locations: WorkerSet | None = None

        def get_locations(self) -> WorkerSet | None:
            return self.locations

    here = executor.get_available_workers().filter(lambda worker: worker.name == "default-cpu-1")
    elsewhere = WorkerSet([Worker("x", "far away", {}, 1)])
    tasks = [LocatedTask(0, locations=here), LocatedTask(1, locations=elsewhere)]
    assert run(executor, tasks, ordered=True) == [0, 1]
    with pytest.raises(ValueError, match=r"no workers found.*part-7"):
        run(executor, [LocatedTask(7, locations=WorkerSet([]))])
    partitions = [FakePartition("a", here), FakePartition("b", elsewhere), FakePartition("c")]
    assert sorted(executor.run_each_partition(partitions, FakePartition.get_ident)) == ["a", "b", "c"]
    assert list(executor.run_each_partition(partitions, FakePartition.get_ident, all_nodes=True)) == ["a"]


def test_mapped_memory_is_not_limited(executor: DaskJobExecutor) -> None:
    """Workers of ours have no limit of Dask's, which would count the pages of mapped files."""
    limits = executor.client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit)
    assert set(limits.values()) == {None}


def shown_by_a_worker(status: str, logger_name: str, method: str) -> dict[str, bool]:
    """Return whether a worker in this state, which runs in this process, logs errors of a method, and of another."""
    from tilework.executor.dask import preload

    loggers = [logging.getLogger(name) for name in ("distributed.worker", "distributed.worker.state_machine")]
    preload.dask_setup(SimpleNamespace(name="worker", status=Status[status]))
    added = [logger.filters[-1] for logger in loggers]
    logger = logging.getLogger(logger_name)
    try:
        records = [logger.makeRecord("", logging.ERROR, "", 0, "", (), None, name) for name in (method, "close")]
        return {str(record.funcName): bool(logger.filter(record)) for record in records}
    finally:
        for each, is_of_interest in zip(loggers, added, strict=True):
            each.removeFilter(is_of_interest)


@pytest.mark.parametrize(
    ("logger", "method"),
    [("distributed.worker", "heartbeat"), ("distributed.worker.state_machine", "_finish_async_instruction")],
)
def test_what_was_under_way_at_the_end(executor: DaskJobExecutor, logger: str, method: str) -> None:
    """A worker that is closed during a task, or while it tells the scheduler that it lives, does not complain."""
    assert executor.run_function(shown_by_a_worker, "running", logger, method) == {method: True, "close": True}
    assert executor.run_function(shown_by_a_worker, "closing", logger, method) == {method: False, "close": True}


def test_a_fork_leaves_it_alone(executor: DaskJobExecutor) -> None:
    """A forked process may close its copy, which ends neither the cluster nor the process's patience."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks where there are threads
        child = os.fork()
    if child == 0:
        executor.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert executor.run_function(abs, -1) == 1


def test_a_cluster_in_a_worker(executor: DaskJobExecutor) -> None:
    """A worker of Dask cannot start one, and is told so; what Dask itself makes of that has the reason as its cause."""
    with pytest.raises(ExecutorError, match=r"cannot start the processes of a cluster.*'dask-integration'"):
        executor.run_function(DaskJobExecutor.make_local)

    def start() -> str:
        from tilework.executor.dask.nanny import LocalNanny, LocalSpecCluster

        workers = {0: {"cls": LocalNanny, "options": {"host": "127.0.0.1", "dashboard": False}}}
        scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1"}}
        try:
            LocalSpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)
        except RuntimeError as error:
            return str(error.__cause__)
        return ""

    assert "daemonic processes are not allowed to have children" in executor.run_function(start)


def test_clients_that_cannot_be_used(executor: DaskJobExecutor) -> None:
    """What is no client, one for asyncio, and a closed one are refused; so is a scheduler that nobody runs."""
    with pytest.raises(ExecutorSpecException, match="asynchronous=False"):
        DaskJobExecutor("tcp://127.0.0.1:1")

    async def main() -> None:
        async with Client(executor.client.scheduler.address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(ExecutorSpecException, match="asynchronous=False"):
                DaskJobExecutor(client)

    asyncio.run(main())
    with Client(executor.client.scheduler.address, set_as_default=False) as client:
        pass
    with pytest.raises(ExecutorSpecException, match="client is closed: make a new one"):
        DaskJobExecutor(client)
    with pytest.raises(ExecutorError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        DaskJobExecutor.connect("tcp://127.0.0.1:1", client_kwargs={"timeout": 0.5})
    with pytest.raises(ExecutorSpecException, match="preload"):
        DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False), preload=("os",))


@pytest.mark.parametrize("name", ["default-cpu-0", "default-cpu-1"])
def test_a_worker_that_somebody_else_has(executor: DaskJobExecutor, tmp_path: Path, name: str) -> None:
    """A task of another program that takes long on one worker delays nothing that another one can do."""
    signals = Signals(str(tmp_path))

    def block() -> None:
        signals.add("started")
        signals.wait("go")

    blocking = executor.client.submit(block, workers=[name], pure=False)
    try:
        signals.wait("started")
        assert run(executor, [FakeTask(0)], timeout=20) == [0]
        assert run(executor, [FakeTask(i) for i in range(20)], timeout=20, ordered=True) == list(range(20))
    finally:
        signals.add("go")
        blocking.result()


def test_nobody_waits_for_it_in_its_event_loop(executor: DaskJobExecutor) -> None:
    """A subscriber that does is told so, for the event loop would wait for itself."""

    async def wait() -> None:
        executor.run_function(abs, -1)

    with pytest.raises(ExecutorError, match="let another thread do that"):
        executor.client.sync(wait)
    assert executor.run_function(abs, -1) == 1


def test_two_executors_with_one_client(executor: DaskJobExecutor) -> None:
    """They do not see each other's runs; closing one leaves the other, the client and its owner's handlers in order."""
    heard: list[Any] = []
    with Client(executor.client.scheduler.address, set_as_default=False) as client:
        topic = next(iter(executor._courier.dispatch.stations))
        client.subscribe_topic(topic, heard.append)
        one, two = DaskJobExecutor(client), DaskJobExecutor(client)
        assert run(one, [EchoTask(i) for i in range(5)], "one", ordered=True) == [(i, "one") for i in range(5)]
        one.close()
        assert run(two, [EchoTask(i) for i in range(5)], "two", ordered=True) == [(i, "two") for i in range(5)]
        client.log_event(topic, "one")
        two.close()
        client.log_event(topic, "two")
        assert client.submit(abs, -1).result() == 1
    assert [message for _, message in heard if isinstance(message, str)] == ["one", "two"]


def test_needs_that_nobody_meets(executor: DaskJobExecutor) -> None:
    """Workers with resources of ours are taken at their word."""
    with pytest.raises(ResourceError, match="CUDA"):
        run(executor, [FakeTask(0, resources={"CUDA": 1})])


def test_async_executor() -> None:
    """AsyncDaskJobExecutor wraps an executor, or makes one of its own cluster, or connects."""

    async def main() -> list[int]:
        spec = cluster_spec(1, 0, has_cupy=False, num_service=0)
        async with await AsyncDaskJobExecutor.make_local(spec) as one:
            results = list(await one.map(abs, [-1, -2]))
            address = one.ensure_sync().client.scheduler.address  # type: ignore[attr-defined]
            async with await AsyncDaskJobExecutor.connect(address) as two:
                results.append(await two.run_function(abs, -3))
                with pytest.raises(TypeError, match="not both"):
                    AsyncDaskJobExecutor(two.ensure_sync(), is_local=True)
        return results

    assert asyncio.run(main()) == [1, 2, 3]


def test_cancelling_the_asyncio_task(executor: DaskJobExecutor, tmp_path: Path) -> None:
    """It stops the tasks on the workers, those of a run and those of functions over a dataset; the next run works."""
    signals = Signals(str(tmp_path))

    class Waits(SumUDF):
        def process_tile(self, tile: Any) -> None:
            signals.add("in a tile")
            time.sleep(0.02)

    async def cancelled(awaitable: Coroutine[Any, Any, Any], began: str) -> None:
        task = asyncio.create_task(awaitable)
        await asyncio.to_thread(signals.wait, began, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> Any:
        async with await AsyncDaskJobExecutor.connect(executor.client.scheduler.address) as other:
            async with other.scatter(None) as handle:
                endless = (EndlessTask(i, signals=signals) for i in count())
                await cancelled(anext(other.run_tasks(endless, handle, 0, NoopCommHandler())), "started")
            assert signals.count("started") == signals.count("stopped") == 2
            ctx = Context(other.ensure_sync())
            ds = ctx.load("memory", data=np.ones((64, 16, 8, 8), np.float32), sig_dims=2, num_partitions=64)
            await cancelled(ctx.run_udf(dataset=ds, udf=Waits(), sync=False), "in a tile")
            n_tiles = signals.count("in a tile")
            assert n_tiles < 64
            result = await ctx.run_udf(dataset=ds, udf=SumUDF(), sync=False)
            assert signals.count("in a tile") == n_tiles, "it went on"
            return result["intensity"].data

    assert (asyncio.run(main()) == 1024).all()


def test_snoozing() -> None:
    """Workers go when nobody has used them for a while, and are all there for whoever asks next."""
    names = ["default-cpu-0", "default-cpu-1"]
    spec = cluster_spec(2, 0, has_cupy=False, num_service=0)
    with DaskJobExecutor.make_local(spec, snooze_timeout=0.5) as executor:
        manager = executor.snooze_manager
        assert manager is not None
        until = time.monotonic() + 20
        while len(executor._courier.dispatch.stations) > 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert manager.is_snoozing
        assert len(executor.client.cluster.scheduler.workers) == 1
        assert sorted(run(executor, [CallTask(i, fn=name_of_worker) for i in range(60)]))[::59] == names
        assert executor.get_available_workers().names() == names
        assert executor.report()["losses"] == 0
        assert all(event["event"] != "worker_lost" for event in executor.report()["events"])


def test_what_is_sent_first_begins_first(executor: DaskJobExecutor, tmp_path: Path) -> None:
    """A large task takes longer to reach its worker; it does not wait there behind later ones, which never end."""
    large = HeavyTask(0, data=np.ones(5_000_000))
    endless = (EndlessTask(i, signals=Signals(str(tmp_path))) for i in count(1))
    with executor.scatter(None) as handle:
        run = executor.run_tasks(chain([large], endless), handle, 0, NoopCommHandler(), options=RunOptions(timeout=20))
        assert next(run)[0][0] == 2
        run.close()
