"""Vectors of 8 floats or 4 doubles as values inside compiled kernels.

The order in which a sum is taken is then written down in the kernel, instead of being the compiler's choice: a kernel
that works on three frames at a time gives the same bits as one that works on a single frame. Where a CPU has shorter
vectors, the compiler splits them.

A function's first argument `like` is an array whose dtype, float32 or float64, says which vector is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_up", "lanes", "load", "multiply_add", "zero"]

VECTOR_BYTES = 32


def operation(function: Callable[..., Any]) -> Any:
    """Make a function of numba types, which returns a signature and a code generator, callable inside kernels."""
    return intrinsic(function)


class Vector(types.Type):
    """The numba type of a vector of `lanes` numbers of type `element`."""

    def __init__(self, element: Any) -> None:
        self.element = element
        self.lanes = VECTOR_BYTES * 8 // element.bitwidth
        super().__init__(f"Vector({element} x {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector lives in a vector register."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))  # type: ignore[no-untyped-call]


def _llvm(context: Any, vector: Vector) -> ir.VectorType:
    return ir.VectorType(context.get_value_type(vector.element), vector.lanes)


@operation
def lanes(typing_context: Any, like: Any) -> Any:  # noqa: ARG001  (the signature numba asks for)
    """Return how many numbers a vector has, as a constant that the compiler knows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return context.get_constant(types.intp, Vector(like.dtype).lanes)

    return types.intp(like), generate


@operation
def zero(typing_context: Any, like: Any) -> Any:  # noqa: ARG001
    """Return a vector of zeros."""
    vector = Vector(like.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return ir.Constant(_llvm(context, vector), [0.0] * vector.lanes)

    return vector(like), generate


@operation
def load(typing_context: Any, like: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
    """Return the numbers of a one-dimensional contiguous array from `index` on, converted to the vector's type."""
    vector = Vector(like.dtype)
    source: Any = array.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[1])(context, builder, arguments[1])
        packed = ir.VectorType(context.get_value_type(source), vector.lanes)
        pointer = builder.bitcast(builder.gep(values.data, [arguments[2]]), packed.as_pointer())
        loaded = builder.load(pointer)
        loaded.align = source.bitwidth // 8
        target = _llvm(context, vector)
        if source in types.integer_domain:
            return builder.sitofp(loaded, target) if source.signed else builder.uitofp(loaded, target)
        if source.bitwidth < vector.element.bitwidth:
            return builder.fpext(loaded, target)
        return builder.fptrunc(loaded, target) if source.bitwidth > vector.element.bitwidth else loaded

    return vector(like, array, types.intp), generate


@operation
def multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return ``a * b + c``, rounded once where the CPU can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        vector = _llvm(context, c)
        name = f"llvm.fmuladd.v{c.lanes}f{c.element.bitwidth}"
        kind = ir.FunctionType(vector, [vector] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.call(function, arguments)

    return c(a, b, c), generate


@operation
def add_up(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
    """Return the sum of a vector's numbers, as a tree: halves are added until one number is left."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        index = ir.IntType(32)
        value = arguments[0]
        width = a.lanes
        while width > 1:
            width //= 2
            order = [(lane + width) % a.lanes for lane in range(a.lanes)]
            swapped = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(index, a.lanes), order))
            value = builder.fadd(value, swapped)
        return builder.extract_element(value, index(0))

    return a.element(a), generate
