"""Small things that are done with arrays of every kind."""

from __future__ import annotations

import reprlib
import sys
from typing import Any

import numpy as np

__all__ = [
    "fill_value",
    "is_masked",
    "like_index",
    "reshaped_view",
    "short_repr",
    "to_numpy",
    "without_mask",
    "zeros",
]

Array = np.ndarray[Any, np.dtype[Any]]


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a C-contiguous array of zeros (of the int 0 for object dtype)."""
    return np.zeros(shape, dtype=dtype)


def is_masked(value: Any) -> bool:
    """Return whether it is a masked array, without loading those: NumPy takes long to do so."""
    return "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray)


def without_mask(array: Any, there: Any = True) -> tuple[Array, Any]:
    """Return an array, and where it is there: where `there` says it, and where it is not masked, if it is of those."""
    plain = np.asarray(array)
    return (plain, there & ~np.ma.getmaskarray(array)) if is_masked(array) else (plain, there)


def fill_value(dtype: np.dtype[Any]) -> Any:
    """Return what stands for "nothing was computed here": NaN, NaT, None, False, 0 or an empty string."""
    match dtype.kind:
        case "f":
            return np.nan
        case "c":
            # Neither part is known.
            return complex(np.nan, np.nan)
        case "m" | "M":
            return np.array("NaT", dtype=dtype)
        case "O":
            return None
        case "b":
            return False
        case "U":
            return ""
        case "S":
            return b""
        case "V":
            return np.zeros((), dtype=dtype)
        case _:
            return 0


class _Short(reprlib.Repr):
    """Arrays by what they are, everything else by its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 100

    def repr1(self, x: Any, level: int) -> str:
        if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, (np.generic, type)):
            return f"<{type(x).__name__} of shape {tuple(x.shape)}, {x.dtype}>"
        return super().repr1(x, level)


def short_repr(value: Any) -> str:
    """Return what a message says of any value, which may be an array, or hold some: a few words, never all the data."""
    return _Short().repr(value)


def to_numpy(a: Any) -> Array:
    """Return `a` as a NumPy array; only NumPy and CuPy arrays are taken.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(a, np.ndarray):
        return a
    if type(a).__module__.split(".")[0] == "cupy":
        return np.asarray(a.get())
    msg = f"a result must be a NumPy or CuPy array, got {type(a).__module__}.{type(a).__qualname__}"
    raise TypeError(msg)


def like_index(index: Array, array: Any) -> Any:
    """Return an array of indices, or a mask, in the memory of the array that it is to index."""
    if isinstance(array, np.ndarray):
        return index
    import cupy

    return cupy.asarray(index)


def reshaped_view(a: Array, shape: tuple[int, ...]) -> Array:
    """Return a view of `a` with another shape.

    Raises
    ------
    AttributeError
        When that is not possible without a copy.
    """
    view = a.reshape(shape)
    if not np.may_share_memory(view, a):
        msg = f"an array of shape {a.shape} and strides {a.strides} has no view of shape {shape}"
        raise AttributeError(msg)
    return view
