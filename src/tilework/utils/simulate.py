"""A simulated 4D-STEM scan in a file, with what is true about it: for the demo, for tests, for trying things out.

The specimen is a film of the soft magnet Fe4N (cubic, 0.3795 nm) seen along [001], in two grains that are turned
against each other, with a curved boundary between them. It is bent and not evenly thick, so the reflections change from
place to place. Its magnetisation forms a vortex, which does not care for the boundary. At every position the pattern is

- discs of the convergence angle at the reciprocal lattice points of the grain (of both grains where the probe sees
  both). Each diffracted disc carries its two-beam rocking curve ``sin^2(pi t s') / (xi s')^2`` with ``s' = sqrt(s^2 + 1
  / xi^2)``, thickness ``t``, extinction distance ``xi`` and the excitation error ``s`` of each of its pixels (Williams
  and Carter, Transmission Electron Microscopy, ch. 13);
- the central disc with what the others leave, kept even, so that its centre of mass is its position and nothing else;
- all of it deflected by the Lorentz force, ``e * lambda * B * t / h`` radians, a fraction of a pixel: the field to be
  measured;
- a diffuse background of thermally scattered electrons, and detector pixels that are dead or count too much;
- a finite dose: every pixel is a Poisson number of electrons, stored as uint16.

It is a model, not a multislice calculation: the strengths of the reflections are plausible rather than right.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilework.utils.devices import available_cpu_count

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

__all__ = ["Grain", "ScanModel", "SimulatedScan", "simulate_scan"]

FloatArray = NDArray[np.float64]

PLANCK = 6.62607015e-34
ELECTRON_CHARGE = 1.602176634e-19
ELECTRON_MASS = 9.1093837015e-31
LIGHT_SPEED = 2.99792458e8


@dataclass(frozen=True, slots=True)
class Grain:
    """One grain of the specimen.

    Parameters
    ----------
    rotation
        Angle of its [100] direction from the x axis in degrees, clockwise in the picture.
    tilt
        By how much (y, x) its zone axis is off the beam, in mrad, before bending is added.
    """

    rotation: float
    tilt: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ScanModel:
    """What is simulated.

    Parameters
    ----------
    scan_shape
        Probe positions (y, x).
    detector_shape
        Detector pixels (y, x).
    scan_step
        Distance of probe positions in nm.
    half_angle
        Scattering angle in mrad at the nearest edge of the detector.
    semi_angle
        Convergence semi-angle in mrad.
    energy
        Of the electrons, in keV.
    lattice
        Lattice constant in nm.
    induction
        Magnetic induction in T.
    thickness
        Mean thickness in nm.
    electrons
        In the beam, per probe position.
    grains
        The two grains, from left to right.
    dead, hot
        How many detector pixels never count, or count too much.
    seed
        Of all random numbers; not negative.

    Raises
    ------
    ValueError
        When the scan or the detector is too small, or the seed is negative.
    """

    scan_shape: tuple[int, int] = (64, 64)
    detector_shape: tuple[int, int] = (128, 128)
    scan_step: float = 5.0
    half_angle: float = 24.0
    semi_angle: float = 2.0
    energy: float = 200.0
    lattice: float = 0.3795
    induction: float = 1.8
    thickness: float = 70.0
    electrons: float = 60_000.0
    grains: tuple[Grain, Grain] = field(default=(Grain(11.0), Grain(38.0, (3.5, 0.0))))
    dead: int = 3
    hot: int = 4
    seed: int = 20

    def __post_init__(self) -> None:
        if min(self.scan_shape) < 2 or min(self.detector_shape) < 16:
            msg = (
                f"cannot simulate a scan of {self.scan_shape} with {self.detector_shape} pixels: "
                "at least 2 x 2 positions and 16 x 16 pixels are needed"
            )
            raise ValueError(msg)
        if self.seed < 0:
            msg = f"the seed of random numbers must not be negative, it is {self.seed}"
            raise ValueError(msg)

    @property
    def wavelength(self) -> float:
        """Relativistic wavelength of the electrons in nm."""
        energy = self.energy * 1e3 * ELECTRON_CHARGE
        momentum_squared = 2 * ELECTRON_MASS * energy * (1 + energy / (2 * ELECTRON_MASS * LIGHT_SPEED**2))
        return PLANCK / math.sqrt(momentum_squared) * 1e9

    @property
    def pixel(self) -> float:
        """Size of a detector pixel in mrad."""
        return 2 * self.half_angle / min(self.detector_shape)

    @property
    def center(self) -> tuple[float, float]:
        """Where the beam hits the detector without specimen, (y, x) in pixels."""
        return (self.detector_shape[0] // 2 + 0.0, self.detector_shape[1] // 2 + 0.0)

    @property
    def disc_radius(self) -> float:
        """Radius of a diffraction disc in pixels."""
        return self.semi_angle / self.pixel

    @property
    def spacing(self) -> float:
        """Distance of neighbouring reciprocal lattice points in pixels."""
        return self.wavelength / self.lattice * 1e3 / self.pixel

    def reflection(self, grain: int, h: int, k: int) -> tuple[float, float]:
        """Return where the reflection (`h` `k` 0) of `grain`, 0 or 1, is, (y, x) in pixels, before the deflection."""
        angle = math.radians(self.grains[grain].rotation)
        y = h * math.sin(angle) + k * math.cos(angle)
        x = h * math.cos(angle) - k * math.sin(angle)
        return (self.center[0] + self.spacing * y, self.center[1] + self.spacing * x)

    @cached_property
    def positions(self) -> tuple[FloatArray, FloatArray]:
        """Coordinates y and x of the probe positions, from -1 to 1 over the scan, each of the shape of the scan."""
        ny, nx = self.scan_shape
        y, x = np.meshgrid(np.linspace(-1, 1, ny), np.linspace(-1, 1, nx), indexing="ij")
        return y, x

    @cached_property
    def right_grain(self) -> FloatArray:
        """Share of the beam in the right grain, 0 to 1, (scan y, scan x); the boundary is about one step wide."""
        y, x = self.positions
        boundary = 0.10 + 0.34 * np.sin(2.1 * y + 0.5) - 0.10 * y
        steps = (x - boundary) * self.scan_shape[1] / 2
        share: FloatArray = 0.5 * (1 + np.tanh(steps / 0.8))
        return share

    @cached_property
    def local_thickness(self) -> FloatArray:
        """Thickness in nm, (scan y, scan x): a wedge with waves."""
        y, x = self.positions
        return self.thickness * (1 + 0.10 * y - 0.06 * x + 0.05 * np.sin(3.1 * x + 1.3 * y) * np.cos(2.3 * y - 0.7))

    @cached_property
    def bending(self) -> FloatArray:
        """Local tilt of the specimen (y, x) in mrad, (scan y, scan x, 2)."""
        y, x = self.positions
        return np.stack([2.2 * y + 0.8 * np.sin(2.5 * x), 1.8 * x - 1.2 * x * y + 0.6 * np.cos(2.8 * y)], axis=-1)

    @cached_property
    def induction_field(self) -> FloatArray:
        """In-plane magnetic induction (y, x) in T, (scan y, scan x, 2): a vortex with its core off the middle."""
        y, x = self.positions
        ny, nx = self.scan_shape
        dy, dx = (y - 0.12) * ny, (x + 0.18) * nx
        distance = np.hypot(dy, dx)
        # In the core, some 20 nm wide, the magnetisation turns out of the plane.
        size = self.induction * np.tanh(distance / 6.0) / np.maximum(distance, 1e-9)
        return np.stack([size * dx, -size * dy], axis=-1)

    @cached_property
    def shift(self) -> FloatArray:
        """Deflection of the pattern (y, x) in detector pixels, (scan y, scan x, 2): what centre of mass must find.

        With the beam along z, away from the source, and y down, x right on the detector, the Lorentz force on an
        electron is ``-e v (z × B) = e v (B_y, -B_x)`` in (x, y).
        """
        per_tesla = ELECTRON_CHARGE * self.wavelength * 1e-9 / PLANCK * self.local_thickness * 1e-9
        b_y, b_x = self.induction_field[..., 0], self.induction_field[..., 1]
        radians: FloatArray = per_tesla[..., np.newaxis] * np.stack([-b_x, b_y], axis=-1)
        return radians * 1e3 / self.pixel

    @cached_property
    def bad_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Dead and hot pixels, each (n, 2) of (y, x); none in the central disc, where it would bend the field."""
        rng = np.random.default_rng([self.seed, 1])
        height, width = self.detector_shape
        y, x = np.mgrid[:height, :width]
        outside = np.hypot(y - self.center[0], x - self.center[1]) > 2 * self.disc_radius + 3
        candidates = np.argwhere(outside & (y % 2 == 1) & (x % 2 == 1))
        chosen = candidates[rng.permutation(len(candidates))[: self.dead + self.hot]]
        return chosen[: self.dead], chosen[self.dead :]

    def axes(self) -> list[dict[str, Any]]:
        """Return name, scale, units and offset of each axis of the data."""
        scan = {"scale": self.scan_step, "units": "nm", "offset": 0.0}
        return [
            {"name": "scan_y", **scan},
            {"name": "scan_x", **scan},
            {"name": "ky", "scale": self.pixel, "units": "mrad", "offset": -self.center[0] * self.pixel},
            {"name": "kx", "scale": self.pixel, "units": "mrad", "offset": -self.center[1] * self.pixel},
        ]

    def describe(self) -> dict[str, Any]:
        """Return all parameters, and what follows from them; can be written as JSON."""
        dead, hot = self.bad_pixels
        return {
            "model": asdict(self),
            "shape": [*self.scan_shape, *self.detector_shape],
            "dtype": "uint16",
            "axes": self.axes(),
            "wavelength_nm": self.wavelength,
            "center": list(self.center),
            "disc_radius": self.disc_radius,
            "spacing": self.spacing,
            "dead_pixels": dead.tolist(),
            "hot_pixels": hot.tolist(),
        }


