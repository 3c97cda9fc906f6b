"""Compiled products of a block of pixels: of a few frames and a few masks, whose sums are held in vector registers.

Every sum is taken in the same order in all of them: the lanes of a vector over the pixels of the block, then across
lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import (
    add,
    add_up,
    join,
    lanes,
    load,
    load_half,
    multiply_add,
    pick_even,
    pick_even_fours,
    pick_even_pairs,
    pick_lower,
    pick_odd,
    pick_odd_fours,
    pick_odd_pairs,
    pick_upper,
    prefetch,
    store,
    zero,
    zero_half,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.kernels.rows import Order

__all__ = ["four_by_four", "four_by_one", "one_by_four", "one_by_one", "three_by_one", "three_by_two"]

# In all of these, the pixels of a frame begin at flat[at], of several at flat[at0], flat[at1] ...; those of mask 0 at
# packed[mask], those of the next mask `width` later. They add to rows of `out` from `i` on, and columns from `m` on.


@jit(inner=True)
def one_by_one(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    """Add the product of a frame and a mask."""
    s = zero(packed)
    for j in range(0, width, lanes(packed)):
        s = multiply_add(load(packed, flat, at + j, order), load(packed, packed, mask + j, NATIVE), s)
    out[i, m] += add_up(s)


@jit(inner=True)
def three_by_one(
    flat: NDArray[Any],
    order: Order,
    at0: int,
    at1: int,
    at2: int,
    at3: int,  # noqa: ARG001  (what only `four_by_one` needs)
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    next0: int,
    next1: int,
    next2: int,
    next3: int,  # noqa: ARG001
) -> None:
    """Add the products of three frames and a mask, and fetch as many pixels of what begins at `next0` ... in `flat`."""
    s0 = s1 = s2 = zero(packed)
    for j in range(0, width, lanes(packed)):
        prefetch(flat, next0 + j)
        prefetch(flat, next1 + j)
        prefetch(flat, next2 + j)
        w = load(packed, packed, mask + j, NATIVE)
        s0 = multiply_add(load(packed, flat, at0 + j, order), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j, order), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j, order), w, s2)
    out[i, m] += add_up(s0)
    out[i + 1, m] += add_up(s1)
    out[i + 2, m] += add_up(s2)


@jit(inner=True)
def four_by_one(
    flat: NDArray[Any],
    order: Order,
    at0: int,
    at1: int,
    at2: int,
    at3: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    next0: int,
    next1: int,
    next2: int,
    next3: int,
) -> None:
    """As `three_by_one`, with four frames."""
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, lanes(packed)):
        prefetch(flat, next0 + j)
        prefetch(flat, next1 + j)
        prefetch(flat, next2 + j)
        prefetch(flat, next3 + j)
        w = load(packed, packed, mask + j, NATIVE)
        s0 = multiply_add(load(packed, flat, at0 + j, order), w, s0)
        s1 = multiply_add(load(packed, flat, at1 + j, order), w, s1)
        s2 = multiply_add(load(packed, flat, at2 + j, order), w, s2)
        s3 = multiply_add(load(packed, flat, at3 + j, order), w, s3)
    out[i, m] += add_up(s0)
    out[i + 1, m] += add_up(s1)
    out[i + 2, m] += add_up(s2)
    out[i + 3, m] += add_up(s3)


@jit(inner=True)
def one_by_four(
    flat: NDArray[Any],
    order: Order,
    at: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
) -> None:
    """Add the products of a frame and four masks."""
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    n = lanes(packed)
    s0 = s1 = s2 = s3 = zero(packed)
    for j in range(0, width, n):
        x = load(packed, flat, at + j, order)
        s0 = multiply_add(x, load(packed, packed, mask + j, NATIVE), s0)
        s1 = multiply_add(x, load(packed, packed, mask1 + j, NATIVE), s1)
        s2 = multiply_add(x, load(packed, packed, mask2 + j, NATIVE), s2)
        s3 = multiply_add(x, load(packed, packed, mask3 + j, NATIVE), s3)
    out[i, m] += add_up(s0)
    out[i, m + 1] += add_up(s1)
    out[i, m + 2] += add_up(s2)
    out[i, m + 3] += add_up(s3)


@jit(inner=True)
def _add_halves(
    flat: NDArray[Any],
    order: Order,
    at0: int,
    at1: int,
    at2: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    converted: NDArray[Any] | None,
    to: int,
    sums: tuple[Any, ...],
) -> tuple[Any, ...]:
    """Return the sums after half a vector of each of three frames and two masks; pixels also go to converted[to]."""
    s00, s01, s10, s11, s20, s21 = sums
    w0 = load_half(packed, packed, mask, NATIVE)
    w1 = load_half(packed, packed, mask + width, NATIVE)
    x = load_half(packed, flat, at0, order)
    if converted is not None:
        store(converted, to, x)
    s00 = multiply_add(x, w0, s00)
    s01 = multiply_add(x, w1, s01)
    x = load_half(packed, flat, at1, order)
    if converted is not None:
        store(converted, to + width, x)
    s10 = multiply_add(x, w0, s10)
    s11 = multiply_add(x, w1, s11)
    x = load_half(packed, flat, at2, order)
    if converted is not None:
        store(converted, to + 2 * width, x)
    s20 = multiply_add(x, w0, s20)
    s21 = multiply_add(x, w1, s21)
    return s00, s01, s10, s11, s20, s21


@jit(inner=True)
def three_by_two(
    flat: NDArray[Any],
    order: Order,
    at0: int,
    at1: int,
    at2: int,
    at3: int,  # noqa: ARG001  (what only `four_by_four` needs)
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    source: NDArray[Any],
    ahead: int,
    apart: int,  # noqa: ARG001
    shift: int,
    converted: NDArray[Any] | None,
    scratch: NDArray[Any],  # noqa: ARG001
) -> None:
    """As `four_by_four`, with two masks, for CPUs with 16 registers of half a vector each; nothing is fetched `apart`.

    A half at a time leaves no more in registers than there are, also where what is stored keeps loads in their order.
    """
    half = lanes(packed) // 2
    nothing = zero_half(packed)
    lower = upper = (nothing, nothing, nothing, nothing, nothing, nothing)
    for j in range(0, width, lanes(packed)):
        prefetch(source, ahead + (j >> shift))
        lower = _add_halves(flat, order, at0 + j, at1 + j, at2 + j, packed, mask + j, width, converted, j, lower)
        k = j + half
        upper = _add_halves(flat, order, at0 + k, at1 + k, at2 + k, packed, mask + k, width, converted, k, upper)
    for f in range(3):
        out[i + f, m] += add_up(join(lower[2 * f], upper[2 * f]))
        out[i + f, m + 1] += add_up(join(lower[2 * f + 1], upper[2 * f + 1]))


@jit(part=True)
def _four_sums(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return a vector of sums of four neighbouring numbers: of a, b, c, d, and again a, b, c, d ..."""
    ab, cd = add(pick_even(a, b), pick_odd(a, b)), add(pick_even(c, d), pick_odd(c, d))
    return add(pick_even_pairs(ab, cd), pick_odd_pairs(ab, cd))


