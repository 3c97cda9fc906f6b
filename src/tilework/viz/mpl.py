"""Live plots with matplotlib: in notebooks, and in windows where pyplot is in use."""

from __future__ import annotations

import sys
import time
import warnings
from base64 import b64encode
from contextlib import nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.callers import outside_level
from tilework.viz.colors import NEUTRAL, get_colormap, require_matplotlib
from tilework.viz.live import Channel, PicturePlot, notebook_display
from tilework.viz.marks import pixel_aspect
from tilework.viz.painting import Painter, encode_png, silent
from tilework.viz.pixels import auto_range

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MPLLive2DPlot"]

Array = np.ndarray[Any, np.dtype[Any]]
# At most, along each side: they take most of the time of drawing.
TICKS = 6


class MPLLive2DPlot(PicturePlot):
    """A live plot drawn by matplotlib.

    In a notebook, the picture is replaced in the output of the cell; with ``%matplotlib widget`` (ipympl), it is a
    figure to zoom into, with ``%matplotlib qt`` or ``tk`` a window. In a program that has imported pyplot, it is a
    figure of pyplot: a window that is seen from the first picture on after ``pyplot.ion()``, else with
    ``pyplot.show()``. Elsewhere it is a figure in memory, `figure`, to be saved.

    What is not there yet is grey, and the colours span what is there. Of large pictures, every second, third, ... pixel
    is shown until the run is over, as many as fit the screen. A channel may be a function that gives colours, of shape
    (y, x, 3) or (y, x, 4): floats from 0 to 1, or uint8.

    Parameters
    ----------
    dataset, udf, roi, channel, title, min_delta, udfresult
        See `Live2DPlot`.
    **kwargs
        For `matplotlib.axes.Axes.imshow`.

    Examples
    --------
    >>> from tilework.udf.sumsigudf import SumSigUDF
    >>> udf = SumSigUDF()
    >>> plot = MPLLive2DPlot(ds, udf, channel="intensity", cmap="gray")
    >>> plot.display()
    >>> _ = ctx.run_udf(dataset=ds, udf=udf, plots=[plot])
    >>> plot.figure.savefig("intensity.png")
    """

    _shows_colors = True

    def __init__(
        self,
        dataset: Any,
        udf: Any,
        roi: Any = None,
        channel: Channel = None,
        title: str | None = None,
        min_delta: float = 0.5,
        udfresult: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require_matplotlib()
        super().__init__(dataset, udf, roi, channel, title, min_delta, udfresult)
        # A norm is scaled to what is shown; that of the caller may belong to other figures.
        self._kwargs = {**kwargs, "norm": deepcopy(kwargs.get("norm"))}
        self._given = tuple(kwargs.get(end, getattr(kwargs.get("norm"), end, None)) for end in ("vmin", "vmax"))
        self._handle: Any = None
        self.figure: Any = None
        self.axes: Any = None
        self._image: Any = None
        self._bar: _Bar | None = None
        self._bar_axes: Any = None
        self._painter: Painter | None = None
        self._on_screen = False

    @property
    def fig(self) -> Any:
        """The `figure`, under the name that it has in LiberTEM."""
        return self.figure

    @property
    def im_obj(self) -> Any:
        """The picture in the figure, a `matplotlib.image.AxesImage`; None before `display`."""
        return self._image

    def display(self) -> None:
        """Bring the plot to the screen; a run calls this itself, if nobody has.

        Returns nothing: at the end of a cell, a notebook would show `figure` once more, as it is then.
        """
        notebook = notebook_display()
        pyplot: Any = sys.modules.get("matplotlib.pyplot")
        # Pictures in the output of a cell are made here, without a backend of pyplot.
        as_pictures = notebook is not None and not _has_place(pyplot)
        if pyplot is not None and not as_pictures:
            # In a notebook, what is interactive would be shown at the end of the cell, when the run is over.
            with nullcontext() if notebook is None else pyplot.ioff():
                self.figure, self.axes = pyplot.subplots(layout="constrained")
        else:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            self.figure = Figure(layout="constrained")
            FigureCanvasAgg(self.figure)
            self.axes = self.figure.add_subplot()
        with silent(self.figure):
            self._fill()
            if as_pictures or _is_web(self.figure.canvas):
                self._painter = Painter(self._image, self._bar_axes)
            if as_pictures:
                self._handle = notebook.display(self._picture(notebook, anew=True), display_id=True)
            elif notebook is not None:
                self._show(notebook)
        if notebook is None and pyplot is not None and pyplot.isinteractive():
            self.figure.show()
        # A figure in memory is drawn when it is saved.
        self._on_screen = notebook is not None or self.figure.canvas.required_interactive_framework is not None
        # Shown just now, although there is nothing yet.
        self.last_update = time.monotonic()
        self.is_displayed = True

    def _fill(self) -> None:
        """Put a picture of nothing into the figure, with a bar of colours that is not seen before there is data."""
        shown = self._values(np.zeros(self.data.shape, dtype=bool), whole=True)
        aspect = pixel_aspect(shown.shape[:2])
        options = {
            "interpolation": "nearest",
            "aspect": aspect,
            **self._kwargs,
            "cmap": get_colormap(self._kwargs.get("cmap")),
        }
        self._image = self.axes.imshow(shown, **options)
        # Stays what it is when fewer pixels are shown.
        self._image.set_extent(self._image.get_extent())
        # Without a height, one is found each time that it is drawn, by all the labels.
        self.axes.set_title(self.title, y=1.0)
        self.axes.locator_params(nbins=TICKS, integer=True, min_n_ticks=1)
        if self._kwargs.get("norm") is None:
            self._bar = _Bar(self.axes, self._image)
            self._bar_axes = self._bar.axes
        else:
            self._image.norm.autoscale([0.1, 0.9])  # for want of data, what each norm can show
            self._bar_axes = self.figure.colorbar(self._image, ax=self.axes).ax
        self._bar_axes.set_visible(False)
        self._find_places(last=False)

    def update(self, damage: Array, force: bool = False) -> None:
        """Show `data`; before `display`, warn and do nothing."""
        if not self.is_displayed:
            msg = f"the plot {self.title!r} is not on the screen: call display() first"
            warnings.warn(msg, stacklevel=outside_level())
            return
        shown = self._values(damage, whole=force)
        # Others have changed something, such as what is seen of the picture.
        anew = self.figure.stale
        with silent(self.figure):
            self._image.set_data(shown)
            if not self.is_colors:
                found = self._range_of(shown)
                limits = (own if given is None else given for own, given in zip(found, self._given, strict=True))
                self._image.set_clim(*limits)
                self._bar_axes.set_visible(True)
            self._find_places(last=force)
            if self._on_screen:
                self._bring(anew=anew, is_last=force)
        if force and self._painter is not None:
            self._painter.release()

    def _values(self, damage: Array, *, whole: bool) -> Any:
        """Return what the image is made of: values, masked where they are not there; colours, which are grey there."""
        values, there = self.to_show(damage, whole=whole)
        if not self.is_colors:
            return np.ma.array(values, mask=~there)
        neutral = np.array([*NEUTRAL, 1.0][: values.shape[2]])
        if values.dtype.kind in "ui":
            neutral = np.rint(neutral * 255).astype(values.dtype)
        return np.where(there.all(axis=2, keepdims=True), values, neutral)

    def _show(self, notebook: Any) -> None:
        """Show a figure of pyplot in the output of a cell that goes on."""
        canvas = self.figure.canvas
        if hasattr(canvas, "model_id"):
            # A widget; displayed by itself, it would draw and add a second picture of nothing, for documents.
            view = {"version_major": 2, "version_minor": 0, "model_id": canvas.model_id}
            notebook.display({"text/plain": self.title, "application/vnd.jupyter.widget-view+json": view}, raw=True)
        else:
            self.figure.show()
        if self._painter is not None:
            canvas.manager.resize(*self.figure.bbox.size)
        self._bring(anew=True)

    def _bring(self, *, anew: bool, is_last: bool = False) -> None:
        """Bring the figure to the screen, although the cell of a notebook is not over."""
        canvas = self.figure.canvas
        if self._painter is None:
            canvas.draw_idle()
            canvas.flush_events()
        elif self._handle is None:
            _push(canvas, self._painter.draw(anew=anew), is_last=is_last)
        else:
            self._handle.update(self._picture(notebook_display(), anew=anew))

    def _picture(self, notebook: Any, *, anew: bool) -> Any:
        """Return the figure as an image for the output of a cell."""
        assert self._painter is not None
        return notebook.Image(data=encode_png(self._painter.draw(anew=anew)), format="png")

    def _range_of(self, shown: np.ma.MaskedArray[Any, Any]) -> tuple[Any, Any]:
        """Return the lowest and the highest value that has a colour."""
        from matplotlib.colors import LogNorm

        if self._kwargs.get("norm") is None:
            return auto_range(shown.filled(0), ~np.ma.getmaskarray(shown))
        norm = self._image.norm
        if isinstance(norm, LogNorm):
            shown = np.ma.masked_less_equal(shown, 0)
        if shown.count():
            norm.autoscale(shown)
        return norm.vmin, norm.vmax

    def _find_places(self, *, last: bool) -> None:
        # That takes longer than all the drawing: where nobody waits for it, and all numbers beside colours are known.
        self.figure.set_layout_engine("constrained" if last and not self._on_screen else "none")


class _Bar:
    """Evenly spaced values and their colours beside a picture; whoever makes one keeps it.

    matplotlib's own bar makes itself anew for each range, which takes longer than drawing all of the picture.
    """

    def __init__(self, axes: Any, picture: Any) -> None:
        from matplotlib.colorbar import make_axes

        self.axes, _ = make_axes(axes)
        self._colors = self.axes.imshow(
            np.linspace(0, 1, 256)[:, None], cmap=picture.cmap, origin="lower", aspect="auto"
        )
        self.axes.set_xticks([])
        self.axes.yaxis.tick_right()
        self.axes.yaxis.set_offset_position("right")
        self.axes.locator_params(axis="y", nbins=TICKS)
        picture.callbacks.connect("changed", self._follow)  # which does not keep this object alive
        self._follow(picture)

    def _follow(self, picture: Any) -> None:
        low, high = picture.get_clim()
        if low == high:
            around = 0.1 * abs(low) or 0.1
            low, high = low - around, high + around
        self._colors.set_extent((0, 1, low, high))
        self.axes.set_ylim(low, high)
        self._colors.set_cmap(picture.cmap)


def _is_web(canvas: Any) -> bool:
    """Return whether a browser shows this canvas, as with ipympl."""
    web: Any = sys.modules.get("matplotlib.backends.backend_webagg_core")
    return web is not None and isinstance(canvas, web.FigureCanvasWebAggCore)


def _push(canvas: Any, pixels: Array, *, is_last: bool = False) -> None:
    """Send pixels to a browser, which would be told to ask for them, and get them when the cell is over."""
    png = encode_png(pixels)
    canvas.set_image_mode("full")
    is_without_browser = getattr(canvas, "syncing_data_url", False)
    if is_without_browser:
        # It would encode a picture for documents that have no kernel, each time, and send that instead.
        canvas.syncing_data_url = False
    for socket in canvas.manager.web_sockets:
        socket.send_binary(png)
    canvas._force_full = True  # it would send differences to what it sent itself
    if is_without_browser:
        canvas.syncing_data_url = True
        if is_last:
            canvas._data_url = f"data:image/png;base64,{b64encode(png).decode()}"


def _has_place(pyplot: Any) -> bool:
    """Return whether figures of pyplot are widgets of the notebook, as with ``%matplotlib widget``, or windows."""
    if pyplot is None:
        return False
    backend: str = pyplot.get_backend()
    kinds = ("ipympl", "widget", "nbagg", "qt", "tk", "gtk", "wx", "macosx")
    return backend.lower().removeprefix("module://").startswith(kinds)
