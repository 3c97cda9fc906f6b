"""Workers of a Dask cluster that die, at any time and in any number, cost only the tasks that they had."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.core import Status
from distributed.nanny import WorkerProcess

from dask_clusters import scheduler_process, wait_for_workers, worker_process
from tests_helpers import counts
from tilework.api import Context
from tilework.common.executor import NoopCommHandler, RunOptions
from tilework.exceptions import ExecutorError, WorkerLostError
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.testing.faults import CallTask, EchoTask, Signals, SleepTask
from tilework.udf import UDF
from tilework.udf.com import CoMUDF
from tilework.udf.stddev import StdDevUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilework.common.executor import Environment


N_PARTITIONS = 100


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskJobExecutor]:
    preload = ("tilework.udf.stddev", "tilework.udf.com")
    spec = cluster_spec(2, 0, has_cupy=False, num_service=0, preload=preload)
    with DaskJobExecutor.make_local(spec) as executor:
        yield executor


def pids(executor: DaskJobExecutor) -> list[int]:
    """Return the processes of the workers that the executor has now.

    A nanny goes by the address of the worker before until it has learned that of the one that it is starting.
    """
    cluster = executor._connection.cluster
    assert cluster is not None
    known = executor._courier.dispatch.stations

    async def look() -> list[int]:  # in the event loop, which may start a worker between any two steps elsewhere
        running = [n for n in cluster.cluster.workers.values() if n.process and n.process.status is Status.running]
        return [nanny.pid for nanny in running if nanny.worker_address in known and nanny.pid]

    found: list[int] = cluster.cluster.sync(look)
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class SlowSum(UDF):
    """A sum whose bits depend on the order of merging, and that takes its time."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="sig", dtype=np.float32)}

    def process_tile(self, tile: Any) -> None:
        time.sleep(0.004)
        self.results.total[:] += np.sqrt(tile, dtype=np.float32).sum(axis=0)

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] += src.total * np.float32(1.1)


def run_udfs(context: Context, path: Path, on_result: Callable[[int], None] = lambda _: None) -> list[Any]:
    dataset = context.load("npy", path=path, num_partitions=N_PARTITIONS)
    udfs = [SlowSum(), StdDevUDF(), CoMUDF.with_params(r=3)]
    for n, part in enumerate(context.run_udf_iter(dataset=dataset, udf=udfs)):
        on_result(n)
    return [(name, buffer.data.tobytes()) for each in part.buffers for name, buffer in each.items()]


