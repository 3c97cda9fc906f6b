"""Arrays in memory as datasets."""

from __future__ import annotations

import pickle
import warnings
from contextlib import nullcontext
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import sparse
import sparseconverter

from detector_files import counts
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.io.dataset.memory import MemoryDataSet
from tilework.io.dataset.partition import HasPickedTiles
from tilework.testing.datasets import make_scheme, read_all


def test_needs_no_initialize() -> None:
    """The constructor does it all; what is loaded refers to the same memory."""
    data = counts((4, 5, 6, 7))
    dataset = MemoryDataSet(data=data)
    assert dataset.shape == (4, 5, 6, 7)
    np.testing.assert_array_equal(read_all(dataset)[0].reshape(data.shape), data)
    tile = next(next(dataset.get_partitions()).get_tiles(make_scheme(dataset, "partitions"), dest_dtype=None))
    assert np.shares_memory(tile.data, data)
    assert dataset.zero_copy
    assert load("memory", data=data, executor=InlineJobExecutor()).shape == data.shape


def test_loading_sends_nothing_away() -> None:
    """Loading an array gives no worker anything to do: it would have to be sent the array."""

    class Idle(InlineJobExecutor):
        def run_function(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(fn)

    assert load("memory", data=counts((4, 5, 6, 7)), executor=Idle()).shape == (4, 5, 6, 7)


def test_shape_without_data() -> None:
    """A shape gives zeros."""
    dataset = MemoryDataSet(datashape=(3, 4, 5, 6))
    assert dataset.dtype == np.float32
    assert not read_all(dataset)[0].any()


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({}, (2, 3, 4, 5)),
        ({"sig_dims": 1}, (2, 3, 4, 5)),
        ({"sig_dims": 3}, (2, 3, 4, 5)),
        ({"sig_shape": (20,)}, (2, 3, 20)),
        ({"sig_shape": (5,)}, (2, 3, 4, 5)),
        ({"nav_shape": (6,)}, (6, 4, 5)),
        ({"nav_shape": (2,)}, (2, 3, 4, 5)),
        ({"nav_shape": (3, 2), "sig_shape": (2, 10)}, (3, 2, 2, 10)),
        ({"sig_shape": (10,), "nav_shape": (12,)}, (12, 10)),
    ],
)
def test_how_shapes_are_found(kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Signal axes follow from sig_dims, sig_shape or nav_shape; the pixels stay in order."""
    data = counts((2, 3, 4, 5))
    dataset = MemoryDataSet(data=data, **kwargs)
    assert dataset.shape == shape
    np.testing.assert_array_equal(read_all(dataset)[0].reshape(-1), data.reshape(-1))


@pytest.mark.parametrize(
    ("stored", "sig_shape", "is_odd"),
    [
        ((3, 4, 6, 5), (6, 6), True),
        ((24, 35), (6, 7), True),
        ((3, 4, 6, 5), (5, 6), False),
        ((864,), (6, 6), False),
        ((12, 72), (6, 6), False),
        ((24, 6, 6), (36,), False),
    ],
)
def test_frames_across_the_ends_of_axes(stored: tuple[int, ...], sig_shape: tuple[int, ...], is_odd: bool) -> None:
    """An array may be cut otherwise than along its axes, but hardly anybody wants that: it is said."""
    data = counts(stored)
    with pytest.warns(RuntimeWarning, match="across the ends of its axes") if is_odd else nullcontext():
        dataset = MemoryDataSet(data=data, sig_shape=sig_shape)
    np.testing.assert_array_equal(read_all(dataset)[0].reshape(-1), data.reshape(-1))


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array"])
@pytest.mark.parametrize("what", ["indices", "indptr"])
def test_broken_sparse_arrays(kind: str, what: str) -> None:
    """Indices that point out of the array are refused: compiled code would follow them."""
    array = getattr(scipy.sparse, kind)(np.eye(16, dtype="f4"))
    getattr(array, what)[3] = 1000
    with pytest.raises(DataSetException, match="the sparse array is broken"):
        MemoryDataSet(data=array, nav_shape=(4, 4), sig_shape=(4, 4))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", [scipy.sparse.coo_matrix, scipy.sparse.coo_array, sparse.COO])
def test_broken_coordinates(kind: Any, axis: int) -> None:
    array = kind(np.eye(16, dtype="f4"))
    coordinates = array.coords[axis] if hasattr(array, "coords") else (array.row, array.col)[axis]
    coordinates[3] = 10**8
    with pytest.raises(DataSetException, match=f"broken: its indices along axis {axis} are not all below 16"):
        MemoryDataSet(data=array, nav_shape=(4, 4), sig_shape=(4, 4))


@pytest.mark.parametrize(
    ("stored", "kwargs", "nav", "sig"),
    [
        ((2, 2, 1, 3), {"sig_shape": (1, 3)}, (2, 2), (1, 3)),
        ((2, 2, 1, 3), {"sig_shape": (3, 1)}, (2, 2), (3, 1)),
        ((2, 2, 1, 3), {"sig_shape": (3,)}, (2, 2, 1), (3,)),
        ((4, 1, 3, 5), {"nav_shape": (4, 1)}, (4, 1), (3, 5)),
        ((4, 1, 3, 5), {"nav_shape": (2, 2)}, (2, 2), (3, 5)),
        ((4, 1, 3, 5), {"nav_shape": (4,)}, (4,), (1, 3, 5)),
        ((1, 1, 3, 5), {"nav_shape": (1, 1)}, (1, 1), (3, 5)),
    ],
)
def test_axes_of_length_one_are_counted(
    stored: tuple[int, ...], kwargs: dict[str, Any], nav: tuple[int, ...], sig: tuple[int, ...]
) -> None:
    """Of several ways to cut the array, the one with as many axes as the given shape has."""
    shape = MemoryDataSet(data=counts(stored), **kwargs).shape
    assert (shape.nav.to_tuple(), shape.sig.to_tuple()) == (nav, sig)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "needs an array"),
        ({"data": np.zeros((2, 2, 2)), "datashape": (2, 2)}, "exclude each other"),
        ({"data": [[1, 2], [3, 4]]}, "it is a list"),
        ({"data": "abc"}, "no kind of array"),
        ({"data": da.zeros((2, 2, 2))}, "a dask.Array, no kind of array .* load it as 'dask'"),
        ({"data": np.ma.masked_less(np.arange(8).reshape(2, 2, 2), 3)}, "something in this array is masked"),
        ({"data": np.zeros((2, 0, 2))}, "holds no data"),
        ({"data": np.zeros((2, 2, 2), dtype=object)}, "no numbers"),
        ({"data": np.zeros((2, 2, 2)), "sig_dims": 4}, "sig_dims=4 does not fit"),
        ({"data": np.zeros((2, 2, 2)), "sig_shape": (3,)}, "no multiple of the 3 of sig_shape"),
        ({"data": np.zeros((2, 2, 2)), "tileshape": (2, 2)}, "tileshape=.*must have 3 sizes"),
        ({"data": np.zeros((2, 2, 2)), "array_backends": ["tensorflow"]}, "array_backends"),
        ({"data": np.zeros((2, 2, 2)), "tiledelay": -1}, "tiledelay=-1: must be a number of seconds"),
        ({"data": np.zeros((2, 2, 2)), "tiledelay": "x"}, "tiledelay='x'"),
        ({"data": np.zeros((2, 2, 2)), "tiledelay": float("nan")}, "tiledelay=nan"),
    ],
)
def test_refused(kwargs: dict[str, Any], message: str) -> None:
    """What cannot be is refused with the reason."""
    with pytest.raises(DataSetException, match=message):
        MemoryDataSet(**kwargs)


def test_io_backend_is_refused() -> None:
    """An array needs no I/O."""
    with pytest.raises(ValueError, match="io_backend"):
        MemoryDataSet(data=np.zeros((2, 2, 2)), io_backend="mmap")


@pytest.mark.parametrize(("stored", "wanted"), [("u2", "u1"), ("i2", "u2"), ("f8", "i4"), ("c8", "f8")])
def test_unsafe_casts(stored: str, wanted: str) -> None:
    """Tiles in a dtype that cannot hold the values are refused, unless that is wanted."""
    data = counts((4, 5, 6, 7), stored)
    with pytest.raises(TypeError, match="cannot be cast safely"):
        read_all(MemoryDataSet(data=data), dest_dtype=wanted)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        got, _ = read_all(MemoryDataSet(data=data, check_cast=False), dest_dtype=wanted)
        np.testing.assert_array_equal(got.reshape(data.shape), data.astype(wanted))


@pytest.mark.parametrize("stored", ["u1", "u4", "i8", "f8"])
def test_floats_may_be_rounded(stored: str) -> None:
    """So tiles are float32 where nothing else is said, whatever is stored."""
    data = counts((4, 5, 6, 7), stored)
    got, _ = read_all(MemoryDataSet(data=data), dest_dtype="f4")
    np.testing.assert_array_equal(got.reshape(data.shape), data.astype("f4"))


def test_wishes_about_tiles() -> None:
    """Tile and base shapes that are asked for reach the negotiation, and such a dataset promises no whole "
    "partitions."""
    data = counts((4, 5, 6, 7))
    dataset = MemoryDataSet(data=data, tileshape=(3, 2, 7))
    assert dataset.adjust_tileshape((8, 6, 7), None) == (3, 2, 7)
    assert dataset.get_base_shape(None) == (3, 2, 7)
    assert not dataset.zero_copy
    assert MemoryDataSet(data=data, base_shape=(1, 3, 7)).get_base_shape(None) == (1, 3, 7)
    forced = MemoryDataSet(data=data, force_need_decode=True)
    assert forced.need_decode(data.dtype, None, None)
    assert not MemoryDataSet(data=data).need_decode(data.dtype, None, None)


@pytest.mark.parametrize("backend", [None, "numpy", "sparse.COO", "scipy.sparse.csr_matrix"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.COO], ids=["dense", "sparse"])
def test_delay_is_waited_for(kind: Any, backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each tile, also for tiles that are converted; they are the same as without."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    data = counts((4, 5, 6, 7))
    dataset = MemoryDataSet(data=kind(data), tiledelay=0.25, num_partitions=2)
    scheme = make_scheme(dataset, "partitions")
    frames = [
        sparseconverter.for_backend(tile.data, "numpy").reshape(-1, 6, 7).copy()
        for partition in dataset.get_partitions()
        for tile in partition.get_tiles(scheme, "f4", array_backend=backend)
    ]
    assert waits == [0.25] * len(frames)
    np.testing.assert_array_equal(np.concatenate(frames).reshape(data.shape), data)


@pytest.mark.parametrize("for_kernels", [False, True])
def test_delay_is_waited_for_by_picked_tiles(for_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selected frames come as slowly where they lie."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    dataset = MemoryDataSet(data=counts((4, 5, 6, 7)), tiledelay=0.25, num_partitions=2)
    roi = np.random.default_rng(0).random((4, 5)) < 0.5
    for partition in dataset.get_partitions():
        assert isinstance(partition, HasPickedTiles)
        tiles = partition.get_picked_tiles(make_scheme(dataset, "frames"), roi, for_kernels=for_kernels)
        assert tiles is not None
        assert len(list(tiles)) == len(waits)
        waits.clear()


def test_an_array_at_odd_addresses_is_gathered() -> None:
    """Kernels are compiled by themselves for what is not aligned, and may then sum in another order."""
    data = counts((4, 5, 6, 7))
    shifted = np.frombuffer(b"." + data.tobytes(), data.dtype, offset=1).reshape(data.shape)
    assert not shifted.flags.aligned
    dataset = MemoryDataSet(data=shifted, num_partitions=2)
    scheme = make_scheme(dataset, "partitions")
    roi = np.arange(20).reshape(4, 5) % 3 == 0
    for selected in (None, roi):
        tiles = []
        for partition in dataset.get_partitions():
            for tile in partition.get_tiles(scheme, dest_dtype=None, roi=selected):
                assert tile.data.flags.aligned
                tiles.append(tile.data.copy())
        np.testing.assert_array_equal(np.concatenate(tiles), data[np.ones((4, 5), bool) if selected is None else roi])
    for partition in dataset.get_partitions():
        assert isinstance(partition, HasPickedTiles)
        assert partition.get_picked_tiles(scheme, roi, for_kernels=True) is None


def test_a_partition_that_arrives_at_odd_addresses_is_aligned() -> None:
    """Dask lays what it receives end to end."""
    data = counts((4, 5, 6, 7))
    dataset = MemoryDataSet(data=data, num_partitions=1)
    (partition,) = dataset.get_partitions()
    sent: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(partition, protocol=5, buffer_callback=sent.append)
    assert sent
    arrived = pickle.loads(pickled, buffers=[memoryview(b"." + bytes(each.raw()))[1:] for each in sent])
    (tile,) = arrived.get_tiles(make_scheme(dataset, "partitions"), dest_dtype=None)
    assert tile.data.flags.aligned
    np.testing.assert_array_equal(tile.data.reshape(data.shape), data)


def test_partition_travels_with_its_part() -> None:
    """A pickled partition holds its own frames, not the whole array."""
    data = counts((64, 8, 16, 16))
    dataset = MemoryDataSet(data=data, num_partitions=64)
    for partition in dataset.get_partitions():
        assert len(pickle.dumps(partition)) < data.nbytes / 64 + 2048


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_dataset_travels_with_its_array_once(order: Any) -> None:
    data = np.asarray(counts((64, 8, 16, 16)), order=order)
    dataset = MemoryDataSet(data=data, num_partitions=8)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < data.nbytes * 1.1
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.data, data)
    np.testing.assert_array_equal(read_all(again)[0], read_all(dataset)[0])
    assert again.describe() == dataset.describe()


def test_frames_before_and_after() -> None:
    """sync_offset and larger scans work for arrays as for files."""
    data = counts((10, 3, 3))
    dataset = MemoryDataSet(data=data, sync_offset=3)
    assert dataset.absent_frames is not None
    assert np.flatnonzero(dataset.absent_frames).tolist() == [7, 8, 9]
    np.testing.assert_array_equal(read_all(dataset)[0][:7], data[3:])
    with pytest.warns(RuntimeWarning, match="6 positions without a frame"):
        MemoryDataSet(data=data, nav_shape=(4, 4), sig_dims=2)


def test_macrotile_of_the_present_frames() -> None:
    """Where frames are absent at the end only, the macrotile holds the others; between others there is none."""
    dataset = MemoryDataSet(data=counts((10, 3, 3)), sync_offset=3, num_partitions=2)
    sizes = [partition.get_macrotile().shape[0] for partition in dataset.get_partitions()]
    assert sizes == [5, 2]
