"""Which functions take selected frames where they lie, instead of a copy of them in one piece.

To copy frames takes as long as to sum them. The kernels read them at any places, so what is built in and hands its tile
to a kernel gets `tilework.common.kernels.rows.PickedFrames`; somebody's own function always gets an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.udf import UDFMethod, kernel_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.udf.base import UDF
    from tilework.udf.run_plan import RunPlan

__all__ = ["take_picked_frames", "takes_picked_frames"]

F = TypeVar("F", bound="Callable[..., Any]")
_MARK = "takes_picked_frames"


def takes_picked_frames(process_tile: F) -> F:
    """Mark a `process_tile` that does not need an array; one that overrides it is not marked."""
    setattr(process_tile, _MARK, True)
    return process_tile


def take_picked_frames(udfs: Sequence[UDF], plan: RunPlan, backends: Sequence[str]) -> bool:
    """Return whether all functions of a run take selected frames where they lie, as they are stored.

    Parameters
    ----------
    udfs
        The functions.
    plan
        What was decided for them.
    backends
        Which kind of array each gets.
    """
    return (
        not plan.converts
        and all(backend in NUMPY_BACKENDS for backend in backends)
        # NumPy goes over copies of a few frames in the cache, and needs several passes.
        and all(planned.compiled and planned.method is UDFMethod.TILE for planned in plan.udfs)
        and all(_takes_picked_frames(udf) for udf in udfs)
    )


def _takes_picked_frames(udf: UDF) -> bool:
    process_tile = getattr(type(udf), "process_tile", None)
    return getattr(process_tile, _MARK, False) and kernel_of(udf, UDFMethod.TILE) is None
