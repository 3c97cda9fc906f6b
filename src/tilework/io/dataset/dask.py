"""Dask arrays as datasets: each partition is a chunk, or some chunks together, and is computed where it is processed.

Chunks are merged, never split: the signal axes become one chunk, so that frames are whole, and the navigation axes are
merged as far as a partition must be a run of the flattened scan.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import numpy as np

from tilework.common.arrays import is_masked
from tilework.common.dask_graphs import import_dask, rechunked
from tilework.common.numbers import is_real, is_whole
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import DataSetException, ExecutorSpecException
from tilework.io.dataset.base import DataSet
from tilework.io.dataset.blocks import FrameFormat
from tilework.io.dataset.fixed_stride_partition import FixedStridePartition
from tilework.io.dataset.params import check_dtype
from tilework.io.dataset.partitioning import default_num_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor

__all__ = ["DaskDataSet", "merge_chunks"]

_FILE_LIBRARIES: Final = {"h5py", "netCDF4"}
"""Their objects stand for open files. They refuse to be pickled, but Dask can send them."""


class DaskDataSet(DataSet):
    """A Dask array.

    It is ready for use without `initialize`, and nothing of it is computed before a run. A run computes each partition
    once, where it is processed: in one thread, since it is the executor that decides how many run at a time. What
    several chunks depend on is computed for each partition again; ``persist`` it before if that is dear.

    Parameters
    ----------
    dask_array
        The array, navigation axes first. Arrays of bool are delivered as u1.
    sig_dims
        Number of signal axes.
    preserve_dimensions
        False: the navigation axes may change their order, so that those with most chunks come first and fewer chunks
        are merged. The dataset's shape, and that of results, then has the changed order.
    min_size
        Bytes that a partition has at least, where there is enough data: neighbouring chunks are merged until then.
        None chooses it from the size of the data.
    io_backend
        Must be None.

    Raises
    ------
    DataSetException
        When this is no Dask array, its chunks or dtype are of no use, or the parameters do not fit it.
    """

    IN_PROCESS = True

    def __init__(
        self,
        dask_array: Any,
        *,
        sig_dims: int,
        preserve_dimensions: bool = True,
        min_size: int | None = None,
        io_backend: str | None = None,
    ) -> None:
        if io_backend is not None:
            msg = f"io_backend={io_backend!r}: a Dask array does its own I/O; leave io_backend out"
            raise DataSetException(msg)
        super().__init__()
        array = _checked(dask_array, sig_dims)
        stored = check_dtype(array.dtype, "the Dask array")
        if min_size is not None and not (is_real(min_size) and 0 <= min_size < math.inf):
            msg = f"min_size={min_size!r} must be a number of bytes, 0 or more, or None"
            raise DataSetException(msg)
        nav_dims = array.ndim - sig_dims
        if not preserve_dimensions:
            order = sorted(range(nav_dims), key=lambda axis: -len(array.chunks[axis]))
            array = array.transpose((*order, *range(nav_dims, array.ndim)))
        self._shape = Shape(array.shape, sig_dims)
        self._raw_dtype = stored
        frame_bytes = self._shape.sig.size * stored.itemsize
        if min_size is None:
            frames = self._shape.nav.size
            min_size = frames * frame_bytes // default_num_partitions(frames, frame_bytes)
        nav = merge_chunks(array.chunks[:nav_dims], max(1, int(min_size) // frame_bytes))
        merged = rechunked(array, (*nav, *((n,) for n in self._shape.sig)))
        self._chunks = _ChunkGraphs(merged)
        self._nav_chunks = tuple(itertools.product(*nav))  # in C order
        self._chunks_before = array.npartitions

    def initialize(self, executor: JobExecutor) -> DaskDataSet:  # noqa: ARG002
        """Return the dataset; there is nothing to look at."""
        return self

    def check_valid(self) -> bool:
        """Return True: whether the array can be computed shows when it is."""
        return True

    @property
    def shape(self) -> Shape:
        """Shape of the dataset: navigation axes, then signal axes."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the frames, in native byte order."""
        return self._raw_dtype.newbyteorder("=")

    @property
    def raw_dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self._raw_dtype

    @property
    def zero_copy(self) -> bool:
        """Whether tiles as stored are views that cost no copy: they are, of the chunk that was computed."""
        return True

    @classmethod
    def get_supported_io_backends(cls) -> list[str]:
        """Return nothing: a Dask array does its own I/O."""
        return []

    def get_num_partitions(self) -> int:
        """Return the number of partitions, one for each chunk after merging."""
        return len(self._nav_chunks)

    def get_diagnostics(self) -> list[dict[str, str]]:
        """Return how many chunks became how many partitions."""
        return [{"name": "Chunks of the array", "value": str(self._chunks_before)}]

    def describe(self) -> dict[str, Any]:
        """Return how the array was understood; can be written as JSON."""
        return {**super().describe(), "format": "dask", "path": None}

    def get_partitions(self) -> Iterator[FixedStridePartition]:
        """Yield the partitions, in the order of the scan."""
        sig = tuple(self._shape.sig)
        frame_format = FrameFormat(self._raw_dtype, sig, None, aligned=True)
        first = 0
        for i, nav in enumerate(self._nav_chunks):
            frames = math.prod(nav)
            part = Slice((first, *(0,) * len(sig)), Shape((frames, *sig), len(sig)))
            segment: Any = DaskSegment(self._chunks.get(i), self._raw_dtype, (*nav, *sig), frames, first)
            partition = FixedStridePartition(self.meta, part, (segment,), frame_format)
            partition.set_idx(i)
            yield partition
            first += frames


