"""Results as users get them: arrays with their meaning, that can be looked at, masked, and saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import is_masked, to_numpy
from tilework.common.buffers import ArrayWithMask, BufferWrapper, PreallocBufferWrapper
from tilework.common.buffers.validity import embed
from tilework.common.sparse import is_sparse
from tilework.exceptions import (
    MissingResultError,
    ResultFileError,
    UDFException,
    UndeclaredResultError,
    UnfitResultError,
)
from tilework.udf.checks import noted
from tilework.udf.tables import as_html

if TYPE_CHECKING:
    from pathlib import Path

    from dask.array import Array as DaskArray
    from xarray import DataArray, Dataset

    from tilework.common.shape import Shape
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.udf.base import UDF

__all__ = [
    "Provenance",
    "ResultBuffer",
    "RunResult",
    "UDFResults",
    "UDFResultsLazy",
    "collect_buffers",
    "collect_results",
    "copied",
]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class _DescribedDataSet:
    """What results say of their dataset, without its data."""

    shape: Shape
    axes: Sequence[Any]
    description: Mapping[str, Any]
    present: BoolArray

    def describe(self) -> Mapping[str, Any]:
        return self.description

    def present_positions(self, roi: BoolArray | None = None) -> BoolArray:
        return self.present if roi is None else self.present & roi.reshape(self.present.shape)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where results come from; kept with them when they are saved.

    In what pickle and `copy.deepcopy` make of results, there are descriptions of the parameters and of the dataset:
    functions may not be picklable, and its data, which can be in memory, is no part of results.

    Parameters
    ----------
    udf, parameters, dataset
        What was run over what.
    roi
        Selected positions, bool of the shape of the scan; None: all.
    corrections
        Detector corrections, or None.
    merged
        bool over the flat positions, compressed to the selected ones: whose data the results contain; None: of all that
        have a frame.
    """

    udf: str
    parameters: Mapping[str, Any]
    dataset: Any
    roi: BoolArray | None
    corrections: CorrectionSet | None = None
    merged: BoolArray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        from tilework.io.results.jsonable import jsonable

        dataset = self.dataset
        described = _DescribedDataSet(dataset.shape, dataset.axes, dataset.describe(), dataset.present_positions())
        parameters = jsonable(dict(self.parameters))
        return Provenance, (self.udf, parameters, described, self.roi, self.corrections, self.merged)

    def as_dict(self) -> dict[str, Any]:
        """Return what is saved with results: UDF, parameters, dataset, selected and merged positions, corrections."""
        return {
            "udf": self.udf,
            "parameters": dict(self.parameters),
            "dataset": self.dataset.describe(),
            "roi": None if self.roi is None else _describe_mask("selected", self.roi),
            "merged": self._describe_merged(),
            "corrections": None if self.corrections is None else self.corrections.describe(),
        }

    def say_merged(self) -> str:
        """Return which positions the results contain, for people."""
        merged = int(self.merged_positions().sum())
        wanted = int(self.dataset.present_positions(self.roi).sum())
        which = "positions" if self.roi is None else "selected positions"
        return f"all {wanted} {which}" if merged == wanted else f"{merged} of {wanted} {which}: not complete"

    def merged_positions(self) -> BoolArray:
        """Return which positions the results contain, bool of the shape of the scan."""
        if self.merged is None:
            present: BoolArray = self.dataset.present_positions(self.roi)
            return present
        return embed(self.merged, self.roi, tuple(self.dataset.shape.nav), fill=False)

    def _selected(self) -> BoolArray:
        nav = tuple(self.dataset.shape.nav)
        return np.ones(nav, dtype=bool) if self.roi is None else self.roi.reshape(nav)

    def _describe_merged(self) -> dict[str, Any]:
        merged = self.merged_positions()
        wanted = int(self.dataset.present_positions(self.roi).sum())
        facts = {"complete": int(merged.sum()) == wanted, "wanted": wanted}
        # Where it is the same as the region, it need not be said twice.
        mask = {} if np.array_equal(merged, self._selected()) else _describe_mask("positions", merged)
        return {**facts, "positions": int(merged.sum()), **mask}


def _describe_mask(name: str, mask: BoolArray) -> dict[str, Any]:
    from tilework.io.results import pack_mask

    return {name: int(mask.sum()), "of": list(mask.shape), "packed": pack_mask(mask)}


