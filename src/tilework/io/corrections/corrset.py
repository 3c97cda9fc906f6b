"""The corrections of one detector, as they are given to a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilework.common.sparse import is_sparse
from tilework.io.corrections.detector import as_flat, as_numbers, common_shape, correct_frames
from tilework.io.corrections.repair import RepairDescriptor, excluded_coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.common.kernels.picked_frames import PickedFrames
    from tilework.common.slice import Slice

__all__ = ["CorrectionSet"]

Array = np.ndarray[Any, np.dtype[Any]]


class _Prepared(NamedTuple):
    """The corrections for one part of the detector, in the form that the kernels take."""

    dark: Array | None
    gain: Array | None
    descriptor: RepairDescriptor


class CorrectionSet:
    """Dark frame, gain map and excluded pixels of a detector.

    A frame becomes ``(frame - dark) * gain``; then every excluded pixel becomes the mean of its neighbours that are
    inside of the frame and not excluded themselves (up to ``3**d - 1`` of them).

    It may be used from several threads. What is prepared for parts of the detector is kept, and does not travel.

    Parameters
    ----------
    dark
        What the detector shows without a beam, of the shape of a frame, in the units of the data; None: 0.
    gain
        Factor for each pixel, of the shape of a frame; None: 1.
    excluded_pixels
        A map of the shape of a frame, bool or sparse, that is True (not 0) where a pixel is excluded; None: nowhere.
        Not coordinates: ``mask = numpy.zeros(shape, dtype=bool); mask[tuple(coordinates)] = True`` makes a map of them.
    allow_empty
        True: an excluded pixel without usable neighbours stays as it is.

    Raises
    ------
    RepairValueError
        When an excluded pixel has no usable neighbour, unless `allow_empty`.
    ValueError
        When the shapes differ, or excluded pixels are no map. When they are used: when one that is complex would
        correct real frames for a UDF that does not ask for complex ones.
    TypeError
        When dark frame or gain map are no numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from tilework.common.slice import Slice
    >>> corrections = CorrectionSet(dark=np.ones((2, 2)), gain=np.full((2, 2), 2.0))
    >>> frames = np.full((1, 2, 2), 4, dtype=np.float32)
    >>> corrections.apply(frames, Slice.from_shape((1, 2, 2), sig_dims=2))
    >>> frames[0]
    array([[6., 6.],
           [6., 6.]], dtype=float32)
    """

    def __init__(
        self, dark: Any = None, gain: Any = None, excluded_pixels: Any = None, allow_empty: bool = False
    ) -> None:
        self._dark = None if dark is None else as_numbers("dark", dark)
        self._gain = None if gain is None else as_numbers("gain", gain)
        self._allow_empty = allow_empty
        self._excluded: Array | None = None
        self._prepared: dict[Any, _Prepared] = {}
        self._hint = ""
        if excluded_pixels is not None and not is_sparse(excluded_pixels):
            excluded_pixels = _as_map(excluded_pixels)
            self._hint = _hint_at_coordinates(excluded_pixels)
            excluded_pixels = excluded_pixels.astype(bool)
        images = {"dark": self._dark, "gain": self._gain, "excluded_pixels": excluded_pixels}
        try:
            self._sig_shape = common_shape(**{k: None if i is None else i.shape for k, i in images.items()})
            if self._sig_shape is not None and excluded_pixels is not None:
                self._excluded = excluded_coordinates(excluded_pixels, self._sig_shape)
                RepairDescriptor(self._sig_shape, self._excluded, allow_empty)
        except ValueError as error:
            if not self._hint:
                raise
            raise type(error)(f"{error}{self._hint}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}}

    def __repr__(self) -> str:
        parts = [name for name, image in (("dark", self._dark), ("gain", self._gain)) if image is not None]
        if self._excluded is not None:
            parts.append(f"{self._excluded.shape[1]} excluded pixels")
        return f"<CorrectionSet {', '.join(parts) or 'empty'}>"

    # -- what it holds

    def get_dark_frame(self) -> Array | None:
        """Return the dark frame, or None."""
        return self._dark

    def get_gain_map(self) -> Array | None:
        """Return the gain map, or None."""
        return self._gain

    def get_excluded_pixels(self) -> Any:
        """Return the map of excluded pixels as a bool ``sparse.COO``, or None."""
        if self._excluded is None:
            return None
        import sparse

        return sparse.COO(self._excluded, data=np.ones(self._excluded.shape[1], dtype=bool), shape=self._sig_shape)

    def have_corrections(self) -> bool:
        """Return whether there is anything to correct."""
        return self._sig_shape is not None

    def describe(self) -> dict[str, Any]:
        """Return what is corrected, and how much; can be written as JSON.

        ``min`` and ``max`` are over what is finite and not excluded; None where nothing is.
        """
        images = {"dark": self._dark, "gain": self._gain}
        facts: dict[str, Any] = {
            name: None if image is None else _extremes(image, self._excluded) for name, image in images.items()
        }
        return {**facts, "excluded_pixels": 0 if self._excluded is None else int(self._excluded.shape[1])}

    def check_fits(self, sig_shape: Sequence[int]) -> None:
        """Look whether the corrections are made for a detector of this shape.

        Raises
        ------
        ValueError
            When they are not.
        """
        if self._sig_shape is not None and self._sig_shape != tuple(sig_shape):
            msg = (
                f"the corrections are made for a detector of shape {self._sig_shape}, the frames of this dataset have "
                f"the shape {tuple(sig_shape)}: give corrections of that shape"
            )
            raise ValueError(msg + self._hint)

    # -- applying it

    def apply(self, data: Array, tile_slice: Slice) -> None:
        """Correct a tile in place.

        Parameters
        ----------
        data
            Frames or parts of them, of shape ``(n, *sig part)``; floats or complex, C-contiguous.
        tile_slice
            Which part of the detector it is; its navigation axes do not count.

        Raises
        ------
        TypeError
            When the tile holds integers and there is something to correct: they cannot hold what comes out.
        """
        if not self.have_corrections():
            return
        if data.dtype.kind not in "fc":
            msg = f"corrections are applied to floats or complex numbers, this tile is {data.dtype}: convert it first"
            raise TypeError(msg)
        self.corrected(data, tile_slice, data.dtype, out=data)

    def corrected(
        self,
        data: Array | PickedFrames,
        part: Slice,
        dtype: np.dtype[Any],
        out: Array | None = None,
        *,
        compiled: bool = False,
        threads: int = 1,
    ) -> Array:
        """Return a tile converted and corrected, in one pass over it.

        The bits are the same compiled or not, and for any number of threads.

        Parameters
        ----------
        data
            Of shape ``(n, *sig part)``, any dtype and byte order, as the dataset holds it; or picked frames.
        part
            Which part of the detector it is; its navigation axes do not count.
        dtype
            dtype of the result, a float or complex; the corrections are rounded to it, too.
        out
            Where to write, C-contiguous; None: a new array. May be `data`.
        compiled
            Whether compiled kernels are used.
        threads
            The most threads to use, when compiled.
        """
        if out is None:
            out = np.empty(data.shape, dtype=dtype)
        prepared = self._prepared_for(part, dtype)
        pixels = math.prod(data.shape[1:])
        frames = out.reshape(len(data), pixels)
        correct_frames(
            frames if out is data else data,
            prepared.dark,
            prepared.gain,
            prepared.descriptor,
            frames,
            compiled=compiled,
            threads=threads,
        )
        return out

    def correct_sum(self, total: Array, frames: int, part: Slice) -> None:
        """Turn the sum of raw frames into that of corrected ones, in place; corrections are linear.

        Parameters
        ----------
        total
            Sum of the frames, or of a part of them; float64 or complex128, so that nothing is lost where the dark frame
            is large.
        frames
            How many were summed.
        part
            Which part of the detector it is.
        """
        prepared = self._prepared_for(part, total.dtype)
        dark = None if prepared.dark is None else prepared.dark * frames
        rows = total.reshape(1, -1)
        correct_frames(rows, dark, prepared.gain, prepared.descriptor, rows)

    def _prepared_for(self, part: Slice, dtype: np.dtype[Any]) -> _Prepared:
        sig = part.sig
        key = (sig.origin, sig.shape.to_tuple(), dtype)
        prepared = self._prepared.get(key)
        if prepared is None:
            index = sig.get()
            dark, gain = (None if a is None else as_flat(a[index], dtype) for a in (self._dark, self._gain))
            prepared = self._prepared[key] = _Prepared(dark, gain, self.repair_descriptor(sig))
        return prepared

    def repair_descriptor(self, sig_slice: Slice) -> RepairDescriptor:
        """Return which pixels of a part of the detector are replaced by which of that part."""
        shape = sig_slice.shape.to_tuple()
        if self._excluded is None:
            return RepairDescriptor(shape)
        origin = np.array(sig_slice.origin)[:, np.newaxis]
        coords = self._excluded - origin
        inside = np.all((coords >= 0) & (coords < np.array(shape)[:, np.newaxis]), axis=0)
        return RepairDescriptor(shape, coords[:, inside], self._allow_empty)

    # -- tiles

    def adjust_tileshape(
        self, tile_shape: Sequence[int], sig_shape: Sequence[int], base_shape: Sequence[int]
    ) -> tuple[int, ...]:
        """Return a tile shape like `tile_shape` for which no excluded pixel touches a border between tiles.

        A pixel at such a border could not be repaired from all its neighbours.

        Parameters
        ----------
        tile_shape
            Wanted size along each signal axis.
        sig_shape
            Shape of the detector.
        base_shape
            Sizes of which the result is a multiple, unless it spans the axis.
        """
        if self._excluded is None or not self._excluded.shape[1]:
            return tuple(int(s) for s in tile_shape)
        return tuple(
            _adjusted(np.unique(places), int(wanted), int(size), int(base))
            for places, wanted, size, base in zip(self._excluded, tile_shape, sig_shape, base_shape, strict=True)
        )

    def touches_border(self, tile_shape: Sequence[int], sig_shape: Sequence[int]) -> bool:
        """Return whether an excluded pixel touches a border between tiles of this shape."""
        return self._excluded is not None and any(
            _touches(np.unique(places), int(tile), int(size))
            for places, tile, size in zip(self._excluded, tile_shape, sig_shape, strict=True)
        )


def _extremes(image: Array, excluded: Array | None) -> dict[str, float | None]:
    """Return the least and the largest value, of real parts, of what is finite and not excluded; None: of nothing."""
    counted = np.isfinite(image)
    if excluded is not None:
        counted[tuple(excluded)] = False
    values = image.real[counted]
    if not values.size:
        return {"min": None, "max": None}
    return {"min": float(values.min()), "max": float(values.max())}


def _as_map(excluded_pixels: Any) -> Array:
    """Return a dense map of excluded pixels as an array; numbers in a list could be coordinates, and are refused."""
    msg = (
        "excluded_pixels must be a bool map of the detector, or a sparse one, {}: make a map with "
        "mask = numpy.zeros(detector_shape, dtype=bool), and mask[y, x] = True for each excluded pixel"
    )
    try:
        array = np.asarray(excluded_pixels)
    except ValueError as error:
        raise ValueError(msg.format("not lists of different lengths")) from error
    if isinstance(excluded_pixels, list | tuple) and array.dtype.kind != "b":
        raise ValueError(msg.format("not a list of coordinates"))
    if array.dtype.kind not in "biufcO":
        raise ValueError(msg.format(f"not an array of {array.dtype}"))
    return array


def _hint_at_coordinates(array: Array) -> str:
    """Return what is to be said, should it not fit, of a map that could have been meant as coordinates."""
    if array.dtype.kind not in "iu" or array.ndim != 2 or len(array) > 3:
        return ""
    return (
        f"; excluded_pixels of {array.dtype} and shape {array.shape} was taken for a map, for coordinates are not "
        "accepted here: make a map with mask = numpy.zeros(detector_shape, dtype=bool); mask[tuple(coordinates)] = True"
    )


def _touches(places: Array, tile: int, size: int) -> bool:
    """Return whether one of the places along an axis is the first or last of a tile, and not at the detector's rim."""
    first = (places % tile == 0) & (places > 0)
    last = ((places + 1) % tile == 0) & (places + 1 < size)
    return bool((first | last).any())


def _adjusted(places: Array, wanted: int, size: int, base: int) -> int:
    """Return the size of tiles, a multiple of `base`, that is nearest to `wanted` and good; else the whole axis."""
    if wanted >= size or not _touches(places, wanted, size):
        return min(wanted, size)
    # Smaller tiles cannot do where more than a third of all places are excluded: each blocks two borders of three.
    sizes = range(base, size, base) if 3 * len(places) <= size else ()
    for tile in sorted(sizes, key=lambda s: max(s / wanted, wanted / s)):
        if not _touches(places, tile, size):
            return tile
    return size
