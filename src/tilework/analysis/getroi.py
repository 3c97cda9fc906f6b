"""Regions of interest that are described by parameters, as a program with a screen sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tilework.common.masks import circular, rectangular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["get_roi"]


def get_roi(params: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return the region of interest that parameters describe.

    Parameters
    ----------
    params
        Parameters of an analysis. Their ``"roi"`` may be ``{"shape": "disk", "cx": …, "cy": …, "r": …}`` or
        ``{"shape": "rect", "x": …, "y": …, "width": …, "height": …}``, in scan positions. A rectangle contains
        both borders: of width 3 it has 4 columns.
    shape
        Shape (y, x) of the scan.

    Returns
    -------
    bool, (y, x), or None
        None when no region is described: all positions.

    Raises
    ------
    NotImplementedError
        When the region has another shape.
    TypeError
        When it is no description, such as a mask.
    ValueError
        When the scan has not two axes, or the description is not complete.

    Examples
    --------
    >>> get_roi({"roi": {"shape": "disk", "cx": 1, "cy": 1, "r": 1}}, (3, 4)).astype(int)
    array([[0, 1, 0, 0],
           [1, 1, 1, 0],
           [0, 1, 0, 0]])
    >>> get_roi({}, (3, 4)) is None
    True
    """
    roi = params.get("roi")
    if not (roi is None or isinstance(roi, Mapping)):
        msg = (
            f"the roi of an analysis is described as 'disk' or 'rect', not as {type(roi).__name__}: give masks to run()"
        )
        raise TypeError(msg)
    if not roi or not roi.get("shape"):
        return None
    if roi["shape"] not in {"disk", "rect"}:
        msg = f"unknown shape of a region of interest: {roi['shape']!r}; there are 'disk' and 'rect'"
        raise NotImplementedError(msg)
    if len(shape) != 2:
        msg = f"a region of interest of shape {roi['shape']!r} needs a scan with two axes, this has the shape {shape}"
        raise ValueError(msg)
    height, width = shape
    try:
        if roi["shape"] == "disk":
            return circular(roi["cx"], roi["cy"], width, height, roi["r"])
        return rectangular(roi["x"], roi["y"], roi["width"], roi["height"], width, height)
    except KeyError as e:
        msg = f"the region of interest {dict(roi)} lacks {e}"
        raise ValueError(msg) from e
