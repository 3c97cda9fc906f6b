"""Stacks of masks: Fourier masks of rings, copies of a template; see `tilework.common.masks` for the arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.masks import bounding_radius, circular, polar_map, radial_bins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "prefers_sparse",
    "radial_fourier",
    "sparse_circular_multi_stack",
    "sparse_template_multi_stack",
]

# Fourier masks are made sparse when the stack has at least this many bytes, unless its rings are few and each covers
# more of the detector than this.
_LARGE_STACK = 2**18
_MANY_BINS = 10
_NARROW_BIN = 0.05


def prefers_sparse(
    n_bins: int, orders: int, shape: tuple[int, int], radius_inner: float, radius: float, dtype: DTypeLike
) -> bool:
    """Return whether masks of `radial_fourier` are better sparse: the stack is large, and its rings are narrow."""
    height, width = shape
    size = n_bins * orders * height * width * np.dtype(dtype).itemsize
    area = math.pi * (radius**2 - radius_inner**2) / n_bins
    few_and_wide = n_bins < _MANY_BINS and area > _NARROW_BIN * height * width
    return size >= _LARGE_STACK and not few_and_wide


def radial_fourier(
    centerX: float,
    centerY: float,
    imageSizeX: int,
    imageSizeY: int,
    radius: float | None = None,
    radius_inner: float = 0,
    n_bins: int = 1,
    max_order: int = 24,
    use_sparse: bool | None = None,
    dtype: DTypeLike = np.complex64,
) -> Any:
    """Return masks that give the Fourier coefficients of rings along their circumference.

    Each mask is a ring of `radial_bins` times ``exp(1j * order * phi)``, with phi from `polar_map`. Coefficient 0 is
    the sum over the ring; the absolute value of coefficient n, relative to it, says how strong an n-fold symmetry is.
    That is used for the structure of glasses, for example: P. Wochner et al., "X-ray cross correlation analysis
    uncovers hidden local symmetries in disordered matter", PNAS 106, 11511 (2009).

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, n_bins
        The rings, as of `radial_bins`.
    max_order
        The highest order.
    use_sparse
        Whether to return a sparse stack; default: when the stack is large and its rings are narrow.
    dtype
        dtype of the result.

    Returns
    -------
    numpy.ndarray or sparse.COO
        Of shape ``(n_bins * (max_order + 1), imageSizeY, imageSizeX)``: all orders of the first ring, then of the next.

    Examples
    --------
    >>> masks = radial_fourier(16, 16, 32, 32, radius=12, radius_inner=8, max_order=6)
    >>> masks.shape
    (7, 32, 32)
    """
    if radius is None:
        radius = bounding_radius(centerX, centerY, imageSizeX, imageSizeY)
    orders = max_order + 1
    if use_sparse is None:
        use_sparse = prefers_sparse(n_bins, orders, (imageSizeY, imageSizeX), radius_inner, radius, dtype)
    bins = radial_bins(
        centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, n_bins=n_bins, use_sparse=use_sparse
    )
    _, phi = polar_map(centerX, centerY, imageSizeX, imageSizeY)
    waves = np.exp(1j * np.arange(orders)[:, np.newaxis, np.newaxis] * phi)
    shape = (n_bins * orders, imageSizeY, imageSizeX)
    if not use_sparse:
        return (bins[:, np.newaxis] * waves).reshape(shape).astype(dtype)
    import sparse

    ring_of, y, x = bins.coords
    coords = np.stack(
        [
            (ring_of * orders + np.arange(orders)[:, np.newaxis]).reshape(-1),
            np.tile(y, orders),
            np.tile(x, orders),
        ]
    )
    return sparse.COO(coords, data=(bins.data * waves[:, y, x]).reshape(-1).astype(dtype), shape=shape)


def sparse_template_multi_stack(
    mask_index: Sequence[int] | NDArray[Any],
    offsetX: Sequence[int] | NDArray[Any],
    offsetY: Sequence[int] | NDArray[Any],
    template: NDArray[Any],
    imageSizeX: int,
    imageSizeY: int,
) -> Any:
    """Return a sparse stack of masks with copies of one template.

    Parameters
    ----------
    mask_index
        For each copy, which mask it goes into. Copies in the same mask add up where they overlap.
    offsetX, offsetY
        For each copy, where the first pixel of the template comes to lie; what is outside of the detector is cut off.
    template
        The template, of shape ``(y, x)``.
    imageSizeX, imageSizeY
        Size of the detector.

    Returns
    -------
    sparse.COO
        Of shape ``(max(mask_index) + 1, imageSizeY, imageSizeX)``, with the dtype of the template.

    Examples
    --------
    >>> cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    >>> stack = sparse_template_multi_stack([0, 1], [0, 3], [0, 4], cross, 8, 8)
    >>> stack.shape, stack.todense()[1, 5]
    ((2, 8, 8), array([0, 0, 0, 1, 1, 1, 0, 0]))
    """
    import sparse

    index = np.asarray(mask_index, dtype=np.int64)
    template = np.asarray(template)
    place_y, place_x = np.nonzero(template)
    n_pixels = len(place_y)
    y = (np.asarray(offsetY, dtype=np.int64)[:, np.newaxis] + place_y).reshape(-1)
    x = (np.asarray(offsetX, dtype=np.int64)[:, np.newaxis] + place_x).reshape(-1)
    masks = np.repeat(index, n_pixels)
    values = np.tile(template[place_y, place_x], len(index))
    inside = (y >= 0) & (y < imageSizeY) & (x >= 0) & (x < imageSizeX)
    coords = np.stack([masks, y, x])[:, inside]
    shape = (int(index.max()) + 1 if len(index) else 0, imageSizeY, imageSizeX)
    return sparse.COO(coords, data=values[inside], shape=shape)


def sparse_circular_multi_stack(
    mask_index: Sequence[int] | NDArray[Any],
    centerX: Sequence[float] | NDArray[Any],
    centerY: Sequence[float] | NDArray[Any],
    imageSizeX: int,
    imageSizeY: int,
    radius: float,
) -> Any:
    """Return a sparse stack of masks with discs of one radius, as `sparse_template_multi_stack`; bool.

    Centres are truncated to whole pixels.

    Parameters
    ----------
    mask_index
        For each disc, which mask it goes into.
    centerX, centerY
        For each disc, its centre in pixels.
    imageSizeX, imageSizeY
        Size of the detector, in pixels.
    radius
        Of all discs, in pixels.

    Returns
    -------
    sparse.COO
        bool, of shape ``(max(mask_index) + 1, imageSizeY, imageSizeX)``.

    Examples
    --------
    >>> masks = sparse_circular_multi_stack([0, 0, 1], [4, 12, 8], [4, 12, 8], 17, 17, radius=2)
    >>> masks.shape, masks.todense().sum(axis=(1, 2))
    ((2, 17, 17), array([26, 13]))
    """
    half = math.ceil(radius)
    size = 2 * half + 1
    disc = circular(half, half, size, size, radius)
    offset_x, offset_y = (np.asarray(c).astype(np.int64) - half for c in (centerX, centerY))
    return sparse_template_multi_stack(mask_index, offset_x, offset_y, disc, imageSizeX, imageSizeY)
