"""Pixels as image files."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import TileworkError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["encode_image"]


def encode_image(rgba: ArrayLike, save_kwargs: Mapping[str, Any] | None = None) -> BytesIO:
    """Encode pixels as an image file in memory.

    Parameters
    ----------
    rgba
        uint8, (y, x, 3) or (y, x, 4).
    save_kwargs
        What `PIL.Image.Image.save` is given; None: ``{"format": "png"}``. Formats without transparency, such as JPEG,
        get the colours alone.

    Returns
    -------
    io.BytesIO
        At its start.

    Raises
    ------
    TypeError
        When the pixels are not uint8, or `save_kwargs` is no mapping.
    TileworkError
        When the library for images is not installed.
    """
    given: Any = save_kwargs
    if given is not None and not isinstance(given, Mapping):
        msg = f"save_kwargs must be a mapping, such as {{'format': 'tiff'}}, not {given!r}"
        raise TypeError(msg)
    pixels = np.ascontiguousarray(rgba)
    if pixels.dtype != np.uint8:
        msg = f"pixels are uint8, from 0 to 255, not {pixels.dtype}: visualize_simple makes them of numbers"
        raise TypeError(msg)
    try:
        from PIL import Image
    except ImportError as error:
        msg = f"image files need a library that is not installed ({error}): pip install 'tilework[plot]'"
        raise TileworkError(msg) from error
    image, options = Image.fromarray(pixels), {"format": "png", **(save_kwargs or {})}
    try:
        return _saved(image, options)
    except (OSError, ValueError):
        if image.mode != "RGBA":
            raise
        return _saved(image.convert("RGB"), options)


def _saved(image: Any, options: Mapping[str, Any]) -> BytesIO:
    file = BytesIO()
    image.save(file, **options)
    file.seek(0)
    return file
