"""Products of frames and masks: virtual detectors and any other linear function of a frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS, as_backend, as_names
from tilework.common.buffers import AuxBufferWrapper
from tilework.common.container import MaskContainer, warn_if_large
from tilework.common.kernels import takes_dtype
from tilework.common.kernels.dense import SUMMED_AT_ONCE
from tilework.common.sparse import to_sparse
from tilework.common.udf import UDFMethod, derives_for_frames
from tilework.udf.base import UDF
from tilework.udf.linear import widened
from tilework.udf.mask_engine import ApplyMasksEngine, compute_dtype
from tilework.udf.picked_frames import takes_picked_frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.container import MaskFactories, SparseFormat
    from tilework.common.udf import TilingPreferences

__all__ = ["ApplyMasksEngine", "ApplyMasksUDF"]


class ApplyMasksUDF(UDF):
    """Multiply every frame with masks and sum: one number per frame and mask.

    Result: ``intensity``, of nav shape with an entry of shape ``(n_masks,)``, in the dtype to which float32, that of
    the dataset and that of the masks are promoted. Products are taken in that precision, and summed in it
    a few thousand at a time, these sums in double precision (in float32, the error is below 1e-5 of the sum of the
    products' absolute values).

    Parameters
    ----------
    mask_factories
        A function that returns all masks as a stack, first axis mask, or a list of functions that return one mask each;
        dense arrays, or sparse ones of SciPy or pydata sparse, of the shape of a frame. They are sent to the workers,
        so they must be picklable; they should make the masks there, not bring them along.
    use_torch
        Accepted for programs that pass it; tilework's own kernels are used in any case.
    use_sparse
        True or the name of a sparse format for sparse masks, False for dense ones; None: sparse when all factories give
        sparse masks. See `MaskContainer`.
    mask_count
        Number of masks; given together with `mask_dtype` it saves making the masks before the run starts.
    mask_dtype
        dtype of the masks; None: what the factories give.
    preferred_dtype
        dtype to compute in, promoted with that of the dataset; None: float32. Where it leads to integers, as the masks
        are some, too, products are exact as far as they fit the result's dtype, and wrap; they take longer.
    backends
        Array backends that may be used; None: all that are supported, dense and sparse.
    shifts
        Shift of the masks in detector pixels, (y, x), positive is down and right, rounded towards zero: two numbers for
        all frames, or auxiliary data with two numbers per frame
        (``ApplyMasksUDF.aux_data(shifts, kind="nav", extra_shape=(2,), dtype=int)``). What is shifted out of the
        detector does not count. The result of a frame whose shift is not finite is NaN.
    **kwargs
        Further parameters, for subclasses.

    Notes
    -----
    NaN or infinity in one pixel of a frame makes the results of that frame NaN where a dense mask is 0, since 0 × NaN
    is NaN. Sparse masks (``use_sparse=True``) take no notice of pixels in which they are 0; with a shift for each
    frame, dense ones take none of rows and columns that the shifted stack as a whole does not reach. Corrections with
    ``excluded_pixels`` replace such pixels.

    Raises
    ------
    ValueError
        When `use_sparse` asks for a SciPy format together with `shifts`, or `shifts` are not two finite numbers; in a
        run, when masks do not have the shape of a frame.

    Examples
    --------
    >>> from tilework.masks import circular
    >>> def disk():
    ...     return circular(centerX=16, centerY=16, imageSizeX=32, imageSizeY=32, radius=5)
    >>> result = ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=[disk]))
    >>> result["intensity"].data.shape
    (6, 8, 1)
    """

    def __init__(
        self,
        mask_factories: MaskFactories,
        use_torch: bool = True,
        use_sparse: bool | SparseFormat | None = None,
        mask_count: int | None = None,
        mask_dtype: DTypeLike | None = None,
        preferred_dtype: DTypeLike | None = None,
        backends: str | Iterable[str] | None = None,
        shifts: Any = None,
        **kwargs: Any,
    ) -> None:
        if shifts is not None and str(use_sparse).startswith("scipy"):
            msg = f"use_sparse={use_sparse!r} cannot be used together with shifts: use True or 'sparse.pydata'"
            raise ValueError(msg)
        if shifts is not None and not isinstance(shifts, AuxBufferWrapper):
            _check_shifts(shifts)
        super().__init__(
            mask_factories=mask_factories,
            use_torch=use_torch,
            use_sparse=use_sparse,
            mask_count=mask_count,
            mask_dtype=mask_dtype,
            preferred_dtype=preferred_dtype,
            backends=backends,
            shifts=shifts,
            **kwargs,
        )
        self._shifts_per_frame = isinstance(shifts, AuxBufferWrapper)

    # -- what is asked before a run

    def get_preferred_input_dtype(self) -> Any:
        """Return what was asked for, or float32."""
        preferred = self.params.preferred_dtype
        return np.float32 if preferred is None else preferred

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def accepts_foreign_order(self) -> bool:
        """Take pixels in any byte order: the kernel swaps what it loads."""
        return True

    def get_backends(self) -> Any:
        """Return the array backends.

        Raises
        ------
        ValueError
            When the parameter `backends` leaves none.
        """
        without = {self.BACKEND_SCIPY_COO_ARRAY, self.BACKEND_SCIPY_CSC_ARRAY, self.BACKEND_SCIPY_CSR_ARRAY}
        if self.params.shifts is not None:
            without |= {self.BACKEND_SCIPY_COO, self.BACKEND_CUPY_SCIPY_COO}
        supported = tuple(backend for backend in self.BACKEND_ALL if backend not in without)
        backends = self.params.backends
        if backends is None:
            return supported
        allowed = as_names(backends)
        usable = tuple(backend for backend in supported if backend in allowed)
        if not usable:
            msg = f"no usable array backend among backends={allowed}: masks are applied to {', '.join(supported)}"
            raise ValueError(msg)
        return usable

    def get_method(self) -> UDFMethod:
        """Work on tiles; on frames when each has its own shift, or a derived class does something else with each."""
        own_frames = self.params.shifts is not None and derives_for_frames(self, ApplyMasksUDF)
        return UDFMethod.FRAME if self._shifts_per_frame or own_frames else UDFMethod.TILE

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size, as the kernel works in blocks; many large masks are for many frames."""
        results = self.results
        own = 0
        if "intensity" in results and not self.params.use_sparse:
            intensity = results.get_buffer("intensity")
            own = math.prod(intensity.extra_shape) * self.meta.dataset_shape.sig.size * intensity.dtype.itemsize
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX, "own_bytes": own}

    # -- masks

    @property
    def masks(self) -> MaskContainer:
        """The masks; made once per process and run."""
        return self.cached("masks", self._make_masks)

    def _make_masks(self) -> MaskContainer:
        params = self.params
        if self.meta.array_backend is None:  # on the main side, where somebody reads it, and once
            warn_if_large(params.mask_factories)
        return MaskContainer(
            params.mask_factories,
            dtype=params.mask_dtype,
            use_sparse=params.use_sparse,
            count=params.mask_count,
            default_sparse="scipy.sparse" if params.shifts is None else "sparse.pydata",
            sig_shape=self.meta.dataset_shape.sig.to_tuple(),
        )

    def get_mask_dtype(self) -> np.dtype[Any]:
        """Return the dtype of the masks."""
        return self.masks.dtype if self.params.mask_dtype is None else np.dtype(self.params.mask_dtype)

    def get_mask_count(self) -> int:
        """Return the number of masks."""
        return len(self.masks)

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``."""
        dtype = np.result_type(self.meta.input_dtype, self.get_mask_dtype())
        return {"intensity": self.buffer(kind="nav", extra_shape=(self.get_mask_count(),), dtype=dtype, where="device")}

    # -- processing

    def get_task_data(self) -> dict[str, Any]:
        """Give ``engine``, of `ApplyMasksEngine`, to classes that derive from this one.

        Its ``process_tile`` returns the products of a tile with the masks, those with a shift for all frames shifted.
        """
        return {"engine": self._engine}

    @takes_picked_frames
    def process_tile(self, tile: Any) -> None:
        """Add the products of the frames of a tile with the masks."""
        self._engine.add_to(tile, self.results.intensity)

    @property
    def _engine(self) -> ApplyMasksEngine:
        return _Engine(self.cached("shifted masks", self._shifted_masks), self.meta)

    def _shifted_masks(self) -> MaskContainer:
        shifts = self.params.shifts
        if shifts is None or self._shifts_per_frame:
            return self.masks
        use_sparse: Any = "scipy.sparse" if self.masks.use_sparse else False
        masks = self._masks_to_shift()
        dy, dx = _within(shifts, masks.shape[1:])
        return MaskContainer(lambda: shift_stack(masks, dy, dx), use_sparse=use_sparse)

    def _masks_to_shift(self) -> Any:
        masks = self.masks.computed_masks
        if masks.ndim != 3:
            msg = f"masks can be shifted on detectors with two axes, this has the shape {masks.shape[1:]}"
            raise ValueError(msg)
        return masks

    def process_frame(self, frame: Any) -> None:
        """Write the products of one frame with the masks, shifted for this frame.

        Raises
        ------
        ValueError
            When the shift is not finite, and the result is of integers.
        """
        if self.meta.array_backend not in NUMPY_BACKENDS:
            # Only a part of the frame meets the masks, which is not worth a product of its own for every kind of array.
            frame = as_backend(frame.reshape((1, -1)), "numpy").reshape(tuple(self.meta.dataset_shape.sig))
        y, x = self.params.shifts
        if not (math.isfinite(y) and math.isfinite(x)):
            if self.results.intensity.dtype.kind in "biu":
                msg = f"no integer stands for a frame whose shift is {(y, x)}: give a float preferred_dtype"
                raise ValueError(msg)
            self.results.intensity[:] = np.nan
            return
        masks = self.cached("shifted", self._prepare_shifted)
        dy, dx = _within((y, x), frame.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            self.results.intensity[:] = self.forbuf(masks.apply(frame, dy, dx), self.results.intensity)

    def _prepare_shifted(self) -> _ShiftedDense | _ShiftedSparse:
        result = self.results.get_buffer("intensity").dtype
        dtype = compute_dtype(result) if result.kind in "fc" else widened(result)
        masks = self._masks_to_shift()
        return _ShiftedSparse(to_sparse(masks), dtype) if self.masks.use_sparse else _ShiftedDense(masks, dtype)


class _Engine(ApplyMasksEngine):
    """That of `ApplyMasksUDF`: products have the dtype of its result, which may be integers."""

    def process_tile(self, tile: Any) -> Any:
        return self._products(tile, np.result_type(tile.dtype, self.masks.dtype))


def _check_shifts(shifts: Any) -> None:
    """Raise an error unless these are shifts for all frames."""
    if np.shape(shifts) != (2,):
        msg = f"shifts must be two numbers (y, x), or ApplyMasksUDF.aux_data with two numbers per frame: {shifts!r}"
        raise ValueError(msg)
    if np.asarray(shifts).dtype.kind not in "biuf" or not np.isfinite(shifts).all():
        msg = f"shifts must be finite numbers of pixels (y, x), they are {shifts!r}"
        raise ValueError(msg)


# -- masks that are shifted for each frame


def _within(shifts: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return finite shifts as whole pixels; none is larger than the detector, beyond which nothing changes."""
    dy, dx = (max(-n, min(n, int(s))) for s, n in zip(shifts, shape, strict=True))
    return dy, dx


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Return which pixels along an axis a shifted mask covers, and which of the mask's pixels these are."""
    start, stop = max(0, shift), min(size, size + shift)
    return slice(start, max(start, stop)), slice(start - shift, max(start, stop) - shift)


