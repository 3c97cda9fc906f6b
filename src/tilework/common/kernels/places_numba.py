"""Where frames begin, for kernels that take frames at even distances as well as those that were picked from an array.

An argument `places` is `tilework.common.kernels.rows.Rows.places`: the distance of frames in elements, or an array with
the first element of each. They are two types, so that a kernel is compiled for either, and even distances cost nothing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from tilework.common.kernels.simd_numba import element, operation

__all__ = ["begin_of", "is_scattered"]


@operation
def begin_of(typing_context: Any, places: Any, index: Any) -> Any:  # noqa: ARG001
    """Return where a frame begins in the flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        if not isinstance(kind, types.Array):
            return builder.mul(*arguments)
        return builder.load(element(context, builder, kind, *arguments))

    return types.intp(places, types.intp), generate


@operation
def is_scattered(typing_context: Any, places: Any) -> Any:  # noqa: ARG001
    """Return whether frames are anywhere, as a constant that the compiler knows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return ir.Constant(ir.IntType(1), int(isinstance(signature.args[0], types.Array)))

    return types.boolean(places), generate
