"""Compiles all kernels ahead, so that no run waits for the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.dense import DenseMasks
from tilework.common.kernels.logarithms import sum_logarithms
from tilework.common.kernels.moments import MomentRegion, sum_moments
from tilework.common.kernels.sparse import SparseMasks
from tilework.common.kernels.sums import sum_frames, sum_pixels
from tilework.common.kernels.variance import accumulate_variance, merge_variances

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WARMUP_DTYPES", "warmup"]

WARMUP_DTYPES = ("<u1", "<u2", "<u4", "<i2", "<i4", "<f4", "<f8", "<c8", ">u2", ">u4")


def warmup(dtypes: Iterable[Any] | None = None) -> None:
    """Compile the kernels of the built-in UDFs, and keep them on disk.

    This takes about a minute the first time, and a few seconds when all is there already.

    Parameters
    ----------
    dtypes
        dtypes of datasets, with their byte order; default: those that detectors write, float32, float64 and complex64.
    """
    for dtype in map(np.dtype, WARMUP_DTYPES if dtypes is None else dtypes):
        _compile_for(dtype)


def _compile_for(dtype: np.dtype[Any]) -> None:
    tile = np.ones((5, 2, 5), dtype=dtype)
    result = np.result_type(dtype, np.float32)
    sum_frames(tile, np.zeros((2, 5), dtype=result), compiled=True)
    sum_pixels(tile, np.zeros(5, dtype=result), compiled=True)
    for count in (2, 9, 16):  # few, more and many have machine code of their own
        masks = np.ones((count, 2, 5), dtype=np.float32)
        for product in {result, np.result_type(dtype, np.float64)}:  # masks that users make are float64 mostly
            DenseMasks(masks, dtype, product, compiled=True).apply(tile, np.zeros((5, count), dtype=product))
    SparseMasks(masks.reshape(count, 10), dtype, result, compiled=True).apply(tile, np.zeros((5, count), dtype=result))
    if dtype.kind != "c":  # whose centre of mass are products with masks
        for sig in ((2, 5), (4, 5)):  # very small and very large frames have another kernel
            region = MomentRegion(np.ones(sig, dtype=bool))
            sum_moments(np.ones((5, *sig), dtype), region, np.zeros((5, 3)), compiled=True)
        sum_logarithms(tile.astype(dtype.newbyteorder("=")), np.zeros((2, 5), np.float32), compiled=True)
    total, deviations = np.zeros((2, 5), dtype=np.result_type(dtype, np.float64)), np.zeros((2, 5))
    accumulate_variance(tile, 0, total, deviations, compiled=True)
    merge_variances(5, total, deviations, 5, total, deviations, compiled=True)
