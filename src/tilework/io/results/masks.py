"""Which positions of a scan, as text that JSON can hold."""

from __future__ import annotations

import base64
import zlib
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["pack_mask", "selected_of", "unpack_mask"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


def pack_mask(mask: BoolArray) -> str:
    """Return a mask of any shape as text: one bit per element, in C order, compressed by zlib, in base64.

    Examples
    --------
    >>> text = pack_mask(np.eye(3, dtype=bool))
    >>> unpack_mask(text, (3, 3)).astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 0, 1]])
    """
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")


def unpack_mask(text: str, shape: Sequence[int]) -> BoolArray:
    """Return the mask of this shape that `pack_mask` made a text of.

    Raises
    ------
    ValueError
        When it is no such text, or too short for the shape.
    """
    size = prod(shape)
    try:
        packed = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
        return np.unpackbits(packed, count=size).astype(bool).reshape(tuple(shape))
    except (zlib.error, ValueError) as error:
        msg = f"the text is no packed mask of shape {tuple(shape)}: {error}"
        raise ValueError(msg) from error


def selected_of(description: Mapping[str, Any] | None) -> BoolArray | None:
    """Return the mask that a description with ``of``, its shape, and ``packed`` holds; None when it holds none."""
    if not description or "packed" not in description:
        return None
    return unpack_mask(description["packed"], description["of"])
