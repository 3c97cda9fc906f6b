"""Datasets exported as NumPy files: complete, or not at all."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from tests_helpers import counts
from tilework.api import Context
from tilework.io.dataset.memory import MemoryDataSet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def ctx() -> Any:
    with Context.make_with("threads") as context:
        yield context


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "c8"])
def test_export_and_load(ctx: Context, dtype: str, tmp_path: Path) -> None:
    data = counts(dtype=dtype)
    path = tmp_path / "scan.npy"
    ctx.export_dataset(ctx.load("memory", data=data, sig_dims=2), path=path)
    np.testing.assert_array_equal(np.load(path), data)
    again = ctx.load("auto", path=path)
    assert tuple(again.shape) == data.shape
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ctx.export_dataset(again, path=path)
    # What is read may be what is replaced.
    ctx.export_dataset(again, path=str(path), overwrite=True)
    np.testing.assert_array_equal(np.load(path), data)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


def test_export_of_reshaped_data_with_absent_frames(ctx: Context, tmp_path: Path) -> None:
    """Shape and offset become part of the file; positions without a frame are NaN."""
    data = counts((10, 8, 7), "f4")
    data.tofile(tmp_path / "a.raw")
    how: dict[str, Any] = {"dtype": "f4", "nav_shape": (3, 4), "sig_shape": (8, 7), "sync_offset": -2}
    with pytest.warns(RuntimeWarning, match="without a frame"):
        dataset = ctx.load("raw", path=tmp_path / "a.raw", **how)
    ctx.export_dataset(dataset, path=tmp_path / "a.npy")
    got = np.load(tmp_path / "a.npy").reshape(12, 8, 7)
    assert np.isnan(got[:2]).all()
    np.testing.assert_array_equal(got[2:], data)


class Broken(MemoryDataSet):
    """Gives no partition."""

    def get_partitions(self) -> Any:
        msg = "the disk is gone"
        raise OSError(msg)


def test_nothing_is_left_behind(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        ctx.export_dataset(ctx.load("memory", data=counts(), sig_dims=2), path=tmp_path / "a.raw")
    (tmp_path / "a.npy").write_bytes(b"before")
    with pytest.raises(OSError, match="the disk is gone"):
        ctx.export_dataset(Broken(data=counts(), sig_dims=2), path=tmp_path / "a.npy", overwrite=True)
    assert (tmp_path / "a.npy").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def _gone(block: np.ndarray, block_info: Any = None) -> np.ndarray:
    if block_info and block_info[0]["chunk-location"][0] > 0:
        msg = "the disk is gone"
        raise OSError(msg)
    return block


def test_nothing_is_said_of_what_is_removed(
    ctx: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names no hidden file, which is gone when somebody reads it."""
    monkeypatch.setattr(logging.getLogger("tilework"), "propagate", True)
    array = da.from_array(counts(dtype="f4"), chunks=(1, -1, -1, -1))
    dataset = ctx.load("dask", da.map_blocks(_gone, array, dtype="f4", meta=np.empty((0,) * 4, "f4")), sig_dims=2)
    with pytest.raises(Exception, match="the disk is gone"):
        ctx.export_dataset(dataset, path=tmp_path / "a.npy")
    assert "ended early" not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_names_of_bytes_and_of_folders(ctx: Context, tmp_path: Path) -> None:
    """A path may be bytes, as for `Context.load`; a folder is not replaced, and the error says what to do."""
    dataset = ctx.load("memory", data=counts(), sig_dims=2)
    ctx.export_dataset(dataset, path=os.fsencode(tmp_path / "a.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), counts())
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder, and is not replaced: choose another name"):
        ctx.export_dataset(dataset, path=tmp_path / "folder.npy", overwrite=True)
