"""The output folder appears whole or not at all, and nothing of anybody else is ever lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tilework.cli.output import (
    as_json,
    check_output,
    output_folder,
    output_path,
    remove_unfinished,
    write_summary,
)
from tilework.exceptions import CommandError, ResultFileError
from tilework.io.results import atomic

if TYPE_CHECKING:
    from collections.abc import Callable


def write(target: Path, text: str, *, overwrite: bool = False) -> None:
    with output_folder(target, overwrite=overwrite) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text(text)
        write_summary(folder, {"x": 1})


def _fail(target: Path, end: BaseException, *, overwrite: bool = False) -> None:
    with output_folder(target, overwrite=overwrite) as folder:
        (folder / "x").write_text("half")
        raise end


def _be_refused(target: Path, text: str) -> None:
    with output_folder(target, overwrite=False) as folder:
        raise ResultFileError(f"cannot write {folder / 'a.npz'}: {text}")


def _be_late(target: Path) -> None:
    with output_folder(target, overwrite=False) as folder:
        (folder / "x").write_text("ours")
        target.mkdir()
        (target / "theirs").write_text("theirs")


def _be_disturbed(target: Path, disturb: Callable[[Path], Any]) -> None:
    with output_folder(target, overwrite=True) as folder:
        (folder / "a.txt").write_text("ours")
        write_summary(folder, {})
        disturb(target)


def _add_notes(target: Path) -> None:
    (target / "notes.txt").write_text("mine")


def _put_a_folder_there(target: Path) -> None:
    shutil.rmtree(target)
    target.mkdir()
    (target / "notes.txt").write_text("mine")


def _put_a_file_there(target: Path) -> None:
    shutil.rmtree(target)
    target.write_text("mine")


def _put_a_link_there(target: Path) -> None:
    (target.parent / "elsewhere").mkdir()
    _add_notes(target.parent / "elsewhere")
    shutil.rmtree(target)
    target.symlink_to("elsewhere")


def test_appears_whole(tmp_path: Path) -> None:
    """While it is written, nothing is there under its name; at the end, everything."""
    target = tmp_path / "new" / "parents" / "out"
    with output_folder(target, overwrite=False) as folder:
        (folder / "a.txt").write_text("x")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "x"
    assert [p.name for p in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("end", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failure_leaves_nothing(tmp_path: Path, end: BaseException) -> None:
    """Whatever ends it: no folder, no parents that were made for it, no hidden rest; what was replaced is back."""
    with pytest.raises(type(end)):
        _fail(tmp_path / "a" / "b" / "out", end)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out", "first")
    with pytest.raises(type(end)):
        _fail(tmp_path / "out", end, overwrite=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_replaces_only_its_own(tmp_path: Path) -> None:
    """Without --overwrite nothing is replaced; with it, only a folder whose every file tilework wrote."""
    target = tmp_path / "out"
    write(target, "first")
    with pytest.raises(CommandError, match="exists: choose another --out, or --overwrite"):
        write(target, "second")
    write(target, "second", overwrite=True)
    assert (target / "sub" / "b.txt").read_text() == "second"
    (target / "sub" / "notes.txt").write_text("mine")
    with pytest.raises(CommandError, match=r"did not write sub/notes\.txt"):
        write(target, "third", overwrite=True)
    assert (target / "sub" / "notes.txt").read_text() == "mine"
    (target / "sub" / "notes.txt").unlink()
    (target / "sub" / "data").symlink_to(tmp_path)
    with pytest.raises(CommandError, match=r"did not write sub/data"):
        write(target, "third", overwrite=True)
    assert (target / "sub" / "data").is_symlink()
    assert (target / "a.txt").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("summary", [None, "{}", "junk", '{"format": "other", "files": ["thesis.txt"]}', "[1]"])
def test_folder_of_somebody_else(tmp_path: Path, summary: str | None) -> None:
    """A folder without our mark, or with a file that only looks like it, stays."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("years")
    if summary is not None:
        (target / "summary.json").write_text(summary)
    with pytest.raises(CommandError, match="was not written by tilework"):
        write(target, "x", overwrite=True)
    assert (target / "thesis.txt").read_text() == "years"