def _checked(array: Any, sig_dims: int) -> Any:
    """Return `array` when it is a Dask array of known chunks that has navigation axes."""
    try:
        dask = import_dask("a dataset of type 'dask'")
    except ExecutorSpecException as e:
        raise DataSetException(str(e)) from e
    if not isinstance(array, dask.array.Array):
        msg = f"a Dask array is expected, got a {type(array).__name__}: load NumPy arrays as 'memory', files by format"
        raise DataSetException(msg)
    checked: Any = array
    if any(math.isnan(n) for sizes in checked.chunks for n in sizes):
        msg = "the Dask array has chunks of unknown size: call compute_chunk_sizes() on it first"
        raise DataSetException(msg)
    if not (is_whole(sig_dims) and 1 <= sig_dims < checked.ndim):
        msg = (
            f"sig_dims={sig_dims!r} does not fit a Dask array of shape {checked.shape}: it must be at least 1 and "
            "leave a navigation axis; a single frame becomes a scan of one position with array[numpy.newaxis]"
        )
        raise DataSetException(msg)
    if checked.size == 0:
        msg = f"the Dask array of shape {checked.shape} holds no data"
        raise DataSetException(msg)
    return checked


def _refuse_held(graph: Mapping[Any, Any], keys: Iterable[Any]) -> None:
    """Look for pieces that a cluster holds: only its client could compute with them.

    Dask leaves them out of an optimized graph, in which only their keys are found; older versions leave a future there,
    by itself or in a task.
    """
    needed = set(keys).union(*(getattr(task, "dependencies", ()) for task in graph.values()))
    distributed: Any = sys.modules.get("distributed")
    futures = distributed is not None and distributed.futures_of(list(graph.values()))
    if futures or not needed <= graph.keys():
        msg = (
            "the Dask array is held by a cluster (persisted, or made of futures), so other workers cannot "
            "compute it: load it before persist(), or load array.compute() as 'memory'"
        )
        raise DataSetException(msg)


