"""What the machine offers, data made from formulas, and coordinates of lattices in frames.

The functions of coordinates are imported when they are asked for: what the machine offers can be found out before NumPy
is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilework.utils.lattice import (
        calc_coords,
        frame_peaks,
        make_cartesian,
        make_polar,
        regularize_indices,
        rotate_deg,
        rotate_precalc,
        rotate_rad,
        within_frame,
    )

__all__ = [
    "calc_coords",
    "frame_peaks",
    "make_cartesian",
    "make_polar",
    "regularize_indices",
    "rotate_deg",
    "rotate_precalc",
    "rotate_rad",
    "within_frame",
]


if not TYPE_CHECKING:  # for type checkers, only what is imported above exists

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from tilework.utils import lattice

            return getattr(lattice, name)
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
