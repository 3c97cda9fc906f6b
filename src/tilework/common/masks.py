"""Masks for virtual detectors: discs, rings, gradients, radial bins; more stacks are in `mask_stacks`.

Sizes and centres are in detector pixels, in the order x, y of the arguments; the masks themselves are arrays of shape
``(imageSizeY, imageSizeX)``. The centre of a pixel is at its integer coordinate.

With ``antialiased=True`` the value of a pixel at the border of a region goes linearly from 1 to 0 within one pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.math import is_real_scalar
from tilework.common.sparse import to_sparse

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "background_subtraction",
    "balance",
    "bounding_radius",
    "check_radii",
    "circular",
    "gradient_x",
    "gradient_y",
    "polar_map",
    "radial_bins",
    "radial_gradient",
    "radial_gradient_background_subtraction",
    "rectangular",
    "ring",
]

# Radial bins are made sparse when the largest one covers less of the detector than this.
_SPARSE_BELOW = 0.1


def check_radii(*, has_soft_rims: bool = False, **radii: Any) -> None:
    """Raise an error that names the radii unless they describe a disc, or a ring.

    Parameters
    ----------
    has_soft_rims
        Whether pixels count by the share that the ring covers of them: some do when it has no width.
    **radii
        The radius of a disc by the name of the parameter; or the inner and the outer radius of a ring, in this order.

    Raises
    ------
    ValueError
        When one is not a number, the (outer) radius is negative, or nothing lies between the two.
    """
    for name, radius in radii.items():
        if not is_real_scalar(radius) or np.isnan(radius):
            msg = f"{name} must be a number, it is {radius!r}"
            raise ValueError(msg)
    *inner, (outer_name, outer) = radii.items()
    if outer < 0:
        msg = f"the radius {outer_name}={outer} must not be negative"
        raise ValueError(msg)
    for name, radius in inner:
        if radius > outer or (radius == outer and not has_soft_rims):
            least = "not be larger" if has_soft_rims else "be smaller"
            msg = f"the inner radius {name}={radius} must {least} than the outer radius {outer_name}={outer}"
            raise ValueError(msg)


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

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    radius
        In pixels.
    antialiased
        Whether pixels at the rim get the share that the disc covers of them.

    Returns
    -------
    numpy.ndarray
        bool, or float64 between 0 and 1 when antialiased; of shape ``(imageSizeY, imageSizeX)``.

    Examples
    --------
    >>> circular(2, 2, 5, 5, radius=1.5).sum()
    np.int64(9)
    """
    if antialiased:
        bins = radial_bins(centerX, centerY, imageSizeX, imageSizeY, radius=radius, n_bins=1, use_sparse=False)
        return np.asarray(bins[0])
    return _between(centerX, centerY, imageSizeX, imageSizeY, radius, None)


def _between(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int, radius: float, radius_inner: float | None
) -> NDArray[np.bool_]:
    """Return a disc, or what it has more than another one inside."""
    y, x = _distances(centerX, centerY, imageSizeX, imageSizeY)
    selection = np.zeros((y.size, x.size), dtype=bool)  # sizes may be floats, as results of a division are
    if radius < 0:
        return selection
    box = _around(centerY, y.size, radius), _around(centerX, x.size, radius)
    y, x = y[box[0]], x[:, box[1]]
    square = x * x + y * y
    selection[box] = square <= radius * radius
    if radius_inner is not None and radius_inner >= 0:
        selection[box] &= ~(square <= radius_inner * radius_inner)
    return selection


def _around(center: float, size: int, radius: float) -> slice:
    """Return the pixels of an axis that can be as near to a centre as that; no others need be looked at."""
    first, last = center - radius, center + radius
    if not (math.isfinite(first) and math.isfinite(last)):
        return slice(0, size)
    return slice(min(max(math.floor(first), 0), size), min(max(math.ceil(last) + 1, 0), size))


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

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    radius, radius_inner
        In pixels.
    antialiased
        Whether pixels at both rims get the share that the ring covers of them.

    Returns
    -------
    numpy.ndarray
        bool, or float64 between 0 and 1 when antialiased; of shape ``(imageSizeY, imageSizeX)``.

    Examples
    --------
    >>> ring(2, 2, 5, 5, radius=1.5, radius_inner=0.5).astype(int)[1:4, 1:4]
    array([[1, 1, 1],
           [1, 0, 1],
           [1, 1, 1]])
    """
    if antialiased:
        bins = radial_bins(centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, n_bins=1, use_sparse=False)
        return np.asarray(bins[0])
    return _between(centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner)


def radial_gradient(
    centerX: float, centerY: float, imageSizeX: int, imageSizeY: int, radius: float, antialiased: bool = False
) -> NDArray[np.float64]:
    """Return a disc that rises linearly from 0 in the centre to 1 at `radius`; float64.

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    radius
        Radius of the disc, in pixels.
    antialiased
        As of `circular`.

    Returns
    -------
    numpy.ndarray
        float64, of shape ``(imageSizeY, imageSizeX)``; 0 beyond the disc.

    Examples
    --------
    >>> radial_gradient(4, 4, 9, 9, radius=4)[4]
    array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
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

    Returns
    -------
    numpy.ndarray
        float64, of the shape of `r`.

    Examples
    --------
    >>> radial_gradient_background_subtraction(np.array([0.0, 2.0, 6.0, 9.0]), r0=4, r_outer=8)
    array([ 0. ,  0.5, -1. ,  0. ])
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
    """Return a disc of `radius_inner` with a negative ring around it up to `radius`; float64, its sum is 0.

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.
    radius, radius_inner
        Outer radius of the ring and radius of the disc, in pixels.
    antialiased
        As of `circular`.

    Returns
    -------
    numpy.ndarray
        float64, of shape ``(imageSizeY, imageSizeX)``: 1 in the disc, negative in the ring, 0 beyond.

    Examples
    --------
    >>> mask = background_subtraction(8, 8, 17, 17, radius=5, radius_inner=3)
    >>> float(mask.max()), abs(float(mask.sum())) < 1e-12
    (1.0, True)
    """
    disc = circular(centerX, centerY, imageSizeX, imageSizeY, radius_inner, antialiased)
    around = ring(centerX, centerY, imageSizeX, imageSizeY, radius, radius_inner, antialiased)
    total = float(around.sum())
    return np.asarray(disc - around * (float(disc.sum()) / total if total else 0.0), dtype=np.float64)


