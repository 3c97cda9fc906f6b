"""Standard deviation of all frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters
from tilework.analysis.results import log_and_lin, sig_damage
from tilework.common.analysis import AnalysisResultSet
from tilework.udf.stddev import StdDevUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["SDAnalysis"]


class SDAnalysis(BaseAnalysis, id_="SD_FRAMES"):
    """Standard deviation of each detector pixel over all (selected) frames; see `StdDevUDF`.

    Results, float64 of sig shape: ``intensity`` with a logarithmic picture, and ``intensity_lin``.

    Parameters
    ----------
    dataset
        What is evaluated.
    parameters
        ``roi`` alone.

    Examples
    --------
    >>> result = ctx.run(SDAnalysis(ds, {}))
    >>> bool(np.allclose(result.intensity.raw_data, ds.data.std(axis=(0, 1))))
    True
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        return get_parameters("SDAnalysis", parameters, {})

    def get_udf(self) -> StdDevUDF:
        """Return the UDF."""
        return StdDevUDF()

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the standard deviation."""
        desc = "Standard deviation of frames"
        return AnalysisResultSet(
            log_and_lin(udf_results["std"].data, "intensity", desc, "intensity", sig_damage(damage), default_lin=False)
        )
