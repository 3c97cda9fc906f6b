"""Transformations of coordinates: what they do to vectors, and what they consist of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.corrections import CorrectionSet, coordinates, detector
from tilework.corrections.coordinates import flip_x, flip_y, identity, rotate, rotate_deg, scale, scale_rotate_flip_y
from tilework.io.corrections import CorrectionSet as Same


def test_names_that_users_import() -> None:
    assert CorrectionSet is Same
    for module in (coordinates, detector):
        assert all(hasattr(module, name) for name in module.__all__)


def test_what_they_do() -> None:
    """Positive angles turn clockwise, with y pointing down: what points down points left then."""
    np.testing.assert_allclose(rotate_deg(90) @ (1, 0), (0, -1), atol=1e-15)
    np.testing.assert_allclose(rotate(math.pi / 2) @ (0, 1), (1, 0), atol=1e-15)
    np.testing.assert_array_equal(scale(3) @ (1, 2), (3, 6))
    np.testing.assert_array_equal(flip_y() @ (1, 2), (-1, 2))
    np.testing.assert_array_equal(flip_x() @ (1, 2), (1, -2))
    np.testing.assert_array_equal(identity() @ (1, 2), (1, 2))


@given(st.floats(0.01, 100), st.floats(-math.pi, math.pi), st.booleans())
def test_apart_and_together(factor: float, angle: float, flip: bool) -> None:
    matrix = scale(factor) @ rotate(angle) @ (flip_y() if flip else identity())
    found = scale_rotate_flip_y(matrix)
    assert found[2] is flip
    again = scale(found[0]) @ rotate(found[1]) @ (flip_y() if found[2] else identity())
    np.testing.assert_allclose(again, matrix, atol=1e-12 * factor)


def test_what_is_more_than_that_is_refused() -> None:
    for wrong, message in (
        ([[1, 0], [0, 2]], "different"),
        ([[1, 0.6], [0, 0.8]], "shear"),
        (np.zeros((2, 2)), "zero"),
        (np.eye(3), "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            scale_rotate_flip_y(wrong)
