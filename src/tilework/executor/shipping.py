"""Scattered objects on their way to processes that share no memory with the main side.

::

    main side                                            each worker process
    Store ── handle ──► Scattered                        Cache ── key ──► object, base, patches applied
                          base 3: pickle, in a block       ▲
                          patches since then     ──Shipment┘   (with every job: a few hundred bytes)

The main side cannot address a worker of a pool. So nothing is sent when something is scattered, updated or patched:
every job says which state of which object it needs, and a worker that has an older one catches up. A *base* is a whole
pickle, numbered; *patches* are counted since the base. A worker applies each patch once, in order, to its own copy.
When there are many, the patched object becomes a new base.

Large pickles lie in a block of shared memory, once for all workers of the host, which map it: arrays are not copied
until somebody writes to them. A worker that cannot reach the block asks for the bytes themselves.
"""

from __future__ import annotations

import struct
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.calling import note_unpicklable
from tilework.executor.driven import no_such_handle
from tilework.executor.patches import Patches
from tilework.executor.remote import dumps_apart, loads
from tilework.executor.shared_block import BlockGoneError, SharedBlock, attach
from tilework.executor.storing import SharingStore, patched

if TYPE_CHECKING:
    from tilework.executor.shared_block import Address

__all__ = ["Cache", "MissingContentError", "Scattered", "Shipment", "ShippingStore"]

_INLINE_BYTES: Final = 4096
"""Pickles up to this size go with every job; setting up and mapping a block would cost more."""

_SMALLEST_BUFFER: Final = 1024
"""Arrays of this many bytes and more stand beside the pickle."""

_ALIGNMENT: Final = 64
_COUNT: Final = struct.Struct("=q")


# ---- pickles with their buffers ----


class Packed:
    """A pickled object whose arrays stand beside the pickle, aligned."""

    def __init__(self, obj: Any) -> None:
        try:
            head, buffers = dumps_apart(obj, _SMALLEST_BUFFER)
        except Exception as error:
            note_unpicklable(error, obj)
            raise
        self._parts: list[Any] = [head, *(buffer.raw() for buffer in buffers)]
        sizes = [len(part) for part in self._parts]
        self._table = struct.pack(f"={len(sizes) + 1}q", len(sizes), *sizes)
        self._offsets = []
        end = len(self._table)
        for size in sizes:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            self._offsets.append(start)
            end = start + size
        self.size = end

    def write(self, target: memoryview | bytearray) -> None:
        """Write everything into a buffer of `size` bytes."""
        target[: len(self._table)] = self._table
        for start, part in zip(self._offsets, self._parts, strict=True):
            target[start : start + len(part)] = part


def unpack(content: memoryview) -> Any:
    """Return the object that was packed; its arrays share the memory of `content`."""
    (n,) = _COUNT.unpack_from(content)
    sizes = struct.unpack_from(f"={n}q", content, _COUNT.size)
    end = (n + 1) * _COUNT.size
    parts = []
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + size
        parts.append(content[start:end])
    return loads(parts[0], buffers=parts[1:])


# ---- the main side ----


@dataclass(frozen=True, slots=True)
class Shipment:
    """Which state of which object a job needs, and where to get it."""

    key: str
    base: int
    patches: tuple[bytes, ...]
    """Pickled, to be applied to the base in this order."""
    address: Address | None
    """Block that holds the packed base; None when `content` does."""
    content: bytes | None


