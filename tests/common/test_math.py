from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from tilework.common.math import count_nonzero, flat_nonzero, make_2D_square, ndenumerate, prod

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS: list[Callable[[np.ndarray[Any, Any]], Any]] = [
    np.asarray,
    sparse.COO.from_numpy,
    sparse.GCXS.from_numpy,
    scipy.sparse.csr_matrix,
    scipy.sparse.coo_array,
    lambda a: sparse.COO.from_numpy(a, fill_value=a.dtype.type(1)),
]
small_arrays = st_np.arrays(
    st.sampled_from([np.dtype(bool), np.dtype("i4"), np.dtype("f8")]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    elements=st.integers(0, 1),
)


def test_prod_is_exact_and_a_python_int() -> None:
    numpy_int: Any = np.int32(7)
    assert prod([10**10, 10**10, numpy_int]) == 7 * 10**20
    assert type(prod(np.array([2, 3], dtype=np.uint8))) is int
    assert prod([]) == 1
    with pytest.raises(ValueError, match="integers"):
        prod([2, 3.0])  # type: ignore[list-item]


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None)  # the sparse library compiles on first use
@given(array=small_arrays)
def test_nonzero_elements_are_the_same_in_every_form(
    form: Callable[[np.ndarray[Any, Any]], Any], array: np.ndarray[Any, Any]
) -> None:
    assert count_nonzero(form(array)) == np.count_nonzero(array)
    assert type(count_nonzero(form(array))) is int
    np.testing.assert_array_equal(flat_nonzero(form(array)), np.flatnonzero(array))


@pytest.mark.parametrize("form", FORMS[1:5])
def test_stored_zeros_and_doubles_are_not_counted(form: Callable[[np.ndarray[Any, Any]], Any]) -> None:
    coo = scipy.sparse.coo_matrix(([1, 2, -2, 0], ([0, 1, 1, 0], [0, 1, 1, 1])), shape=(2, 2))
    assert count_nonzero(coo) == 1
    np.testing.assert_array_equal(flat_nonzero(coo), [0])


@pytest.mark.parametrize("form", FORMS[1:5])
@settings(deadline=None)  # the sparse library compiles on first use
@given(array=small_arrays)
def test_ndenumerate_gives_stored_elements_in_c_order(
    form: Callable[[np.ndarray[Any, Any]], Any], array: np.ndarray[Any, Any]
) -> None:
    found = list(ndenumerate(form(array)))
    assert found == [(i, v) for i, v in np.ndenumerate(array) if v]
    assert {type(n) for i, _ in found for n in i} <= {int}


def test_ndenumerate_gives_all_elements_of_dense_arrays() -> None:
    assert list(ndenumerate(np.array([[0, 1]]))) == [((0, 0), 0), ((0, 1), 1)]


@given(st.integers(1, 10**9))
def test_a_square_number_of_positions_is_a_square_scan(n: int) -> None:
    assert make_2D_square((n * n,)) == (n, n)
    assert make_2D_square((n * n + 1,)) == (n * n + 1,)
    numpy_int: Any = np.int64(n)
    assert {type(i) for i in make_2D_square((numpy_int,))} == {int}


def test_other_scans_stay_as_they_are() -> None:
    assert make_2D_square((16, 4)) == (16, 4)
    assert make_2D_square(()) == ()
    for wrong in ((0,), (-4,), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            make_2D_square(wrong)
