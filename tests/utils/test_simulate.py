"""The simulated scan is physically what it says: dose, positions of discs, deflection, grains, broken pixels."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tilework.utils.simulate import ScanModel, SimulatedScan, simulate_scan

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ScanModel(scan_shape=(16, 16), detector_shape=(64, 64), electrons=200_000)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> SimulatedScan:
    """A small scan with a high dose."""
    return simulate_scan(tmp_path_factory.mktemp("scan") / "scan.npy", SMALL)


def distance_from(model: ScanModel, center: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[: model.detector_shape[0], : model.detector_shape[1]]
    return np.asarray(np.hypot(y - center[0], x - center[1]))


def test_file_and_sidecar(scan: SimulatedScan) -> None:
    """A .npy file that NumPy opens, uint16, and a JSON file that says what it holds; nothing else."""
    data = np.load(scan.path, mmap_mode="r")
    assert data.shape == (16, 16, 64, 64)
    assert data.dtype == np.uint16
    about = json.loads(scan.sidecar.read_text())
    assert about["shape"] == [16, 16, 64, 64]
    assert [axis["units"] for axis in about["axes"]] == ["nm", "nm", "mrad", "mrad"]
    assert about["axes"][2]["scale"] == pytest.approx(2 * 24 / 64)
    assert sorted(p.name for p in scan.path.parent.iterdir()) == ["scan.json", "scan.npy"]


def test_wavelength() -> None:
    """Relativistic electron wavelengths, against tabulated ones (pm)."""
    for energy, wavelength in ((80, 4.176), (200, 2.508), (300, 1.969)):
        assert ScanModel(energy=energy).wavelength * 1e3 == pytest.approx(wavelength, abs=0.001)


def test_lattice_spacing() -> None:
    """Bragg: the (200) reflection of Fe4N at 200 kV scatters by 13.2 mrad; it is there in the pattern."""
    y, x = SMALL.reflection(0, 2, 0)
    pixels = np.hypot(y - SMALL.center[0], x - SMALL.center[1])
    assert pixels * SMALL.pixel == pytest.approx(2 * SMALL.wavelength / 0.3795 * 1e3)
    assert pixels * SMALL.pixel == pytest.approx(13.2, abs=0.1)


def test_dose(scan: SimulatedScan) -> None:
    """Nearly all electrons of the beam arrive, everywhere, and none more; counts vary as Poisson numbers do."""
    data = np.load(scan.path).astype(np.float64)
    counts = data.sum(axis=(2, 3))
    assert np.all(counts < 1.02 * SMALL.electrons)
    assert np.all(counts > 0.93 * SMALL.electrons)
    y, x = np.mgrid[:64, :64]
    far = (distance_from(SMALL, SMALL.center) > 28) & (y % 2 == 0) & (x % 2 == 0)
    background = data[..., far]
    assert background.var(axis=(0, 1)).mean() == pytest.approx(background.mean(), rel=0.25)


def test_deflection_is_found(scan: SimulatedScan) -> None:
    """The centre of mass of the central disc moves in the direction, and by the length, that was simulated."""
    data = np.load(scan.path).astype(np.float64)
    y, x = np.mgrid[:64, :64]
    near = distance_from(SMALL, SMALL.center) < SMALL.disc_radius * 2
    counts = (data * near).sum(axis=(2, 3))
    found_y = (data * near * (y - SMALL.center[0])).sum(axis=(2, 3)) / counts
    found_x = (data * near * (x - SMALL.center[1])).sum(axis=(2, 3)) / counts
    truth = SMALL.shift
    assert 0.05 < np.abs(truth).max() < 0.5, "a fraction of a pixel"
    np.testing.assert_allclose(found_y, truth[..., 0], atol=0.05)
    np.testing.assert_allclose(found_x, truth[..., 1], atol=0.05)
    # All directions of the vortex are there, so a swapped or mirrored axis cannot pass.
    quadrants = {(bool(a > 0), bool(b > 0)) for a, b in truth.reshape(-1, 2)}
    assert len(quadrants) == 4
    assert np.corrcoef(found_y.ravel(), truth[..., 0].ravel())[0, 1] > 0.98
    assert np.corrcoef(found_x.ravel(), truth[..., 1].ravel())[0, 1] > 0.98


def test_lorentz_force() -> None:
    """Deflection e λ B t / h, at a right angle to the induction: by hand 60.7 µrad for 1 T, 100 nm, 200 kV."""
    model = ScanModel(induction=1.0, thickness=100.0)
    expected = 1.602176634e-19 * model.wavelength * 1e-9 * 1.0 * 100e-9 / 6.62607015e-34
    assert expected == pytest.approx(60.7e-6, rel=2e-3)
    per_thickness = np.hypot(*np.moveaxis(model.shift, -1, 0)) * model.pixel * 1e-3 / model.local_thickness * 100
    assert per_thickness[0, 0] == pytest.approx(expected, rel=1e-3)
    dot = (model.shift * model.induction_field).sum(axis=-1)
    np.testing.assert_allclose(dot, 0, atol=1e-12)
    # An electron flies away from the source along z = x × y; for an induction along -y (up) it goes to -x (left).
    up = np.argmin(model.induction_field[..., 0])
    assert model.shift.reshape(-1, 2)[up, 1] < 0


def test_grains_differ_and_meet_at_the_boundary(scan: SimulatedScan) -> None:
    """A dark-field image of a reflection is bright in its own grain only."""
    data = np.load(scan.path).astype(np.float64)
    left, right = (
        (data * (distance_from(SMALL, SMALL.reflection(grain, -2, 0)) < SMALL.disc_radius)).sum(axis=(2, 3))
        for grain in (0, 1)
    )
    share = SMALL.right_grain
    assert np.all((share >= 0) & (share <= 1))
    pure = np.abs(share - 0.5) > 0.45
    assert pure.mean() > 0.7
    np.testing.assert_array_equal((right > left)[pure], (share > 0.5)[pure])


def test_broken_pixels(scan: SimulatedScan) -> None:
    """Dead pixels never count, hot ones count more than their neighbours, and the sidecar lists them."""
    data = np.load(scan.path).astype(np.float64)
    dead, hot = SMALL.bad_pixels
    assert (len(dead), len(hot)) == (3, 4)
    mean = data.mean(axis=(0, 1))
    assert all(mean[y, x] == 0 for y, x in dead)
    assert (mean == 0).sum() == 3
    for y, x in hot:
        around = mean[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert mean[y, x] > 2 * np.median(around)
    about = json.loads(scan.sidecar.read_text())
    assert about["dead_pixels"] == dead.tolist()
    assert about["hot_pixels"] == hot.tolist()


def test_same_seed_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file depends on the seed, not on the number of threads."""
    model = ScanModel(scan_shape=(5, 4), detector_shape=(32, 32))
    first = simulate_scan(tmp_path / "a.npy", model).path.read_bytes()
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0}, raising=False)
    second = simulate_scan(tmp_path / "b.npy", model).path.read_bytes()
    other = simulate_scan(tmp_path / "c.npy", model, seed=7).path.read_bytes()
    assert first == second
    assert first != other


