"""Live plots: which results can be plotted, what is shown of them while a run goes on, and how often."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.api.plots import _Clocks
from tilework.udf import UDF
from tilework.udf.com import CoMUDF
from tilework.udf.raw import PickUDF
from tilework.udf.stddev import StdDevUDF
from tilework.udf.sum import SumUDF
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz import Dummy2DPlot, Live2DPlot, get_plottable_2D_channels
from tilework.viz.mpl import MPLLive2DPlot

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recorder(Live2DPlot):
    """Keeps what it is told to show."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: list[tuple[np.ndarray, np.ndarray, bool]] = []
        self.displayed = False

    def update(self, damage: Any, force: bool = False) -> None:
        self.shown.append((np.array(self.data), np.array(damage), force))

    def display(self) -> None:
        self.displayed = True


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


def test_plottable_channels(context: Context, dataset: Any) -> None:
    """Two long axes, numbers, not private."""
    results = context.run_udf(dataset=dataset, udf=StdDevUDF())
    assert set(get_plottable_2D_channels(results)) == {"varsum", "sum", "var", "std", "mean"}
    results = context.run_udf(dataset=dataset, udf=CoMUDF.with_params())
    assert "field" not in get_plottable_2D_channels(results)
    assert {"field_y", "magnitude", "curl"} <= set(get_plottable_2D_channels(results))


def test_run_with_plots(context: Context, dataset: Any, data: np.ndarray) -> None:
    """A plot sees partial results grow, and the complete one at the end, forced."""
    udf = SumSigUDF()
    plot = Recorder(dataset, udf)
    assert plot.title == "SumSigUDF: intensity"
    assert plot.get_udf() is udf
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert len(plot.shown) >= 5
    there = [int(damage.sum()) for _, damage, _ in plot.shown]
    assert there == sorted(there)
    last, damage, force = plot.shown[-1]
    assert force
    assert damage.all()
    np.testing.assert_array_equal(last, data.sum(axis=(2, 3)))
    partial, damage, _ = plot.shown[0]
    assert 0 < damage.sum() < 30
    np.testing.assert_array_equal(partial[damage], data.sum(axis=(2, 3))[damage])


def test_sig_results_are_there_as_soon_as_something_is(context: Context, dataset: Any) -> None:
    """A pattern has no missing positions once the first partition is merged."""
    plot = Recorder(dataset, udf := SumUDF())
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert all(damage.all() and damage.shape == (8, 7) for _, damage, _ in plot.shown)


def test_rate_limit(context: Context, dataset: Any) -> None:
    """Between updates passes at least min_delta, but the last one always comes."""
    plot = Recorder(dataset, udf := SumUDF(), min_delta=3600)
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert [force for _, _, force in plot.shown] in ([True], [False, True])


def test_drawing_leaves_the_run_its_time(context: Context, data: np.ndarray) -> None:
    """After a plot has taken its time, the run goes on for many times as long before the next."""
    dataset = context.load("memory", data=data, num_partitions=30)

    class Slow(Recorder):
        def update(self, damage: Any, force: bool = False) -> None:
            time.sleep(0.05)
            super().update(damage, force)

    plot = Slow(dataset, udf := SumSigUDF(), min_delta=1e-9)
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    # 30 partitions take much less than the second and a half that the first drawing has to be followed by.
    assert [force for _, _, force in plot.shown] == [False, True]


def test_the_first_picture_is_not_waited_for(context: Context, dataset: Any) -> None:
    """Making a figure takes far longer than showing new data in it, and says nothing of that."""
    made: list[Recorder] = []

    class SlowToDisplay(Recorder):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.min_delta = 1e-9
            made.append(self)

        def display(self) -> None:
            time.sleep(0.2)

    context.plot_class = SlowToDisplay
    context.run_udf(dataset=dataset, udf=SumSigUDF(), plots=True)
    assert made[0].shown[0][1].sum() == 6


BEGUN = threading.Event()


class Begins(SumSigUDF):
    """Says that the workers have begun."""

    def process_tile(self, tile: Any) -> None:
        BEGUN.set()
        super().process_tile(tile)


