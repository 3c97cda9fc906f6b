"""What counts as a number, of Python or NumPy."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["is_real", "is_whole"]


def is_real(value: Any) -> bool:
    """Return whether something is a real number, of Python or NumPy; whoever gives a bool means something else."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Return whether something is an integer, of Python or NumPy; whoever gives a bool means something else."""
    return isinstance(value, Integral) and not isinstance(value, bool)
