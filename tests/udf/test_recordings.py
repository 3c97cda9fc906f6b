"""Recordings where the disk is full, or somebody else is there: no program is killed, and no file of before changes."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from every_executor import EVERY_EXECUTOR, make_context
from mount_namespace import in_mount_namespace
from tests_helpers import counts
from tilework.testing.wrong_udfs import RightUDF
from tilework.udf import RecordUDF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.api import Context

HEAD = """
import os
import numpy as np
from tilework.api import Context
from tilework.udf import RecordUDF

ctx = Context.make_with("inline")
data = np.ones((8, 8, 64, 64), dtype="f4")
"""
PARTS = """
dataset = ctx.load("memory", data=data, sig_dims=2, tileshape=(2, 3, 64))
write = lambda: ctx.run_udf(dataset=dataset, udf=RecordUDF(path))
"""
ABSENT = """
data[:1].tofile("some.raw")
dataset = ctx.load("raw", path="some.raw", dtype="f4", nav_shape=(8, 8), sig_shape=(64, 64))
write = lambda: ctx.export_dataset(dataset, path=path)
"""


@pytest.fixture(scope="module", params=[name for name in EVERY_EXECUTOR if name != "delayed"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as context:
        yield context


def load(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3)


@pytest.mark.parametrize("how", [PARTS, ABSENT], ids=["parts of frames", "export of absent frames"])
def test_a_full_disk_kills_nobody(how: str, tmp_path: Path) -> None:
    """The file of 1 MiB is where there are 256 KiB: an error names it, and nothing is left."""
    script = HEAD + textwrap.dedent(
        f"""
        path = "disk/scan.npy"
        {textwrap.indent(how, " " * 8).strip()}
        try:
            write()
        except OSError as error:
            print(error, os.listdir("disk"))
        """
    )
    (tmp_path / "disk").mkdir()
    python = shlex.join([sys.executable, "-W", "ignore", "-c", script])
    done = in_mount_namespace(f"cd {shlex.quote(str(tmp_path))}; mount -t tmpfs -o size=256k tmpfs disk; {python}")
    assert done.stdout.startswith("[Errno 28] No space left on device: ")
    assert done.stdout.endswith("disk/scan.npy' []\n")


class RemovesIt(RightUDF):
    """Removes the file while it is written, as a task does that has no room for more."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=path)

    def process_frame(self, frame: Any) -> None:
        self.params.path.unlink(missing_ok=True)
        super().process_frame(frame)


def test_the_file_of_before_is_not_written_to(tmp_path: Path) -> None:
    """Nor is it when tasks begin that do not find the one which was made for them."""
    path = tmp_path / "scan.npy"
    np.save(path, np.zeros_like(counts()))
    with make_context("inline") as ctx, pytest.raises(FileNotFoundError, match="what is recorded is not there"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=[RecordUDF(path), RemovesIt(Path(f"{path}.part"))])
    assert not np.load(path).any()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


def test_two_that_record_the_same_file(ctx: Context, tmp_path: Path) -> None:
    """The second is refused, and the first goes on; then it is free."""
    path = tmp_path / "scan.npy"
    steps = ctx.run_udf_iter(dataset=load(ctx, counts()), udf=RecordUDF(path))
    next(steps)
    with pytest.raises(FileExistsError, match="another run is recording it"):
        ctx.run_udf(dataset=load(ctx, counts((2, 3, 4, 5))), udf=RecordUDF(path))
    list(steps)
    np.testing.assert_array_equal(np.load(path), counts())
    ctx.run_udf(dataset=load(ctx, counts((2, 3, 4, 5))), udf=RecordUDF(path))
    assert np.load(path).shape == (2, 3, 4, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is named, and not the file that a recording has while it goes on."""
    recording = RecordUDF(tmp_path / "away" / "scan.npy")
    with make_context("inline") as ctx, pytest.raises(FileNotFoundError, match="no such folder: create it") as caught:
        ctx.run_udf(dataset=load(ctx, counts()), udf=recording)
    assert caught.value.filename == str(tmp_path / "away")


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A pipe, or a device, is no place for a recording."""
    pipe = tmp_path / "scan.npy"
    os.mkfifo(pipe)
    with make_context("inline") as ctx, pytest.raises(FileExistsError, match="no regular file"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=RecordUDF(pipe))
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]
