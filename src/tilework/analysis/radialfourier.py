"""Symmetries of diffraction patterns: Fourier coefficients of rings along their circumference."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.masks import BaseMasksAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import real_result, vector_picture
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.common.mask_stacks import prefers_sparse, radial_fourier
from tilework.common.masks import bounding_radius, check_radii

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Array, Damage

__all__ = ["RadialFourierAnalysis", "RadialFourierResultSet"]

# An order dominates only where its coefficient is at least this share of the largest one in the scan.
_NOTABLE = 0.2


class RadialFourierResultSet(AnalysisResultSet):
    """Results of `RadialFourierAnalysis`, of nav shape, for each ring ``b`` and order ``o``.

    ``dominant_{b}``: the order above 0 with the largest coefficient; 0 where that is below a fifth of the largest in
    the scan. ``absolute_{b}_{o}``: absolute value of the coefficient. ``phase_{b}_{o}``: its angle in radians.
    ``complex_{b}_{o}``: the coefficient, relative to the absolute value of order 0 (which itself is not).

    ``raw_results``: the coefficients, of shape ``(n_bins, max_order + 1, *nav)``.

    Examples
    --------
    >>> result = ctx.run(RadialFourierAnalysis(ds, {"n_bins": 2, "max_order": 1}))
    >>> result.keys()[:6]
    ['dominant_0', 'absolute_0_0', 'absolute_0_1', 'dominant_1', 'absolute_1_0', 'absolute_1_1']
    >>> result.raw_results.shape
    (2, 2, 6, 8)
    """


class RadialFourierAnalysis(BaseMasksAnalysis, id_="RADIAL_FOURIER"):
    """Fourier coefficients of rings; see `tilework.masks.radial_fourier`.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``cx``, ``cy``: centre in pixels, default that of the detector; ``ri``, ``ro``: radii in pixels, default
        0 and the whole detector; ``n_bins``: number of rings between them, default 1; ``max_order``: highest
        order, default 24; ``use_sparse``: see `ApplyMasksUDF`, default: sparse when the masks are large and
        their rings narrow.

    Examples
    --------
    Four reflections at the same distance from the centre:

    >>> data = np.zeros((2, 2, 33, 33), dtype="uint16")
    >>> data[..., [6, 26, 16, 16], [16, 16, 6, 26]] = 100
    >>> dataset = ctx.load("memory", data=data)
    >>> result = ctx.run(RadialFourierAnalysis(dataset, {"cx": 16, "cy": 16, "ri": 8, "ro": 12, "max_order": 6}))
    >>> int(result.dominant_0.raw_data[0, 0])
    4
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        height, width = require_sig_2d("RadialFourierAnalysis", self.dataset)
        defaults: dict[str, Any] = {
            "cx": width / 2, "cy": height / 2, "ri": 0.0, "ro": None, "n_bins": 1, "max_order": 24, "use_sparse": None,
            "mask_count": None, "mask_dtype": np.complex64,
        }  # fmt: skip
        params = get_parameters("RadialFourierAnalysis", parameters, defaults)
        if params["ro"] is None:
            params["ro"] = bounding_radius(params["cx"], params["cy"], width, height)
        check_radii(ri=params["ri"], ro=params["ro"], has_soft_rims=True)
        n_bins, orders = params["n_bins"], params["max_order"] + 1
        if n_bins < 1 or orders < 1:
            msg = f"n_bins must be at least 1 and max_order at least 0, they are {n_bins} and {params['max_order']}"
            raise ValueError(msg)
        if params["use_sparse"] is None:
            sparse = prefers_sparse(n_bins, orders, (height, width), params["ri"], params["ro"], params["mask_dtype"])
            params["use_sparse"] = "scipy.sparse" if sparse else False
        params["mask_count"] = n_bins * orders
        return params

    def get_mask_factories(self) -> Any:
        """Return a factory for the stack."""
        params = self.parameters
        height, width = self.dataset.shape.sig
        return partial(
            radial_fourier,
            params["cx"],
            params["cy"],
            width,
            height,
            radius=params["ro"],
            radius_inner=params["ri"],
            n_bins=params["n_bins"],
            max_order=params["max_order"],
            use_sparse=bool(params["use_sparse"]),
            dtype=params["mask_dtype"],
        )

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> RadialFourierResultSet:
        """Return coefficients and what follows from them; made when the first one is asked for."""
        data = udf_results["intensity"].data
        n_bins, orders = self.parameters["n_bins"], self.parameters["max_order"] + 1
        raw = np.moveaxis(data, -1, 0).reshape((n_bins, orders, *data.shape[:-1]))
        return RadialFourierResultSet(partial(_results, raw, damage), raw_results=raw)


def _results(raw: Array, damage: Damage) -> list[AnalysisResult]:
    n_bins, orders = raw.shape[:2]
    total = np.abs(raw[:, :1])
    relative = np.divide(raw, total, out=np.where(np.isfinite(raw), 0, raw), where=(total != 0) & np.isfinite(total))
    relative[:, 0] = raw[:, 0]
    results = []
    for b in range(n_bins):
        title = f"dominant order of bin {b}"
        dominant = _dominant(np.abs(raw[b]))
        colors: dict[str, Any] = {"vmin": 0, "vmax": orders - 1}
        results.append(real_result(dominant, title, "Dominant Fourier component", f"dominant_{b}", damage, **colors))
        for o in range(orders):
            title, desc = f"absolute of bin {b} order {o}", "Absolute value of Fourier component"
            results.append(real_result(np.abs(raw[b, o]), title, desc, f"absolute_{b}_{o}", damage))
    indices = [(b, o) for b in range(n_bins) for o in range(orders)]
    cyclic: dict[str, Any] = {"colormap": "tilework_cyclic", "vmin": -np.pi, "vmax": np.pi}
    for b, o in indices:
        title, desc = f"phase of bin {b} order {o}", "Phase of Fourier component"
        results.append(real_result(np.angle(raw[b, o]), title, desc, f"phase_{b}_{o}", damage, **cyclic))
    for b, o in indices:
        values = relative[b, o]
        picture = vector_picture(values.imag, values.real, damage)
        results.append(AnalysisResult(values, picture, f"bin {b} order {o}", "Fourier component", f"complex_{b}_{o}"))
    return results


def _dominant(absolute: Array) -> Array:
    """Return the order with the largest coefficient by position; 0 where none is notable."""
    if len(absolute) < 2:
        return np.zeros(absolute.shape[1:], dtype=np.int64)
    known = np.where(np.isfinite(absolute[1:]), absolute[1:], 0)
    notable = known.max(axis=0) > _NOTABLE * known.max()
    return np.asarray(np.where(notable, np.argmax(known, axis=0) + 1, 0), dtype=np.int64)
