"""Looking at files before they are read: errors that name the file and what to do."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from tilework.exceptions import DataSetException, MissingFileError

__all__ = ["absolute", "check_readable", "explain_os_error", "open_file", "stat_file"]


def absolute(path: str | bytes | os.PathLike[str]) -> str:
    """Return the absolute path as text, so that workers in other folders find the file.

    Raises
    ------
    DataSetException
        When `path` is no path at all, or is relative to a folder that is gone.
    """
    try:
        return str(Path(os.fsdecode(path)).absolute())
    except TypeError as e:
        msg = f"path={path!r}: must be the path of a file, it is a {type(path).__name__}"
        raise DataSetException(msg) from e
    except FileNotFoundError as e:
        msg = f"path={path!r}: the current folder was removed; give an absolute path, or change to another folder"
        raise DataSetException(msg) from e


def explain_os_error(error: Exception, path: str) -> DataSetException:
    """Return what an error of the operating system means for the one who wants to read `path`."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"{path} does not exist: check the path, and that it is the same on all workers")
    if isinstance(error, PermissionError):
        return DataSetException(
            f"{path} cannot be read, permission is missing: ask its owner, or change its mode (chmod)"
        )
    if isinstance(error, IsADirectoryError):
        return DataSetException(f"{path} is a folder, not a file: give the path of the file in it")
    return DataSetException(f"{path} cannot be read: {error}")


def stat_file(path: str) -> os.stat_result:
    """Return the facts about a regular, non-empty file.

    Raises
    ------
    MissingFileError
        When there is no such file.
    DataSetException
        When it is no regular file, or it is empty.
    """
    try:
        facts = Path(path).stat()
    except (OSError, ValueError) as e:  # ValueError: a path with a null byte
        raise explain_os_error(e, path) from e
    if stat.S_ISDIR(facts.st_mode):
        raise explain_os_error(IsADirectoryError(), path)
    if not stat.S_ISREG(facts.st_mode):
        msg = f"{path} is no regular file; copy what it delivers into a file first"
        raise DataSetException(msg)
    if facts.st_size == 0:
        msg = f"{path} is empty (0 bytes): the acquisition or the copying did not write anything, get the file again"
        raise DataSetException(msg)
    return facts


def check_readable(path: str) -> None:
    """See that a file can be read.

    Raises
    ------
    DataSetException
        When it cannot.
    """
    open_file(path)[0].close()


def open_file(path: str) -> tuple[BinaryIO, os.stat_result]:
    """Open a regular, non-empty file for reading and return it with its facts.

    Raises
    ------
    DataSetException
        When it cannot be read.
    """
    facts = stat_file(path)
    try:
        return Path(path).open("rb"), facts
    except OSError as e:
        raise explain_os_error(e, path) from e
