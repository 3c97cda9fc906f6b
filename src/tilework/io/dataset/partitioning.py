"""How the flattened scan is cut into partitions: by the size of the data alone, never by the number of workers."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from tilework.common.callers import outside_level
from tilework.common.shape import Shape
from tilework.common.slice import Slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MAX_PARTITION_BYTES", "default_num_partitions", "make_slices", "slices_up_to"]

MIB = 1024 * 1024
MIN_PARTITION_BYTES = 64 * MIB
MAX_PARTITION_BYTES = 512 * MIB
MIN_PARTITION_FRAMES = 64
# Smaller data is cut into up to this many partitions, so that a few cores have something to share. Where pixels are
# only added up, those of a task of this size take about as long as the rest of it.
PARALLEL_PARTITIONS = 16
PARALLEL_BYTES = 4 * MIB
# Two cores share also smaller data, as Python takes long for many small frames.
FEW_PARTITIONS = 2
FEW_BYTES = 2 * MIB
# With fewer frames in each, what is kept per partition (a sum has the size of a frame, or twice) costs as much as the
# data; but a function that takes long for each large frame needs more than one core.
PARALLEL_FRAMES = 8


def default_num_partitions(n_frames: int, frame_bytes: int) -> int:
    """Return into how many partitions a dataset is cut unless the caller says otherwise.

    Parameters
    ----------
    n_frames
        Number of scan positions.
    frame_bytes
        Size of one frame in bytes.
    """
    total = n_frames * frame_bytes
    part = min(max(MIN_PARTITION_BYTES, total / 1024, MIN_PARTITION_FRAMES * frame_bytes), MAX_PARTITION_BYTES)
    by_size = math.ceil(total / part)
    by_frames = max(FEW_PARTITIONS, n_frames // PARALLEL_FRAMES)
    by_bytes = max(total // PARALLEL_BYTES, min(FEW_PARTITIONS, total // FEW_BYTES))
    for_cores = min(PARALLEL_PARTITIONS, by_bytes, by_frames)
    if for_cores > 1:
        for_cores += for_cores % 2  # of three, one core of two would do twice as much as the other
    return max(1, min(n_frames, max(by_size, for_cores)))


def make_slices(shape: Shape, num_partitions: int, sync_offset: int = 0) -> Iterator[tuple[Slice, int, int]]:
    """Cut the flattened navigation axis into consecutive parts of nearly the same size.

    Parameters
    ----------
    shape
        Shape of the dataset.
    num_partitions
        Number of parts; with more parts than frames a `RuntimeWarning` is given and there is one part for each frame.
    sync_offset
        First frame of the source that belongs to the scan.

    Yields
    ------
    tuple
        The slice, with one navigation axis, and the first and the one-past-last frame of the source in it.
    """
    frames = shape.nav.size
    if num_partitions > frames:
        warnings.warn(
            f"{num_partitions} partitions are more than the {frames} frames of the dataset: using {frames}",
            RuntimeWarning,
            stacklevel=outside_level(),
        )
        num_partitions = frames
    for part in slices_up_to(shape, [(i + 1) * frames // num_partitions for i in range(num_partitions)]):
        start = part.origin[0] + sync_offset
        yield part, start, start + part.shape[0]


def slices_up_to(shape: Shape, stops: Iterable[int]) -> Iterator[Slice]:
    """Cut the flattened navigation axis at the given positions; yields slices with one navigation axis.

    Parameters
    ----------
    shape
        Shape of the dataset.
    stops
        Where each slice ends, increasing.
    """
    sig = shape.sig.to_tuple()
    zeros = (0,) * len(sig)
    start = 0
    for stop in stops:
        yield Slice((start, *zeros), Shape((stop - start, *sig), len(sig)))
        start = stop
