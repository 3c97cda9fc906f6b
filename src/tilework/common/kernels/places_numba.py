"""Where frames begin, and how far ahead kernels fetch that go over a frame from its beginning to its end.

An argument `places` is `tilework.common.kernels.rows.Rows.places`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba.core import types

from tilework.common.kernels.jit import jit
from tilework.common.kernels.simd_numba import AHEAD_BYTES, element, operation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ahead_of", "begin_of", "frames_ahead"]

# Frames that are larger than so many times `AHEAD_BYTES` are rows of memory by themselves.
_LONG = 4


@operation
def begin_of(typing_context: Any, places: Any, index: Any) -> Any:  # noqa: ARG001
    """Return where a frame begins in the flat array; `index` is not negative, which numba would look at."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(element(context, builder, signature.args[0], *arguments))

    return types.intp(places, types.intp), generate


@jit(inner=True)
def frames_ahead(flat: NDArray[Any], pixels: int) -> int:
    """Return which of the next frames is the first that is far enough to be fetched."""
    return -(-AHEAD_BYTES // (pixels * flat.itemsize))


@jit(inner=True)
def ahead_of(flat: NDArray[Any], places: NDArray[Any], i: int, last: int, pixels: int) -> int:
    """Return how many elements ahead a kernel fetches that goes over frame `i`; after `last` it goes over no other."""
    if pixels * flat.itemsize < _LONG * AHEAD_BYTES:
        # What follows a small frame in memory may not be wanted, but one of the next frames is.
        following: int = begin_of(places, min(i + frames_ahead(flat, pixels), last))
        return following - begin_of(places, i)  # type: ignore[no-any-return]
    return AHEAD_BYTES // flat.itemsize
