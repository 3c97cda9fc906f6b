"""Linear transformations between coordinate systems, as 2 x 2 matrices for vectors in the order (y, x).

``matrix @ (y, x)`` is the transformed vector; products of matrices are applied from the right to the left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["flip_x", "flip_y", "identity", "rotate", "rotate_deg", "scale", "scale_rotate_flip_y"]

# How far two numbers that should be equal may be apart, relatively.
_TOLERANCE = 1e-8


def scale(factor: float) -> NDArray[Any]:
    """Return the matrix that makes vectors longer by a factor."""
    return np.eye(2) * factor


def rotate(radians: float) -> NDArray[Any]:
    """Return the matrix that rotates by an angle in rad; with y pointing down, positive is clockwise.

    Examples
    --------
    >>> (rotate(np.pi / 2) @ (1, 0)).round(6) + 0.0  # down becomes left
    array([ 0., -1.])
    """
    cos, sin = np.cos(radians), np.sin(radians)
    return np.array([(cos, sin), (-sin, cos)])


def rotate_deg(degrees: float) -> NDArray[Any]:
    """Return the matrix that rotates by an angle in degrees, see `rotate`."""
    return rotate(np.deg2rad(degrees))


def flip_y() -> NDArray[Any]:
    """Return the matrix that changes the sign of y.

    Examples
    --------
    >>> flip_y() @ (1, 2)
    array([-1,  2])
    """
    return np.array([(-1, 0), (0, 1)])


def flip_x() -> NDArray[Any]:
    """Return the matrix that changes the sign of x."""
    return np.array([(1, 0), (0, -1)])


def identity() -> NDArray[Any]:
    """Return the matrix that changes nothing."""
    return np.eye(2)


def scale_rotate_flip_y(mat: ArrayLike) -> tuple[float, float, bool]:
    """Return of which parts a transformation consists: ``scale(s) @ rotate(angle) @ flip_y()``, the last if it flips.

    Parameters
    ----------
    mat
        The matrix.

    Returns
    -------
    scale, angle, flip_y
        Factor, angle in rad between -pi and pi, and whether y is flipped first.

    Raises
    ------
    ValueError
        When the matrix does more: shear, different scales along y and x, or no inverse.

    Examples
    --------
    >>> scale_rotate_flip_y(scale(2) @ rotate(0.5) @ flip_y())
    (2.0, 0.5, True)
    """
    matrix = np.asarray(mat, dtype=np.float64)
    if matrix.shape != (2, 2):
        msg = f"a transformation of (y, x) is a matrix of shape (2, 2), this has {matrix.shape}"
        raise ValueError(msg)
    of_y, of_x = matrix.T
    length_y, length_x = math.hypot(*of_y), math.hypot(*of_x)
    if not math.isclose(length_y, length_x, rel_tol=_TOLERANCE):
        msg = f"y scale {length_y} and x scale {length_x} are different: this is no rotation with a scale"
        raise ValueError(msg)
    if length_y == 0:
        msg = "the matrix is zero: it has no angle"
        raise ValueError(msg)
    if abs(of_y @ of_x) > _TOLERANCE * length_y * length_x:
        msg = f"the matrix contains shear: what y becomes, {of_y}, and what x becomes, {of_x}, are not at a right angle"
        raise ValueError(msg)
    flips = bool(np.linalg.det(matrix) < 0)
    # What x becomes is not affected by a flip of y.
    angle = math.atan2(of_x[0], of_x[1])
    return length_x, angle, flips
