"""Formats that hold arrays by name: .npz, HDF5, Zarr. The mask of ``x`` is called ``x.valid``.

HDF5 and Zarr hold the coordinates of axes with a known scale as well, under the names of the axes.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.io.results.channel import ResultChannel
from tilework.io.results.coordinates import shared_coordinates
from tilework.io.results.document import parse_document

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["foreign_in_zarr", "read_hdf5", "read_npz", "read_zarr", "write_hdf5", "write_npz", "write_zarr"]

Array = np.ndarray[Any, np.dtype[Any]]
Document = dict[str, Any]
Channels = Mapping[str, ResultChannel]

KEY = "tilework"
ZARR_META = "zarr.json"
_OTHERWISE = "give it another dtype, or save it as .npz"


def _named_arrays(channels: Channels) -> Iterator[tuple[str, Array, ResultChannel]]:
    for name, channel in channels.items():
        yield name, channel.data, channel
        if channel.valid is not None:
            yield f"{name}.valid", channel.valid, channel


@contextlib.contextmanager
def _naming(name: str, array: Array, advice: str) -> Iterator[None]:
    """Have the name of the result, and what to do, in the error of a library that cannot store an array."""
    try:
        yield
    except (TypeError, ValueError) as error:
        msg = f"{name!r} of dtype {array.dtype} cannot be stored in such a file ({error}): {advice}"
        raise ValueError(msg) from error


@contextlib.contextmanager
def _found_behind(kind: type[Exception]) -> Iterator[None]:
    """Raise the error of this kind that a SystemError came from: HDF5 calls on after an error, which Python resents."""
    try:
        yield
    except SystemError as error:
        behind: BaseException | None = error
        while behind is not None and not isinstance(behind, kind):
            behind = behind.__cause__ or behind.__context__
        raise behind or error from None


def _channels(document: Document, arrays: Mapping[str, Array]) -> dict[str, ResultChannel]:
    return {
        name: ResultChannel.from_description(name, description, arrays[name], arrays.get(f"{name}.valid"))
        for name, description in document["channels"].items()
    }


# -- .npz: members are .npy files, so `numpy.load` reads them too


def write_npz(path: Path, channels: Channels, document: Document) -> None:
    """Write a .npz file."""
    text = np.array(json.dumps(document))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in [*((n, a) for n, a, _ in _named_arrays(channels)), (f"{KEY}.json", text)]:
            with (
                archive.open(f"{name}.npy", "w", force_zip64=True) as member,
                _naming(name, array, "give it another dtype"),
            ):
                np.lib.format.write_array(member, np.asanyarray(array, order="C"), allow_pickle=False)


def read_npz(path: Path) -> tuple[dict[str, ResultChannel], Document]:
    """Read a .npz file."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would advise to unpickle it
            msg = "it is no .npz file, or it was cut off: get it again, or save it anew"
            raise ValueError(msg)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if f"{KEY}.json" not in archive.files:
                return {}, parse_document("{}")
            document = parse_document(str(archive[f"{KEY}.json"]))
            return _channels(document, {name: archive[name] for name in archive.files}), document


def _attributes(name: str, channel: ResultChannel) -> dict[str, str]:
    """Return what is written beside an array: a mask has no unit, and is not what the result is called."""
    return channel.attributes() if name == channel.name else {"kind": channel.kind}


# -- HDF5: one dataset per array, with its meaning as attributes, and a dimension scale per axis whose scale is known


def write_hdf5(path: Path, channels: Channels, document: Document) -> None:
    """Write an HDF5 file."""
    import h5py

    # Through a Python file, a full disk shows as the OSError it is.
    with path.open("w+b") as raw, _found_behind(OSError), h5py.File(raw, "w") as file:
        file.attrs[KEY] = json.dumps(document)
        scales = shared_coordinates(channels)
        for name, (axis, values) in scales.items():
            scale = file.create_dataset(name, data=values)
            scale.make_scale(name)
            if axis.units is not None:
                scale.attrs["units"] = axis.units
        for name, array, channel in _named_arrays(channels):
            with _naming(name, array, _OTHERWISE):
                dataset = file.create_dataset(name, data=array)
            dataset.attrs.update(_attributes(name, channel))
            for dimension, axis in zip(dataset.dims, channel.dims, strict=True):
                dimension.label = axis.name
                if axis.name in scales:
                    dimension.attach_scale(file[axis.name])


def read_hdf5(path: Path) -> tuple[dict[str, ResultChannel], Document]:
    """Read an HDF5 file."""
    import h5py

    with h5py.File(path, "r") as file:
        document = parse_document(file.attrs.get(KEY, "{}"))
        return _channels(document, {n: np.asarray(d[()], dtype=d.dtype) for n, d in file.items()}), document


# -- Zarr v3: one array per array, with named dimensions, and coordinates; so `xarray.open_zarr` reads it too


def write_zarr(path: Path, channels: Channels, document: Document) -> None:
    """Write a Zarr group."""
    import zarr

    group = zarr.create_group(store=str(path), zarr_format=3, attributes={KEY: document})
    for name, (axis, values) in shared_coordinates(channels).items():
        _write_chunks(group, name, values, [name], {} if axis.units is None else {"units": axis.units})
    for name, array, channel in _named_arrays(channels):
        with _naming(name, array, _OTHERWISE):
            _write_chunks(group, name, array, [axis.name for axis in channel.dims], _attributes(name, channel))


def _write_chunks(group: Any, name: str, array: Array, dims: list[str], attributes: dict[str, str]) -> None:
    stored = group.create_array(name, shape=array.shape, dtype=array.dtype, dimension_names=dims, attributes=attributes)
    # Chunk by chunk: given a whole array, Zarr goes on writing chunks in the background after one has failed.
    for chunk in _chunks(array.shape, stored.chunks):
        stored[chunk] = array[chunk]


def _chunks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    starts = product(*(range(0, size, step) for size, step in zip(shape, chunks, strict=True)))
    return (tuple(slice(a, a + step) for a, step in zip(start, chunks, strict=True)) for start in starts)


def read_zarr(path: Path) -> tuple[dict[str, ResultChannel], Document]:
    """Read a Zarr group."""
    import zarr

    group = zarr.open_group(store=str(path), mode="r")
    document = parse_document(json.dumps(group.attrs.asdict().get(KEY, {})))
    return _channels(document, {name: np.asarray(array[...]) for name, array in group.arrays()}), document


def foreign_in_zarr(folder: Path) -> list[str] | None:
    """Return what is in a folder beside what `write_zarr` wrote; None where it wrote nothing there."""
    try:
        meta = json.loads((folder / ZARR_META).read_text(encoding="utf-8"))
        channels = parse_document(json.dumps(meta["attributes"][KEY]))["channels"]
        axes = {axis["name"] for about in channels.values() for axis in about["dims"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    present = {entry.name for entry in folder.iterdir()}
    return sorted(present - {ZARR_META, *channels, *(f"{name}.valid" for name in channels), *axes})
