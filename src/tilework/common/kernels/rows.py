"""Tiles as the kernels see them: frames as rows of one flat array.

A tile is a stack of frames, each contiguous, with a constant distance from frame to frame that may be larger than a
frame where the file has headers between them; or frames that were picked from such a stack (see `picked_frames`). A
kernel gets this as one flat array and the place of each frame, so that its inner loops run with unit stride over slices
of the array.

Pixels may be in foreign byte order, as some detectors write them: kernels swap the bytes of what they have just loaded,
in registers, instead of a pass over memory before.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "FOREIGN",
    "GATHERED",
    "NATIVE",
    "SHORTS",
    "VECTOR_BYTES",
    "HasRows",
    "Layout",
    "Order",
    "Rows",
    "aligned",
    "as_real",
    "as_rows",
    "computable",
    "even_places",
    "frame_blocks",
    "gather",
    "layout_of",
    "takes_dtype",
]

Array = np.ndarray[Any, np.dtype[Any]]

_REAL = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"})
_KNOWN = _REAL | {"b1", "c8", "c16"}

VECTOR_BYTES = 64
"""Bytes of a vector of the compiled kernels, and of a line of the caches."""
GATHERED = 2**16
"""Pixels that `gather` yields at a time: as float64 they stay in the L2 cache."""

_MOST_KEPT = 2**14
"""Frames whose places are kept for the next tile of as many: to count them takes a nanosecond for each."""

Order = tuple[int, ...]
# Byte orders, as tuples of different length: numba sees them as different types, see `simd_numba`.
NATIVE: Order = ()
FOREIGN: Order = (1,)

# dtypes whose numbers fit signed integers of 2 bytes, when they are taken less this.
SHORTS = {"u1": 0, "i1": 0, "u2": 2**15, "i2": 0}


class Rows(NamedTuple):
    """Frames as rows of a flat array: frame ``i`` is ``flat[places[i] : places[i] + pixels]``.

    Attributes
    ----------
    flat
        One-dimensional, contiguous, read-only; of a real dtype, native by name, whose bytes are in the order `order`.
        Complex pixels are two real ones each.
    places
        Place of the first element of each frame, read-only.
    frames
        Number of frames.
    pixels
        Number of (real) pixels of a frame.
    order
        `NATIVE` or `FOREIGN`.
    """

    flat: Array
    places: NDArray[np.int64]
    frames: int
    pixels: int
    order: Order

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, without what lies between frames."""
        return self.frames * self.pixels * self.flat.itemsize


def takes_dtype(dtype: np.dtype[Any]) -> bool:
    """Return whether kernels take data of this dtype as it is: bool, integers, floats and complex of usual sizes."""
    return dtype.isnative and dtype.str[1:] in _KNOWN


class HasRows(Protocol):
    """Frames that are no array, and can describe themselves."""

    def as_rows(self) -> Rows:
        """Return what the function `as_rows` returns of them."""


def as_rows(tile: Array | HasRows) -> Rows:
    """Describe a tile as rows; without a copy wherever its memory allows.

    Parameters
    ----------
    tile
        Frames, of shape ``(n, *sig part)``; those of an array lie at even distances.

    Raises
    ------
    TypeError
        When the dtype is none of numbers.
    """
    if not isinstance(tile, np.ndarray):
        return tile.as_rows()
    layout = layout_of(tile)
    return Rows(layout.flat, even_places(len(tile), layout.stride), len(tile), layout.pixels, layout.order)


class Layout(NamedTuple):
    """Frames at even distances in a flat array; see `Rows`."""

    flat: Array
    stride: int
    """Elements from the begin of a frame to that of the next."""
    pixels: int
    order: Order


def layout_of(tile: Array) -> Layout:
    """Describe an array of frames; without a copy wherever its memory allows. See `as_rows`."""
    form = _form_of(tile.dtype)
    if form.native is not None:
        tile = tile.view(form.native)
    elif form.computable is not None:
        tile = tile.astype(form.computable)
    frames, pixels = tile.shape[0], math.prod(tile.shape[1:])
    stride = pixels
    flags = tile.flags
    if flags.c_contiguous and flags.aligned:
        flat = tile.reshape(-1)
    elif _is_evenly_spaced(tile):
        itemsize = tile.dtype.itemsize
        stride = tile.strides[0] // itemsize
        flat = np.lib.stride_tricks.as_strided(tile, ((frames - 1) * stride + pixels,), (itemsize,), writeable=False)
    else:
        flat = np.ascontiguousarray(tile).reshape(-1)
    if form.real is not None:
        parts = tile.dtype.itemsize // form.real.itemsize
        flat, stride, pixels = flat.view(form.real), parts * stride, parts * pixels
    if flat.flags.writeable:
        # Kernels are compiled per type, and to numba writeable and read-only arrays are two types.
        flat = flat.view()
        flat.flags.writeable = False
    return Layout(flat, stride, pixels, form.order)


