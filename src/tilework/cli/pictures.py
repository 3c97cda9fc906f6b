"""Results become PNG files: which of them, and in which form."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.cli.words import free_name
from tilework.viz import figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tilework.io.results import ResultAxis, ResultChannel

__all__ = ["write_pictures"]

Array = np.ndarray[Any, np.dtype[Any]]

# Results of built-in UDFs that say most; the others are in the arrays. UDFs that are not named here show everything.
SHOWN = {
    "CoMUDF": ("field", "magnitude", "divergence", "curl"),
    "StdDevUDF": ("mean", "std"),
}
SIGNED = {"divergence", "curl"}
VECTORS = {("CoMUDF", "field")}
# A function does not say in which unit its results are; of these it is known.
UNITS = {
    ("CoMUDF", "field"): "px",
    ("CoMUDF", "magnitude"): "px",
    ("CoMUDF", "divergence"): "px per scan step",
    ("CoMUDF", "curl"): "px per scan step",
}
# Patterns that are logarithms already.
LINEAR = {"LogsumUDF"}
# More pictures of one result than this tell nobody anything.
MOST_PAGES = 16


def write_pictures(folder: Path, label: str, udf_name: str, channels: Mapping[str, ResultChannel]) -> list[str]:
    """Write pictures of the results of one UDF; what cannot be drawn is left out, with a warning.

    Parameters
    ----------
    folder
        Where to.
    label
        How file names begin.
    udf_name
        Class of the UDF.
    channels
        Its results by name.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    OSError
        When a file cannot be written.
    """
    written = []
    alone = len(channels) == 1
    for name in SHOWN.get(udf_name, tuple(channels)):
        if name in channels:
            stem = label if alone else f"{label}_{name}"
            for suffix, make in _figures(label, udf_name, _simplified(channels[name]), alone=alone):
                # Another function may have a result so called, or several pictures of one.
                file = free_name(f"{stem}{suffix}", {path.stem for path in folder.glob("*.png")}) + ".png"
                if _drawn(make, folder / file):
                    written.append(file)
    return written


def _drawn(make: Callable[[], Any], path: Path) -> bool:
    """Write a picture; where it cannot be drawn, warn: the numbers, which took the time, are of use without it."""
    try:
        figures.save_figure(make(), path)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  (any value, and text, gets here)
        path.unlink(missing_ok=True)
        warnings.warn(f"{path.name} cannot be drawn: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def _simplified(channel: ResultChannel) -> ResultChannel:
    """Return a complex result whose imaginary part is 0 everywhere as a real one.

    What is real by its meaning has the dtype of the data all the same, and real data is stored as complex sometimes.
    """
    if channel.data.dtype.kind != "c":
        return channel
    imaginary = channel.data.imag if channel.valid is None else channel.data.imag[channel.valid]
    if np.any((imaginary != 0) & ~np.isnan(imaginary)):
        return channel
    return replace(channel, data=channel.data.real)


def _figures(label: str, udf_name: str, channel: ResultChannel, *, alone: bool) -> list[tuple[str, Callable[[], Any]]]:
    """Return suffixes of file names, and what makes the figures; nothing for a result that is no picture."""
    data = channel.data
    if data.dtype.kind not in "buifc" or data.size < 2:
        return []
    if not np.isfinite(data if channel.valid is None else data[channel.valid]).any():
        return []  # such as the curl along a single line
    if channel.units is None:
        channel = replace(channel, units=UNITS.get((udf_name, channel.name)))
    title = (label if alone else f"{label}: {channel.name}").replace("_", " ")
    if (udf_name, channel.name) in VECTORS:
        return [("", partial(_vectors, channel, title))]
    pages = _pages(channel)
    if len(pages) > MOST_PAGES:
        return []
    plain = partial(_plain, channel, logarithmic=channel.kind == "sig" and udf_name not in LINEAR)
    if len(pages) == 1:
        return [("", partial(plain, *pages[0], title))]
    return [(f"_{i}", partial(plain, *page, f"{title} {i}")) for i, page in enumerate(pages)]


def _pages(channel: ResultChannel) -> list[tuple[Array, Array]]:
    """Return what a result shows, one array of scan or detector shape after the other, each with its mask."""
    data = channel.data
    valid = np.ones(data.shape, dtype=bool) if channel.valid is None else channel.valid
    own = data.ndim - (0 if channel.kind == "single" else channel.extra_ndim)
    if channel.kind == "single":
        image = data.shape[max(data.ndim - 2, 0) :]
        flat, masks = (a.reshape((-1, *image)) for a in (data, valid))
    else:
        flat, masks = (a.reshape((*data.shape[:own], -1)).transpose((own, *range(own))) for a in (data, valid))
    return [(np.squeeze(page), np.squeeze(mask)) for page, mask in zip(flat, masks, strict=True)]


def _plain(channel: ResultChannel, page: Array, there: Array, title: str, *, logarithmic: bool) -> Any:
    axes = _long_axes(channel)
    label = "" if channel.units is None else channel.units
    if page.ndim == 1:
        values = np.abs(page) if page.dtype.kind == "c" else page
        return figures.line_figure(
            np.where(there, values, np.nan), title=title, scale=axes[-1] if axes else None, label=label
        )
    if page.ndim != 2:
        # A scan with three axes or more: its first layers side by side would be too small to see.
        page, there = (
            np.squeeze(a.reshape((-1, *a.shape[-2:]))[a.reshape((-1, *a.shape[-2:])).shape[0] // 2])
            for a in (page, there)
        )
        title = f"{title} (middle layer)"
    scales = (axes[-2], axes[-1]) if len(axes) >= 2 else None
    if page.dtype.kind == "c":
        return figures.vector_figure(page.imag, page.real, title=title, scales=scales, there=there, units=label)
    return figures.image_figure(
        page,
        title=title,
        scales=scales,
        there=there,
        label=label,
        cmap="inferno" if channel.kind == "sig" else None,
        logarithmic=logarithmic,
        symmetric=channel.name in SIGNED,
    )


def _vectors(channel: ResultChannel, title: str) -> Any:
    axes, units = _long_axes(channel), channel.units or ""
    if channel.data.dtype.kind == "c":
        # Only the real part of a centre of mass is a position.
        channel, title = replace(channel, data=channel.data.real), f"{title} (real part)"
    y, x = (channel.data[..., i] for i in (0, 1))
    there = None if channel.valid is None else channel.valid.all(axis=-1)
    if y.ndim != 2 or min(y.shape) < 2:
        length = np.ma.array(np.hypot(y, x), mask=False if there is None else ~there)
        return figures.line_figure(length.ravel(), title=f"{title} (length)", label=units)
    scales = (axes[0], axes[1]) if len(axes) >= 2 else None
    return figures.vector_figure(y, x, title=title, scales=scales, there=there, units=units, arrows=min(y.shape) > 5)


def _long_axes(channel: ResultChannel) -> list[ResultAxis]:
    """Return the axes of scan or detector that `numpy.squeeze` keeps."""
    own = channel.data.ndim - channel.extra_ndim
    return [axis for axis, size in zip(channel.dims[:own], channel.data.shape[:own], strict=True) if size > 1]
