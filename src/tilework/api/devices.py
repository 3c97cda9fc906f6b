"""Which devices an executor with a worker for each gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilework.exceptions import ExecutorSpecException

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["choose_devices"]


def choose_devices(
    cpus: int | Iterable[int] | None, gpus: int | Iterable[int] | None
) -> tuple[int | list[int], int | list[int], bool]:
    """Return the CPUs, the CUDA devices, and whether CuPy can use them: what was asked for, and all of what was not.

    Parameters
    ----------
    cpus, gpus
        Numbers of devices, or how many; None: all that this process may use.

    Raises
    ------
    ExecutorSpecException
        When a GPU was asked for and there is none, when there would be no worker, or when something else is given than
        numbers, from 0 on.
    """
    from tilework.utils.device_ids import device_ids
    from tilework.utils.devices import detect

    found = detect()
    chosen = found["cpus"] if cpus is None else device_ids("cpus", cpus)
    cudas = found["cudas"] if gpus is None else device_ids("gpus", gpus)
    if cudas and not found["cudas"]:
        msg = f"gpus={cudas!r} asks for a GPU, but no CUDA device was found: leave it out, or use gpus=0"
        raise ExecutorSpecException(msg)
    if not chosen and not cudas:
        msg = f"an executor needs at least one worker, got cpus={cpus!r} and gpus={gpus!r}"
        raise ExecutorSpecException(msg)
    return chosen, cudas, found["has_cupy"]
