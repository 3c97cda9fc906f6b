"""Partitions of arrays in memory, dense and sparse, and how they hand out their tiles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.io.dataset.fixed_stride_partition import FixedStridePartition
from tilework.io.dataset.sparse_partition import SparsePartition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.slice import Slice
    from tilework.io.dataset.blocks import FrameFormat
    from tilework.io.dataset.layout import Segment, SparseSegment
    from tilework.io.dataset.meta import DataSetMeta
    from tilework.io.dataset.tile import DataTile
    from tilework.io.dataset.tiling_scheme import TilingScheme

__all__ = ["Delivery", "MemoryPartition", "SparseMemoryPartition"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How partitions of an array in memory hand out their tiles, dense or sparse.

    Parameters
    ----------
    check_cast
        Refuse casts that change more than the precision of floats.
    tiledelay
        Seconds to wait before each tile, or None.
    """

    check_cast: bool
    tiledelay: float | None

    def check(self, dtype: np.dtype[Any], dest_dtype: DTypeLike | None) -> None:
        """Raise TypeError when tiles are wanted in a dtype that is refused."""
        if not self.check_cast or dest_dtype is None:
            return
        dest = np.dtype(dest_dtype)
        rounds = dest.kind in "fc" and np.can_cast(dtype, dest, casting="same_kind")
        if not rounds and not np.can_cast(dtype, dest, casting="safe"):
            msg = f"{dtype} cannot be cast safely to {dest}; load the array with check_cast=False to do it anyway"
            raise TypeError(msg)

    def delayed(self, tiles: Iterator[DataTile]) -> Iterator[DataTile]:
        """Return the tiles, as slow as they should be."""
        return tiles if self.tiledelay is None else _wait_before_each(tiles, self.tiledelay)


def _wait_before_each(tiles: Iterator[DataTile], seconds: float) -> Iterator[DataTile]:
    for tile in tiles:
        time.sleep(seconds)
        yield tile


class MemoryPartition(FixedStridePartition):
    """A partition of a dense array in memory.

    Parameters
    ----------
    meta, partition_slice, segments, frame_format
        As of `FixedStridePartition`.
    delivery
        How tiles are handed out.
    """

    def __init__(
        self,
        meta: DataSetMeta,
        partition_slice: Slice,
        segments: tuple[Segment, ...],
        frame_format: FrameFormat,
        delivery: Delivery,
    ) -> None:
        super().__init__(meta, partition_slice, segments, frame_format)
        self._delivery = delivery

    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles; see `Partition.get_tiles`.

        Raises
        ------
        TypeError
            When the array cannot be cast safely to `dest_dtype`, unless the dataset allows that.
        """
        self._delivery.check(self.dtype, dest_dtype)
        return self._delivery.delayed(super().get_tiles(tiling_scheme, dest_dtype, roi, array_backend))

    def get_picked_tiles(
        self, tiling_scheme: TilingScheme, roi: NDArray[np.bool_], *, for_kernels: bool
    ) -> Iterator[DataTile] | None:
        """Return tiles of selected frames where they lie, as slow as others; see `FixedStridePartition`."""
        tiles = super().get_picked_tiles(tiling_scheme, roi, for_kernels=for_kernels)
        return None if tiles is None else self._delivery.delayed(tiles)


class SparseMemoryPartition(SparsePartition):
    """A partition of a sparse array in memory.

    Parameters
    ----------
    meta, partition_slice, segments
        As of `SparsePartition`.
    delivery
        How tiles are handed out.
    """

    def __init__(
        self, meta: DataSetMeta, partition_slice: Slice, segments: Sequence[SparseSegment], delivery: Delivery
    ) -> None:
        super().__init__(meta, partition_slice, segments)
        self._delivery = delivery

    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames of the partition in tiles; see `MemoryPartition.get_tiles`."""
        self._delivery.check(self.dtype, dest_dtype)
        return self._delivery.delayed(super().get_tiles(tiling_scheme, dest_dtype, roi, array_backend))