class ResultBuffer(PreallocBufferWrapper):
    """One result of a run: `data` in the shape of the dataset, `raw_data` flat and compressed to the ROI.

    Examples
    --------
    >>> from tilework.udf.sumsigudf import SumSigUDF
    >>> intensity = ctx.run_udf(dataset=ds, udf=SumSigUDF())["intensity"]
    >>> np.asarray(intensity).shape, intensity.kind, intensity.to_xarray().dims
    ((6, 8), 'nav', ('y', 'x'))
    >>> intensity.save("intensity.npz").name
    'intensity.npz'
    """

    name: str = ""
    provenance: Provenance | None = None

    if TYPE_CHECKING:  # what `DaskResultBufferWrapper` has, so that programs need not say which executor they use

        @property
        def delayed_data(self) -> DaskArray:
            """With the executor ``"delayed"`` only: `data` as a Dask array."""
            ...

        @property
        def delayed_raw_data(self) -> DaskArray:
            """With the executor ``"delayed"`` only: `raw_data` as a Dask array."""
            ...

        @property
        def delayed_valid_mask(self) -> DaskArray:
            """With the executor ``"delayed"`` only: `valid_mask` as a Dask array."""
            ...

    def unshared(self) -> ResultBuffer:
        """Return a copy that later merging does not change."""
        new = copy.copy(self)
        if self._data is not None:
            new._data = self._data.copy()
        return new

    @property
    def is_computed(self) -> bool:
        """Whether the NumPy arrays are there."""
        return self._data is not None

    def _repr_html_(self) -> str:
        return as_html({self.name: self}, self.provenance)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write this result, with where it comes from, to a file; the suffix decides: .npz, .h5, .zarr or .tif.

        Raises
        ------
        ResultFileError
            When it cannot be written; nothing half-written is left.
        """
        return RunResult({self.name: self}, self.provenance).save(path, overwrite=overwrite)

    def to_xarray(self) -> DataArray:
        """Return this result as an `xarray.DataArray` with named axes."""
        return RunResult({self.name: self}, self.provenance).to_xarray()[self.name]


class RunResult(dict[str, ResultBuffer]):
    """The results of one UDF by name.

    Parameters
    ----------
    buffers
        The results.
    provenance
        Where they come from.

    Examples
    --------
    >>> from tilework.udf.stddev import StdDevUDF
    >>> result = ctx.run_udf(dataset=ds, udf=StdDevUDF())
    >>> sorted(result)
    ['mean', 'num_frames', 'std', 'sum', 'var', 'varsum']
    >>> result.save("deviations.npz").name
    'deviations.npz'
    >>> result.to_xarray()["std"].dims
    ('ky', 'kx')
    """

    def __init__(self, buffers: Mapping[str, ResultBuffer], provenance: Provenance | None) -> None:
        super().__init__(buffers)
        self.provenance = provenance

    def __missing__(self, name: object) -> ResultBuffer:
        msg = f"there is no result {name!r}: there are {', '.join(self)}"
        raise MissingResultError(msg)

    def _repr_html_(self) -> str:
        return as_html(self, self.provenance)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all results, with where they come from, to a file; the suffix decides: .npz, .h5, .zarr or .tif.

        Parameters
        ----------
        path
            File (for .zarr: folder) to write.
        overwrite
            Whether to replace what is there.

        Returns
        -------
        pathlib.Path
            What was written.

        Raises
        ------
        ResultFileError
            When it cannot be written; nothing half-written is left.
        """
        from tilework.io.results import save_results

        return save_results(path, self._channels(), self._provenance(), overwrite=overwrite)

    def unshared(self) -> RunResult:
        """Return a copy that later merging does not change."""
        return type(self)({name: buffer.unshared() for name, buffer in self.items()}, self.provenance)

    def to_xarray(self) -> Dataset:
        """Return the results as an `xarray.Dataset` with named axes, in physical units where the dataset knows them."""
        from tilework.io.results import to_xarray

        return to_xarray(self._channels(), self._provenance())

    def _provenance(self) -> dict[str, Any]:
        return {} if self.provenance is None else self.provenance.as_dict()

    def _channels(self) -> dict[str, Any]:
        from tilework.io.results import ResultChannel

        axes = () if self.provenance is None else tuple(self.provenance.dataset.axes)
        try:
            return {name: ResultChannel.from_buffer(name, buffer, axes) for name, buffer in self.items()}
        except ValueError as e:
            raise ResultFileError(str(e)) from e


