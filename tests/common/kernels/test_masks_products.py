"""Products with dense and sparse masks: right for all dtypes, and a result depends on its frame and mask only."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kernel_tiles import DTYPES, cuts, exact, make_tile, tiles
from tilework.common.kernels import DenseMasks, SparseMasks
from tilework.common.kernels.dense_panels import MaskPanels
from tilework.common.kernels.dense_rows import MaskRows
from tilework.common.kernels.parallel import PART_BYTES
from tilework.common.kernels.picked_frames import PickedFrames
from tilework.common.kernels.rows import as_rows

MASK_DTYPES = ["f4", "f8", "c8", "b1"]


def make_masks(count: int, sig: tuple[int, ...], dtype: Any = "f4", seed: int = 1, density: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    masks: Any = rng.normal(size=(count, *sig))
    if np.dtype(dtype).kind == "c":
        masks = masks + 1j * rng.normal(size=masks.shape)
    if np.dtype(dtype).kind == "b":
        masks = masks > 0
    return np.where(rng.random(masks.shape) < density, masks, 0).astype(dtype)


def pack(kind: str, masks: Any, tile_dtype: Any, dtype: Any, *, compiled: bool) -> DenseMasks | SparseMasks:
    if kind == "dense":
        return DenseMasks(masks, np.dtype(tile_dtype), np.dtype(dtype), compiled=compiled)
    matrix = sparse.csr_matrix(masks.reshape(len(masks), -1))
    return SparseMasks(matrix, np.dtype(tile_dtype), np.dtype(dtype), compiled=compiled)


def apply(kind: str, masks: Any, tile: Any, *, compiled: bool = True, threads: int = 1) -> Any:
    dtype = np.result_type(tile.dtype, masks.dtype, np.float32)
    out = np.zeros((len(tile), len(masks)), dtype=dtype)
    pack(kind, masks, tile.dtype, dtype, compiled=compiled).apply(tile, out, threads=threads)
    return out


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("mask_dtype", MASK_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_numpy_in_double_precision(
    dtype: str, mask_dtype: str, kind: str, compiled: bool
) -> None:
    """Relative to the size of the summands, the error is at most that of a few roundings in the result's precision."""
    for frames, count, sig in ((1, 1, (1, 1)), (7, 3, (33, 65)), (25, 16, (16, 16)), (3, 6, (5,)), (2, 2, (100, 120))):
        tile = make_tile(dtype, (frames, *sig), header=2)
        masks = make_masks(count, sig, mask_dtype, density=1 if kind == "dense" else 0.1)
        result = apply(kind, masks, tile, compiled=compiled)
        data, weights = exact(tile), masks.reshape(count, -1).astype(np.result_type(mask_dtype, "f8"))
        precision = np.finfo(result.dtype).eps
        size = np.abs(data) @ np.abs(weights).T
        assert (np.abs(result - data @ weights.T) <= 8 * precision * size + 1e-30).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 14, 16, 17, 36, 70])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_frames_of_many_blocks(dtype: str, count: int) -> None:
    """More pixels than a block has, more frames than a group, and no multiple of either."""
    tile = make_tile(dtype, (55, 97, 93), header=1)
    masks = make_masks(count, (97, 93))
    result = apply("dense", masks, tile)
    data, weights = exact(tile), masks.reshape(count, -1).astype("f8")
    size = np.abs(data) @ np.abs(weights).T
    assert (np.abs(result - data @ weights.T) <= 2 * np.finfo("f4").eps * size).all()
    assert apply("dense", masks, tile[13:14]).tobytes() == result[13:14].tobytes()
    assert apply("dense", masks[-1:], tile).tobytes() == np.ascontiguousarray(result[:, -1:]).tobytes()


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_cpus_with_few_and_with_many_registers_give_the_same_bits(dtype: str) -> None:
    """And so do pixels that were converted before, by the first masks."""
    import numba

    from tilework.common.kernels.dense_groups_numba import four_by_four, three_by_two
    from tilework.common.kernels.rows import NATIVE

    rng = np.random.default_rng(0)
    width = 160
    flat = (1000 * rng.random(12 * width)).astype(dtype)
    masks = rng.normal(size=4 * width).astype("f4")
    scratch = np.zeros(16, dtype="f4")
    results = set()
    for inner, frames, step in ((three_by_two, 3, 2), (four_by_four, 4, 4)):
        kernel: Any = numba.njit(inner.py_func)  # type: ignore[attr-defined]
        for converted in (None, np.zeros(frames * width, dtype="f4")):
            out, again = np.zeros((12, 4)), np.zeros((12, 4))
            for i, m in itertools.product(range(0, 12, frames), range(0, 4, step)):
                group = masks, m * width, width
                begins = [min(i + k, 11) * width for k in range(4)]
                kernel(flat, NATIVE, *begins, *group, out, i, m, flat, 0, 0, 0, converted, scratch)
                if converted is not None:
                    begins = [min(k, frames - 1) * width for k in range(4)]
                    kernel(converted, NATIVE, *begins, *group, again, i, m, flat, 0, 0, 0, None, scratch)
            results |= {out.tobytes()} if converted is None else {out.tobytes(), again.tobytes()}
    assert len(results) == 1


