"""The compiled loop over the frames of a tile that calls a user's compiled function of one frame; and that of a tile.

The loop gets that function as a pointer, so it depends on the types of the arguments alone and is kept on disk. A call
costs some 30 ns per frame. A function of a tile is called in the same way, so that the GIL is released however the user
has compiled it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types
from numba.core.errors import NumbaError, UnsupportedBytecodeError
from numba.extending import overload

from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import even_places

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CANNOT_COMPILE", "NumbaError", "ReturnsSomethingError", "call_for", "is_open", "loop_for", "type_of"]

CANNOT_COMPILE = (NumbaError, UnsupportedBytecodeError, NotImplementedError)
"""What numba raises for functions that it cannot compile."""

type_of: Callable[[Any], Any] = numba.typeof
"""The numba type of an object."""
type_of(np.empty(0))  # which imports more, the first time: now, while those who fork wait


class ReturnsSomethingError(TypeError):
    """A function returns a value."""


def is_open(dispatcher: Any) -> bool:
    """Return whether a function compiles for any types: it does not when it was decorated with a signature."""
    return bool(getattr(dispatcher, "_can_compile", True))


def entries(arguments: Any, per_frame: Any, i: int) -> Any:
    """Return the arguments for frame `i`: entry `i` of those for which `per_frame` has a 1-tuple, the others whole."""
    raise NotImplementedError  # in compiled code only


# Not strict: numba would compare annotations, too.
@overload(entries, strict=False)
def _entries(arguments: Any, per_frame: Any, i: Any) -> Any:  # noqa: ARG001
    if len(arguments) == 0:
        return lambda arguments, per_frame, i: ()  # noqa: ARG005
    if len(per_frame[0]):
        return lambda arguments, per_frame, i: (arguments[0][i], *entries(arguments[1:], per_frame[1:], i))
    return lambda arguments, per_frame, i: (arguments[0], *entries(arguments[1:], per_frame[1:], i))


@jit
def _loop(kernel: Any, flat: Any, places: Any, frames: int, shape: Any, arguments: Any, per_frame: Any) -> None:
    pixels = 1
    for n in shape:
        pixels *= n
    for i in range(frames):
        frame = flat[places[i] : places[i] + pixels].reshape(shape)
        kernel(frame, *entries(arguments, per_frame, i))


@jit
def _call(kernel: Any, tile: Any, arguments: Any) -> None:
    kernel(tile, *arguments)


def loop_for(
    kernel: Any, flat: Any, shape: tuple[int, ...], arguments: tuple[Any, ...], per_frame: tuple[tuple[int, ...], ...]
) -> Callable[[Any, Any, int, tuple[Any, ...]], None]:
    """Compile a function of one frame, and the loop over frames, for the types of these arguments.

    Parameters
    ----------
    kernel
        The function, as a numba dispatcher.
    flat
        Frames, one-dimensional and read-only.
    shape
        Of a frame.
    arguments
        What the function gets after the frame.
    per_frame
        For each argument ``(1,)`` when it has one entry for each frame, ``()`` when it is the same for all.

    Returns
    -------
    callable
        Takes such frames, the place of each, their number, and the arguments; works without the GIL.
    """
    frame = type_of(flat[: math.prod(shape)].reshape(shape))
    each = [type_of(a[0]) if one else type_of(a) for a, one in zip(arguments, per_frame, strict=True)]
    signature = _compile(kernel, (frame, *each))
    entry = _entry(_loop, signature, *map(type_of, (flat, even_places(1, 1), 1, shape, arguments, per_frame)))

    def run(flat: Any, places: Any, frames: int, arguments: tuple[Any, ...]) -> None:
        entry(kernel, flat, places, frames, shape, arguments, per_frame)

    return run


def call_for(kernel: Any, tile: Any, arguments: tuple[Any, ...]) -> Callable[[Any, tuple[Any, ...]], None]:
    """Compile a function of a tile for the types of these arguments.

    Parameters
    ----------
    kernel
        The function, as a numba dispatcher.
    tile
        Frames, or parts of frames, C-contiguous and read-only.
    arguments
        What the function gets after the tile.

    Returns
    -------
    callable
        Takes such a tile and the arguments; works without the GIL.
    """
    signature = _compile(kernel, (type_of(tile), *map(type_of, arguments)))
    entry = _entry(_call, signature, *map(type_of, (tile, arguments)))

    def run(tile: Any, arguments: tuple[Any, ...]) -> None:
        entry(kernel, tile, arguments)

    return run


def _compile(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    """Compile a user's function for types of arguments, and return its signature."""
    kernel.compile(arguments)
    if kernel.overloads[arguments].signature.return_type != types.none:
        raise ReturnsSomethingError
    return types.void(*arguments)


def _entry(function: Any, signature: Any, *arguments: Any) -> Any:
    """Compile a function whose first argument is a pointer to one of that signature."""
    all_types = (types.FunctionType(signature), *arguments)
    function.compile(all_types)
    return function.get_overload(all_types)
