"""Centre of mass of every frame, and the vector field that these make.

In a diffraction pattern, the centre of mass is the mean momentum of the beam, so its shift is proportional to the
projected electric field of the specimen: K. Müller et al., "Atomic electric fields revealed by a quantum mechanical
approach to electron picodiffraction", Nature Communications 5, 5653 (2014).
"""

from __future__ import annotations

import functools
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.buffers.validity import embed
from tilework.common.container import MaskContainer
from tilework.common.kernels import MomentRegion, sum_moments, takes_dtype
from tilework.common.masks import circular, gradient_x, gradient_y, ring
from tilework.common.math import is_real_scalar
from tilework.udf.base import UDF
from tilework.udf.com_field import (
    GuessResult,
    apply_correction,
    center_shifts,
    coordinate_check,
    curl_2d,
    divergence,
    guess_corrections,
    magnitude,
)
from tilework.udf.mask_engine import ApplyMasksEngine
from tilework.udf.picked_frames import takes_picked_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.slice import Slice
    from tilework.common.udf import TilingPreferences

__all__ = [
    "CoMParams",
    "CoMUDF",
    "GuessResult",
    "RegressionOptions",
    "apply_correction",
    "center_shifts",
    "com_masks_factory",
    "com_masks_generic",
    "coordinate_check",
    "curl_2d",
    "divergence",
    "guess_corrections",
    "magnitude",
]

Array = np.ndarray[Any, np.dtype[Any]]


class RegressionOptions(IntEnum):
    """What is subtracted from the field."""

    NO_REGRESSION = -1  # nothing
    SUBTRACT_MEAN = 0  # its mean
    SUBTRACT_LINEAR = 1  # a plane, for each component


class CoMParams(NamedTuple):
    """Parameters of `CoMUDF`; what they mean is said at `CoMUDF.with_params`."""

    cy: float | None = None
    cx: float | None = None
    r: float = inf
    ri: float | None = 0.0
    scan_rotation: float = 0.0
    flip_y: bool = False
    regression: Any = RegressionOptions.NO_REGRESSION


# -- masks


def com_masks_generic(
    detector_y: int, detector_x: int, base_mask_factory: Callable[[], Any]
) -> list[Callable[[], Array]]:
    """Return factories for three masks: a selection, and the selection times y, and times x.

    Parameters
    ----------
    detector_y, detector_x
        Size of the detector in pixels.
    base_mask_factory
        Returns the selection, of shape ``(detector_y, detector_x)``.

    Examples
    --------
    The sum over a square, and its two moments; the centre of mass is their quotient:

    >>> square = np.zeros((8, 8))
    >>> square[2:6, 2:6] = 1
    >>> total, times_y, times_x = (make() for make in com_masks_generic(8, 8, lambda: square))
    >>> frame = np.zeros((8, 8))
    >>> frame[3, 4] = 100
    >>> (frame * times_y).sum() / (frame * total).sum(), (frame * times_x).sum() / (frame * total).sum()
    (np.float64(3.0), np.float64(4.0))
    """

    def times_y() -> Array:
        return np.asarray(gradient_y(detector_x, detector_y) * base_mask_factory())

    def times_x() -> Array:
        return np.asarray(gradient_x(detector_x, detector_y) * base_mask_factory())

    return [base_mask_factory, times_y, times_x]


def com_masks_factory(detector_y: int, detector_x: int, cy: float, cx: float, r: float) -> list[Callable[[], Array]]:
    """Return factories for three masks: a disc, and the disc times y, and times x.

    Parameters
    ----------
    detector_y, detector_x
        Size of the detector in pixels.
    cy, cx, r
        Centre and radius of the disc in pixels.

    Examples
    --------
    >>> from tilework.udf.masks import ApplyMasksUDF
    >>> factories = com_masks_factory(32, 32, cy=16, cx=16, r=8)
    >>> sums = ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=factories))["intensity"].data
    >>> center_y, center_x = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]
    >>> center_y.shape, bool((abs(center_y - 16) < 1).all())
    ((6, 8), True)
    """

    def disc() -> Array:
        return circular(cx, cy, detector_x, detector_y, r)

    return com_masks_generic(detector_y, detector_x, disc)


# -- the UDF


