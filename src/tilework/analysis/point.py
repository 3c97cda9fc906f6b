"""A virtual detector that is one pixel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.masks import SingleMaskAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PointMaskAnalysis"]


class PointMaskAnalysis(SingleMaskAnalysis, id_="APPLY_POINT_SELECTOR"):
    """One pixel of each frame.

    Parameters
    ----------
    dataset
        What is evaluated; its scan has at most two axes, its detector two.
    parameters
        ``cx``, ``cy``: the pixel, default the centre of the detector; truncated to whole pixels.

    Examples
    --------
    >>> result = ctx.run(PointMaskAnalysis(ds, {"cx": 3, "cy": 5}))
    >>> np.array_equal(result.intensity.raw_data, ds.data[:, :, 5, 3])
    True
    """

    NAME = "point"

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        nav = tuple(self.dataset.shape.nav)
        if len(nav) > 2:
            msg = (
                "incompatible dataset: PointMaskAnalysis needs at most two navigation dimensions, "
                f"the scan has the shape {nav}"
            )
            raise ValueError(msg)
        height, width = require_sig_2d("PointMaskAnalysis", self.dataset)
        defaults = {"cx": width / 2, "cy": height / 2, "mask_count": 1, "mask_dtype": np.float32}
        params = get_parameters("PointMaskAnalysis", parameters, defaults)
        if not (0 <= params["cx"] < width and 0 <= params["cy"] < height):
            msg = (
                f"the point (y, x) = ({params['cy']}, {params['cx']}) is not on the detector of shape {(height, width)}"
            )
            raise ValueError(msg)
        return params

    def get_mask_factories(self) -> list[Callable[[], Any]]:
        """Return a factory for the pixel."""
        return [partial(_pixel, int(self.parameters["cy"]), int(self.parameters["cx"]), tuple(self.dataset.shape.sig))]


def _pixel(y: int, x: int, shape: tuple[int, ...]) -> Any:
    import sparse

    return sparse.COO(np.array([[y], [x]]), data=np.ones(1, dtype=np.float32), shape=shape)