def test_empty_folder_file_and_link(tmp_path: Path) -> None:
    """An empty folder may be replaced when asked; a file or a symbolic link never is."""
    (tmp_path / "out").mkdir()
    with pytest.raises(CommandError, match="exists"):
        check_output(tmp_path / "out", overwrite=False)
    write(tmp_path / "out", "x", overwrite=True)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for name in ("file", "link"):
        for overwrite in (True, False):  # nor is it said that --overwrite would do
            with pytest.raises(CommandError, match=r"exists and is not a folder: choose another --out$"):
                check_output(tmp_path / name, overwrite=overwrite)


def test_somebody_else_was_faster(tmp_path: Path) -> None:
    """A folder that comes into being meanwhile is not replaced."""
    target = tmp_path / "out"
    with pytest.raises(CommandError, match=r"out came into being meanwhile: choose another --out"):
        _be_late(target)
    assert [p.name for p in target.iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no way to exchange two folders in one step")
def test_many_that_replace_the_same_folder(tmp_path: Path) -> None:
    """All end well, again and again, and whoever looks always finds it, whole."""
    target = tmp_path / "out"
    write(target, "first")

    def replace(name: str) -> None:
        for n in range(100):
            write(target, f"{name} {n}", overwrite=True)

    with ThreadPoolExecutor(3) as pool:
        replacing = [pool.submit(replace, name) for name in ("one", "two", "three")]
        while not all(each.done() for each in replacing):
            assert (target / "a.txt").exists()
        for each in replacing:
            each.result()
    assert {p.name for p in target.iterdir()} == {"a.txt", "sub", "summary.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system, or a platform, on which two folders cannot be exchanged in one step."""
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)


@pytest.mark.parametrize("is_exchanged", [True, False])
@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (_add_notes, r"is not replaced, for tilework did not write notes\.txt"),
        (_put_a_folder_there, "was not written by tilework"),
        (_put_a_file_there, "exists and is not a folder"),
        (_put_a_link_there, "a symbolic link, exists and is not a folder"),
    ],
)
def test_what_comes_meanwhile_is_not_replaced(
    tmp_path: Path, request: pytest.FixtureRequest, disturb: Any, said: str, is_exchanged: bool
) -> None:
    """Nothing is lost: it stays, and the results are where the message says."""
    if not is_exchanged:
        request.getfixturevalue("no_exchange")
    target = tmp_path / "out"
    write(target, "first")
    with pytest.raises(CommandError, match=rf"out.* {said}.*; the results are complete in .*/out$") as refused:
        _be_disturbed(target, disturb)
    notes = target / "notes.txt" if target.is_dir() else target
    assert notes.read_text() == "mine"
    kept = Path(str(refused.value).rpartition(" in ")[2])
    assert {p.name: p.read_text() for p in kept.iterdir()}.keys() == {"a.txt", "summary.json"}
    assert (kept / "a.txt").read_text() == "ours"
    assert {p.name for p in tmp_path.iterdir()} - {"elsewhere"} == {"out", kept.parent.name}
    assert not kept.parent.name.startswith(".")


