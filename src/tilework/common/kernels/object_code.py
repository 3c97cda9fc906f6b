"""Machine code of kernels on disk, and loaded from there by LLVM alone.

Each kernel has a file for each combination of types of its arguments: a digest, and the object code that
`tilework.common.kernels.object_code_numba` made of it. The names of files say for what CPU, by which versions of the
compilers, and of what sources, so what is old is not found. What was made of older sources is removed when its
successor is written; what is for others who use the same folder stays.

They lie where numba keeps what it compiles: in the folder that ``NUMBA_CACHE_DIR`` names, or beside the source, or,
where that cannot be written, in the user's folder for such files. Each installation has a folder of its own there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.kernels.cache import digest_of_kernels
from tilework.common.kernels.jit import say_not_kept

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENTRY", "ENTRY_IN_TURN", "array_fields", "find", "keep", "load"]

ENTRY: Final = "tilework_kernel"
"""Name of the function in object code."""
ENTRY_IN_TURN: Final = "tilework_kernel_in_turn"
"""Name of another, with the address of a `tilework.common.kernels.turns.Turn` before the arguments."""
_DIGEST_BYTES: Final = 16
# What machine code works with is owned by these, and machine code is for as long as the process is.
_engines: list[Any] = []


def find(module: str, name: str, types: tuple[str, ...]) -> bytes | None:
    """Return the object code of a kernel, or None when it is not on disk.

    Parameters
    ----------
    module, name
        The kernel.
    types
        Of its arguments: ``"u2x1"`` for an array of one dimension, ``"i"``, ``"f"`` and ``"n"`` for integers, floats
        and None, ``"t1"`` for a tuple of one integer.
    """
    file = _family(module, name, types) + _version(module)
    for folder in _folders():
        with contextlib.suppress(OSError):
            content = (folder / file).read_bytes()
            if _digest(content[_DIGEST_BYTES:]) == content[:_DIGEST_BYTES]:
                return content[_DIGEST_BYTES:]
    return None


def keep(module: str, name: str, types: tuple[str, ...], code: bytes) -> None:
    """Write object code to disk; where it cannot be, it is logged that processes compile anew.

    Parameters
    ----------
    module, name, types
        As in `find`.
    code
        What `find` returns from then on.
    """
    family = _family(module, name, types)
    failure: OSError | None = None
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / (family + _version(module)), _digest(code) + code)
        except OSError as error:
            failure = failure or error
            continue
        for other in folder.glob(f"{family}*"):
            if not other.name.endswith(_version(module)):
                with contextlib.suppress(OSError):
                    other.unlink()
        return
    reason = f"compiled code cannot be kept in {_folders()[0]} ({failure and (failure.strerror or failure)})"
    say_not_kept(f"{reason}; NUMBA_CACHE_DIR can name another folder")


def load(code: bytes, types: tuple[str, ...]) -> Callable[..., Any]:
    """Return object code as a function, which releases the GIL, and returns 0; as ``in_turn`` it has the other one.

    Parameters
    ----------
    code
        Object code for this process.
    types
        Of the arguments.
    """
    import llvmlite.binding as llvm

    from tilework.common.kernels.cpu import FEATURES, NAME

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=NAME, features=FEATURES, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    kinds: dict[str, Any] = {"i": ctypes.c_ssize_t, "f": ctypes.c_double}
    arguments = [kinds.get(each, ctypes.py_object) for each in types]
    function: Any = ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(engine.get_function_address(ENTRY))
    in_turn = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_ssize_t, *arguments)
    function.in_turn = in_turn(engine.get_function_address(ENTRY_IN_TURN))
    return function  # type: ignore[no-any-return]


@functools.cache
def array_fields() -> tuple[int, int]:
    """Return where an array object holds its address and the address of its shape, in bytes from its own address.

    This is part of NumPy's binary interface.

    Raises
    ------
    NotImplementedError
        When this Python has them elsewhere.
    """
    word = ctypes.sizeof(ctypes.c_void_p)
    data, shape = object.__basicsize__, object.__basicsize__ + 2 * word
    array = np.zeros((3, 5), dtype=np.int16)

    def word_at(address: int) -> int:
        return ctypes.c_ssize_t.from_address(address).value

    address = word_at(id(array) + shape)
    if word_at(id(array) + data) != array.ctypes.data or (word_at(address), word_at(address + word)) != array.shape:
        msg = "arrays of this Python are laid out in another way than those of CPython"
        raise NotImplementedError(msg)
    return data, shape


def _folders() -> list[Path]:
    """Return where object code may be, in the order in which to look, and to write."""
    here = Path(__file__).parent
    # Two installations, with sources of their own, would remove each other's files all the time.
    place = Path("tilework", _digest(os.fsencode(here)).hex()[:8])
    if told := os.environ.get("NUMBA_CACHE_DIR"):
        return [told / place]
    home = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # there is no home
        home = home or str(Path.home() / ".cache")
    return [here / "__pycache__", *([home / place] if home else [])]


def _family(module: str, name: str, types: tuple[str, ...]) -> str:
    """Return how the names of a kernel's files begin, of whatever versions of its source."""
    return f"{module.rpartition('.')[2]}.{name}-{'.'.join(types)}-{_makers()}-"


@functools.cache
def _makers() -> str:
    """Return a name for all that object code depends on but the sources: other Pythons may share these."""
    from tilework.common.kernels.cpu import FEATURES, NAME

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba", "llvmlite")]
    return _digest(f"{NAME} {FEATURES} {versions} {array_fields()}".encode()).hex()[:8]


@functools.cache
def _version(module: str) -> str:
    """Return a name for the sources of a module's kernels, with which names of files end."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        msg = f"there is no module {module}"
        raise ModuleNotFoundError(msg)
    return _digest(digest_of_kernels() + Path(spec.origin).read_bytes()).hex()[:16] + ".o"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whoever else writes it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
