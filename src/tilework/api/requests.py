"""What a user asks for when a run is started: checked, and with what was left out filled in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tilework.common.arrays import short_repr
from tilework.common.executor import Priority, RunOptions
from tilework.common.roi import normalize_roi
from tilework.exceptions import DataSetException, UDFException
from tilework.io.corrections.corrset import CorrectionSet
from tilework.io.dataset.base import DataSet
from tilework.udf.base import UDF
from tilework.udf.record import RecordUDF
from tilework.udf.runner import UDFRunner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.api.context import Context
    from tilework.api.generators import ResultGenerator
    from tilework.api.plots import Plots
    from tilework.common.progress import ProgressReporter
    from tilework.common.roi import RoiT

__all__ = [
    "RunArguments",
    "RunRequest",
    "check_dataset",
    "check_udfs",
    "find_corrections",
    "make_options",
    "make_request",
]


class RunArguments(TypedDict, total=False):
    """What `Context.run_udf`, `Context.run_udf_iter` and `Context.submit_udf` have in common, for their overloads."""

    corrections: CorrectionSet | None
    progress: bool | ProgressReporter
    backends: str | Iterable[str] | None
    priority: Priority | str
    timeout: float | None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything that a run depends on, except where it runs.

    Attributes
    ----------
    is_single
        Whether the result is that of the one UDF, rather than a tuple.
    corrections
        As of `Context.run_udf`; what is wrong with them shows when the run is prepared.
    """

    dataset: DataSet
    udfs: Sequence[UDF]
    is_single: bool
    roi: RoiT
    corrections: Any
    progress: bool | ProgressReporter
    backends: str | Iterable[str] | None
    options: RunOptions

    def with_copies(self) -> RunRequest:
        """Return the same request with copies of the UDFs."""
        return replace(self, udfs=[each.copy() for each in self.udfs])

    def start(self, ctx: Context, *, plots: Any = None, iterate: bool = False) -> ResultGenerator:
        """Prepare the run, with its plots; the first step starts it.

        Parameters
        ----------
        ctx
            Where it runs.
        plots
            As of `Context.run_udf`.
        iterate
            Whether partial results are wanted; where there are plots, they are.

        Raises
        ------
        UDFException
            When a UDF breaks the rules, as far as that shows before data is read.
        ExecutorError
            When the context is closed.
        """
        from tilework.api.generators import ResultGenerator

        ctx._check_open()
        check_dataset(self.dataset)
        _check_recordings(self.dataset, self.udfs)
        # Once, for plots and run: it may be an iterator.
        roi = normalize_roi(self.roi, tuple(self.dataset.shape.nav))
        corrections = find_corrections(self.dataset, self.corrections)
        shown = self._make_plots(ctx, plots, roi, corrections)
        steps = UDFRunner(self.udfs).run_for_dataset_sync(
            self.dataset,
            ctx.executor,
            roi=roi,
            progress=self.progress,
            corrections=corrections,
            backends=self.backends,
            iterate=iterate or shown is not None,
            options=self.options if shown is None else replace(self.options, meanwhile=shown.display),
        )
        return ResultGenerator(steps, is_single=self.is_single, plots=shown)

    def _make_plots(self, ctx: Context, plots: Any, roi: RoiT, corrections: CorrectionSet | None) -> Plots | None:
        if plots is None or plots is False:
            return None
        from tilework.api.plots import Plots  # most programs do without, and without what they draw with

        return Plots.make(plots, lambda: ctx.plot_class, self.dataset, self.udfs, roi, corrections)


def make_request(
    dataset: DataSet,
    udf: UDF | Iterable[UDF],
    roi: RoiT,
    corrections: Any,
    progress: bool | ProgressReporter,
    backends: str | Iterable[str] | None,
    priority: Priority | str,
    timeout: float | None,
) -> RunRequest:
    """Return what `Context.run_udf` was asked for.

    Raises
    ------
    TypeError
        When `udf` is something else than an instance of UDF, or several, or the time is no number.
    ValueError
        When there is no such priority, or the time is not positive.
    """
    udfs, options = check_udfs(udf), make_options(priority, timeout)
    return RunRequest(dataset, udfs, isinstance(udf, UDF), roi, corrections, progress, backends, options)


def check_udfs(udf: UDF | Iterable[UDF]) -> list[UDF]:
    """Return the UDFs of a run as a list.

    Raises
    ------
    TypeError
        When it is something else than an instance of UDF, or several.
    """
    udfs: list[Any] = [udf] if isinstance(udf, UDF | type) or not isinstance(udf, Iterable) else list(udf)
    strangers: list[Any] = [u for u in udfs if not isinstance(u, UDF)]
    if strangers:
        hint = " (an instance is wanted, not the class)" if isinstance(strangers[0], type) else ""
        msg = f"udf must be an instance of UDF, or several, got {short_repr(strangers[0])}{hint}"
        raise TypeError(msg)
    return udfs


def _check_recordings(dataset: DataSet, udfs: Iterable[UDF]) -> None:
    """Raise UDFException when a run would write into a file that it reads, whose data would be gone."""
    recordings = [udf.params.filename for udf in udfs if isinstance(udf, RecordUDF)]
    for name in recordings:
        for path in dataset.paths:
            with contextlib.suppress(OSError):  # one of them is not there, or somewhere else
                if Path(path).samefile(name):
                    msg = f"RecordUDF would replace {name}, which this run reads: give it another name"
                    raise UDFException(msg)


def check_dataset(dataset: Any) -> None:
    """Raise TypeError when it is something else than a dataset."""
    if not isinstance(dataset, DataSet):
        hint = ': ctx.load("memory", data=array) makes one' if hasattr(dataset, "__array__") else ""
        if isinstance(dataset, list | tuple):
            hint = ": a run has one dataset, and any number of UDFs"
        msg = (
            f"dataset must be what Context.load returns, got {type(dataset).__module__}.{type(dataset).__name__}{hint}"
        )
        raise TypeError(msg)


def find_corrections(dataset: DataSet, corrections: Any) -> CorrectionSet | None:
    """Return the corrections of a run: those given, or else those of the dataset; None when nothing is corrected.

    Raises
    ------
    TypeError
        When it is no `CorrectionSet`.
    DataSetException
        When the dataset does not support corrections.
    """
    if corrections is None:
        corrections = dataset.get_correction_data()
    if not isinstance(corrections, CorrectionSet):
        msg = f"corrections must be a tilework.corrections.CorrectionSet, got {type(corrections).__name__}"
        raise TypeError(msg)
    if not corrections.have_corrections():
        return None
    if not dataset.supports_correction():
        msg = f"{type(dataset).__name__} does not support detector corrections: run without, or correct the results"
        raise DataSetException(msg)
    return corrections


def make_options(priority: Priority | str, timeout: float | None) -> RunOptions:
    """Return the options of a run.

    Raises
    ------
    ValueError
        When there is no such priority, or the time is not positive.
    TypeError
        When the time is no number.
    """
    if not isinstance(priority, int):
        known = {each.name.lower(): each for each in Priority}
        if priority not in list(known):
            msg = f"priority must be one of {', '.join(map(repr, known))}, not {priority!r}"
            raise ValueError(msg)
        priority = known[str(priority)]
    return RunOptions(priority=priority, timeout=timeout)