def balance(template: NDArray[Any]) -> NDArray[Any]:
    """Return `template` with its negative values scaled so that its sum is 0; as it is when nothing is negative.

    Returns
    -------
    numpy.ndarray
        In the dtype of the template when that is a float or complex, else float64.

    Examples
    --------
    >>> balance(np.array([[1.0, 2.0, -1.0, -1.0]]))
    array([[ 1. ,  2. , -1.5, -1.5]])
    """
    template = np.asarray(template)
    result = template.astype(template.dtype if template.dtype.kind in "fc" else np.float64)
    negative = result < 0
    below = result[negative].sum()
    if below:
        result[negative] *= -result[~negative].sum() / below
    return result


def bounding_radius(centerX: float, centerY: float, imageSizeX: int, imageSizeY: int) -> int:
    """Return a radius, in whole pixels, of a disc that covers the whole detector.

    Parameters
    ----------
    centerX, centerY, imageSizeX, imageSizeY
        Centre and size of the detector, in pixels.

    Returns
    -------
    int
        In pixels.

    Examples
    --------
    >>> bounding_radius(16, 16, 32, 32)
    24
    """
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

    Examples
    --------
    >>> r, phi = polar_map(1, 1, 3, 3)
    >>> r[1], phi[2, 1] == np.pi / 2
    (array([1., 0., 1.]), np.True_)
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
        Outer radius of the last ring; default, and where it is infinite: `bounding_radius`.
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

    Examples
    --------
    >>> rings = radial_bins(8, 8, 17, 17, radius=6, n_bins=3, normalize=True, use_sparse=False)
    >>> rings.shape, rings.sum(axis=(1, 2)).round(6)
    ((3, 17, 17), array([1., 1., 1.]))
    """
    centerX, centerY = float(centerX), float(centerY)  # NumPy's arrays of one number cannot be rounded
    # Differences of infinities are no numbers; what covers the detector is the same there.
    whole = bounding_radius(centerX, centerY, imageSizeX, imageSizeY)
    radius = whole if radius is None or radius == math.inf else radius
    radius_inner = whole if radius_inner == math.inf else radius_inner
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
        if i == 0 and radius_inner < 0.5 and 0 <= middle_y < imageSizeY and 0 <= middle_x < imageSizeX:
            # Without a hole, the pixel in the centre is covered, where an inner border at 0 would halve it; a hole that
            # is smaller takes a part of it.
            values[middle_y, middle_x] = max(values[middle_y, middle_x], 1.0 - max(0.0, radius_inner))
        total = values.sum()
        if normalize and total:
            values /= total
        values = values.astype(dtype or np.float64, copy=False)
        bins.append(to_sparse(values) if use_sparse else values)
    if use_sparse:
        import sparse

        return sparse.stack(bins)
    return np.stack(bins)


def rectangular(X: float, Y: float, Width: float, Height: float, imageSizeX: int, imageSizeY: int) -> NDArray[np.bool_]:
    """Return a rectangle from (X, Y) to (X + Width, Y + Height), all borders included; bool.

    Borders between pixels are truncated to whole pixels. Width and height may be negative; when one of them is 0, the
    rectangle is empty.

    Parameters
    ----------
    X, Y, Width, Height
        A corner, and how far it is to the opposite one, in pixels.
    imageSizeX, imageSizeY
        Size of the detector, in pixels.

    Returns
    -------
    numpy.ndarray
        bool, of shape ``(imageSizeY, imageSizeX)``.

    Examples
    --------
    >>> rectangular(1, 0, 1, 1, 4, 3).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    y, x = np.ogrid[:imageSizeY, :imageSizeX]
    if Width == 0 or Height == 0:
        return np.zeros((imageSizeY, imageSizeX), dtype=bool)
    left, right = sorted((int(X), int(X + Width)))
    top, bottom = sorted((int(Y), int(Y + Height)))
    return np.asarray((x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def gradient_x(imageSizeX: int, imageSizeY: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return the x coordinate of all pixels.

    Parameters
    ----------
    imageSizeX, imageSizeY
        Size of the detector, in pixels.
    dtype
        dtype of the result.

    Returns
    -------
    numpy.ndarray
        Of shape ``(imageSizeY, imageSizeX)``, in pixels.

    Examples
    --------
    >>> gradient_x(3, 2)
    array([[0., 1., 2.],
           [0., 1., 2.]], dtype=float32)
    """
    return np.tile(np.arange(imageSizeX, dtype=dtype), (imageSizeY, 1))


def gradient_y(imageSizeX: int, imageSizeY: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return the y coordinate of all pixels.

    Parameters
    ----------
    imageSizeX, imageSizeY
        Size of the detector, in pixels.
    dtype
        dtype of the result.

    Returns
    -------
    numpy.ndarray
        Of shape ``(imageSizeY, imageSizeX)``, in pixels.

    Examples
    --------
    >>> gradient_y(3, 2)
    array([[0., 0., 0.],
           [1., 1., 1.]], dtype=float32)
    """
    return np.ascontiguousarray(gradient_x(imageSizeY, imageSizeX, dtype).T)
