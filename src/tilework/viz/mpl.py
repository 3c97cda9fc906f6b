"""Live plots with matplotlib: in notebooks, and in windows where pyplot is in use."""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.viz.colors import colormap, require_matplotlib
from tilework.viz.live import Channel, PicturePlot, notebook_display
from tilework.viz.pixels import auto_range

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MPLLive2DPlot"]

Array = np.ndarray[Any, np.dtype[Any]]


class MPLLive2DPlot(PicturePlot):
    """A live plot drawn by matplotlib.

    In a notebook, the picture is replaced in the output of the cell; with ``%matplotlib widget`` (ipympl), it is a
    figure to zoom into. In a program that has imported pyplot, it is a figure of pyplot, so that it has a window where
    there is a screen. Elsewhere it is a figure in memory, `figure`, to be saved.

    What is not there yet is grey, and the colours span what is there. Of large pictures, every second, third, ... pixel
    is shown until the run is over, as many as fit the screen.

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
    >>> _ = plot.display()
    >>> _ = ctx.run_udf(dataset=ds, udf=udf, plots=[plot])
    >>> plot.figure.savefig("intensity.png")
    """

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
        self._kwargs = kwargs
        self._handle: Any = None
        self.figure: Any = None
        self.axes: Any = None
        self._image: Any = None
        self._on_screen = False

    def display(self) -> Any:
        """Bring the plot to the screen; a run does that unless it is done.

        Returns
        -------
        matplotlib.figure.Figure
        """
        notebook = notebook_display()
        pyplot: Any = sys.modules.get("matplotlib.pyplot")
        # Pictures in the output of a cell are made here, without a backend of pyplot.
        as_pictures = notebook is not None and not _is_interactive(pyplot)
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
        values, there = self.to_show(np.zeros(self.data.shape, dtype=bool), whole=True)
        shown = np.ma.array(values, mask=~there)
        options = {"interpolation": "nearest", **self._kwargs, "cmap": colormap(self._kwargs.get("cmap"))}
        self._image = self.axes.imshow(shown, **options)
        # Stays what it is when fewer pixels are shown.
        self._image.set_extent(self._image.get_extent())
        self.axes.set_title(self.title)
        self.figure.colorbar(self._image, ax=self.axes)
        self._find_places(last=False)
        if as_pictures:
            self._handle = notebook.display(self._picture(notebook), display_id=True)
        elif notebook is not None:
            _show(self.figure, notebook, self.title)
        elif pyplot is not None and pyplot.isinteractive():
            self.figure.show()
        # A figure in memory is drawn when it is saved.
        self._on_screen = notebook is not None or self.figure.canvas.required_interactive_framework is not None
        # Shown just now, although there is nothing yet.
        self.last_update = time.monotonic()
        self.is_displayed = True
        return self.figure

    def update(self, damage: Array, force: bool = False) -> None:
        """Show `data`; before `display`, warn and do nothing."""
        if not self.is_displayed:
            warnings.warn(f"the plot {self.title!r} is not on the screen: call display() first", stacklevel=3)
            return
        values, there = self.to_show(damage, whole=force)
        shown = np.ma.array(values, mask=~there)
        self._image.set_data(shown)
        self._image.set_clim(
            *(
                found if given is None else given
                for found, given in zip(
                    auto_range(shown.filled(0), there),
                    (self._kwargs.get("vmin"), self._kwargs.get("vmax")),
                    strict=True,
                )
            )
        )
        self._find_places(last=force)
        if self._handle is not None:
            self._handle.update(self._picture(notebook_display()))
        elif self._on_screen:
            _push(self.figure.canvas, is_last=force)

    def _find_places(self, *, last: bool) -> None:
        # That takes longer than all the drawing: where nobody waits for it, and all numbers beside colours are known.
        self.figure.set_layout_engine("constrained" if last and not self._on_screen else "none")

    def _picture(self, notebook: Any) -> Any:
        """Return the figure as an image for the output of a cell."""
        file = BytesIO()
        self.figure.canvas.print_png(file)
        return notebook.Image(data=file.getvalue(), format="png")


def _show(figure: Any, notebook: Any, title: str) -> None:
    """Show a figure of pyplot in the output of a cell that goes on."""
    canvas = figure.canvas
    if hasattr(canvas, "model_id"):
        # A widget; displayed by itself, it would draw and add a second picture of nothing, for documents.
        view = {"version_major": 2, "version_minor": 0, "model_id": canvas.model_id}
        notebook.display({"text/plain": title, "application/vnd.jupyter.widget-view+json": view}, raw=True)
    else:
        figure.show()
    _push(canvas, is_new=True)


def _push(canvas: Any, *, is_new: bool = False, is_last: bool = False) -> None:
    """Draw a figure, and bring it to the screen, although the cell of a notebook is not over."""
    web: Any = sys.modules.get("matplotlib.backends.backend_webagg_core")
    if web is not None and isinstance(canvas, web.FigureCanvasWebAggCore):
        # A browser would be told to ask for the picture, and get it when the cell is over.
        if is_new:
            canvas.manager.resize(*canvas.figure.bbox.size)
        without_kernel = getattr(canvas, "syncing_data_url", False)
        if without_kernel:
            # What documents show that have no kernel is the last picture.
            canvas.syncing_data_url = is_last
        canvas.draw()
        if without_kernel:
            canvas.syncing_data_url = True
    else:
        canvas.draw_idle()
        canvas.flush_events()


def _is_interactive(pyplot: Any) -> bool:
    """Return whether figures of pyplot are widgets of the notebook, as with ``%matplotlib widget``."""
    if pyplot is None:
        return False
    backend: str = pyplot.get_backend()
    return backend.lower().removeprefix("module://").startswith(("ipympl", "widget", "nbagg"))
