"""The one decorator of all compiled kernels: typed, releases the GIL, cached on disk.

Only modules whose name ends in ``_numba`` use it, and those are imported inside functions, so that numba is loaded by
the first call that needs it and by nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from tilework.common.kernels.cache import digest_of_kernels, mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["WITHOUT_WRAPPERS", "jit", "jit_cached", "no_search_for_garbage", "say_not_kept", "why_not_kept"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Why what this process compiled is not kept; said already.
_not_kept: list[str] = []

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For functions that Python does not call: wrappers for it take as long to compile as a function."""

# What may be assumed of floating point numbers. NaN and infinities are data, so `nnan` and `ninf` are never among it.
_MATH: dict[str, set[str] | bool] = {
    "strict": False,
    "contract": {"contract"},
    "reorder": {"reassoc", "contract", "nsz", "arcp"},
}


@overload
def jit(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def jit(
    *, math: Literal["strict", "contract", "reorder"] = "strict", inner: bool = False, part: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def jit(
    function: Callable[P, R] | None = None,
    /,
    *,
    math: Literal["strict", "contract", "reorder"] = "strict",
    inner: bool = False,
    part: bool = False,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function for the types it is called with, on the first call; without the GIL, cached on disk.

    Division follows IEEE (``x / 0`` is an infinity or NaN, not an exception), and an index must be within its array:
    it is not checked.

    Parameters
    ----------
    function
        The function, when the decorator is used without arguments.
    math
        ``"strict"``: every operation as written, bits are the same on every machine. ``"contract"``: ``a * b + c`` may
        be rounded once. ``"reorder"``: also, a sum may be taken in another order, which vectorises reductions; the
        order depends on the kernel and the kind of CPU only. NaN and infinities propagate in all of them.
    inner
        Only compiled functions call it, never Python: what Python would need, and a place on disk, are left out.
    part
        The function becomes a part of each kernel that calls it, and that kernel's `math` holds for it, instead of
        being compiled by itself before. It is called with positional arguments, each written out, and as an `inner`
        one by compiled functions alone.
    """
    options: dict[str, Any] = {"fastmath": _MATH[math]}
    if part:
        options["inline"] = "always"

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inner or part:
            import numba

            compiled: Callable[P, R] = numba.njit(**_OPTIONS, **WITHOUT_WRAPPERS, **options)(function)
            return compiled
        return jit_cached(function, digest=digest_of_kernels(), **options)

    return decorate if function is None else decorate(function)


def jit_cached(function: Callable[P, R], *, digest: bytes, **options: Any) -> Callable[P, R]:
    """As `jit`, for a function with another digest of what it calls; see `tilework.common.kernels.cache`."""
    import numba

    options = {**_OPTIONS, **options}
    try:
        compiled: Callable[P, R] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the source nor in the home folder
        say_not_kept("there is no folder to keep compiled code in; NUMBA_CACHE_DIR can name one that can be written")
    else:
        if mark(compiled, digest):
            _go_on_when_not_kept(compiled)
            return compiled
        say_not_kept("this version of numba keeps compiled code in another way")
    uncached: Callable[P, R] = numba.njit(**options)(function)
    return uncached


@contextlib.contextmanager
def no_search_for_garbage() -> Iterator[None]:
    """While something is compiled: of the compiler's many objects most are needed to its end; to look takes a sixth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _go_on_when_not_kept(dispatcher: Any) -> None:
    """Let nobody's run fail because compiled code cannot be written, such as to a home folder that is full."""
    cache = getattr(dispatcher, "_cache", None)
    if cache is None:  # NUMBA_DISABLE_JIT
        return
    save = cache.save_overload

    def save_overload(*args: Any) -> None:
        try:
            save(*args)
        except OSError as error:
            reason = f"compiled code cannot be kept in {cache.cache_path} ({error.strerror or error})"
            say_not_kept(f"{reason}; NUMBA_CACHE_DIR can name another folder")

    cache.save_overload = save_overload


def say_not_kept(reason: str) -> None:
    """Log why what is compiled is not kept: once, not for each function."""
    if reason not in _not_kept:
        _not_kept.append(reason)
        logger.warning("%s: functions are compiled anew in each process, which takes some seconds", reason)


def why_not_kept() -> str | None:
    """Return why something that this process compiled is not kept on disk, and what can be done; None: all is."""
    return _not_kept[0] if _not_kept else None
