"""Buffers that hold Dask arrays behave as those that hold NumPy arrays, and store nothing."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.common.buffers import BufferWrapper
from tilework.common.dask_buffers import DaskBufferWrapper, in_dataset_shape
from tilework.common.shape import Shape

da: Any = dask.array
DTYPES = ["f4", "c8", "i2", "?", "U3", "S2", "M8[s]", "O"]


def chunks_of(data: st.DataObject, length: int) -> tuple[int, ...]:
    cuts = data.draw(st.sets(st.integers(1, max(1, length - 1)), max_size=4)) if length > 1 else set()
    return tuple(np.diff([0, *sorted(cuts), length]).tolist())


@settings(max_examples=60)
@given(st.data())
def test_shaped_as_the_dataset(data: st.DataObject) -> None:
    """For every scan, ROI, extra shape, dtype and chunks: what BufferWrapper.data gives."""
    nav = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), label="nav")
    extra = data.draw(st.lists(st.integers(1, 3), max_size=2).map(tuple), label="extra")
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    size = int(np.prod(nav))
    roi = data.draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size).map(np.array), label="roi")
    count = size if roi is None else int(roi.sum())
    flat = np.arange(count * int(np.prod(extra))).reshape((count, *extra)).astype(dtype)
    shape = Shape((*nav, 2, 3), 2)
    expected = BufferWrapper("nav", extra, dtype)
    expected.set_shape_ds(shape, roi)
    expected.replace_array(flat)
    lazy = da.from_array(flat, chunks=(chunks_of(data, count), *extra))
    got = DaskBufferWrapper.around(lazy, expected)
    got.set_shape_ds(shape, roi)
    assert got.delayed_data.dtype == dtype
    assert got.delayed_data.shape == expected.data.shape
    computed = got.delayed_data.compute(scheduler="sync")
    if dtype.kind == "O":
        assert [str(x) for x in computed.flat] == [str(x) for x in expected.data.flat]
    else:
        assert np.ascontiguousarray(computed).tobytes() == np.ascontiguousarray(expected.data).tobytes()
    assert np.asarray(got).shape == expected.data.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_allocated_and_marked_as_others(dtype: str) -> None:
    """Zeros, and the fill value where there is no frame."""
    absent = np.array([True, False, False, True, False, False])
    made = []
    for cls in (BufferWrapper, DaskBufferWrapper):
        buffer: Any = cls("nav", (2,), dtype)
        assert not buffer.has_data()
        buffer.set_shape_ds(Shape((2, 3, 4), 1))
        buffer.allocate()
        with pytest.raises(RuntimeError, match="allocated already"):
            buffer.allocate()
        buffer.mark_absent(absent)
        buffer.export()
        made.append(np.asarray(buffer.data))
    np.testing.assert_array_equal(made[1], made[0])
    assert made[0].dtype == made[1].dtype


def test_nothing_is_stored() -> None:
    buffer = DaskBufferWrapper("nav", (2**10,), "f8")
    buffer.set_shape_ds(Shape((1000, 1000, 4, 4), 2))
    buffer.allocate()
    assert buffer.delayed_raw_data.nbytes == 2**13 * 10**6
    assert buffer.delayed_data[7, 8, :3].compute(scheduler="sync").tolist() == [0, 0, 0]


def test_a_chunk_depends_on_its_positions_only() -> None:
    computed = []

    def look(block: Any, block_id: Any = None) -> Any:
        computed.append(block_id[0])
        return block

    lazy = da.zeros(6, chunks=2).map_blocks(look, dtype="f8", meta=np.empty(0))
    computed.clear()
    roi = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
    image = in_dataset_shape(lazy, Shape((12, 2), 1), roi)
    assert np.isnan(image[9:11].compute(scheduler="sync")).all()
    assert computed == [2]
