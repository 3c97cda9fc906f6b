"""Values that are made once in a process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cache"]

T = TypeVar("T")


class Cache:
    """Values by key, each made by the first that asks while others wait. Any thread may ask. Travels without them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[Any, Any] = {}

    def __getstate__(self) -> tuple[()]:
        return ()

    def __setstate__(self, state: tuple[()]) -> None:
        self.__init__()  # type: ignore[misc]

    def get(self, key: Any, factory: Callable[[], T]) -> T:
        """Return the value of `key`, made by `factory` when it is not there."""
        try:
            value: T = self._values[key]
        except KeyError:
            with self._lock:
                if key not in self._values:
                    self._values[key] = factory()
                value = self._values[key]
        return value