def test_progress(tmp_path: Path) -> None:
    """Progress counts frames up to all of them."""
    seen: list[tuple[int, int]] = []
    simulate_scan(
        tmp_path / "a.npy", scan_shape=(4, 3), detector_shape=(16, 16), progress=lambda *state: seen.append(state)
    )
    assert seen == [(3, 12), (6, 12), (9, 12), (12, 12)]


@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_leaves_nothing(tmp_path: Path, end: BaseException) -> None:
    """An error in the middle, Ctrl-C included, leaves neither data nor sidecar."""

    def stop(_done: int, _all: int) -> None:
        raise end

    with pytest.raises(type(end)):
        simulate_scan(tmp_path / "a.npy", scan_shape=(4, 3), detector_shape=(16, 16), progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_keeps_what_was_there(tmp_path: Path) -> None:
    """A scan that was to be replaced stays, with the file that says what it is."""
    old = simulate_scan(tmp_path / "a.npy", scan_shape=(4, 3), detector_shape=(16, 16), seed=1)
    before = {path: path.read_bytes() for path in (old.path, old.sidecar)}

    def stop(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_scan(tmp_path / "a.npy", scan_shape=(4, 3), detector_shape=(16, 16), seed=2, progress=stop)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_negative_seed() -> None:
    """It is refused before anything is simulated."""
    with pytest.raises(ValueError, match="seed of random numbers must not be negative, it is -1"):
        ScanModel(seed=-1)


@pytest.mark.parametrize("shape", [((1, 1), (64, 64)), ((8, 8), (8, 64)), ((0, 4), (64, 64))])
def test_too_small(shape: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Shapes that make no sense are refused."""
    with pytest.raises(ValueError, match="at least 2 x 2 positions and 16 x 16 pixels"):
        ScanModel(scan_shape=shape[0], detector_shape=shape[1])


def test_other_shapes(tmp_path: Path) -> None:
    """Scans and detectors that are not square."""
    scan = simulate_scan(tmp_path / "a.npy", scan_shape=(3, 7), detector_shape=(32, 48))
    assert np.load(scan.path).shape == (3, 7, 32, 48)
    assert scan.model.shift.shape == (3, 7, 2)
