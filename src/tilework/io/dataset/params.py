"""Checks of the parameters that all file formats take."""

from __future__ import annotations

import math
import operator
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.callers import outside_level
from tilework.exceptions import DataSetException

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "GUESSED",
    "ONE_LINE",
    "check_dtype",
    "check_shape",
    "check_sync_offset",
    "count",
    "cut_off",
    "guess_nav_shape",
    "take_deprecated",
    "take_uncropped",
    "without_renamed",
]

# Why a scan has its shape, where nothing tells it. A square may be wrong without showing it, one line cannot.
GUESSED = "guessed from the number of frames"
ONE_LINE = "nothing tells its lines"
_OLD_NAMES = {"scan_size": "nav_shape", "detector_size": "sig_shape"}
_NO_EFFECT = ("tileshape", "enable_direct")
_CROPPING = ("detector_size_raw", "crop_detector_to")


def check_dtype(dtype: Any, where: str) -> np.dtype[Any]:
    """Return the dtype of pixels.

    Raises
    ------
    DataSetException
        When it is not numeric; `where` names what asked for it.
    """
    try:
        if dtype is None:  # which NumPy takes for float64
            raise TypeError
        stored: np.dtype[Any] = np.dtype(dtype)
    except TypeError as e:
        msg = f"{where}: dtype={dtype!r} is no dtype; give one that NumPy knows, such as 'uint16' or '>u2'"
        raise DataSetException(msg) from e
    if stored.kind not in "buifc" or stored.subdtype is not None:
        msg = f"{where}: pixels of dtype {stored} are no numbers; store them as integers, floats or complex"
        raise DataSetException(msg)
    return stored


def check_shape(name: str, shape: Sequence[int] | int | None) -> tuple[int, ...] | None:
    """Return `shape` as a tuple of Python integers; None stays None.

    Raises
    ------
    DataSetException
        When it is empty, or has a size that is no integer or is below 1.
    """
    if shape is None:
        return None
    try:
        sizes = tuple(operator.index(n) for n in ((shape,) if isinstance(shape, (int, np.integer)) else shape))
    except TypeError as e:
        msg = f"{name}={shape!r}: must be integers, one for each axis"
        raise DataSetException(msg) from e
    if not sizes or min(sizes) < 1:
        msg = f"{name}={shape!r}: must have at least one axis, and every size must be at least 1"
        raise DataSetException(msg)
    return sizes


def check_sync_offset(sync_offset: Any) -> int:
    """Return `sync_offset` as a Python integer; None counts as 0.

    Raises
    ------
    DataSetException
        When it is no integer.
    """
    if sync_offset is None:
        return 0
    try:
        return operator.index(sync_offset)
    except TypeError as e:
        msg = f"sync_offset={sync_offset!r}: must be an integer, the number of frames to skip (or, negative, to insert)"
        raise DataSetException(msg) from e


def count(n: int, noun: str) -> str:
    """Return number and noun, in the plural where needed."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def cut_off(path: str, promised: int, frames: int, rest: int) -> str:
    """Return the message about a file that holds fewer frames than its header promises, and `rest` bytes of another."""
    there = f"there {'is' if frames == 1 else 'are'} {frames}"
    more = f" and {rest} bytes of another" if rest else ""
    return f"{path} is cut off: its header promises {count(promised, 'frame')}, {there}{more}"


def guess_nav_shape(frames: int) -> tuple[tuple[int, ...], str]:
    """Return the shape of a scan of which only the number of frames is known, a square where that fits; and why."""
    side = math.isqrt(frames)
    return ((side, side), GUESSED) if side > 1 and side * side == frames else ((frames,), ONE_LINE)


def take_deprecated(params: dict[str, Any], deprecated: dict[str, Any]) -> dict[str, Any]:
    """Return `params` with the values of names that older programs use.

    Parameters
    ----------
    params
        Values by their present names.
    deprecated
        Further keyword arguments of the constructor.

    Raises
    ------
    TypeError
        For a keyword argument that never existed, as Python itself would.
    """
    params = dict(params)
    for name, value in deprecated.items():
        if name in _NO_EFFECT:
            warnings.warn(f"{name} has no effect any more; leave it out", FutureWarning, stacklevel=outside_level())
            continue
        new = _OLD_NAMES.get(name)
        if new is None or new not in params:
            msg = f"unexpected keyword argument {name!r}"
            raise TypeError(msg)
        warnings.warn(f"{name} is deprecated; use {new}", FutureWarning, stacklevel=outside_level())
        if params[new] is not None:
            msg = f"{name} is the old name of {new}: give one of them"
            raise ValueError(msg)
        params[new] = value
    return params


def without_renamed(detected: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what was detected, without that which is given by the name that older programs use."""
    replaced = {new for old, new in _OLD_NAMES.items() if given.get(old) is not None}
    return {name: value for name, value in detected.items() if name not in replaced}


def take_uncropped(deprecated: dict[str, Any], sig_shape: Sequence[int] | None) -> dict[str, Any]:
    """Return keyword arguments with the size of what is left of a frame, as long as that is the frame.

    Parameters
    ----------
    deprecated
        Older programs say ``detector_size_raw``, what is stored, and ``crop_detector_to``, what is left of it.
    sig_shape
        What is left, where they say only the former.

    Raises
    ------
    ValueError
        When something is to be cut off.
    """
    kept = {name: value for name, value in deprecated.items() if name not in _CROPPING}
    stored, left = (check_shape(name, deprecated.get(name)) for name in _CROPPING)
    frame = check_shape("sig_shape", kept.get("detector_size") if sig_shape is None else sig_shape)
    name, wanted = ("sig_shape", frame) if left is None else ("crop_detector_to", left)
    is_said = stored is not None or left is not None
    if is_said and wanted is not None and wanted != stored:
        msg = (
            f"{name}={wanted!r}: nothing is cut off from frames of {stored!r} any more; give all of it as "
            "sig_shape, and leave out in your function, or with masks, what does not belong to them"
        )
        raise ValueError(msg)
    return kept if left is None else {"detector_size": left, **kept}