def even_places(frames: int, stride: int) -> NDArray[np.int64]:
    """Return the places of frames at even distances, read-only."""
    return _kept_places(frames, stride) if frames <= _MOST_KEPT else _count_places(frames, stride)


def _count_places(frames: int, stride: int) -> NDArray[np.int64]:
    places = np.arange(frames, dtype=np.int64) * stride
    places.flags.writeable = False
    return places


_kept_places = functools.lru_cache(maxsize=32)(_count_places)


class _Form(NamedTuple):
    """What is to be done with tiles of a dtype, where anything is."""

    order: Order
    native: np.dtype[Any] | None
    """As what to look at them."""
    computable: np.dtype[Any] | None
    """To what to convert them."""
    real: np.dtype[Any] | None
    """As what to look at their numbers, then."""


@functools.lru_cache(maxsize=256)
def _form_of(dtype: np.dtype[Any]) -> _Form:
    order, native, converted = NATIVE, None, None
    if not takes_dtype(dtype):
        native = dtype.newbyteorder("=")
        if takes_dtype(native):
            order, dtype = FOREIGN, native
        else:
            dtype = converted = computable(dtype)
            native = None
    real = {"c": np.empty(0, dtype).real.dtype, "b": np.dtype(np.uint8)}.get(dtype.kind)
    return _Form(order, native, converted, real)


def aligned(size: int, dtype: DTypeLike) -> Array:
    """Return memory for so many numbers that begins at a cache line, where vectors are read quickest."""
    itemsize = np.dtype(dtype).itemsize
    memory = np.empty(size + VECTOR_BYTES // itemsize, dtype=dtype)
    begin = -memory.ctypes.data % VECTOR_BYTES // itemsize
    return memory[begin : begin + size]


def as_real(tile: Array) -> Array:
    """Return frames as rows of real pixels, of shape ``(n, pixels)``; complex pixels are two real ones each."""
    flat = np.ascontiguousarray(tile.reshape(tile.shape[0], -1), dtype=tile.dtype.newbyteorder("="))
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def frame_blocks(tile: Array) -> Iterator[slice]:
    """Yield slices of frames of about 2**18 pixels, for NumPy expressions that make copies of what they work on."""
    step = max(1, 2**18 // max(1, math.prod(tile.shape[1:])))
    for start in range(0, tile.shape[0], step):
        yield slice(start, min(start + step, tile.shape[0]))


def gather(flat: Array, places: NDArray[np.intp]) -> Iterator[tuple[slice, Array]]:
    """Yield pixels of a few frames at a time, as many as stay in the L2 cache, with a slice of their frames.

    Parameters
    ----------
    flat
        Frames, of shape ``(n, pixels)``.
    places
        Places in a frame, ascending; at least one.

    Yields
    ------
    rows, pixels
        Pixels of shape ``(frames in rows, len(places))``; a view where places follow each other.
    """
    first, last = places[0], places[-1] + 1
    is_whole = last - first == len(places)
    if is_whole or not flat.flags.c_contiguous:  # of which NumPy makes a copy before it takes pixels
        flat, places = flat[:, first:last], places - first
    step = max(1, GATHERED // len(places))
    for start in range(0, len(flat), step):
        rows = slice(start, start + step)
        yield rows, flat[rows] if is_whole else np.take(flat[rows], places, axis=1)


def computable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to which data is converted for kernels: itself, in native order, if they take that.

    Raises
    ------
    TypeError
        When it is none of numbers.
    """
    if takes_dtype(native := dtype.newbyteorder("=")):
        return native
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    if dtype.kind == "c":
        return np.dtype(np.complex128)
    msg = f"frames must be numbers to compute with them, these are {dtype}"
    raise TypeError(msg)


def _is_evenly_spaced(tile: Array) -> bool:
    return (
        tile.flags.aligned
        and tile.shape[0] > 0
        and tile[0].flags.c_contiguous
        and tile.strides[0] > 0
        and tile.strides[0] % tile.dtype.itemsize == 0
    )
