"""Regions of interest: which positions of the scan are processed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from tilework.common.math import prod

__all__ = ["RoiT", "normalize_roi"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
# A bool array, a sparse array, one coordinate, or pairs of a coordinate and whether it is selected.
RoiT = Any


def normalize_roi(roi: RoiT, nav_shape: tuple[int, ...]) -> BoolArray | None:
    """Return a region of interest as a bool array of nav shape, a copy; None stays None.

    Parameters
    ----------
    roi
        A bool array (another dtype is converted, with a warning), a sparse array or matrix, a coordinate such as
        ``(y, x)``, or an iterable of ``((y, x), selected)`` in which all are selected or all are left out.
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
        mask = roi
    elif hasattr(roi, "toarray") or hasattr(roi, "todense"):
        mask = np.asarray(roi.toarray() if hasattr(roi, "toarray") else roi.todense())
    else:
        mask = _from_coordinates(roi, nav_shape)
    if mask.size != prod(nav_shape):
        msg = (
            f"roi: incompatible shapes: the scan has shape {nav_shape}, the roi {mask.shape}; "
            "make one with dataset.roi[...] or numpy.zeros(tuple(dataset.shape.nav), dtype=bool)"
        )
        raise ValueError(msg)
    if mask.dtype != bool:
        warnings.warn(f"the roi is not bool but {mask.dtype}: positions that are not 0 are selected", stacklevel=3)
    return mask.astype(bool, copy=True).reshape(nav_shape)


def _from_coordinates(roi: Any, nav_shape: tuple[int, ...]) -> BoolArray:
    if not isinstance(roi, Iterable):
        msg = f"roi: cannot understand {roi!r}: give a bool array of shape {nav_shape}, or a coordinate of the scan"
        raise ValueError(msg)
    items = list(roi)
    if items and all(isinstance(i, int | np.integer) for i in items):
        items = [(tuple(items), True)]
    try:
        pairs = [(tuple(int(c) for c in coordinate), bool(selected)) for coordinate, selected in items]
    except (TypeError, ValueError) as e:
        msg = f"roi: coordinates must be pairs ((y, x), selected) within the scan of shape {nav_shape}, got {roi!r}"
        raise ValueError(msg) from e
    if len({selected for _, selected in pairs}) > 1:
        msg = "roi: coordinates must all be selected or all be left out, got both"
        raise ValueError(msg)
    mask = np.full(nav_shape, bool(pairs) and not pairs[0][1])
    for coordinate, selected in pairs:
        if len(coordinate) != len(nav_shape):
            msg = f"roi: the coordinate {coordinate} does not have the {len(nav_shape)} axes of the scan {nav_shape}"
            raise ValueError(msg)
        try:
            mask[coordinate] = selected
        except IndexError as e:
            msg = f"roi: the coordinate {coordinate} is not within the scan of shape {nav_shape}"
            raise ValueError(msg) from e
    return mask
