"""Files that change while they are used: one that grows at its end goes on, any other is loaded again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, write_mib
from every_executor import EVERY_EXECUTOR, make_context
from tilework.api import Context
from tilework.exceptions import DataSetException
from tilework.io.dataset import mapping
from tilework.testing.datasets import make_scheme, read_all
from tilework.udf.base import UDF
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SIG = (16, 24)
BEGIN = 3 * 128 * 128 * 2


@pytest.fixture
def ctx() -> Iterator[Context]:
    mapping.close_all()
    with Context.make_with("inline") as context:
        yield context
    mapping.close_all()


def _write_raw(path: Path, frames: NDArray[Any]) -> None:
    frames.tofile(path)


def _write_npy(path: Path, frames: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, frames)


def _write_mib(path: Path, frames: NDArray[Any]) -> None:
    write_mib(path, frames)


WRITERS: dict[str, Callable[[Path, NDArray[Any]], None]] = {"raw": _write_raw, "npy": _write_npy, "mib": _write_mib}


def _load(ctx: Context, form: str, path: Path, frames: int, parts: int | None = None) -> Any:
    given: dict[str, Any] = {"raw": {"dtype": "u2", "sig_shape": SIG}, "npy": {}, "mib": {}}[form]
    return ctx.load(form, path=path, nav_shape=(frames,), num_partitions=parts, **given)


def _by_another_file(path: Path, write: Callable[[Path, NDArray[Any]], None], frames: NDArray[Any]) -> None:
    write(path.with_suffix(".new"), frames)
    path.with_suffix(".new").replace(path)


def _in_place(path: Path, write: Callable[[Path, NDArray[Any]], None], frames: NDArray[Any]) -> None:
    write(path, frames)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("overwrite", [_by_another_file, _in_place])
@pytest.mark.parametrize("count", [7, 700])
@pytest.mark.parametrize("ran", [False, True])
def test_overwritten_by_a_larger_file(
    ctx: Context, tmp_path: Path, form: str, overwrite: Callable[..., None], count: int, ran: bool
) -> None:
    """A larger file that took the place of another one is not taken for the same, grown at its end."""
    path = tmp_path / f"scan.{form}"
    WRITERS[form](path, counts((count, *SIG), high=3))
    dataset = _load(ctx, form, path, count)
    if ran:
        ctx.run_udf(dataset=dataset, udf=SumUDF())
    overwrite(path, WRITERS[form], counts((count + 5, *SIG), high=3, seed=1))
    with pytest.raises(DataSetException, match=r"scan\.\w+ was overwritten, or replaced .* load it again"):
        ctx.run_udf(dataset=dataset, udf=SumUDF())
    with pytest.raises(DataSetException, match="was overwritten"):
        dataset.check_valid()


def test_another_file_of_the_same_size_and_time(ctx: Context, tmp_path: Path) -> None:
    """A file that was put in place of another one with its time, as `cp -p` and `rsync -a` do, is another file."""
    path, other = tmp_path / "scan.raw", tmp_path / "other.raw"
    _write_raw(path, counts((7, *SIG)))
    dataset = _load(ctx, "raw", path, 7)
    _write_raw(other, counts((7, *SIG), seed=1))
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)
    with pytest.raises(DataSetException, match="was overwritten, or replaced"):
        read_all(dataset)


def test_written_over_with_the_old_time(ctx: Context, tmp_path: Path) -> None:
    """Who puts the time back cannot hide it; a new name, mode or link changes no contents, and disturbs nobody."""
    path = tmp_path / "scan.raw"
    frames = counts((7, *SIG))
    _write_raw(path, frames)
    dataset = _load(ctx, "raw", path, 7)
    path.chmod(0o600)
    (tmp_path / "link.raw").hardlink_to(path)
    path.rename(tmp_path / "other.raw").rename(path)
    np.testing.assert_array_equal(read_all(dataset)[0], frames)
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(counts((7, *SIG), seed=1).tobytes())
    os.utime(path, ns=(before, before))
    with pytest.raises(DataSetException, match="was overwritten, or replaced"):
        read_all(dataset)


@pytest.mark.parametrize("form", WRITERS)
def test_a_copy_of_the_same_file_that_grew(ctx: Context, tmp_path: Path, form: str) -> None:
    """What copies a growing file anew each time, under a hidden name at first, does not disturb."""
    path, frames = tmp_path / f"scan.{form}", counts((700, *SIG), high=3)
    WRITERS[form](path, frames[:600])
    dataset = _load(ctx, form, path, 600)
    expected = frames[:600].astype("f4").sum(axis=0)
    for stop in (600, 650, 700):
        _by_another_file(path, WRITERS[form], frames[:stop])
        os.utime(path, ns=(0, 10**18 + (0 if stop == 600 else stop)))
        if stop == 600:  # the same size with another time may be anything
            with pytest.raises(DataSetException, match="was written to"):
                read_all(dataset)
            continue
        np.testing.assert_array_equal(ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"].data, expected)


@pytest.mark.parametrize("with_roi", [False, True])
def test_written_to_while_it_is_read(ctx: Context, tmp_path: Path, with_roi: bool) -> None:
    """A partition of which some may have been read before, and some after somebody wrote, ends with an error."""
    path, frames = tmp_path / "scan.raw", counts((12, *SIG))
    _write_raw(path, frames)
    dataset = _load(ctx, "raw", path, 12, parts=1)
    roi = np.arange(12) % 3 > 0 if with_roi else None
    (partition,) = dataset.get_partitions()
    tiles = partition.get_tiles(make_scheme(dataset, "partitions"), dest_dtype=None, roi=roi)
    next(tiles)
    with path.open("r+b") as file:
        file.write(bytes(SIG[0] * SIG[1] * 2))
    os.utime(path, ns=(0, 10**18))
    with pytest.raises(DataSetException, match="was written to since it was opened"):
        list(tiles)


def test_header_that_is_written_anew(ctx: Context, tmp_path: Path) -> None:
    """Who appends frames to an .npy file writes its header anew: what was seen of the frames has not changed."""
    path, frames = tmp_path / "scan.npy", counts((40, *SIG))
    _write_npy(path, frames[:30])
    dataset = _load(ctx, "npy", path, 30)
    expected, before = read_all(dataset)[0], path.read_bytes()[:128]
    _write_npy(path, frames)
    assert path.read_bytes()[:128] != before
    np.testing.assert_array_equal(read_all(dataset)[0], expected)


class _Cutting(UDF):
    """Cuts the file off while the first partition is being read."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"total": self.buffer(kind="nav", dtype="f8")}

    def process_frame(self, frame: NDArray[Any]) -> None:
        path = Path(self.params.path)
        if self.meta.coordinates[0, 0] == 2 and path.stat().st_size > BEGIN:
            os.truncate(path, BEGIN)
        self.results.total[:] = frame.sum()


