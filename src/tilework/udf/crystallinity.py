"""Crystallinity: how strong periodic features of each frame are, in a band of spatial frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.masks import check_radii, circular
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper

__all__ = ["CrystallinityUDF", "run_analysis_crystall"]


class CrystallinityUDF(UDF):
    """Sum of the amplitudes of each frame's Fourier transform over a ring around frequency 0.

    A crystalline region has a regular arrangement of reflections in its diffraction pattern, and so a strong Fourier
    transform at the inverse of their distance; an amorphous one has not. The unscattered beam can be masked out first.

    Result: ``intensity``, float32 of nav shape, in the units of the data. The transform is that of
    ``scipy.fft.rfft2``, without normalisation, which holds one of each pair of opposite frequencies: those from 0 on
    along x.

    Parameters
    ----------
    rad_in, rad_out
        Radii of the ring: ``rad_in < f <= rad_out``, with f in periods per frame.
    real_center
        Centre (y, x) in pixels of a disc that is set to 0 before the transform; None: none is.
    real_rad
        Its radius in pixels.

    Raises
    ------
    ValueError
        When only one of `real_center` and `real_rad` is given, `real_center` is not two numbers, `real_rad` is
        negative, or `rad_in` is not smaller than `rad_out`. In a run, when the frames are complex or have not two axes.

    Examples
    --------
    >>> udf = CrystallinityUDF(rad_in=4, rad_out=8, real_center=(16, 16), real_rad=3)
    >>> ctx.run_udf(dataset=ds, udf=udf)["intensity"].data.shape
    (6, 8)
    """

    def __init__(
        self,
        rad_in: float,
        rad_out: float,
        real_center: tuple[float, float] | None = None,
        real_rad: float | None = None,
    ) -> None:
        if (real_center is None) != (real_rad is None):
            msg = f"the disc that is masked out needs a centre and a radius: {real_center=}, {real_rad=}"
            raise ValueError(msg)
        check_radii(rad_in=rad_in, rad_out=rad_out)
        if real_center is not None and real_rad is not None:
            check_radii(real_rad=real_rad)
            if np.shape(real_center) != (2,):
                msg = f"real_center must be two numbers (y, x), it is {real_center!r}"
                raise ValueError(msg)
        super().__init__(rad_in=rad_in, rad_out=rad_out, real_center=real_center, real_rad=real_rad)

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare ``intensity``."""
        meta = self.meta
        if meta.dataset_shape.sig_dims != 2 or meta.input_dtype.kind == "c":
            what = f"{meta.input_dtype} frames of shape {meta.dataset_shape.sig}"
            msg = f"CrystallinityUDF works on real frames with two axes, not on {what}"
            raise ValueError(msg)
        return {"intensity": self.buffer(kind="nav", dtype=np.float32)}

    def get_task_data(self) -> dict[str, Any]:
        """Give the masks as int64, ``real_mask`` and ``half_fourier_mask``, to classes that derive from this one.

        They are 1 where something counts: in a frame (None: there is no disc), and in its ``scipy.fft.rfft2``.
        """
        if type(self).process_frame is CrystallinityUDF.process_frame:
            return {}
        real_mask, fourier_mask = self._masks
        return {
            "real_mask": None if real_mask is None else real_mask.astype(np.int64),
            "half_fourier_mask": fourier_mask.astype(np.int64),
        }

    @property
    def _masks(self) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
        return self.cached("masks", lambda: (self._real_mask(), self._fourier_mask()))

    def _real_mask(self) -> NDArray[np.bool_] | None:
        if self.params.real_center is None:
            return None
        (cy, cx), (height, width) = self.params.real_center, self.meta.dataset_shape.sig
        return np.asarray(~circular(cx, cy, width, height, self.params.real_rad))

    def _fourier_mask(self) -> NDArray[np.bool_]:
        height, width = self.meta.dataset_shape.sig
        along_y = np.fft.fftfreq(height, 1 / height)[:, np.newaxis]
        along_x = np.fft.rfftfreq(width, 1 / width)
        square = along_y**2 + along_x**2
        rad_in, rad_out = self.params.rad_in, self.params.rad_out
        return np.asarray((square <= rad_out**2) & (square > rad_in**2))

    def process_frame(self, frame: NDArray[Any]) -> None:
        """Transform a frame and add up."""
        from scipy.fft import rfft2

        real_mask, fourier_mask = self._masks
        if real_mask is not None:
            # Not a product: NaN and infinity times 0 are NaN. The dtype stays, and with it the precision.
            frame = np.where(real_mask, frame, frame.dtype.type(0))
        with np.errstate(invalid="ignore", over="ignore"):
            spectrum = rfft2(frame)
            self.results.intensity[:] = np.abs(spectrum[fourier_mask]).sum(dtype=np.float64)


def run_analysis_crystall(
    ctx: Any,
    dataset: Any,
    rad_in: float,
    rad_out: float,
    real_center: tuple[float, float] | None = None,
    real_rad: float | None = None,
    roi: Any = None,
    progress: bool = False,
) -> Mapping[str, Any]:
    """Run `CrystallinityUDF` over a dataset.

    Parameters
    ----------
    ctx
        The `Context` to run with.
    dataset
        The dataset.
    rad_in, rad_out, real_center, real_rad
        As of `CrystallinityUDF`.
    roi
        Selected positions; None: all.
    progress
        Whether to show progress.

    Returns
    -------
    Mapping
        With the result ``intensity``.

    Examples
    --------
    >>> run_analysis_crystall(ctx, ds, rad_in=3, rad_out=8)["intensity"].data.shape
    (6, 8)
    """
    udf = CrystallinityUDF(rad_in=rad_in, rad_out=rad_out, real_center=real_center, real_rad=real_rad)
    result: Mapping[str, Any] = ctx.run_udf(dataset=dataset, udf=udf, roi=roi, progress=progress)
    return result
