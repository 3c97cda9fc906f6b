"""Results that are Dask arrays, and NumPy arrays as soon as somebody wants those."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tilework.common.dask_buffers import in_dataset_shape
from tilework.common.dask_graphs import import_dask, is_lazy
from tilework.udf.results import ResultBuffer, RunResult

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dask.array import Array as DaskArray
    from xarray import Dataset

    from tilework.common.buffers import BufferWrapper
    from tilework.common.buffers.wrapper import MaskedArray

__all__ = ["DaskResultBufferWrapper", "DelayedRunResult", "load_together"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class DaskResultBufferWrapper(ResultBuffer):
    """One result of a run whose tasks are parts of a Dask graph.

    `delayed_data` and `delayed_raw_data` are Dask arrays; `data`, `raw_data`, `valid_mask` and what uses them compute,
    with whatever scheduler is set for Dask, and keep the result. Results that are put together from all partitions
    are made in the same pass when one of them is asked for, and kept, too; to compute others together, give them to
    `dask.compute`, or call `DelayedRunResult.compute`.

    Parameters
    ----------
    array
        Dask array, scan axes flat and compressed to the selected positions.
    mask
        Where it is valid, of the shape of `data`: a Dask array, or a NumPy array when that is known already.
    declared
        A buffer that is declared as the result, for the whole dataset.
    returned
        A Dask array whose chunk may have another dtype than it says: what `data` becomes. None: that is `array`, which
        has the dtype that it says.
    """

    def __init__(self, array: Any, mask: Any, declared: BufferWrapper, returned: Any = None) -> None:
        super().__init__(np.empty(0), declared.kind, declared.extra_shape, array.dtype)
        self._data = None
        self._shape, self._ds_shape, self._roi = declared.shape, declared._ds_shape, declared.roi
        self._array = array
        self._returned = array if returned is None else returned
        self._mask = mask
        self._siblings: weakref.WeakSet[DaskResultBufferWrapper] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_siblings": ()}

    # -- lazily

    @property
    def delayed_raw_data(self) -> DaskArray:
        """The Dask array, scan axes flat and compressed to the selected positions."""
        return self._array

    @property
    def delayed_data(self) -> DaskArray:
        """The Dask array in the shape of the dataset; positions that were not selected hold the fill value."""
        if self._kind != "nav" or self._ds_shape is None:
            return self._array
        return in_dataset_shape(self._array, self._ds_shape, self._roi)

    @property
    def delayed_valid_mask(self) -> DaskArray:
        """Where `delayed_data` is a result, as Dask array of bool of the same shape."""
        return self._mask if is_lazy(self._mask) else import_dask().array.from_array(np.asarray(self._mask))

    def to_dask_array(self) -> DaskArray:
        """Return `delayed_data`; lets `dask.array.asarray` take this result as it is."""
        return self.delayed_data

    # -- at once

    @property
    def is_computed(self) -> bool:
        """Whether the NumPy arrays are there."""
        return self._data is not None

    @property
    def is_whole(self) -> bool:
        """Whether it is put together from all partitions, so that it is in memory as a whole when it is computed."""
        return bool(self._array.npartitions == 1)

    def _load(self) -> None:
        if self._data is None:
            load_together([self, *(other for other in self._siblings if other.is_whole)])

    def has_data(self) -> bool:
        """Return True: it can be had."""
        return True

    @property
    def raw_data(self) -> Array:
        """The NumPy array, scan axes flat and compressed to the selected positions; computes."""
        self._load()
        return super().raw_data

    @property
    def data(self) -> Array:
        """The NumPy array in the shape of the dataset; computes."""
        self._load()
        return super().data

    @property
    def valid_mask(self) -> BoolArray:
        """True where `data` is a result; computes when that depends on the data."""
        if self._valid_mask is None:
            if is_lazy(self._mask):
                self._load()
            else:
                self._set_mask(self._mask)
        return super().valid_mask

    @valid_mask.setter
    def valid_mask(self, mask: BoolArray | bool) -> None:
        self._set_mask(mask)

    def _set_mask(self, mask: Any) -> None:
        self._valid_mask = np.broadcast_to(np.asarray(mask, dtype=bool), self.data_shape)

    @property
    def raw_masked_data(self) -> MaskedArray:
        """`raw_data` as a masked array, invalid entries masked; computes."""
        self._load()
        return super().raw_masked_data

    def _require_data(self) -> Array:
        self._load()
        return super()._require_data()

    def unshared(self) -> Self:
        """Return itself: no later merging changes it."""
        return self

    def _adopt(self, data: Array, mask: Any) -> None:
        self._data = data
        self._dtype = data.dtype
        self._set_mask(mask)


def load_together(buffers: Iterable[DaskResultBufferWrapper]) -> None:
    """Compute results, those that are not computed yet, in one pass over the data."""
    missing = [buffer for buffer in dict.fromkeys(buffers) if not buffer.is_computed]
    computed = import_dask().compute(*((buffer._returned, buffer._mask) for buffer in missing))
    for buffer, (data, mask) in zip(missing, computed, strict=True):
        buffer._adopt(np.asarray(data), mask)


class DelayedRunResult(RunResult):
    """The results of one UDF by name, as Dask arrays; see `DaskResultBufferWrapper`."""

    def compute(self) -> Self:
        """Compute all results in one pass over the data, keep them, and return this."""
        load_together(buffer for buffer in self.values() if isinstance(buffer, DaskResultBufferWrapper))
        return self

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Compute all results in one pass over the data, and write them; see `RunResult.save`."""
        self.compute()
        return super().save(path, overwrite=overwrite)

    def to_xarray(self) -> Dataset:
        """Compute all results in one pass over the data, and return them; see `RunResult.to_xarray`."""
        self.compute()
        return super().to_xarray()
