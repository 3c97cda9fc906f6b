"""What people give for CPUs and GPUs, checked: how many, or which ones."""

from __future__ import annotations

import operator
import os
from typing import Any

from tilework.exceptions import ExecutorSpecException

__all__ = ["check_number", "device_ids"]

# Whoever asks for more mistyped. Each worker costs memory, pipes and a start; a machine that runs out of them is lost.
MOST_PER_CPU = 16
MOST_AT_LEAST = 256


def device_ids(name: str, given: Any) -> int | list[int]:
    """Return how many devices are wanted, or the numbers of those, as plain integers.

    Parameters
    ----------
    name
        What the argument is called, for messages.
    given
        An integer, NumPy's included, or an iterable of them.

    Raises
    ------
    ExecutorSpecException
        When it is neither, a number is negative, or there are too many for a machine.

    Examples
    --------
    >>> device_ids("cpus", 2), device_ids("cpus", range(2))
    (2, [0, 1])
    """
    ids: int | list[int]
    if hasattr(given, "__len__"):
        check_number(name, len(given))
    try:
        if isinstance(given, str | bytes):
            raise TypeError
        ids = [operator.index(each) for each in given] if hasattr(given, "__iter__") else operator.index(given)
    except TypeError:
        msg = f"{name} must be an integer, or a list of them such as {name}=[0, 1], not {given!r}"
        raise ExecutorSpecException(msg) from None
    if min([ids] if isinstance(ids, int) else ids, default=0) < 0:
        msg = f"{name} must not be negative: {given!r}"
        raise ExecutorSpecException(msg)
    check_number(name, ids if isinstance(ids, int) else len(ids))
    return ids


def check_number(name: str, n: int) -> None:
    """See that a machine can have so many workers, before any is started.

    Parameters
    ----------
    name
        What they were asked for with, for messages.
    n
        How many.

    Raises
    ------
    ExecutorSpecException
        When they are far more than there are CPUs.
    """
    cpus = os.cpu_count() or 1
    most = max(MOST_AT_LEAST, MOST_PER_CPU * cpus)
    if n > most:
        msg = (
            f"{name} asks for {n} workers, which is more than this machine with {cpus} CPUs can do anything with: the "
            f"most is {most}, and best is one for each CPU"
        )
        raise ExecutorSpecException(msg)