def test_workers_do_not_wait_for_plots(data: np.ndarray) -> None:
    """They have begun while plots are still brought to the screen; every plot is there before its data."""
    BEGUN.clear()
    order: list[str] = []

    class Waiting(Recorder):
        def display(self) -> None:
            assert BEGUN.wait(30)
            order.append("displayed")

        def update(self, damage: Any, force: bool = False) -> None:
            order.append("shown")
            super().update(damage, force)

    with Context.make_with("threads", plot_class=Waiting) as ctx:
        dataset = ctx.load("memory", data=data, num_partitions=5)
        ctx.run_udf(dataset=dataset, udf=[Begins(), SumUDF()], plots=True)
    assert order[:3] == ["displayed", "displayed", "shown"]
    assert order.count("displayed") == 2


@pytest.mark.parametrize(
    ("wall", "thread", "process", "lost"),
    [
        (3.3, 0.2, 3.2, 0.3),  # others held the interpreter's lock, and worked
        (0.2, 0.2, 0.6, 0.2),  # others worked on other cores
        (1.0, 0.1, 0.1, 1.0),  # nobody worked, as when drawing waits for something
    ],
)
def test_what_a_run_loses_by_drawing(
    monkeypatch: pytest.MonkeyPatch, wall: float, thread: float, process: float, lost: float
) -> None:
    """The time that drawing takes, but for what other threads do meanwhile."""
    monkeypatch.setattr(_Clocks, "read", lambda: _Clocks(10 + wall, 20 + thread, 30 + process))
    assert _Clocks(10, 20, 30).lost() == pytest.approx(lost)


class FailingLate(SumSigUDF):
    """Raises an error in the last rows."""

    error: BaseException = ArithmeticError("too late")

    def process_tile(self, tile: Any) -> None:
        if self.meta.slice.origin[0] >= 18:
            raise self.error
        super().process_tile(tile)


class Interrupted(FailingLate):
    error = KeyboardInterrupt()


def run_and_break(context: Context, dataset: Any, plots: list[Any]) -> None:
    parts = context.run_udf_iter(dataset=dataset, udf=plots[0].get_udf(), plots=plots)
    for _, _ in zip(range(3), parts, strict=False):
        pass
    del parts


def run_and_fail(context: Context, dataset: Any, plots: list[Any]) -> None:
    with pytest.raises(ArithmeticError, match="too late"):
        context.run_udf(dataset=dataset, udf=plots[0].get_udf(), plots=plots)


