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
        What `PIL.Image.Image.save` is given; None: ``{"format": "png"}``.

    Returns
    -------
    io.BytesIO
        At its start.

    Raises
    ------
    TypeError
        When `save_kwargs` is no mapping.
    TileworkError
        When the library for images is not installed.
    """
    given: Any = save_kwargs
    if given is not None and not isinstance(given, Mapping):
        msg = f"save_kwargs must be a mapping, such as {{'format': 'tiff'}}, not {given!r}"
        raise TypeError(msg)
    try:
        from PIL import Image
    except ImportError as error:
        msg = f"image files need a library that is not installed ({error}): pip install 'tilework[plot]'"
        raise TileworkError(msg) from error
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(rgba, dtype=np.uint8)).save(
        file, **({"format": "png"} | dict(save_kwargs or {}))
    )
    file.seek(0)
    return file
