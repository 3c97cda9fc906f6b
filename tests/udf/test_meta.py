"""Where a function is in the data: slices, coordinates, what is merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.io.dataset.tiling_scheme import TilingScheme
from tilework.udf.meta import UDFMeta

DS = Shape((3, 4, 6, 8), sig_dims=2)
SCHEME = TilingScheme.make_for_shape(Shape((2, 3, 8), sig_dims=2), DS)


def meta(roi: Any = None, start: int = 2, stop: int = 7, **kwargs: Any) -> UDFMeta:
    part = Slice((start, 0, 0), Shape((stop - start, 6, 8), sig_dims=2))
    return UDFMeta(part, DS, roi, np.dtype("u2"), np.dtype("f4"), **kwargs)


def test_the_slice_is_that_of_the_partition_until_a_position_is_set() -> None:
    m = meta(tiling_scheme=SCHEME)
    partition = Slice((2, 0, 0), Shape((5, 6, 8), sig_dims=2))
    assert (m.slice, m.sig_slice, m.tiling_scheme_idx) == (partition, SCHEME[0], 0)
    m.set_position(3, 5, 1)
    assert m.slice == Slice((3, 3, 0), Shape((2, 3, 8), sig_dims=2))
    assert m.sig_slice == SCHEME[1]
    assert m.tiling_scheme_idx == 1
    assert tuple(m.partition_shape) == (5, 6, 8)
    m.set_partition()
    assert (m.slice, m.sig_slice, m.tiling_scheme_idx) == (partition, SCHEME[0], 0)
    m = meta(tiling_scheme=SCHEME, tiling_index=1)
    assert (m.slice, m.sig_slice, m.tiling_scheme_idx) == (partition, SCHEME[1], 1)


def test_coordinates_follow_the_roi() -> None:
    assert meta().coordinates.tolist() == [[0, 2], [0, 3], [1, 0], [1, 1], [1, 2]]
    roi = np.zeros((3, 4), dtype=bool)
    roi[0, 1] = roi[2, 0] = roi[2, 3] = True
    assert meta(roi, 1, 3).coordinates.tolist() == [[2, 0], [2, 3]]


def test_a_loop_over_frames_goes_on_by_its_start_alone() -> None:
    """What a function does to the coordinates it got does not change those of the next frame."""
    m = meta(tiling_scheme=SCHEME)
    m.set_position(3, 4)
    for start, coordinates in (3, [0, 3]), (4, [1, 0]), (3, [0, 3]):
        m.start = start
        assert m.slice == Slice((start, 0, 0), Shape((1, 3, 8), sig_dims=2))
        assert m.coordinates.tolist() == [coordinates]
        m.coordinates[:] = -1


def test_what_is_merged_is_flat_and_full_on_demand() -> None:
    roi = np.zeros((3, 4), dtype=bool)
    roi[0, 1] = roi[2, 0] = True
    m = meta(roi, 0, 2)
    assert m.get_valid_nav_mask() is None
    m.set_valid_nav_mask(np.array([False, True]))
    compressed, full = m.get_valid_nav_mask(), m.get_valid_nav_mask(full_nav=True)
    assert compressed is not None
    assert full is not None
    assert compressed.tolist() == [False, True]
    assert np.flatnonzero(full).tolist() == [8]


def test_there_is_no_partition_on_the_main_side() -> None:
    m = UDFMeta(None, DS, None, np.dtype("u2"), np.dtype("f4"))
    with pytest.raises(ValueError, match="no partition here"):
        _ = m.partition_shape
    assert m.device_class == "cpu"
    assert m.array_backend is None
    assert m.sig_slice.shape == Shape((6, 8), sig_dims=2)
