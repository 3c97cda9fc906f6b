"""Objects that many others refer to, and that are the same in all of them: pickled once, unpickled once per process.

Every partition refers to what its dataset is like. A worker gets thousands of partitions, one at a time, and its caches
are full of pixels whenever one arrives: so what it has unpickled before, it takes from there.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any, Final

__all__ = ["PickledOnce"]

_KEPT: Final = 64


class PickledOnce:
    """Base of classes whose objects do not change, and may be shared by all that refer to them."""

    __slots__ = ("_pickled",)

    def _recipe(self) -> tuple[Any, ...] | None:
        """Return the arguments that make an equal object; None when it must be pickled in the ordinary way."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> Any:
        try:
            pickled = self._pickled
        except AttributeError:
            recipe = self._recipe()
            pickled = None if recipe is None else pickle.dumps((type(self), recipe), pickle.HIGHEST_PROTOCOL)
            self._pickled: bytes | None = pickled
        return super().__reduce_ex__(protocol) if pickled is None else (_make, (pickled,))


@functools.lru_cache(_KEPT)
def _make(pickled: bytes) -> Any:
    cls, recipe = pickle.loads(pickled)  # noqa: S301  (pickled above)
    return cls(*recipe)
