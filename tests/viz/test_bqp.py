"""Live plots with bqplot: what the browser is sent, as the widgets hold it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tilework.api import Context
from tilework.exceptions import TileworkError
from tilework.udf.sum import SumUDF
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz.bqp import BQLive2DPlot

# bqplot's own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_run() -> None:
    """Of a part, the rest is NaN and the colours span what is there; in the end everything is there."""
    pytest.importorskip("bqplot_image_gl")
    data = np.random.default_rng(0).poisson(9, (6, 5, 8, 7)).astype(np.uint16)
    sums = data.sum(axis=(2, 3))
    with Context.make_with("inline", plot_class=BQLive2DPlot) as ctx:
        dataset = ctx.load("memory", data=data, num_partitions=5)
        plot = BQLive2DPlot(dataset, udf := SumSigUDF(), min_delta=0)
        with pytest.warns(UserWarning, match="call display"):
            plot.new_data(ctx.run_udf(dataset=dataset, udf=udf), np.ones((6, 5), bool))
        plot.display()
        figure = plot.figure
        (image,) = figure.marks
        sent = []
        image.observe(lambda change: sent.append(np.array(change.new)), "image")
        steps = ctx.run_udf_iter(dataset=dataset, udf=udf, plots=[plot])
        there = next(steps).damage.data.copy()
        np.testing.assert_array_equal(np.isnan(image.image), ~there)
        scale = image.scales["image"]
        assert (scale.min, scale.max) == (sums[there].min(), sums[there].max())
        for _ in steps:
            pass
    # The last partial result is the whole one.
    assert len(sent) == 5
    np.testing.assert_array_equal(image.image, sums)
    assert figure.title == "SumSigUDF: intensity"
    assert (list(image.x), list(image.y)) == ([0, 5], [0, 6])
    assert figure.axes[1].scale.reverse


def test_values_that_browsers_cannot_show() -> None:
    """They compute in float32, and what is beyond that is shown as its end."""
    pytest.importorskip("bqplot_image_gl")
    largest = np.finfo(np.float64).max
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=np.array([[-largest, 0], [1, largest]]).reshape(2, 2, 1, 1), sig_dims=2)
        plot = BQLive2DPlot(dataset, udf := SumSigUDF())
        ctx.run_udf(dataset=dataset, udf=udf, plots=[plot])
    (image,) = plot.figure.marks
    scale = image.scales["image"]
    assert np.isfinite(np.float32(scale.max) - np.float32(scale.min))
    np.testing.assert_allclose(image.image, [[scale.min, 0], [1, scale.max]], rtol=1e-6)


def test_a_run_displays_what_is_not_displayed() -> None:
    pytest.importorskip("bqplot_image_gl")
    data = np.random.default_rng(0).poisson(9, (6, 5, 8, 7)).astype(np.uint16)
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=data)
        plot = BQLive2DPlot(dataset, udf := SumSigUDF())
        ctx.run_udf(dataset=dataset, udf=udf, plots=[plot])
    np.testing.assert_array_equal(plot.figure.marks[0].image, data.sum(axis=(2, 3)))


def test_as_the_class_of_a_context_and_large() -> None:
    """Every third pixel while data comes in, at the same places."""
    pytest.importorskip("bqplot_image_gl")
    made: list[BQLive2DPlot] = []

    class Kept(BQLive2DPlot):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            self.min_delta = 0
            made.append(self)

    data = np.random.default_rng(0).poisson(9, (1, 2, 1300, 1100)).astype(np.uint16)
    with Context.make_with("inline", plot_class=Kept) as ctx:
        dataset = ctx.load("memory", data=data, num_partitions=2)
        steps = ctx.run_udf_iter(dataset=dataset, udf=SumUDF(), plots=True)
        first = next(steps).buffers[0]["intensity"].data
        (image,) = made[0].figure.marks
        np.testing.assert_array_equal(image.image, first[::3, ::3])
        for _ in steps:
            pass
        np.testing.assert_array_equal(image.image, data.sum(axis=(0, 1)))
        assert (list(image.x), list(image.y)) == ([0, 1100], [0, 1300])


def test_without_bqplot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what to install."""
    monkeypatch.setitem(sys.modules, "bqplot_image_gl", None)
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=np.zeros((2, 2, 4, 4)))
        with pytest.raises(TileworkError, match=r"pip install 'tilework\[bqplot\]'"):
            BQLive2DPlot(dataset, SumUDF())
