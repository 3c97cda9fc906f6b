"""A compiled kernel as its callers see it: a function, which is loaded or compiled when it is first called.

Loading takes milliseconds: the machine code is on disk (see `tilework.common.kernels.object_code`), and numba, whose
import and first call take a second, is needed only to compile what is not there yet.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.interrupts import interrupts_later

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import ModuleType

    from numpy.typing import NDArray

    from tilework.common.kernels.turns import Turn

    Form = tuple[Hashable, ...]

__all__ = ["CONTIGUOUS_ALIGNED", "Kernel", "compiles_nothing", "loaded"]

logger = logging.getLogger(__name__)

CONTIGUOUS_ALIGNED: Final = 0x101
"""Flags of arrays that machine code is made for, as NumPy's C API numbers them."""
# With these variables, numba is asked to do something else than to make machine code as usual.
_NO_COMPILER: Final = "NUMBA_DISABLE_JIT"
_OF_NUMBA: Final = (_NO_COMPILER, "NUMBA_BOUNDSCHECK", "NUMBA_DEBUGINFO")

# Kernels for which there is no object code.
_failures: list[str] = []
# Held while a kernel is loaded or compiled. Who forks waits for that: in the child there is no thread that would go on,
# and what it had locked, of the import system and of LLVM, would stay locked.
_lock = threading.RLock()
_held_of_llvm: list[Any] = []


def _before_fork() -> None:
    _lock.acquire()
    # Numba also asks LLVM whenever it calls a function that is an argument, as those of users are, and for what
    # a program compiles by itself.
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    lock = getattr(getattr(library, "_lock", None), "_lock", None)
    if lock is not None:
        lock.acquire()
        _held_of_llvm.append(lock)


def _after_fork() -> None:
    while _held_of_llvm:
        _held_of_llvm.pop().release()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class Kernel:
    """A compiled function of a module whose name ends in ``_numba``. Any number of threads may call it.

    It is called with positional arguments: arrays in native byte order, C-contiguous and aligned, of ``int`` and
    ``float``, and of None and tuples of integers, whose values the compiler sees as types. It returns nothing.

    Parameters
    ----------
    module
        Name of the module; it is imported only to compile.
    name
        Name of the function, which is decorated with `tilework.common.kernels.jit.jit`.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._functions: dict[Form, Callable[..., Any]] = {}
        self._is_kept: dict[Form, bool] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._module!r}, {self._name!r})"

    def __call__(self, *args: Any) -> None:
        """Call it; without the GIL.

        Raises
        ------
        RuntimeError
            When the compiled code fails.
        """
        form = _form_of(args)
        function = self._functions.get(form)
        if function is None:
            function = self._find(form)
        if function(*args):
            raise self._failed()

    def repeated(self, array: NDArray[Any], *rest: Any, turn: Turn | None = None) -> Callable[[NDArray[Any]], None]:
        """Return a function that calls it with other arrays of the same kind and the same rest, in half the time.

        Parameters
        ----------
        array
            What stands for the first argument; dtype, dimensions, contiguity and alignment of the others are the same.
        *rest
            The other arguments.
        turn
            Is left before each call, and waited for at its end; None: there are no turns.
        """
        form = _form_of((array, *rest))
        function = self._functions.get(form) or self._find(form)
        in_turn = getattr(function, "in_turn", None)  # what numba has loaded has none
        if turn is not None and in_turn is not None:

            def call_in_turn(array: NDArray[Any]) -> None:
                if in_turn(turn.address, array, *rest):
                    raise self._failed()
                turn.note()

            return call_in_turn

        def call(array: NDArray[Any]) -> None:
            if function(array, *rest):
                raise self._failed()

        return call

    def _failed(self) -> RuntimeError:
        return RuntimeError(f"the compiled function {self._name} of {self._module} failed")

    def is_at_hand(self, *args: Any) -> bool:
        """Return whether a call with such arguments would not wait for the compiler."""
        form = _form_of(args)
        if form in self._functions:
            return True
        if form not in self._is_kept:  # which is asked once
            self._is_kept[form] = self._is_on_disk(form)
        return self._is_kept[form]

    def _is_on_disk(self, form: Form) -> bool:
        from tilework.common.kernels import object_code

        types = None if _asks_numba() else _types_of(form)
        try:
            with _lock:  # what is asked for loads LLVM
                return types is not None and object_code.find(self._module, self._name, types) is not None
        except Exception:  # noqa: BLE001  (where nothing can be loaded, `_load` says why, and goes on)
            return False

    def _find(self, form: Form) -> Callable[..., Any]:
        with interrupts_later(), _lock:
            function = self._functions.get(form)
            if function is None:
                types = None if _asks_numba() else _types_of(form)
                function = None if types is None else self._load(types)
                if function is None:
                    function = self._function_of_numba()
                self._functions[form] = function
        return function

    def _load(self, types: tuple[str, ...]) -> Callable[..., Any] | None:
        """Return the function, after it was compiled if need be; None when that works in numba's own way alone."""
        from tilework.common.kernels import object_code

        try:
            code = object_code.find(self._module, self._name, types)
            if code is None:
                from tilework.common.kernels.object_code_numba import compile_object

                code = compile_object(self._module, self._name, types)
                object_code.keep(self._module, self._name, types, code)
            return object_code.load(code, types)
        except Exception:
            # Numba and LLVM are asked for more than they promise for all versions, so there is a second way.
            level = logging.DEBUG if _failures else logging.WARNING  # others fail for the same reason
            logger.log(level, "%r is loaded or compiled by numba, which takes longer", self, exc_info=True)
            _failures.append(self._name)
            return None

    def _function_of_numba(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(self._module), self._name)
        return function


def loaded(name: str) -> ModuleType:
    """Return a module that loads LLVM. As for kernels, who forks waits until it is there."""
    with _lock:
        return importlib.import_module(name)


def _form_of(args: tuple[Any, ...]) -> Form:
    """Return what of the arguments the machine code depends on."""
    return tuple(
        [
            (a.dtype, a.ndim, a.flags.num & CONTIGUOUS_ALIGNED)
            if isinstance(a, np.ndarray)
            else len(a)
            if a.__class__ is tuple
            else a.__class__
            for a in args
        ]
    )


def _types_of(form: Form) -> tuple[str, ...] | None:
    """Return the same in words: dtype and dimensions of arrays, lengths of tuples; None when there are no words."""
    types: list[str] = []
    for each in form:
        if isinstance(each, tuple):
            dtype, ndim, flags = each
            if flags != CONTIGUOUS_ALIGNED or not dtype.isnative or dtype.kind not in "iufc" or dtype.itemsize > 8:
                return None
            types.append(f"{dtype.str[1:]}x{ndim}")
        elif isinstance(each, int):
            types.append(f"t{each}")
        elif each in _WORDS:
            types.append(_WORDS[each])
        else:
            return None
    return tuple(types)


_WORDS: Final[dict[Any, str]] = {int: "i", float: "f", type(None): "n"}


def compiles_nothing() -> bool:
    """Return whether numba is told to leave functions as they are: kernels with vectors do not work then."""
    return _is_set(_NO_COMPILER)


def _asks_numba() -> bool:
    return any(_is_set(name) for name in _OF_NUMBA)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")
