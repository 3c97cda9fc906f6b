"""Executors that keep what is scattered on the main side, in a store, from which it goes to the workers."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tilework.executor.driven import DrivenJobExecutor, no_such_handle

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KeepingStore", "SharingStore", "Store", "StoringJobExecutor", "new_handle", "patched"]

T = TypeVar("T")


class Store(Protocol):
    """Objects by handle. All methods may be called from any thread."""

    def add(self, obj: Any) -> str:
        """Add an object; returns its handle."""
        ...

    def look_up(self, handle: Any) -> Any:
        """Return what stands for the object here; ExecutorError when there is none."""
        ...

    def update(self, handle: Any, obj: Any) -> None:
        """Let the handle stand for another object."""
        ...

    def patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)``; raises what that raises, and TypeError when there is no such method."""
        ...

    def drop(self, handle: str) -> None:
        """Forget the object."""
        ...


def new_handle() -> str:
    """Return a handle that nothing else has."""
    return f"scattered-{uuid.uuid4().hex}"


def patched(obj: T, patch: Any) -> T:
    """Patch an object, and return it; TypeError when it cannot be patched."""
    method = getattr(obj, "patch", None)
    if not callable(method):
        msg = f"only an object with a method patch(patch) can be patched, not a {type(obj).__name__}"
        raise TypeError(msg)
    method(patch)
    return obj


class Shared(Protocol):
    """An object that was scattered, and how it comes to the workers."""

    def update(self, obj: Any) -> None:
        """Be another object from now on."""
        ...

    def patch(self, patch: Any) -> None:
        """Call ``obj.patch(patch)``, wherever the object is; when it raises, nowhere."""
        ...

    def close(self) -> None:
        """Give the memory back that the object takes here and on the workers."""
        ...


S = TypeVar("S", bound=Shared)


class KeepingStore(ABC, Generic[T]):
    """The part of a `Store` that keeps what handles stand for."""

    def __init__(self) -> None:
        self._shared: dict[str, T] = {}

    @abstractmethod
    def _share(self, handle: str, obj: Any) -> T:
        """Return what the handle is to stand for."""

    def add(self, obj: Any) -> str:
        """Add an object; returns its handle."""
        handle = new_handle()
        self._shared[handle] = self._share(handle, obj)
        return handle

    def look_up(self, handle: Any) -> T:
        """Return what the handle stands for; ExecutorError when it is none."""
        try:
            return self._shared[handle]
        except (KeyError, TypeError):
            raise no_such_handle(handle) from None

    def drop(self, handle: str) -> None:
        """Forget the object."""
        self._shared.pop(handle, None)

    def keys(self) -> tuple[str, ...]:
        """Return the handles of all objects that there are now."""
        return tuple(self._shared)


class SharingStore(KeepingStore[S]):
    """A `Store` of objects that know by themselves how they come to the workers; a subclass makes them."""

    def update(self, handle: Any, obj: Any) -> None:
        """Let the handle stand for another object."""
        self.look_up(handle).update(obj)

    def patch(self, handle: Any, patch: Any) -> None:
        """Patch the object; TypeError when it cannot be patched."""
        self.look_up(handle).patch(patch)

    def drop(self, handle: str) -> None:
        """Forget the object."""
        shared = self._shared.pop(handle, None)
        if shared is not None:
            shared.close()


class StoringJobExecutor(DrivenJobExecutor):
    """Scatters through a store. A subclass sets `_store`."""

    _store: Store

    @contextmanager
    def scatter(self, obj: Any) -> Iterator[str]:
        """Give all workers an object, for the duration of the block; yields its handle."""
        self._check_open()
        handle = self._store.add(obj)
        try:
            yield handle
        finally:
            self._store.drop(handle)

    def scatter_update(self, handle: Any, obj: Any) -> None:
        """Let `handle` stand for another object; tasks that start later see it."""
        self._check_open()
        self._store.update(handle, obj)

    def scatter_update_patch(self, handle: Any, patch: Any) -> None:
        """Call ``obj.patch(patch)`` on the object that `handle` stands for, and on every worker's copy of it."""
        self._check_open()
        self._store.patch(handle, patch)

    def _check_handle(self, handle: Any) -> None:
        self._store.look_up(handle)
