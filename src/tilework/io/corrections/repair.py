"""Excluded pixels: where they are, and which of their neighbours replace them.

A pixel that is dead, hot, or missing is replaced by the mean of its neighbours: of the up to ``3**d - 1`` pixels that
touch it (8 on a detector with two axes), those inside of the image that are not excluded themselves. That is bilinear
interpolation for a single pixel, and the nearest thing to it in a group.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.sparse import is_sparse, sparse_to_coo
from tilework.exceptions import RepairValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["RepairDescriptor", "excluded_coordinates", "repair"]

_repair_rows = Kernel("tilework.io.corrections.detector_numba", "repair_rows")


def excluded_coordinates(excluded_pixels: Any, sig_shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return where the excluded pixels are, int64 of shape ``(sig_dims, n)``, each once, in C order.

    Parameters
    ----------
    excluded_pixels
        A map of shape `sig_shape`, bool or sparse, that is True (not 0) where a pixel is excluded; or coordinates of
        shape ``(sig_dims, n)``, as `numpy.nonzero` returns them.
    sig_shape
        Shape of the detector.

    Raises
    ------
    ValueError
        When it is neither, or a pixel lies outside of the detector.

    Examples
    --------
    >>> dead = np.zeros((4, 4), dtype=bool)
    >>> dead[1, 2] = dead[3, 0] = True
    >>> excluded_coordinates(dead, (4, 4))
    array([[1, 3],
           [2, 0]])
    """
    if is_sparse(excluded_pixels):
        _check_map_shape(tuple(int(s) for s in excluded_pixels.shape), sig_shape)
        coo = sparse_to_coo(excluded_pixels)
        if coo.fill_value:
            return excluded_coordinates(coo.todense(), sig_shape)
        coords = coo.coords[:, np.asarray(coo.data, dtype=bool)]
    else:
        given = np.asarray(excluded_pixels)
        if given.dtype.kind == "b":
            _check_map_shape(given.shape, sig_shape)
            return np.array(np.nonzero(given), dtype=np.int64)
        if given.size == 0:
            return np.zeros((len(sig_shape), 0), dtype=np.int64)
        if given.ndim != 2 or given.shape[0] != len(sig_shape) or given.dtype.kind not in "iu":
            msg = (
                f"excluded pixels of shape {given.shape} and dtype {given.dtype} are neither a bool map of the "
                f"detector's shape {sig_shape} nor integer coordinates of shape ({len(sig_shape)}, n)"
            )
            raise ValueError(msg)
        coords = given
    coords = coords.astype(np.int64)
    outside = np.any((coords < 0) | (coords >= np.array(sig_shape)[:, np.newaxis]), axis=0)
    if outside.any():
        msg = f"excluded pixel {tuple(coords[:, outside][:, 0].tolist())} lies outside of a detector of {sig_shape}"
        raise ValueError(msg)
    flat = np.unique(np.ravel_multi_index(tuple(coords), sig_shape))
    return np.array(np.unravel_index(flat, sig_shape), dtype=np.int64)


def _check_map_shape(shape: tuple[int, ...], sig_shape: tuple[int, ...]) -> None:
    if shape != sig_shape:
        msg = f"a map of excluded pixels must have the shape of the detector, {sig_shape}, this has {shape}"
        raise ValueError(msg)


