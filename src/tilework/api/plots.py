"""Live plots of a run: which there are, and when they are given new data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tilework.udf.runner import UDFRunner
from tilework.viz.live import Live2DPlot, get_plottable_2D_channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.results import UDFResultsLazy

__all__ = ["Plots"]

# Of the time of a run, at most this share is spent on drawing, besides the empty picture before and the last one.
DRAWING_SHARE = 0.03


class Plots:
    """The live plots of one run; called with every partial result.

    Drawing takes time from the run, since it is done where results are merged. So after every round of drawing, the run
    goes on undisturbed for a multiple of the time that it took, results included, which are made only to be drawn. Of
    several plots, the one that was shown longest ago is drawn. Plots whose ``min_delta`` is 0 get every partial result.

    Parameters
    ----------
    plots
        Position of the UDF, and its plot.
    expected
        Seconds that drawing one of them will take, about.
    """

    def __init__(self, plots: Sequence[tuple[int, Any]], expected: float = 0.0) -> None:
        self._plots = plots
        self._not_before = time.perf_counter() + _rest(expected)

    def __call__(self, results: UDFResultsLazy, last: bool) -> None:
        """Give the plots new data, unless that was just now; `last` forces them to show it."""
        start = time.perf_counter()
        due = [(index, plot) for index, plot in self._plots if last or _wants_all(plot)]
        if not last and start >= self._not_before:
            others = [(index, plot) for index, plot in self._plots if not _wants_all(plot) and plot.is_due()]
            due += sorted(others, key=lambda each: each[1].last_update)[:1]
        if not due:
            return
        for index, plot in due:
            plot.new_data(results.buffers[index], results.damage.data, force=last)
        end = time.perf_counter()
        self._not_before = end + _rest(end - start)

    @classmethod
    def make(
        cls,
        plots: Any,
        plot_class: Callable[[], Any],
        dataset: DataSet,
        udfs: Sequence[UDF],
        roi: Any,
        corrections: CorrectionSet | None = None,
    ) -> Plots | None:
        """Make and display the plots that `Context.run_udf` was asked for; None when there are none.

        `plot_class` returns the class of plots; it is called only where plots are made, because importing it is dear.
        """
        if plots is None or plots is False:
            return None
        dry = UDFRunner.dry_run(udfs, dataset, roi, corrections)
        channels: list[Any]
        if plots is True:
            channels = [_all_channels(udf, dry.buffers[i]) for i, udf in enumerate(udfs)]
        elif not isinstance(plots, Sequence):
            msg = f"plots must be True, plots, or a list of channels for each UDF, got {plots!r}"
            raise TypeError(msg)
        elif plots and hasattr(plots[0], "new_data"):
            return cls([(_index_of(plot, udfs), plot) for plot in plots])
        else:
            channels = list(plots)
            if len(udfs) == 1 and all(_is_channel(channel) for channel in channels):
                channels = [channels]
            if len(channels) != len(udfs):
                msg = f"plots: give a list of channels for each of the {len(udfs)} UDFs, got {len(channels)}"
                raise ValueError(msg)
        made = [
            (i, plot_class()(dataset, udf=udf, roi=roi, channel=channel, udfresult=dry.buffers[i]))
            for i, udf in enumerate(udfs)
            for channel in channels[i]
        ]
        start = time.perf_counter()
        for _, plot in made:
            plot.display()
        return cls(made, (time.perf_counter() - start) / max(1, len(made)))


def _rest(drawing: float) -> float:
    return drawing * (1 / DRAWING_SHARE - 1)


def _wants_all(plot: Any) -> bool:
    # Plots of other kinds decide for themselves.
    return not isinstance(plot, Live2DPlot) or plot.min_delta <= 0


def _is_channel(channel: Any) -> bool:
    return isinstance(channel, str) or callable(channel) or (isinstance(channel, tuple) and callable(channel[-1]))


def _all_channels(udf: UDF, buffers: Any) -> list[str]:
    channels: list[str] = get_plottable_2D_channels(buffers)
    if not channels:
        warnings.warn(f"{type(udf).__name__} has no two-dimensional result to plot", stacklevel=4)
    return channels


def _index_of(plot: Any, udfs: Sequence[UDF]) -> int:
    for i, udf in enumerate(udfs):
        if plot.get_udf() is udf:
            return i
    msg = f"plots: {plot!r} shows a UDF that is not part of this run"
    raise ValueError(msg)