class CoMUDF(UDF):
    """Centre of mass of every frame inside a disc or ring, and the vector field that these make.

    Results, of nav shape, in float32 or what the dataset's dtype is promoted to with it; vectors are in the order
    (y, x):

    - ``raw_com``: the centre of mass in detector coordinates, in pixels;
    - ``raw_shifts``: the same relative to (cy, cx);
    - ``field``, ``field_y``, ``field_x``: the shifts in scan coordinates (flipped, rotated), regression subtracted;
    - ``magnitude``, ``divergence``, ``curl`` of the field, the latter two per scan step.

    ``regression``, float64 of shape (3, 2): what was subtracted, ``[[y, x], [dy/dy, dx/dy], [dy/dx, dx/dx]]``.

    A frame whose sum is 0 has no centre: its shift is 0. Positions without a frame are NaN.

    Parameters
    ----------
    com_params
        The parameters, see `with_params`.
    **params
        None: single parameters are for `with_params`.

    Raises
    ------
    TypeError
        When a parameter is given by itself.
    ValueError
        When a parameter is not of its kind, the ring is empty, a regression is unknown, or (in a run) scan or detector
        do not have two axes.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=CoMUDF.with_params(cy=16, cx=16, r=8))
    >>> result["field"].data.shape
    (6, 8, 2)
    >>> result["regression"].data.shape
    (3, 2)
    """

    def __init__(self, com_params: CoMParams = CoMParams(), **params: Any) -> None:  # noqa: B008  (immutable)
        if params:
            given = ", ".join(f"{name}=…" for name in params)
            msg = f"CoMUDF takes com_params; write CoMUDF.with_params({given}), on the command line --udf com"
            raise TypeError(msg)
        _check_params(com_params)
        super().__init__(com_params=com_params)

    @classmethod
    def with_params(
        cls,
        *,
        cy: float | None = None,
        cx: float | None = None,
        r: float = inf,
        ri: float | None = 0.0,
        scan_rotation: float = 0.0,
        flip_y: bool = False,
        regression: Any = RegressionOptions.NO_REGRESSION,
    ) -> CoMUDF:
        """Return a `CoMUDF`.

        Parameters
        ----------
        cy, cx
            Centre of the disc or ring, and reference for shifts, in pixels; None: the centre of the detector.
        r
            Radius in pixels within which pixels count.
        ri
            Radius in pixels within which they do not; 0 or None: all count.
        scan_rotation
            Angle in degrees by which shifts are rotated to be in scan coordinates.
        flip_y
            Whether y of the detector is flipped before.
        regression
            What to subtract from the field: nothing (``RegressionOptions.NO_REGRESSION``, -1), the mean
            (``SUBTRACT_MEAN``, 0), a plane for each component (``SUBTRACT_LINEAR``, 1); or what to subtract as array
            ``[[y, x], [dy/dy, dx/dy], [dy/dx, dx/dx]]``, of shape (3, 2).

        Examples
        --------
        The shift of the beam by the scan itself, a plane, is subtracted:

        >>> y, x = np.mgrid[:4, :4]
        >>> data = np.zeros((4, 4, 16, 16), dtype="uint16")
        >>> data[y, x, 8 + y, 6 + x] = 100
        >>> dataset = ctx.load("memory", data=data)
        >>> udf = CoMUDF.with_params(cy=8, cx=8, regression=RegressionOptions.SUBTRACT_LINEAR)
        >>> result = ctx.run_udf(dataset=dataset, udf=udf)
        >>> result["regression"].data.round(3) + 0.0
        array([[ 0., -2.],
               [ 1.,  0.],
               [ 0.,  1.]])
        >>> float(abs(result["field"].data).max()) < 1e-5
        True
        """
        return cls(com_params=CoMParams(cy, cx, r, ri, scan_rotation, flip_y, regression))

    # -- what is asked before a run

    def get_backends(self) -> tuple[str, ...]:
        """Take arrays of every kind."""
        return self.BACKEND_ALL

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def accepts_foreign_order(self) -> bool:
        """Take pixels in any byte order: the kernel swaps what it loads."""
        return True

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: the kernel works in blocks."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare the results."""
        shape = self.meta.dataset_shape
        if shape.nav_dims != 2 or shape.sig_dims != 2:
            msg = f"CoMUDF works on scans and detectors with two axes each; this dataset has {shape.nav_dims} and "
            msg += f"{shape.sig_dims}: {shape}; nav_shape and sig_shape say what they are when it is loaded"
            if shape.nav_dims == 1:
                msg += f", (1, {shape.nav.size}) for a line"
            raise ValueError(msg)
        dtype = np.result_type(self.meta.input_dtype, np.float32)
        sums = np.result_type(dtype, np.float64)

        def result(*extra_shape: int) -> BufferWrapper:
            return self.buffer(kind="nav", extra_shape=extra_shape, dtype=dtype, use="result_only")

        return {
            "raw_mask_result": self.buffer(kind="nav", extra_shape=(3,), dtype=sums, where="device", use="private"),
            "raw_com": result(2),
            "raw_shifts": result(2),
            "field": result(2),
            "field_y": result(),
            "field_x": result(),
            "magnitude": result(),
            "divergence": result(),
            "curl": result(),
            "regression": self.buffer(kind="single", extra_shape=(3, 2), dtype=np.float64, use="result_only"),
        }

    # -- processing

    @property
    def _center(self) -> tuple[float, float]:
        params: CoMParams = self.params.com_params
        height, width = self.meta.dataset_shape.sig
        return (height // 2 if params.cy is None else params.cy), (width // 2 if params.cx is None else params.cx)

    @property
    def _disc(self) -> tuple[tuple[int, ...], float, float, float, float]:
        """Shape of the detector, centre (y, x) and radii of what is selected of it."""
        params: CoMParams = self.params.com_params
        cy, cx = self._center
        return tuple(self.meta.dataset_shape.sig), float(cy), float(cx), float(params.r), float(params.ri or 0)

    def get_task_data(self) -> dict[str, Any]:
        """Give ``engine`` and ``com_params`` to classes that derive from this one.

        ``engine.process_tile`` of `ApplyMasksEngine` returns sum and moments of the frames of a tile; `com_params` are
        the parameters with the centre in numbers.
        """
        cy, cx = self._center
        return {"engine": self._engine, "com_params": self.params.com_params._replace(cy=cy, cx=cx)}

    @takes_picked_frames
    def process_tile(self, tile: Any) -> None:
        """Add sum and moments of a tile to those of its frames."""
        meta, sums = self.meta, self.results.raw_mask_result
        if meta.array_backend not in NUMPY_BACKENDS or tile.dtype.kind == "c":
            self._engine.add_to(tile, sums)
            return
        region = self.cached(f"region {meta.tiling_scheme_idx}", self._make_region)
        sum_moments(tile, region, sums, compiled=meta.kernels, threads=meta.threads_per_worker or 1)

    def _make_region(self) -> MomentRegion:
        return _region(*self._disc, self.meta.sig_slice)

    @property
    def _engine(self) -> ApplyMasksEngine:
        """What takes tiles that `sum_moments` does not."""
        make = functools.partial(_masks, *self._disc)
        return ApplyMasksEngine(self.cached("masks", lambda: MaskContainer(make, count=3)), self.meta)

    # -- results

    def get_field_results(self, field_y: Array, field_x: Array) -> Mapping[str, Array]:
        """Return what is derived from the field; override it for further results.

        Parameters
        ----------
        field_y, field_x
            The field, given by name, of nav shape; NaN at positions that are not selected, and in partial results at
            those that are not merged yet.

        Returns
        -------
        Mapping
            Arrays of nav shape by the names of declared nav results.
        """
        return {
            "magnitude": magnitude(field_y, field_x),
            "divergence": divergence(field_y, field_x),
            "curl": curl_2d(field_y, field_x),
        }

    def get_results(self) -> dict[str, Any]:
        """Return the results."""
        params: CoMParams = self.params.com_params
        sums = self.results.raw_mask_result
        cy, cx = self._center
        shifts = np.stack(center_shifts(sums[:, 0], sums[:, 1], sums[:, 2], cy, cx), axis=-1)
        field = np.stack(apply_correction(shifts[:, 0], shifts[:, 1], params.scan_rotation, params.flip_y), axis=-1)
        regression = self._regression(field, params.regression)
        field = self._subtract(field, regression)
        derived = self.get_field_results(field_y=self._embed(field[:, 0]), field_x=self._embed(field[:, 1]))
        results = {
            "raw_shifts": shifts,
            "raw_com": shifts + np.array([cy, cx]),
            "field": field,
            "field_y": field[:, 0],
            "field_x": field[:, 1],
            "regression": regression,
            **{name: self._compress(np.asarray(array)) for name, array in derived.items()},
        }
        declared = self.results.as_dict()
        return {name: array.astype(declared[name].dtype, copy=False) for name, array in results.items()}

    def _embed(self, flat: Array) -> Array:
        """Return an array of nav shape, NaN at positions that are not selected, or not merged yet."""
        merged = self.meta.get_valid_nav_mask()
        flat = flat.copy()
        # Buffers hold zeros where nothing is merged, and derivatives would be taken against these.
        if merged is not None:
            flat[~merged] = np.nan
        return embed(flat, self.meta.roi, tuple(self.meta.dataset_shape.nav), fill=np.nan)

    def _compress(self, array: Array) -> Array:
        roi = self.meta.roi
        return array.reshape(-1) if roi is None else array[roi.reshape(array.shape)]

    def _positions(self) -> NDArray[np.float64]:
        """Return ``[1, y, x]`` for all selected positions."""
        nav = tuple(self.meta.dataset_shape.nav)
        roi = self.meta.roi
        flat = np.arange(nav[0] * nav[1]) if roi is None else np.flatnonzero(roi)
        y, x = np.unravel_index(flat, nav)
        return np.stack([np.ones(len(flat)), y, x], axis=1)

    def _valid(self, field: Array) -> NDArray[np.bool_]:
        finite: NDArray[np.bool_] = np.all(np.isfinite(field), axis=1)
        merged = self.meta.get_valid_nav_mask()
        return finite if merged is None else finite & merged

    def _regression(self, field: Array, regression: Any) -> Array:
        """Return the coefficients, float64 of shape (3, 2), that are to be subtracted.

        Of a complex field they describe the real part, which alone is a position.
        """
        if np.ndim(regression):
            return np.asarray(regression, dtype=np.float64)
        result = np.zeros((3, 2))
        field = field.real
        valid = self._valid(field)
        if regression == RegressionOptions.NO_REGRESSION or not valid.any():
            return result
        if regression == RegressionOptions.SUBTRACT_MEAN:
            result[0] = field[valid].mean(axis=0)
        else:
            result[:] = np.linalg.lstsq(self._positions()[valid], field[valid], rcond=None)[0]
        return result

    def _subtract(self, field: Array, regression: Array) -> Array:
        if not regression.any():
            return field
        valid = self._valid(field)
        result = field.copy()
        result[valid] -= self._positions()[valid] @ regression
        return result


# Runs over the same detector follow each other, and small ones take less time than their region.
@functools.lru_cache(maxsize=4)
def _selection(detector: tuple[int, ...], cy: float, cx: float, r: float, ri: float) -> NDArray[np.bool_]:
    """Return the selected pixels of the whole detector, for all its parts; read-only."""
    height, width = detector
    selection = ring(cx, cy, width, height, r, ri) if ri else circular(cx, cy, width, height, r)
    selection.flags.writeable = False
    return selection


@functools.lru_cache(maxsize=16)
def _region(detector: tuple[int, ...], cy: float, cx: float, r: float, ri: float, part: Slice) -> MomentRegion:
    """Return what is selected of a part of the detector."""
    return MomentRegion(_selection(detector, cy, cx, r, ri)[part.get()], (part.origin[0], part.origin[1]))


def _masks(detector: tuple[int, ...], cy: float, cx: float, r: float, ri: float) -> list[Any]:
    """Return masks of 1, y and x.

    Where pixels are not selected, they are sparse, without these: 0 × NaN would be NaN.
    """
    selection = _selection(detector, cy, cx, r, ri)
    height, width = detector
    masks = [np.ones(detector, dtype=np.float32), gradient_y(width, height), gradient_x(width, height)]
    if selection.all():
        return masks
    from scipy.sparse import csr_matrix

    # A selected pixel counts for y and x also where these are 0: a frame in which it is infinite has no centre.
    places = np.nonzero(selection)
    return [csr_matrix((mask[places], places), shape=detector) for mask in masks]


def _check_params(params: CoMParams) -> None:
    for name in ("cy", "cx", "scan_rotation"):
        value = getattr(params, name)
        if not (is_real_scalar(value) and np.isfinite(value)) and not (value is None and name != "scan_rotation"):
            msg = f"{name} must be a finite number, it is {value!r}"
            raise ValueError(msg)
    for name in ("r", "ri"):
        value = getattr(params, name)
        if not (is_real_scalar(value) and not np.isnan(value)) and not (value is None and name == "ri"):
            msg = f"{name} must be a number of pixels, it is {value!r}"
            raise ValueError(msg)
    # Any text is true, "no" as well.
    if np.ndim(params.flip_y) or np.asarray(params.flip_y).dtype.kind not in "biuf" or params.flip_y not in (0, 1):
        msg = f"flip_y must be True or False, it is {params.flip_y!r}"
        raise ValueError(msg)
    inner = params.ri or 0.0
    if inner >= params.r:
        msg = f"the inner radius ri={inner} must be smaller than the radius r={params.r}: no pixel lies between them"
        raise ValueError(msg)
    regression = params.regression
    if np.ndim(regression):
        if np.shape(regression) != (3, 2):
            msg = f"regression coefficients have the shape (3, 2), these have {np.shape(regression)}"
            raise ValueError(msg)
    elif regression not in tuple(RegressionOptions):
        options = ", ".join(f"{o.name} ({o.value})" for o in RegressionOptions)
        msg = f"regression must be one of {options} or an array of shape (3, 2), it is {regression!r}"
        raise ValueError(msg)
