"""What kernels say to the compiler that plain loops cannot: byte order, vectors as values, prefetching.

Vectors are of 16 numbers of 4 bytes, 8 of 8 bytes, or 32 of 2 bytes; of these, kernels use halves. The order in which a
sum is taken is then written down in the kernel, instead of being the compiler's choice: a kernel that works on two
frames at a time gives the same bits as one that works on a single frame. Where a CPU has shorter vectors, the compiler
splits them. An argument `like` is an array whose dtype, a float or an integer, says which vector is meant.

An argument `order` is `tilework.common.kernels.rows.NATIVE` or ``FOREIGN``: tuples of different length, so that the
byte order is part of the types a kernel is compiled for, and native data does not pay for the question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from tilework.common.kernels.cpu import FEATURES
from tilework.common.kernels.rows import VECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AHEAD_BYTES",
    "Vector",
    "add",
    "add_up",
    "add_up_even",
    "add_up_odd",
    "add_up_wide",
    "element",
    "fetch",
    "fill",
    "fill_half",
    "first",
    "fused",
    "join",
    "lanes",
    "llvm_vector",
    "load",
    "load_half",
    "load_shorts",
    "multiply",
    "multiply_add",
    "multiply_pairs",
    "operation",
    "pair_lower",
    "pair_upper",
    "pick_even",
    "pick_even_fours",
    "pick_even_pairs",
    "pick_lower",
    "pick_odd",
    "pick_odd_fours",
    "pick_odd_pairs",
    "pick_upper",
    "pixel",
    "prefetch",
    "prefetch_once",
    "read",
    "splat",
    "store",
    "widen_even",
    "widen_odd",
    "write",
    "zero",
    "zero_half",
    "zip_lower",
    "zip_upper",
]

# How far ahead kernels fetch what they will need: beyond a page, where the CPU does not look by itself.
AHEAD_BYTES = 4096


def operation(function: Callable[..., Any]) -> Any:
    """Make a function of numba types, which returns a signature and a code generator, callable inside kernels."""
    return intrinsic(function)


class Vector(types.Type):
    """The numba type of a vector of `lanes` numbers of type `element`: a whole one, or half of one."""

    def __init__(self, element: Any, parts: int = 1) -> None:
        self.element = element
        self.lanes = VECTOR_BYTES * 8 // element.bitwidth // parts
        super().__init__(f"Vector({element} x {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector lives in a vector register."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))  # type: ignore[no-untyped-call]


def llvm_vector(context: Any, vector: Vector) -> ir.VectorType:
    """Return the LLVM type of a vector."""
    return ir.VectorType(context.get_value_type(vector.element), vector.lanes)


@operation
def lanes(typing_context: Any, like: Any) -> Any:  # noqa: ARG001  (the signature numba asks for)
    """Return how many numbers a vector has, as a constant that the compiler knows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return context.get_constant(types.intp, Vector(like.dtype).lanes)

    return types.intp(like), generate


def _zero(parts: int) -> Any:
    @operation
    def zero(typing_context: Any, like: Any) -> Any:  # noqa: ARG001
        """Return a vector of zeros, or a part of one."""
        vector = Vector(like.dtype, parts)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            number = 0 if vector.element in types.integer_domain else 0.0
            return ir.Constant(llvm_vector(context, vector), [number] * vector.lanes)

        return vector(like), generate

    return zero


zero = _zero(1)
zero_half = _zero(2)


def element(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
    """Return the address of an element of a one-dimensional contiguous array."""
    return builder.gep(context.make_array(array)(context, builder, value).data, [index])


def _read(context: Any, builder: Any, address: Any, dtype: Any, order: Any, count: int | None) -> Any:
    """Read a number of `dtype`, or a vector of `count` of them, and reverse their bytes when `order` says so."""
    swapped = len(order) > 0 and dtype.bitwidth > 8
    element = ir.IntType(dtype.bitwidth) if swapped else context.get_value_type(dtype)
    kind = element if count is None else ir.VectorType(element, count)
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = dtype.bitwidth // 8
    if not swapped:
        return value
    suffix = f"i{dtype.bitwidth}" if count is None else f"v{count}i{dtype.bitwidth}"
    swap = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, ir.FunctionType(kind, [kind]), f"llvm.bswap.{suffix}"
    )
    value = builder.call(swap, [value])
    stored = context.get_value_type(dtype)
    return builder.bitcast(value, stored if count is None else ir.VectorType(stored, count))


