"""The last step of a delayed run: a UDF with `get_results` of its own is asked once everything is merged.

What it will return must be known while the graph is built: it is asked then, too, for results of zeros.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import UDFException, UnfitResultError
from tilework.udf.data import UDFData
from tilework.udf.instance import snapshot
from tilework.udf.results import ResultBuffer, collect_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilework.common.buffers import BufferWrapper
    from tilework.common.shape import Shape
    from tilework.udf.base import UDF

__all__ = ["AnnouncedOf", "Finish", "MaskOf", "RawOf", "rehearse"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """Asks a UDF for its results.

    Parameters
    ----------
    declared
        The buffers of the main side, without data.
    merged
        Names of those that are merged, in the order in which their arrays are given.
    covered
        Which of the (selected) positions are merged, flat.
    dataset_shape, roi
        Shape of the dataset, and selected positions.
    """

    declared: Mapping[str, BufferWrapper]
    merged: tuple[str, ...]
    covered: BoolArray
    dataset_shape: Shape
    roi: BoolArray | None

    @classmethod
    def of(
        cls, udf: UDF, merged: Mapping[str, Any], covered: BoolArray, dataset_shape: Shape, roi: BoolArray | None
    ) -> Finish:
        """Return the step for a main-side instance."""
        nothing = np.empty(0)
        declared = {n: b.with_array(nothing) if n in merged else copy.copy(b) for n, b in udf.results.items()}
        return cls(declared, tuple(merged), covered, dataset_shape, roi)

    def __call__(self, udf: UDF, arrays: Sequence[Array]) -> dict[str, ResultBuffer]:
        """Return the results by name."""
        buffers = dict(self.declared)
        for name, array in zip(self.merged, arrays, strict=True):
            buffers[name] = buffers[name].with_array(array)
        twin = snapshot(udf, UDFData(buffers))
        return dict(collect_buffers(twin, self.covered, self.dataset_shape, self.roi))


def rehearse(finish: Finish, udf: UDF, merged: Mapping[str, Any]) -> dict[str, np.dtype[Any]]:
    """Return which results `udf` will return, and in which dtypes, by asking it for those of zeros.

    A UDF that cannot work on zeros, or makes something else of them than it declared, is taken at its word: all that is
    declared, in the declared dtypes. So is the length of text, which is of none when it is of zeros.

    Raises
    ------
    UDFException
        When it breaks other rules.
    """
    declared = {name: buffer.dtype for name, buffer in finish.declared.items() if buffer.use != "private"}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            zeros = [np.zeros(array.shape, array.dtype) for array in merged.values()]
            found = {name: buffer.dtype for name, buffer in finish(udf, zeros).items()}
            return {n: _long_enough(dtype, finish.declared[n].dtype) for n, dtype in found.items()}
    except UnfitResultError:
        return declared
    except UDFException:
        raise
    except Exception:  # noqa: BLE001  (whatever its code does with zeros that it would not do with results)
        return declared


def _long_enough(dtype: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype; of text, the longer of two."""
    return np.promote_types(dtype, other) if dtype.kind in "US" else dtype


@dataclass(frozen=True, slots=True)
class RawOf:
    """Takes the array of one result out of what `Finish` returns."""

    udf: str
    name: str

    def __call__(self, results: Mapping[str, ResultBuffer]) -> Array:
        """Return the array in the dtype that it has, scan axes flat and compressed."""
        if self.name not in results:
            msg = f"{self.udf}.get_results() did not return {self.name!r}: return all results that are declared"
            raise UDFException(msg)
        array: Any = results[self.name].raw_data
        return np.asarray(array)


@dataclass(frozen=True, slots=True)
class AnnouncedOf:
    """Takes the array of one result in the dtype that a Dask array says it has; only text may be longer."""

    raw: RawOf
    dtype: np.dtype[Any]

    def __call__(self, results: Mapping[str, ResultBuffer]) -> Array:
        """Return the array, scan axes flat and compressed; UnfitResultError when the dtype cannot hold its values."""
        array = self.raw(results)
        dtype = _long_enough(self.dtype, array.dtype)
        with np.errstate(all="ignore"):
            announced = array.astype(dtype, copy=False)
        if np.can_cast(array.dtype, dtype) or _is_equal(announced, array):
            return announced
        udf, name = self.raw.udf, self.raw.name
        msg = (
            f"{udf}.get_results() returned {name!r} as {array.dtype}, with values that {dtype}, the dtype of its Dask "
            "array, cannot hold: it is the one that was returned for results of zeros or, if that failed, the declared "
            f"one. Declare {array.dtype}, and return it for results of zeros, too; or ask for `data`, which takes any"
        )
        raise UnfitResultError(msg)


def _is_equal(cast: Array, array: Array) -> bool:
    """Return whether numbers are the same after a cast."""
    return array.dtype.kind in "iufc" and np.array_equal(cast, array, equal_nan=True)


@dataclass(frozen=True, slots=True)
class MaskOf:
    """Takes the mask of one result out of what `Finish` returns."""

    name: str

    def __call__(self, results: Mapping[str, ResultBuffer]) -> BoolArray:
        """Return where the result is valid, in the shape of the dataset."""
        return results[self.name].valid_mask
