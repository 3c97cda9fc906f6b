"""Compiled sums and first moments of the pixels inside a region that is given as runs of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import pixel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["add_moments"]

# So many pixels of 2 bytes times their place in the run cannot overflow 32 bits: 65535 * (0 + 1 + ... + 255) < 2**32.
_RUN = 256


@jit(math="reorder")
def add_moments(
    flat: NDArray[Any],
    order: Order,
    stride: int,
    start: int,
    stop: int,
    pixels: int,
    runs: NDArray[Any],
    kind: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add sum, sum times y and sum times x over all runs to rows `start` to `stop` of `out`, float64.

    A row of `runs` is: place of the first pixel in the frame, number of pixels, y and x of the first pixel. Stretches
    of a run are summed in the dtype of `kind`.
    """
    cast = kind.dtype.type
    for i in range(start, stop):
        frame = flat[i * stride : i * stride + pixels]
        total = 0.0
        moment_y = 0.0
        moment_x = 0.0
        for k in range(runs.shape[0]):
            place = runs[k, 0]
            length = runs[k, 1]
            y = np.float64(runs[k, 2])
            for begin in range(0, length, _RUN):
                row = frame[place + begin : place + min(length, begin + _RUN)]
                s = cast(0)
                m = cast(0)
                for j in range(row.size):
                    value = cast(pixel(row, j, order))
                    s = cast(s + value)
                    # As 32 bits, which all CPUs convert to floats in vectors.
                    m = cast(m + cast(value * cast(np.int32(j))))
                part = np.float64(s)
                total += part
                moment_y += y * part
                moment_x += np.float64(runs[k, 3] + begin) * part + np.float64(m)
        out[i, 0] += total
        out[i, 1] += moment_y
        out[i, 2] += moment_x
