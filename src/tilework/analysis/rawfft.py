"""Fourier transforms of single frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.fourier import DISC_DEFAULTS, check_disc, masked_fft
from tilework.analysis.parameters import require_sig_2d
from tilework.analysis.raw import PickFrameAnalysis

if TYPE_CHECKING:
    from tilework.analysis.results import Array

__all__ = ["PickFFTFrameAnalysis"]


class PickFFTFrameAnalysis(PickFrameAnalysis, id_="PICK_FFT_FRAME"):
    """Fourier transform of one frame, the frequency 0 in the middle.

    Results, of sig shape: as of `PickFrameAnalysis`; for real data the magnitude of the transform, float64 for
    integers. A frame that the source does not have has a transform of NaN.

    Parameters
    ----------
    dataset
        What is evaluated; its scan has one to three axes, its detector two.
    parameters
        As of `PickFrameAnalysis`, and ``real_rad``, ``real_centerx``, ``real_centery``: radius and centre in
        pixels of a disc that is set to 0 before; default: none is.

    Examples
    --------
    >>> result = ctx.run(PickFFTFrameAnalysis(ds, {"x": 3, "y": 1}))
    >>> spectrum = result.intensity.raw_data
    >>> bool(np.isclose(spectrum[16, 16], ds.data[1, 3].sum()))
    True
    """

    DEFAULTS = DISC_DEFAULTS

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        require_sig_2d("PickFFTFrameAnalysis", self.dataset)
        params = super().get_parameters(parameters)
        check_disc("PickFFTFrameAnalysis", params)
        return params

    def _frame(self, frame: Array, there: bool) -> Array:
        transform = masked_fft(frame, self.parameters)
        if not there:
            transform[:] = np.nan
        return transform if np.iscomplexobj(frame) else np.abs(transform)
