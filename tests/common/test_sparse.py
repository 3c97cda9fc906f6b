from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import sparse

from tilework.common.sparse import assert_sparse, is_sparse, sparse_to_coo, to_dense, to_sparse

if TYPE_CHECKING:
    from collections.abc import Callable

DENSE = np.array([[0, 1.5, 0], [0, 0, -2]])
# They are made in the test: sparse compiles functions for that, which not every process that collects tests needs.
SPARSE: dict[str, Callable[[Any], Any]] = {
    "COO": sparse.COO.from_numpy,
    "GCXS": sparse.GCXS.from_numpy,
    "DOK": sparse.DOK.from_numpy,
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_array": scipy.sparse.csc_array,
    "coo_matrix": scipy.sparse.coo_matrix,
}


@pytest.mark.parametrize("form", SPARSE)
def test_every_form_converts(form: str) -> None:
    array = SPARSE[form](DENSE)
    assert type(array).__name__ == form
    assert is_sparse(array)
    assert assert_sparse(array) is array
    np.testing.assert_array_equal(to_dense(array), DENSE)
    assert type(to_dense(array)) is np.ndarray
    for coo in (to_sparse(array), sparse_to_coo(array)):
        assert isinstance(coo, sparse.COO)
        np.testing.assert_array_equal(coo.todense(), DENSE)
    assert sparse_to_coo(array, shape=(3, 2)).shape == (3, 2)
    with pytest.raises(ValueError):
        sparse_to_coo(array, shape=(4, 2))


@pytest.mark.parametrize("array", [DENSE, [1, 2], 5, None, np.matrix(DENSE)])
def test_dense_is_not_sparse(array: Any) -> None:
    assert not is_sparse(array)
    with pytest.raises(TypeError, match="sparse array was expected"):
        assert_sparse(array)


def test_dense_arrays() -> None:
    assert to_dense(DENSE) is DENSE
    np.testing.assert_array_equal(to_dense([1, 2]), [1, 2])
    assert sparse_to_coo(DENSE) is DENSE
    np.testing.assert_array_equal(to_sparse(DENSE).todense(), DENSE)
    np.testing.assert_array_equal(to_sparse(DENSE, shape=(3, 2)).todense(), DENSE.reshape(3, 2))


@pytest.mark.parametrize(
    ("roi", "selected"),
    [
        ((1, 2), [(1, 2)]),
        ((np.int64(1), 2), [(1, 2)]),
        ((-1, 2), [(1, 2)]),
        ([((1, 2), True)], [(1, 2)]),
        ([((1, 2), True), ((0, 0), True)], [(0, 0), (1, 2)]),
        ([((1, 2), 1), ((1, 2), 1)], [(1, 2)]),
        ([((1, 2), False)], [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]),
        ([((1, 2), False), ((0, 0), False)], [(0, 1), (0, 2), (1, 0), (1, 1)]),
        ((((1, 2), True),), [(1, 2)]),
        ([], []),
    ],
)
@pytest.mark.parametrize("convert", [to_sparse, sparse_to_coo])
def test_roi_by_coordinates(roi: Any, selected: list[tuple[int, int]], convert: Any) -> None:
    """Also those that exclude become a right mask (their background is True)."""
    coo = convert(roi, shape=(2, 3))
    assert coo.dtype == bool
    mask = to_dense(coo)
    assert mask.dtype == bool
    assert [tuple(i) for i in np.argwhere(mask).tolist()] == selected


@pytest.mark.parametrize(
    ("roi", "match"),
    [
        ([((1, 1), True), ((0, 2), False)], "does both"),
        ((2, 0), "not within the scan"),
        ((-3, 0), "not within the scan"),
        ((1,), "axes of the scan"),
        ([(1, 1), (0, 2)], "selected"),
        ([((1.5, 1), True)], "selected"),
        ("ab", "selected"),
        (None, "selected"),
    ],
)
def test_wrong_coordinates(roi: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_sparse(roi, shape=(2, 3))
    if isinstance(roi, tuple | list):
        with pytest.raises(ValueError, match=match):
            sparse_to_coo(roi, shape=(2, 3))


def test_coordinates_need_a_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        to_sparse((1, 1))


def test_nothing_is_imported_to_find_out() -> None:
    code = (
        "import sys; from tilework.common.sparse import *; import tilework.common.math;"
        "assert not is_sparse([1]); to_dense([1]); assert not {'scipy', 'sparse', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
