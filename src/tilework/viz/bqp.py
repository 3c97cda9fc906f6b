"""Live plots with bqplot: widgets of a notebook that are drawn by the browser, which gets the pixels alone."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.callers import outside_level
from tilework.exceptions import TileworkError
from tilework.viz.colors import get_colormap
from tilework.viz.live import Channel, PicturePlot, notebook_display
from tilework.viz.pixels import auto_range

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BQLive2DPlot"]

Array = np.ndarray[Any, np.dtype[Any]]
N_COLORS = 64
# Browsers compute colours in float32, where differences must be finite, too.
LARGEST = 1e37


class BQLive2DPlot(PicturePlot):
    """A live plot for notebooks that is drawn by bqplot.

    The kernel sends pixels, and the browser draws: an update costs the run a few milliseconds, whereas drawing with
    matplotlib takes tens. `figure` is a widget, which can be put into others. Positions that are not there yet are NaN;
    of large pictures, every second, third, ... pixel is shown until the run is over.

    Parameters
    ----------
    dataset, udf, roi, channel, title, min_delta, udfresult
        See `Live2DPlot`.

    Attributes
    ----------
    figure
        The ``bqplot.Figure``; None before `display`.

    Raises
    ------
    TileworkError
        When bqplot, or its mark for images, is not installed.

    Examples
    --------
    In a notebook::

        from tilework.viz.bqp import BQLive2DPlot

        ctx = Context.make_with("threads", plot_class=BQLive2DPlot)
        ctx.run_udf(dataset=ds, udf=SumSigUDF(), plots=True)
    """

    def __init__(
        self,
        dataset: Any,
        udf: Any,
        roi: Any = None,
        channel: Channel = None,
        title: str | None = None,
        min_delta: float = 1 / 60,
        udfresult: Mapping[str, Any] | None = None,
    ) -> None:
        self._bqplot, self._image_gl = _libraries()
        super().__init__(dataset, udf, roi, channel, title, min_delta, udfresult)
        self.figure: Any = None
        self._image: Any = None

    def display(self) -> None:
        """Make the widget, and show it in the output of the cell; a run calls this itself, if nobody has."""
        bq = self._bqplot
        from matplotlib.colors import to_hex

        colors = [to_hex(color) for color in get_colormap()(np.linspace(0, 1, N_COLORS))]
        height, width = self.data.shape
        scales = {
            "x": bq.LinearScale(min=0.0, max=float(width)),
            "y": bq.LinearScale(min=0.0, max=float(height), reverse=True),
            "image": bq.ColorScale(min=0.0, max=1.0, colors=colors),
        }
        # The places of its edges, so that they stay when fewer pixels are shown.
        self._image = self._image_gl.ImageGL(
            image=np.full((1, 1), np.nan, dtype=np.float32), scales=scales, x=[0.0, width], y=[0.0, height]
        )
        axes = [
            bq.Axis(scale=scales["x"], label="x"),
            bq.Axis(scale=scales["y"], label="y", orientation="vertical"),
            bq.ColorAxis(scale=scales["image"], orientation="vertical", side="right"),
        ]
        ratio = width / height
        self.figure = bq.Figure(
            marks=[self._image], axes=axes, title=self.title, min_aspect_ratio=ratio, max_aspect_ratio=ratio
        )
        notebook = notebook_display()
        if notebook is not None:
            notebook.display(self.figure)
        self.is_displayed = True
        self.last_update = time.monotonic()

    def update(self, damage: Array, force: bool = False) -> None:
        """Send `data` to the browser; before `display`, warn and do nothing."""
        if not self.is_displayed:
            msg = f"the plot {self.title!r} is not on the screen: call display() first"
            warnings.warn(msg, stacklevel=outside_level())
            return
        values, there = self.to_show(damage, whole=force)
        shown = np.clip(np.where(there, values, np.nan), -LARGEST, LARGEST)
        low, high = auto_range(shown)
        scale = self._image.scales["image"]
        scale.min, scale.max = low, high if high > low else low + 1
        self._image.image = shown.astype(np.float32)


def _libraries() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            # What they say of their own use of other libraries is of no use to anybody here.
            warnings.simplefilter("ignore", DeprecationWarning)
            import bqplot
            import bqplot_image_gl
    except ImportError as error:
        msg = f"live plots with bqplot need a library that is not installed ({error}): pip install 'tilework[bqplot]'"
        raise TileworkError(msg) from error
    return bqplot, bqplot_image_gl
