"""A file becomes a dataset, and what is known about its axes."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilework.exceptions import CommandError, UnknownFormatError

if TYPE_CHECKING:
    import argparse

    from tilework.api import Context
    from tilework.cli.values import Length
    from tilework.io.dataset.base import AxisInfo, DataSet

__all__ = [
    "describe_axes",
    "describe_dataset",
    "open_dataset",
    "scaled_axes",
]


def open_dataset(context: Context, args: argparse.Namespace) -> DataSet:
    """Return the dataset that the arguments ask for.

    Raises
    ------
    CommandError, DataSetException, OSError
        When there is none.
    """
    given = {
        "nav_shape": args.nav_shape,
        "sig_shape": args.sig_shape,
        "dtype": args.dtype,
        "sync_offset": args.sync_offset,
    }
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    asked = kind = args.type.lower()
    if asked == "auto" and args.dtype is not None:
        kind = "raw"
    _check_type(kind)
    if args.dtype is not None and kind != "raw":
        msg = f"--dtype is for raw files; a {kind} file says itself what its numbers are"
        raise CommandError(msg)
    if not Path(args.file).exists():
        msg = f"{args.file}: there is no such file"
        raise CommandError(msg)
    if asked == "auto" and kind == "raw":
        _check_headerless(args.file)
    if kind == "raw":
        missing = [f"--{n.replace('_', '-')}" for n in ("dtype", "nav_shape", "sig_shape") if n not in parameters]
        if missing:
            msg = f"{args.file}: a raw file says nothing about itself; give {', '.join(missing)}"
            raise CommandError(msg)
        _check_dtype(args.dtype)
    try:
        dataset: DataSet = context.load(kind, path=args.file, **parameters)
    except UnknownFormatError as error:
        error.add_note("here: --type TYPE; for raw, --type raw --dtype … --nav-shape … --sig-shape …")
        raise
    return dataset


def _check_type(kind: str) -> None:
    """See that there is a format of this name; that of arrays has its own message."""
    from tilework.io.dataset.registry import file_formats, filetypes

    if kind not in {"auto", *filetypes}:
        msg = f"--type {kind}: there is no such format; use one of {', '.join(file_formats())}, or auto"
        raise CommandError(msg)


def _check_headerless(path: str) -> None:
    """See that a file is none of those that say themselves what their numbers are, unless --type asks for it."""
    from tilework.io.dataset.raw import kind_of_header

    kind = kind_of_header(path)
    if kind is not None:
        msg = (
            f"{path} begins as a file of the format {kind} does, which says itself what its numbers are: leave out "
            "--dtype; if it is none, give --type raw"
        )
        raise CommandError(msg)


def _check_dtype(text: str) -> None:
    import numpy as np

    try:
        is_number = np.dtype(text).kind in "biufc"
    except (TypeError, ValueError, SyntaxError):
        is_number = False
    if not is_number:
        msg = f"--dtype {text}: not a type of numbers; write for instance uint8, uint16, >u2 or float32"
        raise CommandError(msg)


def scaled_axes(dataset: DataSet, step: Length | None, pixel: Length | None) -> list[AxisInfo]:
    """Return the axes of a dataset, with the scales that were given on the command line in place of its own."""
    axes = list(dataset.axes)
    nav_dims = len(dataset.shape.nav)
    for number, axis in enumerate(axes):
        length = step if number < nav_dims else pixel
        if length is not None:
            axes[number] = replace(axis, scale=length.value, units=length.units)
    return axes


def describe_axes(axes: list[AxisInfo]) -> list[dict[str, Any]]:
    """Return axes as plain values."""
    return [{"name": a.name, "size": a.size, "scale": a.scale, "units": a.units, "offset": a.offset} for a in axes]


def describe_dataset(dataset: DataSet) -> dict[str, Any]:
    """Return what is known of a dataset as plain values."""
    import numpy as np

    return {
        **dataset.describe(),
        "nav_shape": list(dataset.shape.nav),
        "sig_shape": list(dataset.shape.sig),
        "frames": prod(dataset.shape.nav),
        "ignored_frames": dataset.get_sync_offset_info()["frames_ignored_end"],
        "bytes": prod(dataset.shape) * np.dtype(dataset.raw_dtype).itemsize,
    }
