"""Generated data is what its description says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilework.utils.generate import cbed_frame, exclude_pixels, gradient_data, hologram_frame
from tilework.utils.lattice import frame_peaks


def test_cbed_frame_defaults() -> None:
    """Discs lie on the lattice, none is cut off, all have different intensities, the zero order is in the middle."""
    data, indices, peaks = cbed_frame()
    assert data.shape == (1, 128, 128)
    assert data.dtype == np.float32
    assert len(indices) == len(peaks) == 49
    np.testing.assert_allclose(peaks, np.array([64, 64]) + indices @ np.array([[16, 0], [0, 16]]))
    heights = [data[0, int(y), int(x)] for y, x in peaks]
    assert len(set(heights)) == 49
    zero = next(i for i, hk in enumerate(indices) if not hk.any())
    np.testing.assert_array_equal(peaks[zero], (64, 64))
    assert heights[zero] == max(heights)


def test_cbed_frame_peaks_of_integers_index_the_frame() -> None:
    data, _, peaks = cbed_frame(40, 40, zero=(20, 20), a=(8, 0), b=(1, 9), radius=2, all_equal=True)
    assert (data[0][tuple(peaks.T)] == 1).all()
    assert cbed_frame(40, 40, zero=(20, 20), a=(8, 0), b=(1, 9.0))[2].dtype == np.float64


def test_cbed_frame_brightness() -> None:
    """Discs are the brighter the later they are in the list, and the nearer to the middle; in small frames, too."""
    for side, farthest in ((64, 24 * np.sqrt(2)), (128, 48 * np.sqrt(2))):
        data, _, peaks = cbed_frame(side, side, radius=2)
        heights = [data[0, int(y), int(x)] for y, x in peaks]
        distances = np.hypot(*(peaks - side // 2).T)
        np.testing.assert_allclose(heights, np.arange(1, 50) + max(49, farthest) - distances, rtol=1e-6)


def test_cbed_frame_disc_has_the_area_of_a_disc() -> None:
    """One disc: its area is that of a circle, its centre of mass is its position, also between pixels."""
    for zero in ((20.0, 30.0), (20.3, 29.6)):
        data, indices, peaks = cbed_frame(fy=40, fx=60, zero=zero, indices=[(0, 0)], radius=7, all_equal=True)
        assert indices.tolist() == [[0, 0]]
        np.testing.assert_array_equal(peaks, [zero])
        frame = data[0]
        assert frame.max() == 1
        assert frame.sum() == pytest.approx(np.pi * 7**2, rel=0.01)
        y, x = np.mgrid[:40, :60]
        center = (frame * y).sum() / frame.sum(), (frame * x).sum() / frame.sum()
        assert center == pytest.approx(zero, abs=0.02)


def test_cbed_frame_margin() -> None:
    """The margin decides which discs are left out at the edges."""
    vectors: dict[str, Any] = {"a": (5, 0), "b": (0, 5)}
    _, _, inner = cbed_frame(fy=40, fx=60, **vectors)
    _, _, all_of_them = cbed_frame(fy=40, fx=60, margin=0, **vectors)
    assert inner.min() == 5
    assert inner.max(axis=0).tolist() == [35, 55]
    assert all_of_them.min() == 0


def test_cbed_frame_orders_on_a_grid() -> None:
    """Grids of orders mean the same as for the functions of lattices; what is neither pairs nor grids is refused."""
    grids = np.mgrid[-2:3, -2:3]
    _, orders, peaks = cbed_frame(indices=grids)
    expected, places = frame_peaks(128, 128, (64, 64), (16, 0), (0, 16), 4, grids)
    np.testing.assert_array_equal(orders, expected)
    np.testing.assert_array_equal(peaks, places)
    assert np.unique(orders, axis=0).shape == (25, 2)
    with pytest.raises(ValueError, match="Shape of indices"):
        cbed_frame(indices=[0, 1, 2, 3])


def test_hologram() -> None:
    """Fringes of the given period and direction, shifted by the phase."""
    size = 60
    amp, phi = np.ones((size, size)), np.zeros((size, size))
    frame = hologram_frame(amp, phi, counts=100, sampling=6, f_angle=0)
    assert frame[0, 0] == pytest.approx(200)
    assert frame[3, 0] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(frame, np.broadcast_to(frame[:, :1], frame.shape))
    shifted = hologram_frame(amp, phi + np.pi / 3, counts=100, sampling=6, f_angle=0)
    np.testing.assert_allclose(shifted[1:], frame[:-1], atol=1e-9)
    turned = hologram_frame(amp, phi, counts=100, sampling=6, f_angle=90)
    np.testing.assert_allclose(turned, frame.T, atol=1e-9)
    slanted = hologram_frame(amp, phi, counts=100, sampling=6, f_angle=30)
    # One period along x is twice as long as across the fringes.
    np.testing.assert_allclose(slanted[:, 12:], slanted[:, :-12], atol=1e-9)
    assert slanted[1, 0] == pytest.approx(100 * (1 + np.cos(np.pi / 3 * np.cos(np.pi / 6))))
    weak = hologram_frame(amp, phi, counts=100, sampling=6, f_angle=0, visibility=0.5)
    assert weak.max() - weak.min() == pytest.approx(100)


def test_hologram_noise() -> None:
    """Noise keeps the mean, comes in quanta, and is the same for the same seed; a blur takes contrast away."""
    amp, phi = np.ones((64, 64)), np.zeros((64, 64))
    clean = hologram_frame(amp, phi)
    noisy = hologram_frame(amp, phi, poisson_noise=0.1, rng=3)
    np.testing.assert_array_equal(noisy, hologram_frame(amp, phi, poisson_noise=0.1, rng=3))
    assert noisy.mean() == pytest.approx(clean.mean(), rel=0.03)
    np.testing.assert_allclose(noisy / 100, np.round(noisy / 100), atol=1e-9)
    assert hologram_frame(amp, phi, gaussian_noise=1.0).std() < 0.6 * clean.std()


def test_hologram_bad_input() -> None:
    """Shapes must agree; noise must be positive."""
    with pytest.raises(ValueError, match="of the same shape"):
        hologram_frame(np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="two-dimensional"):
        hologram_frame(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="poisson_noise must be positive"):
        hologram_frame(np.ones((3, 3)), np.ones((3, 3)), poisson_noise=0)


def test_gradient_data() -> None:
    """Values rise evenly from 5 to 30 and are all different."""
    data = gradient_data((2, 3), (4, 5))
    assert data.shape == (2, 3, 4, 5)
    assert data.dtype == np.float32
    assert data.ravel()[[0, -1]].tolist() == [5, 30]
    assert np.all(np.diff(data.ravel()) > 0)


@pytest.mark.parametrize("sig", [(128,), (16, 16), (6, 7, 8)])
def test_excluded_pixels_are_not_neighbours(sig: tuple[int, ...]) -> None:
    """Every excluded pixel has only good pixels around it; the same seed gives the same."""
    pixels = exclude_pixels(sig, 7, rng=1)
    assert pixels is not None
    assert pixels.shape == (len(sig), 7)
    again = exclude_pixels(sig, 7, rng=1)
    assert again is not None
    np.testing.assert_array_equal(pixels, again)
    for i, a in enumerate(pixels.T):
        for b in pixels.T[i + 1 :]:
            assert np.abs(a - b).max() > 1


def test_excluded_pixels_none_and_too_many() -> None:
    """None for none; an error, not an endless search, when there is no room."""
    assert exclude_pixels((8, 8), 0) is None
    with pytest.raises(ValueError, match="find no room"):
        exclude_pixels((2, 2), 2)
