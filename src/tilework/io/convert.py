"""Element-wise conversion of tiles: byte order and dtype, in one pass.

The NumPy path converts everything. For large tiles of integers that change their dtype, a compiled kernel is 1.2 to 2
times as fast, most where they also change byte order or become 4 times as wide; it is used once this process has
converted so much that loading it, or compiling it where that was never done, has paid off. The bits are the same either
way.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import CONTIGUOUS_ALIGNED, Kernel
from tilework.common.kernels.payoff import Payoff
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import as_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.kernels.turns import Turn

__all__ = [
    "CONVERTED_DTYPES",
    "convert_tile",
    "converts_in_one_pass",
    "is_in_one_piece",
    "repeat_conversion",
    "warmup_conversions",
]

CONVERTED_DTYPES = ("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", ">u2", ">i2", ">u4", ">i4")
"""What there is a kernel for in `warmup_conversions`, by default: the integers that detectors write."""

_cast_to_floats = Kernel("tilework.io.convert_numba", "cast_to_floats")
_cast_to_integers = Kernel("tilework.io.convert_numba", "cast_to_integers")

# Tiles below this many pixels are converted in less time than choosing a kernel takes.
SMALL_PIXELS = 64 * 1024
PAYOFF = Payoff(to_load=2**27, to_compile=2**29, to_import=2**33)


def convert_tile(
    src: NDArray[Any] | PickedFrames,
    dtype: DTypeLike,
    out: NDArray[Any] | None = None,
    *,
    compiled: bool | None = None,
) -> NDArray[Any]:
    """Return `src` converted to `dtype`, element by element.

    Parameters
    ----------
    src
        Array of any shape and byte order; the distance between its frames (first axis) may be larger than a frame. Or
        frames that were picked from one.
    dtype
        Dtype of the result.
    out
        Where to write, of the shape of `src` and of `dtype`; None makes a new C-contiguous array.
    compiled
        True for the compiled kernel (where there is one for these dtypes), False for NumPy, None for what pays.

    Returns
    -------
    array
        `out`, or the new array.
    """
    if out is None:
        out = np.empty(src.shape, dtype=dtype)
    is_worth_it = src.size >= SMALL_PIXELS if compiled is None else compiled
    if is_worth_it and converts_in_one_pass(src.dtype, out.dtype) and _is_in_rows(src) and out.flags.c_contiguous:
        kernel, arguments = _as_call(src, out)
        if compiled or PAYOFF.is_reached(src.size, kernel, arguments):
            kernel(*arguments)
            return out
    np.copyto(out, in_memory(src), casting="unsafe")
    return out


def repeat_conversion(
    src: NDArray[Any] | PickedFrames, out: NDArray[Any], turn: Turn | None = None
) -> Callable[[NDArray[Any]], None] | None:
    """Return a function that does to similar tiles what `convert_tile` has done, sooner; None where there is none.

    Most tiles are like the one before, and what is found out about them takes as long as a small tile.

    Parameters
    ----------
    src
        A tile; the others have its dtype and shape, and are contiguous and aligned like it.
    out
        Where all of them are written.
    turn
        Of the task, which is waited for at the end of each conversion; None: there are no turns.
    """
    if not (src.size >= SMALL_PIXELS and is_in_one_piece(src) and converts_in_one_pass(src.dtype, out.dtype)):
        return None
    kernel, (flat, *rest) = _as_call(src, out)
    if not PAYOFF.is_reached(0, kernel, (flat, *rest)):
        return None
    repeated, native = kernel.repeated(flat, *rest, turn=turn), flat.dtype
    return lambda tile: repeated(tile.view(native).reshape(-1))


def is_in_one_piece(tile: NDArray[Any] | PickedFrames) -> bool:
    """Return whether a tile is contiguous and aligned."""
    return not isinstance(tile, PickedFrames) and tile.flags.num & CONTIGUOUS_ALIGNED == CONTIGUOUS_ALIGNED


def _as_call(src: NDArray[Any] | PickedFrames, out: NDArray[Any]) -> tuple[Kernel, tuple[Any, ...]]:
    """Return the kernel that writes `src` to `out`, and its arguments."""
    rows = as_rows(src)
    frames, pixels = rows.frames, rows.pixels
    if is_in_one_piece(src):  # one row, however small the frames are
        frames, pixels = 1, frames * pixels
    kernel = _cast_to_floats if out.dtype.kind == "f" else _cast_to_integers
    return kernel, (rows.flat, rows.order, rows.places, frames, pixels, out.reshape(-1))


def warmup_conversions(dtypes: Iterable[DTypeLike] = CONVERTED_DTYPES) -> None:
    """Compile the conversions to float that functions of a user get by default, and keep them on disk.

    Parameters
    ----------
    dtypes
        dtypes of datasets, with their byte order; those that are not converted by a kernel are left out.
    """
    for each in dtypes:
        tile = np.ones((2, 3, 3), dtype=each)
        convert_tile(tile, np.result_type(np.float32, tile.dtype), compiled=True)


@functools.lru_cache(maxsize=256)
def converts_in_one_pass(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether there is a kernel for a conversion, which then also takes picked frames where they lie."""
    return (
        source.kind in "ui"
        and target.isnative
        and (target.kind in "ui" or target.str[1:] in {"f4", "f8"})
        and target != source.newbyteorder("=")  # swapping and copying alone is as fast in NumPy
    )


def _is_in_rows(src: NDArray[Any] | PickedFrames) -> bool:
    if isinstance(src, PickedFrames):
        return src.size > 0
    flags = src.flags
    if flags.c_contiguous:
        return src.ndim > 0 and src.size > 0 and flags.aligned
    return (
        src.size > 0
        and flags.aligned
        and src.strides[0] > 0
        and src.strides[0] % src.dtype.itemsize == 0
        and src[0].flags.c_contiguous
    )
