"""Fluctuation electron microscopy; see `tilework.udf.FEM`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import real_result
from tilework.common.analysis import AnalysisResultSet
from tilework.common.masks import check_radii
from tilework.udf.FEM import FEMUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["FEMAnalysis"]


class FEMAnalysis(BaseAnalysis, id_="FEM"):
    """Standard deviation of each frame over a ring; see `FEMUDF`.

    Result, float32 of nav shape: ``intensity``.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``cx``, ``cy``: centre in pixels; ``ri``, ``ro``: inner and outer radius in pixels.

    Examples
    --------
    >>> result = ctx.run(FEMAnalysis(ds, {"cx": 16, "cy": 16, "ri": 6, "ro": 10}))
    >>> result.intensity.raw_data.shape
    (6, 8)
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        require_sig_2d("FEMAnalysis", self.dataset)
        params = get_parameters("FEMAnalysis", parameters, {}, required=("cx", "cy", "ri", "ro"))
        check_radii(ri=params["ri"], ro=params["ro"])
        return params

    def get_udf(self) -> FEMUDF:
        """Return the UDF."""
        params = self.parameters
        return FEMUDF(center=(params["cy"], params["cx"]), rad_in=params["ri"], rad_out=params["ro"])

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the standard deviations."""
        desc = "result from SD calculation over ring"
        return AnalysisResultSet([real_result(udf_results["intensity"].data, "intensity", desc, "intensity", damage)])