def run_and_interrupt(context: Context, dataset: Any, plots: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        context.run_udf(dataset=dataset, udf=plots[0].get_udf(), plots=plots)


@pytest.mark.parametrize(
    ("make", "run"), [(SumSigUDF, run_and_break), (FailingLate, run_and_fail), (Interrupted, run_and_interrupt)]
)
def test_what_is_merged_is_shown_however_the_run_ends(
    context: Context, dataset: Any, data: np.ndarray, make: Any, run: Any
) -> None:
    plot = Recorder(dataset, make(), min_delta=3600)
    plot.last_update = time.monotonic()
    run(context, dataset, [plot])
    ((shown, damage, force),) = plot.shown
    assert force
    assert damage.sum() == 18
    np.testing.assert_array_equal(shown[damage], data.sum(axis=(2, 3))[damage])


def test_data_is_masked_where_it_is_not_there(context: Context, dataset: Any, data: np.ndarray) -> None:
    """So its range, and whatever else a plot of one's own takes of it, are of what was computed."""

    class Ranges(Recorder):
        def update(self, damage: Any, force: bool = False) -> None:
            super().update(damage, force)
            np.testing.assert_array_equal(self.data.mask, ~damage)
            ranges.append((self.data.min(), self.data.filled(-1).min()))

    ranges: list[tuple[Any, Any]] = []
    udf = SumSigUDF()
    plot = Ranges(dataset, udf)
    assert plot.data.mask.all()
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    sums = data.sum(axis=(2, 3))
    assert ranges[0] == (sums.ravel()[:6].min(), -1)
    assert ranges[-1] == (sums.min(), sums.min())


def test_channel_and_udf_may_be_replaced_between_runs(context: Context, dataset: Any, data: np.ndarray) -> None:
    plot = Recorder(dataset, first := StdDevUDF(), channel="std")
    assert (plot.channel, plot.udf, plot.get_udf()) == ("std", first, first)
    plot.channel = "sum"
    context.run_udf(dataset=dataset, udf=first, plots=[plot])
    np.testing.assert_array_equal(plot.data, data.sum(axis=(0, 1)))
    plot.udf, plot.channel = SumSigUDF(), "intensity"
    context.run_udf(dataset=dataset, udf=[first, plot.udf], plots=[plot])
    np.testing.assert_array_equal(plot.data, data.sum(axis=(2, 3)))
    plot.channel = "std"
    with pytest.raises(ValueError, match="no result 'std' to plot, but intensity"):
        context.run_udf(dataset=dataset, udf=[first, plot.udf], plots=[plot])


def test_a_function_stays_the_channel(dataset: Any) -> None:
    """Then the name says which result the function is of, if it is of one."""
    assert Recorder(dataset, StdDevUDF(), channel=("sum", np.sqrt)).channel == "sum"
    assert Recorder(dataset, StdDevUDF(), channel=lambda results, damage: (results["sum"].data, True)).channel is None


def test_who_takes_new_data_in_an_own_way_gets_all_of_it(context: Context, dataset: Any) -> None:
    """Else a plot that shows at the end what it has put off before would not know of it."""

    class Own(Recorder):
        given = 0

        def new_data(self, udf_results: Any, damage: Any, force: bool = False) -> None:
            self.given += 1
            self.last_update = time.time()  # by another clock than ours
            super().new_data(udf_results, damage, force=force)

    plot = Own(dataset, udf := SumUDF(), min_delta=3600)
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert plot.given == 5 + 1


def test_drawing_hides_no_error(context: Context, dataset: Any) -> None:
    """What goes wrong with the last picture of a run that failed is noted with its error."""

    class Broken(Recorder):
        def update(self, damage: Any, force: bool = False) -> None:
            raise OSError("no ink")

    plot = Broken(dataset, udf := FailingLate(), min_delta=3600)
    plot.last_update = time.monotonic()
    with pytest.raises(ArithmeticError, match="too late") as raised:
        context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert any("no ink" in note for note in raised.value.__notes__)
    # The error of a plot that ends the run is raised once.
    with pytest.raises(OSError, match="no ink") as own:
        context.run_udf(dataset=dataset, udf=udf, plots=[Broken(dataset, udf)])
    assert not hasattr(own.value, "__notes__")


def test_an_interrupt_does_not_wait_for_many_pictures(
    context: Context, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilework.api.plots.AFTER_INTERRUPT", 0.1)

    class Slow(Recorder):
        def update(self, damage: Any, force: bool = False) -> None:
            time.sleep(0.2)
            super().update(damage, force)

    udf = Interrupted()
    plots = [Slow(dataset, udf, min_delta=3600) for _ in range(3)]
    for plot in plots:
        plot.last_update = time.monotonic()
    run_and_interrupt(context, dataset, plots)
    assert [len(plot.shown) for plot in plots] == [1, 0, 0]


def test_several_plots_take_turns(context: Context, data: np.ndarray) -> None:
    """One is drawn at a time; those that want everything get it besides."""
    dataset = context.load("memory", data=data, num_partitions=6)
    order: list[str] = []

    class Named(Recorder):
        def update(self, damage: Any, force: bool = False) -> None:
            order.append("last" if force else self.title)
            super().update(damage, force)

    udfs = [SumSigUDF(), SumUDF()]
    plots = [Named(dataset, udfs[0], title=t, min_delta=d) for t, d in (("a", 1e-9), ("b", 1e-9), ("all", 0))]
    for step in context.run_udf_iter(dataset=dataset, udf=udfs, plots=plots):
        assert step.damage.data.any()
        time.sleep(0.05)  # longer than drawing is followed by
    shown = [title for title in order if title in {"a", "b"}]
    assert len(shown) >= 2
    assert shown == ["a", "b", "a", "b", "a", "b"][: len(shown)]
    assert order.count("all") == 6
    assert order[-3:] == ["last"] * 3


def test_channels_of_a_single_function(context: Context, dataset: Any) -> None:
    """A list for each UDF; for one alone, its list will do."""
    made: list[str] = []

    class Named(Dummy2DPlot):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self.title)

    context.plot_class = Named
    flipped = ("mean", lambda m: m[::-1])
    for plots in (["std", flipped], [["std", flipped]]):
        made.clear()
        context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=plots)
        assert made == ["StdDevUDF: std", "StdDevUDF: f(mean)"]
    for mixed in (["mean", ("mean", np.log1p)], [["mean", ["mean", np.log1p]]]):
        made.clear()
        context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=mixed)
        assert made == ["StdDevUDF: mean", "StdDevUDF: log1p(mean)"]
    made.clear()
    context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=[()])
    assert made == []
    with pytest.raises(ValueError, match="for each of the 2 UDFs"):
        context.run_udf(dataset=dataset, udf=[StdDevUDF(), SumUDF()], plots=["std"])
    with pytest.raises(ValueError, match="for each of the 2 UDFs, got 3"):
        context.run_udf(dataset=dataset, udf=[StdDevUDF(), SumUDF()], plots=[["std"], ["intensity"], ["intensity"]])
    for some, titles in (([["std"]], ["StdDevUDF: std"]), ([], [])):
        made.clear()
        context.run_udf(dataset=dataset, udf=[StdDevUDF(), SumUDF()], plots=some)
        assert made == titles


