"""Coordinates: there and back, and points of a lattice against plain loops."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

import tilework.utils
from tilework.utils import (
    calc_coords,
    frame_peaks,
    make_cartesian,
    make_polar,
    regularize_indices,
    rotate_deg,
    rotate_rad,
    within_frame,
)


def test_names() -> None:
    assert all(callable(getattr(tilework.utils, name)) for name in tilework.utils.__all__)
    assert dir(tilework.utils) == sorted(tilework.utils.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tilework.utils.nothing  # type: ignore[attr-defined]


def test_devices_are_found_before_numpy_is_loaded() -> None:
    code = "import tilework.utils, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_polar_and_back() -> None:
    points = np.random.default_rng(0).normal(size=(5, 4, 2))
    np.testing.assert_allclose(make_cartesian(make_polar(points)), points, rtol=1e-14)
    np.testing.assert_allclose(make_polar([3.0, 4.0]), [5, math.atan2(3, 4)])


def test_rotations() -> None:
    y, x = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(rotate_deg(y, x, 90), [(0, 1), (-1, 0)], atol=1e-15)
    np.testing.assert_allclose(rotate_rad(*rotate_rad(y, x, 0.7), -0.7), (y, x), atol=1e-15)


def test_points_of_a_lattice() -> None:
    zero, a, b = (8.0, 9.0), (4.0, 0.5), (-0.5, 4.0)
    indices, peaks = frame_peaks(16, 18, zero, a, b, 2, np.mgrid[-3:4, -3:4])
    expected = {}
    for j in range(-3, 4):
        for i in range(-3, 4):
            y, x = zero[0] + i * a[0] + j * b[0], zero[1] + i * a[1] + j * b[1]
            if 2 <= y < 14 and 2 <= x < 16:
                expected[i, j] = y, x
    assert [tuple(i) for i in indices.tolist()] == list(expected)
    np.testing.assert_allclose(peaks, list(expected.values()))
    np.testing.assert_allclose(calc_coords(zero, a, b, [(0, 0), (1, 2)]), [zero, (11, 17.5)])
    assert within_frame([(2, 3), (1, 3), (13, 13), (14, 2)], 2, 16, 16).tolist() == [True, False, True, False]
    # With these a frame is indexed.
    _, pixels = frame_peaks(16, 18, (8, 9), (4, 0), (0, 4), 2, np.mgrid[-1:2, -1:2])
    assert pixels.dtype.kind == "i"
    assert np.ones((16, 18))[pixels[:, 0], pixels[:, 1]].sum() == 9
    with pytest.raises(ValueError, match=r"expected \(n, 2\) or \(2, n, m\)"):
        regularize_indices(np.zeros((3, 5, 6)))


def test_vectors_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"cartesian must hold vectors .* \(\.\.\., 2\), it has the shape \(3, 3\)"):
        make_polar(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"polar must hold vectors .* it has the shape \(\)"):
        make_cartesian(3.0)
    with pytest.raises(ValueError, match=r"indices must be pairs, of shape \(n, 2\), they have the shape \(2, 5, 5\)"):
        calc_coords((8, 8), (4, 0), (0, 4), np.mgrid[-2:3, -2:3])
