"""Datasets of frames at a fixed distance in files (or in memory), and their partitions.

Everything that these formats have in common is here: a format only finds out, in `FixedStrideDataSet._probe`, where its
frames lie. Frames without packing are delivered as views of the mapped file, see `tilework.io.dataset.mapping`.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import DataSetException
from tilework.io.convert import convert_tile
from tilework.io.dataset.base import AxisInfo, DataSet, DataSetMeta, DataTile, Partition, default_axes, make_slices
from tilework.io.dataset.blocks import SCRATCH_BYTES, BlockReader, FrameFormat
from tilework.io.dataset.params import check_shape, check_sync_offset, count
from tilework.io.dataset.scratch import Scratch, borrow_scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.layout import FrameLayout, Segment
    from tilework.io.dataset.tiling import TilingScheme

__all__ = ["FixedStrideDataSet", "FixedStridePartition", "Source"]

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
        Dtype as stored, for the user: with packing, or where pixels are looked at as another dtype, not that of the layout.
    nav_shape
        Scan shape that the file tells, or that is guessed from the number of frames.
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
    nav_scale: tuple[float | None, ...] = ()
    nav_units: str | None = None
    sig_scale: tuple[float | None, ...] = ()
    sig_units: str | None = None
    warnings: tuple[str, ...] = ()
    info: dict[str, str | int | float] = field(default_factory=dict)


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
        self._source: Source | None = None
        self._shape: Shape | None = None
        self._meta: DataSetMeta | None = None
        self._absent: NDArray[np.bool_] | None = None

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
                f"sig_shape must be of size: {pixels}. The frames of {name} have the shape {source.sig_shape}, and sig_shape "
                f"{sig} has {math.prod(sig)} pixels; leave sig_shape out, or give one with {pixels} pixels"
            )
            raise DataSetException(msg)
        if not -frames < self._sync_offset < frames:
            msg = (
                f"sync_offset should be in ({-frames}, {frames}), it is {self._sync_offset}: {name} holds {frames} frames, "
                "of which at least one must be left"
            )
            raise DataSetException(msg)
        shape = Shape((*nav, *sig), sig_dims=len(sig))
        if shape.nav.size > MAX_POSITIONS:
            msg = f"nav_shape {nav} has {shape.nav.size} positions, {name} holds {count(frames, 'frame')}: check nav_shape"
            raise DataSetException(msg)
        absent = source.layout.absent(shape.nav.size, self._sync_offset)
        if absent.all():
            msg = (
                f"no frame of {name} lies in the scan: nav_shape {nav} with sync_offset {self._sync_offset}, and {frames} "
                "frames in the file; change sync_offset or nav_shape"
            )
            raise DataSetException(msg)
        self._source = source
        self._shape = shape
        self._absent = absent.reshape(nav) if absent.any() else None
        tile_dtype = source.layout.packing.dtype if source.layout.packing is not None else source.layout.dtype
        self._meta = DataSetMeta(
            shape=shape,
            array_backends=self.array_backends,
            image_count=frames,
            raw_dtype=source.dtype,
            dtype=tile_dtype.newbyteorder("="),
            sync_offset=self._sync_offset,
        )
        messages = [*source.warnings, *self._absence_warnings(source)]
        if self._num_partitions is not None and self._num_partitions > shape.nav.size:
            messages.append(f"num_partitions={self._num_partitions} is more than the {shape.nav.size} positions: one for each")
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _absence_warnings(self, source: Source) -> list[str]:
        if self._absent is None:
            return []
        positions, absent = self._absent.size, int(np.count_nonzero(self._absent))
        held, spanned = source.layout.frames_held, source.layout.image_count
        if positions <= spanned and held == spanned:
            return []  # what sync_offset shifts out of the scan is what the caller asked for
        return [
            f"{self._name()} holds {count(held, 'frame')}, the scan of shape {self.shape.nav} has {positions} positions: "
            f"{count(absent, 'position')} without a frame will be left out (see absent_frames)"
        ]

    @property
    def source(self) -> Source:
        """What was found out about the file.

        Raises
        ------
        DataSetException
            Before `initialize`.
        """
        if self._source is None:
            msg = f"{type(self).__name__} of {self._name()} is not initialized: use Context.load, or call initialize(executor)"
            raise DataSetException(msg)
        return self._source

    @property
    def shape(self) -> Shape:
        """Shape of the dataset: navigation axes, then signal axes."""
        self.source  # noqa: B018  (raises before initialize)
        assert self._shape is not None
        return self._shape

    @property
    def meta(self) -> DataSetMeta:
        """What the partitions need to know."""
        self.source  # noqa: B018  (raises before initialize)
        assert self._meta is not None
        return self._meta

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
        self.source  # noqa: B018  (raises before initialize)
        return self._absent

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

    def get_sync_offset_info(self) -> dict[str, int]:
        """Return how many frames and positions the sync offset and the shapes leave out."""
        frames, positions, offset = self.meta.image_count, self.shape.nav.size, self._sync_offset
        return {
            "frames_skipped_start": max(0, offset),
            "frames_ignored_end": max(0, frames - offset - positions),
            "frames_inserted_start": max(0, -offset),
            "frames_inserted_end": max(0, positions + offset - frames),
        }

    def get_diagnostics(self) -> list[dict[str, str]]:
        """Return what was found out about the file."""
        source = self.source
        facts: dict[str, Any] = {
            "Frames in the source": source.layout.frames_held,
            "Detector shape in the source": source.sig_shape,
            **{k.replace("_", " ").capitalize(): v for k, v in self.get_sync_offset_info().items() if v},
        }
        if self._absent is not None:
            facts["Positions without a frame"] = int(np.count_nonzero(self._absent))
        facts.update(source.info)
        facts.update({f"Warning {i + 1}": text for i, text in enumerate((*source.warnings, *self._absence_warnings(source)))})
        return [{"name": str(name), "value": str(value)} for name, value in facts.items()]

    def describe(self) -> dict[str, Any]:
        """Return where the data comes from and how it was understood; can be written as JSON."""
        source = self.source
        return {
            **super().describe(),
            "path": self._name(),
            "files": len(source.layout.paths),
            "frames": source.layout.frames_held,
            "absent_positions": int(np.count_nonzero(self._absent)) if self._absent is not None else 0,
            "source": dict(source.info),
        }

    def _frame_format(self) -> FrameFormat:
        layout, sig = self.source.layout, self.shape.sig.to_tuple()
        return FrameFormat(layout.dtype, sig, layout.packing, layout.is_aligned)

    def get_partitions(self) -> Iterator[FixedStridePartition]:
        """Yield the partitions, in the order of the scan."""
        layout, meta, frame_format = self.source.layout, self.meta, self._frame_format()
        for i, (part, _, _) in enumerate(make_slices(self.shape, self.get_num_partitions())):
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
    ) -> FixedStridePartition:
        return FixedStridePartition(meta, part, segments, frame_format)


class _SigPart:
    """One signal slice of a tiling scheme, prepared for cutting tiles."""

    __slots__ = ("_shapes", "contiguous", "idx", "index", "is_full", "pixels", "sig_origin", "sig_shape")

    def __init__(self, idx: int, part: Slice, sig: tuple[int, ...]) -> None:
        self.idx = idx
        self.sig_origin = part.sig.origin
        self.sig_shape = part.sig.shape.to_tuple()
        self.is_full = self.sig_shape == sig
        self.index = (slice(None), *part.get(sig_only=True))
        self.pixels = math.prod(self.sig_shape)
        # Contiguous in the frame: single indices, then one run, then complete axes.
        run = next((axis for axis, n in enumerate(self.sig_shape) if n != 1), len(sig))
        self.contiguous = self.sig_shape[run + 1 :] == sig[run + 1 :]
        self._shapes: dict[int, Shape] = {}

    def slice_at(self, nav: int, frames: int) -> Slice:
        shape = self._shapes.get(frames)
        if shape is None:
            shape = self._shapes[frames] = Shape((frames, *self.sig_shape), len(self.sig_shape))
        return Slice((nav, *self.sig_origin), shape)


class _SchemePlan:
    """A tiling scheme, prepared for cutting tiles; made once per scheme and process."""

    __slots__ = ("contiguous", "depth", "parts", "pixels", "scheme", "sig", "whole")

    def __init__(self, scheme: TilingScheme, sig: tuple[int, ...]) -> None:
        if tuple(scheme.dataset_shape.sig) != sig:
            msg = f"the tiling scheme was made for signal shape {scheme.dataset_shape.sig}, the dataset has {sig}"
            raise ValueError(msg)
        self.scheme = scheme
        self.sig = sig
        self.whole = scheme.intent == "partition"
        self.depth = max(1, scheme.depth)
        self.parts = tuple(_SigPart(i, part, sig) for i, part in scheme.slices)
        self.contiguous = all(part.contiguous for part in self.parts)
        self.pixels = max(part.pixels for part in self.parts)


_plans: dict[int, _SchemePlan] = {}
_PLANS_KEPT = 16


def _plan_for(scheme: TilingScheme, sig: tuple[int, ...]) -> _SchemePlan:
    plan = _plans.get(id(scheme))
    if plan is None or plan.scheme is not scheme or plan.sig != sig:
        if len(_plans) >= _PLANS_KEPT:
            _plans.clear()
        plan = _plans[id(scheme)] = _SchemePlan(scheme, sig)
    return plan


class FixedStridePartition(Partition):
    """A partition of a dataset whose frames lie at a fixed distance.

    Parameters
    ----------
    meta, partition_slice
        As of `Partition`.
    segments
        Where the frames lie; their numbers are positions in the flattened scan.
    frame_format
        How they are stored.
    """

    def __init__(
        self,
        meta: DataSetMeta,
        partition_slice: Slice,
        segments: tuple[Segment, ...],
        frame_format: FrameFormat,
    ) -> None:
        super().__init__(meta, partition_slice)
        self._segments = segments
        self._format = frame_format

    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike = None,
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles; see `Partition.get_tiles`."""
        if self._corrections is not None or array_backend not in {None, "numpy", "cuda"}:
            self._refuse(array_backend)
        fmt = self._format
        plan = _plan_for(tiling_scheme, fmt.sig_shape)
        dest = fmt.tile_dtype if dest_dtype is None else np.dtype(dest_dtype)
        if roi is None and dest == fmt.tile_dtype and plan.contiguous and len(self._segments) == 1 and fmt.views:
            return self._views(plan)
        return self._tiles(plan, dest, self._flat_roi(roi))

    def _refuse(self, array_backend: str | None) -> None:
        if array_backend not in {None, "numpy", "cuda"}:
            msg = f"tiles as {array_backend!r} cannot be had from this dataset, only as one of {self.meta.array_backends}"
            raise DataSetException(msg)
        if getattr(self._corrections, "have_corrections", lambda: True)():
            msg = "this dataset cannot correct its frames: run without corrections"
            raise DataSetException(msg)

    def _flat_roi(self, roi: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if roi is None:
            return None
        positions = self.meta.shape.nav.size
        flat = np.asarray(roi).reshape(-1)
        if flat.size != positions or flat.dtype != np.bool_:
            msg = (
                f"roi of shape {np.shape(roi)} and dtype {flat.dtype} does not fit the scan of shape {self.meta.shape.nav}: it "
                "must be a bool array with one entry for each position"
            )
            raise ValueError(msg)
        return flat

    def _views(self, plan: _SchemePlan) -> Iterator[DataTile]:
        """Yield tiles of a partition that lies in one piece, as stored: views, nothing is copied."""
        fmt = self._format
        (segment,) = self._segments
        frames = segment.view(fmt.dtype, fmt.frame_shape, fmt.inner_strides)
        total, nav = segment.frames, segment.first
        depth = total if plan.whole else min(plan.depth, total)
        for start in range(0, total, depth):
            n = min(depth, total - start)
            block = frames if n == total else frames[start : start + n]
            for part in plan.parts:
                yield DataTile(block if part.is_full else block[part.index], part.slice_at(nav + start, n), part.idx)

    def _tiles(self, plan: _SchemePlan, dest: np.dtype[Any], roi: NDArray[np.bool_] | None) -> Iterator[DataTile]:
        """Yield tiles that may have to be gathered, decoded or converted."""
        with borrow_scratch() as scratch:
            yield from self._tiles_with(scratch, plan, dest, roi)

    def _tiles_with(
        self,
        scratch: Scratch,
        plan: _SchemePlan,
        dest: np.dtype[Any],
        roi: NDArray[np.bool_] | None,
    ) -> Iterator[DataTile]:
        fmt = self._format
        convert = dest != fmt.tile_dtype
        view_depth = plan.depth
        if convert or not plan.contiguous:
            view_depth = min(view_depth, max(1, SCRATCH_BYTES // (plan.pixels * dest.itemsize)))
        copy_depth = min(view_depth, max(1, SCRATCH_BYTES // fmt.block_frame_bytes))
        reader = BlockReader(self._segments, fmt, self.slice.origin[0], roi)
        for nav, block in reader.blocks(scratch, view_depth, copy_depth, plan.whole):
            n = len(block)
            for part in plan.parts:
                data = block if part.is_full else block[part.index]
                if convert or not part.contiguous:
                    out = scratch.get("tile", (n, *part.sig_shape), dest)
                    data = convert_tile(data, dest, out)
                data.flags.writeable = False
                yield DataTile(data, part.slice_at(nav, n), part.idx)

    def get_macrotile(
        self,
        dest_dtype: DTypeLike = None,
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> DataTile:
        """Return all selected frames as one tile, which keeps its data; it has no frames when none is selected.

        Raises
        ------
        DataSetException
            When frames are absent between others, so that one tile cannot say which frames it holds.
        """
        if self._corrections is not None or array_backend not in {None, "numpy", "cuda"}:
            self._refuse(array_backend)
        sig = self._format.sig_shape
        plan = _SchemePlan(_whole_scheme(self.shape, self.meta.shape), sig)
        dest = self._format.tile_dtype if dest_dtype is None else np.dtype(dest_dtype)
        flat = self._flat_roi(roi)
        tiles = list(self._tiles_with(Scratch(), plan, dest, flat))
        if len(tiles) > 1:
            msg = (
                f"{self.get_ident()} has absent frames between others, so its frames are no single tile: use get_tiles, or leave "
                "the absent positions out of the scan"
            )
            raise DataSetException(msg)
        if tiles:
            return tiles[0]
        before = int(np.count_nonzero(flat[: self.slice.origin[0]])) if flat is not None else self.slice.origin[0]
        nothing = Slice((before, *self.slice.origin[1:]), Shape((0, *sig), len(sig)))
        return DataTile(np.empty((0, *sig), dest), nothing, 0)


def _whole_scheme(shape: Shape, dataset_shape: Shape) -> TilingScheme:
    from tilework.io.dataset.tiling import TilingScheme

    return TilingScheme.make_for_shape(shape, dataset_shape, intent="partition")
