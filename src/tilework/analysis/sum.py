"""Sum of all frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters
from tilework.analysis.results import complex_results, log_and_lin, sig_damage
from tilework.common.analysis import AnalysisResultSet
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["SumAnalysis", "SumResultSet"]


class SumResultSet(AnalysisResultSet):
    """Results of `SumAnalysis`, of sig shape: ``intensity`` with a logarithmic picture, and ``intensity_lin``.

    For complex data, ``intensity`` is the magnitude, and there are ``intensity_real``, ``_imag``, ``_angle`` and
    ``_complex`` as well.

    Examples
    --------
    >>> ctx.run(SumAnalysis(ds, {})).keys()
    ['intensity', 'intensity_lin']
    """


class SumAnalysis(BaseAnalysis, id_="SUM_FRAMES"):
    """Sum of all (selected) frames; see `SumUDF`.

    Parameters
    ----------
    dataset
        What is evaluated.
    parameters
        ``roi`` alone.

    Examples
    --------
    The sum over a part of the scan:

    >>> analysis = SumAnalysis(ds, {"roi": {"shape": "disk", "cx": 3, "cy": 2, "r": 1}})
    >>> result = ctx.run(analysis)
    >>> np.array_equal(result.intensity.raw_data, ds.data[analysis.get_roi()].sum(axis=0))
    True
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        return get_parameters("SumAnalysis", parameters, {})

    def get_udf(self) -> SumUDF:
        """Return the UDF."""
        return SumUDF()

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> SumResultSet:
        """Return the sum."""
        values, there = udf_results["intensity"].data, sig_damage(damage)
        if np.iscomplexobj(values):
            desc = "sum of all frames"
            return SumResultSet(complex_results(values, "intensity", "intensity", desc, there, default_lin=False))
        return SumResultSet(log_and_lin(values, "intensity", "sum of frames", "intensity", there, default_lin=False))
