"""Sum of each frame."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters
from tilework.analysis.results import real_result
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz import visualize_simple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["SumSigAnalysis"]


class SumSigAnalysis(BaseAnalysis, id_="SUM_SIG"):
    """Sum over the pixels of each frame; see `SumSigUDF`.

    Result, of nav shape: ``intensity``; the picture of complex ones shows the magnitude.

    Parameters
    ----------
    dataset
        What is evaluated.
    parameters
        ``roi`` alone.

    Examples
    --------
    >>> result = ctx.run(SumSigAnalysis(ds, {}))
    >>> np.array_equal(result.intensity.raw_data, ds.data.sum(axis=(2, 3)))
    True
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        return get_parameters("SumSigAnalysis", parameters, {})

    def get_udf(self) -> SumSigUDF:
        """Return the UDF."""
        return SumSigUDF()

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the sums."""
        values, desc = udf_results["intensity"].data, "result from frame integration"
        if np.iscomplexobj(values):
            picture = partial(visualize_simple, np.abs(values), damage=np.asarray(damage))
            return AnalysisResultSet([AnalysisResult(values, picture, "intensity", desc, "intensity")])
        return AnalysisResultSet([real_result(values, "intensity", desc, "intensity", damage)])