def shift_stack(masks: Any, dy: int, dx: int) -> Any:
    """Return a stack of masks shifted down by `dy` and right by `dx`; what leaves the detector is lost.

    Parameters
    ----------
    masks
        Of shape ``(n_masks, y, x)``, dense or ``sparse.COO``.
    dy, dx
        Shift in pixels.
    """
    height, width = masks.shape[1:]
    if not isinstance(masks, np.ndarray):
        import sparse

        index, y, x = masks.coords
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        coords = np.stack([index, y + dy, x + dx])[:, inside]
        return sparse.COO(coords, data=masks.data[inside], shape=masks.shape)
    result = np.zeros_like(masks)
    (to_y, from_y), (to_x, from_x) = _overlap(dy, height), _overlap(dx, width)
    result[:, to_y, to_x] = masks[:, from_y, from_x]
    return result


class _ShiftedDense:
    """Products of single frames and dense masks that are shifted."""

    def __init__(self, masks: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self._masks = masks.astype(dtype, copy=False)

    def apply(self, frame: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
        """Return the products, of shape ``(n_masks,)``."""
        height, width = frame.shape
        (y, mask_y), (x, mask_x) = _overlap(dy, height), _overlap(dx, width)
        masks = self._masks[:, mask_y, mask_x]
        part = frame[y, x].astype(np.result_type(frame, masks), copy=False)
        products: NDArray[Any] = np.zeros(len(masks), dtype=widened(masks.dtype))
        for begin in range(0, part.shape[1], SUMMED_AT_ONCE):
            piece = slice(begin, begin + SUMMED_AT_ONCE)
            # In single precision along each line alone: a whole frame of it can be off by a hundredth.
            lines = np.einsum("yx,myx->my", part[:, piece], masks[:, :, piece])
            products += lines.sum(axis=1, dtype=products.dtype)
        return products


class _ShiftedSparse:
    """Products of single frames and sparse masks that are shifted."""

    def __init__(self, masks: Any, dtype: np.dtype[Any]) -> None:
        self._count = masks.shape[0]
        self._index, self._y, self._x = masks.coords
        # As they are: the zeros of a real mask would make an infinite real part a NaN in the imaginary part.
        self._values = masks.data.astype(dtype if masks.dtype.kind == "c" else np.empty(0, dtype).real.dtype)

    def apply(self, frame: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
        """Return the products, of shape ``(n_masks,)``."""
        y, x = self._y + dy, self._x + dx
        inside = (y >= 0) & (y < frame.shape[0]) & (x >= 0) & (x < frame.shape[1])
        pixels, values, index = frame[y[inside], x[inside]], self._values[inside], self._index[inside]

        if self._values.dtype.kind in "iu":
            whole = np.zeros(self._count, dtype=self._values.dtype)
            np.add.at(whole, index, pixels.astype(whole.dtype) * values)
            return whole

        def products(pixels: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
            return np.bincount(index, weights=pixels * values, minlength=self._count)

        real = products(pixels.real, values.real)
        if "c" not in (pixels.dtype.kind, values.dtype.kind):
            return real
        result = real.astype(np.complex128)
        if pixels.dtype.kind == "c":
            result.imag = products(pixels.imag, values.real)
        if values.dtype.kind == "c":
            result.imag += products(pixels.real, values.imag)
            if pixels.dtype.kind == "c":
                result.real -= products(pixels.imag, values.imag)
        return result