class RepairDescriptor:
    """Which pixels are replaced, and by the mean of which others.

    Parameters
    ----------
    sig_shape
        Shape of the detector, or of the part of it that is repaired.
    excluded_pixels
        A bool or sparse map of that shape, or coordinates of shape ``(sig_dims, n)``; None: there are none.
    allow_empty
        True: a pixel without any usable neighbour stays as it is.

    Attributes
    ----------
    exclude_flat : int64, (n,)
        Flat indices of the pixels that are replaced.
    repair_flat : int64, (n, 3**d - 1)
        For each, flat indices of its usable neighbours, followed by zeros that mean nothing.
    repair_counts : int64, (n,)
        For each, how many usable neighbours there are.

    Raises
    ------
    RepairValueError
        When a pixel has no usable neighbour, unless `allow_empty`.
    ValueError
        When the excluded pixels do not fit the detector.

    Examples
    --------
    >>> descriptor = RepairDescriptor((3, 3), excluded_pixels=np.array([[1], [1]]))
    >>> descriptor.exclude_flat, descriptor.repair_flat
    (array([4]), array([[0, 1, 2, 3, 5, 6, 7, 8]]))
    """

    __slots__ = ("exclude_flat", "repair_counts", "repair_flat")

    def __init__(self, sig_shape: Sequence[int], excluded_pixels: Any = None, allow_empty: bool = False) -> None:
        shape = tuple(int(s) for s in sig_shape)
        coords = (
            np.zeros((len(shape), 0), dtype=np.int64)
            if excluded_pixels is None
            else excluded_coordinates(excluded_pixels, shape)
        )
        self.exclude_flat, self.repair_flat, self.repair_counts = _environments(coords, shape)
        empty = self.repair_counts == 0
        if empty.any() and not allow_empty:
            some = [tuple(int(c) for c in place) for place in coords[:, empty].T[:5]]
            more = f" and {np.count_nonzero(empty) - 5} more" if np.count_nonzero(empty) > 5 else ""
            msg = (
                f"no usable neighbour to repair excluded pixel {', '.join(map(str, some))}{more} from: exclude fewer "
                "pixels, or give allow_empty=True to leave such pixels as they are"
            )
            raise RepairValueError(msg)
        self.exclude_flat = self.exclude_flat[~empty]
        self.repair_flat = self.repair_flat[~empty]
        self.repair_counts = self.repair_counts[~empty]

    def __len__(self) -> int:
        return len(self.exclude_flat)


def _environments(
    coords: NDArray[np.int64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return flat indices of pixels, of their usable neighbours, and how many these are."""
    dims = len(shape)
    steps = np.array([s for s in itertools.product((-1, 0, 1), repeat=dims) if any(s)], dtype=np.int64).T
    around = coords[:, :, np.newaxis] + steps[:, np.newaxis, :]
    size = np.array(shape)[:, np.newaxis, np.newaxis]
    inside = np.all((around >= 0) & (around < size), axis=0)
    flat = np.asarray(np.ravel_multi_index(tuple(around), shape, mode="clip"), dtype=np.int64)
    excluded = np.zeros(math.prod(shape), dtype=bool)
    own = np.asarray(np.ravel_multi_index(tuple(coords), shape), dtype=np.int64)
    excluded[own] = True
    usable = inside & ~excluded[flat]
    first = np.argsort(~usable, axis=1, kind="stable")
    neighbours = np.where(np.take_along_axis(usable, first, axis=1), np.take_along_axis(flat, first, axis=1), 0)
    return own, np.ascontiguousarray(neighbours), np.count_nonzero(usable, axis=1).astype(np.int64)


def repair(frames: NDArray[Any], descriptor: RepairDescriptor, *, compiled: bool = False) -> None:
    """Replace excluded pixels in place. The bits are the same compiled or not.

    Parameters
    ----------
    frames
        Of shape ``(n, pixels)``, C-contiguous; floats or complex.
    descriptor
        What to replace by what.
    compiled
        Whether to use the compiled kernel, for real floats.

    Examples
    --------
    >>> frames = np.array([[1.0, 1.0, 1.0, 1.0, 1e6, 1.0, 1.0, 1.0, 1.0]])
    >>> repair(frames, RepairDescriptor((3, 3), excluded_pixels=np.array([[1], [1]])))
    >>> frames
    array([[1., 1., 1., 1., 1., 1., 1., 1., 1.]])
    """
    if not len(descriptor) or not frames.size:
        return
    if compiled and frames.dtype.str[1:] in {"f4", "f8"}:
        _repair_rows(frames, descriptor.exclude_flat, descriptor.repair_flat, descriptor.repair_counts)
        return
    counts = descriptor.repair_counts
    total = np.zeros((len(frames), len(counts)), dtype=np.result_type(frames.dtype, np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(int(counts.max())):
            has = counts > k
            total[:, has] += frames[:, descriptor.repair_flat[has, k]]
        frames[:, descriptor.exclude_flat] = total / counts
