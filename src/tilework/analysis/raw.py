"""Single frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters, whole_number
from tilework.analysis.results import complex_results, log_and_lin, sig_damage
from tilework.common.analysis import AnalysisResultSet
from tilework.udf.raw import PickUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.analysis.results import Array, Damage

__all__ = ["PickFrameAnalysis"]

_COORDINATES = ("x", "y", "z")


class PickFrameAnalysis(BaseAnalysis, id_="PICK_FRAME"):
    """One frame, as it is.

    Results, of sig shape and the dataset's dtype: ``intensity`` with a logarithmic picture, and ``intensity_lin``; for
    complex data, ``intensity`` is the magnitude, and there are ``intensity_real``, ``_imag``, ``_angle`` and
    ``_complex`` as well. A frame that the source does not have is NaN, or 0 for integers, and its pictures are grey.

    Parameters
    ----------
    dataset
        What is evaluated; its scan has one to three axes.
    parameters
        ``x``, and ``y`` and ``z`` where the scan has such axes: the position; x is the last axis of the scan.

    Examples
    --------
    >>> result = ctx.run(PickFrameAnalysis(ds, {"x": 3, "y": 1}))
    >>> np.array_equal(result.intensity.raw_data, ds.data[1, 3])
    True
    """

    DEFAULTS: Mapping[str, Any] = {}

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        defaults = {**dict.fromkeys(_COORDINATES), **self.DEFAULTS}
        params = get_parameters(type(self).__name__, parameters, defaults)
        self._check(params)
        return params

    def _check(self, params: dict[str, Any]) -> None:
        """Check the position, and make its coordinates integers."""
        nav = tuple(self.dataset.shape.nav)
        if not 1 <= len(nav) <= len(_COORDINATES):
            msg = f"incompatible dataset: a frame is picked from scans with 1 to 3 axes, this has the shape {nav}"
            raise ValueError(msg)
        needed, others = _COORDINATES[: len(nav)], _COORDINATES[len(nav) :]
        if any(params[c] is None for c in needed) or any(params[c] is not None for c in others):
            got = ", ".join(f"{c}={params[c]}" for c in _COORDINATES)
            msg = f"a frame of a scan of shape {nav} is picked with {', '.join(needed)}, not with {got}"
            raise ValueError(msg)
        params.update({c: whole_number(c, params[c]) for c in needed})
        where = self._coordinate(params)
        if not all(0 <= c < n for c, n in zip(where, nav, strict=True)):
            msg = f"the position {where} is not within the scan of shape {nav}"
            raise ValueError(msg)

    def _coordinate(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        axes = _COORDINATES[: len(tuple(self.dataset.shape.nav))]
        return tuple(params[c] for c in reversed(axes))

    def get_roi(self) -> NDArray[np.bool_]:
        """Return the position of the frame."""
        roi = np.zeros(tuple(self.dataset.shape.nav), dtype=bool)
        roi[self._coordinate(self.parameters)] = True
        return roi

    def get_udf(self) -> PickUDF:
        """Return the UDF."""
        return PickUDF()

    def _frame(self, frame: Array, there: bool) -> Array:
        """Return what is shown of the frame; `there` says whether the source has it."""
        return frame

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Return the frame."""
        frames = udf_results["intensity"].data
        if len(frames) != 1:
            msg = f"{type(self).__name__} shows one frame, the roi selects {len(frames)}: leave the roi out"
            raise ValueError(msg)
        there = sig_damage(damage)
        values = self._frame(frames[0], there)
        position = " ".join(f"{c}={self.parameters[c]}" for c in _COORDINATES if self.parameters[c] is not None)
        desc = f"the frame at {position}" if there else f"the source has no frame at {position}"
        if np.iscomplexobj(values):
            return AnalysisResultSet(complex_results(values, "intensity", "intensity", desc, there, default_lin=False))
        return AnalysisResultSet(log_and_lin(values, "intensity", desc, "intensity", there, default_lin=False))
