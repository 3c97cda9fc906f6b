"""Functions that correct arrays for the detector; see `tilework.io.corrections.detector`."""

from __future__ import annotations

from tilework.exceptions import CorrectError, RepairValueError
from tilework.io.corrections.detector import correct, correct_dot_masks
from tilework.io.corrections.repair import RepairDescriptor

__all__ = ["CorrectError", "RepairDescriptor", "RepairValueError", "correct", "correct_dot_masks"]
