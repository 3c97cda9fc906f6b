"""Centre of mass of every frame as a vector field; see `tilework.udf.com`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import real_result, vector_picture
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.udf.com import CoMUDF, apply_correction, curl_2d, divergence, guess_corrections, magnitude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = ["COMAnalysis", "COMResultSet"]


class COMResultSet(AnalysisResultSet):
    """Results of `COMAnalysis`, float64 of nav shape, in detector pixels.

    ``field`` (its data is the tuple ``(x, y)``), ``magnitude``, ``divergence`` and ``curl`` per scan step (where the
    scan has more than one row and column), ``x``, ``y``. For complex data instead ``x_real``, ``y_real``, ``x_imag``,
    ``y_imag``.

    Examples
    --------
    >>> result = ctx.run(COMAnalysis(ds, {"r": 8}))
    >>> result.keys()
    ['field', 'magnitude', 'divergence', 'curl', 'x', 'y']
    >>> x, y = result.field.raw_data
    >>> np.array_equal(result.magnitude.raw_data, np.hypot(y, x))
    True
    """


class COMAnalysis(BaseAnalysis, id_="CENTER_OF_MASS"):
    """Shift of the centre of mass of each frame, within a disc or ring.

    Parameters
    ----------
    dataset
        What is evaluated; scan and detector have two axes.
    parameters
        ``cx``, ``cy``: centre and reference in pixels, default the centre of the detector; ``r``: radius in
        pixels within which pixels count, default all; ``ri``: radius within which they do not, default 0;
        ``scan_rotation``: angle in degrees by which shifts are rotated to be in scan coordinates; ``flip_y``:
        whether y of the detector is flipped before.

    Examples
    --------
    A beam that is shifted by 2 pixels along x, and a scan that is rotated by a quarter turn against the detector:

    >>> data = np.zeros((4, 4, 16, 16), dtype="uint16")
    >>> data[:, :, 8, 10] = 100
    >>> dataset = ctx.load("memory", data=data)
    >>> result = ctx.run(COMAnalysis(dataset, {"r": 5, "scan_rotation": 90}))
    >>> result.y.raw_data[0, 0].round(6), abs(result.x.raw_data[0, 0].round(6))
    (np.float64(2.0), np.float64(0.0))
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        nav = tuple(self.dataset.shape.nav)
        if len(nav) != 2:
            msg = f"incompatible dataset: COMAnalysis needs two navigation dimensions, the scan has the shape {nav}"
            raise ValueError(msg)
        height, width = require_sig_2d("COMAnalysis", self.dataset)
        defaults = {
            "cx": width / 2,
            "cy": height / 2,
            "r": math.inf,
            "ri": 0.0,
            "scan_rotation": 0.0,
            "flip_y": False,
        }
        params = get_parameters("COMAnalysis", parameters, defaults)
        CoMUDF.with_params(**{name: params[name] for name in defaults})  # refuses what is no parameter
        return params

    def need_rerun(self, old_params: Mapping[str, Any], new_params: Mapping[str, Any]) -> bool:
        """Return False when only rotation and flip have changed."""

        def of_frames(params: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in params.items() if k not in {"flip_y", "scan_rotation"}}

        return of_frames(old_params) != of_frames(new_params)

    def get_udf(self) -> CoMUDF:
        """Return the UDF."""
        params = self.parameters
        return CoMUDF.with_params(cy=params["cy"], cx=params["cx"], r=params["r"], ri=params["ri"])

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> COMResultSet:
        """Return the field and what follows from it; rotation and flip are applied here."""
        shifts = udf_results["raw_shifts"].data
        shifts = shifts.astype(np.result_type(shifts.dtype, np.float64))
        params = self.parameters
        y, x = apply_correction(shifts[..., 0], shifts[..., 1], params["scan_rotation"], params["flip_y"])
        if np.iscomplexobj(y):
            return COMResultSet(
                [
                    real_result(part, f"{name} [{what}]", f"{name} component of the center", f"{name}_{what}", damage)
                    for what in ("real", "imag")
                    for name, part in (("x", getattr(x, what)), ("y", getattr(y, what)))
                ]
            )
        picture = vector_picture(y, x, damage)
        field = AnalysisResult(
            (x, y), picture, "field", "vector field: colour is direction, brightness is length", "field", False
        )
        results = [
            field,
            real_result(magnitude(y, x), "magnitude", "magnitude of the vector field", "magnitude", damage),
        ]
        if min(y.shape) > 1:
            results += [
                real_result(divergence(y, x), "divergence", "divergence of the vector field", "divergence", damage),
                real_result(curl_2d(y, x), "curl", "curl of the 2D vector field", "curl", damage),
            ]
        results += [
            real_result(x, "x", "x component of the center", "x", damage),
            real_result(y, "y", "y component of the center", "y", damage),
        ]
        return COMResultSet(results)

    def guess_parameters(self, udf_results: Mapping[str, Any]) -> dict[str, Any]:
        """Guess rotation, flip and centre from the results of the UDF; see `tilework.udf.com.guess_corrections`.

        Returns
        -------
        dict
            Parameters for another `COMAnalysis`.
        """
        shifts = udf_results["raw_shifts"].data
        guess = guess_corrections(shifts[..., 0], shifts[..., 1])
        params = self.parameters
        return {
            "scan_rotation": guess.scan_rotation,
            "flip_y": guess.flip_y,
            "cy": params["cy"] + guess.cy,
            "cx": params["cx"] + guess.cx,
        }

    def get_rpc_definitions(self) -> dict[str, Any]:
        """Return `guess_parameters`."""
        return {"guess_parameters": self.guess_parameters}
