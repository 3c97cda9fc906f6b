"""Regions of interest: which positions of the scan are processed."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterable
from math import prod
from operator import index
from typing import Any

import numpy as np

from tilework.common.callers import outside_level

__all__ = ["RoiT", "normalize_roi", "parse_coordinates"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
# A bool array, a sparse array, one coordinate, or pairs of a coordinate and whether it is selected.
RoiT = Any


def normalize_roi(roi: RoiT, nav_shape: tuple[int, ...]) -> BoolArray | None:
    """Return a region of interest as a bool array of nav shape, a copy; None stays None.

    Parameters
    ----------
    roi
        A bool array (other numbers are converted, with a warning), of NumPy or another package, a sparse array or
        matrix, a coordinate such as ``(y, x)``, or an iterable of ``((y, x), selected)`` in which all are selected or
        all are left out. An array has the shape of the scan, or is flat; one with as many elements in other axes is
        taken as flat, with a warning. What a masked array masks out is not selected.
    nav_shape
        Shape of the scan.

    Raises
    ------
    ValueError
        When it does not fit the scan, or cannot be understood.

    Examples
    --------
    >>> normalize_roi((1, 2), (2, 3)).astype(int)
    array([[0, 0, 0],
           [0, 0, 1]])
    >>> normalize_roi([((0, 0), False), ((1, 1), False)], (2, 3)).astype(int)
    array([[0, 1, 1],
           [1, 0, 1]])
    """
    if roi is None:
        return None
    if isinstance(roi, np.ndarray):
        # Whatever lies under the mask, such as what a comparison made of positions that were never computed.
        mask = roi.filled(0) if isinstance(roi, np.ma.MaskedArray) else roi
    elif hasattr(roi, "toarray") or hasattr(roi, "todense"):
        mask = np.asarray(roi.toarray() if hasattr(roi, "toarray") else roi.todense())
    elif hasattr(roi, "__array__") and not isinstance(roi, np.generic):
        mask = np.asarray(roi)  # arrays of other packages, such as Dask and xarray, and results
    else:
        coordinates, selected = parse_coordinates(roi, nav_shape)
        mask = np.full(nav_shape, not selected)
        for coordinate in coordinates:
            mask[coordinate] = selected
    if mask.size != prod(nav_shape):
        msg = (
            f"roi: incompatible shapes: the scan has shape {nav_shape}, the roi {mask.shape}; "
            "make one with dataset.roi[...] or numpy.zeros(tuple(dataset.shape.nav), dtype=bool)"
        )
        raise ValueError(msg)
    if not _is_flat_or_shaped(mask.shape, nav_shape):
        msg = f"the roi has shape {mask.shape}, the scan {nav_shape}: its elements are taken one after the other"
        turned = "give roi.T if its axes are swapped, " if mask.shape[::-1] == nav_shape else ""
        warnings.warn(f"{msg}; {turned}roi.reshape(-1) if that is meant", stacklevel=outside_level())
    if mask.dtype.kind in "SU":
        msg = (
            f"roi: it holds text ({mask.dtype}), of which every one would be selected: give a comparison, roi == 'True'"
        )
        raise ValueError(msg)
    if mask.dtype != bool:
        # What a result has outside of the region that it was computed for.
        also = ", those with NaN as well" if mask.dtype.kind in "fc" and np.isnan(mask).any() else ""
        msg = f"the roi is not bool but {mask.dtype}: positions that are not 0 are selected{also}"
        warnings.warn(msg, stacklevel=outside_level())
    # Subclasses of arrays may be indexed in their own way: a matrix, as of SciPy's `todense`, is never flat.
    return np.array(mask, dtype=bool).reshape(nav_shape)


def _is_flat_or_shaped(shape: tuple[int, ...], nav_shape: tuple[int, ...]) -> bool:
    """Return whether a mask is that of the scan, or flat: axes of length 1 do not count."""
    long = [n for n in shape if n != 1]
    return len(long) <= 1 or long == [n for n in nav_shape if n != 1]


def parse_coordinates(roi: Any, nav_shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], bool]:
    """Return the coordinates that describe a region of interest, and whether they are selected or left out.

    Parameters
    ----------
    roi
        One coordinate, which is selected, or pairs of a coordinate and whether it is; none at all selects nothing.
        Negative numbers count from the end of an axis.
    nav_shape
        Shape of the scan.

    Raises
    ------
    ValueError
        When it is something else, some are selected and others left out, or one is not within the scan.
    """
    items = list(roi) if isinstance(roi, Iterable) else [roi]
    if items and all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in items):
        items = [(items, True)]
    try:
        pairs = [(tuple(map(index, coordinate)), bool(selected)) for coordinate, selected in items]
    except (TypeError, ValueError) as e:
        msg = (
            f"roi: cannot understand {reprlib.repr(roi)}: give a bool array of the shape of the scan, {nav_shape}, "
            "one coordinate (y, x), or a list of ((y, x), selected)"
        )
        raise ValueError(msg) from e
    values = {selected for _, selected in pairs}
    if len(values) > 1:
        msg = f"roi: coordinates must all be selected or all be left out, this does both: {reprlib.repr(roi)}"
        raise ValueError(msg)
    for coordinate, _ in pairs:
        if len(coordinate) != len(nav_shape):
            msg = f"roi: the coordinate {coordinate} does not have the {len(nav_shape)} axes of the scan {nav_shape}"
            raise ValueError(msg)
        if any(not -n <= c < n for c, n in zip(coordinate, nav_shape, strict=True)):
            msg = f"roi: the coordinate {coordinate} is not within the scan of shape {nav_shape}"
            raise ValueError(msg)
    coordinates = [tuple(c % n for c, n in zip(coordinate, nav_shape, strict=True)) for coordinate, _ in pairs]
    return coordinates, values != {False}
