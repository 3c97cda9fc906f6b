"""What an analysis is: parameters, functions to run, and results with pictures."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilework.analysis.getroi import get_roi
from tilework.analysis.results import complex_results, positions_with_values
from tilework.analysis.saving import AnalysisWriter
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.common.roi import normalize_roi
from tilework.exceptions import JobCancelledError, UnknownAnalysisError
from tilework.udf.results import RunResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tilework.analysis.results import Damage
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

    # Runs a UDF over the dataset of an analysis and returns its results by name.
    RunUDF = Callable[[UDF, Any], Mapping[str, Any]]

__all__ = ["Analysis", "AnalysisResult", "AnalysisResultSet", "BaseAnalysis"]


class Analysis(ABC):
    """An evaluation of a dataset: which UDF to run, where, and what to make of its results.

    A subclass gives `get_udf` and `get_udf_results`, and usually `get_parameters`; one that is made with ``id_`` can be
    found by that name::

        class Brightest(BaseAnalysis, id_="BRIGHTEST"): ...

    Parameters
    ----------
    dataset
        What is evaluated.
    parameters
        Parameters by name; what is left out gets its default. ``roi`` selects positions, see `get_roi`.

    Attributes
    ----------
    dataset, parameters
        The dataset, and all parameters.

    Raises
    ------
    ValueError
        When the parameters do not fit the analysis, or the dataset.

    Examples
    --------
    An analysis of one's own, with a name and a picture:

    >>> from tilework.analysis.results import real_result
    >>> from tilework.udf import AutoUDF
    >>> class Brightest(BaseAnalysis, id_="BRIGHTEST"):
    ...     def get_udf(self):
    ...         return AutoUDF(f=np.max)
    ...
    ...     def get_udf_results(self, udf_results, roi, damage):
    ...         values = udf_results["result"].data
    ...         return AnalysisResultSet([real_result(values, "brightest", "brightest pixel", "brightest", damage)])
    >>> Analysis.get_analysis_by_type("BRIGHTEST") is Brightest
    True
    >>> result = ctx.run(Brightest(ds, {"roi": {"shape": "rect", "x": 0, "y": 0, "width": 4, "height": 4}}))
    >>> result.brightest.raw_data.shape, result.brightest.visualized.shape
    ((6, 8), (6, 8, 4))
    """

    TYPE: ClassVar[str] = "UDF"
    registry: ClassVar[dict[str, type[Analysis]]] = {}

    def __init_subclass__(cls, id_: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if id_ is not None:
            cls.registry[id_] = cls

    def __init__(self, dataset: DataSet, parameters: Mapping[str, Any]) -> None:
        self.dataset = dataset
        self.parameters = self.get_parameters(dict(parameters))

    @classmethod
    def get_analysis_by_type(cls, id_: str) -> type[Analysis]:
        """Return the analysis of a name.

        Raises
        ------
        UnknownAnalysisError
            When there is none.
        """
        try:
            return cls.registry[id_]
        except KeyError:
            msg = f"there is no analysis {id_!r}: there are {', '.join(sorted(cls.registry))}"
            raise UnknownAnalysisError(msg) from None

    # -- what subclasses say

    @abstractmethod
    def get_udf(self) -> UDF:
        """Return the UDF to run."""

    @abstractmethod
    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the results, made from those of the UDF.

        Parameters
        ----------
        udf_results
            Results of the UDF by name.
        roi
            Selected positions, or None.
        damage
            True, or a bool array of the shape of the scan: which positions the results contain.
        """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters: those given, and defaults for others."""
        return parameters

    def get_roi(self) -> Any:
        """Return the selected positions; None: all."""
        return get_roi(self.parameters, tuple(self.dataset.shape.nav))

    def need_rerun(self, old_params: Mapping[str, Any], new_params: Mapping[str, Any]) -> bool:
        """Return whether the UDF must run again when parameters have changed, or its results can be used again."""
        return True

    def get_rpc_definitions(self) -> dict[str, Any]:
        """Return functions, by name, that a program with a screen may call to help its user with parameters."""
        return {}

    # -- running

    def compute(self, run_udf: RunUDF, roi: Any, damage: Damage) -> AnalysisResultSet:
        """Run what there is to run, and return the results; an analysis of several passes overrides this.

        Parameters
        ----------
        run_udf
            Called with a UDF and selected positions; returns the results of the UDF by name.
        roi
            Selected positions, bool of the shape of the scan; None: all.
        damage
            True, or a bool array of the shape of the scan: which positions the results will contain. Positions without
            a frame are False.
        """
        return self.get_udf_results(run_udf(self.get_udf(), roi), roi, damage)

    def evaluate(self, run_udf: RunUDF, roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return what `compute` does, as results that can be saved; whoever runs an analysis calls this.

        Parameters are those of `compute`.
        """
        runs: list[RunResult] = []

        def noted(udf: UDF, selected: Any) -> Mapping[str, Any]:
            results = run_udf(udf, selected)
            if isinstance(results, RunResult):
                runs.append(results)
            return results

        made = self.compute(noted, roi, damage)
        # Of several passes, the last one is what the results are made of.
        if runs and isinstance(made, AnalysisResultSet):
            made._writer = AnalysisWriter.of(type(self).__name__, self.parameters, runs[-1])
        return made

    async def controller(
        self,
        cancel_id: str,
        executor: Any,
        job_is_cancelled: Callable[[], bool],
        send_results: Callable[[AnalysisResultSet, bool], Awaitable[Any]],
    ) -> None:
        """Run the analysis in the background of an event loop, and send its results.

        Parameters
        ----------
        cancel_id
            Name by which the runs can be cancelled: ``executor.cancel(cancel_id)``.
        executor
            Where to run; a `JobExecutor` or an `AsyncJobExecutor`.
        job_is_cancelled
            Asked before each pass, and before results are sent.
        send_results
            Called with the results, and with True because they are complete.

        Raises
        ------
        JobCancelledError
            When the job is cancelled.
        """
        sync = executor.ensure_sync()
        given = self.get_roi()
        roi = None if given is None else normalize_roi(given, tuple(self.dataset.shape.nav))

        def check() -> None:
            if job_is_cancelled():
                msg = f"{type(self).__name__} was cancelled"
                raise JobCancelledError(msg)

        def run_udf(udf: UDF, selected: Any) -> Mapping[str, Any]:
            from tilework.udf.runner import UDFRunner

            check()
            return UDFRunner([udf]).run_for_dataset(self.dataset, sync, roi=selected, cancel_id=cancel_id).buffers[0]

        results = await asyncio.to_thread(self.evaluate, run_udf, roi, positions_with_values(self.dataset, roi))
        check()
        await send_results(results, True)

    # -- for subclasses

    def get_complex_results(
        self,
        job_result: Any,
        key_prefix: str,
        title: str,
        desc: str,
        damage: Damage = True,
        default_lin: bool = True,
    ) -> Sequence[AnalysisResult]:
        """Return complex numbers as results: magnitude, its logarithm, parts, angle; see `complex_results`."""
        return complex_results(np.asarray(job_result), key_prefix, title, desc, damage, default_lin=default_lin)


class BaseAnalysis(Analysis):
    """What the analyses of users' programs derive from."""
