"""Masks for virtual detectors: discs, rings, gradients, radial bins, templates.

Sizes and centres are in detector pixels, in the order x, y of the arguments; the masks themselves are arrays of shape
``(imageSizeY, imageSizeX)``. The centre of a pixel is at its integer coordinate.

With ``antialiased=True`` the value of a pixel at the border of a region goes linearly from 1 to 0 within one pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.sparse import is_sparse, to_dense, to_sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "background_subtraction",
    "balance",
    "bounding_radius",
    "circular",
    "gradient_x",
    "gradient_y",
    "is_sparse",
    "polar_map",
    "prefers_sparse",
    "radial_bins",
    "radial_fourier",
    "radial_gradient",
    "radial_gradient_background_subtraction",
    "rectangular",
    "ring",
    "sparse_circular_multi_stack",
    "sparse_template_multi_stack",
    "to_dense",
    "to_sparse",
]

# Radial bins are made sparse when the largest one covers less of the detector than this.
_SPARSE_BELOW = 0.1
# Fourier masks are made sparse when the stack has at least this many bytes, unless its rings are few and each covers
# more of the detector than this.
_LARGE_STACK = 2**18
_MANY_BINS = 10
_NARROW_BIN = 0.05


def _distances(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y and x relative to the centre, as column and row."""
    y, x = np.ogrid[:imageSizeY, :imageSizeX]
    return y - float(centerY), x - float(centerX)


def circular(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int, radius: float, antialiased: bool = False
) -> NDArray[Any]:
    """Return a disc: all pixels with a distance from the centre of at most `radius`.

    Returns
    -------
    numpy.ndarray
        bool, or float64 between 0 and 1 when antialiased; of shape ``(imageSizeY, imageSizeX)``.
    """
    if antialiased:
        bins = radial_bins(centerX, centerY, imageSizeX, imageSizeY, radius=radius, n_bins=1, use_sparse=False)
        return np.asarray(bins[0])
    y, x = _distances(centerX, centerY, imageSizeX, imageSizeY)
    if radius < 0:
        return np.zeros((imageSizeY, imageSizeX), dtype=bool)
    return np.asarray(x * x + y * y <= radius * radius)


# Users' programs know it under this name, too.
_make_circular_mask = circular


def ring(
    centerX: float,
    centerY: float,
    imageSizeX: int,
    imageSizeY: int,
    radius: float,
    radius_inner: float,
    antialiased: bool = False,
) -> NDArray[Any]:
    """Return a ring: a disc of `radius` without the disc of `radius_inner`.

    Returns
    -------
    numpy.ndarray
        bool, or float64 between 0 and 1 when antialiased; of shape ``(imageSizeY, imageSizeX)``.
    """
    if antialiased:
        bins = radial_bins(centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, n_bins=1, use_sparse=False)
        return np.asarray(bins[0])
    outer = circular(centerX, centerY, imageSizeX, imageSizeY, radius)
    return np.asarray(outer & ~circular(centerX, centerY, imageSizeX, imageSizeY, radius_inner))


def radial_gradient(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int, radius: float, antialiased: bool = False
) -> NDArray[np.float64]:
    """Return a disc that rises linearly from 0 in the centre to 1 at `radius`; float64."""
    y, x = _distances(centerX, centerY, imageSizeX, imageSizeY)
    disc = circular(centerX, centerY, imageSizeX, imageSizeY, radius, antialiased)
    if radius <= 0:
        return np.zeros((imageSizeY, imageSizeX))
    return np.asarray(disc * np.minimum(np.hypot(y, x) / radius, 1.0))


def radial_gradient_background_subtraction(
    r: NDArray[Any], r0: float, r_outer: float, delta: float = 1
) -> NDArray[np.float64]:
    """Return a radial profile that finds discs on a background.

    It rises from 0 at the centre to 1 near `r0`, falls linearly to -1 within `delta` around `r0`, stays there up to
    `r_outer`, and is 0 beyond.

    Parameters
    ----------
    r
        Distance from the centre, as from `polar_map`, in pixels.
    r0
        Radius of the disc.
    r_outer
        Outer radius of the background.
    delta
        Width of the transition.
    """
    r = np.asarray(r, dtype=np.float64)
    result = np.where(r <= r_outer, -1.0, 0.0)
    inside = r < r0 - delta / 2
    result[inside] = r[inside] / r0
    edge = ~inside & (r < r0 + delta / 2)
    if delta > 0:
        result[edge] = 2 * (r0 - r[edge]) / delta
    return result


def background_subtraction(
    centerX: float,
    centerY: float,
    imageSizeX: int,
    imageSizeY: int,
    radius: float,
    radius_inner: float,
    antialiased: bool = False,
) -> NDArray[np.float64]:
    """Return a disc of `radius_inner` with a negative ring around it up to `radius`; float64, its sum is 0."""
    disc = circular(centerX, centerY, imageSizeX, imageSizeY, radius_inner, antialiased)
    around = ring(centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, antialiased)
    total = float(around.sum())
    return np.asarray(disc - around * (float(disc.sum()) / total if total else 0.0), dtype=np.float64)


