"""A file or a folder appears whole at its place, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["NotReplacedError", "appearing", "remove_unneeded"]

_ATTEMPTS = 20  # to replace a folder that others are replacing, too

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

# Hidden folders whose content nobody needs; not while it is put in its place.
_unneeded: set[Path] = set()


class NotReplacedError(Exception):
    """What was to be replaced is of value, and still there.

    Parameters
    ----------
    reason
        Why it is not replaced.
    kept
        Where that is which was to replace it.
    """

    def __init__(self, reason: str, kept: Path) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kept = kept


def remove_unneeded() -> None:
    """Remove what is being written or was replaced, for a process that ends without waiting for its threads."""
    for workshop in list(_unneeded):
        shutil.rmtree(workshop, ignore_errors=True)


@contextlib.contextmanager
def appearing(
    target: Path, *, overwrite: bool, why_kept: Callable[[Path], str | None] = lambda _: None
) -> Iterator[Path]:
    """Give a place to write to, beside the target; what was written there becomes the target when the block ends well.

    When it ends with an exception, Ctrl-C included, everything that was written is removed and the target is as it was
    before.

    Parameters
    ----------
    target
        File or folder that is to appear. Its parent must exist.
    overwrite
        Whether to replace what is there. A folder is exchanged as a whole, on Linux in one step: it is always there.
    why_kept
        Called with what a folder is to replace, whatever that is by then, where nobody adds to it any more, and before
        it is removed. Returns why that must not be, or None.

    Yields
    ------
    pathlib.Path
        File or folder that the block must create; it has the name of the target.

    Raises
    ------
    FileExistsError
        When the target exists, or came into being meanwhile, and is not to be replaced.
    NotReplacedError
        When `why_kept` has a reason. The target is as it was, and what was written is kept beside it.
    OSError
        When nothing can be written there, or something is there that is neither a file nor a folder, such as a pipe.
        Names in it are those in the place of the target.
    """
    if os.path.lexists(target):
        if not overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        if not (target.is_symlink() or target.is_file() or target.is_dir()):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder, and is not replaced", str(target))
    # A hidden folder of our own keeps the name of the target free, and is removed with everything in it. Its name is
    # known before it is there: Ctrl-C may come while it is made. That of the target, which may be as long as names can
    # be, is no part of it.
    token = secrets.token_hex(8)
    workshop = target.parent / f".tilework-{token}.part"
    _unneeded.add(workshop)
    try:
        try:
            workshop.mkdir(mode=0o700)
        except OSError as error:
            error.filename = str(target)  # nobody knows the other name
            raise
        made = workshop / target.name
        yield made
        _unneeded.discard(workshop)
        if made.is_dir():
            reason = _place_folder(made, target, workshop, overwrite=overwrite, why_kept=why_kept)
            if reason is not None:
                # With all that is in it: also what could not be put back, because the place was taken meanwhile.
                kept = workshop.rename(target.parent / f"tilework-{token}")
                raise NotReplacedError(reason, kept / target.name)
        else:
            _flush(made)
            _place_file(made, target, overwrite=overwrite)
    except OSError as error:
        # Nobody knows the hidden folder, and it is gone.
        if error.filename is not None and os.fsdecode(error.filename).startswith(f"{workshop}{os.sep}"):
            error.filename = str(target.parent / os.fsdecode(error.filename)[len(f"{workshop}{os.sep}") :])
            del error.filename2
        raise
    finally:
        _unneeded.add(workshop)
        try:
            shutil.rmtree(workshop, ignore_errors=True)
        except BaseException:  # Ctrl-C, of which it is said that nothing is left
            shutil.rmtree(workshop, ignore_errors=True)
            raise
        finally:
            _unneeded.discard(workshop)


def _flush(path: Path) -> None:
    """Have the file on the disk before it gets its name: a crash must not leave an empty file under a good name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _place_file(made: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        made.replace(target)
        return
    try:
        # Unlike a rename, a link never replaces what somebody else put there meanwhile.
        os.link(made, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        made.rename(target)


def _place_folder(
    made: Path, target: Path, workshop: Path, *, overwrite: bool, why_kept: Callable[[Path], str | None]
) -> str | None:
    """Put a folder in its place; or put back what was there, and return why."""
    for attempt in range(_ATTEMPTS if overwrite else 1):
        old = workshop / f"replaced-{attempt}"
        is_exchanged = False
        try:
            if overwrite:
                with contextlib.suppress(FileNotFoundError):  # there was none, or somebody else is replacing it
                    is_exchanged = _exchange(made, target)
                    if not is_exchanged:
                        target.rename(old)
                replaced = made if is_exchanged else old
                reason = why_kept(replaced) if os.path.lexists(replaced) else None
                if reason is not None:
                    _put_back(made, target, old, is_exchanged=is_exchanged)
                    return reason
            if not is_exchanged:
                made.rename(target)
            return None
        except BaseException as error:
            # A folder with content came into being there meanwhile.
            is_taken = isinstance(error, OSError) and error.errno in {errno.ENOTEMPTY, errno.EEXIST}
            if not is_taken:
                _put_back(made, target, old, is_exchanged=is_exchanged)
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _put_back(made: Path, target: Path, old: Path, *, is_exchanged: bool) -> None:
    with contextlib.suppress(OSError):
        if is_exchanged:
            _exchange(made, target)
        else:
            old.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Let two change their places in one step, so that nobody ever finds none; returns whether it could be done.

    Linux can, on most of its file systems. Python has no function for it.

    Raises
    ------
    FileNotFoundError
        When one of them is not there.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(other))
    return False
