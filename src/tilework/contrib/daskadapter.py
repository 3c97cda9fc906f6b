"""Datasets as Dask arrays."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import fill_value
from tilework.common.dask_graphs import import_dask
from tilework.common.roi import RoiT, normalize_roi
from tilework.common.shape import Shape
from tilework.io.dataset.tiling_scheme import TilingScheme

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from tilework.common.scheduler import WorkerSet
    from tilework.io.dataset.base import DataSet
    from tilework.io.dataset.partition import Partition

__all__ = ["make_dask_array"]


def make_dask_array(
    dataset: DataSet,
    dtype: DTypeLike = "float32",
    roi: RoiT = None,
    array_backend: str | None = None,
) -> tuple[Any, dict[Any, WorkerSet | None]]:
    """Return a dataset as a Dask array, nothing of which is read before it is computed.

    Parameters
    ----------
    dataset
        The dataset.
    dtype
        Dtype of the array; that of the dataset should go into it.
    roi
        Selected positions, as of `Context.run_udf`; None selects all.
    array_backend
        Kind of array that the chunks are; None for NumPy.

    Returns
    -------
    array : dask.array.Array
        Of the shape of the dataset; with `roi` of shape ``(selected positions, *sig)``. One chunk per partition, where
        those are whole lines of the scan; else parts of them. A frame that the source does not have is NaN, or 0 for
        integers.
    workers : dict
        For the `dask.delayed.Delayed` of each partition, the workers that have its data, or None for any. Dask knows
        hosts and addresses: ``client.compute(delayed, workers=list(workers[delayed].hosts()))``.

    Raises
    ------
    ExecutorSpecException
        When Dask is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from tilework.api import Context
    >>> from tilework.contrib.daskadapter import make_dask_array
    >>> with Context.make_with("inline") as ctx:
    ...     ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype=np.uint16))
    >>> array, _ = make_dask_array(ds)
    >>> float(array[1:3, :2].sum())
    256.0
    """
    dask = import_dask("make_dask_array")
    wanted = np.dtype(dtype)
    sig = tuple(dataset.shape.sig)
    roi = normalize_roi(roi, tuple(dataset.shape.nav))
    selected = None if roi is None else roi.reshape(-1)
    name = f"read-{uuid.uuid4().hex}"
    chunks, workers = [], {}
    for i, partition in enumerate(dataset.get_partitions()):
        frames = partition.get_frame_count(selected)
        if not frames:
            continue
        read = ReadPartition(partition, wanted, selected, array_backend)
        key = f"{name}-{i}"
        delayed = dask.Delayed(key, dask.HighLevelGraph({key: {key: (read,)}}, {key: set()}))
        chunks.append(dask.array.from_delayed(delayed, (frames, *sig), dtype=wanted))
        workers[delayed] = partition.get_locations()
    flat = dask.array.concatenate(chunks) if chunks else dask.array.zeros((0, *sig), dtype=wanted)
    return (flat if selected is not None else flat.reshape(tuple(dataset.shape))), workers


@dataclass(frozen=True, slots=True, eq=False)
class ReadPartition:
    """Reads the selected frames of a partition."""

    partition: Partition
    dtype: np.dtype[Any]
    roi: NDArray[np.bool_] | None
    array_backend: str | None

    def __call__(self) -> Any:
        """Return them, of shape ``(selected positions, *sig)``."""
        partition = self.partition
        if self.array_backend not in {None, "numpy"}:
            return partition.get_macrotile(self.dtype, self.roi, self.array_backend).data
        frames = partition.slice.adjust_for_roi(self.roi)
        data = np.full(tuple(frames.shape), fill_value(self.dtype), dtype=self.dtype)
        whole = Shape((1, *partition.shape.sig), partition.shape.sig_dims)
        scheme = TilingScheme.make_for_shape(whole, partition.meta.shape, intent="partition")
        tiles = partition.get_tiles(scheme.adjust_for_partition(partition), self.dtype, self.roi, "numpy")
        for tile in tiles:
            start = tile.tile_slice.origin[0] - frames.origin[0]
            data[start : start + tile.shape[0]] = tile.data
        return data
