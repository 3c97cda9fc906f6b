"""The gate that lets suspects be alone, and what is known of pools."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from distributed import Client, LocalCluster

from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.renewable import Gate, size_of

if TYPE_CHECKING:
    import pytest


def test_gate() -> None:
    """Many pass together, a loner never meets anybody, and everybody passes in the end."""
    gate = Gate()
    inside: list[str] = []
    lock = threading.Lock()
    crowds = set()

    def pass_through(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            is_loner = rng.random() < 0.1
            with gate.pass_alone() if is_loner else gate.pass_together():
                with lock:
                    inside.append("loner" if is_loner else "other")
                    crowd = list(inside)
                assert crowd == ["loner"] if is_loner else "loner" not in crowd
                crowds.add(len(crowd))
                time.sleep(rng.random() * 0.001)
                with lock:
                    inside.remove(crowd[-1])

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(pass_through, seed) for seed in range(8)]:
            future.result()
    assert max(crowds) > 1


def test_a_loner_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody inside takes his time, a loner gives up being alone, and the others go on as well."""
    monkeypatch.setattr("tilework.executor.renewable.ALONE_SECONDS", 0.05)
    gate = Gate()
    with gate.pass_together(), ThreadPoolExecutor(1) as pool:

        def be_alone() -> int:
            with gate.pass_alone(), gate.pass_together():
                return 1

        assert pool.submit(be_alone).result(10) == 1
    with gate.pass_alone():
        pass


def test_size_of_pools() -> None:
    """Libraries call it differently; a pool that does not tell gets the default."""
    assert size_of(ThreadPoolExecutor(3), 7) == 3
    assert size_of(SimpleNamespace(num_workers=5), 7) == 5
    assert size_of(SimpleNamespace(num_workers=0), 7) == size_of(object(), 7) == 7


def test_size_of_the_pool_of_a_dask_client() -> None:
    """All threads of its workers; it has no say in how many this machine has."""
    options: dict[str, Any] = {"processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=3, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pool = client.get_executor()
        assert size_of(pool, 99) == 6
        with ConcurrentJobExecutor(pool) as executor:
            assert len(executor.get_available_workers()) == 6
    assert size_of(pool, 99) == 99, "the client is closed"
