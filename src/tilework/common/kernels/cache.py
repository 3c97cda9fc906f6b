"""Compiled code on disk that is never older than its source.

Numba keeps the machine code of a function next to the file it is in, and takes it again as long as that file is the
same. But the code contains that of all functions it calls, and the values of all constants it names, also those of
other files. So what is kept is marked with a digest of these as well; code with another mark is compiled again, and
takes the place of the old.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.resources
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Called", "digest_of_kernels", "mark"]

# Their functions are known to numba, and it looks at its own version itself.
_KNOWN_TO_NUMBA = (frozenset({"llvmlite", "numba", "numpy"}) | sys.stdlib_module_names) - {"__main__"}
_PLAIN = (int, float, complex, str, bytes, type(None), np.generic)


def mark(dispatcher: Any, digest: bytes) -> bool:
    """Let a function that numba caches take from disk only what was compiled with this digest.

    Parameters
    ----------
    dispatcher
        What ``numba.njit(cache=True)`` returned; nothing has been compiled yet.
    digest
        Of everything that its machine code depends on, beside its own file.

    Returns
    -------
    bool
        False when this version of numba keeps its cache in another way, so that nothing was done.
    """
    if not hasattr(dispatcher, "py_func"):  # NUMBA_DISABLE_JIT: it is the function itself
        return True
    file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not hasattr(file, "_source_stamp"):
        return False
    assert file is not None
    import numba

    # NUMBA_BOUNDSCHECK makes other code of the same source.
    file._source_stamp = (file._source_stamp, digest, getattr(numba.config, "BOUNDSCHECK", None))
    return True


@functools.cache
def digest_of_kernels() -> bytes:
    """Return a digest of all files of this package, which kernels, wherever they are, call each other from."""
    digest = hashlib.blake2b(digest_size=16)
    files = {file.name: file for file in importlib.resources.files(__package__).iterdir()}
    for name in sorted(files):
        if name.endswith(".py"):
            digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.digest()


class Called:
    """All that a function of a user refers to, and so what its machine code depends on: functions and constants.

    Parameters
    ----------
    function
        The function, not compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._files: set[Path] = set()
        self._code = hashlib.blake2b(digest_size=16)
        self._seen: set[int] = set()
        self._follow(function, ())

    @property
    def fingerprint(self) -> bytes:
        """A digest of code and constants as they are in this process now."""
        return self._code.digest()

    def digest(self) -> bytes | None:
        """Return a digest of code, constants and files.

        The files say more than the code, such as with which options a function is compiled; the code may be older.

        Returns
        -------
        bytes or None
            None when something is in no file, as in a notebook: then nobody can tell later whether it has changed.
        """
        digest = self._code.copy()
        try:
            for path in sorted(self._files):
                digest.update(b"%a%b" % (str(path), path.read_bytes()))
        except OSError:
            return None
        return digest.digest()

    def _follow(self, value: Any, names: tuple[str, ...]) -> None:
        """Take note of what a name stands for; `names` are all that the code with that name uses."""
        if not isinstance(value, FunctionType):
            value = getattr(value, "py_func", getattr(value, "__wrapped__", value))
        if id(value) in self._seen or _is_known(value):
            return
        self._seen.add(id(value))
        if isinstance(value, FunctionType):
            self._follow_function(value)
        elif isinstance(value, ModuleType):
            for name in names:
                self._follow_named(name, getattr(value, name, None), names)
        else:
            module = sys.modules.get(str(getattr(value, "__module__", None)))
            if (path := getattr(module, "__file__", None)) is not None:
                self._files.add(Path(path).absolute())

    def _follow_function(self, function: FunctionType) -> None:
        code = function.__code__
        self._files.add(Path(code.co_filename).absolute())
        self._note_code(code)
        named, names = _names(code)
        for name in named:
            if name in function.__globals__:
                self._follow_named(name, function.__globals__[name], names)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._follow_named(name, cell.cell_contents, names)
        for i, value in enumerate(function.__defaults__ or ()):
            self._follow_named(f"default {i}", value, names)

    def _follow_named(self, name: str, value: Any, names: tuple[str, ...]) -> None:
        if isinstance(value, tuple):
            for item in value:
                self._follow_named(name, item, names)
        elif isinstance(value, _PLAIN):
            self._note(name, value)
        elif isinstance(value, np.ndarray):
            self._note(name, value.dtype.str, value.shape)
            self._code.update(value.tobytes())
        else:
            self._follow(value, names)

    def _note_code(self, code: CodeType) -> None:
        self._note(code.co_code, code.co_names, code.co_varnames)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._note_code(constant)
            else:
                self._note(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)

    def _note(self, *facts: Any) -> None:
        self._code.update(b"%a" % (facts,))


def _is_known(value: Any) -> bool:
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN_TO_NUMBA


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of globals in a function, and in functions within it; and these with all names of attributes."""
    named = [i.argval for i in dis.get_instructions(code) if i.opname in {"LOAD_GLOBAL", "LOAD_NAME"}]
    names = [*code.co_names]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _names(constant)
            named += inner[0]
            names += inner[1]
    return tuple(dict.fromkeys(named)), tuple(dict.fromkeys(names))
