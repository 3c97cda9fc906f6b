"""The latest of many names, where none is ever taken back."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LatestNames"]


class LatestNames:
    """So many names as were added last; one that is added again stays where it is.

    Parameters
    ----------
    limit
        How many are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: OrderedDict[str, None] = OrderedDict()

    def add(self, name: str) -> None:
        """Remember a name, and forget the oldest if there are too many."""
        self._names[name] = None
        while len(self._names) > self._limit:
            self._names.popitem(last=False)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)