def balance(template: NDArray[Any]) -> NDArray[Any]:
    """Return `template` with its negative values scaled so that its sum is 0; as it is when nothing is negative.

    Returns
    -------
    numpy.ndarray
        In the dtype of the template when that is a float, else float64.
    """
    template = np.asarray(template)
    result = template.astype(template.dtype if template.dtype.kind == "f" else np.float64)
    negative = result < 0
    below = result[negative].sum()
    if below:
        result[negative] *= -result[~negative].sum() / below
    return result


def bounding_radius(centerX: float, centerY: float, imageSizeX: int, imageSizeY: int) -> int:
    """Return a radius, in whole pixels, of a disc that covers the whole detector."""
    far_y = max(abs(centerY), abs(imageSizeY - centerY))
    far_x = max(abs(centerX), abs(imageSizeX - centerX))
    return math.ceil(math.hypot(far_y, far_x)) + 1


def polar_map(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int, stretchY: float = 1.0, angle: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return polar coordinates of all pixels; for an ellipse, coordinates in which it is a circle.

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    stretchY
        Length of the ellipse's second axis relative to the first.
    angle
        Angle of its first axis from x towards y, in rad.

    Returns
    -------
    r, phi
        Distance in pixels, and angle in rad between -pi and pi; float64 of shape ``(imageSizeY, imageSizeX)``.
    """
    y, x = _distances(centerX, centerY, imageSizeX, imageSizeY)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = (y * math.cos(angle) - x * math.sin(angle)) / stretchY
    return np.hypot(along, across), np.arctan2(across, along)


def radial_bins(
    centerX: float,
    centerY: float,
    imageSizeX: int,
    imageSizeY: int,
    radius: float | None = None,
    radius_inner: float = 0,
    n_bins: int | None = None,
    normalize: bool = False,
    use_sparse: bool | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """Return a stack of adjacent antialiased rings of equal width.

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    radius
        Outer radius of the last ring; default: `bounding_radius`.
    radius_inner
        Inner radius of the first ring; at 0 it is a disc.
    n_bins
        Number of rings; default: so that they are one pixel wide.
    normalize
        Make the sum of each ring 1.
    use_sparse
        Whether to return a sparse stack; default: when the rings are small compared with the detector.
    dtype
        dtype of the result; default float64.

    Returns
    -------
    numpy.ndarray or sparse.COO
        Of shape ``(n_bins, imageSizeY, imageSizeX)``.
    """
    if radius is None:
        radius = bounding_radius(centerX, centerY, imageSizeX, imageSizeY)
    if n_bins is None:
        n_bins = max(1, round(radius - radius_inner))
    y, x = _distances(centerX, centerY, imageSizeX, imageSizeY)
    r = np.hypot(y, x)
    width = (radius - radius_inner) / n_bins
    if use_sparse is None:
        largest = math.pi * (radius**2 - max(0.0, radius - width) ** 2)
        use_sparse = largest < _SPARSE_BELOW * imageSizeX * imageSizeY
    bins = []
    for i in range(n_bins):
        values = np.clip(width / 2 + 0.5 - np.abs(r - (radius_inner + (i + 0.5) * width)), 0.0, 1.0)
        middle_y, middle_x = round(centerY), round(centerX)
        if i == 0 and radius_inner == 0 and 0 <= middle_y < imageSizeY and 0 <= middle_x < imageSizeX:
            # The first ring has no inner border, so the pixel in the centre of it is covered.
            values[middle_y, middle_x] = 1.0
        total = values.sum()
        if normalize and total:
            values /= total
        values = values.astype(dtype or np.float64, copy=False)
        bins.append(to_sparse(values) if use_sparse else values)
    if use_sparse:
        import sparse

        return sparse.stack(bins)
    return np.stack(bins)


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


def rectangular(X: float, Y: float, Width: float, Height: float, imageSizeX: int, imageSizeY: int) -> NDArray[np.bool_]:
    """Return a rectangle from (X, Y) to (X + Width, Y + Height), all borders included; bool.

    Borders between pixels are truncated to whole pixels. Width and height may be negative; when one of them is 0, the
    rectangle is empty.
    """
    y, x = np.ogrid[:imageSizeY, :imageSizeX]
    if Width == 0 or Height == 0:
        return np.zeros((imageSizeY, imageSizeX), dtype=bool)
    left, right = sorted((int(X), int(X + Width)))
    top, bottom = sorted((int(Y), int(Y + Height)))
    return np.asarray((x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def gradient_x(imageSizeX: int, imageSizeY: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return the x coordinate of all pixels."""
    return np.tile(np.arange(imageSizeX, dtype=dtype), (imageSizeY, 1))


def gradient_y(imageSizeX: int, imageSizeY: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return the y coordinate of all pixels."""
    return np.ascontiguousarray(gradient_x(imageSizeY, imageSizeX, dtype).T)


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
    """
    half = math.ceil(radius)
    size = 2 * half + 1
    disc = circular(half, half, size, size, radius)
    offset_x, offset_y = (np.asarray(c).astype(np.int64) - half for c in (centerX, centerY))
    return sparse_template_multi_stack(mask_index, offset_x, offset_y, disc, imageSizeX, imageSizeY)
