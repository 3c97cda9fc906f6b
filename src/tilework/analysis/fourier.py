"""Fourier transforms of frames, for periodic features: the frequency 0 in the middle, the central beam masked out."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.common.masks import check_radii, circular

__all__ = ["DISC_DEFAULTS", "check_disc", "masked_fft"]

Array = np.ndarray[Any, np.dtype[Any]]

# The disc that is set to 0 before the transform; without a radius, none is.
DISC_DEFAULTS: dict[str, Any] = {"real_rad": None, "real_centerx": None, "real_centery": None}


def check_disc(name: str, params: dict[str, Any]) -> None:
    """Raise a ValueError when the disc has a radius but no centre, or the other way round, or a radius below 0."""
    given = [key for key in DISC_DEFAULTS if params[key] is not None]
    if 0 < len(given) < len(DISC_DEFAULTS):
        msg = f"{name}: the disc that is masked out needs {', '.join(DISC_DEFAULTS)}; given are {', '.join(given)}"
        raise ValueError(msg)
    if given:
        check_radii(real_rad=params["real_rad"])


def masked_fft(frame: Array, params: dict[str, Any]) -> Array:
    """Return the Fourier transform of a frame, complex, of its shape, the frequency 0 in the middle.

    Parameters
    ----------
    frame
        Numbers (y, x).
    params
        With the disc of `DISC_DEFAULTS`, in pixels.
    """
    if params["real_rad"] is not None:
        height, width = frame.shape
        disc = circular(params["real_centerx"], params["real_centery"], width, height, params["real_rad"])
        frame = frame.astype(np.result_type(frame.dtype, np.float64))
        frame[disc] = 0  # not by a product: NaN and infinity times 0 are NaN
    return np.fft.fftshift(np.fft.fft2(frame))
