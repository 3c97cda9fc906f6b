"""A virtual detector that is a ring: annular dark field."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.masks import SingleMaskAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.common.masks import check_radii, ring

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RingMaskAnalysis"]


class RingMaskAnalysis(SingleMaskAnalysis, id_="APPLY_RING_MASK"):
    """Sum of each frame over a ring.

    Parameters
    ----------
    dataset
        What is evaluated; its detector has two axes.
    parameters
        ``cx``, ``cy``: centre in pixels, default that of the detector; ``ro``: outer radius in pixels, default half the
        smaller size of the detector; ``ri``: inner radius, default 0.8 times the outer one; ``use_sparse``: see
        `ApplyMasksUDF`, default False.

    Examples
    --------
    Annular dark field:

    >>> result = ctx.run(RingMaskAnalysis(ds, {"cx": 16, "cy": 16, "ri": 6, "ro": 14}))
    >>> result.intensity.raw_data.shape, result.intensity.visualized.shape
    ((6, 8), (6, 8, 4))
    """

    NAME = "ring"

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        height, width = require_sig_2d("RingMaskAnalysis", self.dataset)
        outer = parameters.get("ro")
        outer = min(height, width) / 2 if outer is None else outer
        defaults = {
            "cx": width / 2,
            "cy": height / 2,
            "ri": 0.8 * outer,
            "ro": outer,
            "use_sparse": False,
            "mask_count": 1,
            "mask_dtype": np.float32,
        }
        params = get_parameters("RingMaskAnalysis", parameters, defaults)
        check_radii(ri=params["ri"], ro=params["ro"])
        return params

    def get_mask_factories(self) -> list[Callable[[], Any]]:
        """Return a factory for the ring."""
        params = self.parameters
        height, width = self.dataset.shape.sig
        return [partial(ring, params["cx"], params["cy"], width, height, params["ro"], params["ri"])]
