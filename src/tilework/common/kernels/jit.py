"""The one decorator of all compiled kernels: typed, releases the GIL, cached on disk.

Only modules whose name ends in ``_numba`` use it, and those are imported inside functions, so that numba is loaded by
the first call that needs it and by nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["jit"]

P = ParamSpec("P")
R = TypeVar("R")

# What may be assumed of floating point numbers. NaN and infinities are data, so `nnan` and `ninf` are never among it.
_MATH: dict[str, set[str] | bool] = {
    "strict": False,
    "contract": {"contract"},
    "reorder": {"reassoc", "contract", "nsz", "arcp"},
}


@overload
def jit(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def jit(*, math: Literal["strict", "contract", "reorder"]) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def jit(
    function: Callable[P, R] | None = None, /, *, math: Literal["strict", "contract", "reorder"] = "strict"
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
    """
    import numba

    decorate = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH[math])
    if function is None:
        return decorate
    compiled: Callable[P, R] = decorate(function)
    return compiled
