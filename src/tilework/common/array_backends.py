"""Kinds of arrays in which tiles can be had, by name, and conversions between them.

The names, and the conversions, are those of `sparseconverter <https://pypi.org/project/sparseconverter/>`_. It, and the
libraries for sparse arrays, take longer to import than a small run takes, so they are imported only where an array is
something else than a NumPy array: the names and sets are repeated here.

A stack of frames has the shape ``(n, *sig)`` in the backends of `ND_BACKENDS`, and ``(n, pixels)`` in those of
`D2_BACKENDS`, which have matrices only; a frame has the shape ``sig``, or ``(1, pixels)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.pydata import csr_from_pydata, pydata_astype, pydata_from_csr
from tilework.common.sparse import is_pydata_sparse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from tilework.common.scheduler import ResourceDef

__all__ = [
    "BACKENDS",
    "CPU_BACKENDS",
    "CUDA_BACKENDS",
    "CUPY_BACKENDS",
    "D2_BACKENDS",
    "DENSE_BACKENDS",
    "ND_BACKENDS",
    "NUMPY_BACKENDS",
    "PRIORITY",
    "SPARSE_BACKENDS",
    "as_backend",
    "as_dtype",
    "as_matrix",
    "as_names",
    "can_hold",
    "frames_of",
    "holding_dtype",
    "make_like",
    "resources_for",
]

NUMPY = "numpy"
NUMPY_MATRIX = "numpy.matrix"
CUDA = "cuda"
CUPY = "cupy"
SPARSE_COO = "sparse.COO"
SPARSE_GCXS = "sparse.GCXS"
SPARSE_DOK = "sparse.DOK"
SCIPY_COO = "scipy.sparse.coo_matrix"
SCIPY_CSR = "scipy.sparse.csr_matrix"
SCIPY_CSC = "scipy.sparse.csc_matrix"
SCIPY_COO_ARRAY = "scipy.sparse.coo_array"
SCIPY_CSR_ARRAY = "scipy.sparse.csr_array"
SCIPY_CSC_ARRAY = "scipy.sparse.csc_array"
CUPY_SCIPY_COO = "cupyx.scipy.sparse.coo_matrix"
CUPY_SCIPY_CSR = "cupyx.scipy.sparse.csr_matrix"
CUPY_SCIPY_CSC = "cupyx.scipy.sparse.csc_matrix"

PYDATA_BACKENDS = frozenset({SPARSE_COO, SPARSE_GCXS, SPARSE_DOK})
SCIPY_BACKENDS = frozenset({SCIPY_COO, SCIPY_CSR, SCIPY_CSC, SCIPY_COO_ARRAY, SCIPY_CSR_ARRAY, SCIPY_CSC_ARRAY})
CUPY_SCIPY_BACKENDS = frozenset({CUPY_SCIPY_COO, CUPY_SCIPY_CSR, CUPY_SCIPY_CSC})

CPU_BACKENDS = frozenset({NUMPY, NUMPY_MATRIX}) | PYDATA_BACKENDS | SCIPY_BACKENDS
CUPY_BACKENDS = frozenset({CUPY}) | CUPY_SCIPY_BACKENDS
CUDA_BACKENDS = frozenset({CUDA}) | CUPY_BACKENDS
"""What works on a CUDA device; with ``"cuda"`` a UDF gets NumPy arrays, and moves them there itself."""
BACKENDS = CPU_BACKENDS | CUDA_BACKENDS
SPARSE_BACKENDS = PYDATA_BACKENDS | SCIPY_BACKENDS | CUPY_SCIPY_BACKENDS
DENSE_BACKENDS = BACKENDS - SPARSE_BACKENDS
ND_BACKENDS = frozenset({NUMPY, CUDA, CUPY}) | PYDATA_BACKENDS
D2_BACKENDS = BACKENDS - ND_BACKENDS
NUMPY_BACKENDS = frozenset({NUMPY, CUDA})
"""Where a tile is a plain NumPy array."""

PRIORITY = (
    CUPY_SCIPY_CSR,
    CUPY_SCIPY_CSC,
    CUPY_SCIPY_COO,
    SCIPY_COO_ARRAY,
    SCIPY_CSC_ARRAY,
    SCIPY_CSR_ARRAY,
    SCIPY_CSR,
    SCIPY_CSC,
    SCIPY_COO,
    CUPY,
    NUMPY,
    SPARSE_COO,
    SPARSE_GCXS,
)
"""For functions that support everything that is of use, best first."""

DType = np.dtype[Any]
_CUPY_SPARSE_DTYPES = frozenset(map(np.dtype, ("f4", "f8", "c8", "c16")))


def as_names(backends: str | Iterable[str]) -> tuple[str, ...]:
    """Return what `UDF.get_backends` returned, one name or several, as a tuple."""
    return (backends,) if isinstance(backends, str) else tuple(backends)


# -- dtypes


def can_hold(backend: str, dtype: DType) -> bool:
    """Return whether arrays of that kind can have that dtype; sparse ones cannot have all.

    Those of pydata sparse can have half precision, but nothing can be made of them then: all ways lead over SciPy.
    """
    if backend in CUPY_SCIPY_BACKENDS:
        return dtype in _CUPY_SPARSE_DTYPES or (backend == CUPY_SCIPY_CSR and dtype == np.bool_)
    return not (backend in SPARSE_BACKENDS and dtype == np.float16)


def holding_dtype(dtype: DType, backends: Iterable[str]) -> DType:
    """Return the dtype to which `dtype` must be promoted so that all of the backends can hold it."""
    if all(can_hold(backend, dtype) for backend in backends):
        return dtype
    return np.result_type(dtype, np.float32)


def as_dtype(array: Any, dtype: DType) -> Any:
    """Return an array of any kind in another dtype; itself when it has that already."""
    if array.dtype == dtype:
        return array
    return pydata_astype(array, dtype) if is_pydata_sparse(array) else array.astype(dtype)


# -- conversions


def as_backend(array: Any, backend: str, shape: Sequence[int] | None = None, out: Any = None) -> Any:
    """Return a stack of frames as another kind of array; in half precision, sparse ones become single precision.

    Parameters
    ----------
    array
        Stack of any kind.
    backend
        Name of the kind that is wanted.
    shape
        Shape ``(n, *sig)`` of the stack; None: that of `array`.
    out
        NumPy array of that shape and of the dtype of `array`, C-contiguous, in which a dense result can be made.
    """
    shape = tuple(array.shape if shape is None else shape)
    if backend in SPARSE_BACKENDS and array.dtype == np.float16:
        array = as_dtype(array, np.dtype(np.float32))
    plain = type(array) is np.ndarray
    if plain and backend in NUMPY_BACKENDS:
        return array.reshape(shape)
    if plain and backend == NUMPY_MATRIX:
        return np.asmatrix(array.reshape(_flat(shape)))
    if out is not None and backend in NUMPY_BACKENDS and hasattr(array, "toarray") and not hasattr(array, "get"):
        return array.toarray(out=out.reshape(_flat(shape))).reshape(shape)
    if plain:
        array = array.reshape(_flat(shape))
    if backend in PYDATA_BACKENDS and not hasattr(array, "get"):
        return _as_pydata(array, backend, shape)
    if is_pydata_sparse(array):
        array = csr_from_pydata(array)
    import sparseconverter

    converted = sparseconverter.for_backend(array, backend)
    want = _flat(shape) if backend in D2_BACKENDS else shape
    return converted if tuple(converted.shape) == want else converted.reshape(want)


def _as_pydata(array: Any, backend: str, shape: tuple[int, ...]) -> Any:
    kind = backend.rpartition(".")[2]
    if type(array).__name__ == kind and tuple(array.shape) == shape:
        return array
    from scipy.sparse import csr_matrix

    matrix = csr_from_pydata(array) if is_pydata_sparse(array) else csr_matrix(array)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return pydata_from_csr(matrix, shape, kind)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def make_like(array: Any, target: Any) -> Any:
    """Return an array of any kind, or a number, as the kind of array that `target` is, in its shape.

    Raises
    ------
    ValueError
        When it does not have as many entries.
    """
    if isinstance(target, np.ndarray) and (isinstance(array, np.ndarray) or np.isscalar(array)):
        return np.asarray(array).reshape(target.shape)
    import sparseconverter

    return sparseconverter.make_like(array, target, strict=False)


def as_matrix(tile: Any) -> Any:
    """Return a stack of frames of any kind as a matrix of shape ``(n, pixels)`` that has ``@`` and ``sum``.

    NumPy and CuPy arrays stay what they are; all sparse ones become CSR, of SciPy or of CuPy.
    """
    if hasattr(tile, "tocsr") and len(tile.shape) == 2:
        return tile.tocsr()
    return csr_from_pydata(tile) if is_pydata_sparse(tile) else tile.reshape(_flat(tuple(tile.shape)))


# -- single frames


def frames_of(tile: Any, backend: str) -> Any:
    """Return an iterable over the frames of a tile, each in the shape and kind of its backend."""
    if backend in {NUMPY, CUDA, CUPY}:
        return tile
    if backend in PYDATA_BACKENDS:
        return _pydata_frames(tile, backend)
    if backend == NUMPY_MATRIX:
        return (tile[i : i + 1] for i in range(tile.shape[0]))
    return _matrix_rows(tile, backend)


def _matrix_rows(tile: Any, backend: str) -> Any:
    rows = tile.tocsr()
    kind = backend.rpartition(".")[2][:3]
    for i in range(tile.shape[0]):
        row = rows[i : i + 1]
        yield row if kind == "csr" else row.asformat(kind)


def _pydata_frames(tile: Any, backend: str) -> Any:
    rows = csr_from_pydata(tile)
    sig, kind = tuple(tile.shape[1:]), backend.rpartition(".")[2]
    for i in range(tile.shape[0]):
        yield pydata_from_csr(rows[i : i + 1].reshape((sig[0], -1)).tocsr(), sig, kind)


def resources_for(usable: Iterable[Collection[str]]) -> ResourceDef:
    """Return what a worker must have to run functions together.

    Parameters
    ----------
    usable
        The backends that each of them can use.

    Raises
    ------
    ValueError
        When one of them needs a CPU worker and another one a CUDA worker.
    """
    each = [frozenset(names) for names in usable]
    needs_cuda = any(names.isdisjoint(CPU_BACKENDS) for names in each)
    needs_cpu = any(names.isdisjoint(CUDA_BACKENDS) for names in each)
    if needs_cuda and needs_cpu:
        msg = (
            "some of the functions can only be computed on a CUDA device, and others only on a CPU: no "
            "worker can run them together, run them apart"
        )
        raise ValueError(msg)
    resources: ResourceDef = {"compute": 1}
    if needs_cpu:
        resources["CPU"] = 1
    if needs_cuda:
        resources["CUDA"] = 1
    if any(CUDA not in names for names in each):
        resources["ndarray"] = 1
    return resources
