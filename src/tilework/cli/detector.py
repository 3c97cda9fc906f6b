"""Detector corrections from files that are named on the command line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.cli.functions import load_array
from tilework.exceptions import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tilework.io.corrections import CorrectionSet

__all__ = ["corrections_for_people", "make_corrections"]

_ARGUMENTS = ("dark", "gain", "excluded")


def make_corrections(args: argparse.Namespace, sig_shape: tuple[int, ...]) -> CorrectionSet | None:
    """Return the corrections that were asked for; None for those that come with the data.

    Raises
    ------
    CommandError
        When a file cannot be read, or does not fit the detector.
    """
    from tilework.io.corrections import CorrectionSet

    images = {}
    for name in _ARGUMENTS:
        path = getattr(args, name)
        if path is None:
            continue
        image = load_array(f"--{name} ", path)
        if image.shape != sig_shape:
            msg = f"--{name} {path} has shape {image.shape}, the detector {sig_shape}: they must be the same"
            raise CommandError(msg)
        if name == "excluded" and image.dtype.kind not in "bui" and not np.isin(image, (0, 1)).all():
            msg = f"--excluded {path} holds {image.dtype}, and not only 0 and 1: save a bool map, such as (array > 0)"
            raise CommandError(msg)
        images[name] = image
    if not images:
        return None
    _warn_of_nan(args, images)
    try:
        return CorrectionSet(images.get("dark"), images.get("gain"), images.get("excluded"))
    except ValueError as error:
        msg = f"the detector cannot be corrected: {error}"
        raise CommandError(msg) from error


def _warn_of_nan(args: argparse.Namespace, images: Mapping[str, NDArray[Any]]) -> None:
    """Warn of numbers that are none, at pixels that are not excluded: a result that needs such a pixel is NaN."""
    excluded = np.asarray(images.get("excluded", False), dtype=bool)
    for name in ("dark", "gain"):
        if name in images and (pixels := np.isnan(images[name]) & ~excluded).any():
            msg = (
                f"--{name} {getattr(args, name)} is NaN at {pixels.sum()} of {pixels.size} pixels, and so is every "
                "result that needs one of them; --excluded leaves out such pixels"
            )
            warnings.warn(msg, RuntimeWarning, stacklevel=2)


def corrections_for_people(args: argparse.Namespace) -> dict[str, str] | None:
    """Return which files were given; None when there was none."""
    return {name: getattr(args, name) for name in _ARGUMENTS if getattr(args, name) is not None} or None
