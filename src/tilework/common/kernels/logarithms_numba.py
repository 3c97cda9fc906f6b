"""Compiled sums of logarithms. A frame's pixels are contiguous, frames begin at `places`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of
from tilework.common.kernels.simd_numba import lanes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_logarithms"]

_LANES_OF_FLOAT32 = 16
_LN2 = 0.6931471805599453


@jit(math="contract")
def add_logarithms(
    flat: NDArray[Any],
    places: NDArray[Any],
    lowest: NDArray[Any],
    pixels: int,
    floats: NDArray[Any],
    integers: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Add ``log(1 + x)`` of each frame to `out`, where x is how much a pixel is above the lowest of its frame.

    With ``1 + x = 2**k * m``, m from sqrt(1/2) to sqrt(2), and ``s = (m - 1) / (m + 1)``, this is
    ``k * log(2) + 2 * s * (1 + s**2 / 3 + s**4 / 5 + s**6 / 7 + s**8 / 9)``; what is left out is less than 2e-9 of it.
    What rounding took from ``1 + x`` is added to ``m - 1``, for small x. Loops are short, for the compiler to make
    vectors of.

    Parameters
    ----------
    lowest
        Of each frame, in a float dtype that holds every pixel: differences are taken in it.
    floats
        Scratch of the dtype of the logarithms, float32 or float64, of shape (3, pixels of a block).
    integers
        Scratch of integers of the same size, of shape (2, pixels of a block).
    """
    cast, difference, integer = floats.dtype.type, lowest.dtype.type, integers.dtype.type
    one, two, infinite = cast(1), cast(2), cast(np.inf)
    is_short = lanes(floats) == _LANES_OF_FLOAT32  # the compiler knows it, and the constants
    digits = integer(23 if is_short else 52)
    bias = integer(127 if is_short else 1023)
    root = integer(0x3F3504F3 if is_short else 0x3FE6A09E667F3BCD)
    upwards = integer((bias << digits) - root)
    mantissa = integer((integer(1) << digits) - 1)

    x, y, exponent = floats[0], floats[1], floats[2]
    m_bits, scale_bits = integers[0], integers[1]
    y_bits, m, scale = y.view(integers.dtype), m_bits.view(floats.dtype), scale_bits.view(floats.dtype)
    block = x.size
    for frame in range(lowest.size):
        bottom, at = lowest[frame], begin_of(places, frame)
        for start in range(0, pixels, block):
            width = min(block, pixels - start)
            row = flat[at + start : at + start + width]
            target = out[start : start + width]
            for j in range(width):
                x[j] = cast(difference(row[j]) - bottom)
                y[j] = cast(x[j] + one)
            for j in range(width):
                moved = integer(y_bits[j] + upwards)
                k = integer((moved >> digits) - bias)
                m_bits[j] = integer((moved & mantissa) + root)
                scale_bits[j] = integer(max(bias - k, integer(0)) << digits)
                exponent[j] = cast(k)
            for j in range(width):
                lost = cast(x[j] - cast(y[j] - one))
                f = cast(cast(m[j] - one) + cast(lost * scale[j]))
                s = cast(f / cast(two + f))
                z = cast(s * s)
                series = cast(cast(1 / 9) * z + cast(1 / 7))
                series = cast(series * z + cast(1 / 5))
                series = cast(series * z + cast(1 / 3))
                series = cast(series * z + one)
                value = cast(cast(two * s) * series + exponent[j] * cast(_LN2))
                target[j] += value if y[j] < infinite else y[j]
