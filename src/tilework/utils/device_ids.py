"""What people give for CPUs and GPUs, checked: how many, or which ones."""

from __future__ import annotations

import operator
from typing import Any

from tilework.exceptions import ExecutorSpecException

__all__ = ["device_ids"]


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
        When it is neither, or a number is negative.

    Examples
    --------
    >>> device_ids("cpus", 2), device_ids("cpus", range(2))
    (2, [0, 1])
    """
    ids: int | list[int]
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
    return ids
