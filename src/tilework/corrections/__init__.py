"""Corrections: of the detector's response (`CorrectionSet`, `detector`), and of coordinates (`coordinates`)."""

from __future__ import annotations

from tilework.corrections import coordinates, detector
from tilework.io.corrections import CorrectionSet

__all__ = ["CorrectionSet", "coordinates", "detector"]
