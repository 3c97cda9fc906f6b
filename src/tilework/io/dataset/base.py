"""What a dataset, its partitions and its tiles are, whatever the format.

A dataset knows its shape and dtype and cuts its flattened navigation axis into partitions. A partition is the unit of
work: it is sent to a worker, opens the data there and yields tiles, blocks of consecutive frames times a rectangle of
the detector. Which partitions there are depends on the dataset and the caller's ``num_partitions`` alone, never on the
number of workers, so that results have the same bits everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilework.common.numbers import is_whole
from tilework.exceptions import DataSetException
from tilework.io.corrections.corrset import CorrectionSet
from tilework.io.dataset.axes import AxisInfo, default_axes
from tilework.io.dataset.meta import DataSetMeta
from tilework.io.dataset.params import without_renamed
from tilework.io.dataset.partition import Partition
from tilework.io.dataset.partitioning import MAX_PARTITION_BYTES, default_num_partitions, make_slices
from tilework.io.dataset.tile import DataTile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import JobExecutor, TaskCommHandler
    from tilework.common.shape import Shape
    from tilework.common.slice import Slice

__all__ = [
    "AxisInfo",
    "DataSet",
    "DataSetMeta",
    "DataTile",
    "Partition",
    "RoiHelper",
    "default_num_partitions",
    "make_slices",
]


class RoiHelper:
    """Builds regions of interest: ``dataset.roi[2:5, ::4]`` selects what the index selects in the scan."""

    __slots__ = ("_nav_shape",)

    def __init__(self, nav_shape: tuple[int, ...]) -> None:
        self._nav_shape = nav_shape

    def __getitem__(self, key: Any) -> NDArray[np.bool_]:
        mask = np.zeros(self._nav_shape, dtype=np.bool_)
        mask[key] = True
        return mask


class DataSet(ABC):
    """Frames of a scan, wherever they lie.

    Subclasses give `initialize`, `shape`, `dtype`, `check_valid` and `get_partitions`, and may refine the rest.

    Parameters
    ----------
    io_backend
        Accepted for compatibility: None or ``"mmap"``. Files are read through memory maps.
    num_partitions
        Number of partitions; None chooses it from the size of the data.

    Raises
    ------
    DataSetException
        For any other `io_backend`, or a `num_partitions` that is no integer or is below 1.
    """

    #: Not used by tilework; for programs written for LiberTEM.
    MAX_PARTITION_SIZE: ClassVar[int] = MAX_PARTITION_BYTES
    #: Whether the data is in this process, so that no worker has to look whether it is there.
    IN_PROCESS: ClassVar[bool] = False

    def __init__(self, io_backend: str | None = None, num_partitions: int | None = None) -> None:
        if io_backend not in {None, "mmap"}:
            msg = f"io_backend={io_backend!r}: tilework reads files through memory maps only; leave io_backend out"
            raise DataSetException(msg)
        if num_partitions is not None and not (is_whole(num_partitions) and num_partitions >= 1):
            wanted = "an integer of at least 1, or None to choose it from the size of the data"
            msg = f"num_partitions={num_partitions!r}: must be {wanted}"
            raise DataSetException(msg)
        self._num_partitions = num_partitions

    # -- what subclasses give

    @abstractmethod
    def initialize(self, executor: JobExecutor) -> DataSet:
        """Look at the data, on a worker where that is needed, and return the dataset that is ready for use."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of the dataset: navigation axes, then signal axes."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the frames, in native byte order."""

    @abstractmethod
    def check_valid(self) -> bool:
        """Return True when the data can be read; runs on a worker.

        Raises
        ------
        DataSetException
            With the reason why it cannot be read.
        """

    @abstractmethod
    def get_partitions(self) -> Iterator[Partition]:
        """Yield the partitions, in the order of the scan."""

    def cut_at(self, stops: Sequence[int]) -> Iterator[Partition] | None:  # noqa: ARG002
        """Yield other partitions than `get_partitions` does, in the order of the scan.

        Parameters
        ----------
        stops
            The flat position after the last one of each partition, increasing; the last is the size of the scan.

        Returns
        -------
        iterator or None
            None when there can be no others, or somebody has said how many there should be.
        """
        return None

    @classmethod
    def detect_params(cls, path: Any, executor: JobExecutor) -> dict[str, Any] | bool:  # noqa: ARG003
        """Look whether `path` is a file of this format; on a worker: ``executor.run_function(look, path)``.

        Returns
        -------
        dict or False
            ``{"parameters": arguments of the constructor, "info": facts about the file}``; False: it is not.
        """
        return False

    @classmethod
    def combine_detected(cls, detected: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments: those that the caller gave win over those that were detected."""
        return {**without_renamed(detected, given), **given}

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Return the file name extensions of this format, in lower case, without dot."""
        return set()

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """Return the names that `io_backend` may have.

        Not used by tilework; for programs written for LiberTEM.
        """
        return ["mmap"]

    # -- facts about the data

    @property
    def raw_dtype(self) -> np.dtype[Any]:
        """Dtype as stored, with its byte order."""
        return self.dtype

    @property
    def meta(self) -> DataSetMeta:
        """What the partitions need to know."""
        return DataSetMeta(
            shape=self.shape,
            array_backends=self.array_backends,
            image_count=self.shape.nav.size,
            raw_dtype=self.raw_dtype,
            dtype=self.dtype,
        )

    @property
    def zero_copy(self) -> bool:
        """Whether tiles as stored, without region of interest, are views that cost no copy."""
        return False

    @property
    def absent_frames(self) -> NDArray[np.bool_] | None:
        """Scan positions for which the source holds no frame, as a mask of the scan; None when there are none.

        These positions are never delivered in a tile.
        """
        return None

    def present_positions(self, roi: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Return at which scan positions a run has data, as a mask of the scan: those with a frame.

        Parameters
        ----------
        roi
            Selected positions, which alone count; None: all.
        """
        nav = self.shape.nav.to_tuple()
        selected = np.ones(nav, dtype=np.bool_) if roi is None else roi.reshape(nav)
        absent = self.absent_frames
        return selected if absent is None else selected & ~absent.reshape(nav)

    @property
    def array_backends(self) -> Sequence[str]:
        """Names of the array backends in which tiles can be had."""
        return ("numpy", "cuda")

    @property
    def density(self) -> float:
        """Share of the pixels that are stored, at most 1; only known to be less where tiles can be had as sparse."""
        return 1.0

    @property
    def paths(self) -> Sequence[str]:
        """Files from which the data comes; none where it comes from elsewhere, or nothing is known of files."""
        return ()

    @property
    def roi(self) -> RoiHelper:
        """Helper for regions of interest: ``dataset.roi[index]`` is a mask of the scan."""
        return RoiHelper(self.shape.nav.to_tuple())

    @property
    def axes(self) -> list[AxisInfo]:
        """One entry for each axis of the shape; scale and units where they are known."""
        return default_axes(self.shape)

    @property
    def diagnostics(self) -> list[dict[str, str]]:
        """Facts for people, as ``{"name": …, "value": …}``."""
        return [
            {"name": "Number of partitions", "value": str(self.get_num_partitions())},
            {"name": "Shape", "value": str(self.shape)},
            {"name": "Data type", "value": str(self.raw_dtype)},
            *self.get_diagnostics(),
        ]

    def get_diagnostics(self) -> list[dict[str, str]]:
        """Return the format's own part of `diagnostics`."""
        return []

    def describe(self) -> dict[str, Any]:
        """Return where the data comes from and how it was understood; can be written as JSON."""
        absent = self.absent_frames
        return {
            "format": type(self).__name__,
            "shape": list(self.shape),
            "sig_dims": self.shape.sig_dims,
            "dtype": str(self.dtype),
            "raw_dtype": self.raw_dtype.str,
            "sync_offset": self.meta.sync_offset,
            "num_partitions": self.get_num_partitions(),
            "absent_frames": 0 if absent is None else int(np.count_nonzero(absent)),
        }

    def get_cache_key(self) -> dict[str, Any]:
        """Return what tells this dataset from others; can be written as JSON.

        Not used by tilework; for programs written for LiberTEM.
        """
        return self.describe()

    # -- partitions

    def set_num_cores(self, cores: int) -> None:
        """Accept the number of cores; it never changes the partitions, so that results do not depend on it."""
        del cores

    def get_num_partitions(self) -> int:
        """Return the number of partitions."""
        frames = self.shape.nav.size
        if self._num_partitions is not None:
            return min(self._num_partitions, frames)
        return default_num_partitions(frames, self.shape.sig.size * self.dtype.itemsize)

    def get_slices(self) -> Iterator[tuple[Slice, int, int]]:
        """Yield the slice of each partition with its first and one-past-last source frame."""
        return make_slices(self.shape, self.get_num_partitions(), self.meta.sync_offset)

    def get_sync_offset_info(self) -> dict[str, int]:
        """Return how many frames and positions the sync offset and the shapes leave out."""
        meta = self.meta
        frames, positions, offset = meta.image_count, meta.shape.nav.size, meta.sync_offset
        return {
            "frames_skipped_start": max(0, offset),
            "frames_ignored_end": max(0, frames - offset - positions),
            "frames_inserted_start": max(0, -offset),
            "frames_inserted_end": max(0, positions + offset - frames),
        }

    # -- wishes about tiles

    def get_base_shape(self, roi: NDArray[np.bool_] | None) -> tuple[int, ...]:  # noqa: ARG002
        """Return the smallest sensible tile ``(depth, *sig)``; tiles are multiples of it or span the axis."""
        return (1,) * self.shape.sig_dims + (self.shape.sig[-1],)

    def adjust_tileshape(self, tileshape: tuple[int, ...], roi: NDArray[np.bool_] | None) -> tuple[int, ...]:  # noqa: ARG002
        """Return the tile shape ``(depth, *sig)`` to use instead of the proposed one."""
        return tileshape

    def get_min_sig_size(self) -> int:
        """Return the number of pixels below which a part of a frame is not worth a tile.

        Not used by tilework; for programs written for LiberTEM.
        """
        return 4 * 4096 // self.dtype.itemsize

    def get_max_io_size(self) -> int | None:
        """Return the most bytes that a tile should have; None for no limit.

        Not used by tilework; for programs written for LiberTEM.
        """
        return None

    def need_decode(
        self,
        read_dtype: DTypeLike,
        roi: NDArray[np.bool_] | None,
        corrections: Any,
    ) -> bool:
        """Return whether tiles in `read_dtype` cannot be views of the data.

        Parameters
        ----------
        read_dtype
            dtype of the tiles.
        roi
            Selected positions, or None.
        corrections
            Corrections that the tiles get, or None.
        """
        return (
            not self.zero_copy or roi is not None or corrections is not None or np.dtype(read_dtype) != self.raw_dtype
        )

    # -- everything around

    def get_correction_data(self) -> CorrectionSet:
        """Return the detector corrections that come with the data; empty when there are none."""
        return CorrectionSet()

    def supports_correction(self) -> bool:
        """Return whether tiles can be corrected for the detector."""
        return True

    def get_task_comm_handler(self) -> TaskCommHandler:
        """Return what streams data to the workers during a run; files need no streaming."""
        from tilework.common.executor import NoopCommHandler

        return NoopCommHandler()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.dtype} shape={self.shape}>"
