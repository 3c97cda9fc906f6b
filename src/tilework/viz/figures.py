"""Figures for files: pictures with titles, colour bars, scale bars and colour wheels.

Everything is drawn on figures of our own, without pyplot: no window, no global state, any thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.viz.colors import get_colormap, require_matplotlib
from tilework.viz.marks import (
    AxisScale,
    add_color_wheel,
    add_scale_bar,
    has_scale_bar,
    known_scale,
    pixel_aspect,
    wheel_beside,
)
from tilework.viz.pixels import auto_range, rgb_from_2dvector, to_draw

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = [
    "draw_image",
    "draw_line",
    "draw_vectors",
    "image_figure",
    "line_figure",
    "new_figure",
    "save_figure",
    "vector_figure",
]

TITLE_SIZE = 11
TEXT_SIZE = 9
# The share of the highest value up to which negative ones may be noise.
NOISE = 0.05
# Neither date nor version: the same picture is the same file. By suffix, since each format has names of its own.
_PNG: dict[str, str | None] = {"Software": "tilework"}
_METADATA: dict[str, dict[str, str | None]] = {
    "": _PNG,
    ".png": _PNG,
    ".pdf": {"Creator": "tilework", "Producer": "tilework", "CreationDate": None},
    ".svg": {"Creator": "tilework", "Date": None},
}


def new_figure(width: float, height: float, **kwargs: Any) -> Any:
    """Make a figure that is drawn in memory.

    Parameters
    ----------
    width, height
        In inches.
    **kwargs
        For `matplotlib.figure.Figure`.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **{"layout": "compressed", **kwargs})
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to a file.

    Parameters
    ----------
    figure
        What `new_figure` made.
    path
        The file; its suffix decides the format: PNG, PDF, SVG, or another one that matplotlib writes.
    dpi
        Pixels per inch.

    Raises
    ------
    ValueError
        When matplotlib does not know the format.
    OSError
        When the file cannot be written.
    """
    # A layout engine leaves wide margins around pictures of a fixed shape.
    box = {} if figure.get_layout_engine() is None else {"bbox_inches": "tight", "pad_inches": 0.06}
    figure.savefig(path, dpi=dpi, metadata=_METADATA.get(Path(path).suffix.lower()), **box)


def draw_image(
    axes: Any,
    image: ArrayLike,
    *,
    title: str = "",
    scales: tuple[AxisScale, AxisScale] | None = None,
    there: ArrayLike | None = None,
    cmap: Any = None,
    logarithmic: bool = False,
    symmetric: bool = False,
    label: str = "",
    bar: Any = True,
) -> Any:
    """Draw values as a picture.

    Parameters
    ----------
    axes
        Matplotlib axes to draw on.
    image
        Numbers (y, x), of complex ones the magnitude. What is not finite, or masked in a masked array, is grey.
    title
        Above the picture.
    scales
        Vertical and horizontal axis of the data, for a scale bar; None: not known, pixels are shown instead.
    there
        bool (y, x): where values are; others are grey. None: everywhere.
    cmap
        Colour map; None: viridis.
    logarithmic
        Whether colours follow the logarithm: for diffraction patterns. Has an effect only where there are positive
        values that span most of a decade, and the negative ones are small beside them.
    symmetric
        Whether the colours are symmetric about zero: for values whose sign matters.
    label
        What the values are, beside the colour bar.
    bar
        Whether to draw a colour bar, beside the picture; or the axes to draw it on. An end of it that is pointed says
        that there are values beyond.

    Returns
    -------
    matplotlib.image.AxesImage
    """
    from matplotlib.colors import LogNorm, Normalize

    values, shown = to_draw(_magnitude(image), True if there is None else there)
    low, high = auto_range(values, shown)
    norm: Any
    smallest = _smallest_of_logarithm(values[shown & (values > 0)], values.size, low, high) if logarithmic else None
    if smallest is not None:
        norm = LogNorm(smallest, high, clip=True)
    elif symmetric:
        extent = max(abs(low), abs(high)) or 1.0
        norm = Normalize(-extent, extent, clip=True)
        cmap = cmap or "RdBu_r"
    else:
        norm = Normalize(low, high if high > low else low + 1, clip=True)
    # The logarithm takes only positive values.
    drawn = values if smallest is None else np.where(shown & (values <= 0), smallest, values)
    picture = axes.imshow(
        np.ma.array(drawn, mask=~shown),
        cmap=get_colormap(cmap),
        norm=norm,
        interpolation="nearest",
        aspect=pixel_aspect(values.shape, scales),
    )
    _frame(axes, title, scales, values.shape)
    if bar:
        _add_bar(axes, picture, label, None if bar is True else bar, _beyond(values[shown], norm))
    return picture


def _magnitude(values: ArrayLike) -> Any:
    array = np.asanyarray(values)
    return np.abs(array) if array.dtype.kind == "c" else array


def _beyond(values: Any, norm: Any) -> str:
    """Return which ends of a colour bar have values beyond them, as matplotlib says it."""
    below, above = (values < norm.vmin).any(), (values > norm.vmax).any()
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _smallest_of_logarithm(positive: Any, total: int, low: float, high: float) -> float | None:
    """Return the lower end of a logarithmic range, or None where a linear one shows more."""
    # Below zero there may be noise, which all becomes one colour, but nothing that anybody wants to see.
    if positive.size <= total // 20 or -low > high * NOISE:
        return None
    # Single counts far below the rest would take all the colours.
    smallest = max(float(np.quantile(positive.astype(np.float64), 0.002)), high * 1e-5)
    # matplotlib has no logarithm of what is closer to zero.
    return smallest if np.finfo(np.float64).tiny <= smallest < high / 8 else None


def draw_vectors(
    axes: Any,
    y: ArrayLike,
    x: ArrayLike,
    *,
    title: str = "",
    scales: tuple[AxisScale, AxisScale] | None = None,
    there: ArrayLike | None = None,
    units: str = "",
    arrows: bool = False,
    vmax: float | None = None,
) -> Any:
    """Draw vectors as a picture: the colour is the direction, black is zero; a wheel says which colour points where.

    Parameters
    ----------
    axes
        Matplotlib axes to draw on.
    y, x
        Components, (y, x) each; y points down. What is not finite, or masked in a masked array, is grey.
    title, scales, there
        As for `draw_image`.
    units
        Of the vectors, for the legend.
    arrows
        Whether to draw some vectors as arrows, too.
    vmax
        Length that gets the full colour; None: the longest.

    Returns
    -------
    matplotlib.image.AxesImage
    """
    everywhere = True if there is None else there
    parts = (to_draw(np.asanyarray(part, dtype=np.float64), everywhere) for part in (y, x))
    down, right = (np.where(shown, part, np.nan) for part, shown in parts)
    length = np.hypot(down, right)
    if vmax is None:
        vmax = auto_range(length)[1]
    picture = axes.imshow(
        rgb_from_2dvector(down, right, vmax), interpolation="nearest", aspect=pixel_aspect(down.shape, scales)
    )
    if arrows and vmax > 0:
        _add_arrows(axes, down, right, vmax)
    _frame(axes, title, scales, down.shape)
    add_color_wheel(axes, vmax, units, size=TEXT_SIZE, tall=_tall(down.shape, scales))
    return picture


def draw_line(axes: Any, values: ArrayLike, *, title: str = "", scale: AxisScale | None = None, label: str = "") -> Any:
    """Draw values along one axis as a line.

    Parameters
    ----------
    axes
        Matplotlib axes to draw on.
    values
        Numbers (n,), of complex ones the magnitude. The line has a gap where they are not finite, or masked in a masked
        array.
    title
        Above the line.
    scale
        Axis of the data.
    label
        What the values are.
    """
    numbers, shown = to_draw(_magnitude(values))
    data = np.where(shown, numbers, np.nan)
    step, units = known_scale(scale) or (1, "index")
    position = np.arange(data.size) * step
    (line,) = axes.plot(position, data, color="#31688e", linewidth=1.2, marker="." if data.size < 60 else None)
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    axes.set_xlabel(units, fontsize=TEXT_SIZE)
    axes.set_ylabel(label, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE - 1)
    axes.margins(x=0.01)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    return line


def image_figure(image: ArrayLike, **kwargs: Any) -> Any:
    """Make a figure of one picture; see `draw_image`.

    Raises
    ------
    ValueError
        When the image does not have two axes.

    Examples
    --------
    >>> image = ctx.map(dataset=ds, f=np.sum).data
    >>> save_figure(image_figure(image, title="sum of each frame"), "sums.png")
    """
    figure, axes, bar = _single(np.shape(image), kwargs.get("scales"), bar=kwargs.get("bar", True))
    draw_image(axes, image, **{**kwargs, "bar": bar})
    return figure


def vector_figure(y: ArrayLike, x: ArrayLike, **kwargs: Any) -> Any:
    """Make a figure of one vector field; see `draw_vectors`.

    Examples
    --------
    >>> from tilework.udf.com import CoMUDF
    >>> field = ctx.run_udf(dataset=ds, udf=CoMUDF.with_params(r=8))
    >>> save_figure(vector_figure(field["field_y"].data, field["field_x"].data, units="px"), "shifts.png")
    """
    figure, axes, _ = _single(np.shape(y), kwargs.get("scales"), bar=False)
    draw_vectors(axes, y, x, **kwargs)
    return figure


def line_figure(values: ArrayLike, **kwargs: Any) -> Any:
    """Make a figure of one line; see `draw_line`."""
    figure = new_figure(6.0, 3.2)
    draw_line(figure.add_subplot(), values, **kwargs)
    return figure


def _single(shape: Sequence[int], scales: tuple[AxisScale, AxisScale] | None, *, bar: bool) -> tuple[Any, Any, Any]:
    """Make a figure for one picture; return it, the axes of the picture, and those of the colour bar or None.

    Places are computed here: a layout engine would take longer than all the drawing.
    """
    if len(shape) != 2 or 0 in shape:
        msg = (
            f"a picture has two axes, not the shape {tuple(shape)}: choose one of several images, such as data[..., 0]"
        )
        raise ValueError(msg)
    width, tall = shape[1], _tall(shape, scales)
    # Inches.
    picture_w, picture_h = 4.6 * min(1.0, 1 / tall), 4.6 * min(1.0, tall)
    left, bottom, top = (0.08, 0.08, 0.34) if has_scale_bar(_across(scales), width) else (0.46, 0.30, 0.34)
    wheel = wheel_beside(tall) * picture_w
    right = 0.98 if bar else wheel + 0.3 if wheel else 0.08
    whole_w, whole_h = max(left + picture_w + right, 2.6), bottom + picture_h + top
    figure = new_figure(whole_w, whole_h, layout=None)
    axes = figure.add_axes((left / whole_w, bottom / whole_h, picture_w / whole_w, picture_h / whole_h))
    if not bar:
        return figure, axes, None
    beside = (left + picture_w + 0.1) / whole_w
    return figure, axes, figure.add_axes((beside, bottom / whole_h, 0.17 / whole_w, picture_h / whole_h))


def _tall(shape: Sequence[int], scales: tuple[AxisScale, AxisScale] | None) -> float:
    """Return the height of a picture over its width."""
    height, width = shape
    return height * pixel_aspect((height, width), scales) / width


def _across(scales: tuple[AxisScale, AxisScale] | None) -> AxisScale | None:
    return None if scales is None else scales[1]


def _frame(axes: Any, title: str, scales: tuple[AxisScale, AxisScale] | None, shape: Sequence[int]) -> None:
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    if add_scale_bar(axes, _across(scales), shape[1], size=TEXT_SIZE):
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        axes.tick_params(labelsize=TEXT_SIZE - 1, length=2.5, color="0.4", labelcolor="0.3")
        for axis in (axes.xaxis, axes.yaxis):  # there is no half a pixel
            axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("0.25")


def _add_bar(axes: Any, picture: Any, label: str, place: Any, extend: str) -> None:
    where = {"ax": axes, "fraction": 0.05, "pad": 0.02, "aspect": 22} if place is None else {"cax": place}
    bar = axes.figure.colorbar(picture, extend=extend, **where)
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(which="both", labelsize=TEXT_SIZE - 1, width=0.6)
    bar.ax.tick_params(length=2.5)
    if hasattr(bar.formatter, "set_powerlimits"):
        bar.formatter.set_powerlimits((-3, 4))
        bar.formatter.set_useMathText(True)
        bar.ax.yaxis.get_offset_text().set_fontsize(TEXT_SIZE - 1)
    if label:
        bar.set_label(label, fontsize=TEXT_SIZE)


def _add_arrows(axes: Any, down: Any, right: Any, vmax: float) -> None:
    """Draw the mean vector of each of some blocks as an arrow."""
    height, width = down.shape
    step = max(1, round(max(height, width) / 13))
    rows, cols = height // step, width // step
    if not rows or not cols:
        return
    block = (slice(0, rows * step), slice(0, cols * step))
    mean_y, mean_x = (part[block].reshape(rows, step, cols, step).mean(axis=(1, 3)) for part in (down, right))
    y, x = np.mgrid[:rows, :cols] * step + (step - 1) / 2
    # The corners belong to the scale bar and to the wheel.
    low = y > 0.80 * height
    free = ~((low & (x < 0.40 * width)) | ((y > 0.68 * height) & (x > 0.72 * width)))
    mean_y, mean_x = (np.where(free, part, np.nan) for part in (mean_y, mean_x))
    longest = np.hypot(mean_y, mean_x).max(initial=0.0, where=np.isfinite(mean_y + mean_x))
    if not longest:
        return
    axes.quiver(
        x,
        y,
        mean_x,
        mean_y,
        angles="xy",
        scale_units="xy",
        # The longest arrow nearly reaches the next one.
        scale=max(longest, 0.3 * vmax) / (0.85 * step),
        pivot="middle",
        width=0.0042,
        headwidth=4.2,
        headlength=4.5,
        headaxislength=4,
        color="white",
        edgecolor="black",
        linewidth=0.35,
        alpha=0.95,
    )
