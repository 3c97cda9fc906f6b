"""Live plots of a run: which there are, and when they are given new data."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilework.common.callers import outside_level
from tilework.udf.runner import UDFRunner
from tilework.viz.live import CHANNELS, Live2DPlot, get_plottable_2D_channels, is_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.results import UDFResultsLazy

__all__ = ["Plots"]

# Of the time of a run, at most this share is spent on drawing, besides the first picture and the last.
DRAWING_SHARE = 0.03
# Seconds that Ctrl-C waits for pictures of what is merged.
AFTER_INTERRUPT = 0.5


class Plots:
    """The live plots of one run; called with every partial result.

    Drawing takes time from the run, since it is done where results are merged. So after every round of drawing, the run
    goes on undisturbed for a multiple of the time that it took, results included, which are made only to be drawn. Of
    several plots, the one that was shown longest ago is drawn. Plots whose ``min_delta`` is 0, or whose ``new_data`` is
    their own, get every partial result.

    They are displayed while the workers begin, which does not wait for that.

    What drawing takes is known once something has been drawn: so the first picture is not waited for.

    Parameters
    ----------
    plots
        Position of the UDF, and its plot.
    missing
        Those that are not on the screen yet.
    """

    def __init__(self, plots: Sequence[tuple[int, Any]], missing: Sequence[Any] = ()) -> None:
        self._plots = plots
        self._missing = list(missing)
        self._not_before = -math.inf

    def display(self) -> None:
        """Bring plots to the screen that are not there yet."""
        while self._missing:
            self._missing.pop(0).display()

    def __call__(self, results: UDFResultsLazy) -> None:
        """Give the plots new data, unless that was just now."""
        self.display()  # where the executor had no time for that
        due = [(index, plot) for index, plot in self._plots if _wants_all(plot)]
        if time.perf_counter() >= self._not_before:
            others = [(index, plot) for index, plot in self._plots if not _wants_all(plot) and plot.is_due()]
            due += sorted(others, key=lambda each: each[1].last_update)[:1]
        if not due:
            return
        start = _Clocks.read()
        for index, plot in due:
            self._give(index, plot, results, last=False)
        self._not_before = time.perf_counter() + (1 / DRAWING_SHARE - 1) * start.lost()

    def show_last(self, results: UDFResultsLazy) -> None:
        """Let all plots show the results of a run that is over."""
        for index, plot in self._plots:
            self._give(index, plot, results, last=True)

    def show_left(self, results: UDFResultsLazy, error: BaseException) -> None:
        """Let all plots show what was merged before `error` ended the run; who pressed Ctrl-C does not wait for many.

        What goes wrong is noted with the error.
        """
        until = time.perf_counter() + (AFTER_INTERRUPT if isinstance(error, KeyboardInterrupt) else math.inf)
        try:
            for index, plot in self._plots:
                if time.perf_counter() < until:
                    self._give(index, plot, results, last=True)
        except Exception as failed:  # noqa: BLE001  (users' code runs in there; what ended the run counts)
            error.add_note(f"live plots do not show all that is merged: {failed!r}")

    def _give(self, index: int, plot: Any, results: UDFResultsLazy, *, last: bool) -> None:
        try:
            plot.new_data(results.buffers[index], results.damage.data, force=last)
        except Exception:
            self._plots = ()  # that ends the run, and need not fail again
            raise

    @classmethod
    def make(
        cls,
        plots: Any,
        plot_class: Callable[[], Any],
        dataset: DataSet,
        udfs: Sequence[UDF],
        roi: Any,
        corrections: CorrectionSet | None = None,
    ) -> Plots:
        """Make the plots that `Context.run_udf` was asked for.

        `plot_class` returns the class of plots; it is called only where plots are made, because importing it is dear.

        Raises
        ------
        TypeError
            When `plots` is something else than what may be asked for.
        ValueError
            When there are not channels for each UDF; when something is no picture; when a plot is of another UDF.
        """
        if plots is not True and not _is_list(plots):
            msg = f"plots must be True, plots, or a list of channels for each UDF, got {plots!r}; {CHANNELS}"
            raise TypeError(msg)
        if plots is not True and any(hasattr(plot, "new_data") for plot in plots):
            made = [(_index_of(plot, udfs), plot) for plot in plots]
            missing = [plot for plot in plots if not getattr(plot, "is_displayed", True)]
        else:
            channels: Sequence[Sequence[Any]]
            dry = UDFRunner.dry_run(udfs, dataset, roi, corrections)
            if plots is True:
                channels = [get_plottable_2D_channels(buffers) for buffers in dry.buffers]
                for udf, found in zip(udfs, channels, strict=True):
                    if not found:
                        msg = f"{type(udf).__name__} has no two-dimensional result to plot"
                        warnings.warn(msg, stacklevel=outside_level())
            else:
                channels = _channels_of_each(plots, udfs)
            made = [
                (i, plot_class()(dataset, udf=udf, roi=roi, channel=channel, udfresult=dry.buffers[i]))
                for i, udf in enumerate(udfs)
                for channel in channels[i]
            ]
            missing = [plot for _, plot in made]
        return cls(made, missing)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """What clocks show: of the wall, and of the processor time of this thread and of the whole process."""

    wall: float
    thread: float
    process: float

    @classmethod
    def read(cls) -> _Clocks:
        return cls(time.perf_counter(), time.thread_time(), time.process_time())

    def lost(self) -> float:
        """Return what the run has lost since then, in seconds.

        What other threads have worked meanwhile is not lost. Where they hold the interpreter's lock, that is most of
        the time that drawing takes.
        """
        now = _Clocks.read()
        wall, own, all_threads = now.wall - self.wall, now.thread - self.thread, now.process - self.process
        return max(own, wall - (all_threads - own))


def _wants_all(plot: Any) -> bool:
    # Plots of other kinds, and those that take new data in their own way, decide for themselves.
    if not isinstance(plot, Live2DPlot) or type(plot).new_data is not Live2DPlot.new_data:
        return True
    return plot.min_delta <= 0


def _channels_of_each(plots: Sequence[Any], udfs: Sequence[UDF]) -> Sequence[Sequence[Any]]:
    if len(udfs) == 1 and not any(_is_list(channels) for channels in plots):
        plots = [plots]
    n_missing = len(udfs) - len(plots)
    if n_missing < 0 or (n_missing and not all(_is_list(channels) for channels in plots)):
        msg = f"plots: give a list of channels for each of the {len(udfs)} UDFs, got {len(plots)}"
        raise ValueError(msg)
    plots = [*plots, *[()] * n_missing]
    for udf, channels in zip(udfs, plots, strict=True):
        if not _is_list(channels):
            msg = f"plots: give a list of channels for {type(udf).__name__}, got {channels!r}; {CHANNELS}"
            raise TypeError(msg)
    return plots


def _is_list(channels: Any) -> bool:
    """Return whether these are the channels of a UDF, rather than one of them."""
    # A list of a name and a function is two channels, where a list of them is asked for.
    is_one = isinstance(channels, str) or (isinstance(channels, tuple) and is_pair(channels))
    return isinstance(channels, Sequence) and not is_one


def _index_of(plot: Any, udfs: Sequence[UDF]) -> int:
    if isinstance(plot, type):
        msg = (
            f"plots: {plot.__name__} is a class: give plots that are made with it, or make it the context's plot_class"
        )
        raise TypeError(msg)
    if not hasattr(plot, "new_data"):
        msg = f"plots: give either plots or channels, not both: {plot!r} is no plot"
        raise TypeError(msg)
    for i, udf in enumerate(udfs):
        if plot.get_udf() is udf:
            return i
    msg = f"plots: {plot!r} shows a UDF that is not part of this run"
    raise ValueError(msg)
