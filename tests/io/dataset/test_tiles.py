"""Properties of partitions and tiles over random shapes, regions of interest, gaps and tilings."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_files import counts
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import DataSetException
from tilework.io.corrections import CorrectionSet, correct
from tilework.io.dataset import blocks, fixed_stride_partition
from tilework.io.dataset.axes import default_axes
from tilework.io.dataset.base import DataSetMeta, DataTile, Partition, default_num_partitions, make_slices
from tilework.io.dataset.layout import ArraySegment, FileSegment, FrameLayout
from tilework.io.dataset.memory import MemoryDataSet, MemoryPartition
from tilework.io.dataset.scratch import KEPT_BYTES, give_back, take_scratch
from tilework.io.dataset.seen import SeenFile
from tilework.io.dataset.tiling_scheme import TilingIntent, TilingScheme
from tilework.testing.datasets import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_tilings(data: st.DataObject) -> None:
    """Every present selected pixel comes once, right and at its place; no other; whatever is asked for."""
    nav = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3), label="nav"))
    sig = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3), label="sig"))
    stored = data.draw(st.sampled_from(["u1", "<u2", ">u2", ">i4", "<f4", ">f8", ">c8"]), label="dtype")
    frames = data.draw(st.integers(1, math.prod(nav) + 5), label="frames")
    sync_offset = data.draw(st.integers(-frames + 1, frames - 1), label="sync_offset")
    partitions = data.draw(st.integers(1, math.prod(nav)), label="partitions")
    tile = [data.draw(st.integers(1, n)) for n in sig]
    depth = data.draw(st.integers(1, 8), label="depth")
    intent: TilingIntent = data.draw(st.sampled_from(["partition", "frame", "tile"]), label="intent")
    wide = "c16" if "c" in stored else "f8"
    dest = data.draw(st.sampled_from([None, wide]), label="dest")
    roi = data.draw(st.none() | st.lists(st.booleans(), min_size=math.prod(nav), max_size=math.prod(nav)), label="roi")
    array = counts((frames, *sig), stored)
    kwargs: dict[str, Any] = {"nav_shape": nav, "sig_shape": sig, "sync_offset": sync_offset}
    present = np.array([0 <= p + sync_offset < frames for p in range(math.prod(nav))])
    kwargs |= {"data": array, "num_partitions": partitions, "sig_dims": len(sig)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not present.any():
            with pytest.raises(DataSetException, match="no frame of"):
                MemoryDataSet(**kwargs)
            return
        dataset = MemoryDataSet(**kwargs)
    scheme = TilingScheme.make_for_shape(Shape((depth, *tile), len(sig)), dataset.shape, intent)
    mask = None if roi is None else np.array(roi, dtype=np.bool_)
    got, count = read_all(dataset, scheme, dest, mask)
    chosen = np.flatnonzero(np.ones(len(present), np.bool_) if mask is None else mask)
    held = present[chosen]
    assert (count[held] == 1).all()
    assert (count[~held] == 0).all()
    np.testing.assert_array_equal(got[held], array[chosen[held] + sync_offset])


@pytest.mark.parametrize("view_bytes", [1, 700, 10**9])
@pytest.mark.parametrize("scratch_bytes", [1, 1000, 10**9])
def test_sizes_of_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, view_bytes: int, scratch_bytes: int) -> None:
    """What becomes a view and what is gathered, and how much at a time, does not change what is delivered."""
    monkeypatch.setattr(blocks, "VIEW_BYTES", view_bytes)
    monkeypatch.setattr(fixed_stride_partition, "SCRATCH_BYTES", scratch_bytes)
    array = counts((60, 9, 7), ">u2")
    dataset = MemoryDataSet(data=array, num_partitions=4)
    roi = np.random.default_rng(3).random(60) < 0.7
    for depth in (1, 5, 60):
        for rows in (2, 9):
            scheme = TilingScheme.make_for_shape(Shape((depth, rows, 7), 2), dataset.shape, "tile")
            for dest in (None, "f4"):
                np.testing.assert_array_equal(read_all(dataset, scheme, dest, roi)[0], array[roi])
                np.testing.assert_array_equal(read_all(dataset, scheme, dest)[0], array)


def test_adjacent_frames_are_views() -> None:
    """Large stretches of selected frames are views of the data, single ones between them are gathered together."""
    array = counts((64, 128, 128), "u2")  # 32 KiB a frame
    dataset = MemoryDataSet(data=array, num_partitions=1)
    roi = np.zeros(64, dtype=np.bool_)
    roi[[1, 3, 5]] = True
    roi[10:40] = True
    roi[50:54] = True
    scheme = TilingScheme.make_for_shape(Shape((64, 128, 128), 2), dataset.shape, "tile")
    (partition,) = dataset.get_partitions()
    found = [
        (len(t.data), bool(np.shares_memory(t.data, array)))
        for t in partition.get_tiles(scheme, dest_dtype=None, roi=roi)
    ]
    assert found == [(3, False), (30, True), (4, False)]


def test_gathered_and_converted_tiles_are_small() -> None:
    """However deep tiles may be, no more than about two megabytes are copied at a time."""
    array = counts((300, 64, 64), ">u2")  # 8 KiB a frame
    (partition,) = MemoryDataSet(data=array, num_partitions=1).get_partitions()
    roi = np.ones(300, dtype=np.bool_)
    roi[::2] = False
    scheme = TilingScheme.make_for_shape(Shape((300, 64, 64), 2), partition.meta.shape, "tile")
    for mask, dest in ((roi, None), (roi, "f8"), (None, "f8")):
        assert max(tile.data.nbytes for tile in partition.get_tiles(scheme, dest, mask)) <= 2 * MIB


def test_whole_partition_is_one_view() -> None:
    """Without region of interest, a tile as stored is a view, of the whole partition where the scheme allows it."""
    array = counts((64, 8, 8), ">f4")
    dataset = MemoryDataSet(data=array, num_partitions=2)
    scheme = TilingScheme.make_for_shape(Shape((32, 8, 8), 2), dataset.shape, "tile")
    for partition in dataset.get_partitions():
        (tile,) = partition.get_tiles(scheme, dest_dtype=None)
        assert tile.shape == (32, 8, 8)
        assert tile.dtype == ">f4"
        assert np.shares_memory(tile.data, array)


def test_parts_that_are_not_contiguous_are_copied() -> None:
    """A tile that covers parts of rows is a copy, because kernels need contiguous pixels; one of whole rows is a "
    "view."""
    array = counts((8, 6, 6), "u2")
    (partition,) = MemoryDataSet(data=array, num_partitions=1).get_partitions()
    for rows, columns, view in ((2, 6, True), (6, 3, False), (1, 3, True)):
        scheme = TilingScheme.make_for_shape(Shape((8, rows, columns), 2), partition.meta.shape, "tile")
        for tile in partition.get_tiles(scheme, dest_dtype=None):
            assert tile.data[0].flags.c_contiguous
            assert np.shares_memory(tile.data, array) is view


