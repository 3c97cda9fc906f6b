"""Datasets exported as NumPy files: complete, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
