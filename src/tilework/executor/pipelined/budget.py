"""How much shared memory there may be, by what the system, and the limits of this process, leave."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Final

from tilework.utils.devices import available_memory

__all__ = ["arena_size", "available_shared_memory"]

_LARGEST_ARENA: Final = 1 << 34
_SMALLEST_ARENA: Final = 1 << 20


def available_shared_memory(folder: str | None) -> int:
    """Return how many bytes of shared memory can be had, in files in a folder, or without any."""
    left = [available_memory()]
    space = _available_address_space()
    if space is not None:
        # All of it is mapped at once, here and for the most part in each worker, and leaves the other half to the rest.
        left.append(space // 2)
    if folder is not None:
        with contextlib.suppress(OSError):  # there is no such folder, as is told when a file is made there
            system = os.statvfs(folder)
            left.append(system.f_bavail * system.f_frsize)
    size = _limit("RLIMIT_FSIZE")
    if size is not None:  # memory files are files
        left.append(size)
    return min(left)


def _available_address_space() -> int | None:
    """Return how many bytes more this process may map (``ulimit -v``); None when there is no limit."""
    limit = _limit("RLIMIT_AS")
    if limit is None:
        return None
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return max(0, limit - pages * mmap.PAGESIZE)


def _limit(name: str) -> int | None:
    """Return a limit of this process, by its name in `resource`; None when there is none."""
    import resource  # which other systems do not have: that they cannot have this executor is told later

    limit: int = resource.getrlimit(getattr(resource, name))[0]
    return None if limit == resource.RLIM_INFINITY else limit


def arena_size(size: int) -> int:
    """Return how large an arena is that should have so many bytes: neither useless nor larger than anybody needs."""
    return min(_LARGEST_ARENA, max(_SMALLEST_ARENA, size))
