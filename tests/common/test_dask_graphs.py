"""Graphs that are put together task by task."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import dask.array
import numpy as np
import pytest
from dask.base import compute

from tilework.common.dask_graphs import (
    ArraySpec,
    Constant,
    Item,
    LazyGraph,
    import_dask,
    is_lazy,
    single_key,
    single_task,
)
from tilework.exceptions import ExecutorSpecException

da: Any = dask.array
run: Any = compute


class Count:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return args


@pytest.mark.parametrize("value", [None, 3, (len, "abc"), ["a"], {"a": 1}, len, "key-that-looks-like-one", np.ones(3)])
def test_constants_are_not_looked_into(value: Any) -> None:
    """Whatever it is, also what Dask would take for a task or a key."""
    graph = LazyGraph("test")
    got = graph.delayed(graph.add("value", Constant(value))).compute(scheduler="sync")
    assert got is value


def test_keys_and_lists_of_keys() -> None:
    graph = LazyGraph("test")
    one, two = graph.add("one", Constant(1)), graph.add("two", Constant(2))
    pair = graph.add("pair", lambda a, rest: (a, rest), one, [two, one, two])
    only = graph.add("only", lambda rest: rest, [two])
    assert graph.delayed(pair).compute(scheduler="sync") == (1, [2, 1, 2])
    assert graph.delayed(only).compute(scheduler="sync") == [2]


def test_arrays_of_chunks() -> None:
    graph = LazyGraph("test")
    source = da.arange(6, chunks=6) * 2
    graph.use(source)
    halves = graph.add("halves", lambda a: (a[:2], a[2:]), single_key(source))
    spec = ArraySpec("cut", [(Item(0), halves), (Item(1), halves)], ((2, 4),), source.dtype)
    whole = ArraySpec.whole("whole", (np.sum, halves), (), source.dtype)
    cut, _ = graph.arrays([spec, whole])
    assert cut.chunks == ((2, 4),)
    assert (cut + 1)[1:4].compute(scheduler="sync").tolist() == [3, 5, 7]
    other = LazyGraph("other")
    first = graph.arrays([ArraySpec.whole("first", (Item(0), halves), (2,), source.dtype)])[0]
    other.use(first)
    (copy,) = other.arrays([ArraySpec("copy", [single_task(first)], ((2,),), source.dtype)])
    assert copy.compute(scheduler="sync").tolist() == [0, 2]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_what_collections_share_is_done_once(scheduler: str) -> None:
    """Arrays and Delayed objects are optimized apart, and yet a task is not done for each of them."""
    count = Count()
    graph = LazyGraph("test")
    start = graph.add("start", Constant(1))
    shared = graph.add("shared", count, start)
    item = graph.add("item", Item(0), shared)
    (array,) = graph.arrays([ArraySpec.whole("array", (np.atleast_1d, item), (1,), np.int64)])
    got = run(array + 1, array.sum(), graph.delayed(item), graph.delayed(shared), scheduler=scheduler)
    assert [np.asarray(g).tolist() for g in got] == [[2], 1, 1, [1]]
    assert count.calls == 1


def test_graphs_travel() -> None:
    graph = LazyGraph("test")
    key = graph.add("sum", sum, graph.add("values", Constant([1, 2, 3])))
    delayed = pickle.loads(pickle.dumps(graph.delayed(key)))
    assert delayed.compute(scheduler="sync") == 6


def test_is_lazy() -> None:
    assert is_lazy(da.ones(3))
    assert not is_lazy(np.ones(3))


def test_single_key_wants_one_chunk() -> None:
    with pytest.raises(ValueError, match="unpack"):
        single_key(da.ones(4, chunks=2))


def test_without_dask() -> None:
    code = (
        "import sys; sys.modules['dask'] = None; sys.modules['dask.array'] = None\n"
        "from tilework.common.dask_graphs import import_dask\n"
        "import_dask('this test')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ExecutorSpecException: this test needs Dask" in done.stderr
    assert "pip install 'tilework[dask]'" in done.stderr
    assert issubclass(ExecutorSpecException, Exception)
    assert import_dask("this test").array is da