@operation
def pixel(typing_context: Any, array: Any, index: Any, order: Any) -> Any:  # noqa: ARG001
    """Return an element of a one-dimensional contiguous array whose bytes are in this order."""
    dtype: Any = array.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = element(context, builder, signature.args[0], arguments[0], arguments[1])
        return _read(context, builder, address, dtype, order, None)

    return dtype(array, types.intp, order), generate


def fetch(builder: Any, address: Any, locality: int) -> None:
    """Ask for the cache line of an address: into all caches (3), all but L1 (2), or past them (0)."""
    byte, number = ir.IntType(8), ir.IntType(32)
    address = builder.bitcast(address, byte.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
    # For reading, data.
    builder.call(function, [address, number(0), number(locality), number(1)])


def _prefetch(locality: int) -> Any:
    @operation
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
        """Ask for the cache line of an element, to have it soon; it may lie outside of the array."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = element(context, builder, signature.args[0], arguments[0], arguments[1])
            fetch(builder, address, locality)
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return prefetch


# Into L2, where it stays for the next function, or past the caches, where what is read once takes no place of others.
prefetch, prefetch_once = _prefetch(2), _prefetch(0)


def _load(parts: int) -> Any:
    @operation
    def load(typing_context: Any, like: Any, array: Any, index: Any, order: Any) -> Any:  # noqa: ARG001
        """Return the numbers of a one-dimensional contiguous array from `index` on, converted to the vector's type."""
        vector = Vector(like.dtype, parts)
        source: Any = array.dtype

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = element(context, builder, signature.args[1], arguments[1], arguments[2])
            loaded = _read(context, builder, address, source, order, vector.lanes)
            target = llvm_vector(context, vector)
            if vector.element in types.integer_domain:
                return builder.sext(loaded, target) if source.signed else builder.zext(loaded, target)
            if source in types.integer_domain:
                return builder.sitofp(loaded, target) if source.signed else builder.uitofp(loaded, target)
            if source.bitwidth < vector.element.bitwidth:
                return builder.fpext(loaded, target)
            return builder.fptrunc(loaded, target) if source.bitwidth > vector.element.bitwidth else loaded

        return vector(like, array, types.intp, order), generate

    return load


load = _load(1)
load_half = _load(2)


@operation
def load_shorts(typing_context: Any, like: Any, array: Any, index: Any, order: Any) -> Any:  # noqa: ARG001
    """Return half a vector of signed 2-byte integers: pixels of 1 or 2 bytes, less 2**15 if they are unsigned of 2."""
    half = Vector(like.dtype, 2)
    source: Any = array.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = element(context, builder, signature.args[1], arguments[1], arguments[2])
        loaded = _read(context, builder, address, source, order, half.lanes)
        target = llvm_vector(context, half)
        if source.bitwidth == half.element.bitwidth and not source.signed:
            return builder.xor(loaded, ir.Constant(target, [1 << 15] * half.lanes))
        return builder.sext(loaded, target) if source.signed else builder.zext(loaded, target)

    return half(like, array, types.intp, order), generate


@operation
def multiply_pairs(typing_context: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """Return 4-byte integers, each the sum of the products of two neighbours in half vectors of 2-byte integers.

    As unsigned numbers where a and b are the same, otherwise as signed ones, they hold every sum, except that of two
    products of the smallest numbers.
    """
    half = Vector(types.int32, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        target = llvm_vector(context, half)
        if "+avx2" in FEATURES:
            kind = ir.FunctionType(target, [arguments[0].type] * 2)
            name = "llvm.x86.avx2.pmadd.wd"
            function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
            return builder.call(function, arguments)
        products = []
        for first in (0, 1):
            places = ir.Constant(ir.VectorType(ir.IntType(32), half.lanes), list(range(first, a.lanes, 2)))
            x, y = (builder.sext(builder.shuffle_vector(value, value, places), target) for value in arguments)
            products.append(builder.mul(x, y))
        return builder.add(*products)

    return half(a, b), generate


def _widen(shift: int) -> Any:
    @operation
    def widen(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
        """Return every second number of half a vector of unsigned 4-byte integers, as 8-byte ones."""
        half = Vector(types.uint64, 2)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            kind = llvm_vector(context, half)
            pairs = builder.bitcast(arguments[0], kind)
            if shift:
                return builder.lshr(pairs, ir.Constant(kind, [shift] * half.lanes))
            return builder.and_(pairs, ir.Constant(kind, [2**32 - 1] * half.lanes))

        return half(a), generate

    return widen


widen_even = _widen(0)
widen_odd = _widen(32)


@operation
def join(typing_context: Any, lower: Any, upper: Any) -> Any:  # noqa: ARG001
    """Return the vector whose halves these are."""
    whole = Vector(lower.element)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        order = ir.Constant(ir.VectorType(ir.IntType(32), whole.lanes), list(range(whole.lanes)))
        return builder.shuffle_vector(arguments[0], arguments[1], order)

    return whole(lower, upper), generate


@operation
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    """Write a vector to a one-dimensional contiguous array of its element type, from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = element(context, builder, signature.args[0], arguments[0], arguments[1])
        written = builder.store(arguments[2], builder.bitcast(address, llvm_vector(context, value).as_pointer()))
        written.align = value.element.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


def read(builder: Any, address: Any, kind: Any) -> Any:
    """Return the vector of a type that begins at the address of a number."""
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = 1
    return value


def write(builder: Any, address: Any, value: Any) -> None:
    """Write a vector, from the address of a number on."""
    written = builder.store(value, builder.bitcast(address, value.type.as_pointer()))
    written.align = 1


def splat(builder: Any, kind: Any, number: Any) -> Any:
    """Return the vector of a type that has the same number everywhere."""
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(
        single, single, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    )


def _fill(parts: int) -> Any:
    @operation
    def fill(typing_context: Any, like: Any, value: Any) -> Any:  # noqa: ARG001
        """Return a vector that has the same number everywhere, converted to the vector's type, or a part of one."""
        vector = Vector(like.dtype, parts)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = context.cast(builder, arguments[1], signature.args[1], vector.element)
            return splat(builder, llvm_vector(context, vector), number)

        return vector(like, value), generate

    return fill


fill = _fill(1)
fill_half = _fill(2)


@operation
def add(typing_context: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """Return ``a + b``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return _add(builder, a.element, arguments[0], arguments[1])

    return a(a, b), generate


def _add(builder: Any, element: Any, a: Any, b: Any) -> Any:
    return builder.add(a, b) if element in types.integer_domain else builder.fadd(a, b)


@operation
def multiply(typing_context: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """Return ``a * b``, of integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.mul(arguments[0], arguments[1])

    return a(a, b), generate


@operation
def first(typing_context: Any, a: Any, count: Any) -> Any:  # noqa: ARG001
    """Return a vector of integers with zeros after its first `count` numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = llvm_vector(context, a)
        number = context.cast(builder, arguments[1], signature.args[1], a.element)
        kept = builder.icmp_signed("<", ir.Constant(kind, list(range(a.lanes))), splat(builder, kind, number))
        return builder.select(kept, arguments[0], ir.Constant(kind, [0] * a.lanes))

    return a(a, types.intp), generate


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return the vector ``a * b + c`` of floats, rounded once where the CPU can."""
    name = f"llvm.fmuladd.v{c.type.count}{'f32' if isinstance(c.type.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(c.type, [c.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, [a, b, c])


@operation
def multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return ``a * b + c``, rounded once where the CPU can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return fused(builder, *arguments)

    return c(a, b, c), generate


def _pick(order: Callable[[int], list[int]]) -> Any:
    """Make an operation on two vectors that returns the elements `order` of them, those of the second counted on."""

    @operation
    def pick(typing_context: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            places = ir.Constant(ir.VectorType(ir.IntType(32), a.lanes), order(a.lanes))
            return builder.shuffle_vector(arguments[0], arguments[1], places)

        return a(a, b), generate

    return pick


def _take_turns(n: int, count: int, first: int) -> list[int]:
    """Return places of every second `count` numbers, of both vectors in turn, from those at `first` on."""
    return [vector + i + k for i in range(first, n, 2 * count) for vector in (0, n) for k in range(count)]


# For vectors a, b: a0 b0 a2 b2 ... and a1 b1 a3 b3 ..., the same with pairs, a0 a1 b0 b1 a4 a5 b4 b5 ..., and with
# fours; the lower and the upper halves of both.
pick_even = _pick(lambda n: _take_turns(n, 1, 0))
pick_odd = _pick(lambda n: _take_turns(n, 1, 1))
pick_even_pairs = _pick(lambda n: _take_turns(n, 2, 0))
pick_odd_pairs = _pick(lambda n: _take_turns(n, 2, 2))
pick_even_fours = _pick(lambda n: _take_turns(n, 4, 0))
pick_odd_fours = _pick(lambda n: _take_turns(n, 4, 4))
# Of vectors of which four or eight numbers are a register's 16 bytes: the lower and the upper half of each 16 bytes, a
# number of one and a number of the other in turn.
pair_lower = _pick(lambda n: [v + i + k for i in range(0, n, 8) for k in range(4) for v in (0, n)])
pair_upper = _pick(lambda n: [v + i + k for i in range(0, n, 8) for k in range(4, 8) for v in (0, n)])
# a0 b0 a1 b1 ..., as far as half of a and b goes, and then the rest.
zip_lower = _pick(lambda n: [v + i for i in range(n // 2) for v in (0, n)])
zip_upper = _pick(lambda n: [v + i for i in range(n // 2, n) for v in (0, n)])
pick_lower = _pick(lambda n: [*range(n // 2), *range(n, n + n // 2)])
pick_upper = _pick(lambda n: [*range(n // 2, n), *range(n + n // 2, 2 * n)])


def _add_up(distance: int, which: int) -> Any:
    """Make an operation that adds a vector's numbers at this distance, then at twice it ..., and returns a sum."""

    @operation
    def total(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            index = ir.IntType(32)
            value = arguments[0]
            apart = distance
            while apart < a.lanes:
                order = ir.Constant(ir.VectorType(index, a.lanes), [lane ^ apart for lane in range(a.lanes)])
                value = _add(builder, a.element, value, builder.shuffle_vector(value, value, order))
                apart *= 2
            return builder.extract_element(value, index(which))

        return a.element(a), generate

    return total


# The sum of a vector's numbers, as a tree: neighbours first. The same of those at even and at odd places.
add_up = _add_up(1, 0)
add_up_even = _add_up(2, 0)
add_up_odd = _add_up(2, 1)


@operation
def add_up_wide(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
    """Return the sum of the numbers of half a vector of signed 4-byte integers, as an 8-byte one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        index = ir.IntType(32)
        value = builder.sext(arguments[0], ir.VectorType(ir.IntType(64), a.lanes))
        apart = a.lanes // 2
        while apart:
            order = ir.Constant(ir.VectorType(index, a.lanes), [(lane + apart) % a.lanes for lane in range(a.lanes)])
            value = builder.add(value, builder.shuffle_vector(value, value, order))
            apart //= 2
        return builder.extract_element(value, index(0))

    return types.int64(a), generate