@jit(inner=True)
def four_by_four(
    flat: NDArray[Any],
    order: Order,
    at0: int,
    at1: int,
    at2: int,
    at3: int,
    packed: NDArray[Any],
    mask: int,
    width: int,
    out: NDArray[Any],
    i: int,
    m: int,
    source: NDArray[Any],
    ahead: int,
    apart: int,
    shift: int,
    converted: NDArray[Any] | None,
    scratch: NDArray[Any],
) -> None:
    """Add the products of four frames and four masks, the first ones those of row `i` and column `m` of `out`.

    Also fetch ``width >> shift`` elements of `source` from `ahead` on, and as many `apart` from these. Leave the
    converted pixels in `converted`, frame after frame, unless it is None.
    """
    mask1, mask2, mask3 = mask + width, mask + 2 * width, mask + 3 * width
    n = lanes(packed)
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero(packed)
    for j in range(0, width, n):
        prefetch(source, ahead + (j >> shift))
        prefetch(source, ahead + apart + (j >> shift))
        x0 = load(packed, flat, at0 + j, order)
        x1 = load(packed, flat, at1 + j, order)
        x2 = load(packed, flat, at2 + j, order)
        x3 = load(packed, flat, at3 + j, order)
        if converted is not None:
            store(converted, j, x0)
            store(converted, width + j, x1)
            store(converted, 2 * width + j, x2)
            store(converted, 3 * width + j, x3)
        w = load(packed, packed, mask + j, NATIVE)
        s00 = multiply_add(x0, w, s00)
        s10 = multiply_add(x1, w, s10)
        s20 = multiply_add(x2, w, s20)
        s30 = multiply_add(x3, w, s30)
        w = load(packed, packed, mask1 + j, NATIVE)
        s01 = multiply_add(x0, w, s01)
        s11 = multiply_add(x1, w, s11)
        s21 = multiply_add(x2, w, s21)
        s31 = multiply_add(x3, w, s31)
        w = load(packed, packed, mask2 + j, NATIVE)
        s02 = multiply_add(x0, w, s02)
        s12 = multiply_add(x1, w, s12)
        s22 = multiply_add(x2, w, s22)
        s32 = multiply_add(x3, w, s32)
        w = load(packed, packed, mask3 + j, NATIVE)
        s03 = multiply_add(x0, w, s03)
        s13 = multiply_add(x1, w, s13)
        s23 = multiply_add(x2, w, s23)
        s33 = multiply_add(x3, w, s33)
    row0, row1 = _four_sums(s00, s01, s02, s03), _four_sums(s10, s11, s12, s13)
    row2, row3 = _four_sums(s20, s21, s22, s23), _four_sums(s30, s31, s32, s33)
    rows01 = add(pick_even_fours(row0, row1), pick_odd_fours(row0, row1))
    rows23 = add(pick_even_fours(row2, row3), pick_odd_fours(row2, row3))
    if n == 16:
        store(scratch, 0, add(pick_lower(rows01, rows23), pick_upper(rows01, rows23)))
    else:
        store(scratch, 0, rows01)
        store(scratch, n, rows23)
    for k in range(4):
        out[i, m + k] += scratch[k]
        out[i + 1, m + k] += scratch[4 + k]
        out[i + 2, m + k] += scratch[8 + k]
        out[i + 3, m + k] += scratch[12 + k]