def test_ten_workers_die_in_a_run(executor: DaskJobExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever that is, the results are those of one thread, bit by bit."""
    # Three of them may well be workers of the same task, with which a run is given up: that is the subject below.
    bounds = executor._bounds
    monkeypatch.setattr(executor, "_bounds", lambda **kwargs: replace(bounds(**kwargs), losses=11))
    path = tmp_path / "scan.npy"
    np.save(path, counts((30, 40, 8, 7)))
    with Context.make_with("inline") as inline:
        expected = run_udfs(inline, path)
    rng = random.Random(11)
    when = sorted(rng.sample(range(N_PARTITIONS - 10), 10))
    killed: list[int] = []

    def kill_some(n: int) -> None:
        until = time.monotonic() + 20
        while when and n >= when[0] and time.monotonic() < until:
            # Those that are started again count as soon as they are there: so now and then nobody is left.
            alive = [pid for pid in pids(executor) if pid not in killed]
            if alive:
                when.pop(0)
                killed.append(rng.choice(alive))
                kill(killed[-1])
            else:
                time.sleep(0.01)

    def n_lost() -> int:
        return sum(event["event"] == "worker_lost" for event in executor.report()["events"])

    tasks_before, workers_before = executor.report()["losses"], n_lost()
    assert run_udfs(Context(executor), path, kill_some) == expected
    assert len(killed) == 10
    assert executor.report()["losses"] > tasks_before, "no worker had a task when it was killed"
    until = time.monotonic() + 20
    while n_lost() - workers_before < 10 and time.monotonic() < until:
        time.sleep(0.01)  # the run may be over before the last loss is known
    assert n_lost() - workers_before == 10


def test_all_workers_die_with_what_was_scattered(executor: DaskJobExecutor) -> None:
    """Parameters are restored although nobody has them any more, with the patches since."""

    class Params:
        def __init__(self) -> None:
            self.value = 1

        def patch(self, patch: int) -> None:
            self.value += patch

    def work(params: Any, env: Environment) -> tuple[int, int]:
        time.sleep(0.01)
        return params.value, os.getpid()

    with executor.scatter(Params()) as handle:
        executor.scatter_update_patch(handle, 10)
        before = pids(executor)
        run = executor.run_tasks([CallTask(i, fn=work) for i in range(60)], handle, "run", NoopCommHandler())
        first = next(run)[0]
        for pid in before:
            kill(pid)
        results = [first, *(result for result, _ in run)]
    assert [value for value, _ in results] == [11] * 60
    assert not {pid for _, pid in results[-10:]} & set(before)


def test_a_task_that_kills_its_workers(executor: DaskJobExecutor, tmp_path: Path) -> None:
    """After three of them the run ends with an error that says which partition it was, and what happened."""
    signals = Signals(str(tmp_path))

    def die(params: Any, env: Environment) -> None:
        signals.add("killed")
        os.kill(os.getpid(), signal.SIGKILL)

    tasks = [EchoTask(0), CallTask(1, fn=die), *(SleepTask(i) for i in range(2, 40))]
    with (
        executor.scatter(None) as handle,
        pytest.raises(WorkerLostError, match=r"part-1 lost its worker 3 times.*ended by signal 9 \(SIGKILL"),
    ):
        list(executor.run_tasks(tasks, handle, 0, NoopCommHandler(), options=RunOptions(ordered=True)))
    assert signals.count("killed") == 3
    assert executor.run_function(abs, -1) == 1


def test_the_reason_of_the_last_loss(executor: DaskJobExecutor, tmp_path: Path) -> None:
    """It is told how that worker ended, and not how one before it did that had the same name."""
    signals = Signals(str(tmp_path))

    def die(params: Any, env: Environment) -> None:
        signals.add("ended")
        os.kill(os.getpid(), signal.SIGKILL if signals.count("ended") % 3 else signal.SIGABRT)

    for _ in range(3):
        with executor.scatter(None) as handle, pytest.raises(WorkerLostError, match=r"3 times.*signal 6 \(SIGABRT"):
            list(executor.run_tasks([CallTask(1, fn=die)], handle, 0, NoopCommHandler()))


def test_a_worker_dies_before_its_nanny_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works as soon as the scheduler knows it, which may be a while before its nanny hears that it has begun."""

    def die(params: Any, env: Environment) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    spec = cluster_spec(1, 0, has_cupy=False, num_service=0)
    with DaskJobExecutor.make_local(spec) as executor, executor.scatter(None) as handle:
        monkeypatch.setattr(WorkerProcess, "_init_msg_interval", 2.0)  # how often nannies look whether they have heard
        with pytest.raises(WorkerLostError, match=r"3 times.*ended by signal 9 \(SIGKILL"):
            list(executor.run_tasks([CallTask(1, fn=die)], handle, 0, NoopCommHandler()))


def test_last_words(executor: DaskJobExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that crashes in compiled code: the error says where, and all that it wrote came to ours."""

    def crash(params: Any, env: Environment) -> None:
        sys.stderr.write("from Python\n")
        os.write(2, b"from C\n")
        ctypes.string_at(0)

    with executor.scatter(None) as handle, pytest.raises(WorkerLostError) as caught:
        list(executor.run_tasks([CallTask(7, fn=crash)], handle, 0, NoopCommHandler()))
    message = str(caught.value)
    assert re.search(r"part-7 .*default-cpu-\d at tcp://.*signal 11 \(SIGSEGV", message)
    assert re.search(r"from Python\s+from C\s+Fatal Python error: Segmentation fault\s.*in crash\b", message, re.DOTALL)
    assert message.count("from C") == 1, "of one process only"
    shown, until = "", time.monotonic() + 10
    lines = (
        "from Python\n",
        "from C\n",
        "Fatal Python error: Segmentation fault\n",
    )  # and those of others between them
    while min(map(shown.count, lines)) < 3:  # passed on meanwhile
        assert time.monotonic() < until, shown
        time.sleep(0.01)
        shown += capfd.readouterr().err


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and a worker, of other programs; the last test here is the end of them."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler_process(folder) as address, worker_process(folder, address, "one"):
        wait_for_workers(address, 1)
        yield address


def test_a_nanny_dies(address: str, tmp_path: Path) -> None:
    """A worker on another host that is gone for good, with its nanny: the others do the rest, and it may come back."""
    with DaskJobExecutor.connect(address) as executor, executor.scatter("p") as handle:
        with worker_process(tmp_path, address, "two") as nanny:
            wait_for_workers(address, 2)
            tasks = [SleepTask(i, seconds=0.02) for i in range(100)]
            run = executor.run_tasks(tasks, handle, 0, NoopCommHandler(), options=RunOptions(ordered=True))
            results = [next(run)[0] for _ in range(20)]
            nanny.kill()
            results += [result for result, _ in run]
            assert results == list(range(100))
            assert executor.get_available_workers().names() == ["one-cpu-0"]
        with worker_process(tmp_path, address, "three"):
            until = time.monotonic() + 30
            while len(executor.get_available_workers()) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            assert executor.get_available_workers().names() == ["one-cpu-0", "three-cpu-0"]
            endless = executor.run_tasks((EchoTask(i) for i in count()), handle, 0, NoopCommHandler())
            assert next(endless)[0][1] == "p"
            endless.close()


def test_the_client_is_closed(address: str) -> None:
    """By its owner, in the middle of a run: with it ends the event loop in which everything arrives."""
    client = Client(address, set_as_default=False)
    with DaskJobExecutor(client) as executor, executor.scatter(1) as handle:
        run = executor.run_tasks((SleepTask(i) for i in count()), handle, 0, NoopCommHandler())
        next(run)
        client.close()
        with pytest.raises(ExecutorError, match=r"client was closed.*make a new executor"):
            list(run)
        with pytest.raises(ExecutorError, match="make a new executor"):
            executor.run_function(abs, -1)


def test_the_scheduler_dies(address: str) -> None:
    """Runs end with an error that says so, and so does what is asked for later; closing does not hang."""
    client_kwargs = {"timeout": 1}
    with DaskJobExecutor.connect(address, client_kwargs=client_kwargs) as executor, executor.scatter(1) as handle:
        scheduler = executor.client.run_on_scheduler(os.getpid)
        run = executor.run_tasks((SleepTask(i) for i in count()), handle, 0, NoopCommHandler())
        next(run)
        kill(scheduler)
        start = time.monotonic()
        with pytest.raises(ExecutorError, match="connection to the Dask scheduler was lost"):
            list(run)
        with pytest.raises(ExecutorError, match="scheduler"):
            executor.run_function(abs, -1)
    assert time.monotonic() - start < 30


def test_the_cluster_is_closed() -> None:
    """Its owner ends it, with the client: nobody waits for workers that cannot come any more."""
    options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskJobExecutor(client) as executor,
        executor.scatter(1) as handle,
    ):
        run = executor.run_tasks((SleepTask(i) for i in count()), handle, 0, NoopCommHandler())
        next(run)
        cluster.close()
        with pytest.raises(ExecutorError, match="connection to the Dask scheduler was lost"):
            list(run)
        with pytest.raises(ExecutorError, match="connection to the Dask scheduler was lost"):
            executor.run_function(abs, -1)
