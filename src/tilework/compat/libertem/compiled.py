"""What ``libertem.common.numba`` gives to users' functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["cached_njit", "numba_dtypes", "rmatmul"]

numba_dtypes: Final = frozenset(
    np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float32", "float64", "complex64", "complex128"),
    )
)
"""The dtypes that compiled code takes."""


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: ``numba.njit`` kept on disk until the function, or one that it calls, changes.

    Parameters
    ----------
    **options
        Those of ``numba.njit``.
    """
    options.pop("cache", None)  # always
    options = {"nogil": False, "error_model": "python", **options}  # what numba does unless it is told otherwise

    def compiled(function: Callable[..., Any]) -> Any:
        import numba

        from tilework.common.kernels.cache import Called
        from tilework.common.kernels.jit import jit_cached

        digest = Called(function).digest()
        if digest is None:  # it is in no file, as in a notebook
            return numba.njit(**options)(function)
        return jit_cached(function, digest=digest, **options)

    return compiled


def rmatmul(left_dense: NDArray[Any], right_sparse: Any) -> NDArray[Any]:
    """Return the product of a dense and a sparse matrix.

    Parameters
    ----------
    left_dense
        Two-dimensional.
    right_sparse
        SciPy's CSR or CSC.

    Raises
    ------
    ValueError
        When they do not fit, or are something else.
    """
    if left_dense.ndim != 2:
        msg = f"the left matrix must have two dimensions, its shape is {left_dense.shape}"
        raise ValueError(msg)
    if not scipy.sparse.issparse(right_sparse) or right_sparse.format not in {"csr", "csc"}:
        msg = f"the right matrix must be CSR or CSC of SciPy, it is {type(right_sparse).__name__}"
        raise ValueError(msg)
    if left_dense.shape[1] != right_sparse.shape[0]:
        msg = f"shapes {left_dense.shape} and {right_sparse.shape} do not fit together"
        raise ValueError(msg)
    return np.asarray(left_dense @ right_sparse)
