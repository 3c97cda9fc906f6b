"""Tiles as rows: no copies where memory allows, right values where it does not; imports."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kernel_tiles import make_tile
from tilework.common.kernels import sum_pixels, takes_dtype, warmup
from tilework.common.kernels.rows import FOREIGN, as_rows


def frames_of(tile: Any) -> Any:
    rows = as_rows(tile)
    assert not rows.flat.flags.writeable
    assert not rows.places.flags.writeable
    assert len(rows.places) == rows.frames
    frames = np.stack([rows.flat[place : place + rows.pixels] for place in rows.places])
    return frames.byteswap() if rows.order == FOREIGN else frames


@pytest.mark.parametrize("header", [0, 1, 7])
@pytest.mark.parametrize("dtype", ["u2", "f4", "c8", "b1"])
def test_evenly_spaced_frames_are_not_copied(dtype: str, header: int) -> None:
    tile = make_tile("u1" if dtype == "b1" else dtype, (5, 4, 6), header=header).view(dtype)
    rows = as_rows(tile)
    assert np.shares_memory(rows.flat, tile)
    assert rows.frames == 5
    assert rows.pixels == 24 * (2 if dtype == "c8" else 1)
    assert frames_of(tile).tobytes() == tile.tobytes()


@pytest.mark.parametrize(
    "tile",
    [
        np.arange(120, dtype="u2").reshape(5, 4, 6)[:, ::2],
        np.arange(120, dtype="u2").reshape(5, 4, 6)[::-1],
        np.arange(120, dtype="u2").reshape(4, 5, 6).transpose(1, 0, 2),
        np.frombuffer(b"\0" + np.arange(120, dtype="u2").tobytes(), dtype="u2", offset=1).reshape(5, 24),
        np.arange(120, dtype=">u2").reshape(5, 4, 6),
        np.broadcast_to(np.arange(24, dtype="u2").reshape(4, 6), (5, 4, 6)),
        np.arange(5, dtype="f4"),
    ],
    ids=["part of frames", "backwards", "transposed", "unaligned", "foreign byte order", "repeated", "one pixel"],
)
def test_any_memory_gives_the_right_values(tile: Any) -> None:
    np.testing.assert_array_equal(frames_of(tile), tile.reshape(len(tile), -1))
    out = np.zeros(len(tile))
    sum_pixels(tile, out, compiled=True)
    np.testing.assert_array_equal(out, tile.reshape(len(tile), -1).sum(axis=1))


def test_which_dtypes_are_taken_as_they_are() -> None:
    for name in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16"):
        assert takes_dtype(np.dtype(name))
    for name in (">u2", "f2", "g", "O", "M8[s]", "U3"):
        assert not takes_dtype(np.dtype(name))
    with pytest.raises(TypeError, match="numbers"):
        as_rows(np.array(["a", "b"]))


def test_numpy_paths_load_neither_numba_nor_scipy() -> None:
    """So that no small job waits for a compiler."""
    code = """
import sys
import numpy as np
from tilework.common.kernels import *
tile = np.ones((3, 4, 4), dtype="u2")
sum_frames(tile, np.zeros((4, 4)), compiled=False)
sum_pixels(tile, np.zeros(3), compiled=False)
DenseMasks(np.ones((2, 4, 4)), tile.dtype, np.dtype("f4"), compiled=False).apply(tile, np.zeros((3, 2)))
sum_moments(tile, MomentRegion(np.ones((4, 4), dtype=bool)), np.zeros((3, 3)), compiled=False)
accumulate_variance(tile, 0, np.zeros((4, 4)), np.zeros((4, 4)), compiled=False)
loaded = {"numba", "scipy", "sparse", "llvmlite"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<c8"])
def test_after_warmup_nothing_loads_numba(dtype: str) -> None:
    """Whatever the built-in functions ask for in a run is on disk as machine code."""
    warmup([dtype])
    code = f"""
import sys
import numpy as np
from tilework.api import Context
from tilework.udf import ApplyMasksUDF, CoMUDF, LogsumUDF, StdDevUDF, SumSigUDF, SumUDF
data = (np.arange(4 * 4 * 16 * 16) % 7).reshape(4, 4, 16, 16).astype({dtype!r})
udfs = [
    SumUDF(),
    SumSigUDF(),
    StdDevUDF(),
    CoMUDF.with_params(r=4),
    *(ApplyMasksUDF(mask_factories=[lambda: np.ones((16, 16), dtype="f4")] * n) for n in (1, 4, 6)),
    *(ApplyMasksUDF(mask_factories=[lambda: np.ones((16, 16))] * n) for n in (1, 4, 6)),
    *([] if data.dtype.kind == "c" or not data.dtype.isnative else [LogsumUDF()]),
]
with Context.make_with("inline") as context:
    results = context.run_udf(dataset=context.load("memory", data=data), udf=udfs)
np.testing.assert_allclose(results[0]["intensity"].data, data.sum(axis=(0, 1)))
assert "numba" not in sys.modules
assert "llvmlite" in sys.modules  # compiled code was used
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "TILEWORK_KERNELS": "numba"}
    )
