"""Selecting a GPU for CuPy, which is imported only where there is one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["use_gpu"]


def use_gpu(device: int | None) -> AbstractContextManager[Any]:
    """Return a context manager in which CuPy uses a CUDA device.

    Parameters
    ----------
    device
        Number of the device; None selects nothing. Where CuPy cannot be used, nothing is selected either.
    """
    from tilework.utils.devices import has_cupy

    if device is None or not has_cupy():
        return nullcontext()
    import cupy

    selected: AbstractContextManager[Any] = cupy.cuda.Device(device)
    return selected
