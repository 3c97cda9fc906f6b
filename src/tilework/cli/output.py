"""The folder of results: it appears whole, or not at all, and no folder is replaced that tilework did not write."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilework.exceptions import CommandError, ResultFileError
from tilework.io.results.atomic import NotReplacedError, appearing, remove_unneeded
from tilework.io.results.files import NO_SPACE
from tilework.io.results.jsonable import jsonable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "MARKER",
    "as_json",
    "check_output",
    "output_folder",
    "output_path",
    "remove_unfinished",
    "write_summary",
]

SUMMARY = "summary.json"
MARKER = "tilework-output"

# The parents that are made for each folder which is not there yet: what a process that cannot wait removes.
_new_parents: dict[int, list[Path]] = {}


def output_path(text: str) -> Path:
    """Return the path of the folder that --out says; it has a name of its own, which ``.`` and ``..`` are not.

    Raises
    ------
    CommandError
        When it is relative to a folder that is gone.
    """
    target = Path(text)
    try:
        place = target.absolute()
        return place.resolve() if target.name in {"", ".."} else target
    except FileNotFoundError as error:
        msg = "the current folder was removed: go to another one, or give an absolute --out"
        raise CommandError(msg) from error


def check_output(target: Path, *, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """See that a folder may be written, before any work is done.

    Parameters
    ----------
    target
        The folder.
    overwrite
        Whether it may be replaced.
    inputs
        Files that are read, or None: a folder that holds one is not replaced, which would delete it.

    Raises
    ------
    CommandError
        When something is there that must not be replaced.
    """
    if not os.path.lexists(target):
        return
    _check_folder(target, target)
    if not overwrite:
        msg = f"{target} exists: choose another --out, or --overwrite to replace it"
        raise CommandError(msg)
    if _holds_us(target):
        msg = f"{target} is not replaced, for it is the current folder or holds it: choose another --out"
        raise CommandError(msg)
    for name in inputs:
        if name is not None and _holds(target, name):
            msg = f"{target} is not replaced, for it holds {name}, which is read: choose another --out"
            raise CommandError(msg)
    _check_ours(target, target)


def _check_folder(place: Path, target: Path) -> None:
    """See that what lies at a place is a folder; messages name the target."""
    if not place.is_dir() or place.is_symlink():
        link = ", a symbolic link," if place.is_symlink() else ""
        msg = f"{target}{link} exists and is not a folder: choose another --out"
        raise CommandError(msg)


def _check_ours(place: Path, target: Path) -> None:
    """See that tilework wrote every file of the folder at a place; messages name the target."""
    present = _files_of(place)
    if not present:
        return
    try:
        summary = json.loads((place / SUMMARY).read_text(encoding="utf-8"))
        ours = set(summary["files"]) if summary["format"] == MARKER else None
    except (OSError, ValueError, TypeError, KeyError):
        ours = None
    if ours is None:
        msg = (
            f"{target} was not written by tilework, so it is not replaced: choose another --out, or remove it yourself"
        )
        raise CommandError(msg)
    foreign = sorted(present - ours - {SUMMARY})
    if foreign:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        msg = f"{target} is not replaced, for tilework did not write {names}: move them, or choose another --out"
        raise CommandError(msg)


def _files_of(folder: Path) -> set[str]:
    """Return the names of all that is in a folder, but for the folders in it, of which there are more."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def _holds(folder: Path, name: str) -> bool:
    """Return whether a file is in a folder, by its own path or by that of what it links to."""
    path = Path(name)
    return any(folder.resolve() in each.parents for each in (path.resolve(), path.parent.resolve() / path.name))


def _holds_us(folder: Path) -> bool:
    """Return whether a folder is the current one, or holds it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return False
    return folder.resolve() in {here, *here.parents}


@contextlib.contextmanager
def output_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write to, which becomes `target` when the block ends well, and goes away when not.

    Raises
    ------
    CommandError
        When something is there that must not be replaced.
    ResultFileError
        When a result cannot be written.
    OSError
        When nothing can be written there.
    """
    check_output(target, overwrite=overwrite)

    def why_kept(replaced: Path) -> str | None:
        # It was looked at before, but the run took its time.
        try:
            _check_folder(replaced, target)
            _check_ours(replaced, target)
        except CommandError as error:
            return str(error)
        return None

    workshop: Path | None = None
    try:
        with _parents(target), appearing(target, overwrite=overwrite, why_kept=why_kept) as folder:
            workshop = folder.parent
            folder.mkdir()
            yield folder
    except NotReplacedError as error:
        msg = f"{error.reason}; the results are complete in {error.kept}"
        raise CommandError(msg) from error
    except FileExistsError as error:
        if error.filename and Path(error.filename) == target:
            msg = f"{target} came into being meanwhile: choose another --out"
            raise CommandError(msg) from error
        raise
    except PermissionError as error:
        msg = f"{target} cannot be written, permission is missing in {target.parent}: choose another --out"
        raise CommandError(msg) from error
    except ResultFileError as error:
        raise ResultFileError(_in_its_place(str(error), workshop)) from error.__cause__
    except OSError as error:
        if error.filename is not None:
            error.filename = _in_its_place(str(error.filename), workshop)
        elif error.errno in NO_SPACE and not hasattr(error, "__notes__"):
            # Some libraries do not say which file it was that had no room. Notes say that it was none of ours.
            error.filename = str(target)
        raise


def _in_its_place(text: str, workshop: Path | None) -> str:
    """Return a message with the names that files would have had: nobody knows the hidden folder, and it is gone."""
    return text if workshop is None else text.replace(f"{workshop}{os.sep}", f"{workshop.parent}{os.sep}")


def remove_unfinished() -> None:
    """Remove what is being written, for a process that ends without waiting for its threads."""
    remove_unneeded()
    for parents in list(_new_parents.values()):
        _remove_parents(parents)


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Create missing parents; they go away when the block fails."""
    missing = []
    parent = target.absolute().parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    made: list[Path] = []  # the innermost first
    _new_parents[id(made)] = made
    try:
        for folder in reversed(missing):
            made.insert(0, folder)  # before it is there: Ctrl-C may come while it is made
            try:
                folder.mkdir()
            except FileExistsError:  # somebody else made it, or it is the .. of one that was missing
                made.remove(folder)
        yield
    except BaseException:
        _remove_parents(made)
        raise
    finally:
        del _new_parents[id(made)]


def _remove_parents(parents: list[Path]) -> None:
    for parent in parents:
        with contextlib.suppress(OSError):
            parent.rmdir()


def write_summary(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Write ``summary.json``, which also says that the folder, with all its files, is ours; return what was written."""
    files = sorted(_files_of(folder))
    document: dict[str, Any] = jsonable({"format": MARKER, **summary, "files": [*files, SUMMARY]})
    (folder / SUMMARY).write_text(as_json(document) + "\n", encoding="utf-8")
    return document


def as_json(document: Any, encoding: str | None = None) -> str:
    """Return a document as text for people, and with escapes where an encoding (UTF-8) has not all of its characters.

    That is so for the names of files that are no text.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=1)
    return text
