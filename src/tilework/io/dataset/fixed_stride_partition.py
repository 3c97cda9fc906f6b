"""Partitions of datasets whose frames lie at a fixed distance, and how a tiling scheme is applied to them."""

from __future__ import annotations

import math
import sys
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.io.convert import convert_tile
from tilework.io.corrections.detector import corrected_dtype
from tilework.io.dataset.blocks import SCRATCH_BYTES, BlockReader, FrameFormat
from tilework.io.dataset.layout import FileSegment
from tilework.io.dataset.partition import Partition
from tilework.io.dataset.scratch import Scratch, give_back, take_scratch
from tilework.io.dataset.seen import check_unchanged
from tilework.io.dataset.tile import DataTile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

    from tilework.io.dataset.layout import Segment
    from tilework.io.dataset.meta import DataSetMeta
    from tilework.io.dataset.tiling_scheme import TilingScheme

__all__ = ["FixedStridePartition"]

# The most of what was selected in one tile for the kernels: between tiles a run can be stopped, and where NumPy takes
# the place of a kernel, they are copied. But not too few frames, as what is summed over frames is read and written for
# each tile.
PICKED_BYTES = 32 * 1024 * 1024
FEWEST_PICKED = 16


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

    __slots__ = ("by_stretch", "contiguous", "depth", "parts", "pixels", "scheme", "sig")

    def __init__(self, scheme: TilingScheme, sig: tuple[int, ...]) -> None:
        if tuple(scheme.dataset_shape.sig) != sig:
            msg = f"the tiling scheme was made for signal shape {scheme.dataset_shape.sig}, the dataset has {sig}"
            raise ValueError(msg)
        self.scheme = scheme
        self.sig = sig
        self.by_stretch = scheme.intent == "partition"
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
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles; see `Partition.get_tiles`."""
        return self._any_tiles(tiling_scheme, dest_dtype, roi, array_backend, None)

    def get_picked_tiles(
        self, tiling_scheme: TilingScheme, roi: NDArray[np.bool_], *, for_kernels: bool
    ) -> Iterator[DataTile] | None:
        """Return tiles of selected frames, if the partition lies in one piece; see `HasPickedTiles`."""
        fmt = self._format
        plan = _plan_for(tiling_scheme, fmt.sig_shape)
        if not self._speaks_for_tiles():
            return None
        if not fmt.views or len(self._segments) != 1 or self._corrections is not None or not plan.parts[0].is_full:
            return None
        reader = BlockReader(self._segments, fmt, self._flat_roi(roi))
        depth = max(FEWEST_PICKED, PICKED_BYTES // fmt.block_frame_bytes) if for_kernels else plan.depth
        return self._picked_tiles(reader, sys.maxsize if plan.by_stretch else depth, plan.parts[0])

    def _speaks_for_tiles(self) -> bool:
        """Return whether no derived class has a `get_tiles` of its own, and knows nothing of picked frames."""
        methods = {"get_tiles", "get_picked_tiles"}
        own = next(vars(cls) for cls in type(self).__mro__ if methods & vars(cls).keys())
        return "get_picked_tiles" in own

    def _picked_tiles(self, reader: BlockReader, depth: int, part: _SigPart) -> Iterator[DataTile]:
        for nav, frames in reader.picked(depth):
            yield DataTile(frames, part.slice_at(nav, len(frames)), part.idx)
        self._check_unchanged()

    def _lasting_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None,
        roi: NDArray[np.bool_] | None,
        array_backend: str | None,
    ) -> Iterator[DataTile]:
        # Of what has a scratch for itself, no copy is needed.
        return self._any_tiles(tiling_scheme, dest_dtype, roi, array_backend, Scratch())

    def _any_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None,
        roi: NDArray[np.bool_] | None,
        array_backend: str | None,
        scratch: Scratch | None,
    ) -> Iterator[DataTile]:
        """Yield tiles, those that cannot be views in `scratch`; None for one that others will use afterwards."""
        backend = self._checked_backend(array_backend)
        if backend not in NUMPY_BACKENDS:
            tiles = self._numpy_tiles(tiling_scheme, self.dtype if dest_dtype is None else dest_dtype, roi, scratch)
            return map(methodcaller("as_backend", backend), tiles)  # which does not hold the tile when it asks for more
        return self._numpy_tiles(tiling_scheme, dest_dtype, roi, scratch)

    def _numpy_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None,
        roi: NDArray[np.bool_] | None,
        scratch: Scratch | None,
    ) -> Iterator[DataTile]:
        fmt = self._format
        plan = _plan_for(tiling_scheme, fmt.sig_shape)
        dest = self._dest_dtype(dest_dtype)
        reader: BlockReader | None = None
        if roi is not None or not fmt.views or len(self._segments) != 1:
            reader = BlockReader(self._segments, fmt, self._flat_roi(roi))
        elif dest == fmt.tile_dtype and plan.contiguous and self._corrections is None:
            return self._views(plan)
        if scratch is not None:
            return self._tiles_with(scratch, plan, dest, reader)
        return self._tiles(plan, dest, reader)

    def _dest_dtype(self, dest_dtype: DTypeLike | None) -> np.dtype[Any]:
        """Return the dtype of tiles; what is corrected is at least float32, as integers cannot hold it."""
        if dest_dtype is not None and self._corrections is None:
            return np.dtype(dest_dtype)
        stored = self._format.tile_dtype
        if self._corrections is None:
            return stored
        return corrected_dtype(stored.newbyteorder("=") if dest_dtype is None else np.dtype(dest_dtype))

    def _checked_backend(self, backend: str | None) -> str:
        return backend if backend in NUMPY_BACKENDS else super()._checked_backend(backend)

    def _views(self, plan: _SchemePlan) -> Iterator[DataTile]:
        """Yield tiles of a partition that lies in one piece, as stored: views, nothing is copied."""
        for nav, block in self._view_blocks(sys.maxsize if plan.by_stretch else plan.depth):
            n = len(block)
            for part in plan.parts:
                yield DataTile(block if part.is_full else block[part.index], part.slice_at(nav, n), part.idx)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        """See, after the last tile, that nobody wrote to the files meanwhile."""
        for seen in {segment.seen for segment in self._segments if isinstance(segment, FileSegment)}:
            check_unchanged(seen)

    def _tiles(self, plan: _SchemePlan, dest: np.dtype[Any], reader: BlockReader | None) -> Iterator[DataTile]:
        """Yield tiles that may have to be gathered, decoded or converted."""
        scratch = take_scratch()
        try:
            yield from self._tiles_with(scratch, plan, dest, reader)
        finally:
            give_back(scratch)

    def _tiles_with(
        self,
        scratch: Scratch,
        plan: _SchemePlan,
        dest: np.dtype[Any],
        reader: BlockReader | None,
    ) -> Iterator[DataTile]:
        """Yield tiles, with memory from `scratch` where they cannot be views; without `reader` all blocks are views."""
        fmt = self._format
        corrections = self._corrections
        convert = dest != fmt.tile_dtype or corrections is not None
        view_depth = plan.depth
        if convert or not plan.contiguous:
            view_depth = min(view_depth, max(1, SCRATCH_BYTES // (plan.pixels * dest.itemsize)))
        if reader is None:
            blocks = self._view_blocks(sys.maxsize if plan.by_stretch else view_depth)
        else:
            copy_depth = min(view_depth, max(1, SCRATCH_BYTES // fmt.block_frame_bytes))
            blocks = reader.blocks(scratch, view_depth, copy_depth, plan.by_stretch)
        for nav, block in blocks:
            n = len(block)
            for part in plan.parts:
                data = block if part.is_full else block[part.index]
                if corrections is not None:
                    data = corrections.corrected(
                        data, part.slice_at(nav, n), dest, scratch.get("tile", (n, *part.sig_shape), dest)
                    )
                elif convert or not part.contiguous:
                    data = convert_tile(data, dest, scratch.get("tile", (n, *part.sig_shape), dest))
                data.flags.writeable = False
                yield DataTile(data, part.slice_at(nav, n), part.idx)
                del data  # what somebody sees is not written to, and we would be the one
            del block
        self._check_unchanged()

    def _view_blocks(self, depth: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield views of the frames of a partition that lies in one piece, with the position of their first frame."""
        (segment,) = self._segments
        frames = self._format.view(segment)
        for start in range(0, segment.frames, depth):
            yield segment.first + start, frames[start : start + depth]
