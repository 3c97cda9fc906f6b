"""Vector fields of centres of mass: rotation, derivatives, and how the rotation of the scan is found.

All arrays are in the order y, x; angles are in degrees.

The rotation between scan and detector is found as the one for which the curl of the field is least, as described in
B. H. Savitzky et al., "py4DSTEM: A Software Package for Four-Dimensional Scanning Transmission Electron Microscopy Data
Analysis", Microscopy and Microanalysis 27, 712 (2021): the projected electric field is the gradient of a potential and
therefore has no curl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "GuessResult",
    "apply_correction",
    "center_shifts",
    "coordinate_check",
    "curl_2d",
    "divergence",
    "guess_corrections",
    "magnitude",
]

Field = np.ndarray[Any, np.dtype[Any]]


class GuessResult(NamedTuple):
    """What `guess_corrections` found, as parameters for `CoMUDF.with_params`.

    Attributes
    ----------
    scan_rotation
        Angle in degrees, between -179 and 180.
    flip_y
        Whether y is flipped.
    cy, cx
        Mean of the field, in pixels: what to add to the centre.
    """

    scan_rotation: int
    flip_y: bool
    cy: float
    cx: float


def center_shifts(img_sum: Field, img_y: Field, img_x: Field, ref_y: float, ref_x: float) -> tuple[Field, Field]:
    """Return the centres of mass relative to a reference.

    Parameters
    ----------
    img_sum, img_y, img_x
        Sum of each frame, and its first moments: the sums of pixel times y, and of pixel times x.
    ref_y, ref_x
        The reference, in pixels.

    Returns
    -------
    y, x
        Shifts in pixels. 0 where the sum is 0, and there is no centre; NaN where there is no frame.

    Examples
    --------
    >>> center_shifts(np.array([2.0, 0.0]), np.array([8.0, 0.0]), np.array([6.0, 0.0]), ref_y=3, ref_x=3)
    (array([1., 0.]), array([0., 0.]))
    """
    empty = img_sum == 0
    divisor = np.where(empty, 1, img_sum)
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.where(empty, 0, img_y / divisor - ref_y)
        x = np.where(empty, 0, img_x / divisor - ref_x)
    return y, x


def apply_correction(
    y_centers: Field, x_centers: Field, scan_rotation: float, flip_y: bool, forward: bool = True
) -> tuple[Field, Field]:
    """Turn vectors from detector into scan coordinates.

    Parameters
    ----------
    y_centers, x_centers
        Components of the vectors.
    scan_rotation
        Angle in degrees by which the vectors are rotated, after the flip.
    flip_y
        Whether to change the sign of y first.
    forward
        False for the inverse: from scan into detector coordinates.

    Returns
    -------
    y, x
        The vectors.

    Examples
    --------
    >>> y, x = apply_correction(np.array([1.0]), np.array([0.0]), scan_rotation=90, flip_y=False)
    >>> abs(y.round(6)), abs(x.round(6))
    (array([0.]), array([1.]))
    """
    angle = np.deg2rad(scan_rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    y, x = np.asarray(y_centers), np.asarray(x_centers)
    if forward and flip_y:
        y = -y
    if not forward:
        sin = -sin
    with np.errstate(invalid="ignore"):
        y, x = y * cos + x * sin, x * cos - y * sin
    return (-y if flip_y and not forward else y), x


def _derivative(values: Field, axis: int) -> Field:
    """Return the derivative along an axis by central differences; NaN when there is only one position along it."""
    values = np.asarray(values)
    if values.shape[axis] < 2:
        return np.full(values.shape, np.nan, dtype=np.result_type(values, np.float32))
    with np.errstate(invalid="ignore", over="ignore"):
        result: Field = np.gradient(values, axis=axis)
    return result


def divergence(y_centers: Field, x_centers: Field) -> Field:
    """Return the divergence of a field, ``dy/dy + dx/dx``, per scan step.

    Parameters
    ----------
    y_centers, x_centers
        Components of the field, real, of the shape of the scan, in pixels.

    Returns
    -------
    numpy.ndarray
        Of the same shape and dtype, in pixels per scan step; central differences as `numpy.gradient` has them.

    Examples
    --------
    >>> y, x = np.mgrid[:4, :4].astype(float)
    >>> divergence(y, x)[0]
    array([2., 2., 2., 2.])
    """
    return _derivative(y_centers, 0) + _derivative(x_centers, 1)


def curl_2d(y_centers: Field, x_centers: Field) -> Field:
    """Return the curl of a field, ``dy/dx - dx/dy`` (of y along x, of x along y), per scan step.

    Parameters
    ----------
    y_centers, x_centers
        Components of the field, real, of the shape of the scan, in pixels.

    Returns
    -------
    numpy.ndarray
        Of the same shape and dtype, in pixels per scan step; central differences as `numpy.gradient` has them.

    Examples
    --------
    >>> y, x = np.mgrid[:4, :4].astype(float)
    >>> curl_2d(y, x)[0], curl_2d(x, -y)[0]
    (array([0., 0., 0., 0.]), array([2., 2., 2., 2.]))
    """
    return _derivative(y_centers, 1) - _derivative(x_centers, 0)


def magnitude(y_centers: Field, x_centers: Field) -> Field:
    """Return the length of the vectors of a field.

    Parameters
    ----------
    y_centers, x_centers
        Components of the field, real, of the shape of the scan, in pixels.

    Returns
    -------
    numpy.ndarray
        Of the same shape, in pixels: the square root of the sum of squares.

    Examples
    --------
    >>> magnitude(np.array([[3.0]]), np.array([[4.0]]))
    array([[5.]])
    """
    return np.hypot(np.abs(y_centers), np.abs(x_centers))


def _inner(shape: tuple[int, ...], roi: Any) -> Any:
    """Return what is evaluated: `roi`, or everything but the last row and column, where derivatives are one-sided."""
    if roi is not None:
        return roi
    return tuple(slice(0, max(1, n - 1)) for n in shape)


def coordinate_check(
    y_centers: Field, x_centers: Field, roi: NDArray[np.bool_] | tuple[slice, ...] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how much curl a field has, for all rotations and both orientations.

    Parameters
    ----------
    y_centers, x_centers
        The field, in detector coordinates.
    roi
        What to evaluate: a bool array, or slices; None: all but the last row and column.

    Returns
    -------
    straight, flipped
        Root mean square of the curl for a rotation by 0, 1, ... 359 degrees, without and with flipped y; positions
        without data are left out.

    Examples
    --------
    >>> y, x = np.mgrid[:6, :6].astype(float)
    >>> straight, flipped = coordinate_check(y, x)
    >>> straight.shape, int(straight.argmax()) in (90, 270)
    ((360,), True)
    """
    y, x = np.asarray(y_centers), np.asarray(x_centers)
    part = _inner(y.shape, roi)
    angles = np.deg2rad(np.arange(360))[:, np.newaxis]
    curves = []
    for sign in (1, -1):
        # Curl and divergence of a rotated field are linear combinations of those of the field itself.
        curl, div = curl_2d(sign * y, x)[part], divergence(sign * y, x)[part]
        known = np.isfinite(curl) & np.isfinite(div)
        rotated = np.cos(angles) * curl[known] + np.sin(angles) * div[known]
        curves.append(np.sqrt(np.mean(np.abs(rotated) ** 2, axis=1)) if known.any() else np.full(360, np.nan))
    return curves[0], curves[1]


