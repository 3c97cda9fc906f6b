"""Small data made from formulas, for examples and tests: discs, holograms, gradients, random dead pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.utils.lattice import frame_peaks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["cbed_frame", "exclude_pixels", "gradient_data", "hologram_frame"]


def cbed_frame(
    fy: int = 128,
    fx: int = 128,
    zero: ArrayLike | None = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    radius: float = 4,
    all_equal: bool = False,
    margin: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]:
    """Draw the discs of a diffraction pattern on a lattice.

    Parameters
    ----------
    fy, fx
        Size of the frame in pixels.
    zero
        Position (y, x) of the zero order; None: ``(fy // 2, fx // 2)``.
    a, b
        Lattice vectors (y, x) in pixels; None: ``(fy // 8, 0)`` and, at a right angle to it and as long, ``(0, fy //
        8)``.
    indices
        Orders, multiples of `a` and `b`, ``(n, 2)`` or grids ``(2, n, m)`` as from ``numpy.mgrid``, see
        `regularize_indices`; None: from -10 to 10 in both, the first running fastest.
    radius
        Radius of a disc in pixels; its edge falls from 1 to 0 over one pixel.
    all_equal
        True: every disc has intensity 1. False: no two have the same, and the zero order is among the brightest.
    margin
        Discs nearer than this to an edge of the frame are left out; None: `radius`.

    Returns
    -------
    data : float32, (1, fy, fx)
        The frame.
    indices : int, (n, 2)
        Orders that were drawn.
    peaks : (n, 2)
        Their positions (y, x); integers, fit to index the frame with, when `a` and `b`, and `zero` if it is
        given, are integers.

    Raises
    ------
    ValueError
        When `indices` have another shape.

    Examples
    --------
    >>> frame, orders, peaks = cbed_frame(64, 64, a=(0, 15), b=(15, 0), radius=3, all_equal=True)
    >>> frame.shape, len(peaks), frame[0, 32, 47]
    ((1, 64, 64), 9, np.float32(1.0))
    >>> orders[np.argmin(np.hypot(*(peaks - (32, 47)).T))]
    array([1, 0])
    """
    origin = np.asarray((fy // 2, fx // 2) if zero is None else zero)
    first, second = (float(fy // 8), 0) if a is None else a, (0, float(fy // 8)) if b is None else b
    wanted = np.mgrid[-10:11, -10:11] if indices is None else np.asarray(indices, dtype=np.int64)
    orders, peaks = frame_peaks(fy, fx, origin, first, second, radius if margin is None else margin, wanted)
    distances = np.hypot(*(peaks - origin).T)
    brightest = max(len(peaks), distances.max(initial=0))
    frame = np.zeros((1, fy, fx), dtype=np.float32)
    y, x = np.ogrid[:fy, :fx]
    for number, (peak, distance) in enumerate(zip(peaks, distances, strict=True), start=1):
        intensity = 1.0 if all_equal else number + brightest - distance
        disc = np.clip(radius + 0.5 - np.hypot(y - peak[0], x - peak[1]), 0, 1)
        frame[0] += (intensity * disc).astype(np.float32)
    return frame, orders, peaks


def hologram_frame(
    amp: ArrayLike,
    phi: ArrayLike,
    counts: float = 1000.0,
    sampling: float = 5.0,
    visibility: float = 1.0,
    f_angle: float = 30.0,
    gaussian_noise: float | None = None,
    poisson_noise: float | None = None,
    rng: np.random.Generator | int | None = None,
) -> NDArray[np.float64]:
    """Simulate an off-axis electron hologram.

    ``counts / 2 * (1 + A**2 + 2 * A * V * cos(2 * pi / sampling * (y * cos(alpha) + x * sin(alpha)) - phi))``, see
    Lehmann and Lichte, Microscopy and Microanalysis 8 (2002) 447.

    Parameters
    ----------
    amp, phi
        Amplitude A and phase (rad) of the image wave, both (y, x).
    counts
        Mean counts for an amplitude of 1.
    sampling
        Fringe period in pixels.
    visibility
        Contrast V of the fringes, 0 to 1.
    f_angle
        Direction alpha across the fringes in degrees, from y towards x: with 0, they vary along y.
    gaussian_noise
        Standard deviation in pixels of a blur, which stands for the point spread of the detector.
    poisson_noise
        Size of one detected electron as a fraction of `counts`: the larger, the noisier.
    rng
        Random numbers, or a seed for them.

    Returns
    -------
    float64, (y, x)

    Raises
    ------
    ValueError
        When `amp` and `phi` are not two-dimensional and of the same shape, or a noise parameter is not positive.

    Examples
    --------
    >>> hologram = hologram_frame(np.ones((16, 16)), np.zeros((16, 16)), counts=100, sampling=4, f_angle=0)
    >>> hologram[:4, 0].round(6) + 0.0
    array([200., 100.,   0., 100.])
    """
    amplitude, phase = np.asarray(amp, dtype=np.float64), np.asarray(phi, dtype=np.float64)
    if amplitude.shape != phase.shape or amplitude.ndim != 2:
        msg = f"amp and phi must be two-dimensional and of the same shape, got {amplitude.shape} and {phase.shape}"
        raise ValueError(msg)
    for name, value in (("gaussian_noise", gaussian_noise), ("poisson_noise", poisson_noise)):
        if value is not None and not value > 0:
            msg = f"{name} must be positive, got {value!r}: leave it out for none"
            raise ValueError(msg)
    alpha = math.radians(f_angle)
    y, x = np.ogrid[: amplitude.shape[0], : amplitude.shape[1]]
    fringes = np.cos(2 * np.pi / sampling * (y * math.cos(alpha) + x * math.sin(alpha)) - phase)
    frame: NDArray[np.float64] = counts / 2 * (1 + amplitude**2 + 2 * amplitude * visibility * fringes)
    if poisson_noise is not None:
        quantum = poisson_noise * counts
        frame = quantum * np.random.default_rng(rng).poisson(np.maximum(frame, 0) / quantum).astype(np.float64)
    if gaussian_noise is not None:
        from scipy.ndimage import gaussian_filter

        frame = np.asarray(gaussian_filter(frame, gaussian_noise), dtype=np.float64)
    return frame


def gradient_data(nav_dims: tuple[int, ...], sig_dims: tuple[int, ...]) -> NDArray[np.float32]:
    """Make data that rises evenly from 5 to 30, in C order: every pixel has a value of its own.

    Parameters
    ----------
    nav_dims, sig_dims
        Shape of the scan and of the detector.

    Returns
    -------
    float32, (*nav_dims, *sig_dims)

    Examples
    --------
    >>> gradient_data((2, 2), (8, 8)).shape
    (2, 2, 8, 8)
    """
    shape = (*nav_dims, *sig_dims)
    return np.linspace(5, 30, math.prod(shape), dtype=np.float32).reshape(shape)


def exclude_pixels(
    sig_dims: tuple[int, ...], num_excluded: int, rng: np.random.Generator | int | None = None
) -> NDArray[Any] | None:
    """Choose random pixels, no two of them neighbours, so that each can be mended from the pixels around it.

    Parameters
    ----------
    sig_dims
        Shape of the detector.
    num_excluded
        How many; 0 gives None.
    rng
        Random numbers, or a seed for them.

    Returns
    -------
    int, (len(sig_dims), num_excluded), or None
        Coordinates, one pixel per column.

    Raises
    ------
    ValueError
        When so many do not find room.

    Examples
    --------
    >>> exclude_pixels((8, 8), 3, rng=0).shape
    (2, 3)
    """
    if num_excluded == 0:
        return None
    generator = np.random.default_rng(rng)
    free = np.ones(sig_dims, dtype=bool)
    chosen: list[tuple[int, ...]] = []
    for flat in generator.permutation(free.size):
        pixel = tuple(int(i) for i in np.unravel_index(int(flat), sig_dims))
        if free[pixel]:
            chosen.append(pixel)
            free[tuple(slice(max(i - 1, 0), i + 2) for i in pixel)] = False
            if len(chosen) == num_excluded:
                return np.array(chosen).T
    msg = f"{num_excluded} pixels that are not neighbours find no room on a detector of shape {sig_dims}: ask for fewer"
    raise ValueError(msg)
