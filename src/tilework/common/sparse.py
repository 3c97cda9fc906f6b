"""Conversions between dense and sparse arrays; nothing sparse is imported before it is needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.roi import parse_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.shape import ShapeLike

__all__ = [
    "assert_sparse",
    "is_pydata_sparse",
    "is_scipy_sparse",
    "is_sparse",
    "sparse_to_coo",
    "to_dense",
    "to_sparse",
]


def is_pydata_sparse(a: object) -> bool:
    """Return whether `a` is an array of pydata sparse."""
    # An instance can only exist when its library has been imported, and completely.
    kind = getattr(sys.modules.get("sparse"), "SparseArray", None)
    return kind is not None and isinstance(a, kind)


def is_scipy_sparse(a: object) -> bool:
    """Return whether `a` is a sparse array or matrix of SciPy, or of CuPy's part that follows it."""
    tests = [getattr(sys.modules.get(name), "issparse", None) for name in ("scipy.sparse", "cupyx.scipy.sparse")]
    return any(issparse is not None and issparse(a) for issparse in tests)


def is_sparse(a: object) -> bool:
    """Return whether `a` is a sparse array or matrix of pydata sparse, SciPy or CuPy.

    Examples
    --------
    >>> import scipy.sparse
    >>> is_sparse(scipy.sparse.csr_matrix((2, 3))), is_sparse(np.zeros((2, 3)))
    (True, False)
    """
    return not isinstance(a, np.ndarray) and (is_pydata_sparse(a) or is_scipy_sparse(a))


def assert_sparse(a: Any) -> Any:
    """Return `a` if it is sparse.

    Raises
    ------
    TypeError
        When it is not.
    """
    if not is_sparse(a):
        msg = f"a sparse array was expected, this is a {type(a).__name__}"
        raise TypeError(msg)
    return a


def to_dense(a: Any) -> NDArray[Any]:
    """Return a dense or sparse array, or anything that NumPy can convert, as a NumPy array.

    The background of a sparse array (its fill value) is kept, so this also gives the mask for a ROI that excludes.

    Examples
    --------
    >>> import scipy.sparse
    >>> to_dense(scipy.sparse.csr_matrix([[0, 1], [2, 0]]))
    array([[0, 1],
           [2, 0]])
    """
    if is_pydata_sparse(a):
        return np.asarray(a.todense())
    if is_scipy_sparse(a):
        a = a.toarray()
        return np.asarray(a.get() if hasattr(a, "get") else a)  # CuPy arrays are never converted silently
    return np.asarray(a)


def sparse_to_coo(a: Any, shape: ShapeLike | None = None) -> Any:
    """Return a sparse array, or a description of a ROI by coordinates, as ``sparse.COO``; a dense array as it is.

    Parameters
    ----------
    a
        Array of pydata sparse, SciPy or CuPy, or a dense one; or a tuple or list of coordinates, as of `to_sparse`.
    shape
        Shape of the result when it is another than that of `a`, with the same number of elements; needed for
        coordinates.

    Raises
    ------
    ValueError
        When the number of elements differs, or coordinates are none, as of `to_sparse`.
    """
    if isinstance(a, tuple | list):
        return _from_coordinates(a, shape)
    if is_pydata_sparse(a):
        import sparse

        coo = a if isinstance(a, sparse.COO) else a.asformat("coo")
    elif is_scipy_sparse(a):
        import sparse

        coo = sparse.COO.from_scipy_sparse(a.get() if hasattr(a, "get") else a)
    else:
        coo = a
    if shape is not None and tuple(coo.shape) != tuple(shape):
        coo = coo.reshape(tuple(shape))
    return coo


def to_sparse(a: Any, shape: ShapeLike | None = None) -> Any:
    """Return an array, or a description of a ROI by coordinates, as ``sparse.COO``.

    Parameters
    ----------
    a
        A dense or sparse array, or the coordinates of a ROI: either one coordinate such as ``(y, x)``, which is
        selected, or an iterable of ``(coordinate, selected)`` with the same truth value for all. All other positions
        then have the opposite value: ``[((y, x), False)]`` selects everything but one position.
    shape
        Shape of the result; needed for coordinates.

    Raises
    ------
    ValueError
        When the truth values differ, a coordinate does not lie within `shape`, or `shape` is missing or does not fit.

    Examples
    --------
    >>> one = to_sparse((1, 2), shape=(2, 3))
    >>> one.todense().astype(int)
    array([[0, 0, 0],
           [0, 0, 1]])
    >>> all_but_one = to_sparse([((1, 2), False)], shape=(2, 3))
    >>> to_dense(all_but_one).astype(int)
    array([[1, 1, 1],
           [1, 1, 0]])
    """
    if is_sparse(a):
        return sparse_to_coo(a, shape)
    if isinstance(a, np.ndarray):
        import sparse

        return sparse_to_coo(sparse.COO.from_numpy(a), shape)
    return _from_coordinates(a, shape)


def _from_coordinates(a: Any, shape: ShapeLike | None) -> Any:
    import sparse

    if shape is None:
        msg = f"the shape of the scan is needed to make a ROI from the coordinates {a!r}"
        raise ValueError(msg)
    coordinates, selected = parse_coordinates(a, tuple(shape))
    coords = np.array(sorted(set(coordinates)), dtype=np.int64).reshape(-1, len(shape)).T
    return sparse.COO(coords, data=np.bool_(selected), shape=tuple(shape), fill_value=np.bool_(not selected))
