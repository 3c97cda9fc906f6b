"""Live plots with matplotlib: in notebooks, and in windows where pyplot is in use."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.viz.colors import colormap, require_matplotlib
from tilework.viz.live import Channel, Live2DPlot
from tilework.viz.pixels import auto_range

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MPLLive2DPlot"]

Array = np.ndarray[Any, np.dtype[Any]]


class MPLLive2DPlot(Live2DPlot):
    """A live plot drawn by matplotlib.

    In a notebook, the picture is replaced in the output of the cell. In a program that has imported pyplot, it is a
    figure of pyplot, so that it has a window where there is a screen. Elsewhere it is a figure in memory, `figure`, to
    be saved.

    Parameters
    ----------
    dataset, udf, roi, channel, title, min_delta, udfresult
        See `Live2DPlot`.
    **kwargs
        For `matplotlib.axes.Axes.imshow`.
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

    def display(self) -> Any:
        """Bring the plot to the screen; needed before `update`.

        Returns
        -------
        matplotlib.figure.Figure
        """
        shell = _notebook()
        pyplot = sys.modules.get("matplotlib.pyplot")
        if shell is None and pyplot is not None:
            self.figure, self.axes = pyplot.subplots(layout="constrained")
        else:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            self.figure = Figure(layout="constrained")
            FigureCanvasAgg(self.figure)
            self.axes = self.figure.add_subplot()
        shown = self._shown(np.zeros(self.data.shape, dtype=bool))
        options = {"cmap": colormap(self._kwargs.get("cmap")), "interpolation": "nearest"}
        self._image = self.axes.imshow(shown, **{**self._kwargs, **options})
        self.axes.set_title(self.title)
        self.figure.colorbar(self._image, ax=self.axes)
        if shell is not None:
            self._handle = shell.display(self.figure, display_id=True)
        elif pyplot is not None and pyplot.isinteractive():
            self.figure.show()
        return self.figure

    def update(self, damage: Array, force: bool = False) -> None:  # noqa: ARG002
        """Show `data`; before `display`, warn and do nothing."""
        if self._image is None:
            warnings.warn(f"the plot {self.title!r} is not on the screen: call display() first", stacklevel=3)
            return
        shown = self._shown(damage)
        self._image.set_data(shown)
        self._image.set_clim(
            *(
                found if given is None else given
                for found, given in zip(
                    auto_range(shown.filled(0), damage),
                    (self._kwargs.get("vmin"), self._kwargs.get("vmax")),
                    strict=True,
                )
            )
        )
        if self._handle is not None:
            self._handle.update(self.figure)
        else:
            self.figure.canvas.draw_idle()
            self.figure.canvas.flush_events()

    def _shown(self, there: Array) -> np.ma.MaskedArray[Any, Any]:
        values = np.abs(self.data) if np.iscomplexobj(self.data) else self.data
        return np.ma.array(values, mask=~there)


def _notebook() -> Any:
    """Return `IPython.display` when this runs in a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from importlib import import_module

    return import_module("IPython.display")
