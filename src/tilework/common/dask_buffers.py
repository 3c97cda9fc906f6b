"""Buffers whose arrays are Dask arrays: nothing is stored in them, everything is computed when somebody asks.

Dask is imported when such a buffer is allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import fill_value
from tilework.common.buffers import BufferWrapper, PlaceholderBufferWrapper
from tilework.common.dask_graphs import import_dask, rechunked
from tilework.common.math import prod

if TYPE_CHECKING:
    from tilework.common.shape import Shape

__all__ = ["DaskBufferWrapper", "in_dataset_shape", "to_dask_buffer"]

# Of the zeros that a result begins with.
CHUNK_BYTES = 2**26

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class DaskBufferWrapper(BufferWrapper):
    """Declaration of one result of a UDF, whose array is a Dask array; parameters are those of `BufferWrapper`.

    `raw_data` and `data` are Dask arrays, too. Assigning to a part of `raw_data` replaces its graph.
    """

    _allocated: str | None = None

    @classmethod
    def around(cls, array: Any, declared: BufferWrapper) -> DaskBufferWrapper:
        """Return a buffer that is declared as `declared` is, around a Dask array of any length."""
        new = cls(declared.kind, declared.extra_shape, declared.dtype, declared.where, declared.use)
        new._data = array
        new._shape = array.shape
        return new

    def allocate(self, lib: Any = None) -> None:  # noqa: ARG002
        """Make an array of zeros, of which nothing is stored.

        Raises
        ------
        RuntimeError
            When the shape is not known yet, or there is an array already.
        """
        if self._data is not None:
            msg = f"this {self._kind} buffer is allocated already"
            raise RuntimeError(msg)
        array = _full(self.shape, 0, self._dtype)
        self._data = array
        self._allocated = array.name

    @property
    def is_untouched(self) -> bool:
        """Whether it still holds what `allocate` made."""
        return self._allocated is not None and getattr(self._data, "name", None) == self._allocated

    def export(self) -> None:
        """Do nothing: a Dask array is not on a device."""

    def mark_absent(self, absent: BoolArray) -> None:
        """Fill the entries of positions without a frame; see `BufferWrapper.mark_absent`."""
        if self._kind == "nav" and self._data is not None and self._dtype.kind in "fcmMO":
            self._data[absent] = fill_value(self._dtype)

    @property
    def delayed_raw_data(self) -> Any:
        """The Dask array, scan axes flat and compressed to the selected positions."""
        return self._data

    @property
    def delayed_data(self) -> Any:
        """The Dask array in the shape of the dataset; positions that were not selected hold the fill value."""
        return self.data

    @property
    def data(self) -> Any:
        """The Dask array in the shape of the dataset; positions that were not selected hold the fill value."""
        if self._data is None or self._kind != "nav" or self._ds_shape is None:
            return self._data
        return in_dataset_shape(self._data, self._ds_shape, self._roi)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.data, dtype=dtype, copy=copy)


def to_dask_buffer(buffer: Any) -> Any:
    """Return a buffer without data as `DaskBufferWrapper` when it is one that can be large: of kind nav.

    Buffers of the other kinds are of the size of a frame. What is no buffer is returned as it is.
    """
    is_large = isinstance(buffer, BufferWrapper) and buffer.kind == "nav" and not buffer.has_data()
    if not is_large or isinstance(buffer, PlaceholderBufferWrapper | DaskBufferWrapper):
        return buffer
    return DaskBufferWrapper(buffer.kind, buffer.extra_shape, buffer.dtype, buffer.where, buffer.use)


def in_dataset_shape(flat: Any, dataset_shape: Shape, roi: BoolArray | None) -> Any:
    """Return a nav result in the shape of the scan.

    Parameters
    ----------
    flat
        Dask array of shape ``(selected positions, *extra)``.
    dataset_shape
        Shape of the dataset.
    roi
        Flat mask of the selected positions, None for all. The others hold the fill value.

    Returns
    -------
    dask.array.Array
        Of shape ``(*nav, *extra)``. Each chunk depends on those chunks of `flat` that it holds positions of.
    """
    full = flat if roi is None else _embed(flat, roi)
    return full.reshape((*dataset_shape.nav, *flat.shape[1:]))


def _full(shape: tuple[int, ...], value: Any, dtype: np.dtype[Any]) -> Any:
    # Entries are never divided, as those that are computed are not: a graph of millions of chunks would take minutes.
    # 0 as a string would be "0".
    chunks = (max(1, CHUNK_BYTES // max(1, prod(shape[1:]) * dtype.itemsize)), *shape[1:])
    da = import_dask().array
    return (
        da.zeros(shape, dtype=dtype, chunks=chunks) if value == 0 else da.full(shape, value, dtype=dtype, chunks=chunks)
    )


def _embed(flat: Any, roi: BoolArray) -> Any:
    """Return an array with an entry for every position; chunks end where those of `flat` do."""
    da = import_dask().array
    if not flat.shape[0]:
        return _full((roi.size, *flat.shape[1:]), fill_value(flat.dtype), flat.dtype)
    flat = rechunked(flat, (flat.chunks[0], *(-1,) * (flat.ndim - 1)))
    ends = np.cumsum(flat.chunks[0])
    stops = np.flatnonzero(roi)[ends - 1] + 1  # behind the last position of each chunk
    stops[-1] = roi.size
    sizes = tuple(np.diff(stops, prepend=0).tolist())
    # Blocks of both belong together by their number; the mask is given as many axes so that it counts them alike.
    mask = da.from_array(roi, chunks=(sizes,)).reshape((roi.size, *(1,) * (flat.ndim - 1)))
    return da.map_blocks(_embed_block, flat, mask, chunks=(sizes, *flat.chunks[1:]), dtype=flat.dtype, meta=flat._meta)


def _embed_block(flat: Any, mask: BoolArray) -> Any:
    embedded = np.full((len(mask), *flat.shape[1:]), fill_value(flat.dtype), dtype=flat.dtype)
    embedded[mask.reshape(-1)] = flat
    return embedded
