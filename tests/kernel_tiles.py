"""Tiles of all dtypes and memory layouts, for the tests of kernels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from tilework.common.kernels import (
    DenseMasks,
    MomentRegion,
    SparseMasks,
    accumulate_variance,
    sum_frames,
    sum_moments,
    sum_pixels,
)

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


def bits_of_all_kernels(tile: Any) -> list[bytes]:
    """Return what all kernels make of a tile, an array or picked frames."""
    frames, sig = len(tile), tile.shape[1:]
    dtype = np.result_type(tile.dtype.newbyteorder("="), np.float32)
    results = [np.zeros(sig, dtype=dtype), np.zeros(frames, dtype=dtype)]
    sum_frames(tile, results[0], compiled=True)
    sum_pixels(tile, results[1], compiled=True)
    total, deviations = np.zeros(sig, dtype=np.result_type(dtype, np.float64)), np.zeros(sig)
    accumulate_variance(tile, 0, total, deviations, compiled=True)
    results += [total, deviations]
    masks = np.random.default_rng(3).normal(size=(9, *sig)).astype(np.float32)
    for count in (1, 9):
        products = np.zeros((frames, count), dtype=dtype)
        DenseMasks(masks[:count], tile.dtype, dtype, compiled=True).apply(tile, products)
        results.append(products)
    products = np.zeros((frames, 9), dtype=dtype)
    few = sparse.csr_matrix(np.where(masks > 1, masks, 0).reshape(9, -1))
    SparseMasks(few, tile.dtype, dtype, compiled=True).apply(tile, products)
    results.append(products)
    # The order of a float sum of moments is the compiler's choice.
    if tile.dtype.kind in "iu" and len(sig) == 2:
        results.append(np.zeros((frames, 3)))
        sum_moments(tile, MomentRegion(np.indices(sig).sum(axis=0) % 7 > 0), results[-1], compiled=True)
    return [r.tobytes() for r in results]
