"""The forms of a tile: dtypes and array backends that the UDFs of a run want, each made once per tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, NUMPY_BACKENDS, as_backend, as_dtype
from tilework.common.kernels.picked_frames import PickedFrames
from tilework.io.convert import convert_tile, is_in_one_piece, repeat_conversion
from tilework.io.dataset.scratch import holders

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.kernels.turns import Turn
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataTile
    from tilework.io.dataset.scratch import Scratch
    from tilework.udf.backends import BackendPlan

__all__ = ["TileConverter"]

Array = np.ndarray[Any, np.dtype[Any]]


class TileConverter:
    """Makes the forms of the tiles of one partition, one tile after the other; each at most once per tile.

    Not thread-safe: every task has its own.

    Parameters
    ----------
    plan
        Which backends are made from which.
    scratch
        Memory for forms that are NumPy arrays.
    corrections
        Detector corrections of the run, or None.
    compiled
        Whether compiled kernels are loaded anyway; None: they may be, for conversions, once they save time.
    threads
        The most threads to use.
    turn
        Of the task; None: there are no turns.
    """

    def __init__(
        self,
        plan: BackendPlan,
        scratch: Scratch,
        corrections: CorrectionSet | None = None,
        *,
        compiled: bool | None,
        threads: int = 1,
        turn: Turn | None = None,
    ) -> None:
        self._dataset = plan.dataset
        self._sources = dict(plan.conversions)
        self._scratch = scratch
        self._corrections = corrections
        self._compiled = compiled
        self._threads = threads
        self._turn = turn
        self._tile: DataTile | None = None
        self._made: dict[tuple[str, np.dtype[Any], bool], Any] = {}
        self._numpy_forms: dict[tuple[np.dtype[Any], bool], Callable[[DataTile], Array]] = {}

    def form(self, backend: str, dtype: np.dtype[Any], corrected: bool = False) -> Callable[[DataTile], Any]:
        """Return the function that gives one form of a tile, read-only.

        It is valid for as long as somebody holds it; who does not let go of it before the next tile makes this one take
        other memory.

        Parameters
        ----------
        backend
            Kind of array.
        dtype
            Its dtype.
        corrected
            Whether it is corrected for the detector.
        """
        if not self._sources and backend in NUMPY_BACKENDS:
            # The usual case, without any bookkeeping: nothing is made of it.
            return self._numpy_form(dtype, corrected)
        return lambda tile: self._get(tile, backend, dtype, corrected)

    def forget(self) -> None:
        """Let go of the tile, and of the forms of it that are kept, before the next one is read."""
        self._tile = None
        self._made.clear()

    def _numpy_form(self, dtype: np.dtype[Any], corrected: bool) -> Callable[[DataTile], Array]:
        """Return the function that converts or corrects tiles of NumPy arrays, which remembers how."""
        key = dtype, corrected
        if key not in self._numpy_forms:
            self._numpy_forms[key] = self._correct_to(dtype) if corrected else self._convert_to(dtype)
        return self._numpy_forms[key]

    def _convert_to(self, dtype: np.dtype[Any]) -> Callable[[DataTile], Array]:
        scratch, compiled, turn = self._scratch, False if self._compiled is False else None, self._turn
        name = dtype.str
        out: Array | None = None
        source = dtype
        repeat: Callable[[Array], None] | None = None
        own = 0  # of the `holders` of `out`, what is ours

        def convert(tile: DataTile) -> Array:
            nonlocal out, source, repeat, own
            data: Array = tile.data
            if data.dtype == dtype:
                return _read_only(data)
            # Most tiles are like the one before, of which nothing was kept.
            if out is None or out.shape != data.shape or source != data.dtype or holders(out) != own:
                out = repeat = None  # which hold the memory
                out, source = scratch.get(name, data.shape, dtype), data.dtype
                own = holders(out)
            if repeat is not None and is_in_one_piece(data):
                repeat(data)
            else:
                if turn is not None:
                    turn.leave()
                convert_tile(data, dtype, out, compiled=compiled)
                repeat = None if compiled is False else repeat_conversion(data, out, turn)
                own = holders(out)
            return _read_only(out)

        return convert

    def _correct_to(self, dtype: np.dtype[Any]) -> Callable[[DataTile], Array]:
        corrections, scratch = self._corrections, self._scratch
        assert corrections is not None

        def correct(tile: DataTile) -> Array:
            out = scratch.get(f"corrected {dtype.str}", tile.data.shape, dtype)
            options: dict[str, Any] = {"compiled": bool(self._compiled), "threads": self._threads}
            if self._turn is not None:
                self._turn.leave()
            corrections.corrected(tile.data, tile.tile_slice, dtype, out, **options)
            out.flags.writeable = False
            return out

        return correct

    def _get(self, tile: DataTile, backend: str, dtype: np.dtype[Any], corrected: bool) -> Any:
        if tile is not self._tile:
            self._tile = tile
            self._made.clear()
        key = backend, dtype, corrected
        if key not in self._made:
            self._made[key] = self._make(tile, backend, dtype, corrected)
        return self._made[key]

    def _make(self, tile: DataTile, backend: str, dtype: np.dtype[Any], corrected: bool) -> Any:
        if backend == self._dataset:
            if backend in NUMPY_BACKENDS:
                return self._numpy_form(dtype, corrected)(tile)
            return as_dtype(tile.data, dtype)
        source = self._sources[backend]
        shape = tuple(tile.tile_slice.shape)
        if backend in CUPY_BACKENDS and source not in CUPY_BACKENDS and not corrected:
            # Moved to the GPU as it is, which is less to move, and converted there.
            stored = tile.data.dtype.newbyteorder("=")
            return as_dtype(as_backend(self._get(tile, source, stored, corrected), backend, shape), dtype)
        # Sparse data has less to convert than the dense array that may be made of it.
        data = self._get(tile, source, dtype, corrected)
        if backend in NUMPY_BACKENDS and source in NUMPY_BACKENDS:
            return data
        if backend not in NUMPY_BACKENDS:
            return as_backend(data, backend, shape)
        out = self._scratch.get(f"{backend} {dtype.str}", shape, dtype)
        dense = as_backend(data, backend, shape, out=out)
        if dense.flags.writeable:
            dense = dense.view()
            dense.flags.writeable = False
        return dense


def _read_only(data: Array | PickedFrames) -> Array:
    """Return the array, or a view of it that cannot be written to; picked frames as they are."""
    if isinstance(data, PickedFrames):
        return cast("Array", data)  # for what `reads_in_place` allows
    if data.flags.writeable:
        data = data.view()
        data.flags.writeable = False
    return data
