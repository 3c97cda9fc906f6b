"""Reusable memory for tiles that cannot be views of the data.

A generator of tiles takes one `Scratch` when it starts and gives it back when it ends. Each thread keeps a few of
them, so that a run does not ask the operating system for memory again and again, and two generators that are
interleaved in one thread never share one.

Functions of users may keep a frame, or a part of one, in a result or in their task data, and it must stay what it is.
So nothing is written where somebody still sees it: arrays hold the memory that they are views of, and whoever wants to
write looks whether others do. That needs everybody here to let go of a tile before the next one is made.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scratch", "give_back", "holders", "take_scratch"]

# Scratches that a thread keeps, and the most memory that a kept one may hold.
KEPT = 2
KEPT_BYTES = 64 * 1024**2


class Scratch:
    """Named pieces of memory that grow to what was asked for last; one that is seen by somebody is left to him."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialised array in the piece of that name; in a new piece while others see the one before."""
        needed, pieces = math.prod(shape) * dtype.itemsize, self._pieces
        if name not in pieces or pieces[name].nbytes < needed or sys.getrefcount(pieces[name]) != _ALONE:
            pieces.pop(name, None)
            pieces[name] = np.empty(needed, dtype=np.uint8)
        return pieces[name][:needed].view(dtype).reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(piece.nbytes for piece in self._pieces.values())


_probe = {"": np.empty(0, dtype=np.uint8)}
# What `sys.getrefcount` says of a piece that nobody sees: the reference of the dictionary, and that of the call.
_ALONE = sys.getrefcount(_probe[""])


def holders(array: NDArray[Any]) -> int:
    """Return a number that changes when somebody begins or ceases to see the memory of an array of `Scratch.get`."""
    return sys.getrefcount(array.base)


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scratches: list[Scratch] = []


_kept = _Kept()


def take_scratch() -> Scratch:
    """Return a scratch of this thread; it is the caller's until `give_back`."""
    return _kept.scratches.pop() if _kept.scratches else Scratch()


def give_back(scratch: Scratch) -> None:
    """Keep a scratch for the next one in this thread who needs it, unless it is too large to be kept."""
    if len(_kept.scratches) < KEPT and scratch.nbytes <= KEPT_BYTES:
        _kept.scratches.append(scratch)
