"""Colours for directions, all equally light, and for values.

The colours of directions lie on a circle in the OKLab space (B. Ottosson, "A perceptual color space for image
processing", 2020), where equal distances look equally different. Scaling a colour towards the origin, black, keeps its
hue.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilework.common.interrupts import interrupts_later
from tilework.exceptions import TileworkError

__all__ = ["NEUTRAL", "cyclic_colormap", "direction_colors", "get_colormap", "require_matplotlib"]

FloatArray = NDArray[np.float64]

# A grey that no colour map used here contains: for positions without a result.
NEUTRAL = (0.56, 0.56, 0.58)

# Every hue is as colourful as sRGB allows at this lightness, up to a limit: between grey and garish.
LIGHTNESS, CHROMA = 0.735, 0.165
# The hue of "to the right", in radians: red.
HUE_OFFSET = 0.45

_OKLAB_TO_LMS = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def direction_colors(angle: ArrayLike, strength: ArrayLike = 1.0) -> FloatArray:
    """Return the colours of directions.

    Parameters
    ----------
    angle
        Directions in radians, any shape; 0 is to the right, pi / 2 is down in a picture.
    strength
        0 (black) to 1 (full colour), broadcast against `angle`.

    Returns
    -------
    float64, (*shape, 3)
        sRGB, 0 to 1.
    """
    hue = np.asarray(angle, dtype=np.float64) + HUE_OFFSET
    size = np.asarray(strength, dtype=np.float64)[..., np.newaxis]
    chroma = np.interp(hue, *_chroma_by_hue(), period=2 * np.pi)
    linear = np.clip(_linear_rgb(size * _lab(hue, chroma)), 0.0, 1.0)
    encoded: FloatArray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded


def _lab(hue: FloatArray, chroma: FloatArray) -> FloatArray:
    return np.stack([np.full_like(hue, LIGHTNESS), chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)


def _linear_rgb(lab: FloatArray) -> FloatArray:
    linear: FloatArray = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    return linear


@lru_cache(maxsize=1)
def _chroma_by_hue() -> tuple[FloatArray, FloatArray]:
    """Return hues, and for each the largest chroma up to the limit that sRGB has, smoothed."""
    hue = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    levels = np.linspace(0, CHROMA, 166)
    rgb = _linear_rgb(_lab(*np.broadcast_arrays(hue[:, np.newaxis], levels)))
    inside = np.all((rgb >= 0) & (rgb <= 1), axis=-1)
    largest = levels[np.where(inside.all(axis=1), len(levels) - 1, np.argmin(inside, axis=1) - 1)]
    window = 41
    around = np.lib.stride_tricks.sliding_window_view(np.pad(largest, window, mode="wrap"), window)
    lowest = around.min(axis=1)
    smooth = np.lib.stride_tricks.sliding_window_view(lowest, window).mean(axis=1)
    start = (smooth.size - hue.size) // 2
    return hue, smooth[start : start + hue.size]


def require_matplotlib() -> None:
    """Import matplotlib, or say what to install.

    Raises
    ------
    TileworkError
        When it is not there.
    """
    try:
        with interrupts_later():  # half of it would be there for ever
            import matplotlib.figure  # noqa: F401
    except ImportError as error:
        msg = f"pictures need a library that is not installed ({error}): pip install 'tilework[plot]'"
        raise TileworkError(msg) from error


@lru_cache(maxsize=1)
def cyclic_colormap() -> Any:
    """Return the matplotlib colour map of directions: equally light all around, its ends meet."""
    require_matplotlib()
    from matplotlib.colors import ListedColormap

    angle = np.linspace(-np.pi, np.pi, 512, endpoint=False)
    return ListedColormap(direction_colors(angle).tolist(), name="tilework_cyclic")


def get_colormap(name: Any = None) -> Any:
    """Return a matplotlib colour map that shows what is not there in a neutral grey.

    Parameters
    ----------
    name
        Name, or a colour map; None: viridis. ``"tilework_cyclic"`` is `cyclic_colormap`.
    """
    require_matplotlib()
    import matplotlib as mpl

    if name is None or isinstance(name, str):
        chosen = cyclic_colormap() if name == "tilework_cyclic" else mpl.colormaps[name or "viridis"]
    else:
        chosen = name
    return chosen.with_extremes(bad=NEUTRAL)
