"""Datasets of frames at a fixed distance in files (or in memory), and their partitions.

Everything that these formats have in common is here: a format only finds out, in `FixedStrideDataSet._probe`, where its
frames lie. Frames without packing are delivered as views of the mapped file, see `tilework.io.dataset.mapping`.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.callers import outside_level
from tilework.common.shape import Shape
from tilework.exceptions import DataSetException
from tilework.io.dataset.axes import AxisInfo, default_axes
from tilework.io.dataset.base import DataSet
from tilework.io.dataset.blocks import FrameFormat
from tilework.io.dataset.fixed_stride_partition import FixedStridePartition
from tilework.io.dataset.meta import DataSetMeta
from tilework.io.dataset.params import GUESSED, check_shape, check_sync_offset, count
from tilework.io.dataset.partitioning import make_slices, slices_up_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import JobExecutor
    from tilework.common.slice import Slice
    from tilework.io.dataset.layout import FrameLayout, Segment
    from tilework.io.dataset.partition import Partition

__all__ = ["FixedStrideDataSet", "Source"]

# More positions than any scan has: with so many, nav_shape is a mistake, and there is one byte for each of them.
MAX_POSITIONS = 2**31


@dataclass(frozen=True)
class Source:
    """What a format found out about a file.

    Parameters
    ----------
    layout
        Where the frames lie.
    dtype
        Dtype as stored, for the user: with packing, or where pixels are looked at as another dtype, not that of the
        layout.
    nav_shape
        Scan shape that the file tells, or that is guessed from the number of frames.
    nav_from
        Which of that it is, for people; `GUESSED` where the user must be told.
    sig_shape
        Detector shape that the file tells.
    nav_scale, sig_scale
        Distances of neighbouring positions and pixels, last axis last; None where not known.
    nav_units, sig_units
        Their units.
    warnings
        What the user should be told when the dataset is loaded.
    info
        Further facts, for people and for the provenance of results.
    """

    layout: FrameLayout
    dtype: np.dtype[Any]
    nav_shape: tuple[int, ...]
    sig_shape: tuple[int, ...]
    nav_from: str = "from the header"
    nav_scale: tuple[float | None, ...] = ()
    nav_units: str | None = None
    sig_scale: tuple[float | None, ...] = ()
    sig_units: str | None = None
    warnings: tuple[str, ...] = ()
    info: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a dataset once it is initialized."""

    source: Source
    meta: DataSetMeta
    absent: NDArray[np.bool_] | None
    """Positions without a frame, bool of the shape of the scan; None when there are none."""


# What the facts of `DataSet.get_sync_offset_info` are called in LiberTEM's diagnostics.
_LEFT_OUT: Final = {
    "frames_skipped_start": "Number of frames skipped at the beginning",
    "frames_ignored_end": "Number of frames ignored at the end",
    "frames_inserted_start": "Number of blank frames inserted at the beginning",
    "frames_inserted_end": "Number of blank frames inserted at the end",
}


