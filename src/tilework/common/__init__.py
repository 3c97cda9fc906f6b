"""Shapes, slices, buffers, kernels, and the interfaces between the layers above."""

from tilework.common.shape import Shape
from tilework.common.slice import Slice, SliceUsageError

__all__ = ["Shape", "Slice", "SliceUsageError"]
