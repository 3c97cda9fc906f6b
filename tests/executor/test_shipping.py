"""Scattered objects reach each worker in the right state, each patch once, whatever the worker had before."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilework.exceptions import ExecutorError
from tilework.executor.shipping import Cache, MissingContentError, Scattered, ShippingStore


class Log:
    """Remembers its patches, in order, beside an array."""

    def __init__(self, size: int = 10) -> None:
        self.array = np.arange(size)
        self.patches: list[int] = []

    def patch(self, patch: int) -> None:
        self.patches.append(patch)
        if patch < 0:
            msg = f"no patch like {patch}"
            raise ValueError(msg)
        self.array[0] += patch


def get(cache: Cache, scattered: Scattered, *, with_content: bool = False) -> Any:
    return cache.get("me", scattered.ship(with_content=with_content), (scattered.key,))


def test_what_cannot_be_pickled() -> None:
    """The error says what it was, and what to do."""
    with pytest.raises(TypeError, match="pickle") as caught:
        Scattered(threading.Lock())
    assert "the parameters of the run, a lock, cannot be sent" in caught.value.__notes__[0]


@pytest.mark.parametrize("size", [10, 10_000])
def test_workers_catch_up(size: int) -> None:
    """Workers that look at different times see every patch once, in order, also past the point of a new base."""
    rng = random.Random(5)
    scattered = Scattered(Log(size))
    workers = [Cache() for _ in range(4)]
    patches: list[int] = []
    for i in range(300):
        scattered.patch(i)
        patches.append(i)
        for worker in workers:
            if rng.random() < 0.2:
                log = get(worker, scattered)
                assert log.patches == patches
                assert log.array[0] == sum(patches)
    assert get(Cache(), scattered).patches == patches
    assert len(scattered.ship(with_content=False).patches) < 65
    scattered.close()


def test_update() -> None:
    """An update replaces everything, patches included; a worker that has something newer keeps that."""
    scattered = Scattered(Log())
    scattered.patch(1)
    old = scattered.ship(with_content=False)
    worker = Cache()
    assert get(worker, scattered).patches == [1]
    scattered.update(Log())
    assert get(worker, scattered).patches == []
    scattered.patch(2)
    log = get(worker, scattered)
    assert log.patches == [2]
    assert worker.get("me", old, (old.key,)) is log
    scattered.close()


def test_the_callers_object_is_left_alone() -> None:
    """A patch goes to the copies only."""
    log = Log()
    scattered = Scattered(log)
    scattered.patch(3)
    assert (log.patches, get(Cache(), scattered).patches) == ([], [3])


def test_a_failing_patch_reaches_nobody() -> None:
    """It is raised where it was given, and the state before is what everybody has."""
    scattered = Scattered(Log())
    worker = Cache()
    scattered.patch(1)
    with pytest.raises(ValueError, match="no patch like -1"):
        scattered.patch(-1)
    assert get(worker, scattered).patches == [1]
    scattered.patch(2)
    assert get(worker, scattered).patches == get(Cache(), scattered).patches == [1, 2]
    with pytest.raises(TypeError, match="method patch"):
        Scattered(7).patch(1)


def test_content_out_of_reach() -> None:
    """A worker that cannot map a large object says so, and gets it with the content."""
    scattered = Scattered(Log(10_000))
    shipment = scattered.ship(with_content=False)
    assert shipment.address is not None
    elsewhere = replace(shipment, address=replace(shipment.address, path="/proc/1/fd/99999"))
    worker = Cache()
    with pytest.raises(MissingContentError):
        worker.get("me", elsewhere, (scattered.key,))
    assert np.array_equal(get(worker, scattered, with_content=True).array, np.arange(10_000))
    assert worker.get("me", elsewhere, (scattered.key,)) is get(worker, scattered)
    scattered.close()
    with pytest.raises(ExecutorError, match="scatter"):
        scattered.ship(with_content=False)


def test_arrays_can_be_written_to() -> None:
    """What a worker does to its copy stays there, for small and large arrays alike."""
    for size in (10, 1000, 100_000):
        scattered = Scattered({"array": np.zeros(size), "fortran": np.asfortranarray(np.ones((size // 5, 5)))})
        one, two = get(Cache(), scattered), get(Cache(), scattered)
        one["array"][:] = 1
        assert not two["array"].any()
        assert one["fortran"].flags.f_contiguous
        scattered.close()


def test_a_worker_forgets_what_is_not_needed() -> None:
    """Objects that are not alive any more are dropped with the next job, those of other executors stay for a while."""
    worker = Cache()
    one, two = Scattered([1]), Scattered([2])
    first = get(worker, one)
    assert get(worker, one) is first
    worker.get("other", two.ship(with_content=False), (two.key,))
    assert get(worker, one) is first
    get(worker, two)
    assert get(worker, one) is not first
    for owner in "abcd":
        worker.get(owner, two.ship(with_content=False), (two.key,))
    assert len(worker._owners) == 4


def test_store() -> None:
    """Handles are good until they are dropped."""
    store = ShippingStore()
    handle = store.add([1])
    assert store.keys() == (handle,)
    store.update(handle, [2])
    assert Cache().get("me", store.look_up(handle).ship(with_content=False), ()) == [2]
    store.drop(handle)
    store.drop(handle)
    for misuse in (lambda: store.look_up(handle), lambda: store.update(handle, 1), lambda: store.patch([], 1)):
        with pytest.raises(ExecutorError, match="scatter"):
            misuse()