class Half(UDF):
    """A result whose left half is not valid."""

    def get_result_buffers(self) -> Any:
        return {"half": self.buffer(kind="nav", dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        self.results.half[:] = frame.sum()

    def get_results(self) -> Any:
        mask = np.arange(30) % 5 >= 2
        return {"half": self.with_mask(self.results.half, mask=mask)}


def test_what_the_function_says_is_not_valid_is_not_there(context: Context, dataset: Any) -> None:
    plot = Recorder(dataset, udf := Half())
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    _, damage, _ = plot.shown[-1]
    assert damage[:, 2:].all()
    assert not damage[:, :2].any()


class Profile(UDF):
    """A spectrum of each frame, of which the first number is not valid."""

    def get_result_buffers(self) -> Any:
        return {"profile": self.buffer(kind="nav", extra_shape=(self.meta.dataset_shape.sig[1],), dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        self.results.profile[:] = frame.sum(axis=0)

    def get_results(self) -> Any:
        profile = self.results.profile
        return {"profile": self.with_mask(profile, mask=np.arange(profile.shape[1]) > 0)}


def profile_and_damage(results: Any, damage: Any) -> Any:
    return np.squeeze(results["profile"].data), np.squeeze(damage)


@pytest.mark.parametrize("nav", [(8,), (8, 1), (1, 8)])
@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("channel", [None, "profile", ("profile", np.squeeze), profile_and_damage])
def test_spectra_of_a_line(context: Context, nav: Any, width: int, channel: Any) -> None:
    """They are there where their position is, although there may be as many numbers as positions."""
    data = np.ones((*nav, 3, width), dtype=np.float32)
    dataset = context.load("memory", data=data, sig_dims=2, num_partitions=4)
    plot = Recorder(dataset, udf := Profile(), channel=channel)
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    first = 0 if channel is profile_and_damage else 1  # a function that says what is there is believed
    expected = np.zeros((8, width), dtype=bool)
    expected[:2, first:] = True
    np.testing.assert_array_equal(plot.shown[0][1], expected)
    expected[:, first:] = True
    np.testing.assert_array_equal(plot.shown[-1][1], expected)


def test_a_function_of_a_single_column(context: Context, data: np.ndarray) -> None:
    """What it makes has all axes of the scan, of which one has length 1."""
    dataset = context.load("memory", data=data[:, :1], num_partitions=3)
    plot = Recorder(dataset, udf := SumSigUDF(), channel=("intensity", np.log1p))
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    np.testing.assert_array_equal(plot.shown[0][1], [[True]] * 2 + [[False]] * 4)
    assert plot.shown[-1][1].all()


def test_channels(context: Context, dataset: Any, data: np.ndarray) -> None:
    """By name, with a function of the array, as a function of everything."""
    mean = data.mean(axis=(0, 1))

    def root(results: Any, damage: Any) -> tuple[Any, Any]:
        return np.sqrt(results["mean"].data), damage.any()

    for channel, expected in (
        ("mean", mean),
        (("mean", lambda m: m[::-1]), mean[::-1]),
        (["mean", lambda m: m[::-1]], mean[::-1]),
        (root, np.sqrt(mean)),
    ):
        plot = Recorder(dataset, udf := StdDevUDF(), channel=channel)
        context.run_udf(dataset=dataset, udf=udf, plots=[plot])
        np.testing.assert_allclose(plot.data, expected, rtol=1e-5)


def test_first_result_is_shown(dataset: Any) -> None:
    """As in LiberTEM: what is asked for, not the sums that it is made from."""
    assert Dummy2DPlot(dataset, StdDevUDF()).channel == "var"
    assert Dummy2DPlot(dataset, CoMUDF.with_params()).channel == "field_y"


def test_bad_channels(context: Context, dataset: Any) -> None:
    """What cannot be plotted is refused, with what can."""
    with pytest.raises(ValueError, match="'num_frames' cannot be plotted: pictures are var, std"):
        Dummy2DPlot(dataset, StdDevUDF(), channel="num_frames")
    with pytest.raises(ValueError, match="has no result 'nothing'"):
        Dummy2DPlot(dataset, StdDevUDF(), channel=("nothing", np.sqrt))
    line = context.load("memory", data=np.zeros((30, 8, 7), np.float32))
    with pytest.raises(ValueError, match="nothing to plot"):
        Dummy2DPlot(line, SumSigUDF())


def cube(mean: Any) -> Any:
    return np.stack([mean] * 3)


@pytest.mark.parametrize(
    ("plots", "message"),
    [
        ("std", "must be True, plots, or a list of channels for each UDF, got 'std'"),
        (
            ("std", np.log1p),
            r"a list of channels for each UDF, got \('std', <ufunc 'log1p'>\); a channel is .* a name and",
        ),
        (1, "got 1"),
        ([3], "StdDevUDF: 3 is no channel: a channel is the name of a result"),
        ([True], "StdDevUDF: True is no channel"),
        ([MPLLive2DPlot], "MPLLive2DPlot is a class: give plots that are made with it"),
        ([lambda results, damage: results["std"].data], "returned ndarray: return an array and its mask"),
    ],
)
def test_wrong_plots(context: Context, dataset: Any, plots: Any, message: str) -> None:
    """Whatever cannot be plotted is refused before the run, with what can."""
    with pytest.raises(TypeError, match=message):
        context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=plots)


def test_wrong_plots_of_several(context: Context, dataset: Any) -> None:
    """Plots or channels; for several functions, a list for each."""
    udf = StdDevUDF()
    for plots in ([Recorder(dataset, udf), "std"], ["std", Recorder(dataset, udf)]):
        with pytest.raises(TypeError, match="either plots or channels, not both: 'std' is no plot"):
            context.run_udf(dataset=dataset, udf=udf, plots=plots)
    with pytest.raises(TypeError, match="a list of channels for StdDevUDF, got 'std'"):
        context.run_udf(dataset=dataset, udf=[StdDevUDF(), SumUDF()], plots=["std", "intensity"])


def too_small(results: Any, damage: Any) -> Any:
    return results["std"].data, damage[:2, :3]


def without_mask(results: Any, damage: Any) -> Any:
    return results["std"].data, None


@pytest.mark.parametrize(
    ("channel", "error", "message"),
    [
        (too_small, ValueError, r"channel too_small returned an array of shape \(8, 7\) and a mask of shape \(2, 3\)"),
        (without_mask, TypeError, "channel without_mask returned None as mask"),
    ],
)
def test_wrong_masks(context: Context, dataset: Any, channel: Any, error: Any, message: str) -> None:
    """A function that gives an array and a mask of it is told what is wrong with them."""
    with pytest.raises(error, match=message):
        context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=[channel])


def test_what_a_channel_masks_is_not_shown(context: Context, dataset: Any, data: Any) -> None:
    """A function may return a masked array."""
    udf = SumSigUDF()
    sums = data.sum(axis=(2, 3))

    def bright(array: Any) -> Any:
        return np.ma.masked_less(array, np.median(sums))

    def also_bright(results: Any, damage: Any) -> Any:
        return bright(results["intensity"].data), damage

    plots = [Recorder(dataset, udf, channel=channel) for channel in (("intensity", bright), also_bright)]
    context.run_udf(dataset=dataset, udf=udf, plots=plots)
    for plot in plots:
        shown, there, is_last = plot.shown[-1]
        assert is_last
        np.testing.assert_array_equal(shown, sums)
        np.testing.assert_array_equal(there, sums >= np.median(sums))


@pytest.mark.parametrize("function", [cube, np.ravel, lambda mean: mean[:0]])
def test_a_picture_has_two_axes(context: Context, dataset: Any, function: Any) -> None:
    """What a function makes of a result is looked at before the run; plots of another kind may show it."""
    channel = ("mean", function)
    context.plot_class = MPLLive2DPlot
    with pytest.raises(ValueError, match=r"\(mean\) cannot be plotted: it has shape .* but a picture has two axes"):
        context.run_udf(dataset=dataset, udf=StdDevUDF(), plots=[channel])
    assert Dummy2DPlot(dataset, StdDevUDF(), channel=channel).data.shape != (8, 7)


def test_functions_are_asked_of_what_is_not_there_yet_without_a_word(context: Context, dataset: Any) -> None:
    """A logarithm of the zeros where no data is yet gives no warning, which would be an error here."""
    plot = Recorder(dataset, udf := SumSigUDF(), channel=("intensity", np.log))
    context.run_udf(dataset=dataset, udf=udf, plots=[plot])
    assert plot.shown[-1][1].all()


def test_dummy(context: Context, dataset: Any) -> None:
    """Runs with plots on a machine without a screen."""
    made: list[Dummy2DPlot] = []

    class Kept(Dummy2DPlot):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    context.plot_class = Kept
    results = context.run_udf(dataset=dataset, udf=SumUDF(), plots=True)
    (plot,) = made
    np.testing.assert_array_equal(plot.data, results["intensity"].data)


def test_plots_true_makes_and_displays_them(context: Context, dataset: Any) -> None:
    """One plot per picture, of the class that the context has."""
    made: list[Recorder] = []

    class Kept(Recorder):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    context.plot_class = Kept
    context.run_udf(dataset=dataset, udf=[SumUDF(), SumSigUDF()], plots=True)
    assert [p.title for p in made] == ["SumUDF: intensity", "SumSigUDF: intensity"]
    assert all(p.displayed and p.shown for p in made)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8, 8), (12, 8, 8)])
