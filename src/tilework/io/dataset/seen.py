"""What was seen of a file when it was loaded, and whether that is still in it.

A detector may append to a file while it is read: what was seen does not move. A file of which size, times and identity
(inode) are those that were seen is taken for unchanged, which costs one look at its entry. One that was written to must
be longer now, and some blocks of what was seen must hold the same bytes: another file that took its place, or that was
written over it, holds other ones. So must those of a file whose entry alone has changed, as when it got another name,
for programs can put the old time back. This is looked at once for each change and process.

The blocks lie where frames are, for who appends may write the header anew. They are few and spread unevenly, so that
not all of them are the same dark corner of a detector; a small file is compared as a whole.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from tilework.exceptions import DataSetException
from tilework.io.dataset.files import explain_os_error

__all__ = ["SeenFile", "check_unchanged", "see"]

BLOCK = 4096
BLOCKS = 8
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly, and in step with nothing

_State = tuple[int, int, int, int]

_grown: dict[SeenFile, _State] = {}
_GROWN_KEPT = 4096


class SeenFile(NamedTuple):
    """A file as it was when it was loaded.

    Parameters
    ----------
    path
        Absolute path.
    size, mtime_ns, inode
        Size in bytes, modification time and identity in its file system.
    begin, end
        Bytes between which its frames lie.
    blocks
        How many blocks of them were looked at.
    digest
        Digest of these blocks.
    ctime_ns
        Time of the last change of its entry, which no program can set.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    begin: int
    end: int
    blocks: int
    digest: bytes
    ctime_ns: int = 0


def see(path: str, facts: os.stat_result, begin: int, end: int, blocks: int = BLOCKS) -> SeenFile:
    """Return what is seen of a file now.

    Parameters
    ----------
    path
        Absolute path.
    facts
        Facts about the file, of before it was looked at.
    begin, end
        Bytes between which its frames lie.
    blocks
        How many blocks of them to look at.

    Raises
    ------
    DataSetException
        When it cannot be read.
    """
    digest = _digest(path, begin, end, blocks)
    return SeenFile(path, facts.st_size, facts.st_mtime_ns, facts.st_ino, begin, end, blocks, digest, facts.st_ctime_ns)


def check_unchanged(seen: SeenFile) -> None:
    """See that a file still holds what was seen of it.

    Raises
    ------
    DataSetException
        When it is gone, is shorter now, or was written to other than at its end.
    """
    path, size = seen.path, seen.size
    try:
        now = os.stat(path)  # noqa: PTH116  (twice for each partition: a Path costs as much again)
    except OSError as e:
        raise explain_os_error(e, path) from e
    state = now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns
    if state == (*seen[1:4], seen.ctime_ns):
        return
    if now.st_size < size:
        msg = (
            f"{path} has shrunk from {size} to {now.st_size} bytes since it was opened: it was cut off or is being "
            "written anew; load it again"
        )
        raise DataSetException(msg)
    if now.st_size == size and now.st_mtime_ns != seen.mtime_ns:
        msg = f"{path} was written to since it was opened; load it again to see its present contents"
        raise DataSetException(msg)
    if _grown.get(seen) == state:
        return
    if _digest(path, seen.begin, seen.end, seen.blocks) != seen.digest:
        msg = (
            f"{path} was overwritten, or replaced by another file, since it was opened: it has {now.st_size} bytes now "
            f"({size} then), but does not begin with what was there; load it again to see its present contents"
        )
        raise DataSetException(msg)
    if len(_grown) >= _GROWN_KEPT:
        _grown.clear()
    _grown[seen] = state


def _digest(path: str, begin: int, end: int, blocks: int) -> bytes:
    span = end - begin
    if span <= blocks * BLOCK:
        places = [(begin, span)]
    else:
        starts = {0, span - BLOCK, *(int((k * _GOLDEN) % 1 * (span - BLOCK)) for k in range(1, blocks - 1))}
        places = [(begin + start, BLOCK) for start in sorted(starts)]
    found = blake2b(digest_size=8)
    try:
        with Path(path).open("rb", buffering=0) as file:
            for start, length in places:
                found.update(os.pread(file.fileno(), length, start))
    except OSError as e:
        raise explain_os_error(e, path) from e
    return found.digest()
