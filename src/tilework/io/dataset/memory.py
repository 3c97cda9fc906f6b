"""Arrays in memory as datasets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import (
    BACKENDS,
    CPU_BACKENDS,
    CUDA,
    CUPY,
    CUPY_BACKENDS,
    CUPY_SCIPY_COO,
    CUPY_SCIPY_CSC,
    CUPY_SCIPY_CSR,
    NUMPY,
    NUMPY_MATRIX,
    SCIPY_COO,
    SCIPY_COO_ARRAY,
    SCIPY_CSC,
    SCIPY_CSC_ARRAY,
    SCIPY_CSR,
    SCIPY_CSR_ARRAY,
    SPARSE_BACKENDS,
    SPARSE_COO,
    SPARSE_DOK,
    SPARSE_GCXS,
    can_hold,
)
from tilework.common.arrays import is_masked
from tilework.common.numbers import is_real, is_whole
from tilework.common.sparse import is_sparse, to_dense
from tilework.exceptions import DataSetException
from tilework.io.dataset.fixed_stride import FixedStrideDataSet, Source
from tilework.io.dataset.layout import ArraySegment, FrameLayout, SparseSegment
from tilework.io.dataset.memory_partition import Delivery, MemoryPartition, SparseMemoryPartition
from tilework.io.dataset.params import check_dtype, check_shape
from tilework.io.dataset.partitioning import default_num_partitions
from tilework.io.dataset.sparse_partition import as_canonical_csr, sparse_backend_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import JobExecutor
    from tilework.common.slice import Slice
    from tilework.io.dataset.blocks import FrameFormat
    from tilework.io.dataset.layout import Segment
    from tilework.io.dataset.meta import DataSetMeta
    from tilework.io.dataset.partition import Partition

__all__ = ["MemoryDataSet", "MemoryPartition", "SparseMemoryPartition"]

# What a dense array is offered as: itself, then dense kinds, then sparse ones by the cost of making them.
DENSE_ORDER = (
    NUMPY,
    NUMPY_MATRIX,
    CUDA,
    CUPY,
    SPARSE_COO,
    SCIPY_COO_ARRAY,
    SCIPY_COO,
    SCIPY_CSC,
    SCIPY_CSR,
    SCIPY_CSR_ARRAY,
    SCIPY_CSC_ARRAY,
    SPARSE_GCXS,
    SPARSE_DOK,
    CUPY_SCIPY_CSC,
    CUPY_SCIPY_CSR,
    CUPY_SCIPY_COO,
)


class MemoryDataSet(FixedStrideDataSet):
    """An array in memory.

    It is ready for use without `initialize`. Partitions refer to the array; one that is sent to another process takes
    its own part of the array with it.

    Parameters
    ----------
    tileshape
        Depth and sig shape of the tiles, ``(depth, *sig)``, instead of what suits best; for tests.
    num_partitions
        Number of partitions; None chooses it from the size of the data.
    data
        The array, navigation axes first: of NumPy, or sparse, of SciPy (with the axes frames and pixels: give
        `nav_shape` and `sig_shape`) or pydata sparse, which stays sparse; arrays of other kinds are brought into main
        memory, once. One of NumPy that is not in C order is copied then, so that later changes of it are not seen.
        Arrays of bool are delivered as u1.
    sig_dims
        Number of signal axes; None follows from `sig_shape` or `nav_shape`, and is 2 without them. Where axes of length
        one leave a choice, the array has as many of these axes as the shape.
    check_cast
        Refuse to deliver tiles in a dtype that cannot hold the array's values; floats may be rounded.
    tiledelay
        Seconds to wait before each tile; for tests.
    datashape
        Instead of `data`: shape of an array of zeros, float32.
    base_shape
        Smallest sensible tile, ``(depth, *sig)``.
    force_need_decode
        Claim that tiles cannot be views; for tests.
    io_backend
        Must be None.
    nav_shape, sig_shape, sync_offset
        As of `FixedStrideDataSet`.
    array_backends
        Array backends to offer, best first; None: all, first that of the array, then those that tiles are easily
        converted to.

    Raises
    ------
    DataSetException
        When neither `data` nor `datashape` is given, the parameters do not fit the array, or an array backend is
        unknown.
    ValueError
        When `io_backend` is given.

    Examples
    --------
    >>> dataset = ctx.load("memory", data=np.ones((64, 8, 8), dtype="uint16"), nav_shape=(8, 8))
    >>> dataset.shape, dataset.roi[2:4].sum()
    ((8, 8, 8, 8), np.int64(16))

    Sparse data stays sparse, for functions that can use it:

    >>> import sparse
    >>> events = sparse.random((4, 4, 32, 32), density=0.01, random_state=0)
    >>> dataset = ctx.load("memory", data=events)
    >>> dataset.array_backends[0], round(dataset.density, 3)
    ('sparse.COO', 0.01)
    """

    IN_PROCESS = True
    _density = 1.0

    def __init__(
        self,
        tileshape: Sequence[int] | None = None,
        num_partitions: int | None = None,
        data: Any = None,
        sig_dims: int | None = None,
        check_cast: bool = True,
        tiledelay: float | None = None,
        datashape: Sequence[int] | None = None,
        base_shape: Sequence[int] | None = None,
        force_need_decode: bool = False,
        io_backend: str | None = None,
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        array_backends: Sequence[str] | None = None,
    ) -> None:
        if io_backend is not None:
            msg = f"io_backend={io_backend!r}: an array in memory needs no I/O; leave io_backend out"
            raise ValueError(msg)
        super().__init__(
            nav_shape=nav_shape, sig_shape=sig_shape, sync_offset=sync_offset, num_partitions=num_partitions
        )
        if data is None:
            if datashape is None:
                msg = "MemoryDataSet needs an array: give data, or datashape for an array of zeros"
                raise DataSetException(msg)
            shape = check_shape("datashape", datashape)
            assert shape is not None
            data = np.zeros(shape, dtype=np.float32)
        elif datashape is not None:
            msg = "MemoryDataSet: data and datashape exclude each other; give one of them"
            raise DataSetException(msg)
        self._array: Any = _as_array(data)
        self._ndim = len(self._array.shape)
        self._own_backend = "numpy" if isinstance(self._array, np.ndarray) else sparse_backend_of(self._array)
        self._array_backends = self._find_backends(array_backends)
        if not (tiledelay is None or (is_real(tiledelay) and 0 <= tiledelay < math.inf)):
            msg = f"tiledelay={tiledelay!r}: must be a number of seconds, at least 0, or None"
            raise DataSetException(msg)
        self._delivery = Delivery(check_cast, tiledelay)
        self._force_need_decode = force_need_decode
        self._adopt(self._make_source(self._find_sig_dims(sig_dims)))
        self._tileshape = self._check_tile("tileshape", tileshape)
        self._base_shape = self._check_tile("base_shape", base_shape)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, with the array once: its frames are views, which pickle would copy."""
        return {**self.__dict__, "_array": self._array.shape} if self._own_backend == "numpy" else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._own_backend == "numpy":
            (frames,) = (segment for segment in self.source.layout.segments if isinstance(segment, ArraySegment))
            self._array = frames.array.reshape(self._array)

    def _name(self) -> str:
        return "the array"

    def _find_backends(self, wanted: Sequence[str] | str | None) -> tuple[str, ...]:
        if wanted is not None:
            names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
            unknown = [name for name in names if name not in BACKENDS]
            if unknown or not names:
                msg = f"array_backends={wanted!r}: must be some of {', '.join(sorted(BACKENDS))}"
                raise DataSetException(msg)
            return names
        return DENSE_ORDER if self._own_backend == "numpy" else _order_for(str(self._own_backend))

    def _find_sig_dims(self, sig_dims: int | None) -> int:
        if sig_dims is None:
            if self._sig_shape is not None:
                return self._dims_of_size(self._sig_shape, from_last=True)
            if self._nav_shape is not None:
                return self._ndim - self._dims_of_size(self._nav_shape, from_last=False)
            sig_dims = 2
        if not (is_whole(sig_dims) and 1 <= sig_dims <= self._ndim):
            wanted = f"an integer from 1 to {self._ndim}"
            msg = f"sig_dims={sig_dims!r} does not fit an array of shape {self._array.shape}: must be {wanted}"
            raise DataSetException(msg)
        return sig_dims

    def _dims_of_size(self, wanted: tuple[int, ...], *, from_last: bool) -> int:
        """Return how many axes at that end of the array have as many entries as `wanted`; 2 signal axes when none fits.

        Axes of length one leave a choice: as many axes as `wanted` has come first.
        """
        shape: tuple[int, ...] = self._array.shape
        size = math.prod(wanted)
        choices: list[int] = [len(wanted), *range(1, len(shape))]
        for dims in choices:
            part = shape[-dims:] if from_last else shape[:dims]
            if 0 < dims < len(shape) and math.prod(part) == size:
                return dims
        dims = len(wanted) if from_last else 2
        return min(dims, len(shape)) if from_last else max(0, len(shape) - dims)

    def _make_source(self, sig_dims: int) -> Source:
        array = self._array
        dtype = check_dtype(array.dtype, "the array")
        warnings: tuple[str, ...] = ()
        nav_shape, sig_shape = array.shape[: self._ndim - sig_dims] or (1,), array.shape[self._ndim - sig_dims :]
        pixels, size = math.prod(sig_shape), math.prod(array.shape)
        if size == 0:
            msg = f"the array of shape {array.shape} holds no data"
            raise DataSetException(msg)
        if self._sig_shape is not None and math.prod(self._sig_shape) != pixels:
            wanted = math.prod(self._sig_shape)
            if size % wanted:
                msg = (
                    f"the array of shape {array.shape} has {size} entries, no multiple of the {wanted} of "
                    f"sig_shape {self._sig_shape}"
                )
                raise DataSetException(msg)
            # Arrays of another shape are cut as they lie in memory, like a raw file.
            if not _is_cut_along_axes(array.shape, wanted):
                message = (
                    f"no last axes of the array of shape {array.shape} have the {wanted} entries of sig_shape "
                    f"{self._sig_shape}: frames are cut from it as it lies in memory, across the ends of its axes; "
                    "check sig_shape"
                )
                warnings = (message,)
            nav_shape, sig_shape, pixels = (size // wanted,), self._sig_shape, wanted
        segment: Segment
        stored = dtype
        if isinstance(array, np.ndarray):
            segment = ArraySegment(np.ascontiguousarray(array).reshape((-1, *sig_shape)), 0)
        else:
            stored = dtype.newbyteorder("=")
            _check_indices(array)
            segment = SparseSegment(as_canonical_csr(array, pixels, stored), 0)
            self._density = segment.matrix.nnz / size
        return Source(
            layout=FrameLayout((segment,), stored, sig_shape),
            dtype=dtype,
            nav_shape=nav_shape,
            sig_shape=sig_shape,
            warnings=warnings,
        )

    def _check_tile(self, name: str, tile: Sequence[int] | None) -> tuple[int, ...] | None:
        sizes = check_shape(name, tile)
        if sizes is not None and len(sizes) != self.shape.sig_dims + 1:
            msg = f"{name}={sizes}: must have {self.shape.sig_dims + 1} sizes, the depth and one for each signal axis"
            raise DataSetException(msg)
        return sizes

    def _probe(self) -> Source:
        return self.source

    def initialize(self, executor: JobExecutor) -> MemoryDataSet:  # noqa: ARG002
        """Return the dataset; there is nothing to look at."""
        return self

    @property
    def data(self) -> Any:
        """The array."""
        return self._array

    @property
    def array_backends(self) -> Sequence[str]:
        """Names of the array backends in which tiles can be had, best first."""
        return self._array_backends

    @property
    def density(self) -> float:
        """Share of the pixels that are stored: 1 for dense arrays."""
        return self._density

    def get_num_partitions(self) -> int:
        """Return the number of partitions; sparse arrays are counted by what is stored."""
        if self._own_backend == "numpy" or self._num_partitions is not None:
            return super().get_num_partitions()
        stored = self.dtype.itemsize + np.dtype(np.int64).itemsize
        return default_num_partitions(self.shape.nav.size, int(self.shape.sig.size * stored * self._density) + 1)

    def get_base_shape(self, roi: NDArray[np.bool_] | None) -> tuple[int, ...]:
        """Return the smallest sensible tile ``(depth, *sig)``; of sparse arrays these are whole frames."""
        if self._tileshape or self._base_shape:
            return self._tileshape or self._base_shape or ()
        return super().get_base_shape(roi) if self._own_backend == "numpy" else (1, *self.shape.sig)

    def adjust_tileshape(self, tileshape: tuple[int, ...], roi: NDArray[np.bool_] | None) -> tuple[int, ...]:
        """Return the tile shape ``(depth, *sig)`` that was asked for, or else the proposed one."""
        return self._tileshape or super().adjust_tileshape(tileshape, roi)

    @property
    def zero_copy(self) -> bool:
        """Whether tiles as stored, without region of interest, are views that cost no copy."""
        return super().zero_copy and not self._force_need_decode and self._tileshape is None

    def need_decode(self, read_dtype: DTypeLike, roi: NDArray[np.bool_] | None, corrections: Any) -> bool:
        """Return whether tiles in `read_dtype` cannot be views of the data."""
        return self._force_need_decode or super().need_decode(read_dtype, roi, corrections)

    def describe(self) -> dict[str, Any]:
        """Return how the array was understood; can be written as JSON."""
        return {**super().describe(), "format": "memory", "path": None}

    def _make_partition(
        self,
        meta: DataSetMeta,
        part: Slice,
        segments: tuple[Segment, ...],
        frame_format: FrameFormat,
    ) -> Partition:
        if self._own_backend != "numpy":
            sparse = [segment for segment in segments if isinstance(segment, SparseSegment)]
            return SparseMemoryPartition(meta, part, sparse, self._delivery)
        return MemoryPartition(meta, part, segments, frame_format, self._delivery)


def _order_for(own: str) -> tuple[str, ...]:
    """Return all backends for data of a sparse one: itself, then sparse ones, those of the CPU, cheap conversions."""
    import sparseconverter

    def rank(name: str) -> tuple[Any, ...]:
        return (
            name != own,
            name not in SPARSE_BACKENDS,
            name not in CPU_BACKENDS,
            sparseconverter.conversion_cost(own, name),
        )

    return tuple(sorted(sorted(BACKENDS), key=rank))


def _as_array(data: Any) -> Any:
    """Return `data` as a NumPy array, or as it is when it is sparse, in main memory, and can be delivered so.

    Raises
    ------
    DataSetException
        When it is no array.
    """
    if type(data) is np.ndarray:
        return data
    if isinstance(data, np.ndarray):  # memory maps, matrices, masked arrays
        if is_masked(data) and np.ma.is_masked(data):
            msg = "something in this array is masked, which frames cannot be: give the filled array, data.filled(value)"
            raise DataSetException(msg)
        return np.asarray(data)
    if isinstance(data, (list, tuple)):
        msg = f"data must be an array, it is a {type(data).__name__}: convert it with numpy.asarray first"
        raise DataSetException(msg)
    import sparseconverter

    try:
        backend = sparseconverter.get_backend(data)
    except (TypeError, ValueError):
        backend = None
    if backend is None:
        kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
        msg = (
            f"data is a {kind}, no kind of array that is known: convert it to a NumPy array first, "
            "or load it as 'dask', as a Dask array of what is not to be read at once"
        )
        raise DataSetException(msg)
    if backend in CUPY_BACKENDS:
        data = data.get()
    if not is_sparse(data):
        return np.asarray(data)
    # A background other than zero, and what CSR matrices cannot hold, makes a dense array.
    background = getattr(data, "fill_value", 0)
    return to_dense(data) if background or not can_hold(SCIPY_CSR, data.dtype) else data


def _is_cut_along_axes(shape: tuple[int, ...], pixels: int) -> bool:
    """Return whether frames of so many pixels end where axes do: each axis holds whole frames, or is whole in one."""
    inner = [math.prod(shape[axis:]) for axis in range(len(shape))]
    return all(size % pixels == 0 or pixels % size == 0 for size in inner)


def _check_indices(array: Any) -> None:
    """See that the indices of a sparse array are within it: who follows others reads and writes anywhere."""
    coordinates = getattr(array, "coords", None)
    if coordinates is None and hasattr(array, "row"):  # of older versions of SciPy
        coordinates = array.row, array.col
    try:
        if hasattr(array, "check_format"):
            type(array)(array).check_format(full_check=True)  # not of the array itself, which this may tidy up
        elif coordinates is not None:
            for axis, (indices, n) in enumerate(zip(coordinates, array.shape, strict=True)):
                if len(indices) and not 0 <= indices.min() <= indices.max() < n:
                    msg = f"its indices along axis {axis} are not all below {n}"
                    raise ValueError(msg)
    except ValueError as e:
        msg = f"the sparse array is broken: {e}; make it anew, such as from its COO form"
        raise DataSetException(msg) from e
