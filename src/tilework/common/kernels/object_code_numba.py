"""Kernels to object code: numba compiles a function, and LLVM adds one that takes its arguments from Python objects.

Numba passes an array to a function as numbers, one after the other: an object that owns the memory, and another, both
null here; number of elements; bytes of an element; address; shape; strides. Before all arguments are two addresses, for
the result and for an exception. The function returns 0, unless there is an exception.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types as numba_types

from tilework.common.kernels.cpu import FEATURES, NAME
from tilework.common.kernels.jit import WITHOUT_WRAPPERS, no_search_for_garbage
from tilework.common.kernels.object_code import ENTRY, ENTRY_IN_TURN, array_fields
from tilework.common.kernels.turns import FLAG, HELD, NUMBER, SPINS

__all__ = ["compile_object"]

_BYTES = ir.IntType(8).as_pointer()
_WORD = ir.IntType(8 * ctypes.sizeof(ctypes.c_void_p))
_STATUS = ir.IntType(32)
_NO_DESTRUCTOR = "NRT_MemInfo_call_dtor"
_MATH = (
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "erf"),
    *("erfc", "exp", "exp2", "expm1", "fabs", "floor", "fma", "fmax", "fmin", "fmod", "frexp", "hypot", "ldexp"),
    *("lgamma", "log", "log10", "log1p", "log2", "nearbyint", "nextafter", "pow", "rint", "round", "sin", "sincos"),
    *("sinh", "sqrt", "tan", "tanh", "tgamma", "trunc"),
)
_OF_C = frozenset({"memcmp", "memcpy", "memmove", "memset", *_MATH, *(f"{name}f" for name in _MATH)})


def compile_object(module: str, name: str, types: tuple[str, ...]) -> bytes:
    """Return object code of a kernel for this machine, as `tilework.common.kernels.object_code.load` takes it.

    Parameters
    ----------
    module, name, types
        As in `tilework.common.kernels.object_code.find`.

    Raises
    ------
    NotImplementedError
        When the kernel needs something of numba when it runs, such as memory.
    """
    decorated: Any = getattr(importlib.import_module(module), name)
    options = {name: value for name, value in decorated.targetoptions.items() if name != "nopython"}
    dispatcher = numba.njit(**options, **WITHOUT_WRAPPERS)(decorated.py_func)
    signature = tuple(map(_numba_type, types))
    with no_search_for_garbage():
        dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    code = llvm.parse_assembly(compiled.library.get_llvm_str())
    code.link_in(llvm.parse_assembly(str(_entry(compiled, types))))
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=NAME, features=FEATURES, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )
    for each in (*code.functions, *code.global_variables):
        if not each.is_declaration:
            if each.name not in {ENTRY, ENTRY_IN_TURN}:
                each.linkage = "internal"  # other kernels have the same
        elif not _is_of_c(each.name):
            msg = f"the kernel {name} of {module} needs {each.name}"
            raise NotImplementedError(msg)
    return bytes(machine.emit_object(code))


def _numba_type(word: str) -> Any:
    if word.startswith("t"):
        return numba_types.Tuple((numba_types.intp,) * int(word[1:]))  # type: ignore[no-untyped-call]
    if (plain := {"i": numba_types.intp, "f": numba_types.float64, "n": numba_types.none}.get(word)) is not None:
        return plain
    dtype, _, ndim = word.partition("x")
    return numba_types.Array(numba.from_dtype(np.dtype(dtype)), int(ndim), "C")


def _entry(compiled: Any, types: tuple[str, ...]) -> ir.Module:
    """Return the function that `object_code.load` calls: arrays come as Python objects, and so does what is a type."""
    module = ir.Module()
    convention = compiled.target_context.call_conv
    kernel_type = convention.get_function_type(compiled.fndesc.restype, compiled.fndesc.argtypes)
    kernel = ir.Function(module, kernel_type, compiled.fndesc.llvm_func_name)
    kinds = {"i": _WORD, "f": ir.DoubleType()}
    entry = ir.Function(module, ir.FunctionType(_STATUS, [kinds.get(each, _BYTES) for each in types]), ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    values: list[Any] = []
    for _ in range(2):  # where the result and an exception go
        values.append(builder.alloca(_WORD))
        builder.store(_WORD(0), values[-1])
    for word, given in zip(types, entry.args, strict=True):
        if word in ("i", "f"):
            values.append(given)
        elif word == "n":
            values.append(_BYTES(None))
        elif word.startswith("t"):
            values += [_WORD(0)] * int(word[1:])
        else:
            values += _array(builder, given, word)
    arguments = [_as_type(builder, value, want) for value, want in zip(values, kernel_type.args, strict=True)]
    builder.ret(builder.call(kernel, arguments))
    _add_entry_in_turn(module, entry)
    # Memory is never owned by an array that a kernel gets, so this is never called.
    nothing = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), _NO_DESTRUCTOR)
    ir.IRBuilder(nothing.append_basic_block()).ret_void()
    return module


def _add_entry_in_turn(module: ir.Module, entry: ir.Function) -> None:
    """Add a function that leaves a turn, calls the entry, and waits for the turn again; see `turns`."""
    word = _WORD.as_pointer()
    function = ir.Function(module, ir.FunctionType(_STATUS, [_WORD, *entry.function_type.args]), ENTRY_IN_TURN)
    memory, *given = function.args
    start, leave, call, wait, look, take, spin, end = (function.append_basic_block() for _ in range(8))
    builder = ir.IRBuilder(start)
    size = _WORD.width // 8

    def place(number: int) -> Any:
        return builder.gep(builder.inttoptr(memory, word), [_WORD(number)])

    flag = builder.inttoptr(builder.load(place(FLAG)), word)
    number = builder.load(place(NUMBER))
    builder.cbranch(builder.icmp_unsigned("!=", builder.load(place(HELD)), _WORD(0)), leave, call)
    builder.position_at_end(leave)
    builder.store(_WORD(0), place(HELD))
    builder.store_atomic(_WORD(0), flag, "release", size)
    builder.branch(call)
    builder.position_at_end(call)
    status = builder.call(entry, given)
    spins = builder.load(place(SPINS))
    builder.branch(wait)
    builder.position_at_end(wait)
    left = builder.phi(_WORD)
    left.add_incoming(spins, call)
    builder.cbranch(builder.icmp_unsigned("==", left, _WORD(0)), end, look)
    builder.position_at_end(look)
    is_free = builder.icmp_unsigned("==", builder.load_atomic(flag, "monotonic", size), _WORD(0))
    builder.cbranch(is_free, take, spin)
    builder.position_at_end(take)
    taken = builder.extract_value(builder.cmpxchg(flag, _WORD(0), number, "acq_rel", "monotonic"), 1)
    builder.store(builder.zext(taken, _WORD), place(HELD))
    builder.cbranch(taken, end, spin)
    builder.position_at_end(spin)
    if llvm.get_default_triple().startswith(("x86_64", "i686")):
        builder.call(ir.Function(module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"), [])
    left.add_incoming(builder.sub(left, _WORD(1)), spin)
    builder.branch(wait)
    builder.position_at_end(end)
    builder.ret(status)


def _array(builder: ir.IRBuilder, array: Any, word: str) -> list[Any]:
    """Return the numbers of which numba makes an array, which is C-contiguous."""
    dtype, _, ndim = word.partition("x")
    itemsize = _WORD(np.dtype(dtype).itemsize)

    def word_at(base: Any, offset: int) -> Any:
        address = builder.gep(base, [_WORD(offset)])
        return builder.load(builder.bitcast(address, _WORD.as_pointer()))

    data, shape = (word_at(array, offset) for offset in array_fields())
    sizes = builder.inttoptr(shape, _BYTES)
    lengths = [word_at(sizes, axis * _WORD.width // 8) for axis in range(int(ndim))]
    strides: list[Any] = [itemsize]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    count = lengths[0]
    for length in lengths[1:]:
        count = builder.mul(count, length)
    null = _BYTES(None)
    return [null, null, count, itemsize, builder.inttoptr(data, _BYTES), *lengths, *strides]


def _as_type(builder: ir.IRBuilder, value: Any, want: Any) -> Any:
    return builder.bitcast(value, want) if isinstance(want, ir.PointerType) else value


def _is_of_c(name: str) -> bool:
    """Return whether a function is there in each process: one of LLVM's own, or of the C library.

    What other libraries of this process have may not be there in another, or be something else.
    """
    return name.startswith("llvm.") or (name in _OF_C and hasattr(ctypes.CDLL(None), name))