class FixedStrideDataSet(DataSet):
    """Base of datasets whose frames lie at a fixed distance.

    Parameters
    ----------
    nav_shape
        Shape of the scan; None takes what the file tells. Positions beyond the last frame are absent; frames
        beyond the last position are ignored.
    sig_shape
        Shape of a frame; must have as many pixels as that in the file.
    sync_offset
        Number of frames to skip at the start, or, when negative, number of positions at the start without a frame.
    io_backend
        None or ``"mmap"``.
    num_partitions
        Number of partitions; None chooses it from the size of the data.
    """

    def __init__(
        self,
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
    ) -> None:
        super().__init__(io_backend=io_backend, num_partitions=num_partitions)
        self._nav_shape = check_shape("nav_shape", nav_shape)
        self._sig_shape = check_shape("sig_shape", sig_shape)
        self._sync_offset = check_sync_offset(sync_offset)
        self._initialized: _Known | None = None

    # -- what formats give

    @abstractmethod
    def _probe(self) -> Source:
        """Look at the file and return what it holds; runs on a worker.

        Raises
        ------
        DataSetException
            When the file cannot be used.
        """

    @abstractmethod
    def _name(self) -> str:
        """Return what messages call the data: the path of the file."""

    # -- DataSet

    def initialize(self, executor: JobExecutor) -> FixedStrideDataSet:
        """Look at the file on a worker."""
        self._adopt(executor.run_function(self._probe))
        return self

    def _adopt(self, source: Source) -> None:
        """Take over what the file tells, and check the caller's wishes against it."""
        name, frames = self._name(), source.layout.image_count
        nav = self._nav_shape if self._nav_shape is not None else source.nav_shape
        sig = self._sig_shape if self._sig_shape is not None else source.sig_shape
        pixels = math.prod(source.sig_shape)
        if math.prod(sig) != pixels:
            msg = (
                f"sig_shape must be of size: {pixels}. The frames of {name} have the shape {source.sig_shape}, and "
                f"sig_shape {sig} has {math.prod(sig)} pixels; leave sig_shape out, or give one with {pixels} pixels"
            )
            raise DataSetException(msg)
        if not -frames < self._sync_offset < frames:
            msg = (
                f"sync_offset should be in ({-frames}, {frames}), it is {self._sync_offset}: {name} holds "
                f"{count(frames, 'frame')}, of which at least one must be left"
            )
            raise DataSetException(msg)
        shape = Shape((*nav, *sig), sig_dims=len(sig))
        if shape.nav.size > MAX_POSITIONS:
            msg = (
                f"nav_shape {nav} has {shape.nav.size} positions, {name} holds {count(frames, 'frame')}: "
                "check nav_shape"
            )
            raise DataSetException(msg)
        absent = source.layout.absent(shape.nav.size, self._sync_offset)
        if absent.all():
            msg = (
                f"no frame of {name} lies in the scan: nav_shape {nav} with sync_offset {self._sync_offset}, and "
                f"{count(frames, 'frame')} in the file; change sync_offset or nav_shape"
            )
            raise DataSetException(msg)
        tile_dtype = source.layout.packing.dtype if source.layout.packing is not None else source.layout.dtype
        meta = DataSetMeta(
            shape=shape,
            array_backends=self.array_backends,
            image_count=frames,
            raw_dtype=source.dtype,
            dtype=tile_dtype.newbyteorder("="),
            sync_offset=self._sync_offset,
        )
        self._initialized = _Known(source, meta, absent.reshape(nav) if absent.any() else None)
        if self._nav_shape is None and source.nav_from == GUESSED:
            msg = f"the scan shape {nav} of {name} is {GUESSED}: if it is another, give nav_shape (--nav-shape)"
            warnings.warn(msg, RuntimeWarning, stacklevel=outside_level())
        messages = [*source.warnings, *self._absence_warnings(source)]
        if self._num_partitions is not None and self._num_partitions > shape.nav.size:
            messages.append(
                f"num_partitions={self._num_partitions} is more than the {shape.nav.size} positions: one for each"
            )
        if messages:
            warnings.warn("; ".join(messages), RuntimeWarning, stacklevel=outside_level())

    def _absence_warnings(self, source: Source) -> list[str]:
        positions, absent = self.shape.nav.size, self._count_absent()
        if not absent:
            return []
        held, spanned = source.layout.frames_held, source.layout.image_count
        if positions <= spanned and held == spanned:
            return []  # what sync_offset shifts out of the scan is what the caller asked for
        held_text, left_out = count(held, "frame"), count(absent, "position")
        msg = (
            f"{self._name()} holds {held_text}, the scan of shape {self.shape.nav} has {positions} positions: "
            f"{left_out} without a frame will be left out (see absent_frames)"
        )
        return [msg]

    @property
    def _known(self) -> _Known:
        if self._initialized is None:
            msg = (
                f"{type(self).__name__} of {self._name()} is not initialized: use Context.load, or call "
                "initialize(executor)"
            )
            raise DataSetException(msg)
        return self._initialized

    @property
    def source(self) -> Source:
        """What was found out about the file.

        Raises
        ------
        DataSetException
            Before `initialize`.
        """
        return self._known.source

    @property
    def meta(self) -> DataSetMeta:
        """What the partitions need to know."""
        return self._known.meta

    @property
    def shape(self) -> Shape:
        """Shape of the dataset: navigation axes, then signal axes."""
        return self._known.meta.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the frames, in native byte order."""
        return self.meta.dtype

    @property
    def raw_dtype(self) -> np.dtype[Any]:
        """Dtype as stored, with its byte order."""
        return self.meta.raw_dtype

    @property
    def zero_copy(self) -> bool:
        """Whether tiles as stored, without region of interest, are views that cost no copy."""
        return self._frame_format().views

    @property
    def absent_frames(self) -> NDArray[np.bool_] | None:
        """Scan positions for which the source holds no frame, as a mask of the scan; None when there are none."""
        return self._known.absent

    def _count_absent(self) -> int:
        absent = self._known.absent
        return 0 if absent is None else int(np.count_nonzero(absent))

    @property
    def axes(self) -> list[AxisInfo]:
        """One entry for each axis; scales are known only where the file's own shapes are used."""
        source, shape = self.source, self.shape
        nav_known = shape.nav.to_tuple() == source.nav_shape
        sig_known = shape.sig.to_tuple() == source.sig_shape
        return default_axes(
            shape,
            nav_scale=source.nav_scale if nav_known else (),
            nav_units=source.nav_units,
            sig_scale=source.sig_scale if sig_known else (),
            sig_units=source.sig_units,
        )

    def need_decode(self, read_dtype: DTypeLike, roi: NDArray[np.bool_] | None, corrections: Any) -> bool:
        """Return whether tiles in `read_dtype` cannot be views of the data."""
        fmt = self._frame_format()
        return not fmt.views or roi is not None or corrections is not None or np.dtype(read_dtype) != fmt.tile_dtype

    def check_valid(self) -> bool:
        """Return True when all files can be read as they were when the dataset was opened."""
        for segment in self.source.layout.segments:
            segment.check()
        return True

    def get_diagnostics(self) -> list[dict[str, str]]:
        """Return what was found out about the file."""
        source = self.source
        facts: dict[str, Any] = {
            "Frames in the source": source.layout.frames_held,
            "Detector shape in the source": source.sig_shape,
            "Partition shape": tuple(next(self.get_partitions()).shape),
            **{_LEFT_OUT[name]: number for name, number in self.get_sync_offset_info().items()},
        }
        if absent := self._count_absent():
            facts["Positions without a frame"] = absent
        facts.update(source.info)
        facts.update(
            {f"Warning {i + 1}": text for i, text in enumerate((*source.warnings, *self._absence_warnings(source)))}
        )
        return [{"name": str(name), "value": str(value)} for name, value in facts.items()]

    @property
    def paths(self) -> list[str]:
        """Files from which the data comes."""
        return self.source.layout.paths

    def describe(self) -> dict[str, Any]:
        """Return where the data comes from and how it was understood; can be written as JSON."""
        source = self.source
        return {
            **super().describe(),
            "path": self._name(),
            "files": len(self.paths),
            "frames": source.layout.frames_held,
            "source": dict(source.info),
        }

    def _frame_format(self) -> FrameFormat:
        layout, sig = self.source.layout, self.shape.sig.to_tuple()
        return FrameFormat(layout.dtype, sig, layout.packing, layout.is_aligned)

    def get_partitions(self) -> Iterator[Partition]:
        """Yield the partitions, in the order of the scan."""
        return self._cut(part for part, _, _ in make_slices(self.shape, self.get_num_partitions()))

    def cut_at(self, stops: Sequence[int]) -> Iterator[Partition] | None:
        """Yield partitions with these ends; None when the caller has said how many there should be."""
        return self._cut(slices_up_to(self.shape, stops)) if self._num_partitions is None else None

    def _cut(self, parts: Iterable[Slice]) -> Iterator[Partition]:
        layout, meta, frame_format = self.source.layout, self.meta, self._frame_format()
        for i, part in enumerate(parts):
            start = part.origin[0]
            segments = layout.cut(start, start + part.shape[0], self._sync_offset)
            partition = self._make_partition(meta, part, segments, frame_format)
            partition.set_idx(i)
            yield partition

    def _make_partition(
        self,
        meta: DataSetMeta,
        part: Slice,
        segments: tuple[Segment, ...],
        frame_format: FrameFormat,
    ) -> Partition:
        return FixedStridePartition(meta, part, segments, frame_format)