class Scattered:
    """One object, for all workers; its methods may be called from any thread.

    Parameters
    ----------
    obj
        The object, as it is now: what the caller does to it afterwards reaches nobody.
    key
        By which workers know it; None: one is made.
    """

    def __init__(self, obj: Any, key: str | None = None) -> None:
        self.key = key or uuid.uuid4().hex
        self._lock = threading.Lock()
        self._block: SharedBlock | None = None
        self._content: bytes | None = None
        self._base = -1
        self._set_base(Packed(obj))

    def _set_base(self, packed: Packed) -> None:
        block, content = None, None
        if packed.size <= _INLINE_BYTES:
            buffer = bytearray(packed.size)
            packed.write(buffer)
            content = bytes(buffer)
        else:
            block = SharedBlock(packed.size)
            packed.write(block.content)
        old, self._block, self._content = self._block, block, content
        self._base += 1
        self._patches = Patches(self._open, packed.size)
        if old is not None:
            old.close()

    def update(self, obj: Any) -> None:
        """Replace the object."""
        packed = Packed(obj)
        with self._lock:
            self._set_base(packed)

    def patch(self, patch: Any) -> None:
        """Patch the object; when it raises, nobody sees the patch."""
        with self._lock:
            self._check_open()
            base = self._patches.add(patch, Packed)
            if base is not None:
                self._set_base(base)

    def _open(self) -> Any:
        return unpack(memoryview(bytearray(self._bytes())))

    def _bytes(self) -> bytes | memoryview:
        if self._content is not None:
            return self._content
        assert self._block is not None
        return self._block.content

    def _check_open(self) -> None:
        if self._base < 0:
            raise no_such_handle(self.key)

    def ship(self, *, with_content: bool) -> Shipment:
        """Return what a job needs to get the object as it is now.

        Parameters
        ----------
        with_content
            Whether to send the bytes even of a large object, to a worker that cannot reach its block.
        """
        with self._lock:
            self._check_open()
            block, patches = self._block, self._patches.pickled
            if block is None or with_content:
                return Shipment(self.key, self._base, patches, None, bytes(self._bytes()))
            return Shipment(self.key, self._base, patches, block.address, None)

    def close(self) -> None:
        """Give the memory back; workers do so with their next job."""
        with self._lock:
            block, self._block, self._content, self._base = self._block, None, None, -1
            self._patches = Patches(self._open, 0)  # and with it the copy
        if block is not None:
            block.close()


class ShippingStore(SharingStore[Scattered]):
    """What is scattered to the processes of a pool, which know an object by its handle; see `StoringJobExecutor`."""

    def _share(self, handle: str, obj: Any) -> Scattered:
        return Scattered(obj, key=handle)


# ---- the workers' side ----


class MissingContentError(Exception):
    """A worker cannot reach the block of a shipment, and needs the content itself."""


@dataclass(slots=True)
class _Arrived:
    base: int
    n_patches: int
    obj: Any


_MOST_OWNERS: Final = 4


class Cache:
    """The objects that one worker process has, by owner (an executor of the main side) and key.

    A worker learns only from its next job that an object is not needed any more.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[str, dict[str, _Arrived]] = OrderedDict()

    def get(self, owner: str, shipment: Shipment, alive: tuple[str, ...]) -> Any:
        """Return the object of a shipment, in its state or a later one.

        Parameters
        ----------
        owner
            Whose it is.
        shipment
            What is needed.
        alive
            Keys of the owner's objects that may still be needed; the others are forgotten.

        Raises
        ------
        MissingContentError
            When this process does not have it, and cannot get it.
        """
        objects = self._owners.setdefault(owner, {})
        self._owners.move_to_end(owner)
        if len(self._owners) > _MOST_OWNERS:
            self._owners.popitem(last=False)
        for key in objects.keys() - set(alive) - {shipment.key}:
            del objects[key]
        arrived = objects.get(shipment.key)
        if arrived is None or arrived.base < shipment.base:
            objects.pop(shipment.key, None)
            arrived = _Arrived(shipment.base, 0, unpack(_content(shipment)))
        if arrived.base == shipment.base and arrived.n_patches < len(shipment.patches):
            objects.pop(shipment.key, None)  # not there while it is half patched
            for pickled in shipment.patches[arrived.n_patches :]:
                patched(arrived.obj, loads(pickled))
            arrived.n_patches = len(shipment.patches)
        objects[shipment.key] = arrived
        return arrived.obj


def _content(shipment: Shipment) -> memoryview:
    if shipment.content is not None:
        return memoryview(bytearray(shipment.content))
    assert shipment.address is not None
    try:
        return attach(shipment.address, is_private=True)
    except BlockGoneError as error:
        raise MissingContentError(str(error)) from error
