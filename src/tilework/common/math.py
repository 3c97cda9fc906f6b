"""Small exact computations with shapes and arrays."""

from __future__ import annotations

import math
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.sparse import is_scipy_sparse, is_sparse, sparse_to_coo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["count_nonzero", "flat_nonzero", "is_real_scalar", "make_2D_square", "ndenumerate", "prod"]


def is_real_scalar(value: Any) -> bool:
    """Return whether something is one real number: of Python, of NumPy, or an array without axes; a bool is none.

    `tilework.common.numbers.is_real` takes no arrays, and does without NumPy.
    """
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"


def prod(iterable: Iterable[int]) -> int:
    """Return the product of integers as a Python ``int``, which cannot overflow; 1 when there are none.

    Raises
    ------
    ValueError
        When one of them is not an integer (Python or NumPy).
    """
    values = tuple(iterable)
    try:
        return math.prod(map(index, values))
    except TypeError as e:
        msg = f"only integers can be multiplied exactly, got {values}"
        raise ValueError(msg) from e


def count_nonzero(array: Any) -> int:
    """Return how many elements of a dense or sparse array are not zero (or False)."""
    if is_scipy_sparse(array):
        return int(array.tocsr().count_nonzero())  # as CSR it holds no position twice
    if is_sparse(array):
        coo = sparse_to_coo(array)
        stored = int(np.count_nonzero(coo.data))
        return stored + (coo.size - coo.data.size if coo.fill_value else 0)
    return int(np.count_nonzero(array))


def flat_nonzero(array: Any) -> NDArray[np.intp]:
    """Return the flat (C order) indices of all elements of a dense or sparse array that are not zero, ascending."""
    if is_scipy_sparse(array):
        coords, shape = array.tocsr().nonzero(), array.shape
    elif is_sparse(array):
        coo = sparse_to_coo(array)
        if coo.fill_value:
            return np.flatnonzero(coo.todense())
        coords, shape = coo.coords[:, coo.data != 0], coo.shape
    else:
        return np.flatnonzero(array)
    flat: NDArray[np.intp] = np.sort(np.ravel_multi_index(tuple(coords), shape))
    return flat


def make_2D_square(shape: Iterable[int]) -> tuple[int, ...]:  # noqa: N802  (the name that users' programs use)
    """Return ``(n, n)`` for a shape with a single axis of size n², and any other shape as it is.

    Raises
    ------
    ValueError
        When a size is less than 1.

    Examples
    --------
    >>> make_2D_square((4096,)), make_2D_square((4095,)), make_2D_square((32, 128))
    ((64, 64), (4095,), (32, 128))
    """
    sizes = tuple(map(index, shape))
    if any(size < 1 for size in sizes):
        msg = f"every axis of a scan needs a size of at least 1, got {sizes}"
        raise ValueError(msg)
    if len(sizes) == 1:
        root = math.isqrt(sizes[0])
        if root * root == sizes[0]:
            return root, root
    return sizes


def ndenumerate(array: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield index and value of each element of a dense array, or of each stored element of a sparse one, in C order."""
    if is_sparse(array):
        coo = sparse_to_coo(array)
        for position in np.lexsort(coo.coords[::-1]):
            yield tuple(coo.coords[:, position].tolist()), coo.data[position]
    else:
        yield from np.ndenumerate(array)