@pytest.mark.usefixtures("no_exchange")
def test_two_that_replace_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one wins, and both end well: also when the folder goes away, or is there again, between two steps."""
    target, theirs = tmp_path / "out", iter(["theirs", "theirs again"])
    rename = type(target).rename

    def disturbed(self: Path, to: Path) -> Path:
        if self == target:
            shutil.rmtree(target)  # moved by the other one
        elif to == target and (text := next(theirs, None)) is not None:
            target.mkdir()
            (target / "a.txt").write_text(text)
            write_summary(target, {})
        return rename(self, to)

    write(target, "first")
    monkeypatch.setattr(type(target), "rename", disturbed)
    write(target, "ours", overwrite=True)
    monkeypatch.undo()
    assert (target / "a.txt").read_text() == "ours"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("no_exchange")
def test_ctrl_c_while_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there is there again, also when it had just been moved away."""
    target = tmp_path / "out"
    rename = type(target).rename

    def interrupted(self: Path, to: Path) -> Path:
        rename(self, to)
        monkeypatch.undo()
        raise KeyboardInterrupt

    write(target, "first")
    monkeypatch.setattr(type(target), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(target, "second", overwrite=True)
    assert (target / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_ctrl_c_while_the_replaced_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is removed all the same, also for a process that does not wait for that."""
    target = tmp_path / "out"
    left: list[str] = []

    def interrupted(*_: Any, **__: Any) -> None:
        monkeypatch.undo()
        if left:
            remove_unfinished()
        left[:] = [p.name for p in tmp_path.iterdir()]
        raise KeyboardInterrupt

    for text, seen in (("second", 2), ("third", 1)):
        write(target, "first", overwrite=True)
        monkeypatch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(target, text, overwrite=True)
        assert len(left) == seen
        assert (target / "a.txt").read_text() == text
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_ctrl_c_while_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """None is left, neither the hidden one nor those above: the signal comes in the call that makes it."""
    mkdir, made = os.mkdir, []

    def interrupted(path: Any, *args: Any, **kwargs: Any) -> None:
        mkdir(path, *args, **kwargs)
        made.append(path)
        if len(made) == which:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a" / "b" / "out", "new")
    assert len(made) == which
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    """The input would be deleted; wherever it is in there, and by whatever path it is read."""
    target = tmp_path / "out"
    write(target, "data")
    (tmp_path / "link").symlink_to(target / "a.txt")
    (tmp_path / "other").symlink_to(target)
    for name in (target / "a.txt", target / "sub" / "b.txt", tmp_path / "link", tmp_path / "other" / "a.txt"):
        with pytest.raises(CommandError, match=r"out is not replaced, for it holds .*, which is read: choose another"):
            check_output(target, overwrite=True, inputs=[None, str(name)])
    check_output(target, overwrite=True, inputs=[str(tmp_path / "elsewhere"), str(tmp_path / "out.npy"), None])


def test_messages_name_no_hidden_folder(tmp_path: Path) -> None:
    """What could not be written is called by the name that it would have had."""
    with pytest.raises(ResultFileError) as refused:
        _be_refused(tmp_path / "new" / "out", "no")
    assert str(refused.value) == f"cannot write {tmp_path / 'new' / 'out' / 'a.npz'}: no"
    assert list(tmp_path.iterdir()) == []
    for named, said in ((None, str(tmp_path / "out")), ("elsewhere/log.txt", "elsewhere/log.txt")):
        with pytest.raises(OSError, match="No space left on device") as full:
            _fail(tmp_path / "out", OSError(28, "No space left on device", *([] if named is None else [named])))
        assert full.value.filename == said
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be(tmp_path: Path) -> None:
    """Below a file, or with too long a name: what is named is the folder that was asked for."""
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"Not a directory|File name too long") as refused:
            _fail(target, RuntimeError())
        assert refused.value.filename == str(target)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_text_that_no_encoding_has(tmp_path: Path) -> None:
    """The name of a file need not be text; a terminal need not know ×."""
    target = tmp_path / "out"
    with output_folder(target, overwrite=False) as folder:
        write_summary(folder, {"file": "a\udcff.npy"})
    assert json.loads((target / "summary.json").read_text(encoding="utf-8"))["file"] == "a\udcff.npy"
    assert as_json({"unit": "µm"}) == '{\n "unit": "µm"\n}'
    assert json.loads(as_json({"unit": "µm"}, "ascii").encode("ascii")) == {"unit": "µm"}


def test_folders_that_share_new_parents(tmp_path: Path) -> None:
    """Whoever makes the parent, all write to it; one that is missing may be left again by ``..``."""
    ready = threading.Barrier(4)

    def make(target: Path) -> None:
        ready.wait()
        write(target, "x")

    for turn in range(20):
        targets = [tmp_path / f"{turn}" / "parent" / f"{i}" for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make, targets))
        assert all((target / "a.txt").exists() for target in targets)
    write(tmp_path / "new" / "x" / ".." / "out", "x")
    assert (tmp_path / "new" / "out" / "a.txt").exists()
    with pytest.raises(RuntimeError):
        _fail(tmp_path / "other" / "x" / ".." / "out", RuntimeError())
    assert not (tmp_path / "other").exists()


def test_names_that_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``..`` at the end means the folder itself; where the program is, no folder is pulled away from under it."""
    write(tmp_path / "out", "old")
    write(output_path(str(tmp_path / "out" / "sub" / "..")), "new", overwrite=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    monkeypatch.chdir(tmp_path / "out" / "sub")
    for name in (".", "..", str(tmp_path / "out")):
        with pytest.raises(CommandError, match="is not replaced, for it is the current folder or holds it"):
            check_output(output_path(name), overwrite=True)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(CommandError, match="the current folder was removed"):
        output_path("out")
    check_output(output_path(str(tmp_path)), overwrite=True)
