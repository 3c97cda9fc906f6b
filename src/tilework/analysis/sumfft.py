"""Fourier transform of the sum of all frames."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.fourier import DISC_DEFAULTS, check_disc, masked_fft
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import sig_damage
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.udf.sum import SumUDF
from tilework.viz import visualize_simple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Array, Damage

__all__ = ["SumfftAnalysis"]


class SumfftAnalysis(BaseAnalysis, id_="FFTSUM_FRAMES"):
    """Picture of the Fourier transform of the sum of all (selected) frames: to choose a ring for `ApplyFFTMask`.

    Result, of sig shape: ``intensity``, the sum itself, with a logarithmic picture of its transform, the frequency 0 in
    the middle.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``real_rad``, ``real_centerx``, ``real_centery``: radius and centre in pixels of a disc that is set to 0 before;
        default: none is.

    Examples
    --------
    >>> result = ctx.run(SumfftAnalysis(ds, {"real_rad": 4, "real_centerx": 16, "real_centery": 16}))
    >>> result.intensity.visualized.shape
    (32, 32, 4)
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        require_sig_2d("SumfftAnalysis", self.dataset)
        params = get_parameters("SumfftAnalysis", parameters, DISC_DEFAULTS)
        check_disc("SumfftAnalysis", params)
        return params

    def need_rerun(self, old_params: Mapping[str, Any], new_params: Mapping[str, Any]) -> bool:
        """Return True when the selected positions have changed: the disc is for the picture."""
        return old_params.get("roi") != new_params.get("roi")

    def get_udf(self) -> SumUDF:
        """Return the UDF."""
        return SumUDF()

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the sum with the picture of its transform."""
        values = udf_results["intensity"].data
        picture = partial(_draw_transform, values, dict(self.parameters), sig_damage(damage))
        desc = "fft of sum of all frames"
        return AnalysisResultSet([AnalysisResult(values, picture, "intensity", desc, "intensity")])


def _draw_transform(values: Array, parameters: dict[str, Any], there: bool) -> Array:
    return visualize_simple(np.abs(masked_fft(values, parameters)), logarithmic=True, damage=np.asarray(there))
