"""What a UDF may ask about the data it is given: `UDF.meta`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers.validity import embed
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.io.corrections.corrset import CorrectionSet

if TYPE_CHECKING:
    from tilework.io.dataset.tiling_scheme import TilingScheme

__all__ = ["UDFMeta"]

_NO_CORRECTIONS = CorrectionSet()
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class UDFMeta:
    """Facts about the dataset, the run, and the frame, tile or partition that is processed now.

    All positions are flat and count selected positions only when the run has a region of interest.

    Parameters
    ----------
    partition_slice
        The partition, flat, in positions of the run; None on the main side.
    dataset_shape
        Shape of the whole dataset.
    roi
        Selected positions, of nav shape, or None.
    dataset_dtype
        dtype of the dataset, native byte order.
    input_dtype
        dtype that this UDF computes in: its tiles have it, unless it accepts the dataset's own dtype.
    tiling_scheme
        How partitions are cut.
    tiling_index
        What `tiling_scheme_idx` is while no tile is processed.
    corrections
        Detector corrections of the run, or None.
    device_class
        ``"cpu"`` or ``"cuda"``.
    threads_per_worker
        How many threads a task may use; None: no limit was set.
    array_backend
        Kind of array the tiles are; None on the main side.
    valid_nav_mask
        Flat positions that are merged already; None on workers.
    compiled
        Whether the run is large enough for compiled kernels; the same for all tasks of a run. None: it is not, but
        those with the same bits as NumPy may be used.

    Examples
    --------
    >>> from tilework.udf import UDF
    >>> class FarthestFromStart(UDF):
    ...     def get_result_buffers(self):
    ...         return {"distance": self.buffer(kind="nav", dtype="float32")}
    ...
    ...     def process_frame(self, frame):
    ...         (position,) = self.meta.coordinates
    ...         self.results.distance[:] = np.hypot(*position)
    >>> ctx.run_udf(dataset=ds, udf=FarthestFromStart())["distance"].data[3, 4]
    np.float32(5.0)
    """

    # Where we are is set for every frame by plain attribute stores; Slices are made when somebody asks.
    # While no tile is processed, `_tile` is None: that is all of the partition.
    __slots__ = (
        "_array_backend", "_compiled", "_coordinates", "_corrections", "_dataset_dtype", "_dataset_shape", "_depth",
        "_device_class", "_extent", "_index_without_tile", "_input_dtype", "_partition_slice", "_roi",
        "_threads_per_worker", "_tile", "_tiling_scheme", "_valid_nav_mask", "start",
    )  # fmt: skip

    def __init__(
        self,
        partition_slice: Slice | None,
        dataset_shape: Shape,
        roi: BoolArray | None,
        dataset_dtype: np.dtype[Any],
        input_dtype: np.dtype[Any],
        tiling_scheme: TilingScheme | None = None,
        tiling_index: int = 0,
        corrections: CorrectionSet | None = None,
        device_class: str | None = None,
        threads_per_worker: int | None = None,
        array_backend: str | None = None,
        valid_nav_mask: BoolArray | None = None,
        *,
        compiled: bool | None = False,
    ) -> None:
        self._partition_slice = partition_slice
        self._dataset_shape = dataset_shape
        self._roi = roi
        self._dataset_dtype = dataset_dtype
        self._input_dtype = input_dtype
        self._tiling_scheme = tiling_scheme
        self._index_without_tile = tiling_index
        self._corrections = corrections
        self._device_class = device_class or "cpu"
        self._threads_per_worker = threads_per_worker
        self._array_backend = array_backend
        self._valid_nav_mask = valid_nav_mask
        self._compiled = compiled
        self._coordinates: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self.start = self._depth = 0
        """The first position that is processed now. A loop over frames goes on by it alone, after `set_position`."""
        self.set_partition()

    def set_partition(self) -> None:
        """Say that no tile is processed now, but all of the partition."""
        part = self._partition_slice
        if part is not None:
            self.start, self._depth = part.origin[0], part.shape[0]
        self._tile: int | None = None
        self._extent: Slice | None = None

    def set_position(self, start: int, stop: int, index: int = 0) -> None:
        """Say that positions `start` to `stop` are processed now, and which sig slice of the scheme, `index`."""
        self.start = start
        self._depth = stop - start
        self._tile = index
        self._extent = None

    @property
    def slice(self) -> Slice:
        """The part of the data that is processed now: frame or tile; before and after these, and else, the partition.

        None on the main side.
        """
        if self._partition_slice is None:
            return None  # type: ignore[return-value]  # where it is used, on workers, there is one
        extent = self._extent
        if extent is None:
            extent = self._extent = self._find_extent()
        return Slice((self.start, *extent.origin[1:]), extent.shape)

    def _find_extent(self) -> Slice:
        """Return a slice like the current one, from position 0."""
        scheme = self._tiling_scheme
        if scheme is None or scheme.is_full_sig or self._tile is None:
            sig = tuple(self._dataset_shape.sig)
            origin: tuple[int, ...] = (0,) * len(sig)
        else:
            part = scheme[self._tile]
            sig, origin = tuple(part.shape), tuple(part.origin)
        return Slice(origin=(0, *origin), shape=Shape((self._depth, *sig), sig_dims=len(sig)))

    @property
    def partition_shape(self) -> Shape:
        """Shape of the partition, flat, selected positions only.

        Raises
        ------
        ValueError
            On the main side, where there is no partition.
        """
        if self._partition_slice is None:
            msg = "there is no partition here: partition_shape exists while frames are processed"
            raise ValueError(msg)
        return self._partition_slice.shape

    @property
    def dataset_shape(self) -> Shape:
        """Shape of the whole dataset."""
        return self._dataset_shape

    @property
    def tiling_scheme(self) -> TilingScheme | None:
        """How partitions are cut."""
        return self._tiling_scheme

    @property
    def tiling_scheme_idx(self) -> int:
        """Which sig slice of the scheme the current tile is."""
        return self._index_without_tile if self._tile is None else self._tile

    @property
    def sig_slice(self) -> Slice:
        """The part of the detector that the current tile covers, without navigation axis."""
        if self._tiling_scheme is None:
            sig = tuple(self._dataset_shape.sig)
            return Slice(origin=(0,) * len(sig), shape=Shape(sig, sig_dims=len(sig)))
        return self._tiling_scheme[self.tiling_scheme_idx]

    @property
    def roi(self) -> BoolArray | None:
        """Selected positions, of nav shape, or None."""
        return self._roi

    @property
    def dataset_dtype(self) -> np.dtype[Any]:
        """dtype of the dataset."""
        return self._dataset_dtype

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """dtype that this UDF computes in."""
        return self._input_dtype

    @property
    def corrections(self) -> CorrectionSet:
        """Detector corrections of the run; tiles are corrected already."""
        return _NO_CORRECTIONS if self._corrections is None else self._corrections

    @property
    def device_class(self) -> str:
        """Kind of device that computes: ``"cpu"`` or ``"cuda"``."""
        return self._device_class

    @property
    def threads_per_worker(self) -> int | None:
        """How many threads a task may use."""
        return self._threads_per_worker

    @property
    def array_backend(self) -> str | None:
        """Kind of array the tiles are."""
        return self._array_backend

    @property
    def compiled(self) -> bool:
        """Whether compiled kernels are used in this run, whatever their bits."""
        return bool(self._compiled)

    @property
    def kernels(self) -> bool | None:
        """What functions of `tilework.common.kernels` that know it take as ``compiled``: as `compiled`, or None."""
        return self._compiled

    @property
    def coordinates(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Scan coordinates of the frames that are processed now, int64 of shape (frames, nav dims)."""
        part = self._partition_slice
        first = 0 if part is None else part.origin[0]
        of_partition = self._coordinates
        if of_partition is None:  # once: functions may ask for those of each frame
            of_partition = self._coordinates = self._find_coordinates(first, 0 if part is None else part.shape[0])
        start = self.start - first
        return of_partition[start : start + self._depth].copy()

    def _find_coordinates(self, start: int, depth: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        stop = start + depth
        flat = np.arange(start, stop) if self._roi is None else np.flatnonzero(self._roi)[start:stop]
        nav = tuple(self._dataset_shape.nav)
        return np.stack(np.unravel_index(flat, nav), axis=-1).astype(np.int64, copy=False)

    def get_valid_nav_mask(self, full_nav: bool = False) -> BoolArray | None:
        """Return which positions are merged already; None on workers.

        In `UDF.merge` the partition that is being merged does not count yet.

        Parameters
        ----------
        full_nav
            Count all positions of the scan, not only selected ones.

        Returns
        -------
        numpy.ndarray or None
            bool, flat.
        """
        mask = self._valid_nav_mask
        if mask is None or self._roi is None or not full_nav:
            return mask
        return embed(mask, self._roi, (self._roi.size,), fill=False)

    def set_valid_nav_mask(self, mask: BoolArray) -> None:
        """Say which positions (flat, selected ones only) are merged already."""
        self._valid_nav_mask = mask
