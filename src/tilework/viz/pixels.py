"""Arrays in, pixels out: no axes, no titles, for any front end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import without_mask
from tilework.common.viz import encode_image
from tilework.viz.colors import NEUTRAL, direction_colors, get_colormap

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["auto_range", "encode_image", "rgb_from_2dvector", "to_draw", "visualize_simple", "within_limits"]

# An extreme value is left out of the range when it lies further out than this many times what is left without it.
OUTLIER_FACTOR = 10.0
OUTLIER_SHARE = 0.001
# Of so many values or more, one may be left out, although it is more than its share: small detectors have hot pixels.
MANY = 100
# Numbers are drawn up to here, so that what pictures compute of them is finite: differences, sums of many, margins.
LARGEST = 1e300


def within_limits(values: NDArray[Any]) -> NDArray[Any]:
    """Return real numbers as they can be drawn: none is beyond `LARGEST`, infinite ones neither."""
    if values.dtype.kind != "f" or values.dtype.itemsize < 8:
        return values
    clipped: NDArray[Any] = np.clip(values, -LARGEST, LARGEST)
    return clipped.astype(np.float64, copy=False)


def to_draw(values: ArrayLike, there: ArrayLike = True) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return real numbers as they can be drawn, and where: they are finite, not masked, and `there`.

    Parameters
    ----------
    values
        Real numbers; they may be a masked array.
    there
        bool, broadcast to the shape of `values`.
    """
    plain, unmasked = without_mask(values)
    return within_limits(plain), np.isfinite(plain) & unmasked & np.broadcast_to(np.asarray(there, bool), plain.shape)


def auto_range(values: ArrayLike, shown: ArrayLike | None = None) -> tuple[float, float]:
    """Return the range of values to show: all of them, but not a few extremes that would hide the rest.

    The lowest and the highest 0.1 % (of 100 values or more: at least one) are left out when they lie ten times further
    from the median than the others: hot pixels do, the tails of a distribution do not.

    Parameters
    ----------
    values
        Real numbers, any shape; what is not finite is ignored.
    shown
        bool, shape of `values`: which of them count; None: all.

    Returns
    -------
    vmin, vmax : float
        0 and 0 when there are no values.

    Examples
    --------
    A hot pixel does not hide the rest:

    >>> image = np.tile(np.arange(100.0), 100)
    >>> image[5] = 1e6
    >>> auto_range(image)
    (0.0, 99.0)
    """
    array = np.asarray(values)
    kept = array[np.isfinite(array) if shown is None else np.isfinite(array) & np.asarray(shown, dtype=bool)]
    if kept.size == 0:
        return 0.0, 0.0
    kept = kept.astype(np.float64)
    lowest, highest = float(kept.min()), float(kept.max())
    few = max(int(OUTLIER_SHARE * kept.size), kept.size >= MANY)
    low, high = (float(v) for v in np.partition(kept, [few, kept.size - 1 - few])[[few, -1 - few]])
    middle = float(np.median(kept))
    if low < high:
        if highest - middle > OUTLIER_FACTOR * (high - middle) > 0:
            highest = high
        if middle - lowest > OUTLIER_FACTOR * (middle - low) > 0:
            lowest = low
    return lowest, highest


def visualize_simple(
    result: ArrayLike,
    colormap: Any = None,
    logarithmic: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
    damage: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Show real values as colours.

    Parameters
    ----------
    result
        Real numbers (y, x). What is not finite, or masked in a masked array, is grey.
    colormap
        Name of a matplotlib colour map, or one itself; None: viridis.
    logarithmic
        Whether to show the logarithm: ``log(result - low + unit)``, where `low` is the lowest value that is shown, so
        that an offset of all pixels hides nothing. The unit is 1 for whole numbers, such as counts; for others a
        thousandth of the range, but not more than 1.
    vmin, vmax
        Range to show; None: see `auto_range`.
    damage
        bool (y, x): which values are there; others are grey. None: all.

    Returns
    -------
    uint8, (y, x, 4)
        RGBA.

    Examples
    --------
    >>> visualize_simple(np.array([[0.0, 1.0, np.nan]]), colormap="gray")[0, :2]
    array([[  0,   0,   0, 255],
           [255, 255, 255, 255]], dtype=uint8)
    """
    values, there = to_draw(np.asanyarray(result).astype(np.float64), True if damage is None else damage)
    if logarithmic:
        logarithm = _logarithm(values, there, vmin)
        values = logarithm(values)
        vmin, vmax = (None if v is None else float(logarithm(v)) for v in (vmin, vmax))
    low, high = auto_range(values, there)
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    scaled = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    rgba: NDArray[np.uint8] = get_colormap(colormap)(np.ma.array(scaled, mask=~there), bytes=True)
    return rgba


def _logarithm(
    values: NDArray[np.float64], there: NDArray[np.bool_], vmin: float | None
) -> Callable[[Any], NDArray[np.float64]]:
    """Return the function that takes the logarithm of what lies above the lowest value that is shown."""
    lowest, high = auto_range(values, there)  # one dead pixel is no background
    low = lowest if vmin is None else vmin
    is_whole = np.array_equal(values[there], np.rint(values[there]))
    unit = 1.0 if is_whole or high <= low else min(1.0, (high - low) / 1000)
    return lambda given: np.log(np.maximum(np.subtract(given, low), 0) + unit)


def rgb_from_2dvector(y: ArrayLike, x: ArrayLike, vmax: float | None = None) -> NDArray[np.uint8]:
    """Show vectors as colours: the hue is the direction, black is zero, full colour is `vmax` or more.

    Parameters
    ----------
    y, x
        Components, of the same shape; y points down in the picture.
    vmax
        Length that gets the full colour; None: the longest, see `auto_range`.

    Returns
    -------
    uint8, (*shape, 3)
        RGB; grey where a component is not finite, or masked in a masked array.

    Examples
    --------
    >>> field = np.array([[0.0, 1.0]])
    >>> rgb_from_2dvector(y=field, x=np.zeros((1, 2))).shape
    (1, 2, 3)
    """
    (down, has_y), (right, has_x) = (to_draw(np.asanyarray(part, dtype=np.float64)) for part in (y, x))
    length, there = np.hypot(down, right), has_y & has_x
    if vmax is None:
        vmax = auto_range(length, there)[1]
    strength = np.clip(np.where(there, length, 0) / vmax, 0, 1) if vmax > 0 else np.zeros(length.shape)
    angle = np.arctan2(np.where(there, down, 0), np.where(there, right, 0))
    rgb = direction_colors(angle, strength)
    rgb[~there] = NEUTRAL
    return np.rint(rgb * 255).astype(np.uint8)
