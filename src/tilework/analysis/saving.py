"""Results of analyses in files: what is known of the arrays, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import ResultFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tilework.common.analysis import AnalysisResult
    from tilework.io.results import ResultChannel
    from tilework.io.results.channel import AxisLike, ResultKind
    from tilework.udf.results import RunResult

__all__ = ["AnalysisWriter"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class AnalysisWriter:
    """Saves results of an analysis. Holds no data of the run, so that results can be sent elsewhere with it.

    Parameters
    ----------
    provenance
        What is saved with the results, plain values.
    axes
        Axes of the dataset, those of the scan first.
    nav_shape, sig_shape
        Shape of scan and detector.
    merged
        Which positions the results contain, bool of `nav_shape`.
    has_nav_results
        Whether the UDF has results of the scan: tells what is meant where scan and detector have the same shape.
    """

    provenance: Mapping[str, Any]
    axes: tuple[AxisLike, ...]
    nav_shape: tuple[int, ...]
    sig_shape: tuple[int, ...]
    merged: BoolArray
    has_nav_results: bool

    @classmethod
    def of(cls, analysis: str, parameters: Mapping[str, Any], run: RunResult) -> AnalysisWriter | None:
        """Return what saves the results that an analysis made of a run; None where the run does not say what it was.

        Parameters
        ----------
        analysis, parameters
            Name and parameters of the analysis.
        run
            Results of the UDF.
        """
        from tilework.io.results.jsonable import jsonable

        provenance = run.provenance
        if provenance is None:
            return None
        dataset = provenance.dataset
        return cls(
            jsonable({"analysis": {"name": analysis, "parameters": parameters}, **provenance.as_dict()}),
            tuple(dataset.axes),
            tuple(dataset.shape.nav),
            tuple(dataset.shape.sig),
            provenance.merged_positions(),
            any(buffer.kind == "nav" for buffer in run.values()),
        )

    def __call__(self, results: Sequence[AnalysisResult], path: str | Path, *, overwrite: bool) -> Path:
        """Write results to a file."""
        from tilework.io.results import save_results

        try:
            channels = {result.key: self._channel(result) for result in results if result.include_in_download}
        except ValueError as error:
            msg = f"cannot write {path}: {error}"
            raise ResultFileError(msg) from error
        return save_results(path, channels, self.provenance, overwrite=overwrite)

    def _channel(self, result: AnalysisResult) -> ResultChannel:
        from tilework.io.results import ResultAxis, ResultChannel

        raw = result.raw_data
        data = np.stack(raw, axis=-1) if isinstance(raw, tuple) else np.asanyarray(raw)
        extra = 1 if isinstance(raw, tuple) else 0
        kind = self._kind(data.shape[: data.ndim - extra])
        if kind == "single":
            own: tuple[AxisLike, ...] = ()
        else:
            own = self.axes[: len(self.nav_shape)] if kind == "nav" else self.axes[len(self.nav_shape) :]
        added = tuple(ResultAxis(f"{result.key}_{i}") for i in range(data.ndim - len(own)))
        valid = None
        if kind == "nav" and not self.merged.all():
            valid = np.broadcast_to(self.merged.reshape(self.merged.shape + (1,) * extra), data.shape)
        return ResultChannel(
            result.key,
            data,
            kind,
            valid,
            (*map(ResultAxis.of, own), *added),
            data.ndim - len(own),
            title=result.title,
            description=result.desc,
        )

    def _kind(self, shape: tuple[int, ...]) -> ResultKind:
        if shape == self.nav_shape and (self.has_nav_results or shape != self.sig_shape):
            return "nav"
        return "sig" if shape == self.sig_shape else "single"
