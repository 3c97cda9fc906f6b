"""Which part of a result is valid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "ArrayWithMask",
    "InvalidMaskError",
    "default_mask",
    "embed",
    "get_bbox",
    "get_bbox_2d",
    "get_bbox_slice",
    "get_inner_slice",
]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class InvalidMaskError(ValueError):
    """A mask of valid results has a wrong shape or is not bool."""


def get_inner_slice(arr: BoolArray, axis: int = 0) -> tuple[slice, ...]:
    """Return the first contiguous run along `axis` in which all entries are True, whole along the other axes.

    Examples
    --------
    >>> valid = np.array([[False, True], [True, True], [True, True], [False, False]])
    >>> get_inner_slice(valid)
    (slice(1, 3, None), slice(0, 2, None))
    """
    others = tuple(i for i in range(arr.ndim) if i != axis)
    complete = np.flatnonzero(arr.all(axis=others))
    if len(complete):
        breaks = np.flatnonzero(np.diff(complete) != 1)
        last = complete[breaks[0]] if len(breaks) else complete[-1]
        run = slice(int(complete[0]), int(last) + 1)
    else:
        run = slice(0, 0)
    return tuple(run if i == axis else slice(0, arr.shape[i]) for i in range(arr.ndim))


def get_bbox_slice(arr: BoolArray) -> tuple[slice, ...]:
    """Return the smallest box that holds all True entries; empty when there is none.

    Examples
    --------
    >>> valid = np.zeros((4, 5), dtype=bool)
    >>> valid[1, 2] = valid[2, 3] = True
    >>> get_bbox_slice(valid)
    (slice(1, 3, None), slice(2, 4, None))
    """
    if not arr.any():
        return (slice(0, 0),) * arr.ndim
    where = np.nonzero(arr)
    return tuple(slice(int(w.min()), int(w.max()) + 1) for w in where)


def get_bbox(arr: BoolArray) -> tuple[int, ...]:
    """Return first and last index along each axis, axis after axis, of the smallest box that holds all True entries.

    When there is none, the first index is the size of the axis, and the last 0.
    """
    if not arr.any():
        return tuple(n for size in arr.shape for n in (size, 0))
    return tuple(n for part in get_bbox_slice(arr) for n in (part.start, part.stop - 1))


def get_bbox_2d(arr: BoolArray) -> tuple[int, int, int, int]:
    """Return first and last row, first and last column of the smallest rectangle that holds all True entries.

    Raises
    ------
    ValueError
        When `arr` does not have two axes.
    """
    if arr.ndim != 2:
        msg = f"a rectangle needs two axes, this array has the shape {arr.shape}"
        raise ValueError(msg)
    top, bottom, left, right = get_bbox(arr)
    return top, bottom, left, right


def embed(values: Array, roi: BoolArray | None, nav: tuple[int, ...], fill: Any) -> Array:
    """Return entries of selected positions in an array of the shape of the scan.

    Parameters
    ----------
    values
        An entry for each selected position, of shape ``(n, *entry)``.
    roi
        Selected positions, bool, flat or of the shape of the scan; None for all: then it is a view of `values`.
    nav
        Shape of the scan.
    fill
        What the other positions get.

    Examples
    --------
    >>> embed(np.array([3, 4]), np.array([False, True, True, False]), (2, 2), fill=0)
    array([[0, 3],
           [4, 0]])
    """
    entry = values.shape[1:]
    if roi is not None:
        full = np.full((math.prod(nav), *entry), fill, dtype=values.dtype)
        full[np.asarray(roi, dtype=bool).reshape(-1)] = values
        values = full
    return values.reshape(nav + entry)


def default_mask(
    merged: BoolArray, nav: tuple[int, ...], extra_shape: tuple[int, ...], roi: BoolArray | None
) -> BoolArray:
    """Return which entries of a nav result are valid when its UDF does not say: those of positions that are merged.

    Parameters
    ----------
    merged
        bool over the flat scan, or over the selected positions when `roi` is given.
    nav
        Shape of the scan.
    extra_shape
        Shape of an entry.
    roi
        Selected positions, bool, flat or of the shape of the scan; None for all.

    Returns
    -------
    numpy.ndarray
        bool, of shape ``(*nav, *extra_shape)``.
    """
    full = embed(np.asarray(merged, dtype=bool).reshape(-1), roi, nav, fill=False)
    return np.broadcast_to(full.reshape(nav + (1,) * len(extra_shape)), nav + extra_shape)


class ArrayWithMask:
    """A result together with what of it is valid.

    Parameters
    ----------
    arr
        The result.
    mask
        bool, True where valid; broadcast to the shape of `arr`.

    Raises
    ------
    InvalidMaskError
        When the mask is not bool or cannot be broadcast.

    Examples
    --------
    >>> result = ArrayWithMask(np.array([1.0, 0.0, 3.0]), mask=np.array([True, False, True]))
    >>> result.arr[result.mask]
    array([1., 3.])
    """

    __slots__ = ("_arr", "_mask")

    def __init__(self, arr: Array, mask: BoolArray | bool) -> None:
        as_array = np.asarray(mask)
        if as_array.dtype != bool:
            msg = f"a mask of valid results must be bool, got {as_array.dtype}"
            raise InvalidMaskError(msg)
        try:
            self._mask = np.broadcast_to(as_array, arr.shape)
        except ValueError:
            msg = f"a mask of shape {as_array.shape} does not fit a result of shape {arr.shape}"
            raise InvalidMaskError(msg) from None
        self._arr = arr

    @property
    def arr(self) -> Array:
        """The result."""
        return self._arr

    @property
    def mask(self) -> BoolArray:
        """True where the result is valid; same shape as the result."""
        return self._mask