def test_plots_true_says_where_nothing_is_to_plot(context: Context, shape: Any) -> None:
    """The warning is about the line that calls for plots."""
    dataset = context.load("memory", data=np.ones(shape, dtype=np.uint16), sig_dims=2)
    with pytest.warns(UserWarning, match="SumSigUDF has no two-dimensional result to plot") as caught:
        context.run_udf(dataset=dataset, udf=SumSigUDF(), plots=True)
    assert [each.filename for each in caught] == [__file__]


def test_plots_true_leaves_out_what_has_no_pixels(context: Context, dataset: Any) -> None:
    """The frames of a ROI that selects none are no picture, and the run goes on as it does for many of them."""
    nothing = np.zeros(tuple(dataset.shape.nav), dtype=bool)
    with pytest.warns(UserWarning, match="PickUDF has no two-dimensional result to plot"):
        results = context.run_udf(dataset=dataset, udf=[SumUDF(), PickUDF()], roi=nothing, plots=True)
    assert results[1]["intensity"].data.shape == (0, *dataset.shape.sig)


def test_a_roi_is_read_once_for_plots_and_run(context: Context, dataset: Any, data: np.ndarray) -> None:
    """Coordinates may come from an iterator; and what is said of it is said once, of the line that gives it."""
    udf = SumSigUDF()
    plot = Recorder(dataset, udf)
    pairs = (((y, 2), True) for y in range(3))
    result = context.run_udf(dataset=dataset, udf=udf, roi=pairs, plots=[["intensity"]])
    assert int(np.isfinite(result["intensity"].data).sum()) == 3
    with pytest.warns(UserWarning, match="the roi is not bool but int64") as caught:
        context.run_udf(dataset=dataset, udf=udf, roi=np.ones((6, 5), np.int64), plots=[plot])
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(UserWarning, match="the roi is not bool but int64") as caught:
        context.run_udf(dataset=dataset, udf=udf, roi=np.ones((6, 5), np.int64), plots=True)
    assert [each.filename for each in caught] == [__file__]


def test_asynchronously(context: Context, dataset: Any, data: np.ndarray) -> None:
    """A plot sees partial results of a run that is awaited, and one result is given."""
    plot = Recorder(dataset, udf := SumSigUDF())
    result = asyncio.run(context.run_udf(dataset=dataset, udf=udf, plots=[plot], sync=False))
    np.testing.assert_array_equal(result["intensity"].data, data.sum(axis=(2, 3)))
    assert len(plot.shown) >= 5
    assert 0 < plot.shown[0][1].sum() < 30
