"""Save results and load them again; the suffix decides how."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilework.exceptions import MissingResultError, ResultFileError
from tilework.io.results import arrays, tiff
from tilework.io.results.atomic import appearing
from tilework.io.results.channel import ResultChannel
from tilework.io.results.coordinates import with_distinct_axes
from tilework.io.results.document import make_document
from tilework.io.results.labelled import to_xarray
from tilework.io.results.masks import selected_of

__all__ = ["NO_SPACE", "LoadedResults", "load_results", "require_format", "save_results", "suffixes"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Channels = Mapping[str, ResultChannel]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Format:
    """How one kind of file is written and read, and what must be installed for it."""

    write: Callable[[Path, Channels, Document], None]
    read: Callable[[Path], tuple[dict[str, ResultChannel], Document]]
    library: str | None = None
    extra: str | None = None


_NPZ = _Format(arrays.write_npz, arrays.read_npz)
_HDF5 = _Format(arrays.write_hdf5, arrays.read_hdf5, "h5py", "hdf5")
_ZARR = _Format(arrays.write_zarr, arrays.read_zarr, "zarr", "zarr")
_TIFF = _Format(tiff.write_tiff, tiff.read_tiff, "tifffile", "tiff")
_FORMATS = {".npz": _NPZ, ".h5": _HDF5, ".hdf5": _HDF5, ".zarr": _ZARR, ".tif": _TIFF, ".tiff": _TIFF}

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a system says when a disk or a quota is full, or a file must not grow (numbers of errors)."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LoadedResults(Mapping[str, Array]):
    """Results that were read from a file: a mapping of arrays by name.

    Attributes
    ----------
    channels
        The results by name, with what they mean: kind, mask, axes.
    provenance
        Where they come from: UDF and parameters, description of the dataset, selected positions, version and date.

    Examples
    --------
    >>> from tilework.udf.sum import SumUDF
    >>> _ = ctx.run_udf(dataset=ds, udf=SumUDF(), roi=ds.roi[:3]).save("upper.npz")
    >>> loaded = load_results("upper.npz")
    >>> loaded
    <LoadedResults of SumUDF: intensity (32, 32) float32>
    >>> list(loaded), loaded.complete, np.array_equal(loaded.roi, ds.roi[:3])
    (['intensity'], True, True)
    """

    channels: dict[str, ResultChannel]
    provenance: dict[str, Any] = field(default_factory=dict)

    # Arrays have no single answer to whether they are equal, so neither have mappings of them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Array:
        try:
            return self.channels[name].data
        except KeyError:
            msg = f"there is no result {name!r}: there are {', '.join(self.channels)}"
            raise MissingResultError(msg) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    def __contains__(self, name: object) -> bool:
        return name in self.channels

    def __repr__(self) -> str:
        of = f" of {self.provenance['udf']}" if "udf" in self.provenance else ""
        names = ", ".join(f"{name} {c.data.shape} {c.data.dtype}" for name, c in self.channels.items())
        merged = self.provenance.get("merged") or {}
        part = "" if self.complete is not False else f"; {merged['positions']} of {merged['wanted']} positions"
        return f"<{type(self).__name__}{of}: {names}{part}>"

    @property
    def roi(self) -> BoolArray | None:
        """Selected positions, bool of the shape of the scan; None: all, or not known."""
        return selected_of(self.provenance.get("roi"))

    @property
    def complete(self) -> bool | None:
        """Whether the results contain all selected positions that have a frame; None: not known."""
        merged = self.provenance.get("merged")
        return None if merged is None else bool(merged["complete"])

    @property
    def merged(self) -> BoolArray | None:
        """Which positions the results contain, bool of the shape of the scan; None: not known."""
        merged = self.provenance.get("merged")
        if merged is None:
            return None
        positions = selected_of(merged)
        if positions is not None:
            return positions
        dataset = self.provenance["dataset"]
        nav = tuple(dataset["shape"])[: len(dataset["shape"]) - dataset["sig_dims"]]
        return np.ones(nav, dtype=bool) if self.roi is None else self.roi

    def to_xarray(self) -> Any:
        """Return the results as an `xarray.Dataset` with named axes, as `RunResult.to_xarray` does before saving.

        Raises
        ------
        ResultFileError
            When xarray is not installed.
        """
        return to_xarray(self.channels, self.provenance)


def require_format(suffix: str) -> None:
    """See that files of a kind can be written, before anything is computed for them.

    Parameters
    ----------
    suffix
        Such as ``".h5"``.

    Raises
    ------
    ResultFileError
        When the suffix is not known, or its library is not installed.
    """
    form = _format_of(Path(f"results{suffix}"))
    if form.library is None:
        return
    try:
        importlib.import_module(form.library)
    except ImportError as error:
        raise ResultFileError(_missing(Path(f"results{suffix}"), form, error)) from error


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that results can be saved in."""
    return tuple(_FORMATS)


