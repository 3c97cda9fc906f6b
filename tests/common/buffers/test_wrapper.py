"""Result buffers: shapes, views, regions of interest, what of them is valid."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common.buffers import (
    BufferKind,
    BufferWrapper,
    PlaceholderBufferWrapper,
    fill_value,
    reshaped_view,
    to_numpy,
)
from tilework.common.shape import Shape
from tilework.common.slice import Slice

DS = Shape((3, 4, 5, 6), sig_dims=2)


class Part:
    def __init__(self, start: int, stop: int) -> None:
        self.slice = Slice((start, 0, 0), Shape((stop - start, 5, 6), sig_dims=2))


class Tile:
    def __init__(self, start: int, stop: int, sig: tuple[slice, slice] = (slice(0, 5), slice(0, 6))) -> None:
        origin = (start, sig[0].start, sig[1].start)
        shape = (stop - start, sig[0].stop - sig[0].start, sig[1].stop - sig[1].start)
        self.tile_slice = Slice(origin, Shape(shape, sig_dims=2))


def allocated(kind: BufferKind, extra: tuple[int, ...] = (), dtype: Any = "float32", roi: Any = None) -> BufferWrapper:
    buffer = BufferWrapper(kind, extra, dtype)
    buffer.set_shape_ds(DS, roi)
    buffer.allocate()
    return buffer


@pytest.mark.parametrize(
    ("kind", "extra", "shape", "data_shape"),
    [
        ("nav", (), (12,), (3, 4)),
        ("nav", (2, 3), (12, 2, 3), (3, 4, 2, 3)),
        ("sig", (), (5, 6), (5, 6)),
        ("sig", (2,), (5, 6, 2), (5, 6, 2)),
        ("single", (), (1,), (1,)),
        ("single", (7,), (7,), (7,)),
    ],
)
def test_shapes_follow_the_kind(
    kind: BufferKind, extra: tuple[int, ...], shape: tuple[int, ...], data_shape: tuple[int, ...]
) -> None:
    buffer = allocated(kind, extra)
    assert buffer.shape == shape
    assert buffer.data.shape == data_shape
    assert not buffer.data.any()


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="nav, sig, single"):
        BufferWrapper("frame")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f4", "c8", "i4", "u2", "?", "M8[s]", "m8[s]", "O", "U3", "S3"])
def test_positions_outside_of_the_roi_hold_the_fill_value_of_the_dtype(dtype: str) -> None:
    roi = np.zeros((3, 4), dtype=bool)
    roi[1, 2] = True
    buffer = allocated("nav", dtype=dtype, roi=roi)
    data = buffer.data
    assert buffer.shape == (1,)
    outside = data[~roi]
    fill = np.full(11, fill_value(np.dtype(dtype)), dtype=dtype)
    if np.dtype(dtype).kind in "fcmM":
        assert np.isnan(outside).all() if np.dtype(dtype).kind in "fc" else np.isnat(outside).all()
    else:
        assert (outside == fill).all()


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_partition_views_tile_the_stored_array_for_every_roi(selected: list[bool]) -> None:
    roi = np.array(selected).reshape(3, 4)
    buffer = allocated("nav", (2,), roi=roi)
    for start, stop in ((0, 5), (5, 7), (7, 12)):
        buffer.get_view_for_partition(Part(start, stop))[:] += 1
    assert buffer.raw_data is not None
    assert (buffer.raw_data == 1).all()
    assert (buffer.data[roi] == 1).all()
    assert np.isnan(buffer.data[~roi]).all()


def test_a_partition_buffer_gives_the_view_of_a_tile_relative_to_its_own_start() -> None:
    buffer = BufferWrapper("nav")
    buffer.set_shape_partition(Part(5, 9))
    buffer.allocate()
    buffer.get_view_for_tile(Part(5, 9), Tile(6, 8))[:] = 1
    buffer.get_view_for_frame(Part(5, 9), Tile(6, 8), 1)[:] = 2
    assert buffer.raw_data is not None
    assert buffer.raw_data.tolist() == [0, 1, 2, 0]


def test_contiguous_copies_of_sig_parts_are_written_back_by_flush_and_guarded_until_then() -> None:
    buffer = BufferWrapper("sig")
    buffer.set_shape_partition(Part(0, 4))
    buffer.allocate()
    view = buffer.get_contiguous_view_for_tile(Part(0, 4), Tile(0, 2, (slice(0, 5), slice(2, 4))))
    assert view.flags.c_contiguous
    view[:] = 3
    with pytest.raises(RuntimeError, match="flush"):
        _ = buffer.data
    again = buffer.get_contiguous_view_for_tile(Part(0, 4), Tile(2, 4, (slice(0, 5), slice(2, 4))))
    assert again is view
    buffer.flush()
    assert (buffer.data[:, 2:4] == 3).all()
    assert buffer.data.sum() == 30


def test_whole_rows_are_views_without_a_copy() -> None:
    buffer = BufferWrapper("sig")
    buffer.set_shape_partition(Part(0, 4))
    buffer.allocate()
    buffer.get_contiguous_view_for_tile(Part(0, 4), Tile(0, 2, (slice(1, 3), slice(0, 6))))[:] = 1
    assert buffer.data[1:3].sum() == 12


def test_default_masks_follow_what_was_merged() -> None:
    roi = np.zeros((3, 4), dtype=bool)
    roi[0, :3] = True
    buffer = allocated("nav", (2,), roi=roi)
    mask = buffer.make_default_mask(np.array([True, False, True]), DS, roi)
    assert mask.shape == (3, 4, 2)
    assert mask.any(axis=2).sum() == 2
    assert mask[0, 0].all()
    assert not mask[0, 1].any()
    assert allocated("sig").make_default_mask(np.zeros(12, dtype=bool), DS, None).all()


def test_masked_data_hides_what_is_not_valid() -> None:
    buffer = allocated("nav")
    with pytest.raises(RuntimeError, match="no mask"):
        _ = buffer.valid_mask
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    buffer.valid_mask = mask
    assert buffer.masked_data.count() == 2
    assert buffer.raw_masked_data.shape == (12,)
    assert buffer.raw_masked_data.count() == 2
    assert buffer.valid_slice_bounding == (slice(1, 2), slice(1, 3))


def test_a_buffer_is_allocated_once_and_only_with_a_shape() -> None:
    with pytest.raises(RuntimeError, match="no shape yet"):
        BufferWrapper("nav").allocate()
    buffer = allocated("nav")
    with pytest.raises(RuntimeError, match="already"):
        buffer.allocate()
    with pytest.raises(ValueError, match="shape and dtype must stay"):
        buffer.replace_array(np.zeros(3))


def test_result_only_buffers_hold_nothing() -> None:
    buffer = PlaceholderBufferWrapper("nav", use="result_only")
    buffer.set_shape_ds(DS)
    buffer.allocate()
    assert not buffer.has_data()
    with pytest.raises(ValueError, match="get_results"):
        _ = buffer.data
    part, tile = Part(4, 8), object()
    assert buffer.get_view_for_dataset() is None
    assert buffer.get_view_for_partition(part) is None
    assert buffer.get_view_for_frame(part, tile, 0) is None
    assert buffer.get_view_for_tile(part, tile) is None
    assert buffer.get_contiguous_view_for_tile(part, tile) is None


def test_absent_positions_look_like_nothing_rather_than_zero() -> None:
    buffer = allocated("nav", (2,))
    absent = np.zeros(12, dtype=bool)
    absent[3] = True
    buffer.mark_absent(absent)
    assert np.isnan(buffer.data[0, 3]).all()
    assert np.isnan(buffer.data).sum() == 2


def test_helpers_refuse_what_they_cannot_do() -> None:
    with pytest.raises(TypeError, match="list"):
        to_numpy([1, 2])
    transposed = np.zeros((3, 4)).T
    with pytest.raises(AttributeError):
        reshaped_view(transposed, (12,))


@pytest.mark.parametrize(
    ("kind", "extra", "dtype", "use"),
    [
        ("nav", (2,), "float32", None),
        ("sig", (), ">u2", "private"),
        ("single", (3,), "complex128", None),
        ("single", (0,), "float32", None),
        ("single", (), "bool", None),
        ("nav", (), [("a", "i4"), ("b", "f8")], None),
        ("nav", (), object, None),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_a_partition_s_buffer_travels_between_processes(
    kind: BufferKind, extra: tuple[int, ...], dtype: Any, use: Any, apart: bool
) -> None:
    buffer = BufferWrapper(kind, extra, dtype, use=use)
    buffer.set_shape_partition(Part(3, 7))
    buffer.allocate()
    assert buffer.raw_data is not None
    buffer.raw_data[...] = np.ones((), buffer.dtype)
    out_of_band: list[Any] = []
    pickled = pickle.dumps(buffer, 5, buffer_callback=out_of_band.append if apart else None)
    twin: Any = pickle.loads(pickled, buffers=[bytearray(each.raw()) for each in out_of_band])
    assert twin.raw_data.flags.writeable
    assert twin.raw_data.dtype == buffer.raw_data.dtype
    assert np.array_equal(twin.raw_data, buffer.raw_data)
    attributes: dict[str, Any] = {name: value for name, value in vars(buffer).items() if name != "_data"}
    assert attributes == {name: value for name, value in vars(twin).items() if name != "_data"}
    assert type(twin) is BufferWrapper


class Own(BufferWrapper):
    """A class of somebody else."""


def of_partition(cls: type[BufferWrapper] = BufferWrapper, dtype: Any = "float32") -> Any:
    buffer = cls("nav", (2,), dtype)
    buffer.set_shape_partition(Part(0, 4))
    buffer.allocate()
    return buffer


def test_what_cannot_be_made_anew_from_its_numbers_travels_by_name() -> None:
    def travelled(buffer: Any) -> Any:
        return pickle.loads(pickle.dumps(buffer, 5))

    assert type(travelled(of_partition(Own))) is Own
    noted = of_partition()
    noted.note = "mine"
    assert travelled(noted).note == "mine"
    assert travelled(of_partition(dtype=np.dtype("f4", metadata={"unit": "counts"}))).raw_data.dtype == "f4"
    turned = of_partition()
    turned.replace_array(np.arange(8, dtype="f4").reshape(2, 4).T)
    assert np.array_equal(travelled(turned).raw_data, turned.raw_data)
    locked = of_partition()
    locked.raw_data.flags.writeable = False
    assert np.array_equal(travelled(locked).raw_data, locked.raw_data)


def test_a_buffer_of_the_whole_travels_with_its_region() -> None:
    roi = np.arange(12) % 2 == 0
    buffer = allocated("nav", roi=roi)
    assert buffer.raw_data is not None
    buffer.raw_data[:] = np.arange(6)
    twin = pickle.loads(pickle.dumps(buffer, 5))
    assert np.array_equal(twin.roi, roi)
    assert np.array_equal(twin.data, buffer.data, equal_nan=True)


def test_a_copy_of_a_buffer_shares_its_array_and_a_deep_copy_does_not() -> None:
    buffer = BufferWrapper("nav", (2,))
    buffer.set_shape_partition(Part(0, 4))
    buffer.allocate()
    assert copy.copy(buffer).raw_data is buffer.raw_data
    assert not np.shares_memory(copy.deepcopy(buffer).raw_data, buffer.raw_data)