@pytest.mark.parametrize("mask_dtype", ["f4", "f8"])
@pytest.mark.parametrize("dtype", ["u2", ">u2", "f4", "f8"])
def test_masks_in_panels_and_in_rows_give_the_same_bits(dtype: str, mask_dtype: str) -> None:
    """Which of them a stack takes depends on the CPU; in places of frames as well as at even distances."""
    for frames, sig, count in ((1, (3, 3), 15), (7, (16, 16), 16), (13, (40, 61), 48), (259, (33, 33), 80)):
        tile = make_tile(np.dtype(dtype).newbyteorder("="), (frames, *sig), header=3).astype(dtype)
        masks = np.ascontiguousarray(make_masks(count, sig, mask_dtype).reshape(count, -1))
        in_rows, in_panels = MaskRows(masks), MaskPanels(masks)
        for part in (tile, PickedFrames(tile, np.flatnonzero(np.arange(frames) % 3 != 1))):
            rows = as_rows(part)
            bits = {stack.products(rows, threads).tobytes() for stack in (in_rows, in_panels) for threads in (1, 3)}
            assert len(bits) == 1


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@settings(max_examples=60, deadline=None)
@given(tile=tiles(), count=st.integers(1, 9), mask_dtype=st.sampled_from(MASK_DTYPES), data=st.data())
def test_a_result_depends_on_its_frame_and_mask_only(
    kind: str, tile: Any, count: int, mask_dtype: str, data: st.DataObject
) -> None:
    masks = make_masks(count, tile.shape[1:], mask_dtype, density=1 if kind == "dense" else 0.3)
    whole = apply(kind, masks, tile)
    for part in data.draw(cuts(len(tile))):
        assert apply(kind, masks, tile[part]).tobytes() == whole[part].tobytes()
    for part in data.draw(cuts(count)):
        assert apply(kind, masks[part], tile).tobytes() == np.ascontiguousarray(whole[:, part]).tobytes()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("count", [1, 16])
def test_bits_do_not_depend_on_the_number_of_threads(kind: str, count: int) -> None:
    tile = make_tile("u2", (3 * PART_BYTES // 2**15, 100, 150))
    masks = make_masks(count, (100, 150), density=1 if kind == "dense" else 0.5)
    results = {apply(kind, masks, tile, threads=threads).tobytes() for threads in (1, 2, 3, 7)}
    assert len(results) == 1


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_nan_and_infinity_propagate(kind: str, compiled: bool) -> None:
    tile = make_tile("f4", (6, 40, 50)).copy()
    masks = np.abs(make_masks(2, (40, 50))) + np.float32(1)
    tile[1, 3, 3], tile[2, 39, 49], tile[3, 0, 0] = np.nan, np.inf, -np.inf
    result = apply(kind, masks, tile, compiled=compiled)
    assert np.isnan(result[1]).all()
    assert (result[2] == np.inf).all()
    assert (result[3] == -np.inf).all()
    assert np.isfinite(result[[0, 4, 5]]).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_products_are_added(compiled: bool) -> None:
    """So the results of several parts of the detector add up to that of the whole."""
    tile = make_tile("u2", (5, 8, 9))
    masks = make_masks(3, (8, 9))
    out = np.zeros((5, 3))
    for rows in (slice(0, 3), slice(3, 8)):
        DenseMasks(masks[:, rows], tile.dtype, np.dtype("f8"), compiled=compiled).apply(tile[:, rows], out)
    np.testing.assert_allclose(out, exact(tile) @ masks.reshape(3, -1).T.astype("f8"), rtol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_wrong_use_is_refused(kind: str) -> None:
    masks = make_masks(2, (4, 4), "c8")
    with pytest.raises(ValueError, match="complex"):
        pack(kind, masks, "f4", "f4", compiled=False)
    with pytest.raises(ValueError, match="does not fit"):
        pack(kind, masks, "f4", "c8", compiled=False).apply(np.zeros((2, 5, 5), dtype="f4"), np.zeros((2, 2), "c8"))
    with pytest.raises(ValueError, match="float32"):
        DenseMasks(masks, np.dtype("f4"), np.dtype("i4"), compiled=False)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_stack_knows_its_length_and_takes_no_frames(kind: str) -> None:
    packed = pack(kind, make_masks(3, (4, 4)), "u2", "f4", compiled=True)
    assert len(packed) == 3
    packed.apply(np.zeros((0, 4, 4), dtype="u2"), np.zeros((0, 3), dtype="f4"))
