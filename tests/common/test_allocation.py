"""Aligned memory, and the pool that keeps it."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

from tilework.common.allocation import PAGE, BufferPool, ManagedBuffer, bytes_aligned, empty_aligned, zeros_aligned


def address(array: Any) -> int:
    return int(np.frombuffer(array, dtype=np.uint8).ctypes.data)


@pytest.mark.parametrize("size", [1, 100, 4096, 10_001])
def test_memory_begins_at_a_page_and_can_be_written(size: int) -> None:
    buf = bytes_aligned(size)
    assert len(buf) == size
    assert address(buf) % PAGE == 0
    buf[-1] = 7
    assert buf[-1] == 7


@pytest.mark.parametrize("make", [empty_aligned, zeros_aligned])
@pytest.mark.parametrize(("shape", "dtype"), [(10, "f4"), ((2, 3), "u2"), ((3, 0), "f8"), ((2,), object)])
def test_arrays_have_shape_and_dtype(make: Any, shape: Any, dtype: Any) -> None:
    array = make(shape, dtype)
    assert array.shape == ((shape,) if isinstance(shape, int) else shape)
    assert array.dtype == np.dtype(dtype)
    assert array.flags.writeable
    assert not array.any()
    if array.size and dtype is not object:
        assert array.ctypes.data % PAGE == 0


def test_the_pool_gives_again_what_came_back() -> None:
    pool = BufferPool()
    with pool.bytes(1000) as first, pool.bytes(1000) as second:
        places = {address(first), address(second)}
        assert len(places) == 2
        first[:] = b"x" * 1000
    with pool.zeros((10, 25), "f4") as array:
        assert array.ctypes.data in places
        assert not array.any()
    with pool.empty((0,), "f4") as nothing:
        assert nothing.size == 0
    with pytest.raises(ValueError, match="divisors of 4096"):
        pool.checkout_bytes(10, alignment=3)


def test_a_managed_buffer_goes_back_when_it_is_forgotten() -> None:
    pool = BufferPool()
    managed = ManagedBuffer(pool, 500)
    place = address(managed.buf)
    del managed
    gc.collect()
    assert address(pool.checkout_bytes(500)) == place


def test_threads_never_share_memory_of_the_pool() -> None:
    pool = BufferPool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            with pool.bytes(64) as buf:
                buf[0] = number
                if buf[0] != number:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