@dataclass(frozen=True, slots=True)
class UDFResults:
    """Results of all UDFs of a run, and which positions they contain.

    Attributes
    ----------
    buffers
        One mapping per UDF, always a tuple.
    damage
        nav buffer of bool: the positions whose data is merged.
    """

    buffers: tuple[RunResult, ...]
    damage: BufferWrapper

    def _repr_html_(self) -> str:
        return "".join(result._repr_html_() for result in self.buffers)


class UDFResultsLazy:
    """Results that are made when somebody looks.

    Their arrays are those into which the run merges: they change when it goes on, but `damage` does not. What pickle
    makes of them, and `copied`, are `UDFResults` that stay as they are.

    Parameters
    ----------
    make
        Makes the results; called once, at the first look.
    damage
        The positions whose data is merged.
    """

    __slots__ = ("_buffers", "_make", "damage")

    def __init__(self, make: Callable[[], tuple[RunResult, ...]], damage: BufferWrapper) -> None:
        self._make = make
        self._buffers: tuple[RunResult, ...] | None = None
        self.damage = damage

    @property
    def buffers(self) -> tuple[RunResult, ...]:
        """One mapping per UDF, always a tuple."""
        if self._buffers is None:
            self._buffers = self._make()
        return self._buffers

    def __repr__(self) -> str:
        merged = np.asarray(self.damage.raw_data)
        return f"<results of {int(merged.sum())} of {merged.size} positions>"

    def __reduce__(self) -> tuple[Any, ...]:
        return UDFResults, (self.buffers, self.damage)

    def final(self) -> UDFResults:
        """Return the results, made now."""
        return UDFResults(self.buffers, self.damage)


def copied(results: UDFResultsLazy) -> UDFResults:
    """Return partial results that later merging does not change."""
    return UDFResults(tuple(r.unshared() for r in results.buffers), results.damage)


def collect_results(
    udfs: Sequence[UDF],
    merged: BoolArray,
    dataset: Any,
    roi: BoolArray | None,
    corrections: CorrectionSet | None = None,
) -> tuple[RunResult, ...]:
    """Ask the UDFs of a run for their results.

    Parameters
    ----------
    udfs
        The UDFs, on the main side.
    merged
        bool over the flat positions (selected ones only): whose data is merged.
    dataset
        What is processed.
    roi
        Selected positions, or None.
    corrections
        Detector corrections, or None.

    Raises
    ------
    UDFException
        When a UDF returns what does not fit what it declared.
    """
    results = []
    for udf in udfs:
        # What is merged goes on growing while these results are kept.
        provenance = Provenance(type(udf).__qualname__, udf._kwargs, dataset, roi, corrections, merged.copy())
        buffers = dict(collect_buffers(udf, merged, dataset.shape, roi))
        for buffer in buffers.values():
            buffer.provenance = provenance
        results.append(RunResult(buffers, provenance))
    return tuple(results)


def collect_buffers(
    udf: UDF,
    merged: BoolArray,
    dataset_shape: Shape,
    roi: BoolArray | None,
) -> Iterator[tuple[str, ResultBuffer]]:
    """Ask one UDF for its results, by name; parameters are those of `collect_results`."""
    name = type(udf).__name__
    udf.meta.set_valid_nav_mask(merged)
    udf.results.clear_views()
    declared = udf.results.as_dict()
    with noted(f"get_results of {name}"):
        results: Any = udf.get_results()
    if not isinstance(results, Mapping):
        msg = f"{name}.get_results() returned {type(results).__name__}: return a dict of arrays by name"
        raise UDFException(msg)
    for key, value in results.items():
        if key not in declared:
            known = ", ".join(sorted(declared)) or "nothing"
            msg = f"{name}.get_results() returned {key!r}, but get_result_buffers() declares {known}: declare it there"
            raise UndeclaredResultError(msg)
        if declared[key].use == "private":
            msg = f"{name}.get_results() returned {key!r}, which is private: leave it out, or declare it without use="
            raise UDFException(msg)
        yield key, _make_buffer(name, key, declared[key], value, merged, dataset_shape, roi)
    for key, buffer in declared.items():
        # What was not returned but is not private either is passed through.
        if buffer.use is None and key not in results:
            yield key, _make_buffer(name, key, buffer, buffer.raw_data, merged, dataset_shape, roi)


