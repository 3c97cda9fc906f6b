"""Conversions between arrays of pydata sparse and CSR matrices of SciPy, with NumPy alone.

Those of pydata sparse itself are compiled when they are first used, once per process, which takes seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["csr_from_pydata", "pydata_astype", "pydata_from_csr"]


def csr_from_pydata(array: Any, pixels: int | None = None) -> Any:
    """Return an array of pydata sparse as a CSR matrix.

    Parameters
    ----------
    array
        ``COO``, ``GCXS`` or ``DOK`` with a background of zero.
    pixels
        Number of columns, into which the array is cut in C order; None: all axes but the first become one.

    Returns
    -------
    scipy.sparse.csr_matrix
    """
    from scipy.sparse import csr_matrix

    shape = tuple(int(n) for n in array.shape)
    columns = math.prod(shape[1:]) if pixels is None else pixels
    rows = math.prod(shape) // max(1, columns)
    if getattr(array, "compressed_axes", None) == (0,) and len(shape) > 1:
        parts = array.data, array.indices, array.indptr
        matrix = csr_matrix(parts, shape=(shape[0], math.prod(shape[1:])), copy=False)
        return matrix if matrix.shape == (rows, columns) else matrix.reshape((rows, columns)).tocsr()
    flat, values = _stored(array)
    row, column = np.divmod(flat, max(1, columns))
    # Positions are sorted and occur once, so nothing has to be sorted or summed here.
    ends = np.searchsorted(row, np.arange(rows + 1))
    kind = np.int32 if max(columns, len(row)) < 2**31 else np.int64
    matrix = csr_matrix((values, column.astype(kind), ends.astype(kind)), shape=(rows, columns), copy=False)
    matrix.has_canonical_format = True
    return matrix


def _stored(array: Any) -> tuple[NDArray[Any], Any]:
    """Return the flat positions, in C order, that an array stores, sorted; and its values there."""
    shape = tuple(int(n) for n in array.shape)
    if hasattr(array, "coords"):
        return np.ravel_multi_index(tuple(array.coords), shape), array.data
    flat: NDArray[Any]
    if isinstance(array.data, dict):  # DOK
        coords = np.array(list(array.data), dtype=np.intp).reshape(-1, len(shape))
        values = np.array(list(array.data.values()), dtype=array.dtype)
        flat = np.asarray(np.ravel_multi_index(tuple(coords.T), shape))
    else:  # GCXS: rows are the positions along some axes, columns those along the others
        rows = np.repeat(np.arange(len(array.indptr) - 1), np.diff(array.indptr))
        along_rows = tuple(array.compressed_axes or ())
        along_columns = tuple(axis for axis in range(len(shape)) if axis not in along_rows)
        flat = np.zeros(len(rows), dtype=np.intp)
        for numbers, axes in ((rows, along_rows), (array.indices, along_columns)):
            coords_along = np.unravel_index(numbers, [shape[axis] for axis in axes]) if axes else ()
            for axis, coord in zip(axes, coords_along, strict=True):
                flat += coord * math.prod(shape[axis + 1 :])
        values = array.data
    order = np.argsort(flat)
    return flat[order], values[order]


def pydata_astype(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return an array of pydata sparse, with a background of zero, in another dtype."""
    import sparse

    if isinstance(array, sparse.COO):
        return sparse.COO(array.coords, array.data.astype(dtype), shape=array.shape, has_duplicates=False, sorted=True)
    if isinstance(array, sparse.GCXS):
        converted = array.copy(deep=False)
        converted.data = array.data.astype(dtype)
        converted.fill_value = dtype.type(0)
        return converted
    return array.astype(dtype)


def pydata_from_csr(matrix: Any, shape: Sequence[int], kind: str) -> Any:
    """Return a CSR matrix without duplicates as an array of pydata sparse.

    Parameters
    ----------
    matrix
        CSR matrix, or array, of SciPy with sorted indices.
    shape
        Shape of the result, of as many entries; its first axis has the rows.
    kind
        ``"COO"``, ``"GCXS"`` or ``"DOK"``.
    """
    import sparse

    shape = tuple(int(n) for n in shape)
    if kind == "GCXS" and len(shape) > 1:
        parts = matrix.data, matrix.indices, matrix.indptr
        return sparse.GCXS(parts, shape=shape, compressed_axes=(0,))
    coords = np.empty((len(shape), matrix.nnz), dtype=np.int64)
    coords[0] = np.repeat(np.arange(shape[0]), np.diff(matrix.indptr))
    rest = matrix.indices
    for axis in range(len(shape) - 1, 1, -1):
        rest, coords[axis] = np.divmod(rest, rest.dtype.type(shape[axis]))
    if len(shape) > 1:
        coords[1] = rest
    coo = sparse.COO(coords, matrix.data, shape=shape, has_duplicates=False, sorted=True)
    return coo if kind == "COO" else coo.asformat(kind.lower())
