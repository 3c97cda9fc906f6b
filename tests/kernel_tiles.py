"""Tiles of all dtypes and memory layouts, for the tests of kernels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8", "c8"]

Array = np.ndarray[Any, np.dtype[Any]]


def make_tile(dtype: Any, shape: tuple[int, ...], seed: int = 0, header: int = 0) -> Array:
    """Return random frames that use much of the range of `dtype`.

    With `header`, so many elements lie between one frame and the next, as in a file with frame headers; they hold
    values that would be noticed.
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    frames, pixels = shape[0], math.prod(shape[1:])
    memory = np.empty((frames, pixels + header), dtype=dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        memory[:] = rng.integers(info.min, info.max, size=memory.shape, endpoint=True, dtype=dtype)
    else:
        memory[:] = rng.normal(3, 10, size=memory.shape)
        if dtype.kind == "c":
            memory[:] += 1j * rng.normal(-1, 5, size=memory.shape)
    memory[:, pixels:] = 111
    tile = np.lib.stride_tricks.as_strided(
        memory, shape, (memory.strides[0], *np.empty(shape[1:], dtype=dtype).strides), writeable=False
    )
    assert (tile.reshape(frames, -1) == memory[:, :pixels]).all()
    return tile


def exact(tile: Array) -> Array:
    """Return the same in double precision, frames as rows."""
    return tile.reshape(len(tile), -1).astype(np.result_type(tile.dtype, np.float64))


@st.composite
def tiles(draw: st.DrawFn, dtypes: list[str] | None = None, sig_dims: int | None = None, max_frames: int = 40) -> Array:
    """Draw a tile: any dtype, depth and size of frames, with and without headers between frames."""
    dtype = draw(st.sampled_from(dtypes or DTYPES))
    dims = sig_dims or draw(st.integers(1, 3))
    sides = st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 64]))
    sig = tuple(draw(sides) for _ in range(dims))
    frames = draw(st.integers(1, max_frames))
    return make_tile(dtype, (frames, *sig), draw(st.integers(0, 2**16)), draw(st.sampled_from([0, 0, 1, 5])))


@st.composite
def cuts(draw: st.DrawFn, frames: int) -> list[slice]:
    """Draw a way to cut a stack of frames into tiles."""
    places = draw(st.lists(st.integers(0, frames), max_size=5))
    bounds = sorted({0, frames, *places})
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
