"""Drawing what has changed: the pixels are those of a figure that is drawn as a whole."""

from __future__ import annotations

import sys
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tilework.api import Context
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz.mpl import MPLLive2DPlot
from tilework.viz.painting import Painter, encode_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def without_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are in memory, also when another test has imported pyplot, and chosen a backend."""
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    """An inline context."""
    with Context.make_with("inline") as ctx:
        yield ctx


@pytest.fixture(scope="module")
def dataset(context: Context) -> Any:
    """Counts that grow row by row, in six partitions of two rows."""
    data = np.random.default_rng(0).poisson(9, (12, 10, 4, 4)) * np.arange(1, 13)[:, None, None, None] ** 2
    return context.load("memory", data=data.astype(np.float32), num_partitions=6)


class Watched:
    """A plot, and what is drawn of it."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        self.udf = SumSigUDF()
        self.plot = MPLLive2DPlot(dataset, self.udf, min_delta=0, **options)
        self.plot.display()
        self.figure = self.plot.figure
        axes, bar = self.figure.axes
        self.painter = Painter(axes.images[0], bar)
        self.n_drawn = 0
        self.figure.canvas.mpl_connect("draw_event", self._note)

    def _note(self, event: Any) -> None:
        self.n_drawn += 1

    def pixels(self, *, anew: bool = False) -> np.ndarray:
        """Return what the painter draws."""
        return self.painter.draw(anew=anew).copy()

    def whole(self) -> np.ndarray:
        """Return what matplotlib draws."""
        self.figure.set_layout_engine("none")
        self.figure.canvas.draw()
        return np.asarray(self.figure.canvas.buffer_rgba()).copy()


def nothing(axes: Any) -> None:
    pass


def grid(axes: Any) -> None:
    axes.grid(visible=True)


def ticks_inside(axes: Any) -> None:
    axes.tick_params(direction="in")


def line(axes: Any) -> None:
    axes.plot([0, 9], [0, 11], color="red")


def text(axes: Any) -> None:
    axes.figure.text(0.5, 0.5, "here")


@pytest.mark.parametrize("change", [nothing, grid, ticks_inside, line, text])
@pytest.mark.parametrize(
    "options", [{}, {"norm": "log"}, {"alpha": 0.5}, {"interpolation": "bilinear", "origin": "lower"}], ids=str
)
def test_pixels_are_those_of_the_whole_figure(
    context: Context, dataset: Any, options: Any, change: Callable[[Any], None]
) -> None:
    """Of every partial result, also when somebody has drawn above the picture."""
    seen, other = Watched(dataset, **options), Watched(dataset, **options)
    drawn: list[np.ndarray] = []
    whole: list[np.ndarray] = []
    for watched in (seen, other):
        change(watched.figure.axes[0])
        for _ in context.run_udf_iter(dataset=dataset, udf=watched.udf, plots=[watched.plot]):
            watched.figure.set_layout_engine("none")
            if watched is seen:
                drawn.append(watched.pixels(anew=not drawn))
            else:
                whole.append(watched.whole())
    np.testing.assert_array_equal(drawn, whole)
    assert len(drawn) == 6
    assert all((a != b).any() for a, b in pairwise(drawn))


def test_the_rest_is_drawn_once(context: Context, dataset: Any) -> None:
    """Until somebody draws the figure, as zooming does, or its size is another."""
    seen = Watched(dataset)
    for step in context.run_udf_iter(dataset=dataset, udf=seen.udf, plots=[seen.plot]):
        seen.pixels()
        assert not seen.figure.stale, step
    assert seen.n_drawn == 1
    seen.figure.axes[0].set_xlim(2, 5)
    assert seen.figure.stale
    zoomed = seen.whole()
    np.testing.assert_array_equal(seen.pixels(), zoomed)
    assert seen.n_drawn == 3
    seen.figure.set_size_inches(3, 3)
    assert seen.pixels().shape == (300, 300, 4)
    assert seen.n_drawn == 4


def test_png() -> None:
    """Pillow reads what was encoded, transparent pixels included."""
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 4), (7, 3, 4), (40, 60, 4)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        image = Image.open(BytesIO(encode_png(pixels)))
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), pixels)
        pixels[..., 3] = 255
        image = Image.open(BytesIO(encode_png(pixels)))
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels[..., :3])
