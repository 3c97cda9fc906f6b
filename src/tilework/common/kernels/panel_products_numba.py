"""Products of a few frames and as many masks as a vector has numbers, as code for the compiler.

A vector holds the sums of a frame with all masks of a panel, and each pixel is multiplied with all of them: 12
registers of sums where a CPU has 16 of half a vector, and little is read for each multiplication. Every lane of pixels,
as many as a vector has numbers, has sums of its own. They are added up as a tree at the end of a block, so that the
bits are those of kernels whose vectors hold pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import types

from tilework.common.kernels.dense_registers import PANEL_BYTES, PANEL_FRAMES
from tilework.common.kernels.rows import VECTOR_BYTES
from tilework.common.kernels.simd_numba import (
    Vector,
    element,
    fetch,
    fused,
    llvm_vector,
    operation,
    read,
    splat,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_lanes", "add_panel"]

# The most pixels of a lane that are multiplied at a time.
_LANE_PIXELS = PANEL_BYTES // VECTOR_BYTES
_UNROLLED = 8


def _repeat(
    builder: Any, begin: Any, end: Any, step: int, values: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Generate a loop whose body takes the index and values, and returns those that follow."""
    test, inside, after = (builder.append_basic_block(name) for name in ("test", "inside", "after"))
    before = builder.block
    builder.branch(test)
    builder.position_at_end(test)
    phis = [builder.phi(value.type) for value in (begin, *values)]
    builder.cbranch(builder.icmp_signed("<", phis[0], end), inside, after)
    builder.position_at_end(inside)
    following = [builder.add(phis[0], phis[0].type(step)), *body(phis[0], phis[1:])]
    for phi, first, then in zip(phis, (begin, *values), following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return phis[1:]


def _zeros_or_read(builder: Any, is_zero: Any, addresses: list[Any], kind: Any) -> list[Any]:
    """Return the vectors at some addresses, or zeros."""
    before, reading, ready = builder.block, *(builder.append_basic_block(name) for name in ("reading", "ready"))
    builder.cbranch(is_zero, ready, reading)
    builder.position_at_end(reading)
    former = [read(builder, address, kind) for address in addresses]
    builder.branch(ready)
    builder.position_at_end(ready)
    values = [builder.phi(kind) for _ in addresses]
    for phi, value in zip(values, former, strict=True):
        phi.add_incoming(value, reading)
        phi.add_incoming(ir.Constant(kind, [0.0] * kind.count), before)
    return values


@operation
def add_panel(
    typing_context: Any,  # noqa: ARG001
    flat: Any,
    begins: Any,
    count: Any,  # noqa: ARG001
    packed: Any,
    panel: Any,  # noqa: ARG001
    sums: Any,
    is_first: Any,  # noqa: ARG001
    source: Any,
    ahead: Any,
    fetches: Any,  # noqa: ARG001
) -> Any:
    """Add the products of `PANEL_FRAMES` frames and a panel of masks to `sums`; begin with zeros where `is_first`.

    Frames begin at `begins` in `flat`, floats in native byte order, and have `count` pixels in each lane. The panel
    begins at packed[panel]: lane after lane, pixel after pixel, the masks. `sums` are those of each lane, of each
    frame, of each mask. Where `fetches`, as many pixels of `source` from the places `ahead` on are fetched.
    """
    vector = Vector(packed.dtype)
    lanes = masks = vector.lanes
    line = VECTOR_BYTES * 8 // source.dtype.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, kind = context.get_value_type(types.intp), llvm_vector(context, vector)

        def address(argument: int, index: Any) -> Any:
            return element(context, builder, signature.args[argument], arguments[argument], index)

        _, _, count, _, panel, _, is_first, _, _, fetches = arguments
        rows = [address(0, builder.load(address(1, number(f)))) for f in range(PANEL_FRAMES)]
        next_rows = [address(7, builder.load(address(8, number(f)))) for f in range(PANEL_FRAMES)]

        def add_lane(lane: Any, _: list[Any]) -> list[Any]:
            place = builder.mul(lane, number(PANEL_FRAMES * masks))
            places = [address(5, builder.add(place, number(f * masks))) for f in range(PANEL_FRAMES)]
            values = _zeros_or_read(builder, is_first, places, kind)
            pixels = builder.mul(lane, count)
            with builder.if_then(fetches):
                for row in next_rows:
                    for k in range(0, _LANE_PIXELS, line):
                        fetch(builder, builder.gep(row, [builder.add(pixels, number(k))]), 3)
            lane_rows = [builder.gep(row, [lane]) for row in rows]
            weights = address(3, builder.add(panel, builder.mul(pixels, number(masks))))

            def add_pixel(j: Any, values: list[Any]) -> list[Any]:
                weight = read(builder, builder.gep(weights, [builder.mul(j, number(masks))]), kind)
                at = builder.mul(j, number(lanes))
                pixels = (splat(builder, kind, builder.load(builder.gep(row, [at]))) for row in lane_rows)
                return [fused(builder, pixel, weight, value) for pixel, value in zip(pixels, values, strict=True)]

            def add_some(j: Any, values: list[Any]) -> list[Any]:
                for k in range(_UNROLLED):
                    values = add_pixel(builder.add(j, number(k)), values)
                return values

            even = builder.and_(count, number(-_UNROLLED))
            values = _repeat(builder, number(0), even, _UNROLLED, values, add_some)
            values = _repeat(builder, even, count, 1, values, add_pixel)
            for place, value in zip(places, values, strict=True):
                write(builder, place, value)
            return []

        _repeat(builder, number(0), number(lanes), 1, [], add_lane)
        return context.get_dummy_value()

    index, flag = types.intp, types.boolean
    return types.void(flat, begins, index, packed, index, sums, flag, source, ahead, flag), generate


@operation
def add_lanes(
    typing_context: Any,  # noqa: ARG001
    sums: Any,
    out: Any,
    index: Any,  # noqa: ARG001
    stride: Any,  # noqa: ARG001
    count: Any,  # noqa: ARG001
) -> Any:
    """Add what `add_panel` summed in each lane, as a tree, neighbours first, to `out` from `index` on.

    There are `count` frames, whose results, float64, are `stride` apart from each other.
    """
    vector = Vector(sums.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, kind = context.get_value_type(types.intp), llvm_vector(context, vector)
        double = ir.VectorType(ir.DoubleType(), vector.lanes)
        sums, out, index, stride, count = arguments
        for f in range(PANEL_FRAMES):
            with builder.if_then(builder.icmp_signed("<", number(f), count)):
                values = []
                for lane in range(vector.lanes):
                    at = number((lane * PANEL_FRAMES + f) * vector.lanes)
                    values.append(read(builder, element(context, builder, signature.args[0], sums, at), kind))
                while len(values) > 1:
                    values = [builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
                total = values[0] if double == kind else builder.fpext(values[0], double)
                place = element(
                    context, builder, signature.args[1], out, builder.add(index, builder.mul(stride, number(f)))
                )
                write(builder, place, builder.fadd(read(builder, place, double), total))
        return context.get_dummy_value()

    return types.void(sums, out, types.intp, types.intp, types.intp), generate
