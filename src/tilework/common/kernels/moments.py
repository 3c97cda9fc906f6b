"""Sum and first moments of each frame inside a region of the detector: what the centre of mass is made of."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.kernel_call import KernelCall
from tilework.common.kernels.payoff import EXACT_SUMS
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import SHORTS, as_rows, gather

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MomentRegion", "find_runs", "sum_moments"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]

_add_moments_of_floats = Kernel("tilework.common.kernels.moments_numba", "add_moments_of_floats")
_add_moments_of_integers = Kernel("tilework.common.kernels.moments_numba", "add_moments_of_integers")
_add_moments_of_shorts = Kernel("tilework.common.kernels.moments_shorts_numba", "add_moments_of_shorts")

_ACCUMULATORS = {"u1": "u4", "u2": "u4", "i1": "i4", "i2": "i4", "u4": "u8", "i4": "i8", "f4": "f4"}
# Numbers of 4 bytes in a vector.
_LANES = 16
# Pixels of 2 bytes in half a vector, and how many may have weights: more come from memory again each time.
_PIXELS: Final = 16
_MOST_WEIGHED = 2**18
# Pixels of a frame whose weights NumPy makes at a time, which stay in the L2 cache.
_WEIGHED_AT_ONCE = 2**14
# NumPy takes as long as for so many sums.
_AS_SUMS = 4


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


class MomentRegion:
    """A region of the detector, or of a part of it, prepared for `sum_moments`.

    Any number of threads may use it.

    Parameters
    ----------
    selection
        True inside the region; of shape ``(y, x)``.
    origin
        Detector coordinates (y, x) of its first pixel.

    Attributes
    ----------
    runs : numpy.ndarray
        The region as runs of pixels, from `find_runs`.
    """

    def __init__(self, selection: BoolArray, origin: tuple[int, int] = (0, 0)) -> None:
        self.runs = find_runs(selection, origin)
        self._selection = selection
        self._origin = origin

    def is_exact(self, dtype: np.dtype[Any]) -> bool:
        """Return whether sums over such pixels have the same bits in any order, as all are integers below 2**53."""
        return dtype.str[1:] in SHORTS and 2**16 * self._most < 2**53

    @functools.cached_property
    def _most(self) -> int:
        """What the moments of pixels of up to 1 are at most; there are pixels."""
        x_stop = self.runs[:, 3] + self.runs[:, 1]
        return int(self.runs[:, 1].sum()) * int(max(self.runs[:, 2].max(), x_stop.max()))

    @property
    def is_long(self) -> bool:
        """Whether 4 bytes may not hold the sum of a line, or of a column, of pixels of 2 bytes."""
        return bool(max(self._selection.shape) > 2**15)

    @functools.cached_property
    def _weights(self) -> _Weights | None:
        """Weights of the pixels, for compiled kernels; None where they would not stay in a cache. There are pixels."""
        runs, (height, width) = self.runs, self._selection.shape
        # Runs that follow each other in memory are one.
        starts, ends = runs[:, 0], runs[:, 0] + runs[:, 1]
        is_apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.append(True, is_apart)], ends[np.append(is_apart, True)]
        lengths = -(-(ends - starts) // _PIXELS)
        if height * width < _PIXELS or lengths.sum() * _PIXELS > _MOST_WEIGHED or self.is_long:
            return None
        # Each vector: its first pixel, not so late that it would end after the frame; what it has of other runs counts
        # nothing.
        run = np.repeat(np.arange(len(starts)), lengths)
        nth = np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        begin = starts[run] + _PIXELS * nth
        place = np.minimum(begin, height * width - _PIXELS)
        of_vector = np.arange(_PIXELS)
        late, end = ((n - place)[:, np.newaxis] for n in (begin, ends[run]))
        is_inside = (of_vector >= late) & (of_vector < end)
        last = runs[:, 3] + runs[:, 1] - 1
        y, x = int(runs[:, 2].min() + runs[:, 2].max()) // 2, int(runs[:, 3].min() + last.max()) // 2
        row, column = np.divmod((place[:, np.newaxis] + of_vector).astype(np.int32), np.int32(width))
        stack = np.empty((len(place), 3, _PIXELS), dtype=np.int16)
        stack[:, 0] = is_inside
        np.multiply(row + (self._origin[0] - y), is_inside, out=stack[:, 1], casting="unsafe")
        np.multiply(column + (self._origin[1] - x), is_inside, out=stack[:, 2], casting="unsafe")
        sums = stack.reshape(len(place), -1).sum(axis=0, dtype=np.int64).reshape(3, _PIXELS).sum(axis=1)
        # Vectors that follow each other are one span, as far as 4 bytes are not full before its end.
        largest = max(1, int(runs[:, 2].max()) - y, int(last.max()) - x)  # the middle is rounded down
        limit = (2**31 - 1) // (2 * 2**15 * largest)
        is_next = (place[1:] == place[:-1] + _PIXELS) & (np.arange(1, len(place)) % limit != 0)
        first = np.flatnonzero(np.append(True, ~is_next))
        spans = np.stack([place[first], np.diff(np.append(first, len(place)))], axis=1)
        return _Weights(spans, stack.reshape(-1), np.array([*sums, y, x], dtype=np.int64), limit)


class _Weights(NamedTuple):
    """What `add_moments_of_shorts` wants to know of a region."""

    spans: IntArray
    weights: NDArray[np.int16]
    base: IntArray
    limit: int


def sum_moments(
    tile: Array | PickedFrames, region: MomentRegion, out: Array, *, compiled: bool | None, threads: int = 1
) -> None:
    """Add the sum and the first moments of each frame inside a region to `out`.

    Sums over integers of up to 4 bytes are exact, as long as they are below 2**53. The result of a frame does not
    depend on which frames are in the same tile.

    Parameters
    ----------
    tile
        Frames, real, of shape ``(n, y, x)``, or any other with as many pixels.
    region
        The region; of as many pixels as the frames have.
    out
        Result, of shape ``(n, 3)``, a float dtype: the sum of the pixels, the sum of pixel times y, and of pixel
        times x; y and x are detector coordinates in pixels.
    compiled
        True for the compiled kernel, False for NumPy; None for NumPy, or the kernel where that pays and gives the same
        bits.
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
    runs = region.runs
    if frames == 0 or len(runs) == 0:
        return
    sums = np.zeros((frames, 3))
    if compiled is None and not (region.is_exact(tile.dtype) and EXACT_SUMS.count(_AS_SUMS * tile.size)):
        compiled = False
    if compiled is not False:
        call = _as_call(tile, region, sums)
        compiled = compiled or call.is_due()
    if compiled:
        call.run(frames, threads)
    else:
        _sum_with_numpy(in_memory(tile).reshape(frames, -1), runs, sums)
    np.add(out, sums, out=out, casting="unsafe")


