"""Memory maps of files, one per file and process.

Who does what: every partition asks here for the map of its file when it starts. A map is made once and stays for the
life of the process, so that a second run over the same file pays no page faults; when there are more maps than the
process may hold, the least recently used is let go. A map is unmapped when the last array that looks into it is gone,
never under a reader.

Any thread may call; after a fork the child goes on with the maps it inherited. All maps are read-only.

A process that reads beyond the end of a file that shrank is killed by SIGBUS. Therefore files are compared with what
was seen of them (`tilework.io.dataset.seen`) whenever a partition starts, which leaves the short time of its reading.
They are compared when it ends, too, so that nothing counts that was read while somebody wrote. A file may grow: what
was seen of it does not move.

Populating page tables ahead of reading (``MADV_POPULATE_READ``) was measured on page-cached files and is slower than
the page faults with fault-around, more so with two threads; so nothing is advised here.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from tilework.common.tracing import get_tracer
from tilework.io.dataset.files import explain_os_error
from tilework.io.dataset.seen import SeenFile, check_unchanged

__all__ = ["close_all", "get_map", "map_limit"]

# Below this, Python keeps a file descriptor open for each map.
_KEEPS_DESCRIPTOR = sys.version_info < (3, 13)

_OPTIONS: dict[str, Any] = {} if _KEEPS_DESCRIPTOR else {"trackfd": False}

_tracer = get_tracer(__name__)

_maps: OrderedDict[str, tuple[SeenFile, mmap.mmap]] = OrderedDict()
_lock = threading.Lock()


def map_limit() -> int:
    """Return how many maps this process keeps at most."""
    if not _KEEPS_DESCRIPTOR:
        return 4096
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 512 if soft == resource.RLIM_INFINITY else max(16, min(512, soft // 4))


def get_map(seen: SeenFile) -> mmap.mmap:
    """Return the map of a file that was opened before.

    Raises
    ------
    DataSetException
        When the file is gone, is shorter now, or was written to other than at its end.
    """
    check_unchanged(seen)
    with _lock:
        entry = _maps.get(seen.path)
        if entry is not None and entry[0] == seen:
            _maps.move_to_end(seen.path)
            return entry[1]
    return _open(seen)


def _open(seen: SeenFile) -> mmap.mmap:
    path, size = seen.path, seen.size
    try:
        about = {"file.path": path, "file.size": size}
        with _tracer.start_as_current_span("open", attributes=about), Path(path).open("rb") as f:
            new = mmap.mmap(f.fileno(), size, access=mmap.ACCESS_READ, **_OPTIONS)
    except (OSError, ValueError) as e:
        check_unchanged(seen)  # it may have become shorter just now
        raise explain_os_error(e, path) from e
    limit = map_limit()
    with _lock:
        entry = _maps.get(path)
        if entry is not None and entry[0] == seen:
            return entry[1]  # another thread was faster
        _maps[path] = (seen, new)
        _maps.move_to_end(path)
        while len(_maps) > limit:
            _maps.popitem(last=False)
    return new


def close_all() -> None:
    """Let go of all maps; those in use are unmapped when the last array that looks into them is gone."""
    with _lock:
        _maps.clear()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  (another thread of the parent may have held it)
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