@dataclass(frozen=True)
class SimulatedScan:
    """A scan that was written to a file.

    Attributes
    ----------
    path
        The data: a .npy file, uint16, (scan y, scan x, detector y, detector x).
    sidecar
        A JSON file with everything that was simulated, and the sizes of pixels.
    model
        What was simulated; ``model.shift`` and ``model.right_grain`` are the truth to compare with.
    """

    path: Path
    sidecar: Path
    model: ScanModel


@dataclass(frozen=True)
class _Beam:
    """One beam of a grain on the detector: a small window that holds its disc wherever the deflection moves it."""

    window: tuple[slice, slice]
    y: FloatArray
    x: FloatArray
    direction: tuple[float, float]
    angle: float
    extinction: float


def simulate_scan(
    path: str | os.PathLike[str],
    model: ScanModel | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **parameters: Any,
) -> SimulatedScan:
    """Simulate a scan, frame by frame, into a .npy file with a JSON file beside it.

    Parameters
    ----------
    path
        File to write; replaced when it exists. The JSON file has the same name with the suffix ``.json``, and is
        replaced with it.
    model
        What is simulated; None: the default.
    progress
        Called with the number of frames that are done, and of all.
    **parameters
        Changes to `model`.

    Returns
    -------
    SimulatedScan

    Raises
    ------
    ValueError
        When the scan or the detector is too small, or the seed is negative.
    OSError
        When a file cannot be written; then both are as they were before.

    Examples
    --------
    >>> scan = simulate_scan("scan.npy", scan_shape=(16, 16), detector_shape=(48, 48), seed=1)
    >>> dataset = ctx.load("npy", path=scan.path)
    >>> dataset.shape, scan.model.shift.shape
    ((16, 16, 48, 48), (16, 16, 2))
    """
    model = replace(model or ScanModel(), **parameters)
    target = Path(path)
    sidecar = target.with_suffix(".json")
    partial, partial_sidecar = (file.with_name(f"{file.name}.part") for file in (target, sidecar))
    shape = (*model.scan_shape, *model.detector_shape)
    header = {"descr": "<u2", "fortran_order": False, "shape": shape}
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for number, row in enumerate(_rows(model), start=1):
                file.write(row.data)
                if progress is not None:
                    progress(number * shape[1], shape[0] * shape[1])
        partial_sidecar.write_text(json.dumps(model.describe(), indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
        partial_sidecar.replace(sidecar)
    except BaseException:
        partial.unlink(missing_ok=True)
        partial_sidecar.unlink(missing_ok=True)
        raise
    return SimulatedScan(target, sidecar, model)


def _rows(model: ScanModel) -> Iterator[NDArray[np.uint16]]:
    """Yield the frames, one row of the scan at a time.

    Rows are independent, each with random numbers of its own, so that the result does not depend on the number of
    threads.
    """
    beams = tuple(_beams(model, grain) for grain in range(2))
    background = _background(model)
    n_rows = model.scan_shape[0]
    workers = min(available_cpu_count(), 8)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, n_rows, 2 * workers):
            # No more than these rows are in memory at a time.
            block = range(start, min(start + 2 * workers, n_rows))
            yield from pool.map(lambda row: _row(model, beams, background, row), block)


def _row(
    model: ScanModel, beams: tuple[tuple[_Beam, ...], ...], background: tuple[FloatArray, FloatArray], row: int
) -> NDArray[np.uint16]:
    shift = model.shift[row]
    share = model.right_grain[row]
    thickness = model.local_thickness[row]
    # What is not scattered diffusely: by the phonons of the crystals, and by the disorder in their boundary.
    elastic = np.exp(-thickness / 180.0 - 0.8 * share * (1 - share))
    expected = np.zeros((model.scan_shape[1], *model.detector_shape))
    for grain, weight in enumerate((1 - share, share)):
        seen = np.flatnonzero(weight > 1e-3)
        if seen.size:
            tilt = model.bending[row, seen] + np.array(model.grains[grain].tilt)
            _add_discs(
                expected, seen, weight[seen] * elastic[seen], beams[grain], model, shift[seen], tilt, thickness[seen]
            )
    diffuse, slope = background
    for x, (dy, dx) in enumerate(shift):
        expected[x] += (1 - elastic[x]) * (diffuse - dy * slope[0] - dx * slope[1])
    expected *= model.electrons
    dead, hot = model.bad_pixels
    expected[:, dead[:, 0], dead[:, 1]] = 0
    expected[:, hot[:, 0], hot[:, 1]] += np.linspace(25, 90, len(hot)) * model.electrons / 60_000
    rng = np.random.default_rng([model.seed, 2, row])
    return np.minimum(rng.poisson(np.maximum(expected, 0)), 65535).astype("<u2")


def _add_discs(
    expected: FloatArray,
    positions: NDArray[np.int64],
    weight: FloatArray,
    beams: tuple[_Beam, ...],
    model: ScanModel,
    shift: FloatArray,
    tilt: FloatArray,
    thickness: FloatArray,
) -> None:
    """Add the discs of one grain to the expected counts of some positions; the first beam is the central one."""
    pixel, radius = model.pixel, model.disc_radius
    area = math.pi * radius**2
    column = (slice(None), np.newaxis, np.newaxis)
    discs, taken = [], np.zeros(len(positions))
    for beam in beams:
        dy = beam.y - shift[:, 0][column]
        dx = beam.x - shift[:, 1][column]
        disc = np.clip(radius + 0.5 - np.hypot(dy, dx), 0, 1) / area
        if beam.angle > 0:
            along = beam.direction[0] * (dy * pixel + tilt[:, 0][column]) + beam.direction[1] * (
                dx * pixel + tilt[:, 1][column]
            )
            excitation = -beam.angle * 1e-3 / model.wavelength * (beam.angle / 2 + along) * 1e-3
            effective = np.sqrt(excitation**2 + beam.extinction**-2)
            disc *= (np.sin(np.pi * thickness[column] * effective) / (beam.extinction * effective)) ** 2
            taken += disc.sum(axis=(1, 2))
        discs.append(disc)
    # Two-beam intensities know nothing of each other: together they must not take more than there is.
    scale = -np.expm1(-taken / 0.8) * 0.8 / np.maximum(taken, 1e-12)
    discs[0] *= (1 - taken * scale)[column]
    for beam, disc in zip(beams, discs, strict=True):
        factor = weight if beam.angle == 0 else weight * scale
        expected[(positions, *beam.window)] += disc * factor[column]


def _beams(model: ScanModel, grain: int) -> tuple[_Beam, ...]:
    """Return the beams of a grain whose discs touch the detector, the central one first."""
    height, width = model.detector_shape
    reach = math.ceil(model.disc_radius + float(np.abs(model.shift).max()) + 2)
    limit = math.ceil(math.hypot(height, width) / model.spacing) + 1
    orders = sorted(
        ((h, k) for h in range(-limit, limit + 1) for k in range(-limit, limit + 1)),
        key=lambda hk: (hk[0] ** 2 + hk[1] ** 2, hk),
    )
    beams = []
    for h, k in orders:
        y, x = model.reflection(grain, h, k)
        top, left = math.floor(y) - reach, math.floor(x) - reach
        rows = slice(max(top, 0), min(top + 2 * reach + 2, height))
        cols = slice(max(left, 0), min(left + 2 * reach + 2, width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            continue
        size = math.hypot(h, k)
        direction = (
            ((y - model.center[0]) / (size * model.spacing), (x - model.center[1]) / (size * model.spacing))
            if size
            else (0, 0)
        )
        beams.append(
            _Beam(
                window=(rows, cols),
                y=(np.arange(rows.start, rows.stop, dtype=np.float64) - y)[:, np.newaxis],
                x=(np.arange(cols.start, cols.stop, dtype=np.float64) - x)[np.newaxis, :],
                direction=direction,
                angle=size * model.spacing * model.pixel,
                extinction=_extinction_distance(h, k),
            )
        )
    return tuple(beams)


def _extinction_distance(h: int, k: int) -> float:
    """Return the extinction distance of (h k 0) in nm, for iron on a face-centred lattice with nitrogen in its middle.

    Structure factor with fFe = 26, fN = 7: 4 fFe + fN for even h and k, else only nitrogen scatters. It is scaled to 35
    nm at small angles, and falls off with the form factor and thermal vibration.
    """
    structure = 4 * 26 + 7 if h % 2 == 0 and k % 2 == 0 else 2.2 * 7
    return 60.0 * (4 * 26 + 7) / structure * math.exp(0.10 * (h * h + k * k))


def _background(model: ScanModel) -> tuple[FloatArray, FloatArray]:
    """Return the diffuse background, normalised to 1 electron, and its slope (2, y, x) per pixel."""
    y, x = np.ogrid[: model.detector_shape[0], : model.detector_shape[1]]
    angle = np.hypot(y - model.center[0], x - model.center[1]) * model.pixel
    diffuse: FloatArray = 0.7 * np.exp(-angle / 9.0) + 0.3 * np.exp(-((angle / 20.0) ** 2))
    diffuse /= diffuse.sum()
    slope_y, slope_x = np.gradient(diffuse)
    return diffuse, np.stack([slope_y, slope_x])
