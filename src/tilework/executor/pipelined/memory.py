"""Memory that processes share: files without a name, that are gone with their last user whatever happens.

A segment is made by one process, which sends its descriptor to others. It is an anonymous memory file where the system
has those: they need no space in /dev/shm, which is often tiny in containers. Otherwise it is a file that was removed
right after it was opened. In both cases pages are allocated before they are written to, so that a full file system or a
full control group shows as an error here, and never as SIGBUS in the middle of a computation.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PAGE", "TOO_MANY_FILES", "Segment", "SharedMemoryFullError", "cannot_map", "map_private", "map_segment"]

log = logging.getLogger(__name__)

PAGE: Final = mmap.PAGESIZE
TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_MAP_FIXED: Final = 0x10
"""From Linux's mman.h, the same for all CPUs that matter here; module mmap does not have it."""
SHM: Final = "/dev/shm"  # noqa: S108  (what is put there has no name)


class SharedMemoryFullError(MemoryError):
    """There is no room for more shared memory."""


def cannot_map(size: int, error: OSError) -> SharedMemoryFullError:
    """Return the error for memory that cannot be had, with what can be done.

    Parameters
    ----------
    size
        In bytes.
    error
        What the system said.
    """
    remedies = {
        errno.ENFILE: ": the system has too many open files",
        errno.EMFILE: ": raise the limit of open files (ulimit -n)",
        errno.EFBIG: ": give the executor less with shared_memory=, or raise the limit of file sizes (ulimit -f)",
        errno.ENOMEM: ": give the executor less with shared_memory=, or raise the limit of address space (ulimit -v)",
    }
    return SharedMemoryFullError(
        f"cannot map {_describe_size(size)} of shared memory: {error}{remedies.get(error.errno or 0, '')}"
    )


def _describe_size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{-(-size >> 10)} KiB"


class Segment:
    """A piece of shared memory, as its maker has it.

    Parameters
    ----------
    size
        Bytes of address space; rounded up to whole pages.
    folder
        Make it a file in this folder; None: an anonymous memory file.
    """

    def __init__(self, size: int, folder: str | None = None) -> None:
        self.fd = -1
        self.size = max(PAGE, -(-size // PAGE) * PAGE)
        self._folder = folder
        self._allocated = 0
        try:
            self.fd = _open(folder)
            os.ftruncate(self.fd, self.size)
            self.map = mmap.mmap(self.fd, self.size)
        except OSError as error:
            self._close_descriptor()
            raise cannot_map(self.size, error) from error

    def allocate(self, stop: int) -> None:
        """Make sure that all bytes up to `stop` can be written.

        Raises
        ------
        SharedMemoryFullError
            When there is no room.
        """
        if stop <= self._allocated:
            return
        try:
            os.posix_fallocate(self.fd, self._allocated, stop - self._allocated)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                folder = self._folder
                where, remedy = "", "free memory, or raise the limit of the control group"
                if folder is not None:
                    where, remedy = f" in {folder}", "make room there, or name another folder, or none"
                if error.errno == errno.EFBIG:
                    remedy = "raise the limit of file sizes (ulimit -f)"
                msg = f"no room for {_describe_size(stop)} of shared memory{where}: {error}: {remedy}"
                raise SharedMemoryFullError(msg) from error
        self._allocated = stop

    def close(self) -> None:
        """Close the descriptor, and the mapping when nothing uses it any more."""
        if self.fd >= 0:
            self._close_descriptor()
            close_map(self.map)

    def _close_descriptor(self, close: Callable[[int], None] = os.close) -> None:
        # First the number: a fork meanwhile must not close what is somebody else's by then.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close(fd)

    def __del__(self) -> None:
        """Close the descriptor, where whoever had it was interrupted, or found that the executor was closed."""
        self._close_descriptor()


def close_map(mapping: mmap.mmap) -> None:
    """Unmap, or leave that to the last object that still looks into the mapping."""
    with contextlib.suppress(BufferError):
        mapping.close()


def map_segment(fd: int, size: int, *, writable: bool = False, private: bool = False) -> mmap.mmap:
    """Map a segment that another process made, and close its descriptor.

    Parameters
    ----------
    fd
        Descriptor, which is closed.
    size
        Bytes to map.
    writable
        Whether what is written is seen by the others.
    private
        Whether it may be written to without anybody else seeing that: pages are copied when they are.
    """
    access = mmap.ACCESS_COPY if private else mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    try:
        return mmap.mmap(fd, size, access=access)
    except OSError as error:
        raise cannot_map(size, error) from error
    finally:
        os.close(fd)


def map_private(address: int, size: int) -> None:
    """Put memory of this process alone in the place of what is mapped there, in whole pages; it is zero.

    Parameters
    ----------
    address, size
        Of whole pages, in bytes.

    Raises
    ------
    OSError
        When the system has no memory.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    if libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open(folder: str | None) -> int:
    if folder is None and hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("tilework", os.MFD_CLOEXEC)
        except OSError as error:  # forbidden in some sandboxes
            if error.errno in TOO_MANY_FILES:
                raise
            log.debug("no anonymous memory files: %s", error)
    import tempfile  # and much else with it, which those that come before do not need

    trouble: OSError | None = None
    # None is the folder for temporary files, if there is one.
    for place in (folder,) if folder is not None else (SHM, None):
        try:
            fd, path = tempfile.mkstemp(prefix=f"tilework-{os.getpid()}-", dir=place)
        except OSError as error:
            if error.errno in TOO_MANY_FILES:
                raise
            log.debug("no shared memory in %s: %s", place, error)
            trouble = error
            continue
        Path(path).unlink()
        return fd
    where = f"neither anonymous memory files nor files in {SHM} or the folder for temporary files (TMPDIR)"
    if folder is not None:
        where = f"no file can be made in {folder!r} ({trouble}): name another folder, or none (shared_memory_folder=)"
    msg = f"no place for shared memory: {where}"
    raise SharedMemoryFullError(msg) from trouble
