"""Dask arrays as datasets: the contract, how chunks are merged, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import dask.array
import dask.base
import dask.config
import h5py
import numpy as np
import pytest
from dask.delayed import delayed
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from detector_files import counts
from tilework.api import Context
from tilework.exceptions import DataSetException
from tilework.io.dataset.dask import DaskDataSet, merge_chunks
from tilework.testing.datasets import DataSetContract, read_all
from tilework.udf import SumSigUDF, SumUDF

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet

da: Any = dask.array


def cut(size: int, parts: int) -> tuple[int, ...]:
    """Return so many chunks of about the same size."""
    return tuple(len(part) for part in np.array_split(np.arange(size), parts))


class TestDask(DataSetContract):
    """An array that is computed: chunks of rows of the scan, and parts of frames."""

    filetype = "dask"
    partition_bytes = None
    stored = "i2"

    def expected(self) -> NDArray[Any]:
        return counts((6, 7, 8, 9), self.stored)

    def make_array(self, rows: tuple[int, ...]) -> Any:
        data = self.expected()
        return da.from_array(data - 1, chunks=(rows, 7, 4, 5)) + np.ones((), dtype=data.dtype)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        array = self.make_array(cut(6, kwargs["num_partitions"] or 6) if kwargs else (1,) * 6)
        return DaskDataSet(array, sig_dims=2, min_size=1).initialize(executor)


class TestDaskBigEndian(TestDask):
    """Computed from a big-endian array that is not C-contiguous."""

    def make_array(self, rows: tuple[int, ...]) -> Any:
        return da.from_array(np.asfortranarray(self.expected().astype(">i2")), chunks=(rows, 7, 4, 5))


class TestDaskBool(TestDask):
    """Computed as bool."""

    def expected(self) -> NDArray[Any]:
        return counts((6, 7, 8, 9), "bool")

    def make_array(self, rows: tuple[int, ...]) -> Any:
        return da.from_array(self.expected(), chunks=(rows, 7, 4, 5)) > 0


class TestDaskSparse(TestDask):
    """Chunks that are sparse arrays."""

    def make_array(self, rows: tuple[int, ...]) -> Any:
        import sparse

        return da.from_array(self.expected(), chunks=(rows, 7, 8, 9)).map_blocks(sparse.COO.from_numpy)


def test_every_frame_is_in_the_scan() -> None:
    """There is no offset between them, and none is left over; programs ask that of any dataset."""
    dataset = DaskDataSet(da.zeros((6, 7, 8, 9), chunks=(2, 7, 8, 9)), sig_dims=2)
    assert (dataset.meta.image_count, dataset.meta.sync_offset) == (42, 0)
    assert set(dataset.get_sync_offset_info().values()) == {0}


def partitions(array: Any, **kwargs: Any) -> list[int]:
    dataset = DaskDataSet(array, **{"sig_dims": 2, "min_size": 1, **kwargs})
    return [partition.shape[0] for partition in dataset.get_partitions()]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((2, 8, 16, 16), [16] * 4),  # whole lines: as they are
        ((2, 4, 8, 8), [16] * 4),  # parts of lines are merged to lines, parts of frames to frames
        ((1, 2, 16, 16), [2] * 32),  # parts of one line: as they are
        ((8, 1, 16, 16), [64]),  # columns: only all of it is a run of the scan
        ((8, 8, 4, 4), [64]),
        (((1, 1, 6), 4, 16, 16), [8, 8, 48]),
    ],
)
def test_chunks_become_partitions(chunks: Any, expected: list[int]) -> None:
    assert partitions(da.zeros((8, 8, 16, 16), chunks=chunks)) == expected


def test_axes_may_change_their_order() -> None:
    data = counts((8, 6, 4, 4), "f4")
    array = da.from_array(data, chunks=(8, 1, 4, 4))
    dataset = DaskDataSet(array, sig_dims=2, min_size=1, preserve_dimensions=False)
    assert dataset.shape.to_tuple() == (6, 8, 4, 4)
    assert [partition.shape[0] for partition in dataset.get_partitions()] == [8] * 6
    np.testing.assert_array_equal(read_all(dataset)[0].reshape(dataset.shape.to_tuple()), data.transpose(1, 0, 2, 3))


def test_small_neighbours_are_merged() -> None:
    frame = 16 * 16 * 4
    array = da.zeros((8, 8, 16, 16), dtype="f4", chunks=(1, 2, 16, 16))
    assert partitions(array, min_size=3 * frame) == [4] * 16
    assert partitions(array, min_size=8 * frame) == [8] * 8
    assert partitions(array, min_size=9 * frame) == [16] * 4
    assert partitions(array, min_size=25 * frame) == [32, 32]
    assert partitions(array, min_size=10**9) == [64]


def test_default_suits_the_size_of_the_data() -> None:
    """Enough partitions for some cores, none of them tiny."""
    array = da.zeros((64, 64, 64, 64), dtype="f4", chunks=(1, 8, 64, 64))
    sizes = partitions(array, min_size=None)
    assert 8 <= len(sizes) <= 32
    assert partitions(da.zeros((8, 8, 8, 8), chunks=(1, 1, 8, 8)), min_size=None) == [64]


@given(st.data())
def test_merged_chunks_are_runs_of_the_scan(data: st.DataObject) -> None:
    """No chunk is split, and each chunk is a run of the flattened scan, at least of the size asked for."""
    chunks = [
        tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    least = data.draw(st.integers(1, 200))
    merged = merge_chunks(chunks, least)
    shape = tuple(map(sum, chunks))
    assert tuple(map(sum, merged)) == shape
    for before, after in zip(chunks, merged, strict=True):
        assert set(np.cumsum(after)) <= set(np.cumsum(before))
    flat = da.from_array(np.arange(np.prod(shape)).reshape(shape), chunks=merged)
    found = [np.asarray(block.compute(scheduler="sync")).reshape(-1) for block in flat.blocks.ravel()]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(np.prod(shape)))
    assert len(found) == 1 or min(map(len, found)) >= least


def test_each_chunk_is_computed_once_per_run_and_only_where_selected() -> None:
    computed = []

    def look(block: NDArray[Any]) -> NDArray[Any]:
        computed.append(threading.get_ident())
        return block

    data = counts((6, 7, 8, 9), "u2")
    array = da.from_array(data, chunks=(1, 7, 8, 9)).map_blocks(look, dtype="u2", meta=np.empty((0,) * 4, "u2"))
    roi = np.zeros((6, 7), dtype=bool)
    roi[2:4, 3] = True
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("dask", array, sig_dims=2, min_size=1)
        assert computed == []
        results = ctx.run_udf(dataset=dataset, udf=[SumUDF(), SumSigUDF()])
        assert computed == [threading.get_ident()] * 6
        np.testing.assert_array_equal(results[0]["intensity"].data, data.sum(axis=(0, 1)))
        computed.clear()
        result = ctx.run_udf(dataset=dataset, udf=SumSigUDF(), roi=roi)
        assert len(computed) == 2
        np.testing.assert_array_equal(result["intensity"].raw_data, data[roi].sum(axis=(1, 2)))


def test_a_partition_takes_only_its_own_part_along() -> None:
    array = da.from_array(np.zeros((16, 16, 32, 32)), chunks=(1, 16, 32, 32))
    sizes = [len(pickle.dumps(p)) for p in DaskDataSet(array, sig_dims=2, min_size=1).get_partitions()]
    assert max(sizes) < 1.2 * array.nbytes / 16


def test_lambdas_travel() -> None:
    data = counts((4, 4, 8, 8), "f4")
    array = da.from_array(data, chunks=(1, 4, 8, 8)).map_blocks(lambda block: block * 2)
    copy = pickle.loads(pickle.dumps(DaskDataSet(array, sig_dims=2)))
    np.testing.assert_array_equal(read_all(copy)[0].reshape(data.shape), data * 2)


@pytest.mark.parametrize("executor", ["pipelined", "delayed"])
def test_arrays_of_open_files_travel(executor: Any, tmp_path: Path) -> None:
    """As those of programs that read HDF5 lazily, with functions of theirs; other processes open the file again."""
    data = counts((4, 4, 8, 8), "u2")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["frames"] = data
    options = {"cpus": 1} if executor == "pipelined" else {}
    with (
        h5py.File(tmp_path / "scan.h5") as file,
        Context.make_with(executor, **options) as ctx,
        dask.config.set(scheduler="processes", num_workers=1),
    ):
        array = da.from_array(file["frames"], chunks=(1, 4, 8, 8)).map_blocks(lambda block: block // 2)
        result = ctx.run_udf(dataset=ctx.load("dask", array, sig_dims=2, min_size=1), udf=SumSigUDF())
        np.testing.assert_array_equal(result["intensity"].data, (data // 2).sum(axis=(2, 3)))


@pytest.mark.parametrize("what", ["open for writing", "closed", "a lock"])
def test_arrays_of_what_cannot_travel(what: str, tmp_path: Path) -> None:
    """The error says what to do, where the data is to be sent; in this process it can be read, unless it is closed."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["frames"] = counts((4, 4, 8, 8), "u2")
        file.flush()
        lock = threading.Lock()
        array = da.from_array(file["frames"], chunks=(1, 4, 8, 8), name=False)
        if what == "a lock":
            array = da.zeros((4, 4, 8, 8), chunks=(1, 4, 8, 8)).map_blocks(lambda block: block + lock.locked())
        dataset = DaskDataSet(array, sig_dims=2)
        if what != "closed":
            assert read_all(dataset)[1].all()
            with pytest.raises(DataSetException, match=r"cannot be sent to worker processes .* executor of threads"):
                pickle.dumps(dataset)
    if what == "closed":
        with pytest.raises(DataSetException, match=r"cannot be sent to worker processes .* keep them open"):
            pickle.dumps(dataset)


