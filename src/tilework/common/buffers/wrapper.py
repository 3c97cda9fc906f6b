"""The buffer of one result: how it is declared, its memory, and its views for parts of a dataset."""

from __future__ import annotations

import pickle
from operator import index
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from tilework.common.arrays import fill_value, like_index, to_numpy, zeros
from tilework.common.buffers.validity import default_mask, embed, get_bbox_slice, get_inner_slice
from tilework.common.math import prod

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import SupportsIndex

    from numpy.typing import DTypeLike

    from tilework.common.shape import Shape
    from tilework.common.slice import Slice

    MaskedArray = np.ma.MaskedArray[Any, np.dtype[Any]]

__all__ = ["BufferKind", "BufferUse", "BufferWrapper", "PartitionSpan", "PreallocBufferWrapper"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
BufferKind = Literal["nav", "sig", "single"]
BufferUse = Literal["private", "result_only"] | None
KINDS = ("nav", "sig", "single")


class PartitionSpan(Protocol):
    """What a buffer must know of a partition: where it lies in the flat scan."""

    @property
    def slice(self) -> Slice:
        """Its part of the dataset, with flat navigation axis."""
        ...


class BufferWrapper:
    """Declaration and storage of one result of a UDF.

    Parameters
    ----------
    kind
        ``"nav"`` (an entry per scan position), ``"sig"`` (per detector pixel) or ``"single"``.
    extra_shape
        Shape of an entry, behind the nav or sig axes.
    dtype
        dtype of an entry.
    where
        ``"device"`` to allocate in the memory of the device that the UDF's array backend lives on, None for main
        memory.
    use
        ``"private"``: seen in merge and get_results only; ``"result_only"``: exists in the final results only; None:
        both.

    Raises
    ------
    ValueError
        When `kind` is unknown.

    Examples
    --------
    Results of a run have the shape of the scan, and hold NaN where a position was not selected:

    >>> from tilework.udf.sumsigudf import SumSigUDF
    >>> result = ctx.run_udf(dataset=ds, udf=SumSigUDF(), roi=ds.roi[:2, ::4])["intensity"]
    >>> result.kind, result.data.shape, result.raw_data.shape
    ('nav', (6, 8), (4,))
    >>> np.isnan(result.data[0]).astype(int)
    array([0, 1, 1, 1, 0, 1, 1, 1])
    >>> result.masked_data.count(), result.valid_slice_bounding
    (np.int64(4), (slice(0, 2, None), slice(0, 5, None)))
    """

    def __init__(
        self,
        kind: BufferKind,
        extra_shape: Iterable[SupportsIndex] | int = (),
        dtype: DTypeLike = "float32",
        where: Literal["device"] | None = None,
        use: BufferUse = None,
    ) -> None:
        _check_options(kind, where, use)
        self._kind: BufferKind = kind
        try:
            # An array's shape is made of what can be an index: 2.7 cannot, and a text is no list of numbers.
            self._extra_shape = (extra_shape,) if isinstance(extra_shape, int) else tuple(map(index, extra_shape))
        except TypeError:
            msg = (
                f"the extra_shape of a buffer is an integer or a tuple of integers, got {extra_shape!r}; what comes "
                "after it is given by name, as in dtype='float64'"
            )
            raise TypeError(msg) from None
        if min(self._extra_shape, default=0) < 0:
            msg = f"the extra shape of a buffer has sizes of at least 0, got {extra_shape}"
            raise ValueError(msg)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._where = where
        self._use = use
        self._data: Array | None = None
        self._shape: tuple[int, ...] | None = None
        self._ds_shape: Shape | None = None
        self._roi: BoolArray | None = None
        self._roi_offsets: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._origin = 0
        self._valid_mask: BoolArray | None = None
        self._contiguous: dict[Any, tuple[Array, Array]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} kind={self._kind} dtype={self._dtype} extra_shape={self._extra_shape}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # What every partition sends: a third of the bytes, and of the time, that its attributes would take by name. If
        # something else in the same pickle holds the array itself, each gets one of its own.
        if protocol < 5 or not self._is_plain:
            return super().__reduce_ex__(protocol)
        declared = self._kind, self._extra_shape, self._dtype.str, self._where, self._use
        return _restore, (*declared, self._origin, self._shape, pickle.PickleBuffer(self._data))  # type: ignore[arg-type]

    @property
    def _is_plain(self) -> bool:
        """Whether it is of this very class, and has nothing but numbers that `_restore` can make anew."""
        data = self._data
        return (
            type(self) is BufferWrapper
            and type(data) is np.ndarray
            and len(self.__dict__) == _N_ATTRIBUTES
            and data.dtype.kind in "biufc"
            and data.dtype.metadata is None
            and data.dtype == self._dtype
            and data.shape == self._shape
            and data.flags.c_contiguous
            and not self._contiguous
            and self._ds_shape is None
            and self._roi is None
            and self._roi_offsets is None
            and self._valid_mask is None
        )

    # -- declaration

    @property
    def kind(self) -> BufferKind:
        """``"nav"``, ``"sig"`` or ``"single"``."""
        return self._kind

    @property
    def extra_shape(self) -> tuple[int, ...]:
        """Shape of an entry."""
        return self._extra_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of an entry."""
        return self._dtype

    @property
    def where(self) -> Literal["device"] | None:
        """``"device"`` for a buffer in the memory of the computing device."""
        return self._where

    @property
    def use(self) -> BufferUse:
        """``"private"``, ``"result_only"`` or None."""
        return self._use

    @property
    def roi(self) -> BoolArray | None:
        """Flat mask of the selected scan positions, None for all."""
        return self._roi

    @property
    def roi_is_zero(self) -> bool:
        """Whether a region of interest is set and selects nothing."""
        return self._roi is not None and not self._roi.any()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array, scan axes flat and compressed to the selected positions."""
        if self._shape is None:
            msg = f"this {self._kind} buffer has no shape yet: call set_shape_ds or set_shape_partition first"
            raise RuntimeError(msg)
        return self._shape

    # -- life

    def set_shape_ds(self, dataset_shape: Shape, roi: BoolArray | None = None) -> None:
        """Make this a buffer for the whole dataset."""
        self._ds_shape = dataset_shape
        self._roi = None if roi is None else np.asarray(roi, dtype=bool).reshape(-1)
        self._origin = 0
        n_nav = prod(tuple(dataset_shape.nav)) if self._roi is None else int(np.count_nonzero(self._roi))
        self._shape = self._make_shape(n_nav, tuple(dataset_shape.sig))

    def set_shape_partition(self, partition: PartitionSpan, roi: BoolArray | None = None) -> None:
        """Make this a buffer for one partition."""
        part = partition.slice if roi is None else partition.slice.adjust_for_roi(roi)
        self.set_span(part.origin[0], part.shape[0], tuple(part.shape.sig))

    def set_span(self, origin: int, length: int, sig: tuple[int, ...]) -> None:
        """Make this a buffer for `length` positions from `origin` in the flat, compressed scan."""
        self._origin = origin
        self._shape = self._make_shape(length, sig)

    def _make_shape(self, n_nav: int, sig: tuple[int, ...]) -> tuple[int, ...]:
        if self._kind == "nav":
            return (n_nav, *self._extra_shape)
        if self._kind == "sig":
            return sig + self._extra_shape
        return self._extra_shape or (1,)

    def allocate(self, lib: Any = None) -> None:
        """Allocate zeros; on the device of the array library `lib` when the buffer is declared so.

        Raises
        ------
        RuntimeError
            When the shape is not known yet, or there is data already.
        """
        if self._data is not None:
            msg = f"this {self._kind} buffer is allocated already"
            raise RuntimeError(msg)
        on_device = self._where == "device" and lib is not None
        self._data = lib.zeros(self.shape, dtype=self._dtype) if on_device else zeros(self.shape, self._dtype)

    def has_data(self) -> bool:
        """Whether the buffer is allocated."""
        return self._data is not None

    def replace_array(self, data: Array) -> None:
        """Put another array of the same shape and dtype in place.

        Raises
        ------
        ValueError
            When shape or dtype differ.
        """
        if self._data is not None and (self._data.shape != data.shape or self._data.dtype != data.dtype):
            have = f"{self._data.dtype}{self._data.shape}"
            msg = f"cannot replace an array {have} by {data.dtype}{data.shape}: shape and dtype must stay"
            raise ValueError(msg)
        self._data = data

    def with_array(self, data: Array) -> PreallocBufferWrapper:
        """Return a buffer that is declared as this one, for the same positions, around another array."""
        new = PreallocBufferWrapper(data, self._kind, self._extra_shape, self._dtype, self._where, self._use)
        new._shape, new._ds_shape, new._roi, new._origin = self._shape, self._ds_shape, self._roi, self._origin
        return new

    def export(self) -> None:
        """Bring the data into main memory."""
        if self._data is not None:
            self._data = to_numpy(self._data)

    def mark_absent(self, absent: BoolArray) -> None:
        """Fill the entries of positions without a frame: they must not look like a result of zero.

        Parameters
        ----------
        absent
            bool over the flat (compressed) positions of this buffer.
        """
        if self._kind == "nav" and self._data is not None:
            self._data[like_index(absent, self._data)] = fill_value(self._dtype)

    # -- access

    @property
    def raw_data(self) -> Array | None:
        """The stored array, scan axes flat and compressed to the selected positions."""
        return self._data

    @property
    def data(self) -> Array:
        """The array in the shape of the dataset; positions that were not selected hold the fill value."""
        if self._contiguous:
            self._refuse_cached()
        if self._data is None:
            msg = f"this {self._kind} buffer holds no data"
            raise ValueError(msg)
        if self._kind != "nav" or self._ds_shape is None:
            return self._data
        return embed(self._data, self._roi, tuple(self._ds_shape.nav), fill_value(self._dtype))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        data = self.data
        return np.array(data, dtype=dtype, copy=copy) if copy else np.asarray(data, dtype=dtype)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of `data`: that of the dataset."""
        if self._kind == "nav" and self._ds_shape is not None:
            return (*self._ds_shape.nav, *self._extra_shape)
        return self.shape

    # -- validity

    @property
    def valid_mask(self) -> BoolArray:
        """True where `data` is a result; of the shape of `data`.

        Raises
        ------
        RuntimeError
            Before any was set, that is outside of results.
        """
        if self._valid_mask is None:
            msg = "no mask of valid results is set: only results of a run have one"
            raise RuntimeError(msg)
        return self._valid_mask

    @valid_mask.setter
    def valid_mask(self, mask: BoolArray | bool) -> None:
        self._valid_mask = np.broadcast_to(np.asarray(mask, dtype=bool), self.data_shape)

    def make_default_mask(self, valid_nav_mask: BoolArray, dataset_shape: Shape, roi: BoolArray | None) -> BoolArray:
        """Return the mask of a result without one: nav results are valid where data was merged, others always.

        Parameters
        ----------
        valid_nav_mask
            bool over the flat positions, compressed when `roi` is given.
        dataset_shape
            Shape of the dataset.
        roi
            Selected positions, or None.
        """
        if self._kind == "nav":
            return default_mask(valid_nav_mask, tuple(dataset_shape.nav), self._extra_shape, roi)
        valid = tuple(dataset_shape.sig) + self._extra_shape if self._kind == "sig" else self._extra_shape or (1,)
        return np.broadcast_to(np.True_, valid)

    @property
    def valid_slice_bounding(self) -> tuple[slice, ...]:
        """The smallest box that holds all valid entries."""
        return get_bbox_slice(self.valid_mask)

    def get_valid_slice_inner(self, axis: int = 0) -> tuple[slice, ...]:
        """Return the first contiguous run along `axis` in which everything is valid."""
        return get_inner_slice(self.valid_mask, axis=axis)

    @property
    def masked_data(self) -> MaskedArray:
        """`data` as a masked array, invalid entries masked."""
        return np.ma.array(self.data, mask=~self.valid_mask)

    @property
    def raw_masked_data(self) -> MaskedArray:
        """`raw_data` as a masked array, invalid entries masked."""
        mask = self.valid_mask
        if self._kind == "nav" and self._data is not None:
            n_nav = self._ds_shape.nav.size if self._ds_shape is not None else -1
            mask = mask.reshape((n_nav, *self._extra_shape))
            if self._roi is not None:
                mask = mask[self._roi]
        return np.ma.array(self._data, mask=~mask)

    # -- views

    def _refuse_cached(self) -> None:
        msg = "there are contiguous copies of parts of this buffer that were not written back: call flush() first"
        raise RuntimeError(msg)

    def _require_data(self) -> Array:
        if self._contiguous:
            self._refuse_cached()
        if self._data is None:
            msg = f"this {self._kind} buffer is not allocated"
            raise RuntimeError(msg)
        return self._data

    def _nav_range(self, part: Slice) -> slice:
        start = part.origin[0] - self._origin
        return slice(start, start + part.shape[0])

    def _compressed(self, partition: PartitionSpan) -> slice:
        """Return the range of a partition in the stored array."""
        start = partition.slice.origin[0]
        stop = start + partition.slice.shape[0]
        if self._roi is not None:
            if self._roi_offsets is None:
                self._roi_offsets = np.concatenate(([0], np.cumsum(self._roi)))
            start, stop = int(self._roi_offsets[start]), int(self._roi_offsets[stop])
        return slice(start - self._origin, stop - self._origin)

    def get_view_for_dataset(self, dataset: Any = None) -> Array:  # noqa: ARG002
        """Return the whole stored array."""
        return self._require_data()

    def get_view_for_partition(self, partition: PartitionSpan) -> Array:
        """Return the part that belongs to a partition: its positions of a nav buffer, else everything."""
        data = self._require_data()
        return data[self._compressed(partition)] if self._kind == "nav" else data

    def get_view_for_frame(self, partition: PartitionSpan, tile: Any, frame_idx: int) -> Array:  # noqa: ARG002
        """Return the entry of one frame of a tile; of shape (1,) for a nav buffer without extra shape."""
        data = self._require_data()
        if self._kind != "nav":
            return data
        index = self._nav_range(tile.tile_slice).start + frame_idx
        return data[index] if self._extra_shape else data[index : index + 1]

    def get_view_for_tile(self, partition: PartitionSpan, tile: Any) -> Array:  # noqa: ARG002
        """Return the part that belongs to a tile: its positions, or its part of the detector.

        Raises
        ------
        ValueError
            When the region of interest selects nothing, so that no tile can belong to the buffer.
        """
        data = self._require_data()
        return self._tile_view(data, tile)

    def _tile_view(self, data: Array, tile: Any) -> Array:
        if self._kind == "nav":
            if self.roi_is_zero:
                msg = "the region of interest selects no position, so a tile cannot belong to this buffer"
                raise ValueError(msg)
            return data[self._nav_range(tile.tile_slice)]
        return (
            data[tile.tile_slice.get(sig_only=True)[-tile.tile_slice.shape.sig_dims :]] if self._kind == "sig" else data
        )

    def get_contiguous_view_for_tile(self, partition: PartitionSpan, tile: Any) -> Array:  # noqa: ARG002
        """Return the part that belongs to a tile, C-contiguous; what had to be copied is written back by `flush`."""
        if self._data is None:
            msg = f"this {self._kind} buffer is not allocated"
            raise RuntimeError(msg)
        view = self._tile_view(self._data, tile)
        if view.flags.c_contiguous or self._kind != "sig":
            return view
        key = tile.tile_slice.discard_nav()
        if key not in self._contiguous:
            self._contiguous[key] = (view, view.copy())
        return self._contiguous[key][1]

    def flush(self) -> None:
        """Write contiguous copies of parts back."""
        for view, copy in self._contiguous.values():
            view[...] = copy
        self._contiguous.clear()

    def result_buffer_type(self) -> type[PreallocBufferWrapper]:
        """Return the class of buffers that carry results of this one."""
        return PreallocBufferWrapper


def _restore(
    kind: BufferKind,
    extra_shape: tuple[int, ...],
    dtype: str,
    where: Literal["device"] | None,
    use: BufferUse,
    origin: int,
    shape: tuple[int, ...],
    data: Any,
) -> BufferWrapper:
    buffer = BufferWrapper(kind, extra_shape, dtype, where, use)
    buffer._origin = origin
    buffer._shape = shape
    buffer._data = np.ndarray(shape, dtype, data)
    return buffer


def _check_options(kind: Any, where: Any, use: Any) -> None:
    if kind not in KINDS:
        msg = f"a buffer's kind is one of {', '.join(KINDS)}, got {kind!r}"
        raise ValueError(msg)
    if where not in {None, "device"}:
        msg = f"a buffer is in main memory (where=None) or on the device (where='device'), got {where!r}"
        raise ValueError(msg)
    if use not in {None, "private", "result_only"}:
        msg = f"the use of a buffer is None, 'private' or 'result_only', got {use!r}"
        raise ValueError(msg)


_N_ATTRIBUTES: Final = len(vars(BufferWrapper("nav")))


class PreallocBufferWrapper(BufferWrapper):
    """A buffer around an array that exists already.

    Parameters
    ----------
    data
        The array, in the compressed shape of `BufferWrapper.raw_data`.
    *args, **kwargs
        As of `BufferWrapper`.
    """

    if TYPE_CHECKING:

        @property
        def raw_data(self) -> Array:
            """The stored array, which there always is, scan axes flat and compressed to the selected positions."""
            ...

    def __init__(self, data: Array, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._data = data