def guess_corrections(
    y_centers: Field, x_centers: Field, roi: NDArray[np.bool_] | tuple[slice, ...] | None = None
) -> GuessResult:
    """Guess scan rotation, flip and centre from a field of centres of mass.

    The rotation is the one with the least curl. Of the two directions that are left, the one is taken in which the
    divergence is rather negative at strong features, as it is where the beam is attracted by atoms.

    Parameters
    ----------
    y_centers, x_centers
        The field in pixels, in detector coordinates (with ``scan_rotation=0, flip_y=False``).
    roi
        What to evaluate: a bool array, or slices; None: all but the last row and column.

    Returns
    -------
    GuessResult
        What to give to `CoMUDF.with_params`.

    Raises
    ------
    ValueError
        When nothing is known of the field's derivatives.

    Examples
    --------
    >>> y, x = np.mgrid[-9:10, -9:10].astype(float)
    >>> atom = -np.exp(-(y**2 + x**2) / 20)
    >>> field = apply_correction(atom * y, atom * x, scan_rotation=30, flip_y=False, forward=False)
    >>> guess_corrections(*field).scan_rotation
    30
    """
    y, x = np.asarray(y_centers), np.asarray(x_centers)
    straight, flipped = coordinate_check(y, x, roi)
    if np.isnan(straight).all():
        msg = f"no corrections can be guessed from a field of shape {y.shape}: nowhere is there data for a derivative"
        raise ValueError(msg)
    flip_y = bool(flipped.min() < straight.min())
    angle = int(np.argmin(flipped if flip_y else straight))
    part = _inner(y.shape, roi)
    div = divergence(*apply_correction(y, x, angle, flip_y))[part]
    div = div[np.isfinite(div)]
    limit = float(np.abs(div).max())
    if limit:
        counts, _ = np.histogram(div, bins=5, range=(-limit, limit))
        if counts[-1] > counts[0]:
            angle += 180
    if angle > 180:
        angle -= 360
    return GuessResult(angle, flip_y, float(np.nanmean(y[part])), float(np.nanmean(x[part])))
