"""Merging in order gives the same for NumPy arrays and for Dask arrays, and changes nothing that it gets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import dask.array
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.udf import UDF, StdDevUDF, SumUDF
from tilework.udf.data import MergeAttrMapping
from tilework.udf.ordered_merge import merge_in_order

da: Any = dask.array


class Mixed(UDF):
    """The order of merging shows in every result."""

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] = dest.total * np.float32(0.7) + src.total
        dest.own[:] += src.own
        src.total[:] = 0


def parts_of(lengths: list[int], lazily: bool, seed: int) -> OrderedDict[Slice, MergeAttrMapping]:
    rng = np.random.default_rng(seed)
    parts = OrderedDict()
    start = 0
    for length in lengths:
        arrays = {"total": rng.random((2, 3)).astype("f4"), "own": rng.random((length, 2))}
        if lazily:
            arrays = {name: da.from_array(array, chunks=-1) for name, array in arrays.items()}
        parts[Slice((start, 0, 0), Shape((length, 2, 3), 2))] = MergeAttrMapping(arrays)
        start += length
    return parts


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99), initial=st.booleans())
def test_numpy_and_dask_give_the_same_bits(lengths: list[int], seed: int, initial: bool) -> None:
    made = []
    for lazily in (False, True):
        parts = parts_of(lengths, lazily, seed)
        given_before = {"total": np.full((2, 3), 3, dtype="f4")} if initial else None
        merged = merge_in_order(Mixed(), parts, ["total", "own"], ["own"], given_before)
        again = merge_in_order(Mixed(), parts, ["total", "own"], ["own"], given_before)
        assert {name: array.dtype.str for name, array in merged.items()} == {"total": "<f4", "own": "<f8"}
        arrays = [np.asarray(result[name]) for result in (merged, again) for name in ("total", "own")]
        made.append([array.tobytes() for array in arrays])
        assert made[-1][:2] == made[-1][2:], "the parts were changed"
    assert made[0] == made[1]


@pytest.mark.parametrize("lazily", [False, True])
def test_merge_all_of_built_in_functions(lazily: bool) -> None:
    """SumUDF and StdDevUDF can be asked to merge arrays of either kind, outside of a run, too."""
    data = np.random.default_rng(0).random((20, 4, 5))
    parts: Any = {}
    for i, frames in enumerate(np.array_split(data, 4)):
        arrays: Any = {
            "intensity": frames.sum(axis=0),
            "sum": frames.sum(axis=0),
            "varsum": frames.var(axis=0) * len(frames),
            "num_frames": np.array([len(frames)]),
        }
        parts[i] = MergeAttrMapping({n: da.from_array(a, chunks=-1) if lazily else a for n, a in arrays.items()})
    total = SumUDF().merge_all(parts)["intensity"]
    merged = StdDevUDF().merge_all(parts)
    assert isinstance(total, da.Array) == lazily
    np.testing.assert_allclose(np.asarray(total), data.sum(axis=0))
    np.testing.assert_allclose(np.asarray(merged["std"]), data.std(axis=0))
    assert int(merged["num_frames"][0]) == 20