def test_macrotile_between_absent_frames() -> None:
    """Where frames are absent between others, there is no macrotile; each stretch of present frames is a tile."""
    array = counts((10, 3, 3), "u2")
    dataset = MemoryDataSet(data=array, num_partitions=1)
    (partition,) = dataset.get_partitions()
    assert isinstance(partition, MemoryPartition)
    partition._segments = (ArraySegment(array[:4], 0), ArraySegment(array[6:], 6))
    with pytest.raises(DataSetException, match="part-0 has absent frames between others"):
        partition.get_macrotile(None)
    scheme = TilingScheme.make_for_shape(Shape((10, 3, 3), 2), dataset.shape, "partition")
    assert [t.tile_slice.origin[0] for t in partition.get_tiles(scheme, dest_dtype=None)] == [0, 6]


@pytest.mark.parametrize("dtype", ["u2", ">u2", "u4", "f8", "c8"])
@pytest.mark.parametrize("depth", [1, 3])
def test_corrected_tiles(dtype: str, depth: int) -> None:
    """Who reads tiles himself can have them corrected; they are floats then, and an empty set changes nothing."""
    array = counts((5, 4, 3), dtype)
    (partition,) = MemoryDataSet(data=array, sig_dims=2, num_partitions=1).get_partitions()
    scheme = TilingScheme.make_for_shape(Shape((depth, 4, 3), 2), partition.meta.shape, "tile")
    dark, gain = np.arange(12.0).reshape(4, 3), np.full((4, 3), 2.0)
    partition.set_corrections(CorrectionSet(dark=dark, gain=gain))
    expected = correct(array, dark, gain)
    assert expected.dtype == np.result_type(np.float32, dtype)
    tiles = [tile.data.copy() for tile in partition.get_tiles(scheme, dest_dtype=None)]
    assert {tile.dtype for tile in tiles} == {expected.dtype}
    np.testing.assert_array_equal(np.concatenate(tiles), expected)
    np.testing.assert_array_equal(partition.get_macrotile(None).data, expected)
    assert np.dtype(dtype).kind == "c" or partition.get_macrotile().dtype == np.float32
    wide = np.result_type(dtype, np.float64)
    np.testing.assert_allclose(partition.get_macrotile(dest_dtype=wide).data, (array - dark) * gain, rtol=1e-12)
    for nothing in (None, CorrectionSet()):
        partition.set_corrections(nothing)
        assert next(iter(partition.get_tiles(scheme, dest_dtype=None))).dtype == np.dtype(dtype)


