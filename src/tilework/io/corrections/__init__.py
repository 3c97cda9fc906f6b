"""What a detector does to an image, and how that is undone: dark frame, gain map, excluded pixels."""

from __future__ import annotations

from tilework.io.corrections.corrset import CorrectionSet
from tilework.io.corrections.detector import correct, correct_dot_masks
from tilework.io.corrections.repair import RepairDescriptor

__all__ = ["CorrectionSet", "RepairDescriptor", "correct", "correct_dot_masks"]
