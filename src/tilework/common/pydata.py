"""Conversions between arrays of pydata sparse and CSR matrices of SciPy, with NumPy alone.

Those of pydata sparse itself are compiled when they are first used, once per process, which takes seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["csr_from_pydata", "pydata_from_csr"]


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
    coo = array if hasattr(array, "coords") else array.asformat("coo")
    flat = np.ravel_multi_index(tuple(coo.coords), shape)
    return csr_matrix((coo.data, np.divmod(flat, max(1, columns))), shape=(rows, columns))


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
    rows = np.repeat(np.arange(shape[0]), np.diff(matrix.indptr))
    rest = np.unravel_index(matrix.indices, shape[1:]) if len(shape) > 1 else ()
    coo = sparse.COO(np.stack([rows, *rest]), matrix.data, shape=shape, has_duplicates=False, sorted=True)
    return coo if kind == "COO" else coo.asformat(kind.lower())
