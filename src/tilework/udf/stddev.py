"""Variance and standard deviation of every detector pixel over all frames.

See `tilework.common.kernels.variance` for the formulas and their source. For complex data, deviations are taken as
absolute values: the variance is that of the real part plus that of the imaginary part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.kernels import accumulate_variance, merge_variances, takes_dtype
from tilework.exceptions import UDFException
from tilework.udf.base import UDF
from tilework.udf.instance import is_in_run
from tilework.udf.ordered_merge import merge_in_order
from tilework.udf.picked_frames import takes_picked_frames

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.slice import Slice
    from tilework.common.udf import TilingPreferences
    from tilework.udf.data import MergeAttrMapping

__all__ = [
    "StdDevUDF",
    "consolidate_result",
    "merge",
    "merge_ndarray",
    "merge_single",
    "process_tile",
    "process_tile_ndarray",
    "run_stddev",
]


# -- the formulas, for use in own UDFs


def merge_single(
    n: int,
    n_0: int,
    sum_0: Any,
    varsum_0: Any,
    n_1: int,
    sum_1: Any,
    varsum_1: Any,
    mean_1: Any,
) -> tuple[Any, Any]:
    """Return sum and sum of squared deviations of two sets of frames together.

    Parameters
    ----------
    n
        Number of frames of both.
    n_0, sum_0, varsum_0
        Number of frames, sum, and sum of squared deviations of the first set; numbers or arrays.
    n_1, sum_1, varsum_1, mean_1
        Those of the second set, and its mean.

    Returns
    -------
    sum, varsum
        Of the kind and shape that was given: the sums are added, and the sum of squared deviations is
        ``V0 + V1 + |mean1 - mean0|**2 * n0 * n1 / n``, see `tilework.common.kernels.variance` for the source.

    Examples
    --------
    >>> merge_single(3, 2, 6.0, 2.0, 1, 9.0, 0.0, 9.0)  # 2, 4 and 9
    (15.0, np.float64(26.0))
    """
    if n_0 == 0:
        return sum_1, varsum_1
    mean_0 = sum_0 / n_0
    delta = mean_1 - mean_0
    mean = mean_0 + n_1 * delta / n
    return sum_0 + sum_1, varsum_0 + varsum_1 + n_1 * np.abs(delta) * np.abs(mean_1 - mean)


def merge(
    dest_n: int,
    dest_sum: NDArray[Any],
    dest_varsum: NDArray[Any],
    src_n: int,
    src_sum: NDArray[Any],
    src_varsum: NDArray[Any],
    src_mean: NDArray[Any],
) -> int:
    """Merge a second set of frames into a first one in place, and return the number of frames of both.

    Parameters
    ----------
    dest_n, dest_sum, dest_varsum
        Number of frames, sum, and sum of squared deviations of the first set; the arrays are updated.
    src_n, src_sum, src_varsum, src_mean
        Those of the second set, and its mean, of the same shape; nothing is merged when it has no frames.

    Examples
    --------
    >>> total, deviations = np.array([6.0]), np.array([2.0])  # of 2 and 4
    >>> merge(2, total, deviations, 1, np.array([9.0]), np.array([0.0]), np.array([9.0]))  # and 9
    3
    >>> total, deviations
    (array([15.]), array([26.]))
    """
    n = int(dest_n) + int(src_n)
    if src_n:
        dest_sum[...], dest_varsum[...] = merge_single(
            n, dest_n, dest_sum, dest_varsum, src_n, src_sum, src_varsum, src_mean
        )
    return n


def merge_ndarray(
    dest_n: int,
    dest_sum: Any,
    dest_varsum: Any,
    src_n: int,
    src_sum: Any,
    src_varsum: Any,
    src_mean: Any,
    forbuf: Callable[[Any, Any], Any],
) -> int:
    """As `merge`, for arrays of other libraries.

    Parameters
    ----------
    dest_n, dest_sum, dest_varsum, src_n, src_sum, src_varsum, src_mean
        As of `merge`.
    forbuf
        Converts an array to the kind, and the shape, of another: `UDF.forbuf`.

    Examples
    --------
    >>> total, deviations = np.array([6.0]), np.array([2.0])  # of 2 and 4
    >>> forbuf = StdDevUDF().forbuf
    >>> merge_ndarray(2, total, deviations, 1, np.array([9.0]), np.array([0.0]), np.array([9.0]), forbuf)  # and 9
    3
    >>> total, deviations
    (array([15.]), array([26.]))
    """
    n = int(dest_n) + int(src_n)
    if src_n:
        total, varsum = merge_single(n, dest_n, dest_sum, dest_varsum, src_n, src_sum, src_varsum, src_mean)
        dest_sum[:] = forbuf(total, dest_sum)
        dest_varsum[:] = forbuf(varsum, dest_varsum)
    return n


def process_tile(tile: NDArray[Any], n_0: int, sum_inout: NDArray[Any], varsum_inout: NDArray[Any]) -> int:
    """Merge the frames of a tile into a sum and a sum of squared deviations, and return the new number of frames.

    Parameters
    ----------
    tile
        Frames, of shape ``(n, *sig part)``.
    n_0
        Number of frames so far.
    sum_inout, varsum_inout
        Sum, and sum of squared deviations, of the shape of a frame or flattened. Updated.

    Examples
    --------
    >>> total, deviations = np.zeros(2), np.zeros(2)
    >>> process_tile(np.array([[2.0, 1.0], [4.0, 1.0]]), 0, total, deviations), total, deviations
    (2, array([6., 2.]), array([2., 0.]))
    """
    total = np.zeros(sum_inout.shape, dtype=np.result_type(sum_inout.dtype, np.float64))
    varsum = np.zeros(varsum_inout.shape, dtype=np.float64)
    n_1 = accumulate_variance(tile, 0, total, varsum, compiled=False)
    return merge(n_0, sum_inout, varsum_inout, n_1, total, varsum, total / max(1, n_1))


def process_tile_ndarray(
    tile: Any, n_0: int, sum_inout: Any, varsum_inout: Any, forbuf: Callable[[Any, Any], Any]
) -> int:
    """As `process_tile`, for arrays of other libraries.

    Parameters
    ----------
    tile, n_0, sum_inout, varsum_inout
        As of `process_tile`; the tile is of any kind that has ``sum``.
    forbuf
        Converts an array to the kind, and the shape, of another: `UDF.forbuf`.

    Examples
    --------
    >>> import sparse
    >>> total, deviations = np.zeros(2), np.zeros(2)
    >>> frames = sparse.COO(np.array([[2.0, 1.0], [4.0, 1.0]]))
    >>> process_tile_ndarray(frames, 0, total, deviations, StdDevUDF().forbuf), total, deviations
    (2, array([6., 2.]), array([2., 0.]))
    """
    n_1 = int(tile.shape[0])
    if n_1 == 0:
        return int(n_0)
    total = tile.sum(axis=0)
    mean = total / n_1
    varsum = (abs(tile - mean) ** 2).sum(axis=0)
    return merge_ndarray(
        n_0,
        sum_inout,
        varsum_inout,
        n_1,
        forbuf(total, sum_inout),
        forbuf(varsum, varsum_inout),
        forbuf(mean, sum_inout),
        forbuf,
    )


# -- the UDF

_SUMS = ("sum", "varsum")


def _arrays(results: Any, names: tuple[str, str]) -> tuple[Any, Any]:
    first, second = names
    return getattr(results, first), getattr(results, second)


class StdDevUDF(UDF):
    """Sum, mean, variance and standard deviation of every detector pixel over all (selected) frames.

    The variance is that of the population: the sum of squared deviations from the mean, divided by the number of
    frames. Means that are large compared with the deviations do no harm. For integers of 1 and 2 bytes the sums of a
    tile are exact. All is computed in double precision, and rounded to `dtype` at the end.

    Results, of sig shape: ``var``, ``std``, ``varsum`` (number of frames times variance) in `dtype`; ``mean`` and
    ``sum`` in `dtype` promoted with that of the dataset; in the units of the data (``var`` and ``varsum``: squared).
    ``num_frames``: int64, one number.

    Parameters
    ----------
    dtype
        dtype of the results; None: float64.
    use_numba
        Whether the compiled kernels may be used.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=StdDevUDF())
    >>> result["std"].data.shape, int(result["num_frames"].data[0])
    ((32, 32), 48)
    """

    def __init__(self, dtype: DTypeLike | None = None, use_numba: bool = True) -> None:
        super().__init__(dtype=dtype, use_numba=use_numba)

    def get_preferred_input_dtype(self) -> Any:
        """Return the dtype of the results."""
        return self._base

    def get_backends(self) -> tuple[str, ...]:
        """Take dense arrays, in main memory or on a GPU; deviations from the mean are not sparse."""
        return tuple(backend for backend in self.BACKEND_ALL if backend not in self.SPARSE_BACKENDS)

    @property
    def _base(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.params.dtype is None else self.params.dtype)

    @property
    def _stored(self) -> tuple[str, str]:
        """Names of what is added up: in double precision, also for results in less.

        Rounded to float32, a sum that is a million times the deviations has lost them when partitions are merged.
        """
        is_wide = np.result_type(self._base, np.float64) == self._base
        return _SUMS if is_wide else ("exact_sum", "exact_varsum")

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        """Take all numbers as they are stored."""
        return takes_dtype(dtype)

    def accepts_foreign_order(self) -> bool:
        """Take pixels in any byte order: the kernel swaps what it loads."""
        return True

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size: the kernel works in blocks."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare the results."""
        base = self._base
        if base.kind not in "fc":
            msg = f"StdDevUDF: dtype={base}: deviations are no whole numbers: use a float dtype, or leave it out"
            raise UDFException(msg)
        total = np.result_type(self.meta.input_dtype, base)
        dtypes = {"sum": total, "varsum": base}
        stored = {
            name: self.buffer(
                kind="sig",
                dtype=np.result_type(dtypes[result], np.float64),
                where="device",
                use=None if name == result else "private",
            )
            for name, result in zip(self._stored, _SUMS, strict=True)
        }
        made = {
            name: self.buffer(kind="sig", dtype=dtype, use="result_only")
            for name, dtype in (*dtypes.items(), ("var", base), ("std", base), ("mean", total))
            if name not in stored
        }
        declared = {**stored, **made, "num_frames": self.buffer(kind="single", dtype=np.int64)}
        # In the order in which programs may expect them.
        names = ("varsum", "num_frames", "sum", "var", "std", "mean")
        return {**{name: declared[name] for name in names}, **declared}

    def get_task_data(self) -> dict[str, Any]:
        """Count frames per part of the detector, since tiles of different parts come in turn; find names once."""
        return {"num_frames": {}, "stored": self._stored}

    @property
    def _compiled(self) -> bool | None:
        # There is no run when results are merged that somebody else computed.
        return self.meta.kernels if is_in_run(self) and self.params.use_numba else False

    @takes_picked_frames
    def process_tile(self, tile: Any) -> None:
        """Merge the frames of a tile."""
        part = self.meta.tiling_scheme_idx
        counts = self.task_data.num_frames
        n_0 = counts.get(part, 0)
        total, varsum = _arrays(self.results, self.task_data.stored)
        if self.meta.array_backend not in NUMPY_BACKENDS:
            counts[part] = process_tile_ndarray(tile, n_0, total, varsum, self.forbuf)
            return
        options: dict[str, Any] = {"compiled": self._compiled, "threads": self.meta.threads_per_worker or 1}
        # Real frames have real sums, also where complex results are asked for.
        exact = np.result_type(total.real.dtype, tile.dtype, np.float64)
        if (total.dtype, varsum.dtype) == (exact, np.float64):
            counts[part] = accumulate_variance(tile, n_0, total, varsum, **options)
            return
        # Of complex results, or of numbers longer than double precision.
        total_1, varsum_1 = np.zeros(total.shape, dtype=exact), np.zeros(varsum.shape)
        n_1 = accumulate_variance(tile, 0, total_1, varsum_1, **options)
        merge_variances(n_0, total, varsum, n_1, total_1, varsum_1, compiled=False)
        counts[part] = n_0 + n_1

    def postprocess(self) -> None:
        """Store the number of frames of the partition."""
        counts = set(self.task_data.num_frames.values())
        assert len(counts) <= 1, f"parts of the detector have different numbers of frames: {sorted(counts)}"
        self.results.num_frames[:] = counts.pop() if counts else 0

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Merge a partition."""
        n_0, n_1 = int(dest.num_frames[0]), int(src.num_frames[0])
        stored = self._stored
        ours, theirs = _arrays(dest, stored), _arrays(src, stored)
        merge_variances(n_0, *ours, n_1, *theirs, compiled=bool(self._compiled))
        dest.num_frames[:] = n_0 + n_1

    def merge_all(self, ordered_results: OrderedDict[Slice, MergeAttrMapping]) -> Mapping[str, Any]:
        """Merge all partitions, in order; NumPy arrays or Dask arrays."""
        merged = merge_in_order(self, ordered_results, [*self._stored, "num_frames"])
        total, varsum = (merged[name] for name in self._stored)
        return {**merged, **self._derived(merged["num_frames"][0], total, varsum)}

    @staticmethod
    def _derived(n: Any, total: Any, varsum: Any) -> dict[str, Any]:
        # Nothing is known before the first frame; NaN says so.
        with np.errstate(invalid="ignore", divide="ignore"):
            var = varsum / n
            return {"sum": total, "varsum": varsum, "var": var, "std": np.sqrt(var), "mean": total / n}

    def get_results(self) -> dict[str, Any]:
        """Return the results, with what follows from sums."""
        derived = self._derived(self.results.num_frames[0], *_arrays(self.results, self._stored))
        with np.errstate(over="ignore"):
            results = {
                name: array.astype(self.results.get_buffer(name).dtype, copy=False) for name, array in derived.items()
            }
        results["num_frames"] = self.results.num_frames
        # Programs may take results by their order.
        return {name: results[name] for name in ("var", "std", "mean", "varsum", "num_frames", "sum")}


def consolidate_result(udf_result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of `StdDevUDF` as plain arrays, and ``num_frames`` as a number.

    Examples
    --------
    >>> result = consolidate_result(ctx.run_udf(dataset=ds, udf=StdDevUDF()))
    >>> result["std"].shape, int(result["num_frames"])
    ((32, 32), 48)
    """
    names = ("num_frames", "varsum", "sum", "var", "std", "mean")
    arrays: dict[str, Any] = {name: np.asarray(udf_result[name]) for name in names}
    return {**arrays, "num_frames": arrays["num_frames"][0]}


def run_stddev(
    ctx: Any, dataset: Any, roi: Any = None, progress: bool = False, use_numba: bool = True
) -> dict[str, Any]:
    """Run `StdDevUDF` over a dataset.

    Parameters
    ----------
    ctx
        The `Context` to run with.
    dataset
        The dataset.
    roi
        Selected positions; None: all.
    progress
        Whether to show progress.
    use_numba
        Whether the compiled kernels may be used.

    Returns
    -------
    dict
        Arrays ``var``, ``std``, ``mean``, ``varsum``, ``sum``, and the number ``num_frames``.

    Examples
    --------
    >>> result = run_stddev(ctx, ds)
    >>> bool(np.allclose(result["std"], np.sqrt(result["varsum"] / result["num_frames"])))
    True
    """
    return consolidate_result(
        ctx.run_udf(dataset=dataset, udf=StdDevUDF(use_numba=use_numba), roi=roi, progress=progress)
    )
