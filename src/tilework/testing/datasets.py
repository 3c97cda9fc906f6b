"""The contract of every dataset, as tests: subclass `DataSetContract`, say how to make the dataset, run pytest.

::

    class TestMyFormat(DataSetContract):
        def make_dataset(self, folder, executor, **kwargs):
            write_my_file(folder / "scan.my", self.expected())
            return MyDataSet(folder / "scan.my", **kwargs).initialize(executor)

        def expected(self):
            return np.arange(5 * 7 * 8 * 9, dtype="u2").reshape(5, 7, 8, 9)

The hooks bypass what is tested: a file is to be written from the description of its format, not with the code that
reads it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.common.array_backends import BACKENDS
from tilework.common.kernels.picked_frames import in_memory
from tilework.common.shape import Shape
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset.partition import HasPickedTiles
from tilework.io.dataset.registry import detect, load
from tilework.io.dataset.tiling_scheme import TilingIntent, TilingScheme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet, DataTile
    from tilework.io.dataset.partition import Partition

__all__ = ["DataSetContract", "read_all"]

# Tile shapes as fractions of a partition's depth and of each signal axis; more than 1 reaches beyond.
TILINGS: dict[str, tuple[float, float, TilingIntent]] = {
    "partitions": (1.0, 1.0, "partition"),
    "parts of partitions": (1.0, 0.4, "partition"),
    "frames": (0.0, 1.0, "frame"),
    "whole frames": (0.3, 1.0, "tile"),
    "parts of frames": (0.0, 0.4, "tile"),
    "small tiles": (0.3, 0.3, "tile"),
    "deeper than partitions": (2.0, 0.6, "tile"),
}
ROIS = ["none", "all", "nothing", "first", "last", "one in ten", "most", "block"]


def make_roi(kind: str, nav: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return a region of interest; the random ones are the same every time."""
    positions = math.prod(nav)
    roi = np.zeros(positions, dtype=np.bool_)
    rng = np.random.default_rng(7)
    match kind:
        case "none":
            return None
        case "all":
            roi[:] = True
        case "first":
            roi[0] = True
        case "last":
            roi[-1] = True
        case "one in ten":
            roi[:] = rng.random(positions) < 0.1
        case "most":
            roi[:] = rng.random(positions) < 0.9
        case "block":
            roi[positions // 4 : positions // 2 + 1] = True
    return roi.reshape(nav)


def make_scheme(dataset: DataSet, tiling: str) -> TilingScheme:
    """Return a scheme for a dataset."""
    depth, fraction, intent = TILINGS[tiling]
    frames = max(partition.shape[0] for partition in dataset.get_partitions())
    sig = dataset.shape.sig.to_tuple()
    part = [max(1, min(n, math.ceil(n * fraction))) for n in sig]
    return TilingScheme.make_for_shape(
        Shape((max(1, math.ceil(frames * depth)), *part), len(sig)), dataset.shape, intent
    )


def read_all(
    dataset: DataSet,
    scheme: TilingScheme | None = None,
    dest_dtype: Any = None,
    roi: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Read a dataset tile by tile.

    Returns
    -------
    data, count
        What was delivered, of shape (selected positions, ``*sig``), zero where nothing was; and how often each pixel
        was delivered, of the same shape.
    """
    scheme = scheme if scheme is not None else make_scheme(dataset, "whole frames")
    selected = dataset.shape.nav.size if roi is None else int(np.count_nonzero(roi))
    shape = (selected, *dataset.shape.sig)
    data = np.zeros(shape, dtype=dataset.dtype if dest_dtype is None else dest_dtype)
    count = np.zeros(shape, dtype=np.int64)
    for partition in dataset.get_partitions():
        for tile in partition.get_tiles(scheme, dest_dtype=dest_dtype, roi=roi, array_backend="numpy"):
            data[tile.tile_slice.get()] = tile.data
            count[tile.tile_slice.get()] += 1
    return data, count


class DataSetContract(ABC):
    """What every dataset keeps.

    Attributes
    ----------
    filetype
        Name under which `load` knows the format.
    file_name
        File in the folder given to `make_dataset` that is to be detected as `filetype`; None for what has no file or
        cannot be detected.
    partition_bytes
        The most bytes a pickled partition may have; None for data that travels with it.
    convertible
        Dtypes in which tiles are asked for, the widest last; the dataset's own can be cast safely to each of them.
    """

    filetype: str = ""
    file_name: str | None = None
    partition_bytes: int | None = 4096
    convertible: tuple[str, ...] = ("f4", "f8", "c16")

    @abstractmethod
    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        """Write the data into an empty folder and return the initialized dataset.

        `kwargs` are further arguments of the dataset: ``num_partitions``.
        """

    @abstractmethod
    def expected(self) -> NDArray[Any]:
        """Return all frames, of shape (``*nav, *sig``), in native byte order; absent ones may hold anything."""

    def absent(self) -> NDArray[np.bool_] | None:
        """Return which positions have no frame, in the shape of the scan; None when all have one."""
        return None

    # -- fixtures

    @pytest.fixture
    def executor(self) -> Iterator[JobExecutor]:
        """An executor for opening files."""
        executor = InlineJobExecutor()
        yield executor
        executor.close()

    @pytest.fixture
    def dataset(self, tmp_path: Path, executor: JobExecutor) -> DataSet:
        """The dataset, in five partitions."""
        return self.make_dataset(tmp_path, executor, num_partitions=5)

    def _present(self, dataset: DataSet) -> NDArray[np.bool_]:
        absent = self.absent()
        return np.ones(dataset.shape.nav.size, dtype=np.bool_) if absent is None else ~absent.reshape(-1)

    def _frames(self, dataset: DataSet) -> NDArray[Any]:
        return self.expected().reshape((-1, *dataset.shape.sig))

    # -- what it says of itself

    def test_shape_and_dtype(self, dataset: DataSet) -> None:
        """Shape and dtype are those of the data, the dtype in native byte order."""
        expected = self.expected()
        assert dataset.shape.to_tuple() == expected.shape
        assert dataset.dtype == expected.dtype
        assert dataset.dtype.isnative
        assert dataset.meta.shape == dataset.shape
        assert dataset.meta.dtype == dataset.dtype

    def test_says_where_frames_are_absent(self, dataset: DataSet) -> None:
        """Absent frames are declared, and no mask is given when there are none."""
        absent, found = self.absent(), dataset.absent_frames
        if absent is None:
            assert found is None
        else:
            assert found is not None
            np.testing.assert_array_equal(found, absent)
        present, roi = self._present(dataset).reshape(dataset.shape.nav.to_tuple()), dataset.roi[..., 1::2]
        np.testing.assert_array_equal(dataset.present_positions(), present)
        np.testing.assert_array_equal(dataset.present_positions(roi), present & roi)

    def test_describes_itself(self, dataset: DataSet) -> None:
        """The description can be written as JSON, diagnostics are text, and every axis is named once."""
        described = json.loads(json.dumps(dataset.describe()))
        assert tuple(described["shape"]) == dataset.shape.to_tuple()
        assert np.dtype(described["dtype"]) == dataset.dtype
        assert all({type(text) for text in entry.values()} == {str} for entry in dataset.diagnostics)
        assert all(entry.keys() == {"name", "value"} for entry in dataset.diagnostics)
        assert [axis.size for axis in dataset.axes] == list(dataset.shape)
        assert len({axis.name for axis in dataset.axes}) == len(dataset.shape)

    def test_is_valid(self, dataset: DataSet, executor: JobExecutor) -> None:
        """A worker can read it."""
        assert executor.run_function(dataset.check_valid) is True

    def test_roi_helper(self, dataset: DataSet) -> None:
        """`roi[index]` selects what the index selects."""
        mask = dataset.roi[0]
        assert mask.shape == dataset.shape.nav.to_tuple()
        assert mask.dtype == np.bool_
        assert mask[0].all()
        assert np.count_nonzero(mask) == mask[0].size

    # -- partitions

    @pytest.mark.parametrize("num_partitions", [None, 1, 2, 5])
    def test_partitions_cover_the_scan_once(
        self, tmp_path: Path, executor: JobExecutor, num_partitions: int | None
    ) -> None:
        """Partitions follow each other without gap or overlap, over the whole detector, as many as were asked for."""
        dataset = self.make_dataset(tmp_path, executor, num_partitions=num_partitions)
        partitions = list(dataset.get_partitions())
        if num_partitions is not None:
            assert len(partitions) == num_partitions
        assert len(partitions) == dataset.get_num_partitions()
        end = 0
        for i, partition in enumerate(partitions):
            assert partition.slice.origin == (end, *(0,) * dataset.shape.sig_dims)
            assert partition.shape.sig == dataset.shape.sig
            assert partition.get_ident() == f"part-{i}"
            assert partition.get_frame_count() == partition.shape[0] >= 1
            end += partition.shape[0]
        assert end == dataset.shape.nav.size

    def test_partitions_do_not_depend_on_workers(self, dataset: DataSet) -> None:
        """The number of cores changes nothing."""
        before = [partition.slice for partition in dataset.get_partitions()]
        dataset.set_num_cores(97)
        assert [partition.slice for partition in dataset.get_partitions()] == before

    def test_partitions_count_the_roi(self, dataset: DataSet) -> None:
        """The frame counts of all partitions add up to the number of selected positions."""
        roi = make_roi("one in ten", dataset.shape.nav.to_tuple())
        assert roi is not None
        counts = [partition.get_frame_count(roi) for partition in dataset.get_partitions()]
        assert sum(counts) == np.count_nonzero(roi)

    def test_partitions_travel(self, dataset: DataSet) -> None:
        """A pickled partition reads the same, and carries little."""
        scheme = make_scheme(dataset, "whole frames")
        for partition in dataset.get_partitions():
            pickled = pickle.dumps(partition)
            if self.partition_bytes is not None:
                assert len(pickled) <= self.partition_bytes
            copy: Partition = pickle.loads(pickled)
            assert copy.slice == partition.slice
            assert copy.get_ident() == partition.get_ident()
            for mine, theirs in zip(
                *(p.get_tiles(scheme, None, array_backend="numpy") for p in (partition, copy)), strict=True
            ):
                assert mine.tile_slice == theirs.tile_slice
                np.testing.assert_array_equal(mine.data, theirs.data)

    def test_dataset_travels(self, dataset: DataSet) -> None:
        """A pickled dataset reads the same."""
        copy: DataSet = pickle.loads(pickle.dumps(dataset))
        assert copy.shape == dataset.shape
        np.testing.assert_array_equal(read_all(copy)[0], read_all(dataset)[0])

    # -- tiles

    @pytest.mark.parametrize("tiling", TILINGS)
    def test_tiles_cover_everything_once(self, dataset: DataSet, tiling: str) -> None:
        """Every present selected pixel comes once and right, nothing else does; for every tiling, ROI and dtype."""
        scheme = make_scheme(dataset, tiling)
        for roi_kind in ROIS:
            roi = make_roi(roi_kind, dataset.shape.nav.to_tuple())
            selected = np.ones(dataset.shape.nav.size, dtype=np.bool_) if roi is None else roi.reshape(-1)
            present = self._present(dataset)[selected]
            expected = self._frames(dataset)[selected]
            for dest_dtype in (None, dataset.dtype, *self.convertible[:2]):
                data, count = read_all(dataset, scheme, dest_dtype, roi)
                what = f"ROI {roi_kind!r}, tiles as {dest_dtype}"
                assert (count[present] == 1).all(), what
                assert (count[~present] == 0).all(), what
                np.testing.assert_array_equal(data[present], expected[present].astype(data.dtype), err_msg=what)

    @pytest.mark.parametrize("tiling", TILINGS)
    @pytest.mark.parametrize("roi_kind", ["none", "most"])
    @pytest.mark.parametrize("convert", [False, True])
    def test_tiles_are_as_promised(self, dataset: DataSet, tiling: str, roi_kind: str, convert: bool) -> None:
        """Each tile fits the scheme, in order, with contiguous frames, read-only, in the dtype that was asked for."""
        dest_dtype = self.convertible[0] if convert else None
        scheme, roi = make_scheme(dataset, tiling), make_roi(roi_kind, dataset.shape.nav.to_tuple())
        gaps = self.absent() is not None
        for partition in dataset.get_partitions():
            inside = partition.slice.adjust_for_roi(roi)
            tiles = self._check_tiles(partition, scheme, roi, dest_dtype)
            if scheme.intent == "partition" and inside.shape[0] and not gaps:
                assert len(tiles) == len(scheme)
                assert all(nav == inside.origin[0] and frames == inside.shape[0] for nav, frames, _ in tiles)
            if scheme.intent != "partition":
                assert all(frames <= scheme.depth for _, frames, _ in tiles)
            # Depth blocks outer, signal slices inner.
            assert tiles == sorted(tiles)
            assert [idx for _, _, idx in tiles] == list(range(len(scheme))) * (len(tiles) // len(scheme))

    @staticmethod
    def _check_tiles(
        partition: Partition, scheme: TilingScheme, roi: NDArray[np.bool_] | None, dest_dtype: str | None
    ) -> list[tuple[int, int, int]]:
        found = []
        for tile in partition.get_tiles(scheme, dest_dtype=dest_dtype, roi=roi, array_backend="numpy"):
            assert tile.tile_slice.sig == scheme[tile.scheme_idx].sig
            assert tile.shape == tile.tile_slice.shape.to_tuple() == tile.data.shape
            assert tile.data[0].flags.c_contiguous
            assert tile.flat_data.shape == (tile.shape[0], math.prod(tile.shape[1:]))
            assert not tile.data.flags.writeable
            assert tile.dtype == dest_dtype if dest_dtype else tile.dtype.newbyteorder("=") == partition.dtype
            found.append((tile.tile_slice.origin[0], tile.shape[0], tile.scheme_idx))
        return found

    @pytest.mark.parametrize("roi_kind", ["all", "nothing", "one in ten", "most", "block"])
    @pytest.mark.parametrize("tiling", ["partitions", "whole frames", "small tiles"])
    @pytest.mark.parametrize("for_kernels", [False, True])
    def test_picked_tiles_hold_the_same(self, dataset: DataSet, tiling: str, roi_kind: str, for_kernels: bool) -> None:
        """Where a partition leaves selected frames where they lie, they are those of `get_tiles`, each once."""
        scheme, roi = make_scheme(dataset, tiling), make_roi(roi_kind, dataset.shape.nav.to_tuple())
        assert roi is not None
        expected, once = read_all(dataset, scheme, None, roi)
        data, count = np.zeros_like(expected), np.zeros_like(once)
        for partition in dataset.get_partitions():
            picked = None
            if isinstance(partition, HasPickedTiles):
                picked = partition.get_picked_tiles(scheme, roi, for_kernels=for_kernels)
            if picked is None:
                tiles = partition.get_tiles(scheme, None, roi, "numpy")
            else:
                tiles = self._checked_picked_tiles(picked, scheme, for_kernels)
            for tile in tiles:
                data[tile.tile_slice.get()] = in_memory(tile.data)
                count[tile.tile_slice.get()] += 1
        assert data.tobytes() == expected.tobytes()
        np.testing.assert_array_equal(count, once)

    @staticmethod
    def _checked_picked_tiles(tiles: Iterator[DataTile], scheme: TilingScheme, for_kernels: bool) -> Iterator[DataTile]:
        number = 0
        for number, tile in enumerate(tiles, 1):
            assert tile.shape == tile.tile_slice.shape.to_tuple()
            assert tile.tile_slice.sig == scheme[tile.scheme_idx].sig
            assert for_kernels or scheme.intent == "partition" or tile.shape[0] <= scheme.depth
            yield tile
        assert not for_kernels or number <= 1

    @pytest.mark.parametrize("roi_kind", ["none", "one in ten"])
    def test_converts_exactly(self, dataset: DataSet, roi_kind: str) -> None:
        """Tiles in another dtype have the bits of NumPy's conversion."""
        roi = make_roi(roi_kind, dataset.shape.nav.to_tuple())
        selected = slice(None) if roi is None else roi.reshape(-1)
        present = self._present(dataset)[selected]
        for dest_dtype in self.convertible:
            data, _ = read_all(dataset, None, dest_dtype, roi)
            expected = self._frames(dataset)[selected].astype(dest_dtype)
            assert data[present].tobytes() == np.ascontiguousarray(expected[present]).tobytes()

    def test_flat_roi_is_the_same(self, dataset: DataSet) -> None:
        """A ROI may be flat or in the shape of the scan."""
        roi = make_roi("most", dataset.shape.nav.to_tuple())
        assert roi is not None
        np.testing.assert_array_equal(read_all(dataset, roi=roi)[0], read_all(dataset, roi=roi.reshape(-1))[0])

    def test_wrong_roi_is_refused(self, dataset: DataSet) -> None:
        """A ROI of another size or dtype is an error, not a wrong result."""
        scheme = make_scheme(dataset, "whole frames")
        partition = next(dataset.get_partitions())
        wrong: list[Any] = [np.ones(dataset.shape.nav.size + 1, np.bool_), np.ones(dataset.shape.nav.size, np.int64)]
        for roi in wrong:
            with pytest.raises(ValueError, match="roi"):
                list(partition.get_tiles(scheme, roi=roi))

    def test_wrong_scheme_is_refused(self, dataset: DataSet) -> None:
        """A scheme for another detector is an error."""
        other = Shape((*dataset.shape.nav, *(n + 1 for n in dataset.shape.sig)), dataset.shape.sig_dims)
        tileshape = Shape((1, *other.sig), other.sig_dims)
        with pytest.raises(ValueError, match="scheme"):
            list(next(dataset.get_partitions()).get_tiles(TilingScheme.make_for_shape(tileshape, other)))

    def test_tiles_are_float32_when_nothing_is_said(self, dataset: DataSet) -> None:
        """For programs that use partitions by themselves; complex numbers are no float32."""
        if dataset.dtype.kind == "c":
            return
        scheme = make_scheme(dataset, "whole frames")
        dtypes = {
            tile.dtype
            for partition in dataset.get_partitions()
            for tile in partition.get_tiles(scheme, array_backend="numpy")
        }
        assert dtypes == {np.dtype(np.float32)}

    def test_unknown_array_backend_is_refused(self, dataset: DataSet) -> None:
        """Tiles cannot be had as arrays of a kind that the dataset does not offer."""
        scheme = make_scheme(dataset, "whole frames")
        missing = next((name for name in sorted(BACKENDS) if name not in dataset.array_backends), "tensorflow")
        with pytest.raises(DataSetException, match=re.escape(missing)):
            list(next(dataset.get_partitions()).get_tiles(scheme, None, array_backend=missing))

    def test_generators_do_not_disturb_each_other(self, dataset: DataSet) -> None:
        """Tiles of two generators that are interleaved in one thread stay valid until their own generator goes on."""
        scheme = make_scheme(dataset, "whole frames")
        roi = make_roi("most", dataset.shape.nav.to_tuple())
        partitions = list(dataset.get_partitions())

        def read(partition: Partition) -> Iterator[NDArray[Any]]:
            for tile in partition.get_tiles(scheme, self.convertible[-1], roi, "numpy"):
                yield tile.data

        alone = [[data.copy() for data in read(partition)] for partition in partitions]
        together = [read(partition) for partition in partitions]
        for step in range(max(map(len, alone))):
            current = [next(tiles, None) for tiles in together]  # all of them, before any is looked at
            for expected, data in zip(alone, current, strict=True):
                if step < len(expected):
                    np.testing.assert_array_equal(data, expected[step])

    def test_threads_do_not_disturb_each_other(self, dataset: DataSet) -> None:
        """Several threads read the same partitions at once."""
        roi = make_roi("most", dataset.shape.nav.to_tuple())
        expected = read_all(dataset, roi=roi, dest_dtype=self.convertible[-1])[0]
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(read_all, dataset, None, self.convertible[-1], roi) for _ in range(8)]:
                np.testing.assert_array_equal(future.result()[0], expected)

    @pytest.mark.parametrize("roi_kind", ["none", "nothing", "one in ten", "block"])
    @pytest.mark.parametrize("convert", [False, True])
    def test_macrotile(self, dataset: DataSet, roi_kind: str, convert: bool) -> None:
        """The macrotile of each partition holds all its selected frames, also after others were read."""
        if self.absent() is not None:
            pytest.skip("frames are absent: a partition need not be one tile")
        roi = make_roi(roi_kind, dataset.shape.nav.to_tuple())
        dest_dtype = self.convertible[-1] if convert else None
        tiles: list[DataTile] = []
        for partition in dataset.get_partitions():
            tile = partition.get_macrotile(dest_dtype=dest_dtype, roi=roi, array_backend="numpy")
            assert tile.tile_slice == partition.slice.adjust_for_roi(roi)
            tiles.append(tile)
        read_all(dataset, dest_dtype=self.convertible[0], roi=roi)
        selected = slice(None) if roi is None else roi.reshape(-1)
        np.testing.assert_array_equal(np.concatenate([tile.data for tile in tiles]), self._frames(dataset)[selected])

    # -- detection

    def test_detection(self, tmp_path: Path, executor: JobExecutor) -> None:
        """What is detected can be loaded as it is, and is the same data."""
        if self.file_name is None:
            pytest.skip("this format has no file, or cannot be detected")
        self.make_dataset(tmp_path, executor)
        path = tmp_path / self.file_name
        found = detect(path, executor)
        assert found["type"] == self.filetype
        assert {"parameters", "info"} <= found.keys()
        by_detection = load(found["type"], **found["parameters"], executor=executor)
        automatic = load("auto", path=path, executor=executor)
        for dataset in (by_detection, automatic):
            assert dataset.shape.sig == self.expected().shape[-dataset.shape.sig_dims :]
            data, _ = read_all(dataset)
            present = self._present(dataset)
            np.testing.assert_array_equal(data[present], self._frames(dataset)[: dataset.shape.nav.size][present])
