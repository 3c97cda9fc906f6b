"""Functions of one frame that compiled code calls for all frames of a tile: `UDF.get_frame_kernel`.

In a large run the function is compiled by numba, once per process, and one call takes it over the frames of a tile
without the interpreter and its lock, so threads compute side by side. What is compiled of a function in a file is kept
on disk, until that file changes, or that of another function which it calls. In a small run, where a compiler would
take longer than the work, Python calls the same function frame by frame.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers import AuxBufferWrapper
from tilework.common.kernels.rows import as_rows
from tilework.exceptions import UDFException

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.io.dataset.base import DataTile
    from tilework.udf.base import UDF

__all__ = ["make_kernel_step"]

Array = np.ndarray[Any, np.dtype[Any]]


class _Argument:
    """One argument of the function: an array with an entry per frame of the partition, or something for all frames."""

    __slots__ = ("is_per_frame", "value")

    def __init__(self, value: Any, is_per_frame: bool) -> None:
        if is_per_frame and value.ndim == 1:
            # So that the entry of a frame is an array of shape (1,), as `self.results.name` is in `process_frame`.
            value = value[:, np.newaxis]
        self.value = value
        self.is_per_frame = is_per_frame

    def between(self, start: int, stop: int) -> Any:
        return self.value[start:stop] if self.is_per_frame else self.value


def make_kernel_step(udf: UDF, kernel: Callable[..., None], origin: int) -> Callable[[DataTile, Array], None]:
    """Return the function that takes the kernel of `udf` over one tile of a partition.

    Parameters
    ----------
    udf
        The UDF, prepared for the partition.
    kernel
        What its `get_frame_kernel` returned.
    origin
        Position of the first frame of the partition.

    Raises
    ------
    UDFException
        When the function asks for something that is no result and no parameter.
    """
    function = getattr(kernel, "py_func", kernel)
    arguments = [_argument(udf, function, name) for name in list(inspect.signature(function).parameters)[1:]]
    work = _Compiled(type(udf).__name__, kernel, arguments) if udf.meta.compiled else _Interpreted(function, arguments)

    def step(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        udf.meta.set_position(start, start + len(data))
        work(data, start - origin)

    return step


def _argument(udf: UDF, function: Callable[..., None], name: str) -> _Argument:
    """Return what the parameter `name` of the function stands for."""
    results, params = udf.results.as_dict(), udf.params.as_dict()
    given: Any
    if name in results and results[name].has_data():
        given = results[name]
        return _Argument(given.raw_data, given.kind == "nav")
    if name in params:
        given = params[name]
        if isinstance(given, AuxBufferWrapper):
            return _Argument(given.raw_data, given.kind == "nav")
        return _Argument(given, is_per_frame=False)
    have = [*(f"result {n}" for n, b in results.items() if b.has_data()), *(f"parameter {n}" for n in params)]
    msg = (
        f"{type(udf).__name__}: the frame kernel {function.__name__} has a parameter {name!r}, which is no result and "
        f"no parameter of the UDF; there are: {', '.join(have) or 'none'}. The first parameter is the frame, others "
        "are found by their names"
    )
    raise UDFException(msg)


class _Interpreted:
    """Python calls the function for each frame."""

    def __init__(self, function: Callable[..., None], arguments: list[_Argument]) -> None:
        self._function = function
        self._arguments = arguments

    def __call__(self, data: Array, first: int) -> None:
        for i, frame in enumerate(data, first):
            self._function(frame, *(a.value[i] if a.is_per_frame else a.value for a in self._arguments))


class _Compiled:
    """Compiled code calls the compiled function for each frame."""

    def __init__(self, udf_name: str, kernel: Callable[..., None], arguments: list[_Argument]) -> None:
        self._udf_name = udf_name
        self._kernel = kernel
        self._arguments = arguments
        self._per_frame = tuple((1,) if a.is_per_frame else () for a in arguments)
        self._loop: Any = None

    def __call__(self, data: Array, first: int) -> None:
        rows = as_rows(data)
        flat = rows.flat.view(data.dtype)
        stride = rows.stride * rows.flat.itemsize // data.itemsize
        arguments = tuple(a.between(first, first + len(data)) for a in self._arguments)
        if self._loop is None:
            self._loop = self._compile(flat, data.shape[1:], arguments)
        self._loop(flat, stride, len(data), arguments)

    def _compile(self, flat: Array, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> Any:
        from numba.core.errors import NumbaError, UnsupportedBytecodeError

        try:
            return _compiled.get(self._kernel, flat, shape, arguments, self._per_frame)
        except (NumbaError, UnsupportedBytecodeError) as e:
            name = getattr(self._kernel, "__name__", repr(self._kernel))
            msg = (
                f"{self._udf_name}: the frame kernel {name} cannot be compiled by numba for frames of {flat.dtype}; "
                f"use only what numba knows, or implement process_frame instead. {e}"
            )
            raise UDFException(msg) from e


class _CompiledLoops:
    """What this process has compiled, by function and types of arguments."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dispatchers: dict[tuple[bytes, bytes], Any] = {}
        self._loops: dict[Any, Any] = {}

    def get(
        self,
        kernel: Any,
        flat: Array,
        shape: tuple[int, ...],
        arguments: tuple[Any, ...],
        per_frame: tuple[tuple[int, ...], ...],
    ) -> Any:
        """Return the loop for a function and such arguments."""
        from tilework.udf.frame_kernels_numba import loop_for, type_of

        with self._lock:
            dispatcher = self._dispatcher(kernel)
            key = (dispatcher, shape, type_of(flat), type_of(arguments), per_frame)
            if key not in self._loops:
                self._loops[key] = loop_for(dispatcher, flat, shape, arguments, per_frame)
            return self._loops[key]

    def _dispatcher(self, kernel: Any) -> Any:
        if hasattr(kernel, "py_func"):
            return kernel
        import cloudpickle

        from tilework.common.kernels.cache import Called

        # A function that was sent here by value is a new object in every task; one of a module that was loaded again
        # has the same name.
        called = Called(kernel)
        content = (cloudpickle.dumps(kernel), called.fingerprint)
        if content not in self._dispatchers:
            self._dispatchers[content] = _jit(kernel, called.digest())
        return self._dispatchers[content]


def _jit(function: Callable[..., None], digest: bytes | None) -> Any:
    import numba

    from tilework.common.kernels.jit import jit_cached

    if digest is not None:
        # There may be no place for compiled code.
        with contextlib.suppress(RuntimeError):
            return jit_cached(function, digest=digest)
    return numba.njit(nogil=True, error_model="numpy")(function)


_compiled = _CompiledLoops()
