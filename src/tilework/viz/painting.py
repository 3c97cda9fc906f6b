"""Drawing again and again what has changed of a figure, and its pixels as a file, in a few milliseconds each.

Titles, ticks and their labels take most of the time that matplotlib draws. They stay while a picture changes: so they
are drawn once, and kept as pixels, onto which the picture is drawn with all that lies above it, and its bar of colours.
"""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Painter", "encode_png", "silent"]

# Markers of ticks, see `matplotlib.markers`, which is imported when it is needed.
TICK_LEFT, TICK_DOWN = 0, 3
# Of zlib: looks for nothing but repetitions, of which figures are full.
_RUN_LENGTHS = 3


class Painter:
    """Draws a figure with a picture and a bar of colours, which change; the figure is drawn in memory (Agg).

    Everything is drawn anew where something else was changed, or drawn by others: users add what they like, and zoom.

    Parameters
    ----------
    picture
        The image, in its axes.
    bar
        The axes beside it.
    """

    def __init__(self, picture: Any, bar: Any) -> None:
        self._picture = picture
        self._axes = picture.axes
        self._bar = bar
        self._figure = picture.axes.figure
        self._ground: Any = None
        self._renderer: Any = None
        self._n_parts = self._count()
        # Somebody else draws, such as a user who zooms in.
        self._figure.canvas.mpl_connect("draw_event", self.release)

    def draw(self, *, anew: bool) -> NDArray[np.uint8]:
        """Draw the figure, and return its pixels, (y, x, 4), which are valid until it is drawn again.

        Parameters
        ----------
        anew
            Whether more has changed than the picture and its bar.
        """
        renderer = self._figure.canvas.get_renderer()
        if self._is_simple():
            if anew or self._ground is None or self._renderer is not renderer:
                self._draw_ground(renderer)
            renderer.restore_region(self._ground)
            for part in self._parts():
                part.draw(renderer)
            for part in (self._axes, self._figure):
                part.stale = False
        else:
            renderer.clear()
            self._figure.draw(renderer)
        return np.asarray(renderer.buffer_rgba())

    def _draw_ground(self, renderer: Any) -> None:
        changing = [part for part in self._parts() if part.get_visible()]
        for part in changing:
            part.set_visible(False)
        try:
            renderer.clear()
            self._figure.draw(renderer)
        finally:
            for part in changing:
                part.set_visible(True)
        self._ground, self._renderer = renderer.copy_from_bbox(self._figure.bbox), renderer

    def _parts(self) -> tuple[Any, ...]:
        """Return what changes, and what lies above that, from below."""
        return self._picture, *self._axes.spines.values(), self._bar

    def release(self, event: Any = None) -> None:  # noqa: ARG002  (which matplotlib gives)
        """Free the pixels that are kept."""
        self._ground = None

    def _is_simple(self) -> bool:
        """Return whether nothing but its frame lies above the picture."""
        return self._count() == self._n_parts and all(map(_lies_outside, (self._axes.xaxis, self._axes.yaxis)))

    def _count(self) -> tuple[int, int]:
        return len(self._figure.get_children()), len(self._axes.get_children())


def _lies_outside(axis: Any) -> bool:
    """Return whether ticks of this axis, and lines of a grid, are nowhere above the picture."""
    tick = axis.get_major_ticks(1)[0]
    is_above = tick.gridline.get_visible() or tick.tick2line.get_visible()
    return not is_above and tick.tick1line.get_marker() in {TICK_LEFT, TICK_DOWN}


@contextmanager
def silent(figure: Any) -> Iterator[None]:
    """Keep pyplot from asking for a picture with every change."""
    callback, figure.stale_callback = figure.stale_callback, None
    try:
        yield
    finally:
        figure.stale_callback = callback


def encode_png(rgba: NDArray[np.uint8]) -> bytes:
    """Return pixels as a PNG file; smaller files would take as long to make as the rest of the drawing.

    Parameters
    ----------
    rgba
        uint8, (y, x, 4). Where nothing is transparent, that is left out: it takes a third of the time.
    """
    from PIL import Image

    image = Image.fromarray(rgba)
    if rgba[..., 3].min(initial=255) == 255:
        image = image.convert("RGB")
    file = BytesIO()
    image.save(file, format="png", compress_level=1, compress_type=_RUN_LENGTHS)
    return file.getvalue()
