"""Auxiliary data: cut by partition and region of interest, and refused when it does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from tilework.common.buffers import AuxBufferWrapper
from tilework.common.shape import Shape
from tilework.common.slice import Slice

DS = Shape((3, 4, 5, 6), sig_dims=2)


class Part:
    def __init__(self, start: int, stop: int) -> None:
        self.slice = Slice((start, 0, 0), Shape((stop - start, 5, 6), sig_dims=2))


def test_auxiliary_data_is_cut_by_partition_and_roi() -> None:
    aux = AuxBufferWrapper("nav", (2,), "f4")
    with pytest.raises(RuntimeError, match="no shape yet"):
        _ = aux.shape
    aux.set_buffer(np.arange(24, dtype="f4"))
    assert aux.shape == (12, 2)
    roi = np.zeros(12, dtype=bool)
    roi[[1, 5, 6]] = True
    part = aux.new_for_partition(Part(4, 8), roi)
    assert part.raw_data is not None
    assert part.raw_data.tolist() == [[10, 11], [12, 13]]
    with pytest.raises(ValueError, match="cut once"):
        part.new_for_partition(Part(4, 8), roi)
    aux.set_roi(DS, roi)
    assert aux.get_view_for_dataset().shape == (3, 2)


def test_auxiliary_data_that_does_not_fit_is_refused() -> None:
    aux = AuxBufferWrapper("nav", (), "f4")
    with pytest.raises(ValueError, match="float64"):
        aux.set_buffer(np.zeros(12))
    aux.set_buffer(np.zeros(11, dtype="f4"))
    with pytest.raises(ValueError, match="needs 12 entries"):
        aux.set_roi(DS, None)


@pytest.mark.parametrize("given", [(5, 6, 2), (30, 2), (60,)])
def test_auxiliary_data_of_pixels_has_the_shape_of_the_detector(given: tuple[int, ...]) -> None:
    aux = AuxBufferWrapper("sig", (2,), "f4")
    data = np.arange(60, dtype="f4")
    aux.set_buffer(data.reshape(given))
    aux.set_roi(DS, None)
    assert np.array_equal(aux.get_view_for_dataset(), data.reshape(5, 6, 2))
    assert np.array_equal(aux.new_for_partition(Part(4, 8), None).get_view_for_dataset(), data.reshape(5, 6, 2))


@pytest.mark.parametrize("extra", [(), (1,)])
@pytest.mark.parametrize("given", [(30,), (30, 1), (5, 6), (5, 6, 1)])
def test_axes_of_length_one_do_not_matter(given: tuple[int, ...], extra: tuple[int, ...]) -> None:
    aux = AuxBufferWrapper("sig", extra, "f4")
    data = np.arange(30, dtype="f4")
    aux.set_buffer(data.reshape(given))
    aux.set_roi(DS, None)
    assert np.array_equal(aux.get_view_for_dataset(), data.reshape(5, 6))


@pytest.mark.parametrize("extra", [(), (1,), (2,)])
@pytest.mark.parametrize("given", [(4, 3), (4, 3, 1)])
def test_auxiliary_data_of_a_scan_with_its_axes_swapped_is_refused(
    given: tuple[int, ...], extra: tuple[int, ...]
) -> None:
    aux = AuxBufferWrapper("nav", extra, "f4")
    aux.set_buffer(np.zeros((*given, *extra), dtype="f4"))
    with pytest.raises(ValueError, match=r"scan has \(3, 4\): give it in this shape, or flat"):
        aux.set_roi(DS, None)