@pytest.mark.parametrize("name", ["pipelined", "dask"])
def test_cut_off_while_it_is_read(tmp_path: Path, name: str) -> None:
    """The worker that reads is lost; the error says what happened to the file, and the next run goes well."""
    path, frames = tmp_path / "scan.raw", counts((64, 128, 128), high=3)
    _write_raw(path, frames)
    with make_context(name) as ctx:
        given: dict[str, Any] = {"path": path, "dtype": "u2", "nav_shape": (64,), "sig_shape": (128, 128)}
        dataset = ctx.load("raw", num_partitions=2, **given)
        with pytest.raises(DataSetException, match=rf"scan\.raw has shrunk from \d+ to {BEGIN} bytes .* cut off"):
            ctx.run_udf(dataset=dataset, udf=_Cutting(path=str(path)))
        _write_raw(path, frames)
        found = ctx.run_udf(dataset=ctx.load("raw", **given), udf=SumUDF())["intensity"].data
    np.testing.assert_array_equal(found, frames.astype("f4").sum(axis=0))


@pytest.mark.parametrize("name", EVERY_EXECUTOR)
def test_on_every_executor(tmp_path: Path, name: str) -> None:
    """Also on workers that have read the file before, a larger one in its place is an error, and growth is none."""
    path, frames = tmp_path / "scan.raw", counts((64, *SIG), high=3)
    expected = frames[:48].astype("f4").sum(axis=0)
    _write_raw(path, frames[:48])
    with make_context(name) as ctx:
        dataset = _load(ctx, "raw", path, 48, parts=4)
        for stop in (48, 56, 64):
            with path.open("ab") as file:
                frames[48 if stop == 48 else stop - 8 : stop].tofile(file)
            np.testing.assert_array_equal(ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"].data, expected)
        _by_another_file(path, _write_raw, counts((80, *SIG), seed=1))
        with pytest.raises(Exception, match=r"scan\.raw was overwritten, or replaced") as raised:
            np.asarray(ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"].data)
        assert isinstance(raised.value, DataSetException)