def _as_plain(udf_name: str, key: str, value: Any) -> Array:
    """Return a result as a NumPy array, whatever array or number it is."""
    if is_sparse(value):
        msg = (
            f"{udf_name}: get_results() returned the result {key!r} as a sparse {type(value).__name__}: put it into a "
            "buffer with self.forbuf(array, self.results.name), or return a dense array"
        )
        raise UDFException(msg)
    if type(value).__module__.startswith("cupy"):
        return to_numpy(value)
    try:
        return np.asarray(value)
    except ValueError as e:
        msg = (
            f"{udf_name}: get_results() returned the result {key!r} as a {type(value).__name__} that is no array "
            f"({e}): return one array"
        )
        raise UDFException(msg) from e


def _any_field(mask: Array, ndim: int) -> BoolArray:
    """Return which of the entries of an array with `ndim` axes are masked; those of structured ones, with any field."""
    if mask.dtype.names is not None:
        fields = [_any_field(mask[name], ndim) for name in mask.dtype.names]
        return np.asarray(np.any(fields, axis=0))
    return np.asarray(mask.any(axis=tuple(range(ndim, mask.ndim))))


def _is_same_shape(shape: tuple[int, ...], declared: BufferWrapper, dataset_shape: Shape) -> bool:
    """Return whether an array is what was declared: but for axes of length 1, with the scan or detector flat or not.

    The same number of entries in other axes would be put in places that they do not belong to.
    """
    entry = declared.extra_shape
    shapes = [declared.shape, (int(np.prod(declared.shape, dtype=np.int64)),)]
    if declared.kind == "nav" and declared.shape[0] == dataset_shape.nav.size:
        shapes.append((*dataset_shape.nav, *entry))
    elif declared.kind == "sig":
        shapes.append((dataset_shape.sig.size, *entry))
    return _without_ones(shape) in [_without_ones(each) for each in shapes]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _make_buffer(
    udf_name: str,
    key: str,
    declared: BufferWrapper,
    value: Any,
    merged: BoolArray,
    dataset_shape: Shape,
    roi: BoolArray | None,
) -> ResultBuffer:
    arr, mask = (value.arr, value.mask) if isinstance(value, ArrayWithMask) else (value, None)
    if is_masked(value):
        arr, mask = value.data, ~_any_field(np.ma.getmaskarray(value), value.ndim)
    if value is None:
        msg = f"{udf_name}: get_results() returned None as the result {key!r}: return an array, or leave it out"
        raise UnfitResultError(msg)
    arr = _as_plain(udf_name, key, arr)
    if arr.dtype.kind != declared.dtype.kind:
        msg = (
            f"{udf_name}: the result {key!r} is declared as {declared.dtype} but get_results() returned {arr.dtype}: "
            "declare the dtype that is returned"
        )
        raise UnfitResultError(msg)
    want = declared.shape
    if declared.kind == "nav" and roi is not None and arr.shape == (*roi.shape, *declared.extra_shape) != want:
        arr = arr[roi]
        mask = mask if mask is None else mask[roi]
    if arr.shape != want and not _is_same_shape(arr.shape, declared, dataset_shape):
        msg = (
            f"{udf_name}: the result {key!r} must have shape {want} but get_results() returned "
            f"{arr.shape}: declare its extra_shape, or return that shape"
        )
        raise UnfitResultError(msg)
    buffer = ResultBuffer(arr.reshape(want), declared.kind, declared.extra_shape, arr.dtype)
    buffer.set_shape_ds(dataset_shape, roi)
    buffer.name = key
    if mask is None:
        buffer.valid_mask = declared.make_default_mask(merged, dataset_shape, roi)
    elif declared.kind == "nav" and roi is not None:
        buffer.valid_mask = embed(mask.reshape(want), roi, tuple(dataset_shape.nav), fill=False)
    else:
        buffer.valid_mask = mask.reshape(buffer.data.shape)
    return buffer
