from __future__ import annotations

import pickle
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common import Shape

shapes = st.lists(st.integers(0, 7), max_size=5).flatmap(
    lambda sizes: st.integers(0, len(sizes)).map(lambda sig_dims: Shape(sizes, sig_dims))
)


@given(shapes)
def test_parts_put_together_are_the_whole(shape: Shape) -> None:
    assert shape.nav.to_tuple() + shape.sig.to_tuple() == shape.to_tuple() == tuple(shape)
    assert (shape.nav.dims, shape.sig.dims) == (shape.nav_dims, shape.sig_dims)
    assert shape.dims == len(shape)
    assert shape.nav.size * shape.sig.size == shape.size == prod(shape)
    assert shape.nav.sig_dims == 0
    assert shape.sig.nav_dims == 0
    assert shape.nav.nav == shape.nav
    assert shape.sig.sig == shape.sig
    assert shape.nav.sig == shape.sig.nav == ()


@given(shapes)
def test_flattening_keeps_the_number_of_elements(shape: Shape) -> None:
    assert shape.flatten_nav().size == shape.flatten_sig().size == shape.size
    assert shape.flatten_nav() == (shape.nav.size, *shape.sig)
    assert shape.flatten_nav().nav_dims == 1
    assert shape.flatten_sig() == (*shape.nav, shape.sig.size)
    assert shape.flatten_sig().sig_dims == 1


@given(shapes, st.lists(st.integers(0, 3), max_size=2).map(tuple))
def test_axes_are_added_on_the_side_of_the_tuple(shape: Shape, more: tuple[int, ...]) -> None:
    appended, inserted = shape + more, more + shape
    assert appended == Shape(shape.to_tuple() + more, shape.sig_dims + len(more))
    assert inserted == Shape(shape.nav.to_tuple() + more + shape.sig.to_tuple(), shape.sig_dims)


@given(shapes)
def test_equal_hashable_picklable(shape: Shape) -> None:
    """A used shape (with its parts stored) equals, hashes and pickles like a fresh one, and small."""
    fresh = pickle.dumps(shape)
    assert shape.nav is not None
    assert shape.sig is not None
    assert pickle.dumps(shape) == fresh
    copy = pickle.loads(fresh)
    assert copy == shape
    assert hash(copy) == hash(shape) == hash(shape.to_tuple())
    assert copy.sig_dims == shape.sig_dims


def test_no_numpy_scalars_leak() -> None:
    shape = Shape(np.array([2, 3, 40000, 50000], dtype=np.int32), sig_dims=np.int64(2))  # type: ignore[arg-type]
    numbers = [*shape, shape.size, shape.nav.size, shape.sig.size, shape.dims, shape.sig_dims, shape.nav_dims]
    assert {type(n) for n in numbers} == {int}
    assert shape.size == 2 * 3 * 40000 * 50000


def test_equality_is_with_values_and_signal_axes() -> None:
    assert Shape((2, 3), 1) == (2, 3)
    assert Shape((2, 3), 1) != Shape((2, 3), 2)
    assert Shape((2, 3), 1) != (2, 4)
    other: Any
    for other in ([2, 3], 6, None, "(2, 3)"):
        assert Shape((2, 3), 1) != other


def test_size_of_a_shape_without_axes_is_one_and_with_a_zero_is_zero() -> None:
    assert Shape((), 0).size == 1
    assert Shape((128, 128), 2).nav.size == 1
    assert Shape((4, 0, 128), 1).size == 0


def test_it_can_be_used_like_a_tuple() -> None:
    shape = Shape((3, 4, 5, 6), sig_dims=2)
    assert shape[-1] == 6
    assert shape[1:] == (4, 5, 6)
    assert isinstance(shape[1:], tuple)
    ny, nx, *_ = shape
    assert (ny, nx) == (3, 4)
    assert 5 in shape
    assert repr(shape) == "(3, 4, 5, 6)"
    # Without a complaint of type checkers.
    assert np.zeros(shape.sig).shape == np.arange(30).reshape(shape.sig).shape == (5, 6)
    assert Shape(shape, 1) == Shape((3, 4, 5, 6), 1)


@pytest.mark.parametrize(
    ("sizes", "sig_dims", "error"),
    [((5.0, 6), 2, TypeError), ((-1, 6), 2, ValueError), ((5, 6), 3, ValueError), ((5, 6), -1, ValueError)],
)
def test_wrong_arguments(sizes: Any, sig_dims: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        Shape(sizes, sig_dims)


def test_other_things_cannot_be_added_and_unknown_attributes_are_errors() -> None:
    other: Any = [1]
    with pytest.raises(TypeError):
        Shape((5, 6), 2) + other
    with pytest.raises(TypeError):
        other + Shape((5, 6), 2)
    with pytest.raises(AttributeError, match="navigation"):
        Shape((5, 6), 2).navigation  # type: ignore[attr-defined]  # noqa: B018
