"""Reusable memory for tiles that cannot be views of the data.

A generator of tiles takes one `Scratch` when it starts and gives it back when it ends. Each thread keeps a few of
them, so that a run does not ask the operating system for memory again and again, and two generators that are
interleaved in one thread never share one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scratch", "borrow_scratch"]

# Scratches that a thread keeps, and the most memory that a kept one may hold.
KEPT = 2
KEPT_BYTES = 64 * 1024**2


class Scratch:
    """Named pieces of memory that grow to what was asked for last."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialised array, at the beginning of the piece of that name; the piece's earlier arrays are overwritten."""
        needed = math.prod(shape) * dtype.itemsize
        piece = self._pieces.get(name)
        if piece is None or piece.nbytes < needed:
            self._pieces.pop(name, None)
            piece = self._pieces[name] = np.empty(needed, dtype=np.uint8)
        return piece[:needed].view(dtype).reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(piece.nbytes for piece in self._pieces.values())


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scratches: list[Scratch] = []


_kept = _Kept()


@contextmanager
def borrow_scratch() -> Iterator[Scratch]:
    """Lend a scratch of this thread."""
    scratch = _kept.scratches.pop() if _kept.scratches else Scratch()
    try:
        yield scratch
    finally:
        if scratch.nbytes <= KEPT_BYTES and len(_kept.scratches) < KEPT:
            _kept.scratches.append(scratch)
