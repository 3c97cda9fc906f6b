"""Files that tilework does not read itself, but knows what they are: people are told the way instead of all formats."""

from __future__ import annotations

from pathlib import Path

__all__ = ["say_foreign"]

_UNPACK = "unpack it, and load what is in it"
_MORE = "for the command line, write it by ctx.export_dataset(dataset, path='scan.npy')"
_BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file: load a dataset of it as a Dask array, which h5py and RosettaSciIO give; "
    f"{_MORE}",
    b"\x1f\x8b\x08": f"compressed by gzip: {_UNPACK}",
    b"BZh": f"compressed by bzip2: {_UNPACK}",
    b"\xfd7zXZ\x00": f"compressed by xz: {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd: {_UNPACK}",
    b"PK\x03\x04": f"a ZIP archive: {_UNPACK}; of an .npz file, load an array as 'memory'",
}
# What programs of microscopes write that does not begin in a way of its own.
_SUFFIXES = frozenset({".dm3", ".dm4", ".emi", ".mrc", ".ser", ".tif", ".tiff", ".tvips"})


def say_foreign(path: str) -> str | None:
    """Return what a file is that no format of ours claims, and what to do with it; None where that is not known."""
    with Path(path).open("rb") as file:
        head = file.read(8)
    for beginning, words in _BEGINNINGS.items():
        if head.startswith(beginning):
            return words
    suffix = Path(path).suffix.lower()
    return (
        f"a {suffix} file by its name: load the array that RosettaSciIO gives; {_MORE}" if suffix in _SUFFIXES else None
    )
