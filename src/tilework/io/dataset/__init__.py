"""Datasets: frames of a scan, from files and from arrays, cut into partitions and tiles.

::

    registry.py          the formats by name, detection, load; foreign.py: files of others, and what to do with them
    base.py              DataSet; partition.py, tile.py, meta.py, axes.py: what belongs to it
    partitioning.py      the scan is cut into partitions; tiling.py, tiling_scheme.py: partitions into tiles
    raw.py, npy.py, mib.py, blo.py, empad.py    formats of files; mib_header.py, mib_timing.py, frame_marks.py: parts
    memory.py, dask.py   arrays; memory_partition.py, sparse_partition.py: their partitions
    acquisition.py       data that comes while it is processed
    fixed_stride.py      frames at a fixed distance; fixed_stride_file.py, fixed_stride_partition.py: in files, in parts
    layout.py            where the frames lie; blocks.py: from there to arrays; mapping.py, scratch.py: memory for them
    files.py, seen.py    files before they are read, and when they have changed since
    params.py            checks of parameters
"""

from __future__ import annotations

from tilework.exceptions import DataSetException
from tilework.io.dataset.registry import (
    detect,
    filetypes,
    get_dataset_cls,
    get_extensions,
    get_search_order,
    load,
    register_dataset_cls,
    unregister_dataset_cls,
)

__all__ = [
    "DataSetException",
    "detect",
    "filetypes",
    "get_dataset_cls",
    "get_extensions",
    "get_search_order",
    "load",
    "register_dataset_cls",
    "unregister_dataset_cls",
]
