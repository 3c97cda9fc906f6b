"""Sum and first moments of each frame inside a region of the detector: what the centre of mass is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.common.kernels.parallel import PART_BYTES, run_parts
from tilework.common.kernels.rows import as_rows, frame_blocks

__all__ = ["find_runs", "sum_moments"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]

_ACCUMULATORS = {"u1": "u4", "u2": "u4", "i1": "i4", "i2": "i4", "u4": "u8", "i4": "i8", "f4": "f4"}
# Numbers of 4 bytes in a vector.
_LANES = 16


def find_runs(selection: BoolArray, origin: tuple[int, int] = (0, 0)) -> IntArray:
    """Describe a region of the detector, or of a part of it, as horizontal runs of pixels.

    Parameters
    ----------
    selection
        True inside the region; of shape ``(y, x)``.
    origin
        Detector coordinates (y, x) of its first pixel.

    Returns
    -------
    numpy.ndarray
        int64 of shape ``(number of runs, 4)``, a row is: place of the run's first pixel in the flattened part, number
        of pixels, y and x of the first pixel on the detector.
    """
    height, width = selection.shape
    # A column of False at either side makes every run begin and end.
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = selection
    steps = np.diff(padded, axis=1)
    y, begin = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]
    return np.stack([y * width + begin, end - begin, y + origin[0], begin + origin[1]], axis=1).astype(np.int64)


def sum_moments(tile: Array, runs: IntArray, out: Array, *, compiled: bool, threads: int = 1) -> None:
    """Add the sum and the first moments of each frame inside a region to `out`.

    Sums over integers of up to 4 bytes are exact, as long as they are below 2**53. The result of a frame does not
    depend on which frames are in the same tile.

    Parameters
    ----------
    tile
        Frames, real, of shape ``(n, y, x)``, or any other with as many pixels.
    runs
        The region, from `find_runs`.
    out
        Result, of shape ``(n, 3)``, a float dtype: the sum of the pixels, the sum of pixel times y, and of pixel
        times x; y and x are detector coordinates in pixels.
    compiled
        True for the compiled kernel, False for NumPy.
    threads
        The most threads to use. The bits do not depend on it.

    Raises
    ------
    TypeError
        When the tile is complex.
    """
    if tile.dtype.kind == "c":
        msg = "moments inside runs of pixels are of real frames; use DenseMasks for complex ones"
        raise TypeError(msg)
    frames = tile.shape[0]
    if frames == 0 or len(runs) == 0:
        return
    rows = as_rows(tile)
    sums = np.zeros((frames, 3))
    if not compiled:
        _sum_with_numpy(tile.reshape(frames, -1), runs, sums)
    else:
        from tilework.common.kernels.moments_numba import add_moments_of_floats, add_moments_of_integers

        kind = np.dtype(_ACCUMULATORS.get(rows.flat.dtype.str[1:], "f8"))
        left = int(runs[:, 3].min())
        columns = int((runs[:, 3] + runs[:, 1]).max()) - left + _LANES

        def part(start: int, stop: int) -> None:
            place = rows.flat, rows.order, rows.stride, start, stop, runs
            if kind.kind == "f":
                add_moments_of_floats(*place, np.empty(0, kind), sums)
            else:
                add_moments_of_integers(*place, np.empty(columns, kind), left, sums)

        useful = rows.flat.itemsize * frames * rows.pixels // PART_BYTES
        run_parts(part, frames, max(1, min(threads, useful)))
    np.add(out, sums, out=out, casting="unsafe")


def _sum_with_numpy(flat: Array, runs: IntArray, sums: Array) -> None:
    lengths = runs[:, 1]
    # The place of each selected pixel in its run, for all runs one after the other.
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(runs[:, 0], lengths) + within
    weights = np.stack([np.ones(len(places)), np.repeat(runs[:, 2], lengths), np.repeat(runs[:, 3], lengths) + within])
    with np.errstate(invalid="ignore", over="ignore"):
        for block in frame_blocks(flat):
            sums[block] += np.einsum("ip,mp->im", flat[block][:, places].astype(np.float64), weights)
