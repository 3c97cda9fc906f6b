"""TIFF: one page per image, for looking at in ImageJ and other viewers.

A page is the last two axes of a scan or detector; what a UDF added, and further scan axes, become several pages. TIFF
viewers know few kinds of numbers, so float64 is stored as float32, complex numbers as two pages, 64 bit integers as 32
bit where they fit and as float32 where they do not. `load_results` gives back the original dtype with what precision is
left (integers that did not fit come back as float32).
"""

from __future__ import annotations

import json
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.io.results.channel import ResultAxis, ResultChannel
from tilework.io.results.document import parse_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["read_tiff", "write_tiff"]

Array = np.ndarray[Any, np.dtype[Any]]
Resolution = tuple[float, float] | None
Page = tuple[Array, dict[str, Any], Resolution]

_CENTIMETRES = {"m": 1e2, "mm": 1e-1, "um": 1e-4, "µm": 1e-4, "μm": 1e-4, "nm": 1e-7, "Å": 1e-8, "A": 1e-8, "pm": 1e-10}
_CLASSIC_LIMIT = 3 << 30


def write_tiff(path: Path, channels: Mapping[str, ResultChannel], document: dict[str, Any]) -> None:
    """Write a TIFF file; every page says what it is in its ImageDescription, the first one holds the whole document."""
    import tifffile

    big = sum(channel.data.nbytes for channel in channels.values()) > _CLASSIC_LIMIT
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        for number, (image, about, resolution) in enumerate(_alike_first(_pages(channels))):
            description = about if number else {**about, "document": document}
            file.write(
                image,
                photometric="minisblack",
                # tifffile takes a description with "shape": for its own, and reads no such file; hence the spaces.
                description=json.dumps(description, separators=(", ", " : ")),
                metadata=None,
                software="tilework",
                contiguous=False,
                resolution=resolution,
                resolutionunit="CENTIMETER" if resolution else None,
            )


def read_tiff(path: Path) -> tuple[dict[str, ResultChannel], dict[str, Any]]:
    """Read a TIFF file."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = [(_parse(getattr(page, "description", "")), page.asarray()) for page in file.pages]
    document = parse_document(json.dumps(pages[0][0].get("document", {})))
    stacks: dict[tuple[str, str], Array] = {}
    for key, members in groupby(pages, key=lambda page: (page[0]["channel"], page[0]["part"])):
        stacks[key] = np.stack([image for _, image in members])
    channels = {}
    for name, description in document["channels"].items():
        data = _join(name, description, stacks)
        valid = stacks.get((name, "valid"))
        mask = None if valid is None else _from_pages(valid, description).astype(bool)
        channels[name] = ResultChannel.from_description(name, description, data, mask)
    return channels, document


def _pages(channels: Mapping[str, ResultChannel]) -> Iterator[Page]:
    for name, channel in channels.items():
        resolution = _resolution(channel)
        for part, data in _parts(channel):
            images = _to_pages(data, channel.kind, channel.extra_ndim)
            for number, image in enumerate(images):
                about = {"channel": name, "part": part, "page": number, "pages": len(images)}
                yield image, about, resolution


def _alike_first(pages: Iterable[Page]) -> list[Page]:
    """Return the pages that look like the first one, then all others.

    tifffile looks at a few pages, the last one among them, to know whether all are alike, and fails if they are not.
    """
    kept = list(pages)
    return sorted(kept, key=lambda page: (page[0].shape, page[0].dtype) != (kept[0][0].shape, kept[0][0].dtype))


def _parts(channel: ResultChannel) -> Iterator[tuple[str, Array]]:
    data = channel.data
    if data.dtype.kind == "c":
        yield "real", _viewable(channel.name, data.real)
        yield "imag", _viewable(channel.name, data.imag)
    else:
        yield "data", _viewable(channel.name, data)
    if channel.valid is not None:
        yield "valid", channel.valid.astype(np.uint8)


def _viewable(name: str, data: Array) -> Array:
    if data.size == 0:
        msg = f"the result {name!r} of shape {data.shape} is empty, and no image: save it as .npz"
        raise TypeError(msg)
    match data.dtype.kind, data.dtype.itemsize:
        case ("b", _):
            return data.astype(np.uint8)
        case ("u" | "i", 1 | 2 | 4):
            return data
        case ("u" | "i", _):
            small = np.dtype(f"{data.dtype.kind}4")
            fits = data.min() >= np.iinfo(small).min and data.max() <= np.iinfo(small).max
            return data.astype(small if fits else np.float32)
        case ("f", _):
            with np.errstate(over="ignore"):
                return data.astype(np.float32, copy=False)
    msg = f"the result {name!r} of dtype {data.dtype} is no image: save it as .npz"
    raise TypeError(msg)


def _image_axes(ndim: int, kind: str, extra_ndim: int) -> tuple[int, ...]:
    """Return which axes make an image: the last two of scan or detector, or of a whole array of neither."""
    own = ndim if kind == "single" else ndim - extra_ndim
    return tuple(range(max(own - 2, 0), own))


def _to_pages(data: Array, kind: str, extra_ndim: int) -> Array:
    axes = _image_axes(data.ndim, kind, extra_ndim)
    moved = np.moveaxis(data, axes, range(data.ndim - len(axes), data.ndim))
    image = (1,) * (2 - len(axes)) + moved.shape[data.ndim - len(axes) :]
    return np.ascontiguousarray(moved.reshape(prod(moved.shape[: data.ndim - len(axes)]), *image))


def _from_pages(pages: Array, description: dict[str, Any]) -> Array:
    shape = tuple(description["shape"])
    axes = _image_axes(len(shape), description["kind"], description["extra_ndim"])
    front = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    moved = pages.reshape((*front, *(shape[axis] for axis in axes)))
    # Not ascontiguousarray, which gives an array of no axes one.
    return np.asarray(np.moveaxis(moved, range(len(shape) - len(axes), len(shape)), axes), order="C")


def _join(name: str, description: dict[str, Any], stacks: Mapping[tuple[str, str], Array]) -> Array:
    if (name, "real") in stacks:
        real = _from_pages(stacks[name, "real"], description)
        data = np.empty(real.shape, dtype=np.dtype(description["dtype"]))
        # Not a sum: that would turn an infinite part into NaN in the other.
        data.real, data.imag = real, _from_pages(stacks[name, "imag"], description)
    else:
        data = _from_pages(stacks[name, "data"], description)
        if data.dtype.kind == "f" and np.dtype(description["dtype"]).kind in "ui":
            return data
    return data.astype(np.dtype(description["dtype"]))


def _resolution(channel: ResultChannel) -> Resolution:
    """Return pixels per centimetre (x, y), where the axes of the image are lengths."""
    axes = [channel.dims[i] for i in _image_axes(channel.data.ndim, channel.kind, channel.extra_ndim)]
    sizes = [_centimetres(axis) for axis in axes]
    if len(sizes) != 2 or None in sizes:
        return None
    y, x = (1 / size for size in sizes if size is not None)
    # A TIFF rational holds no more than this.
    return (x, y) if max(x, y) < 2**32 else None


def _centimetres(axis: ResultAxis) -> float | None:
    if not axis.scale or axis.units not in _CENTIMETRES:
        return None
    return abs(axis.scale) * _CENTIMETRES[axis.units]


def _parse(description: str) -> dict[str, Any]:
    try:
        about = json.loads(description)
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"channel", "part"} <= about.keys():
        msg = "it does not hold results that tilework saved"
        raise ValueError(msg)
    return about