def _as_call(tile: Array | PickedFrames, region: MomentRegion, sums: Array) -> KernelCall:
    """Return what writes the moments of frames to `sums`."""
    rows = as_rows(tile)
    runs = region.runs
    name = rows.flat.dtype.str[1:]
    if name in SHORTS and region.is_long:
        name = f"{name[0]}4"
    kind = np.empty(0, _ACCUMULATORS.get(name, "f8"))
    weights = region._weights if name in SHORTS else None

    def of_shorts(start: int, stop: int) -> tuple[Any, ...]:
        assert weights is not None
        like, part = np.empty(0, np.int32), np.empty((4, 3), np.int64)
        spans, packed, base, limit = weights
        place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
        return *place, spans, packed, limit, base, SHORTS[name], like, part, sums

    def of_integers(start: int, stop: int) -> tuple[Any, ...]:
        left = int(runs[:, 3].min())
        columns = int((runs[:, 3] + runs[:, 1]).max()) - left + _LANES
        place = rows.flat, rows.order, rows.places, start, stop, rows.pixels
        return *place, runs, np.empty(columns, kind.dtype), left, sums

    def of_floats(start: int, stop: int) -> tuple[Any, ...]:
        return rows.flat, rows.order, rows.places, start, stop, runs, kind, sums

    if kind.dtype.kind == "f":
        return KernelCall(_add_moments_of_floats, rows, of_floats)
    if weights is None:
        return KernelCall(_add_moments_of_integers, rows, of_integers)
    return KernelCall(_add_moments_of_shorts, rows, of_shorts)


def _sum_with_numpy(flat: Array, runs: IntArray, sums: Array) -> None:
    ends = np.cumsum(runs[:, 1])
    is_last = np.diff((ends - 1) // _WEIGHED_AT_ONCE) != 0
    with np.errstate(invalid="ignore", over="ignore"):
        for group in np.split(runs, np.flatnonzero(is_last) + 1):
            _add_group(flat, group, sums)


def _add_group(flat: Array, runs: IntArray, sums: Array) -> None:
    """Add what some runs, one after the other, make of the moments."""
    starts, lengths, y, x = runs.T
    # The place of each pixel in its run, and in the frame.
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + within
    weights = np.ones((3, len(places)))
    weights[1] = np.repeat(y, lengths)
    np.add(np.repeat(x, lengths), within, out=weights[2])
    for rows, pixels in gather(flat, places):
        sums[rows] += np.einsum("ip,mp->im", pixels.astype(np.float64, copy=False), weights)
