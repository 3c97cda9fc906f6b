"""Marks on a picture that say how large and which way: scale bar, colour wheel, outlines of virtual detectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilework.viz.colors import direction_colors

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AxisScale",
    "add_circle",
    "add_color_wheel",
    "add_scale_bar",
    "format_length",
    "has_scale_bar",
    "known_scale",
    "pixel_aspect",
    "round_length",
    "wheel_beside",
]

# The share of the picture's width that a scale bar takes at most.
BAR_SHARE = 0.3
# The share of the longer side of a picture that a colour wheel beside it takes at most.
WHEEL_SHARE = 0.2
# A picture whose shorter side is less than this share of the longer one has its colour wheel beside it.
NARROW = 0.4

_LARGER = {
    "pm": ("nm", 1e3),
    "nm": ("µm", 1e3),
    "µm": ("mm", 1e3),
    "um": ("mm", 1e3),
    "mm": ("m", 1e3),
    "mrad": ("rad", 1e3),
}


class AxisScale(Protocol):
    """What is taken from the axis of a dataset."""

    @property
    def scale(self) -> float | None:
        """Distance of neighbouring pixels in `units`."""
        ...

    @property
    def units(self) -> str | None:
        """Unit of the scale."""
        ...


def round_length(limit: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, … (and of 0.5, 0.2, …) that is not larger than `limit`."""
    power = 10.0 ** math.floor(math.log10(limit))
    # A limit of exactly 2 may be 1.9999999 after the division.
    return next(step * power for step in (5, 2, 1) if step * power <= limit * (1 + 1e-9))


def format_length(length: float, units: str) -> str:
    """Return a length as text, in a larger unit from 1000 on."""
    while length >= 1000 and units in _LARGER:
        units, factor = _LARGER[units]
        length /= factor
    return f"{length:.4g} {units}"


def pixel_aspect(shape: Sequence[int], scales: tuple[AxisScale, AxisScale] | None = None) -> float:
    """Return height over width of a pixel, as far as it is known; what would be a mere line is stretched."""
    height, width = shape
    ratio = 1.0
    if scales is not None and scales[0].units == scales[1].units and scales[0].scale and scales[1].scale:
        ratio = abs(scales[0].scale / scales[1].scale)
    return float(np.clip(ratio, width / height / 8, 8 * width / height))


def wheel_beside(tall: float) -> float:
    """Return the diameter of a colour wheel beside a picture, in widths of the picture; 0 where it lies within.

    `tall` is the height of the picture over its width.
    """
    short, long = sorted((1.0, tall))
    return min(short, long * WHEEL_SHARE) if short < long * NARROW else 0.0


def known_scale(axis: AxisScale | None) -> tuple[float, str] | None:
    """Return the distance of pixels along an axis, and its unit; None where one of them is not known."""
    if axis is None or not axis.scale or axis.units is None:
        return None
    return axis.scale, axis.units


def has_scale_bar(axis: AxisScale | None, width: int) -> bool:
    """Return whether enough is known of the horizontal axis of a picture, `width` pixels wide, for a scale bar."""
    return known_scale(axis) is not None and width > 1


def add_scale_bar(axes: Any, axis: AxisScale | None, width: int, *, size: float = 9) -> bool:
    """Draw a scale bar in the lower left corner of a picture.

    Parameters
    ----------
    axes
        Matplotlib axes that show the picture, in pixel coordinates.
    axis
        The horizontal axis of the data; None, or one without units: no scale bar is drawn.
    width
        Width of the picture in pixels.
    size
        Of the text, in points.

    Returns
    -------
    bool
        Whether one was drawn.
    """
    known = known_scale(axis)
    if known is None or width < 2:
        return False
    step, units = abs(known[0]), known[1]
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    length = round_length(BAR_SHARE * width * step)
    share = length / step / width
    bar = Rectangle(
        (0.05, 0.05), share, 0.016, transform=axes.transAxes, facecolor="white", edgecolor="black", linewidth=0.6
    )
    axes.add_patch(bar)
    axes.text(
        0.05 + share / 2,
        0.085,
        format_length(length, units),
        transform=axes.transAxes,
        color="white",
        fontsize=size,
        ha="center",
        va="bottom",
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )
    return True


def add_color_wheel(
    axes: Any, vmax: float, units: str, *, size: float = 9, share: float = 0.22, tall: float = 1.0
) -> Any:
    """Draw the legend of a vector picture in its lower right corner: a wheel whose colours point outwards.

    Beside a picture of which a part would be too small for it, such as one of few lines.

    Parameters
    ----------
    axes
        Matplotlib axes that show the picture.
    vmax
        Length at the rim, which is written beside it.
    units
        Unit of `vmax`.
    size
        Of the text, in points.
    share
        Diameter as a share of the picture's width.
    tall
        Height of the picture over its width.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the wheel.
    """
    from matplotlib.patheffects import withStroke

    pixels = 256
    x = (np.arange(pixels) + 0.5) / pixels * 2.16 - 1.08
    right, down = np.meshgrid(x, x)
    radius = np.hypot(right, down)
    # One pixel wide edges, so that the wheel is smooth without resampling.
    edge = 2.16 / pixels
    rgba = np.ones((pixels, pixels, 4))
    rim = np.clip((1.0 - radius) / edge + 0.5, 0, 1)[..., np.newaxis]
    rgba[..., :3] = rim * direction_colors(np.arctan2(down, right), np.minimum(radius, 1)) + (1 - rim)
    rgba[..., 3] = np.clip((1.06 - radius) / edge + 0.5, 0, 1)
    side = wheel_beside(tall)
    place = (1.02 + 0.1 * side, 0.0, side, side / tall) if side else (0.965 - share, 0.035, share, share)
    inset = axes.inset_axes(place, zorder=5)
    inset.imshow(rgba, interpolation="bilinear", extent=(-1.08, 1.08, 1.08, -1.08))
    inset.set_axis_off()
    inset.text(
        0,
        -1.16,
        f"{float(f'{vmax:.2g}'):g} {units}".rstrip(),
        color="white",
        fontsize=size,
        ha="center",
        va="bottom",
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )
    return inset


def add_circle(axes: Any, center: tuple[float, float], radius: float, color: str) -> None:
    """Draw the outline of a virtual detector on a picture.

    Parameters
    ----------
    axes
        Matplotlib axes that show the picture, in pixel coordinates.
    center
        (y, x) in pixels.
    radius
        In pixels.
    color
        Of the line.
    """
    from matplotlib.patches import Circle

    circle = Circle((center[1], center[0]), radius, fill=False, edgecolor=color, linewidth=1.6, clip_on=True)
    axes.add_patch(circle)
