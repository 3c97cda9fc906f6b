"""What a user asks for when a run is started: checked, and with what was left out filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilework.common.executor import Priority, RunOptions
from tilework.exceptions import DataSetException
from tilework.io.corrections.corrset import CorrectionSet
from tilework.udf.base import UDF
from tilework.udf.runner import UDFRunner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tilework.common.executor import JobExecutor
    from tilework.common.progress import ProgressReporter
    from tilework.common.roi import RoiT
    from tilework.io.dataset.base import DataSet
    from tilework.udf.runner import ResultsForDataSet

__all__ = ["RunRequest", "check_udfs", "find_corrections", "make_options"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything that a run depends on, except where it runs."""

    dataset: DataSet
    udfs: Sequence[UDF]
    roi: RoiT
    corrections: CorrectionSet | None
    progress: bool | ProgressReporter
    backends: str | Iterable[str] | None
    options: RunOptions

    def prepare(self, executor: JobExecutor, *, iterate: bool) -> ResultsForDataSet:
        """Prepare the run on an executor; the first step starts it.

        Parameters
        ----------
        executor
            Where it runs.
        iterate
            Whether partial results are wanted.

        Raises
        ------
        UDFException
            When a UDF breaks the rules, as far as that shows before data is read.
        """
        return UDFRunner(self.udfs).run_for_dataset_sync(
            self.dataset,
            executor,
            roi=self.roi,
            progress=self.progress,
            corrections=self.corrections,
            backends=self.backends,
            iterate=iterate,
            options=self.options,
        )


def check_udfs(udf: UDF | Iterable[UDF]) -> list[UDF]:
    """Return the UDFs of a run as a list.

    Raises
    ------
    TypeError
        When it is something else than an instance of UDF, or several.
    """
    udfs: list[Any] = [udf] if isinstance(udf, UDF | type) else list(udf)
    strangers: list[Any] = [u for u in udfs if not isinstance(u, UDF)]
    if strangers:
        hint = " (an instance is wanted, not the class)" if isinstance(strangers[0], type) else ""
        msg = f"udf must be an instance of UDF, or several, got {strangers[0]!r}{hint}"
        raise TypeError(msg)
    return udfs


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
    """
    if isinstance(priority, str):
        names = [each.name.lower() for each in Priority]
        if priority not in names:
            msg = f"priority must be one of {', '.join(map(repr, names))}, not {priority!r}"
            raise ValueError(msg)
        priority = Priority[priority.upper()]
    return RunOptions(priority=priority, timeout=timeout)