@pytest.mark.parametrize(
    ("array", "kwargs", "message"),
    [
        (np.zeros((4, 4, 4)), {}, "'memory'"),
        (da.zeros((4, 4, 4), chunks=2), {"sig_dims": 3}, "navigation axis"),
        (da.zeros((4, 4, 4), chunks=2), {"sig_dims": 0}, "sig_dims=0"),
        (da.zeros((0, 4, 4), chunks=2), {}, "no data"),
        (da.zeros((4, 4, 4), chunks=2)[da.ones(4, chunks=2) > 0], {}, "compute_chunk_sizes"),
        (da.zeros((4, 4, 4), chunks=2).astype("U3"), {}, "no numbers"),
        (da.zeros((4, 4, 4), chunks=2), {"io_backend": "mmap"}, "io_backend"),
        (da.zeros((4, 4, 4), chunks=2), {"sig_dims": "2"}, "sig_dims='2'"),
        (da.zeros((4, 4, 4), chunks=2), {"min_size": "1 MB"}, "min_size='1 MB'"),
        (da.zeros((4, 4, 4), chunks=2), {"min_size": -1}, "min_size=-1"),
        (da.zeros((4, 4, 4), chunks=2), {"min_size": float("inf")}, "min_size=inf"),
    ],
)
def test_what_is_refused(array: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(DataSetException, match=message):
        DaskDataSet(array, **{"sig_dims": 2, **kwargs})


@pytest.mark.parametrize("lie", [lambda b: b.astype("f8"), lambda b: b.swapaxes(1, 2)])
def test_an_array_that_lies_is_refused(lie: Any) -> None:
    """Also one whose chunks have as many pixels as they should have, but not where they should be."""
    array = da.zeros((4, 4, 6), chunks=(2, 4, 6), dtype="f4").map_blocks(lie, dtype="f4", chunks=((2, 2), (4,), (6,)))
    with pytest.raises(DataSetException, match="correct its meta"):
        read_all(DaskDataSet(array, sig_dims=2, min_size=1))


def test_arrays_that_a_cluster_holds_are_refused() -> None:
    """However deep in the graph their futures are: it would fail in every task."""
    options: dict[str, Any] = {"processes": False, "n_workers": 1, "dashboard_address": "127.0.0.1:0"}
    array = da.ones((4, 4, 4), chunks=2)
    with Client(set_as_default=False, **options) as client:
        held = client.persist(array)
        made = da.from_delayed(delayed(np.negative)(client.submit(np.ones, (4, 4, 4))), (4, 4, 4), "f8")
        for each in (held, held.rechunk(-1), held[:2] + 1, dask.base.optimize(held + 1)[0], made):
            with pytest.raises(DataSetException, match="before persist"):
                DaskDataSet(each, sig_dims=2)
        assert DaskDataSet(array, sig_dims=2).get_num_partitions() == 1, "this one is not"


def test_masked_chunks_are_refused() -> None:
    array = da.ma.masked_equal(da.zeros((4, 4, 4), chunks=2), 0)
    with pytest.raises(DataSetException, match="filled"):
        read_all(DaskDataSet(array, sig_dims=2))


def test_without_dask() -> None:
    """Where Dask is not installed, the message names the extra."""
    code = (
        "import sys; sys.modules['dask'] = None; sys.modules['dask.array'] = None\n"
        "from tilework.api import Context\n"
        "try: Context.make_with('inline').load('dask', object(), sig_dims=2)\n"
        "except Exception as e: print(type(e).__name__, e)\n"
        "try: Context.make_with('delayed')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("DataSetException")
    assert second.startswith("ExecutorSpecException")
    assert all("pip install 'tilework[dask]'" in line for line in (first, second))
