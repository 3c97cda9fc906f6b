"""Analyses with masks: sums of the products of frames and masks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters
from tilework.analysis.results import complex_results, log_and_lin, real_result
from tilework.common.analysis import AnalysisResult, AnalysisResultSet
from tilework.udf.masks import ApplyMasksUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.results import Damage

__all__ = [
    "BaseMasksAnalysis",
    "MasksAnalysis",
    "MasksResultSet",
    "SingleMaskAnalysis",
    "SingleMaskResultSet",
]


class MasksResultSet(AnalysisResultSet):
    """Results of `MasksAnalysis`: ``mask_0``, ``mask_1``, … of nav shape.

    For complex ones, each stands for the magnitude, and there are ``mask_0_log``, ``_real``, ``_imag``, ``_angle`` and
    ``_complex``, and so on.

    Examples
    --------
    >>> masks = [lambda: np.ones((32, 32)), lambda: np.eye(32)]
    >>> result = ctx.run(MasksAnalysis(ds, {"factories": masks}))
    >>> result.keys()
    ['mask_0', 'mask_1']
    """


class SingleMaskResultSet(AnalysisResultSet):
    """Results of a virtual detector, of nav shape: ``intensity``, and ``intensity_log`` with a logarithmic picture.

    For complex data, ``intensity`` is the magnitude, and there are ``intensity_real``, ``_imag``, ``_angle`` and
    ``_complex`` as well.

    Examples
    --------
    >>> result = ctx.run(ctx.create_disk_analysis(dataset=ds, r=5))
    >>> result.keys()
    ['intensity', 'intensity_log']
    >>> np.array_equal(result.intensity.raw_data, result.intensity_log.raw_data)
    True
    """


class BaseMasksAnalysis(BaseAnalysis):
    """What analyses with masks have in common: parameters with the factories, and the UDF."""

    @abstractmethod
    def get_mask_factories(self) -> Any:
        """Return what `ApplyMasksUDF` takes as ``mask_factories``."""

    def get_udf(self) -> ApplyMasksUDF:
        """Return a UDF with the masks."""
        params = self.parameters
        return ApplyMasksUDF(
            mask_factories=self.get_mask_factories(),
            use_sparse=params.get("use_sparse"),
            mask_count=params.get("mask_count"),
            mask_dtype=params.get("mask_dtype"),
            preferred_dtype=params.get("dtype"),
        )


class MasksAnalysis(BaseMasksAnalysis):
    """Products of all frames with masks.

    Parameters
    ----------
    dataset
        What is evaluated.
    parameters
        ``factories``, and optionally ``use_sparse``, ``mask_count``, ``mask_dtype`` and ``dtype``: see `ApplyMasksUDF`,
        where they are called ``mask_factories`` and ``preferred_dtype``.

    Examples
    --------
    The upper half of the detector, and the lower one:

    >>> rows = np.repeat(np.arange(32), 32).reshape(32, 32)
    >>> analysis = MasksAnalysis(ds, {"factories": [lambda: rows < 16, lambda: rows >= 16], "mask_dtype": "float32"})
    >>> result = ctx.run(analysis)
    >>> upper, lower = result.mask_0.raw_data, result["mask_1"].raw_data
    >>> np.array_equal(upper + lower, ctx.map(dataset=ds, f=np.sum).data)
    True
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        defaults = dict.fromkeys(("use_sparse", "mask_count", "mask_dtype", "dtype"))
        return get_parameters("MasksAnalysis", parameters, defaults, required=("factories",))

    def get_mask_factories(self) -> Any:
        """Return the factories."""
        return self.parameters["factories"]

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> MasksResultSet:
        """Return one result per mask, or several when they are complex."""
        data = udf_results["intensity"].data
        results: list[AnalysisResult] = []
        for i in range(data.shape[-1]):
            values, title, desc = data[..., i], f"mask {i}", f"integrated intensity for mask {i}"
            if np.iscomplexobj(values):
                results += complex_results(values, f"mask_{i}", title, desc, damage)
            else:
                results.append(real_result(values, title, desc, f"mask_{i}", damage))
        return MasksResultSet(results)


class SingleMaskAnalysis(BaseMasksAnalysis):
    """What virtual detectors have in common.

    Their masks are float32.
    """

    NAME = ""

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> SingleMaskResultSet:
        """Return the intensity."""
        values = udf_results["intensity"].data[..., 0]
        desc = f"intensity of the integration over the selected {self.NAME}"
        if np.iscomplexobj(values):
            return SingleMaskResultSet(complex_results(values, "intensity", "intensity", desc, damage))
        return SingleMaskResultSet(log_and_lin(values, "intensity", desc, "intensity", damage, default_lin=True))
