"""Sparse arrays as datasets: the contract of all datasets, and what stays sparse."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp
import sparse

from detector_files import counts
from tilework.exceptions import DataSetException
from tilework.io.corrections.corrset import CorrectionSet
from tilework.io.dataset.memory import MemoryDataSet, SparseMemoryPartition
from tilework.io.dataset.sparse_partition import as_canonical_csr
from tilework.testing.datasets import DataSetContract, make_scheme

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet


def few(shape: tuple[int, ...], dtype: str = "u2") -> NDArray[Any]:
    """Return counts of which most are zero."""
    data = counts(shape, dtype)
    return np.where(np.random.default_rng(1).random(shape) < 0.2, data, 0).astype(dtype)


class TestCOO(DataSetContract):
    """An array of pydata sparse, in frames of two axes."""

    partition_bytes = None

    def expected(self) -> NDArray[Any]:
        return few((6, 7, 8, 9))

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        return MemoryDataSet(data=sparse.COO.from_numpy(self.expected()), **kwargs)


class TestCSR(DataSetContract):
    """A matrix with the axes frames and pixels, with the first positions of the scan absent."""

    partition_bytes = None

    def expected(self) -> NDArray[Any]:
        data = few((6, 7, 8, 9), "f4")
        data.reshape((42, 8, 9))[:4] = 0
        return data

    def absent(self) -> NDArray[np.bool_]:
        return (np.arange(42) < 4).reshape(6, 7)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        frames = self.expected().reshape((42, -1))[4:]
        with pytest.warns(RuntimeWarning, match="38 frames"):
            return MemoryDataSet(
                data=sp.csr_array(frames), nav_shape=(6, 7), sig_shape=(8, 9), sync_offset=-4, **kwargs
            )


class TestGCXSAsNumPy(TestCOO):
    """Stored sparse, offered dense only."""

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        return MemoryDataSet(data=sparse.GCXS.from_numpy(self.expected()), array_backends=("numpy",), **kwargs)


@pytest.mark.parametrize("make", [sparse.COO.from_numpy, sparse.GCXS.from_numpy, sparse.DOK.from_numpy])
@pytest.mark.parametrize("pixels", [2, 12, 36])
def test_any_array_is_cut_in_c_order(make: Any, pixels: int) -> None:
    data = few((3, 4, 3, 4))
    matrix = as_canonical_csr(make(data), pixels, np.dtype("u2"))
    np.testing.assert_array_equal(matrix.toarray(), data.reshape(-1, pixels))
    assert matrix.has_canonical_format


def test_the_array_of_the_caller_is_left_alone_and_duplicates_are_summed() -> None:
    matrix = sp.coo_matrix(([1.0, 2.0, 4.0], ([0, 0, 1], [1, 1, 0])), shape=(4, 6)).tocsr()
    doubled = sp.csr_matrix((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2, 2, 2, 2])), shape=(4, 6))
    for given, want in [(matrix, 3.0), (doubled, 3.0)]:
        stored = given.data.copy()
        dataset = MemoryDataSet(data=given, nav_shape=(2, 2), sig_shape=(2, 3))
        (partition,) = dataset.get_partitions()
        tile = partition.get_macrotile(None, array_backend="numpy")
        assert tile.data[0, 0, 1] == want
        np.testing.assert_array_equal(given.data, stored)
        assert given.data.flags.writeable


def test_a_partition_takes_its_own_part_along() -> None:
    data = sparse.COO.from_numpy(few((20, 10, 16, 16)))
    whole = len(pickle.dumps(data))
    partitions = list(MemoryDataSet(data=data, num_partitions=20).get_partitions())
    assert all(isinstance(p, SparseMemoryPartition) for p in partitions)
    assert max(len(pickle.dumps(p)) for p in partitions) < whole / 10


def test_values_of_tiles_cannot_be_changed() -> None:
    dataset = MemoryDataSet(data=sparse.COO.from_numpy(few((4, 4, 5, 5))), num_partitions=2)
    partition = next(dataset.get_partitions())
    for backend in ("sparse.COO", "scipy.sparse.csr_matrix", "numpy"):
        for tile in partition.get_tiles(make_scheme(dataset, "whole frames"), dest_dtype=None, array_backend=backend):
            values = tile.data if backend == "numpy" else tile.data.data
            with pytest.raises(ValueError, match="read-only"):
                values[...] = 0


def test_what_no_sparse_matrix_can_hold_becomes_dense() -> None:
    """Half precision, and a background other than zero."""
    data = few((2, 3, 4, 4), "f4")
    half = MemoryDataSet(data=sparse.COO.from_numpy(data.astype("f2")))
    assert half.array_backends[0] == "numpy"
    bright = MemoryDataSet(data=sparse.COO.from_numpy(data + 1, fill_value=1))
    assert bright.array_backends[0] == "numpy"
    np.testing.assert_array_equal(bright.data, data + 1)


def test_bool_and_foreign_byte_order() -> None:
    data = few((2, 3, 4, 4), "u2") > 0
    dataset = MemoryDataSet(data=sparse.COO.from_numpy(data))
    assert dataset.dtype == np.dtype("bool")
    (partition,) = dataset.get_partitions()
    np.testing.assert_array_equal(partition.get_macrotile(None, array_backend="numpy").data, data.reshape(6, 4, 4))
    swapped = few((2, 3, 4, 4)).astype(">u2")
    dataset = MemoryDataSet(data=sparse.COO.from_numpy(swapped))
    assert dataset.dtype == np.dtype("u2")
    assert dataset.dtype.isnative
    (partition,) = dataset.get_partitions()
    np.testing.assert_array_equal(partition.get_macrotile(None, array_backend="numpy").data, swapped.reshape(6, 4, 4))


def test_corrections_are_refused() -> None:
    dataset = MemoryDataSet(data=sparse.COO.from_numpy(few((2, 3, 4, 4))))
    (partition,) = dataset.get_partitions()
    partition.set_corrections(CorrectionSet(dark=np.ones((4, 4))))
    with pytest.raises(DataSetException, match="cannot be corrected"):
        list(partition.get_tiles(make_scheme(dataset, "whole frames")))
