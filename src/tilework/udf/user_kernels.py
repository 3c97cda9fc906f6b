"""Functions of a frame or of a tile that compiled code calls: `UDF.get_frame_kernel` and `UDF.get_tile_kernel`.

In a large run the function is compiled by numba, once per process, and one call takes it over a tile without the
interpreter and its lock, so threads compute side by side. What is compiled of a function in a file is kept on disk,
until that file changes, or that of another function which it calls. In a small run, where a compiler would take longer
than the work, Python calls the same function.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers import BufferWrapper
from tilework.common.interrupts import interrupts_later
from tilework.common.kernels.kernel import loaded
from tilework.common.kernels.rows import as_rows
from tilework.common.udf import UDFMethod
from tilework.exceptions import UDFException
from tilework.udf.checks import CHANGES_INPUT
from tilework.udf.kernel_arguments import find_arguments, kernel_label, plain_function

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from tilework.common.kernels.picked_frames import PickedFrames
    from tilework.io.dataset.base import DataTile
    from tilework.udf.base import UDF

__all__ = ["make_kernel_step"]

Array = np.ndarray[Any, np.dtype[Any]]
Arguments = tuple[Any, ...]


def make_kernel_step(
    udf: UDF, kernel: Callable[..., None], method: UDFMethod, origin: int, *, is_full_sig: bool, checked: bool
) -> Callable[[DataTile, Array], None]:
    """Return the function that takes a kernel of `udf` over one tile of a partition.

    Parameters
    ----------
    udf
        The UDF, prepared for the partition.
    kernel
        What its `get_frame_kernel` or `get_tile_kernel` returned.
    method
        Whether it is a function of a frame or of a tile.
    origin
        Position of the first frame of the partition.
    is_full_sig
        Whether tiles have whole frames.
    checked
        Whether compiled code looks at every index.

    Raises
    ------
    UDFException
        When the function asks for something that there is not.
    """
    by_frame = method is UDFMethod.FRAME
    given = [
        _Argument(value, by_frame=by_frame, is_full_sig=is_full_sig) for value in find_arguments(udf, kernel, method)
    ]
    per_frame = tuple((1,) if by_frame and a.is_nav else () for a in given)
    label = f"{type(udf).__name__}: {kernel_label(kernel, method)}"
    work: Callable[[Any, Arguments], None]
    if not udf.meta.compiled:
        work = _interpreted(label, plain_function(kernel), per_frame if by_frame else None)
    else:
        compiled = _CompiledKernel(label, kernel, checked)
        work = _frames_compiled(compiled, per_frame) if by_frame else _tile_compiled(compiled)

    def step(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        stop = start + len(data)
        udf.meta.set_position(start, stop, tile.scheme_idx)
        work(data, tuple(a.for_tile(tile, start - origin, stop - origin) for a in given))

    return step


class _Argument:
    """One argument of the function: of kind nav, with an entry per frame of the partition, or something for all."""

    __slots__ = ("_sig", "_value", "is_nav")

    def __init__(self, value: Any, *, by_frame: bool, is_full_sig: bool) -> None:
        kind = value.kind if isinstance(value, BufferWrapper) else None
        self.is_nav = kind == "nav"
        self._sig = value if kind == "sig" and not is_full_sig else None
        self._value = value if kind is None else value.raw_data
        if by_frame and self.is_nav and self._value.ndim == 1:
            # So that the entry of a frame is an array of shape (1,), as `self.results.name` is in `process_frame`.
            self._value = self._value[:, np.newaxis]

    def for_tile(self, tile: DataTile, start: int, stop: int) -> Any:
        """Return what the function gets for a tile; for functions of a frame, nav arrays of all its frames."""
        if self._sig is not None:
            return self._sig.get_contiguous_view_for_tile(None, tile)
        return self._value[start:stop] if self.is_nav else self._value


# -- in Python


def _interpreted(
    label: str, function: Callable[..., Any], per_frame: tuple[tuple[int, ...], ...] | None
) -> Callable[[Array, Arguments], None]:
    def tile(data: Array, arguments: Arguments) -> None:
        if function(data, *arguments) is not None:
            raise _returns(label)

    def frames(data: Array, arguments: Arguments) -> None:
        assert per_frame is not None
        for i, frame in enumerate(data):
            entries = (a[i] if one else a for a, one in zip(arguments, per_frame, strict=True))
            if function(frame, *entries) is not None:
                raise _returns(label)

    return tile if per_frame is None else frames


def _returns(label: str) -> UDFException:
    return UDFException(f"{label} returns something, which nobody would get: write into its results instead")


# -- compiled


def _frames_compiled(
    kernel: _CompiledKernel, per_frame: tuple[tuple[int, ...], ...]
) -> Callable[[Array | PickedFrames, Arguments], None]:
    loop: Any = None

    def work(data: Array | PickedFrames, arguments: Arguments) -> None:
        nonlocal loop
        rows = as_rows(data)
        flat = rows.flat.view(data.dtype)
        places = rows.places // 2 if data.dtype.kind == "c" else rows.places  # to the rows, complex pixels are two
        if loop is None:  # in a partition, types stay what they are
            loop = kernel.over_frames(flat, data.shape[1:], arguments, per_frame)
        loop(flat, places, len(data), arguments)

    return work


def _tile_compiled(kernel: _CompiledKernel) -> Callable[[Array, Arguments], None]:
    def work(data: Array, arguments: Arguments) -> None:
        # One type for all tiles. Only where there are headers between frames this is a copy.
        tile = np.require(data, requirements=("C", "A")).view()
        tile.flags.writeable = False
        kernel.over_tile(tile, arguments)(tile, arguments)

    return work


class _CompiledKernel:
    """A kernel as compiled code, for the types of arguments that come."""

    def __init__(self, label: str, kernel: Callable[..., None], checked: bool) -> None:
        self._label = label
        self._kernel = kernel
        self._checked = checked
        self._dispatcher: Any = None

    def over_frames(
        self, flat: Array, shape: tuple[int, ...], arguments: Arguments, per_frame: tuple[tuple[int, ...], ...]
    ) -> Any:
        """Return the loop over such frames; see `tilework.udf.user_kernels_numba.loop_for`."""
        numba = _numba_side()
        key = shape, numba.type_of(flat), numba.type_of(arguments), per_frame
        return self._compiled(flat.dtype, key, lambda d: numba.loop_for(d, flat, shape, arguments, per_frame))

    def over_tile(self, tile: Array, arguments: Arguments) -> Any:
        """Return what calls the kernel for such tiles; see `tilework.udf.user_kernels_numba.call_for`."""
        numba = _numba_side()
        key = numba.type_of(tile), numba.type_of(arguments)
        return self._compiled(tile.dtype, key, lambda d: numba.call_for(d, tile, arguments))

    def _compiled(self, dtype: np.dtype[Any], key: Hashable, make: Callable[[Any], Any]) -> Any:
        numba = _numba_side()
        try:
            if self._dispatcher is None:
                self._dispatcher = _compiled.dispatcher(self._kernel, checked=self._checked)
            return _compiled.get(self._dispatcher, key, make)
        except numba.ReturnsSomethingError as e:
            raise _returns(self._label) from e
        except numba.CANNOT_COMPILE as e:
            if "Cannot modify readonly array" in str(e):
                msg = f"{self._label} {CHANGES_INPUT}"
            else:
                msg = (
                    f"{self._label} cannot be compiled by numba for data of {dtype}; use only what numba knows, or "
                    f"implement process_frame or process_tile instead. {e}"
                )
            raise UDFException(msg) from e


@functools.cache
def _numba_side() -> Any:
    """Return `user_kernels_numba`; who forks waits while it is imported."""
    return loaded("tilework.udf.user_kernels_numba")


class _CompiledKernels:
    """What this process has compiled, by function and types of arguments."""

    def __init__(self) -> None:
        # Who forks waits for the compiler, as for kernels: what it had locked would stay locked in the child.
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            release = self._lock.release
            os.register_at_fork(before=self._lock.acquire, after_in_parent=release, after_in_child=release)
        self._dispatchers: dict[Hashable, Any] = {}
        self._entries: dict[Hashable, Any] = {}

    def get(self, dispatcher: Any, key: Hashable, make: Callable[[Any], Any]) -> Any:
        """Return what `make` makes of a dispatcher, once for each `key`: the types of the arguments."""
        with self._lock:
            if (dispatcher, key) not in self._entries:
                from tilework.common.kernels.jit import no_search_for_garbage

                with interrupts_later(), no_search_for_garbage():
                    self._entries[dispatcher, key] = make(dispatcher)
            return self._entries[dispatcher, key]

    def dispatcher(self, kernel: Any, *, checked: bool) -> Any:
        """Return a function as one of numba, which compiles it for whatever types it gets.

        Parameters
        ----------
        kernel
            The function; one that is decorated already keeps its options.
        checked
            Whether it looks at every index.
        """
        is_decorated = hasattr(kernel, "py_func")
        if is_decorated and _numba_side().is_open(kernel) and not checked:
            return kernel
        with self._lock:
            if is_decorated:
                key: Hashable = (kernel, checked)
                if key not in self._dispatchers:
                    self._dispatchers[key] = _jit_again(kernel, checked)
                return self._dispatchers[key]
            import cloudpickle

            from tilework.common.kernels.cache import Called

            # A function that was sent here by value is a new object in every task; one of a module that was loaded
            # again has the same name.
            called = Called(kernel)
            key = (cloudpickle.dumps(kernel), called.fingerprint, checked)
            if key not in self._dispatchers:
                self._dispatchers[key] = _jit(kernel, None if checked else called.digest(), checked)
            return self._dispatchers[key]


def _jit(function: Callable[..., None], digest: bytes | None, checked: bool) -> Any:
    import numba

    from tilework.common.kernels.jit import jit_cached

    if digest is not None:
        # There may be no place for compiled code.
        with contextlib.suppress(RuntimeError):
            return jit_cached(function, digest=digest)
    return numba.njit(nogil=True, error_model="numpy", boundscheck=checked)(function)


def _jit_again(kernel: Any, checked: bool) -> Any:
    """Return a user's compiled function with its options, but for any types, and with a look at every index."""
    import numba

    options = {**kernel.targetoptions, **({"boundscheck": True} if checked else {})}
    return numba.jit(**options)(kernel.py_func)


_compiled = _CompiledKernels()
