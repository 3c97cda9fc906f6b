"""What a UDF sees: views as attributes, assignment in place, parameters that can change."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from tilework.common.buffers import BufferWrapper, PlaceholderBufferWrapper
from tilework.common.shape import Shape
from tilework.udf.data import MergeAttrMapping, UDFData, UDFKwargsWrapper, UseDiscouragedWarning
from tilework.udf.params import RunCache, UDFParams


def data() -> UDFData:
    buffers = {"x": BufferWrapper("nav"), "later": PlaceholderBufferWrapper("nav", use="result_only")}
    for buffer in buffers.values():
        buffer.set_shape_ds(Shape((2, 3, 4, 4), sig_dims=2))
        buffer.allocate()
    return UDFData(buffers)


def test_attributes_are_the_arrays_and_assignment_writes_into_them() -> None:
    results = data()
    array = results.x
    results.x = 7
    assert results.x is array
    assert (array == 7).all()
    assert results.later is None


def test_printed_they_are_named_with_what_they_are() -> None:
    assert repr(data()) == "<UDFData: x=<ndarray of shape (6,), float32>, later=None>"
    params = UDFKwargsWrapper({"mask": np.ones((300, 400)), "k": 5, "names": ["a"] * 1000, "n": np.float32(2)})
    assert repr(params) == (
        "<UDFKwargsWrapper: mask=<ndarray of shape (300, 400), float64>, k=5, "
        "names=['a', 'a', 'a', 'a', 'a', 'a', ...], n=np.float32(2.0)>"
    )
    assert repr(MergeAttrMapping({"x": np.zeros(3)})) == "<MergeAttrMapping: x=<ndarray of shape (3,), float64>>"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    results = data()
    with pytest.raises(AttributeError, match="later, x"):
        _ = results.y
    with pytest.raises(AttributeError, match="later, x"):
        results.y = 1
    with pytest.raises(AttributeError, match="not a buffer that exists"):
        results.later = 1


def test_items_work_but_are_discouraged() -> None:
    results = data()
    with pytest.warns(UseDiscouragedWarning, match=r"\.x"):
        assert results["x"] is results.get_buffer("x")
    proxy = results.get_proxy()
    assert list(proxy) == ["x"]
    with pytest.warns(UseDiscouragedWarning):
        proxy["x"] = 3
    assert (results.x == 3).all()


def test_merge_mappings_write_in_place() -> None:
    array = np.zeros(3)
    dest = MergeAttrMapping({"x": array})
    dest.x = [1, 2, 3]
    assert array.tolist() == [1, 2, 3]
    assert "x" in dest
    assert len(dest) == 1
    with pytest.raises(AttributeError, match="result_only"):
        dest.y = 1


def test_data_survives_pickling() -> None:
    results = data()
    results.x = 5
    again = pickle.loads(pickle.dumps(results))
    assert (again.x == 5).all()
    assert again.get_buffer("x").kind == "nav"


def test_a_patch_changes_later_tasks_only() -> None:
    params = UDFParams([{"a": 1, "b": 2}], None, None, None)
    before = params.kwargs[0]
    params.cache.get("mask", lambda: 1)
    params.patch([{"a": 5}])
    assert params.kwargs == [{"a": 5, "b": 2}]
    assert before == {"a": 1, "b": 2}
    assert params.cache.get("mask", lambda: 2) == 2
    with pytest.raises(ValueError, match="each of the 1"):
        params.patch([])


def test_what_a_task_makes_of_parameters_that_have_changed_is_not_for_later_tasks() -> None:
    params = UDFParams([{"a": 1}], None, None, None)
    kwargs, cache = params.current()
    params.patch([{"a": 5}])
    assert cache.get("double", lambda: 2 * kwargs[0]["a"]) == 2
    kwargs, cache = params.current()
    assert cache.get("double", lambda: 2 * kwargs[0]["a"]) == 10


def test_parameters_do_not_carry_what_a_worker_computed() -> None:
    params = UDFParams([{}], None, None, None)
    params.cache.get("big", lambda: np.zeros(10**6))
    assert len(pickle.dumps(params)) < 10_000


def test_a_value_is_computed_once_for_all_threads() -> None:
    cache = RunCache()
    calls: list[int] = []
    barrier = threading.Barrier(4)

    def make() -> object:
        calls.append(1)
        return object()

    def get(into: list[Any]) -> None:
        barrier.wait(5)
        into.append(cache.get("k", make))

    got: list[Any] = []
    threads = [threading.Thread(target=get, args=(got,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(calls) == 1
    assert all(g is got[0] for g in got)
