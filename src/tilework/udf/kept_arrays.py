"""Functions as they are now, for a run that is computed later: arrays that somebody can change meanwhile are copied.

What nobody can write to is shared, since it may be large; so is all that is no NumPy array, such as what a mask factory
closes over.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers import AuxBufferWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.udf.base import UDF

__all__ = ["kept"]

Copies = dict[int, tuple[Any, Any]]
"""Values with their copies, by the id of the value, which nothing else can have while the value is here."""


def kept(udfs: Iterable[UDF]) -> list[UDF]:
    """Return copies of UDFs that keep their parameters and other attributes, whatever becomes of the originals.

    Arrays are copied, also those in auxiliary data, lists, tuples and dicts; one that is in several places, once.

    Parameters
    ----------
    udfs
        The instances.
    """
    copies: Copies = {}
    twins = [copy.copy(udf) for udf in udfs]
    for twin in twins:
        vars(twin).update({name: _kept(value, copies) for name, value in vars(twin).items()})
    return twins


def _kept(value: Any, copies: Copies) -> Any:
    """Return a value, or a copy of it where it is or holds arrays that can change."""
    if id(value) not in copies:
        copies[id(value)] = value, value  # for a list that contains itself
        copies[id(value)] = value, _copied(value, copies)
    return copies[id(value)][1]


def _copied(value: Any, copies: Copies) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy(order="K") if _can_change(value) else value
    if isinstance(value, AuxBufferWrapper):
        twin = copy.copy(value)
        twin._data = _kept(value._data, copies)
        return twin
    if type(value) is dict:
        items = dict(zip(value, _all_kept(value.values(), copies), strict=True))
        return items if any(items[k] is not v for k, v in value.items()) else value
    if type(value) in {list, tuple}:
        members = _all_kept(value, copies)
        return type(value)(members) if any(a is not b for a, b in zip(members, value, strict=True)) else value
    return value


def _all_kept(values: Iterable[Any], copies: Copies) -> list[Any]:
    return [_kept(value, copies) for value in values]


def _can_change(array: Any) -> bool:
    """Return whether somebody can write to an array, or to another that it is a view of."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return False
