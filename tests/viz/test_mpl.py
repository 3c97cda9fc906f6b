"""Live plots with matplotlib: what the figure shows of results, in which colours, and where it appears."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.udf import UDF
from tilework.udf.sum import SumUDF
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz.colors import NEUTRAL
from tilework.viz.mpl import MPLLive2DPlot

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    """An inline context."""
    with Context.make_with("inline") as ctx:
        yield ctx


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """Counts (6, 5, 8, 7)."""
    return np.random.default_rng(0).poisson(9, (6, 5, 8, 7)).astype(np.uint16)


@pytest.fixture(scope="module")
def dataset(context: Context, data: np.ndarray) -> Any:
    """`data` in several partitions."""
    return context.load("memory", data=data, num_partitions=5)


def test_pictures_of_a_part(context: Context, dataset: Any, data: np.ndarray) -> None:
    """What is missing is masked, and the colours span what is there, not the zeros or NaN of the rest."""
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), min_delta=0)
    plot.display()
    figure = plot.figure
    steps = context.run_udf_iter(dataset=dataset, udf=udf, plots=[plot])
    there = next(steps).damage.data.copy()
    steps.close()
    image = figure.axes[0].images[0]
    assert (plot.fig, plot.im_obj) == (figure, image)
    np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), there)
    sums = data.sum(axis=(2, 3))[there]
    assert image.get_clim() == (sums.min(), sums.max())
    roi = np.zeros((6, 5), dtype=bool)
    roi[1:3, 1:3] = True
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), roi=roi, min_delta=0)
    plot.display()
    figure = plot.figure
    context.run_udf(dataset=dataset, udf=udf, roi=roi, plots=[plot])
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), roi)
    sums = data.sum(axis=(2, 3))[roi]
    assert image.get_clim() == (sums.min(), sums.max())


def colors(array: Any) -> Any:
    return np.stack([array / 1e4, array / 2e4, np.zeros(array.shape)], axis=-1)


def colors_and_mask(results: Any, damage: Any) -> Any:
    return (colors(results["intensity"].data) * 255).astype("u1"), damage


def test_channels_that_are_colors(context: Context, dataset: Any, data: Any) -> None:
    """They are shown as they are, grey where nothing is yet; plots that cannot show them say so."""
    udf = SumSigUDF()
    roi = np.ones((6, 5), dtype=bool)
    roi[2, 3] = False
    expected = colors(data.sum(axis=(2, 3)).astype("f4"))
    for channel, scale in ((("intensity", colors), 1), (colors_and_mask, 255)):
        plot = MPLLive2DPlot(dataset, udf, roi=roi, channel=channel)
        context.run_udf(dataset=dataset, udf=udf, roi=roi, plots=[plot])
        shown = np.asarray(plot.axes.images[0].get_array())
        np.testing.assert_allclose(shown[roi], expected[roi] * scale, atol=1e-6 * scale + (scale > 1))
        np.testing.assert_allclose(shown[2, 3], np.array(NEUTRAL) * scale, atol=scale / 100)
        plot.figure.canvas.draw()


def test_pictures_of_few_lines_are_stretched(context: Context) -> None:
    """They would be a mere line; not where the caller says how they are shown."""
    dataset = context.load("memory", data=np.ones((2, 600, 4, 4), dtype=np.uint8))
    plot = MPLLive2DPlot(dataset, SumSigUDF())
    plot.display()
    context.run_udf(dataset=dataset, udf=plot.udf, plots=[plot])
    plot.figure.canvas.draw()
    box = plot.axes.get_window_extent()
    assert box.height / box.width == pytest.approx(1 / 8)
    plot = MPLLive2DPlot(dataset, SumSigUDF(), aspect="equal")
    plot.display()
    plot.figure.canvas.draw()
    assert plot.axes.get_window_extent().height < 3


def test_large_pictures_are_shown_in_parts(context: Context) -> None:
    """Every third pixel while data comes in, at the same places; all of them in the end."""
    data = np.random.default_rng(0).poisson(9, (1, 4, 1300, 1100)).astype(np.uint16)
    data[..., 600:, :] += 100
    dataset = context.load("memory", data=data, num_partitions=4)
    plot = MPLLive2DPlot(dataset, udf := SumUDF(), min_delta=0)
    plot.display()
    figure = plot.figure
    image = figure.axes[0].images[0]
    steps = context.run_udf_iter(dataset=dataset, udf=udf, plots=[plot])
    first = next(steps).buffers[0]["intensity"].data
    extent, limits = image.get_extent(), figure.axes[0].get_ylim()
    np.testing.assert_array_equal(image.get_array(), first[::3, ::3])
    for _ in steps:
        pass
    np.testing.assert_array_equal(image.get_array(), data.sum(axis=(0, 1)))
    assert (
        (image.get_extent(), figure.axes[0].get_ylim())
        == (extent, limits)
        == ([-0.5, 1099.5, 1299.5, -0.5], (1299.5, -0.5))
    )


def test_mpl(context: Context, dataset: Any, data: np.ndarray) -> None:
    """The figure shows the result; without a notebook or pyplot it is a figure in memory."""
    udf = SumSigUDF()
    plot = MPLLive2DPlot(dataset, udf, min_delta=0, cmap="inferno")
    with pytest.warns(UserWarning, match="call display"):
        plot.new_data(context.run_udf(dataset=dataset, udf=udf), np.ones((6, 5), bool))
    plot.display()
    figure = plot.figure
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), data.sum(axis=(2, 3)))
    assert image.get_clim() == (data.sum(axis=(2, 3)).min(), data.sum(axis=(2, 3)).max())
    assert image.get_cmap().name == "inferno"
    assert figure.axes[0].get_title() == "SumSigUDF: intensity"


@pytest.mark.parametrize("options", [{}, {"norm": "log"}], ids=["linear", "logarithmic"])
def test_colors_beside_the_picture(context: Context, dataset: Any, options: Any) -> None:
    """They span what is shown; they are not seen before there is data."""
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), min_delta=0, **options)
    plot.display()
    axes, bar = plot.figure.axes

    assert not bar.get_visible()
    for step in context.run_udf_iter(dataset=dataset, udf=udf, plots=[plot]):
        assert bar.get_ylim() == pytest.approx(axes.images[0].get_clim())
        assert bar.get_yscale() == options.get("norm", "linear")
        assert bar.get_visible(), step
    assert bar.get_ylim()[0] < bar.get_ylim()[1]
    axes.images[0].set_cmap("inferno")
    assert {image.get_cmap().name for image in bar.images} <= {"inferno"}
    # The frame of matplotlib's own bar is another one.
    assert sum(spine.get_visible() for spine in bar.spines.values()) == (1 if options else 4)


def test_a_norm_of_matplotlib(context: Context) -> None:
    """It shows what it can, and has the limits that it is given."""
    from matplotlib.colors import LogNorm, TwoSlopeNorm

    data = np.zeros((4, 4, 1, 1))
    data[2:] = np.arange(8).reshape(2, 4, 1, 1)
    dataset = context.load("memory", data=data, sig_dims=2, num_partitions=2)
    for options, expected in (
        ({"norm": "log"}, (1, 7)),
        ({"norm": LogNorm(vmax=100)}, (1, 100)),
        ({"norm": "log", "vmin": 0.5}, (0.5, 7)),
        ({"norm": TwoSlopeNorm(vcenter=2)}, (0, 7)),
    ):
        plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), min_delta=0, **options)
        plot.display()
        plot.figure.canvas.draw()
        for _ in context.run_udf_iter(dataset=dataset, udf=udf, plots=[plot]):
            plot.figure.canvas.draw()
        assert plot.figure.axes[1].get_ylim() == pytest.approx(expected), options


def test_a_norm_of_the_caller_stays_as_it_is(context: Context) -> None:
    """It may belong to several plots, and to a figure that is there already."""
    from matplotlib.colors import LogNorm

    dataset = context.load("memory", data=np.arange(8, dtype=np.float32).reshape(4, 2, 1, 1))
    norm = LogNorm()
    changes: list[bool] = []
    norm.callbacks.connect("changed", lambda: changes.append(True))
    for _ in range(2):
        plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), norm=norm)
        context.run_udf(dataset=dataset, udf=udf, plots=[plot])
        assert plot.figure.axes[0].images[0].get_clim() == (1, 7)
    assert (norm.vmin, norm.vmax, changes) == (None, None, [])


def test_a_norm_of_numbers_below_one(context: Context) -> None:
    """It has a picture also while there is no data."""
    data = np.linspace(0.1, 0.9, 16).reshape(4, 4, 1, 1)
    dataset = context.load("memory", data=data, sig_dims=2)
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), norm="logit")
    plot.display()
    plot.figure.canvas.draw()
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert plot.figure.axes[1].get_ylim() == pytest.approx((0.1, 0.9))


def test_colors_of_equal_values(context: Context) -> None:
    """Some values around them are shown."""
    for value, expected in ((0, (-0.1, 0.1)), (-8, (-8.8, -7.2))):
        dataset = context.load("memory", data=np.full((4, 4, 1, 1), value, dtype=np.float64), sig_dims=2)
        plot = MPLLive2DPlot(dataset, udf := SumSigUDF())
        context.run_udf(dataset=dataset, udf=udf, plots=[plot])
        assert plot.figure.axes[1].get_ylim() == pytest.approx(expected)


@pytest.mark.parametrize("options", [{}, {"norm": "symlog"}])
def test_values_whose_span_is_no_number(context: Context, options: Any) -> None:
    """Sentinels cost no results; beyond all that can be drawn, they have the colours of the ends."""
    largest = np.finfo(np.float64).max
    dataset = context.load("memory", data=np.array([[-largest, 0], [1, largest]]).reshape(2, 2, 1, 1), sig_dims=2)
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF(), **options)
    result = context.run_udf(dataset=dataset, udf=udf, plots=[plot])["intensity"]
    assert result.data.max() == largest
    plot.figure.canvas.draw()
    (low, zero), (one, high) = plot.im_obj.norm(plot.im_obj.get_array()).tolist()
    assert (low, high) == (0, 1)
    assert zero == pytest.approx(0.5)
    assert one == pytest.approx(0.5, abs=0.01)


def test_a_run_displays_what_is_not_displayed(context: Context, dataset: Any, data: np.ndarray) -> None:
    """Before it begins, and once."""
    plot = MPLLive2DPlot(dataset, udf := SumSigUDF())
    figures: list[Any] = []
    for _ in range(2):
        context.run_udf(dataset=dataset, udf=udf, plots=[plot])
        np.testing.assert_array_equal(plot.axes.images[0].get_array(), data.sum(axis=(2, 3)))
        figures.append(plot.figure)
    assert figures[0] is figures[1]


def test_mpl_keyword_arguments(dataset: Any) -> None:
    """Those of the user win."""
    plot = MPLLive2DPlot(dataset, SumSigUDF(), interpolation="bilinear", origin="lower")
    plot.display()
    (image,) = plot.figure.axes[0].images
    assert (image.get_interpolation(), image.origin) == ("bilinear", "lower")
    plot = MPLLive2DPlot(dataset, SumSigUDF())
    plot.display()
    (image,) = plot.figure.axes[0].images
    assert image.get_interpolation() == "nearest"


class Phases(UDF):
    """Complex results."""

    def get_result_buffers(self) -> Any:
        return {"wave": self.buffer(kind="nav", dtype="complex64")}

    def process_frame(self, frame: Any) -> None:
        self.results.wave[:] = -2j * frame.sum()


def test_complex_results(context: Context, dataset: Any, data: np.ndarray) -> None:
    """What is shown is the magnitude, as the title says."""
    plot = MPLLive2DPlot(dataset, udf := Phases())
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert plot.axes.get_title() == "Phases: magnitude of wave"
    np.testing.assert_allclose(plot.axes.images[0].get_array(), 2.0 * data.sum(axis=(2, 3)))
    assert MPLLive2DPlot(dataset, Phases(), channel=("wave", np.angle)).title == "Phases: angle(wave)"
    assert MPLLive2DPlot(dataset, Phases(), title="mine").title == "mine"


def test_mpl_as_part_of_a_program_with_pyplot(context: Context, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyplot is in use, the figure belongs to it, so that it gets a window."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", plt)
    plot = MPLLive2DPlot(dataset, SumUDF())
    plot.display()
    figure = plot.figure
    assert figure.number in plt.get_fignums()
    plt.close(figure)
