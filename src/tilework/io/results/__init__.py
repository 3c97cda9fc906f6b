"""Saved results: one document with arrays, what they mean, and where they come from, in .npz, HDF5, Zarr or TIFF.

Who does what::

    channel.py      ResultChannel and ResultAxis: an array with its meaning; knows nothing of UDFs or files
    coordinates.py  axes that results share
    jsonable.py     anything -> something that JSON can say
    masks.py        which positions of a scan, as text
    atomic.py       a file or folder appears whole, or not at all
    document.py     the JSON document that travels with the arrays
    arrays.py       .npz, .h5, .zarr: arrays by name
    tiff.py         .tif: pages
    files.py        save_results, load_results: picks by suffix, turns every failure into a ResultFileError
    labelled.py     to_xarray
"""

from tilework.io.results.channel import ResultAxis, ResultChannel
from tilework.io.results.files import LoadedResults, load_results, require_format, save_results, suffixes
from tilework.io.results.labelled import to_xarray
from tilework.io.results.masks import pack_mask, unpack_mask

__all__ = [
    "LoadedResults",
    "ResultAxis",
    "ResultChannel",
    "load_results",
    "pack_mask",
    "require_format",
    "save_results",
    "suffixes",
    "to_xarray",
    "unpack_mask",
]