class TestPartitionCount:
    @pytest.mark.parametrize(
        ("frames", "frame_bytes", "expected"),
        [
            (1, 100, 1),
            (16384, 256, 2),  # 4 MiB
            (2048, 16 * 1024, 8),  # 32 MiB: for parts of 2 MiB, what a task costs beside its pixels would be the most
            (8, 16 * MIB, 2),  # what takes long for each large frame needs more than one core
            (30, MIB, 4),  # not 3, of which one of two cores would do two
            (100, MIB, 12),  # a few cores have something to share
            (2048, MIB // 2, 16),  # parts of 64 MiB
            (1024, MIB, 16),  # parts of 64 frames
            (64 * 1024, MIB, 1024),  # not more than 1024 parts
            (1024 * 1024, MIB, 2048),  # but none over 512 MiB
            (10, 1024 * MIB, 10),  # never more parts than frames
        ],
    )
    def test_rule(self, frames: int, frame_bytes: int, expected: int) -> None:
        """Parts of 64 to 512 MiB, at most about a thousand, and some for parallel work on small data."""
        assert default_num_partitions(frames, frame_bytes) == expected

    @given(st.integers(1, 10**7), st.integers(1, 10**9))
    def test_bounds(self, frames: int, frame_bytes: int) -> None:
        """There is at least one part, and at least one frame in each."""
        assert 1 <= default_num_partitions(frames, frame_bytes) <= frames

    @given(st.integers(1, 500), st.integers(1, 100), st.integers(-5, 5))
    def test_slices(self, frames: int, n: int, sync_offset: int) -> None:
        """Parts follow each other, differ by one frame at most, and know their frames in the source."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            slices = list(make_slices(Shape((frames, 2, 3), 2), n, sync_offset))
        assert len(slices) == min(n, frames)
        sizes = [part.shape[0] for part, _, _ in slices]
        assert sum(sizes) == frames
        assert max(sizes) - min(sizes) <= 1
        for part, start, stop in slices:
            assert (start, stop) == (part.origin[0] + sync_offset, part.origin[0] + sync_offset + part.shape[0])

    def test_more_parts_than_frames(self) -> None:
        """There is a warning, and one part for each frame."""
        with pytest.warns(RuntimeWarning, match="5 partitions are more than the 3 frames"):
            assert len(list(make_slices(Shape((3, 2), 1), 5))) == 3


def _seen(path: str) -> SeenFile:
    return SeenFile(path, 1000, 1, 2, 0, 1000, 8, b"digest")


class TestLayout:
    LAYOUT = FrameLayout(
        (
            FileSegment(_seen("a"), 10, 50, 4, 0),
            FileSegment(_seen("b"), 20, 50, 3, 6),
            FileSegment(_seen("b"), 220, 50, 1, 10),
        ),
        np.dtype("u1"),
        (40,),
    )

    @given(st.integers(0, 15), st.integers(0, 15), st.integers(-12, 12))
    def test_cut(self, start: int, length: int, sync_offset: int) -> None:
        """A cut holds exactly the frames at its positions, each at its byte."""
        byte = {i: ("a", 10 + 50 * i) for i in range(4)}
        byte |= {i: ("b", 20 + 50 * (i - 6)) for i in range(6, 9)} | {10: ("b", 220)}
        found = {}
        for segment in self.LAYOUT.cut(start, start + length, sync_offset):
            assert isinstance(segment, FileSegment)
            for k in range(segment.frames):
                found[segment.first + k] = (segment.seen.path, segment.offset + k * segment.stride)
        expected = {p: byte[p + sync_offset] for p in range(start, start + length) if p + sync_offset in byte}
        assert found == expected

    def test_facts(self) -> None:
        """Numbers of frames, missing ones and files."""
        assert self.LAYOUT.image_count == 11
        assert self.LAYOUT.frames_held == 8
        assert self.LAYOUT.paths == ["a", "b"]
        assert self.LAYOUT.absent(12, 0).tolist() == [False] * 4 + [True] * 2 + [False] * 3 + [True, False, True]


class TestSmallThings:
    def test_slice_of_a_partition(self) -> None:
        """A partition needs a flat navigation axis."""
        meta = DataSetMeta(Shape((2, 2, 3), 1), raw_dtype="u2")
        whole = next(iter(make_slices(Shape((4, 3), 1), 1)))[0]

        class Flat(Partition):
            get_tiles = get_macrotile = None  # type: ignore[assignment]

        assert Flat(meta, whole).get_ident() == "part-None"
        with pytest.raises(ValueError, match="one navigation axis"):
            Flat(meta, whole.from_shape((2, 2, 3), 1))

    def test_partition_that_only_gives_tiles(self) -> None:
        """All frames as one tile come from get_tiles; the tile keeps its data, and several tiles are no single one."""
        data = np.arange(24, dtype="u2").reshape(4, 6)
        meta = DataSetMeta(Shape((2, 2, 6), 1), raw_dtype="u2")
        buffer = np.empty((4, 6), dtype="u2")
        partitions = []

        class Streamed(Partition):
            def __init__(self, where: Slice, depth: int = 4) -> None:
                super().__init__(meta, where, io_backend=None, decoder=None)
                self.depth = depth

            def get_tiles(
                self, tiling_scheme: Any, dest_dtype: Any = None, roi: Any = None, array_backend: Any = None
            ) -> Iterator[DataTile]:
                start = self.slice.origin[0]
                chosen = np.ones(4, dtype=bool) if roi is None else roi.reshape(-1)
                own = np.flatnonzero(chosen[start : start + self.shape[0]]) + start
                for i in range(0, len(own), self.depth):
                    part = own[i : i + self.depth]
                    tile = buffer[: len(part)]
                    tile[:] = data[part]
                    where = Slice((int(chosen[: part[0]].sum()), 0), Shape((len(part), 6), 1))
                    yield DataTile(tile, where, 0)
                buffer[:] = 0

        for where, start, stop in Streamed.make_slices(Shape((4, 6), 1), 2):
            partition = Streamed(where)
            partitions.append(partition)
            tile = partition.get_macrotile(None)
            np.testing.assert_array_equal(tile.data, data[start:stop])
            assert tile.tile_slice == where
        roi = np.array([[True, False], [False, False]])
        assert partitions[0].get_macrotile(None, roi=roi).data.tolist() == data[:1].tolist()
        empty = partitions[1].get_macrotile("f4", roi=roi)
        assert (empty.data.shape, empty.dtype, empty.tile_slice.origin) == ((0, 6), np.dtype("f4"), (1, 0))
        with pytest.raises(DataSetException, match="several tiles"):
            Streamed(partitions[0].slice, depth=1).get_macrotile()

    def test_partition_without_a_backend(self) -> None:
        """How files are read is not said to a partition."""
        meta = DataSetMeta(Shape((2, 2, 3), 1), raw_dtype="u2")
        whole = next(iter(make_slices(Shape((4, 3), 1), 1)))[0]

        class Flat(Partition):
            get_tiles = None  # type: ignore[assignment]

        for wrong in ({"io_backend": object()}, {"decoder": object()}):
            with pytest.raises(DataSetException, match=f"{next(iter(wrong))}=.*get_tiles"):
                Flat(meta, whole, **wrong)

    def test_axes(self) -> None:
        """Axes have the names of the field, scales count from the last one, and useless scales are not known."""
        axes = default_axes(Shape((4, 5, 6, 7), 2), (2.0, float("nan")), "nm", (0.5,), "mrad")
        assert [(a.name, a.size, a.scale, a.units) for a in axes] == [
            ("y", 4, 2.0, "nm"),
            ("x", 5, None, None),
            ("ky", 6, None, None),
            ("kx", 7, 0.5, "mrad"),
        ]
        assert [a.name for a in default_axes(Shape((2,) * 6, 2))] == ["nav0", "nav1", "nav2", "nav3", "ky", "kx"]
        assert [a.name for a in default_axes(Shape((2, 3, 4), 3))] == ["kz", "ky", "kx"]

    def test_tiles_that_are_kept_stay(self) -> None:
        """Each lasts for as long as somebody holds it, though their memory is used again where nobody does."""
        images = counts((12, 4, 5), "u2")
        partition = next(MemoryDataSet(data=images, sig_dims=2, num_partitions=1).get_partitions())
        scheme = TilingScheme.make_for_shape(Shape((2, 4, 5), 2), Shape((12, 4, 5), 2))
        tiles = list(partition.get_tiles(scheme, "f8"))
        np.testing.assert_array_equal(np.concatenate([tile.data for tile in tiles]), images)

    def test_scratch_is_reused_but_not_hoarded(self) -> None:
        """Memory is kept for the next reader of the thread, unless it is very large."""
        small = take_scratch()
        small.get("block", (100,), np.dtype("f4"))
        give_back(small)
        assert take_scratch() is small
        small.get("block", (KEPT_BYTES + 1,), np.dtype("u1"))
        give_back(small)
        assert take_scratch() is not small
