"""A virtual detector that is a disk: bright field."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.masks import SingleMaskAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.common.masks import check_radii, circular

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DiskMaskAnalysis"]


class DiskMaskAnalysis(SingleMaskAnalysis, id_="APPLY_DISK_MASK"):
    """Sum of each frame over a disk.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``cx``, ``cy``: centre in pixels, default that of the detector; ``r``: radius in pixels, default 0.3 times half
        the smaller size of the detector; ``use_sparse``: see `ApplyMasksUDF`, default False.

    Examples
    --------
    Bright field, with its picture:

    >>> result = ctx.run(DiskMaskAnalysis(ds, {"cx": 16, "cy": 16, "r": 5}))
    >>> result.intensity.raw_data.shape, result.intensity.visualized.shape
    ((6, 8), (6, 8, 4))
    """

    NAME = "disk"

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        height, width = require_sig_2d("DiskMaskAnalysis", self.dataset)
        defaults = {
            "cx": width / 2,
            "cy": height / 2,
            "r": min(height, width) / 2 * 0.3,
            "use_sparse": False,
            "mask_count": 1,
            "mask_dtype": np.float32,
        }
        params = get_parameters("DiskMaskAnalysis", parameters, defaults)
        check_radii(r=params["r"])
        return params

    def get_mask_factories(self) -> list[Callable[[], Any]]:
        """Return a factory for the disk."""
        params = self.parameters
        height, width = self.dataset.shape.sig
        return [partial(circular, params["cx"], params["cy"], width, height, params["r"])]
