"""Strength of periodic features of each frame; see `tilework.udf.crystallinity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.fourier import DISC_DEFAULTS, check_disc
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import real_result
from tilework.common.analysis import AnalysisResultSet
from tilework.udf.crystallinity import CrystallinityUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["ApplyFFTMask"]


class ApplyFFTMask(BaseAnalysis, id_="APPLY_FFT_MASK"):
    """Sum of the amplitudes of each frame's Fourier transform over a ring; see `CrystallinityUDF`.

    Result, float32 of nav shape: ``intensity``.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``rad_in``, ``rad_out``: radii of the ring in periods per frame; ``real_rad``, ``real_centerx``,
        ``real_centery``: radius and centre in pixels of a disc that is set to 0 before, default: none is.

    Examples
    --------
    >>> result = ctx.run(ApplyFFTMask(ds, {"rad_in": 4, "rad_out": 8}))
    >>> result.intensity.raw_data.shape
    (6, 8)
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        require_sig_2d("ApplyFFTMask", self.dataset)
        params = get_parameters("ApplyFFTMask", parameters, DISC_DEFAULTS, required=("rad_in", "rad_out"))
        check_disc("ApplyFFTMask", params)
        return params

    def get_udf(self) -> CrystallinityUDF:
        """Return the UDF."""
        params = self.parameters
        masked = params["real_rad"] is not None
        return CrystallinityUDF(
            rad_in=params["rad_in"],
            rad_out=params["rad_out"],
            real_center=(params["real_centery"], params["real_centerx"]) if masked else None,
            real_rad=params["real_rad"],
        )

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the sums."""
        desc = "result from integration over mask in Fourier space"
        return AnalysisResultSet([real_result(udf_results["intensity"].data, "intensity", desc, "intensity", damage)])
