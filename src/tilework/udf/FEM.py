"""Fluctuation electron microscopy: how much a ring of the diffraction pattern varies, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.rows import GATHERED, gather, takes_dtype
from tilework.common.masks import ring
from tilework.common.udf import UDFMethod, derives_for_frames
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences

__all__ = ["FEMUDF", "run_fem"]


class FEMUDF(UDF):
    """Standard deviation over the pixels of a ring, for every frame.

    In a disordered material it is large where small regions are ordered, because then few strong reflections lie on the
    ring: M. M. J. Treacy and J. M. Gibson, "Variable coherence microscopy: a rich source of structural information from
    disordered materials", Acta Crystallographica A 52, 212 (1996).

    Result: ``intensity``, float32 of nav shape, in the units of the data; that of the population (divided by the number
    of pixels). It is computed in float64, and for complex frames from absolute values of the deviations.

    Parameters
    ----------
    center
        Centre (y, x) of the ring, in pixels.
    rad_in, rad_out
        Inner and outer radius in pixels: ``rad_in < r <= rad_out``.

    Raises
    ------
    ValueError
        In a run, when the ring holds no pixel of the detector, the detector has not two axes, or the centre is not two
        numbers.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=FEMUDF(center=(16, 16), rad_in=5, rad_out=9))
    >>> result["intensity"].data.shape
    (6, 8)
    """

    def __init__(self, center: tuple[float, float], rad_in: float, rad_out: float) -> None:
        super().__init__(center=center, rad_in=rad_in, rad_out=rad_out)

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def get_method(self) -> UDFMethod:
        """Work on tiles; on frames in a class that derives from this one and does something else with each frame."""
        return UDFMethod.FRAME if derives_for_frames(self, FEMUDF) else super().get_method()

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: pixels of the ring are gathered from a few frames at a time."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``, and what is known of each frame so far."""
        total = np.result_type(self.meta.input_dtype, np.float64)
        return {
            "intensity": self.buffer(kind="nav", dtype=np.float32),
            "ring_sum": self.buffer(kind="nav", dtype=total, use="private"),
            "ring_varsum": self.buffer(kind="nav", dtype=np.float64, use="private"),
        }

    def get_task_data(self) -> dict[str, Any]:
        """Give ``mask``, the ring as int64 of sig shape, to classes that derive from this one and process frames."""
        return {"mask": self._ring().astype(np.int64)} if derives_for_frames(self, FEMUDF) else {}

    def preprocess(self) -> None:
        """Raise ValueError when the ring holds no pixel."""
        if not self._n_pixels():
            params = self.params
            msg = (
                f"the ring around (y, x) = {tuple(params.center)} with {params.rad_in} < r <= {params.rad_out} holds "
                f"no pixel of a detector of shape {self.meta.dataset_shape.sig}: change center, rad_in or rad_out"
            )
            raise ValueError(msg)

    def _n_pixels(self) -> int:
        """Return how many pixels the ring holds."""
        count: int = self.cached("pixels", lambda: int(np.count_nonzero(self._ring())))
        return count

    def _ring(self) -> NDArray[np.bool_]:
        selection: NDArray[np.bool_] = self.cached("selection", self._make_ring)
        return selection

    def _make_ring(self) -> NDArray[np.bool_]:
        sig = tuple(self.meta.dataset_shape.sig)
        if len(sig) != 2:
            msg = f"FEMUDF works on detectors with two axes, this has the shape {sig}"
            raise ValueError(msg)
        if np.shape(self.params.center) != (2,):
            msg = f"center must be two numbers (y, x), it is {self.params.center!r}"
            raise ValueError(msg)
        (cy, cx), (height, width) = self.params.center, sig
        return np.asarray(ring(cx, cy, width, height, self.params.rad_out, self.params.rad_in))

    def _places(self) -> tuple[NDArray[np.intp], int]:
        """Return the pixels of the ring in the current part of the detector, and how many are in earlier parts."""
        mask = self._ring()
        scheme, part = self.meta.tiling_scheme, self.meta.tiling_scheme_idx
        assert scheme is not None
        earlier = sum(int(np.count_nonzero(mask[scheme[i].get()])) for i in range(part))
        return np.flatnonzero(mask[scheme[part].get()]), earlier

    def process_frame(self, frame: NDArray[Any]) -> None:
        """Compute the result of a frame; for classes that derive from this one."""
        self.process_tile(frame[np.newaxis])

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Merge the pixels of the ring in a tile into what is known of its frames."""
        places, earlier = self.cached(f"ring {self.meta.tiling_scheme_idx}", self._places)
        flat = tile.reshape(len(tile), -1)
        for first in range(0, len(places), GATHERED):
            for rows, pixels in gather(flat, places[first : first + GATHERED]):
                sums = self.results.ring_sum[rows], self.results.ring_varsum[rows]
                self._merge(pixels, earlier + first, *sums)
        with np.errstate(invalid="ignore", over="ignore"):
            self.results.intensity[:] = np.sqrt(self.results.ring_varsum / self._n_pixels())

    @staticmethod
    def _merge(
        pixels: NDArray[Any],
        earlier: int,
        total: NDArray[Any],
        varsum: NDArray[np.float64],
    ) -> None:
        pixels = pixels.astype(total.dtype, copy=False)
        here = pixels.shape[1]
        with np.errstate(invalid="ignore", over="ignore"):
            own = pixels.sum(axis=1)
            deviations = pixels - (own / here)[:, np.newaxis]
            if deviations.dtype.kind == "c":
                deviations = np.abs(deviations)
            varsum += np.einsum("ij,ij->i", deviations, deviations)
            if earlier:
                # Two sets of pixels together, as in `tilework.udf.stddev.merge_single`.
                between = np.abs(own / here - total / earlier)
                varsum += between**2 * (earlier * here / (earlier + here))
            total += own


def run_fem(
    ctx: Any, dataset: Any, center: tuple[float, float], rad_in: float, rad_out: float, roi: Any = None
) -> Mapping[str, Any]:
    """Run `FEMUDF` over a dataset.

    Parameters
    ----------
    ctx
        The `Context` to run with.
    dataset
        The dataset.
    center
        Centre (y, x) of the ring, in pixels.
    rad_in, rad_out
        Inner and outer radius in pixels.
    roi
        Selected positions; None: all.

    Returns
    -------
    Mapping
        With the result ``intensity``.

    Examples
    --------
    >>> run_fem(ctx, ds, center=(16, 16), rad_in=5, rad_out=9)["intensity"].data.shape
    (6, 8)
    """
    udf = FEMUDF(center=center, rad_in=rad_in, rad_out=rad_out)
    result: Mapping[str, Any] = ctx.run_udf(dataset=dataset, udf=udf, roi=roi)
    return result