def save_results(
    path: str | bytes | os.PathLike[str],
    channels: Channels,
    provenance: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write results to a file; it appears whole, or not at all.

    Parameters
    ----------
    path
        What to write; the suffix decides: ``.npz`` (NumPy), ``.h5`` or ``.hdf5`` (HDF5), ``.zarr`` (Zarr v3, a folder),
        ``.tif`` or ``.tiff`` (images, see `tilework.io.results.tiff` for what it cannot hold).
    channels
        The results by name.
    provenance
        Where they come from; anything that JSON does not know is written as its description. Version and date are
        added.
    overwrite
        Whether to replace what is there.

    Returns
    -------
    pathlib.Path
        What was written.

    Raises
    ------
    ResultFileError
        When it exists and is not to be replaced, cannot be written, or the library for it is not installed. Nothing is
        left half-written, and what was there before is as it was.
    """
    target = Path(os.fsdecode(path))
    form = _format_of(target)
    if not channels:
        msg = f"nothing to write to {target}: there are no results"
        raise ResultFileError(msg)
    if overwrite:
        _check_replaceable(target, form, provenance)
    channels = with_distinct_axes(channels)
    try:
        with appearing(target, overwrite=overwrite) as place:
            form.write(place, channels, make_document(channels, provenance))
    except ImportError as error:
        raise ResultFileError(_missing(target, form, error)) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ResultFileError(_why_not_written(target, channels, error)) from error
    return target


def load_results(path: str | bytes | os.PathLike[str]) -> LoadedResults:
    """Read what `save_results` wrote.

    Parameters
    ----------
    path
        The file; the suffix decides how it is read.

    Returns
    -------
    LoadedResults

    Raises
    ------
    ResultFileError
        When it does not exist, cannot be read, or holds something else.

    Examples
    --------
    >>> from tilework.udf.stddev import StdDevUDF
    >>> result = ctx.run_udf(dataset=ds, udf=StdDevUDF())
    >>> _ = result.save("deviations.npz")
    >>> loaded = load_results("deviations.npz")
    >>> np.array_equal(loaded["std"], result["std"].data), loaded.provenance["udf"]
    (True, 'StdDevUDF')
    """
    source = Path(os.fsdecode(path))
    form = _format_of(source)
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        msg = f"there is no {source}" if is_missing else f"cannot read results from {source}: {error}"
        raise ResultFileError(msg) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        msg = f"cannot read results from {source}: it is neither a file nor a folder"
        raise ResultFileError(msg)
    try:
        channels, document = form.read(source)
    except ImportError as error:
        raise ResultFileError(_missing(source, form, error)) from error
    except Exception as error:  # each library has its own kinds of error for a broken file
        msg = f"cannot read results from {source}: {error}"
        raise ResultFileError(msg) from error
    return LoadedResults(channels, document["provenance"])


def _format_of(path: Path) -> _Format:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        has = f"the suffix {path.suffix!r} is not known" if path.suffix else "it has no suffix"
        msg = f"cannot tell the format of {path}: {has}; use one of {', '.join(_FORMATS)}"
        raise ResultFileError(msg)
    return form


def _check_replaceable(target: Path, form: _Format, provenance: Mapping[str, Any]) -> None:
    """Raise when something is there that is not replaced even with overwrite=True."""
    dataset = provenance.get("dataset")
    source = dataset.get("path") if isinstance(dataset, Mapping) else None
    if isinstance(source, str) and _is_same(target, source):
        msg = f"cannot replace {target}: the results were computed from it; choose another name"
        raise ResultFileError(msg)
    if not os.path.isdir(target):  # noqa: PTH112  (what a Path raises for a bad name has no reason in words)
        return
    foreign = arrays.foreign_in_zarr(target) if form is _ZARR else None
    if foreign is None:
        msg = f"cannot replace {target}: it is a folder that tilework did not write; remove it, or choose another name"
        raise ResultFileError(msg)
    if foreign:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        msg = f"cannot replace {target}: tilework did not write {names} in it; move that, or choose another name"
        raise ResultFileError(msg)


def _is_same(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _missing(path: Path, form: _Format, error: ImportError) -> str:
    return f"{path.suffix} files need a library that is not installed ({error}): pip install 'tilework[{form.extra}]'"


def _why_not_written(target: Path, channels: Channels, error: Exception) -> str:
    number: int | None = getattr(error, "errno", None)
    if isinstance(error, FileExistsError) or number in {errno.ENOTEMPTY, errno.EEXIST}:
        return f"{target} exists: choose another name, or pass overwrite=True to replace it"
    # NumPy reports a short write without the number of the error, HDF5 within its text.
    short = number is None and isinstance(error, OSError) and " requested and " in str(error)
    if number in NO_SPACE or short or os.strerror(errno.ENOSPC) in str(error):
        # The text of the system names a file that is gone.
        reason = "" if number in NO_SPACE else f" ({error})"
        return f"cannot write {target}: no space left{reason}; free some, or write elsewhere; nothing was left behind"
    if isinstance(error, FileNotFoundError) and not target.parent.exists():
        return f"cannot write {target}: there is no folder {target.parent}; create it first"
    if isinstance(error, PermissionError):
        return f"cannot write {target}: no permission to write in {target.parent}; choose another folder"
    objects = [repr(name) for name, channel in channels.items() if channel.data.dtype.kind == "O"]
    if objects and not isinstance(error, OSError):
        return (
            f"cannot write {target}: {', '.join(objects)} has Python objects (dtype object), which none of these files "
            "can hold; give it a dtype of numbers, or use pickle"
        )
    return f"cannot write {target}: {error}"
