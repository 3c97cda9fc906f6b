"""How far ahead kernels fetch that go over a frame from its beginning to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.places_numba import begin_of, is_scattered
from tilework.common.kernels.simd_numba import AHEAD_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Places

__all__ = ["ahead_of"]

# Frames that are larger than so many times `AHEAD_BYTES` are rows of memory by themselves.
_LONG = 4


@jit
def ahead_of(flat: NDArray[Any], places: Places, i: int, last: int, pixels: int) -> int:
    """Return how many elements ahead a kernel fetches that goes over frame `i`; after `last` it goes over no other."""
    size = pixels * flat.itemsize
    if is_scattered(places) and size < _LONG * AHEAD_BYTES:
        # What follows a small frame in memory is not wanted, but one of the next frames is.
        following: int = begin_of(places, min(i + -(-AHEAD_BYTES // size), last))
        return following - begin_of(places, i)  # type: ignore[no-any-return]
    return AHEAD_BYTES // flat.itemsize
