"""Who is there, and what for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from distributed import Client, LocalCluster, Status, get_worker

from dask_clusters import process, scheduler_process, wait_until
from tilework.executor.dask import DaskJobExecutor
from tilework.executor.dask.courier import Courier
from tilework.executor.dask.roster import Roster

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tilework.common.scheduler import Worker


def test_workers_that_come_later(tmp_path: Path) -> None:
    """What workers are for is found out also when there were none at first."""
    arguments = ("-c", "1", "--services", "1", "-u", "", "-n", "late", "-d", str(tmp_path))
    with scheduler_process(tmp_path) as address, DaskJobExecutor.connect(address) as executor:
        assert executor.get_resource_details() == []
        command = [sys.executable, "-m", "tilework", "worker", address, *arguments]
        with process(command, tmp_path / "log"):
            wait_until(lambda: len(executor.get_available_workers()) == 2, "they do not come", 60)
            assert executor.lt_resources
            (details,) = executor.get_resource_details()
            assert (details["cpu"], details["cuda"], details["service"]) == (1, 0, 1)
            assert set(executor.map(lambda _: get_worker().name, range(20))) == {"late-cpu-0"}
            assert executor.run_function(lambda: get_worker().name) == "late-service-0"


class NoClient:
    """A client as far as a roster uses it."""

    id = "client"
    status = "running"

    def subscribe_topic(self, topic: str, handler: Any) -> None: ...


def test_a_worker_for_services_comes_first() -> None:
    """Nothing tells it from any other worker before the first one comes that is tagged."""
    told: list[tuple[str, Worker]] = []
    service: dict[str, Any] = {"name": "service", "host": "here", "nthreads": 1, "resources": {}}
    cpu = {**service, "name": "cpu", "resources": {"CPU": 1, "compute": 1, "ndarray": 1}}

    async def join() -> None:
        courier = Courier(NoClient(), None)  # type: ignore[arg-type]
        roster = Roster(courier, None, lambda topic, worker: told.append((topic, worker)), lambda: None)
        roster._join_all({"tcp://1": service})
        assert not courier.dispatch.stations["tcp://1"].is_service
        roster._join_all({"tcp://1": service, "tcp://2": cpu})
        assert roster.is_tagged
        stations = courier.dispatch.stations.values()
        assert {s.worker.name: s.is_service for s in stations} == {"service": True, "cpu": False}

    asyncio.run(join())
    assert [(topic, worker.name, bool(worker.resources)) for topic, worker in told] == [
        ("worker_joined", "service", True),
        ("worker_described", "service", False),
        ("worker_joined", "cpu", True),
    ]


def test_events_of_a_worker_that_has_left(caplog: pytest.LogCaptureFixture) -> None:
    """Some may be on their way when nobody listens any more; Dask would log a traceback for each."""
    options: dict[str, Any] = {"n_workers": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    arrived: list[str] = []
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        scheduler: Any = cluster.scheduler

        async def publish(*topics: str) -> None:
            for topic in topics:
                scheduler.log_event(topic, {"action": topic})

        def has_arrived(topic: str) -> bool:
            cluster.sync(publish, topic)
            return topic in arrived

        async def retire(address: str) -> None:
            await scheduler.retire_workers([address], close_workers=True)
            await publish(*[address] * 50, "done")

        with DaskJobExecutor(client) as executor:
            (address,) = client.scheduler_info()["workers"]
            for topic in ("ready", "done"):
                client.subscribe_topic(topic, lambda event: arrived.append(event[1]["action"]))
            wait_until(lambda: has_arrived("ready"), "the scheduler does not know who listens", 20)
            cluster.sync(retire, address)
            wait_until(lambda: "done" in arrived, "no event arrives", 20)
            assert not executor.get_available_workers()
    assert "No event handler" not in caplog.text


def test_all_workers_are_paused(caplog: pytest.LogCaptureFixture) -> None:
    """A run waits for them, and nobody would know why."""
    options: dict[str, Any] = {
        "n_workers": 2,
        "processes": False,
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
    }
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:

        def set_all(status: Status) -> None:
            for worker in cluster.workers.values():
                worker.status = status

        with DaskJobExecutor(client) as executor:
            assert executor.map(abs, range(-3, 0)) == [3, 2, 1]
            assert "paused" not in caplog.text
            cluster.loop.add_callback(set_all, Status.paused)
            wait_until(lambda: "all workers of the Dask cluster are paused" in caplog.text, "it is not said", 30)
            cluster.loop.add_callback(set_all, Status.running)
            assert executor.map(abs, range(-3, 0)) == [3, 2, 1]
