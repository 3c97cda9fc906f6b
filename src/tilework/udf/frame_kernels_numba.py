"""The compiled loop over the frames of a tile that calls a user's compiled function of one frame.

The loop gets that function as a pointer, so it depends on the types of the arguments alone and is kept on disk. A call
costs some 30 ns per frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
from numba import types
from numba.extending import overload

from tilework.common.kernels.jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["loop_for", "type_of"]

type_of: Callable[[Any], Any] = numba.typeof
"""The numba type of an object."""


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
def _loop(kernel: Any, flat: Any, stride: int, frames: int, shape: Any, arguments: Any, per_frame: Any) -> None:
    pixels = 1
    for n in shape:
        pixels *= n
    for i in range(frames):
        frame = flat[i * stride : i * stride + pixels].reshape(shape)
        kernel(frame, *entries(arguments, per_frame, i))


def loop_for(
    kernel: Any, flat: Any, shape: tuple[int, ...], arguments: tuple[Any, ...], per_frame: tuple[tuple[int, ...], ...]
) -> Callable[[Any, int, int, tuple[Any, ...]], None]:
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
        Takes such frames, their distance in elements, their number, and the arguments; works without the GIL.
    """
    frame = type_of(flat[: math.prod(shape)].reshape(shape))
    each = [type_of(a[0]) if one else type_of(a) for a, one in zip(arguments, per_frame, strict=True)]
    signature = types.void(frame, *each)
    kernel.compile(signature.args)
    loop_types = (
        types.FunctionType(signature),
        type_of(flat),
        types.intp,
        types.intp,
        *map(type_of, (shape, arguments, per_frame)),
    )
    loop: Any = _loop
    loop.compile(loop_types)
    entry = loop.get_overload(loop_types)

    def run(flat: Any, stride: int, frames: int, arguments: tuple[Any, ...]) -> None:
        entry(kernel, flat, stride, frames, shape, arguments, per_frame)

    return run
