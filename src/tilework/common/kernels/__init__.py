"""What the built-in UDFs compute with: sums, also of logarithms, products with masks, moments and variances of frames.

Every function has two paths, chosen by the caller: ``compiled=True`` is a numba kernel that reads each byte once, works
in blocks that stay in the CPU's caches and releases the GIL; ``compiled=False`` is NumPy, for small inputs, where
nothing should wait for a compiler. Both are right to the same precision; the bits may differ. Those of sums of integers
do not, where each number is exact on the way: for these, ``compiled=None`` is NumPy until the kernel pays. On one path
the bits do not depend on the number of threads, and those of a frame's results not on which other frames are in the
same tile.

Data comes as tiles of shape ``(n, *sig part)``: arrays, in either byte order, or frames that were picked from one (see
`picked_frames`), with the same bits as a copy of them; sums of logarithms take arrays in native order only. Results are
added to arrays of the caller. What is NaN, or infinite, makes results that depend on it NaN or infinite, without
warnings; which of the two may differ between the paths, as may what overflows on the way.
"""

from __future__ import annotations

from tilework.common.kernels.dense import DenseMasks
from tilework.common.kernels.logarithms import sum_logarithms
from tilework.common.kernels.moments import MomentRegion, find_runs, sum_moments
from tilework.common.kernels.rows import takes_dtype
from tilework.common.kernels.sparse import SparseMasks
from tilework.common.kernels.sums import sum_frames, sum_pixels
from tilework.common.kernels.variance import accumulate_variance, merge_variances
from tilework.common.kernels.warmup import WARMUP_DTYPES, warmup

__all__ = [
    "WARMUP_DTYPES",
    "DenseMasks",
    "MomentRegion",
    "SparseMasks",
    "accumulate_variance",
    "find_runs",
    "merge_variances",
    "sum_frames",
    "sum_logarithms",
    "sum_moments",
    "sum_pixels",
    "takes_dtype",
    "warmup",
]
