"""What a UDF needs beside the frames, cut as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers.wrapper import BufferWrapper
from tilework.common.math import prod

if TYPE_CHECKING:
    from tilework.common.buffers.wrapper import PartitionSpan
    from tilework.common.shape import Shape

    Array = np.ndarray[Any, np.dtype[Any]]
    BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["AuxBufferWrapper"]


class AuxBufferWrapper(BufferWrapper):
    """Data that a UDF needs beside the frames, cut like a result: an entry per position, per pixel, or one for all.

    Examples
    --------
    A dose for each scan position, by which frames are divided; made with `UDF.aux_data`:

    >>> from tilework.udf import UDF
    >>> class PerDose(UDF):
    ...     def get_result_buffers(self):
    ...         return {"intensity": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_frame(self, frame):
    ...         self.results.intensity[:] = frame.sum() / self.params.dose
    >>> dose = UDF.aux_data(np.full((6, 8), 2, dtype="float32"), kind="nav", dtype="float32")
    >>> result = ctx.run_udf(dataset=ds, udf=PerDose(dose=dose))["intensity"]
    >>> np.array_equal(result.data, ds.data.sum(axis=(2, 3)) / 2)
    True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_global = True
        self._given_shape: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array, of which there is one before any dataset is known."""
        return super().shape if self._data is None else self._data.shape

    def set_buffer(self, buf: Array, is_global: bool = True) -> None:
        """Store the data.

        Parameters
        ----------
        buf
            Reshaped to one leading axis and the extra shape (an extra shape of ``(1,)`` counts as none); must have
            the dtype that was declared.
        is_global
            Whether it covers the whole dataset.

        Raises
        ------
        ValueError
            When the dtype differs.
        """
        buf = np.asarray(buf)
        if buf.dtype != self._dtype:
            msg = f"auxiliary data is declared as {self._dtype} but is {buf.dtype}: convert it, or declare its dtype"
            raise ValueError(msg)
        extra = () if self._extra_shape == (1,) else self._extra_shape
        self._is_global = is_global
        if self._kind == "single" and is_global and self._extra_shape and buf.size != prod(self._extra_shape):
            msg = f"auxiliary data is declared with extra_shape {self._extra_shape} but has the shape {buf.shape}"
            raise ValueError(msg)
        self._given_shape = buf.shape
        self._data = buf if self._kind == "single" else buf.reshape((-1, *extra))

    def new_for_partition(self, partition: PartitionSpan, roi: BoolArray | None) -> AuxBufferWrapper:
        """Return the part for one partition, compressed to the selected positions."""
        if self._data is None or not self._is_global:
            msg = "auxiliary data can be cut once, from the whole: call set_buffer first"
            raise ValueError(msg)
        new = AuxBufferWrapper(self._kind, self._extra_shape, self._dtype)
        data = self._data
        if self._kind == "nav":
            start = partition.slice.origin[0]
            stop = start + partition.slice.shape[0]
            data = data[start:stop]
            if roi is not None:
                data = data[np.asarray(roi, dtype=bool).reshape(-1)[start:stop]]
        elif self._kind == "sig":
            data = data.reshape(tuple(partition.slice.shape.sig) + data.shape[1:])
        new.set_shape_partition(partition, roi)
        new._data = data
        new._is_global = False
        return new

    def get_view_for_dataset(self, dataset: Any = None) -> Array:  # noqa: ARG002
        """Return all of it: of selected positions, or of the shape of the detector where that is known."""
        data = self._require_data()
        if self._kind == "sig" and self._ds_shape is not None:
            return data.reshape(tuple(self._ds_shape.sig) + data.shape[1:])
        return data[self._roi] if self._kind == "nav" and self._roi is not None else data

    def flush(self) -> None:
        """Forget the contiguous copies of parts: nobody changes auxiliary data."""
        self._contiguous.clear()

    def set_roi(self, dataset_shape: Shape, roi: BoolArray | None) -> None:
        """Tell which positions are selected, for views of the whole.

        Raises
        ------
        ValueError
            When the data does not have one entry per position or pixel of the dataset.
        """
        self._ds_shape = dataset_shape
        self._roi = None if roi is None else np.asarray(roi, dtype=bool).reshape(-1)
        want = {"nav": prod(tuple(dataset_shape.nav)), "sig": prod(tuple(dataset_shape.sig))}.get(self._kind)
        self._check_given_shape(dataset_shape)
        if want is not None and self._data is not None and len(self._data) != want:
            msg = (
                f"auxiliary data of kind {self._kind!r} needs {want} entries for this dataset, it has {len(self._data)}"
            )
            raise ValueError(msg)

    def _check_given_shape(self, dataset_shape: Shape) -> None:
        """Raise when data was given with scan or detector axes, but others than those of the dataset.

        Axes of length 1 do not change the order of the entries: data may have more of them, or fewer.
        """
        axes = {"nav": tuple(dataset_shape.nav), "sig": tuple(dataset_shape.sig)}.get(self._kind, ())
        extra = () if self._extra_shape == (1,) else self._extra_shape
        given = tuple(n for n in self._given_shape[: len(self._given_shape) - len(extra)] if n != 1)
        wanted = tuple(n for n in axes if n != 1)
        if len(given) == len(wanted) and prod(given) == prod(wanted) and given != wanted:
            msg = (
                f"auxiliary data of kind {self._kind!r} has the shape {self._given_shape}, the dataset "
                f"{'scan' if self._kind == 'nav' else 'detector'} has {axes}: give it in this shape, or flat"
            )
            raise ValueError(msg)
