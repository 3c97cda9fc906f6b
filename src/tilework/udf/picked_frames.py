"""Which runs read selected frames where they lie, instead of copies of them in one piece.

What is built in and hands its tile to a kernel gets `tilework.common.kernels.picked_frames.PickedFrames`, and so does
the compiled loop that calls somebody's function of a frame. What is called from Python always gets an array: what is
converted or corrected for it is read where it lies, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.udf import UDFMethod, kernel_of
from tilework.io.convert import converts_in_one_pass
from tilework.io.corrections.detector import corrects_in_one_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from tilework.udf.base import UDF
    from tilework.udf.run_plan import RunPlan, UDFPlan

__all__ = ["reads_in_place", "takes_picked_frames"]

F = TypeVar("F", bound="Callable[..., Any]")
# No attribute of each, which `functools.wraps` would copy to what is wrapped around it.
_take_them: set[Callable[..., Any]] = set()


def takes_picked_frames(process_tile: F) -> F:
    """Mark a `process_tile` that does not need an array; one that overrides or wraps it is not marked."""
    _take_them.add(process_tile)
    return process_tile


def reads_in_place(udfs: Sequence[UDF], plan: RunPlan, backends: Sequence[str]) -> bool:
    """Return whether each function of a run takes selected frames where they lie, or what is made of them there.

    Parameters
    ----------
    udfs
        The functions.
    plan
        What was decided for them.
    backends
        Which kind of array each gets.
    """
    each = zip(udfs, plan.udfs, backends, strict=True)
    return all(
        backend in NUMPY_BACKENDS and _reads_in_place(udf, one, plan.stored_dtype, one.dtype_for(backend))
        for udf, one, backend in each
    )


def _reads_in_place(udf: UDF, plan: UDFPlan, stored: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if plan.corrects_tiles:
        return corrects_in_one_pass(stored, wanted)
    if wanted != stored:
        return converts_in_one_pass(stored, wanted)
    if not plan.compiled:
        # NumPy goes over copies of a few frames in the cache, as it needs several passes.
        return False
    if plan.method is UDFMethod.FRAME:
        return kernel_of(udf, plan.method) is not None
    # Of the object: it may have been replaced there.
    process_tile = getattr(getattr(udf, "process_tile", None), "__func__", None)
    is_taken = plan.method is UDFMethod.TILE and process_tile in _take_them
    return is_taken and kernel_of(udf, UDFMethod.TILE) is None
