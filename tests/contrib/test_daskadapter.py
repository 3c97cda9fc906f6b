"""Datasets as Dask arrays, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pytest
import scipy.sparse
import sparse

from detector_files import counts
from tilework.api import Context
from tilework.contrib.daskadapter import make_dask_array
from tilework.exceptions import DataSetException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = counts((6, 7, 8, 9), "u2")
ROI = np.random.default_rng(1).random((6, 7)) < 0.3


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.mark.parametrize("num_partitions", [1, 3, 5, 42])
@pytest.mark.parametrize("dtype", ["f4", "u2", "f8"])
def test_it_is_the_data(ctx: Context, num_partitions: int, dtype: str) -> None:
    dataset = ctx.load("memory", data=DATA, num_partitions=num_partitions)
    array, workers = make_dask_array(dataset, dtype=dtype)
    assert (array.shape, array.dtype) == (DATA.shape, dtype)
    np.testing.assert_array_equal(array.compute(), DATA.astype(dtype))
    np.testing.assert_array_equal(array[2, 3:5].compute(), DATA[2, 3:5].astype(dtype))
    assert list(workers.values()) == [None] * num_partitions
    part = next(iter(workers)).compute()
    np.testing.assert_array_equal(part, DATA.reshape(-1, 8, 9)[: len(part)].astype(dtype))


def test_a_chunk_per_partition(ctx: Context) -> None:
    array, _ = make_dask_array(ctx.load("memory", data=DATA, num_partitions=3))
    assert array.dtype == np.float32
    assert array.chunks == ((2, 2, 2), (7,), (8,), (9,))


@pytest.mark.parametrize("roi", [ROI, np.zeros((6, 7), dtype=bool), np.ones((6, 7), dtype=bool)])
def test_selected_positions(ctx: Context, roi: Any) -> None:
    array, workers = make_dask_array(ctx.load("memory", data=DATA, num_partitions=5), roi=roi)
    np.testing.assert_array_equal(array.compute(), DATA[roi].astype("f4"))
    assert len(workers) == (5 if roi.any() else 0)


def test_other_ways_to_select(ctx: Context) -> None:
    """All that `Context.run_udf` takes, with the same errors."""
    dataset = ctx.load("memory", data=DATA, num_partitions=5)
    for roi, expected in ((sparse.COO(ROI), DATA[ROI]), ((1, 2), DATA[1, 2][np.newaxis])):
        np.testing.assert_array_equal(make_dask_array(dataset, roi=roi)[0].compute(), expected.astype("f4"))
    with pytest.raises(ValueError, match="incompatible shapes"):
        make_dask_array(dataset, roi=np.ones((7, 7), dtype=bool))


def test_frames_that_are_not_there(ctx: Context, tmp_path: Path) -> None:
    DATA.tofile(tmp_path / "scan.raw")
    path = tmp_path / "scan.raw"
    dataset = ctx.load(
        "raw", path=path, dtype="u2", nav_shape=(6, 7), sig_shape=(8, 9), sync_offset=-9, num_partitions=4
    )
    array, _ = make_dask_array(dataset)
    flat = array.compute().reshape(42, 8, 9)
    assert np.isnan(flat[:9]).all()
    np.testing.assert_array_equal(flat[9:], DATA.reshape(42, 8, 9)[:33].astype("f4"))
    assert (make_dask_array(dataset, dtype="u2")[0].compute().reshape(42, 8, 9)[:9] == 0).all()


def test_nothing_is_read_before(ctx: Context, tmp_path: Path) -> None:
    """The file may come and go: it is looked at when the array is computed."""
    np.save(tmp_path / "scan.npy", DATA)
    dataset = ctx.load("npy", path=tmp_path / "scan.npy")
    (tmp_path / "scan.npy").rename(tmp_path / "away.npy")
    array, _ = make_dask_array(dataset)
    with pytest.raises(DataSetException):
        array.compute()
    (tmp_path / "away.npy").rename(tmp_path / "scan.npy")
    np.testing.assert_array_equal(array.compute(), DATA)


def test_there_and_back(ctx: Context) -> None:
    array, _ = make_dask_array(ctx.load("memory", data=DATA, num_partitions=3))
    again, _ = make_dask_array(ctx.load("dask", array * 2, sig_dims=2))
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(again.compute(), DATA.astype("f4") * 2)


def test_another_kind_of_array(ctx: Context) -> None:
    """The chunks are what was asked for."""
    array, _ = make_dask_array(ctx.load("memory", data=DATA, num_partitions=3), array_backend="sparse.COO")
    computed = array.compute()
    assert isinstance(computed, sparse.COO)
    np.testing.assert_array_equal(computed.todense(), DATA.astype("f4"))


@pytest.mark.parametrize(
    "data",
    [sparse.COO.from_numpy(DATA), sparse.GCXS.from_numpy(DATA), scipy.sparse.csr_array(DATA.reshape(42, 72))],
    ids=["COO", "GCXS", "CSR"],
)
@pytest.mark.parametrize("backend", [None, "numpy"])
@pytest.mark.parametrize("roi", [None, ROI])
def test_a_sparse_dataset_becomes_dense(ctx: Context, data: Any, backend: str | None, roi: Any) -> None:
    """The chunks are NumPy arrays unless another kind is asked for, whatever the dataset holds."""
    dataset = ctx.load("memory", data=data, nav_shape=(6, 7), sig_shape=(8, 9), num_partitions=4)
    computed = make_dask_array(dataset, roi=roi, array_backend=backend)[0].compute()
    assert isinstance(computed, np.ndarray)
    np.testing.assert_array_equal(computed, (DATA if roi is None else DATA[roi]).astype("f4"))


def test_another_kind_of_array_must_be_offered(ctx: Context, tmp_path: Path) -> None:
    """A file of dense frames does not offer sparse ones."""
    np.save(tmp_path / "scan.npy", DATA)
    array, _ = make_dask_array(ctx.load("npy", path=tmp_path / "scan.npy"), array_backend="sparse.COO")
    with pytest.raises(DataSetException, match=r"sparse\.COO"):
        array.compute()
