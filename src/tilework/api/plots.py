"""Live plots of a run: which there are, and when they are given new data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tilework.udf.runner import UDFRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.results import UDFResultsLazy

__all__ = ["Plots"]


class Plots:
    """The live plots of one run; called with every partial result.

    Parameters
    ----------
    plots
        Position of the UDF, and its plot.
    """

    def __init__(self, plots: Sequence[tuple[int, Any]]) -> None:
        self._plots = plots

    def __call__(self, results: UDFResultsLazy, last: bool) -> None:
        """Give the plots new data; `last` forces them to show it."""
        for index, plot in self._plots:
            plot.new_data(results.buffers[index], results.damage.data, force=last)

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
        if plots is True:
            channels = [_all_channels(udf, dry.buffers[i]) for i, udf in enumerate(udfs)]
        elif plots and hasattr(plots[0], "new_data"):
            return cls([(_index_of(plot, udfs), plot) for plot in plots])
        else:
            channels = list(plots)
            if len(channels) != len(udfs):
                msg = f"plots: give a list of channels for each of the {len(udfs)} UDFs, got {len(channels)}"
                raise ValueError(msg)
        made = [
            (i, plot_class()(dataset, udf=udf, roi=roi, channel=channel, udfresult=dry.buffers[i]))
            for i, udf in enumerate(udfs)
            for channel in channels[i]
        ]
        for _, plot in made:
            plot.display()
        return cls(made)


def _all_channels(udf: UDF, buffers: Any) -> list[str]:
    from tilework.viz import get_plottable_2D_channels

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
