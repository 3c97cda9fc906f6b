"""Arrays that functions may write to, for those that insist on it.

Frames and tiles are read-only, since other functions see them, and so are parameters that came to a worker through
shared memory. Compiled functions may refuse that without any intention to write: of numba for given types, of Cython
for a memoryview that is not ``const``, of C that asks for a writable buffer. Then the task is done again with copies of
its own, and it is checked that frames were not changed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers import AuxBufferWrapper
from tilework.exceptions import UDFException
from tilework.udf.checks import CHANGES_INPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.io.dataset.tile import DataTile
    from tilework.udf.steps import Array, Step

__all__ = ["on_own_copies", "with_own_arrays"]


def with_own_arrays(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of a UDF whose arrays are copies."""
    return {k: copy.deepcopy(v) if isinstance(v, np.ndarray | AuxBufferWrapper) else v for k, v in kwargs.items()}


def on_own_copies(step: Step, label: str) -> Step:
    """Return a step that gets a copy of each tile.

    Parameters
    ----------
    step
        The step.
    label
        What it calls, for messages.

    Raises
    ------
    UDFException
        From the step, when the copy was changed.
    """

    def step_on_copy(tile: DataTile, data: Array) -> None:
        own = data.copy()
        step(tile, own)
        if own.tobytes() != data.tobytes():  # not ==, for NaN is not equal to itself
            msg = f"{label} {CHANGES_INPUT}"
            raise UDFException(msg)

    return step_on_copy
