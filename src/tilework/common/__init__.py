"""Shapes, slices, buffers, kernels, and the interfaces between the layers above."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilework.common.later import import_later

if TYPE_CHECKING:
    from tilework.common.shape import Shape
    from tilework.common.slice import Slice, SliceUsageError

# Slices need NumPy, which much of what is in here does not.
_PLACES = {"Shape": "shape", "Slice": "slice", "SliceUsageError": "slice"}

__all__ = ["Shape", "Slice", "SliceUsageError"]

if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, __name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
