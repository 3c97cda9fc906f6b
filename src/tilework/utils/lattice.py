"""Coordinates in frames: polar and Cartesian, rotated, and those of the points of a lattice.

Vectors are in the order (y, x), y pointing down; polar ones are (r, phi) with phi in rad from x towards y. A positive
rotation is clockwise in a frame as it is shown, with y pointing down: it turns (1, 0), which points down, into (0, -1),
which points left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "calc_coords",
    "frame_peaks",
    "make_cartesian",
    "make_polar",
    "regularize_indices",
    "rotate_deg",
    "rotate_precalc",
    "rotate_rad",
    "within_frame",
]

Points = np.ndarray[Any, np.dtype[np.float64]]


def _vectors(name: str, given: ArrayLike) -> Points:
    vectors = np.asarray(given, dtype=np.float64)
    if vectors.shape[-1:] != (2,):
        msg = f"{name} must hold vectors of two numbers each, of shape (..., 2), it has the shape {vectors.shape}"
        raise ValueError(msg)
    return vectors


def make_cartesian(polar: ArrayLike) -> Points:
    """Return (r, phi), arrays of shape ``(..., 2)``, as (y, x).

    Raises
    ------
    ValueError
        When the array has another shape.
    """
    r, phi = np.moveaxis(_vectors("polar", polar), -1, 0)
    return np.stack([r * np.sin(phi), r * np.cos(phi)], axis=-1)


def make_polar(cartesian: ArrayLike) -> Points:
    """Return (y, x), arrays of shape ``(..., 2)``, as (r, phi) with phi between -pi and pi.

    Raises
    ------
    ValueError
        When the array has another shape.

    Examples
    --------
    >>> make_polar([(0, 2), (3, 0)])  # right, down
    array([[2.        , 0.        ],
           [3.        , 1.57079633]])
    """
    y, x = np.moveaxis(_vectors("cartesian", cartesian), -1, 0)
    return np.stack([np.hypot(y, x), np.arctan2(y, x)], axis=-1)


def rotate_precalc(y: Any, x: Any, cos_angle: float, sin_angle: float) -> tuple[Any, Any]:
    """Return vectors rotated by an angle of which cosine and sine are given.

    Parameters
    ----------
    y, x
        Components, numbers or arrays.
    cos_angle, sin_angle
        Cosine and sine of the angle.

    Returns
    -------
    y, x
    """
    return y * cos_angle + x * sin_angle, x * cos_angle - y * sin_angle


def rotate_rad(y: Any, x: Any, radians: float) -> tuple[Any, Any]:
    """Return vectors rotated by an angle in rad, as y and x; see `rotate_precalc`."""
    return rotate_precalc(y, x, np.cos(radians), np.sin(radians))


def rotate_deg(y: Any, x: Any, degrees: float) -> tuple[Any, Any]:
    """Return vectors rotated by an angle in degrees, as y and x; see `rotate_precalc`."""
    return rotate_rad(y, x, np.deg2rad(degrees))


def regularize_indices(indices: ArrayLike) -> NDArray[Any]:
    """Return indices of lattice points as a list of pairs, of shape ``(n, 2)``.

    Parameters
    ----------
    indices
        Pairs, of shape ``(n, 2)``, which are returned as they are; or two grids, of shape ``(2, n, m)`` as from
        ``numpy.mgrid``, of which the first index runs fastest in the result.

    Raises
    ------
    ValueError
        When they have another shape.
    """
    given = np.asarray(indices)
    if given.ndim == 2 and given.shape[1] == 2:
        return given
    if given.ndim == 3 and given.shape[0] == 2:
        return given.transpose(2, 1, 0).reshape(-1, 2)
    msg = f"Shape of indices is {given.shape}, expected (n, 2) or (2, n, m)"
    raise ValueError(msg)


def calc_coords(zero: ArrayLike, a: ArrayLike, b: ArrayLike, indices: ArrayLike) -> NDArray[Any]:
    """Return the positions of lattice points, ``zero + i * a + j * b``.

    Parameters
    ----------
    zero
        Position (y, x) of the point (0, 0).
    a, b
        Lattice vectors (y, x).
    indices
        Pairs (i, j), of shape ``(n, 2)``.

    Returns
    -------
    numpy.ndarray
        Of shape ``(n, 2)``; integers, fit to index a frame with, when the lattice and the indices are integers.

    Raises
    ------
    ValueError
        When `indices` are not pairs.

    Examples
    --------
    >>> calc_coords((16, 16), a=(5, 0), b=(0, 7.5), indices=[(0, 0), (1, 0), (-1, 2)])
    array([[16., 16.],
           [21., 16.],
           [11., 31.]])
    >>> calc_coords((16, 16), a=(5, 0), b=(0, 7), indices=[(1, 0)])
    array([[21, 16]])
    """
    pairs = np.asarray(indices)
    if pairs.shape[-1:] != (2,):
        msg = f"indices must be pairs, of shape (n, 2), they have the shape {pairs.shape}; see regularize_indices"
        raise ValueError(msg)
    points: NDArray[Any] = np.asarray(zero) + pairs @ np.array([a, b])
    return points


def within_frame(peaks: ArrayLike, r: float, fy: int, fx: int) -> NDArray[np.bool_]:
    """Return which positions are at least `r` pixels away from every edge of a frame.

    Parameters
    ----------
    peaks
        Positions (y, x), of shape ``(n, 2)``.
    r
        Distance in pixels.
    fy, fx
        Size of the frame.
    """
    places = np.asarray(peaks)
    inside: NDArray[np.bool_] = np.all((places >= r) & (places < np.array((fy, fx)) - r), axis=1)
    return inside


def frame_peaks(
    fy: int, fx: int, zero: ArrayLike, a: ArrayLike, b: ArrayLike, r: float, indices: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lattice points that lie in a frame.

    Parameters
    ----------
    fy, fx
        Size of the frame.
    zero, a, b
        The lattice, see `calc_coords`.
    r
        Points nearer than this to an edge are left out.
    indices
        Points to consider, in a form that `regularize_indices` takes.

    Returns
    -------
    indices, peaks
        Indices and positions (y, x) of the points, both of shape ``(n, 2)``; of which dtype, see `calc_coords`.

    Examples
    --------
    >>> import numpy as np
    >>> indices, peaks = frame_peaks(16, 16, (8, 8), (5, 0), (0, 5), 2, np.mgrid[-2:3, -2:3])
    >>> len(peaks), peaks[0]
    (9, array([3, 3]))
    """
    orders = regularize_indices(indices)
    peaks = calc_coords(zero, a, b, orders)
    inside = within_frame(peaks, r, fy, fx)
    return orders[inside], peaks[inside]
