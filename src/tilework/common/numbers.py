"""What counts as a number, of Python or NumPy. NumPy is not imported: `tilework.api` needs these before it is.

What may also be an array without axes is tested by `tilework.common.math.is_real_scalar`.
"""

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
