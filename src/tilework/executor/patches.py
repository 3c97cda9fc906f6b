"""Patches of an object that workers have a copy of: tried here before workers hear of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from tilework.executor.remote import dumps, loads
from tilework.executor.storing import patched

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Patches"]

B = TypeVar("B")

_MOST: Final = 64
_MOST_BYTES: Final = 1 << 14
"""That many are kept for small objects, too; for large ones, a quarter of what the object has."""


class Patches:
    """The patches of an object since it was pickled, its *base*. Not thread-safe.

    Each is applied here first, to a copy: one that raises is raised to whoever gives it, and reaches no worker.

    Parameters
    ----------
    open_base
        Returns a copy of the object as it was pickled, which may be changed.
    size
        Bytes of that pickle.
    """

    def __init__(self, open_base: Callable[[], Any], size: int) -> None:
        self._open_base = open_base
        self._most_bytes = max(_MOST_BYTES, size // 4)
        self._copy: Any = None  # the object after all patches; None: still to be made
        self.pickled: tuple[bytes, ...] = ()
        """Those that were given, in this order."""

    def add(self, patch: Any, pickle_base: Callable[[Any], B]) -> B | None:
        """Apply a patch to the copy, and keep it.

        Parameters
        ----------
        patch
            The argument of ``obj.patch``.
        pickle_base
            Called with the patched object where the patches have become many: then it is to be the next base.

        Returns
        -------
        B or None
            What `pickle_base` returned, to be used instead of these patches; None: they are few.

        Raises
        ------
        TypeError
            When the object has no method ``patch``.
        Exception
            Of any kind, that ``obj.patch`` or `pickle_base` raises: then the patch is not kept.
        """
        pickled = dumps(patch)
        kept = (*self.pickled, pickled)
        copy, self._copy = self._latest(), None  # which is half patched when something is raised
        patched(copy, loads(pickled))
        are_many = len(kept) > _MOST or sum(map(len, kept)) > self._most_bytes
        base = pickle_base(copy) if are_many else None
        self._copy, self.pickled = copy, kept
        return base

    def _latest(self) -> Any:
        if self._copy is not None:
            return self._copy
        copy = self._open_base()
        for each in self.pickled:
            patched(copy, loads(each))
        return copy