def merge_chunks(chunks: Sequence[tuple[int, ...]], min_frames: int) -> tuple[tuple[int, ...], ...]:
    """Return the chunks of the navigation axes after merging: each is a run of the flattened scan.

    Chunks are runs when, up to some axis, all have size 1, on that axis they have any size, and behind it there is one
    for each axis. The last axis for which that needs no splitting is taken, so that partitions are as many as possible.

    Parameters
    ----------
    chunks
        Sizes of the chunks along each navigation axis.
    min_frames
        Number of positions below which neighbours are merged.
    """
    sizes = [tuple(int(n) for n in along if n) for along in chunks]
    axis = next((i for i, along in enumerate(sizes) if max(along) > 1), len(sizes) - 1)
    behind = 1
    for i in range(len(sizes) - 1, axis, -1):
        sizes[i] = (sum(sizes[i]),)
        behind *= sizes[i][0]
    while True:
        sizes[axis] = _merge_neighbours(sizes[axis], -(-min_frames // behind))
        behind *= sum(sizes[axis])
        if axis == 0 or len(sizes[axis]) > 1 or behind >= min_frames:
            return tuple(sizes)
        axis -= 1


def _merge_neighbours(sizes: tuple[int, ...], least: int) -> tuple[int, ...]:
    """Return sums of consecutive sizes, none of which is less than `least` unless all together are."""
    merged: list[int] = []
    pending = 0
    for size in sizes:
        pending += size
        if pending >= least:
            merged.append(pending)
            pending = 0
    if pending and merged:
        merged[-1] += pending
    elif pending:
        merged.append(pending)
    return tuple(merged)


class _ChunkGraphs:
    """The optimized graph of an array, and the keys of its chunks in C order."""

    def __init__(self, array: Any) -> None:
        import dask.base
        import dask.core

        base: Any = dask.base
        core: Any = dask.core
        (optimized,) = base.optimize(array)
        self._graph = dict(optimized.__dask_graph__())
        self._keys = list(core.flatten(optimized.__dask_keys__()))
        _refuse_held(self._graph, self._keys)

    def __getstate__(self) -> bytes:
        return _dumps((self._graph, self._keys))

    def __setstate__(self, state: bytes) -> None:
        self._graph, self._keys = pickle.loads(state)  # noqa: S301  (pickled by __getstate__)

    def get(self, index: int) -> ChunkGraph:
        return ChunkGraph(self._graph, self._keys[index])


class ChunkGraph:
    """What computes one chunk; the graph is cut to what that needs when it travels, or computes.

    Parameters
    ----------
    graph
        Graph of this chunk, and maybe of others.
    key
        Key of the chunk.
    """

    __slots__ = ("_graph", "_key")

    def __init__(self, graph: Any, key: Any) -> None:
        self._graph = graph
        self._key = key

    def _cut(self) -> Any:
        from dask.optimization import cull

        culled: Any = cull
        return culled(self._graph, [self._key])[0]

    def __getstate__(self) -> bytes:
        return _dumps((self._cut(), self._key))

    def __setstate__(self, state: bytes) -> None:
        self._graph, self._key = pickle.loads(state)  # noqa: S301  (pickled by __getstate__)

    def compute(self) -> Any:
        """Compute the chunk, in this thread."""
        from dask.local import get_sync

        get: Any = get_sync
        return get(self._cut(), self._key)


def _dumps(graph: Any) -> bytes:
    """Pickle a graph, which may well hold functions that have no name, and open files."""
    file = io.BytesIO()
    try:
        _GraphPickler(file).dump(graph)
    except (AttributeError, OSError, TypeError, ValueError, pickle.PicklingError) as e:
        msg = (
            f"the Dask array is computed from something that cannot be sent to worker processes ({e}): open files for "
            "reading only and keep them open, or use an executor of threads"
        )
        raise DataSetException(msg) from e
    return file.getvalue()


class _GraphPickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Leaves open files to Dask, which opens them again where they arrive."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is pickled; see `pickle.Pickler`."""
        if type(obj).__module__.partition(".")[0] in _FILE_LIBRARIES:
            import distributed.protocol as dask

            with suppress(TypeError):  # it is none of a file
                load = dask.dask_deserialize.dispatch(type(obj))
                return load, dask.dask_serialize.dispatch(type(obj))(obj)
        return super().reducer_override(obj)


@dataclass(frozen=True, slots=True, eq=False)
class DaskSegment:
    """The frames of one chunk, which are computed every time they are looked at.

    Parameters
    ----------
    chunk
        Computes the chunk.
    stored
        Dtype that the array says it has.
    shape
        Shape that the array says its chunk has.
    frames
        Number of frames.
    first
        Position of the first frame in the flattened scan.
    """

    chunk: ChunkGraph
    stored: np.dtype[Any]
    shape: tuple[int, ...]
    frames: int
    first: int

    def view(self, dtype: np.dtype[Any], frame_shape: tuple[int, ...], inner: tuple[int, ...]) -> NDArray[Any]:  # noqa: ARG002
        """Compute all frames; returns a read-only array of shape (frames, ``*frame_shape``)."""
        array = _as_numpy(self.chunk.compute())
        # Dask is not exact about byte order.
        if array.dtype.newbyteorder("=") != self.stored.newbyteorder("=") or array.shape != self.shape:
            have, want = f"{array.dtype}{array.shape}", f"{self.stored}{self.shape}"
            msg = f"a chunk of the Dask array was computed as {have}, but the array says {want}: correct its meta"
            raise DataSetException(msg)
        frames = np.ascontiguousarray(array, dtype=self.stored).reshape((self.frames, *frame_shape))
        frames.flags.writeable = False
        return frames


def _as_numpy(chunk: Any) -> NDArray[Any]:
    """Return a computed chunk as NumPy array."""
    if is_masked(chunk) and np.ma.is_masked(chunk):
        msg = "something is masked in a chunk of the Dask array: fill it, with dask.array.ma.filled(array, value)"
        raise DataSetException(msg)
    if isinstance(chunk, np.ndarray):
        return np.asarray(chunk)
    import sparseconverter

    try:
        return np.asarray(sparseconverter.for_backend(chunk, "numpy"))
    except (TypeError, ValueError, KeyError) as e:
        name = f"{type(chunk).__module__}.{type(chunk).__qualname__}"
        msg = f"chunks of the Dask array are of type {name}, which cannot be made NumPy arrays: convert them before"
        raise DataSetException(msg) from e
