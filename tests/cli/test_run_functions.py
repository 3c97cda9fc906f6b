"""``tilework run --udf``: built-in functions and own ones, their parameters, and what is corrected before them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.cli import main
from tilework.io.results import load_results

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["command_fixtures"]


def test_functions_of_frames(
    scan: Path, counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fluctuation, crystallinity and the sum of logarithms, with a virtual detector that two of them share."""
    data = counts.astype(np.float64)
    udfs = ["--udf", "logsum", "--udf", "fem", "--udf", "crystallinity", "--param", "rad_in=1", "--param", "rad_out=4"]
    place = ["--center", "7.5,6", "--radius", "5", "--inner", "3"]
    how = ["--out", str(tmp_path / "out"), "--quiet", "--no-pictures"]
    assert main(["run", str(scan), *udfs, *place, *how]) == 0
    distance = np.hypot(*(np.mgrid[:16, :12] - np.array([7.5, 6])[:, np.newaxis, np.newaxis]))
    ring = (distance > 3) & (distance <= 5)
    frequency = np.hypot(np.fft.fftfreq(16, 1 / 16)[:, np.newaxis], np.fft.rfftfreq(12, 1 / 12))
    spectrum = np.abs(np.fft.rfft2(data * (distance > 5)))
    expected = {
        ("logsum", "logsum"): np.log1p(data - data.min(axis=(2, 3), keepdims=True)).sum(axis=(0, 1)),
        ("fem", "intensity"): data[..., ring].std(axis=-1),
        ("crystallinity", "intensity"): spectrum[..., (frequency > 1) & (frequency <= 4)].sum(axis=-1),
    }
    for (name, channel), values in expected.items():
        np.testing.assert_allclose(load_results(tmp_path / "out" / f"{name}.npz")[channel], values, rtol=1e-5)
    for name, said in (("fem", "--inner R and --radius R"), ("crystallinity", "rad_in=A")):
        assert main(["run", str(scan), "--udf", name, "--out", str(tmp_path / "other")]) == 1
        assert said in capsys.readouterr().err


def test_corrections(
    called: Any, scan: Path, counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark frame, gain map and excluded pixels from files; the summary names them."""
    rng = np.random.default_rng(0)
    dark, gain, excluded = rng.random((16, 12)), rng.random((16, 12)) + 0.5, np.zeros((16, 12), dtype=bool)
    excluded[5, 7] = True
    for name, image in (("dark", dark), ("gain", gain), ("excluded", excluded), ("small", dark[1:])):
        np.save(tmp_path / f"{name}.npy", image)
    files = ["--dark", "dark.npy", "--gain", "gain.npy", "--excluded", "excluded.npy"]
    done = called("run", scan, "--udf", "sum", *files, "--out", "out")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    expected = ((counts - dark) * gain).sum(axis=(0, 1))
    around = expected[4:7, 6:9].sum() - expected[5, 7]
    expected[5, 7] = around / 8
    np.testing.assert_allclose(load_results(tmp_path / "out" / "sum.npz")["intensity"], expected, rtol=1e-5)
    said = json.loads((tmp_path / "out" / "summary.json").read_text())["corrections"]
    assert said == {"dark": "dark.npy", "gain": "gain.npy", "excluded": "excluded.npy"}
    np.save(tmp_path / "excluded.npy", excluded.astype(float))
    again = called("run", scan, "--udf", "sum", *files, "--out", "again")
    assert (again.returncode, again.stderr) == (0, ""), again.stderr
    np.testing.assert_allclose(load_results(tmp_path / "again" / "sum.npz")["intensity"], expected, rtol=1e-5)
    np.save(tmp_path / "all.npy", np.ones((16, 12), dtype=bool))
    for option, name, message in (
        ("--dark", "small", "small.npy has shape (15, 12), the detector (16, 12)"),
        ("--gain", "nothing", "nothing.npy: No such file"),
        ("--excluded", "dark", "dark.npy holds float64, and not only 0 and 1: save a bool map"),
        ("--excluded", "all", "the detector cannot be corrected: no usable neighbour"),
    ):
        wrong = [option, str(tmp_path / f"{name}.npy"), "--out", str(tmp_path / "other")]
        assert main(["run", str(scan), "--udf", "sum", *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_dark_frame_without_numbers(called: Any, scan: Path, tmp_path: Path) -> None:
    """It is said why results have no number, and that there is no picture of them; not of pixels that are excluded."""
    dark = np.zeros((16, 12))
    dark[3, 4] = np.nan
    np.save(tmp_path / "dark.npy", dark)
    np.save(tmp_path / "excluded.npy", np.isnan(dark))
    done = called("run", scan, "--udf", "sumsig", "--dark", "dark.npy", "--out", "out")
    assert "dark.npy is NaN at 1 of 192 pixels" in done.stderr
    assert "no number in intensity, so no picture of it" in done.stdout
    done = called("run", scan, "--udf", "sumsig", "--dark", "dark.npy", "--excluded", "excluded.npy", "--out", "all")
    assert done.stderr == ""
    assert "no number" not in done.stdout


def test_parameters_belong_to_their_function(scan: Path, tmp_path: Path) -> None:
    """--param goes to the --udf before it; the same function twice gets two names."""
    out = tmp_path / "out"
    udfs = ["--udf", "com", "--udf", "com", "--param", "scan_rotation=90", "--udf", "com", "--param", "flip_y=True"]
    assert main(["run", str(scan), *udfs, "--out", str(out), "--quiet", "--no-pictures"]) == 0
    plain, turned, flipped = (load_results(out / f"com{n}.npz")["field"] for n in ("", "-2", "-3"))
    np.testing.assert_allclose(np.hypot(*np.moveaxis(turned, -1, 0)), np.hypot(*np.moveaxis(plain, -1, 0)), atol=1e-4)
    assert not np.allclose(turned, plain)
    np.testing.assert_allclose(flipped[..., 0], -plain[..., 0], atol=1e-5)


def test_an_option_is_for_whoever_has_no_parameter_of_its_own(scan: Path, tmp_path: Path) -> None:
    """--radius is for the disk only, where the other function has its own radius."""
    out = tmp_path / "out"
    udfs = ["--udf", "com", "--param", "r=3", "--udf", "disk", "--param", "use_sparse=True", "--radius", "4"]
    assert main(["run", str(scan), *udfs, "--out", str(out), "--quiet", "--no-pictures"]) == 0
    com, disk = (f["asked"] for f in json.loads((out / "summary.json").read_text())["functions"])
    assert (com["r"], disk["radius"], disk["use_sparse"]) == (3, 4, True)


def test_rings_are_those_of_analyses(scan: Path, tmp_path: Path) -> None:
    """The same radii select the same pixels here and in programs."""
    out = tmp_path / "out"
    place = ["--center", "8,6", "--radius", "5", "--inner", "3"]
    assert main(["run", str(scan), "--udf", "ring", *place, "--out", str(out), "--quiet", "--no-pictures"]) == 0
    with Context.make_with("inline") as ctx:
        analysis = ctx.create_ring_analysis(ctx.load("npy", path=scan), cx=6, cy=8, ri=3, ro=5)
        expected = ctx.run(analysis).intensity.raw_data
    np.testing.assert_array_equal(load_results(out / "ring.npz")["intensity"][..., 0], expected)


@pytest.mark.parametrize("executor", ["threads", "pipelined"])
def test_own_function(tilework: Any, scan: Path, counts: np.ndarray, tmp_path: Path, executor: str) -> None:
    """A UDF from a module in the current folder, with a parameter and an array from a file."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from tilework.udf import UDF\n"
        "class Above(UDF):\n"
        "    '''How many pixels of a frame are above a limit.'''\n"
        "    def get_result_buffers(self):\n"
        "        return {'number': self.buffer(kind='nav', dtype=np.int64)}\n"
        "    def process_frame(self, frame):\n"
        "        self.results.number[:] = np.sum(frame * self.params.weight > self.params.limit)\n"
    )
    weight = np.random.default_rng(0).integers(0, 3, (16, 12))
    np.save(tmp_path / "w.npy", weight)
    parameters = ["--param", "limit=20", "--param", "weight=@w.npy"]
    done = tilework(
        "run", scan, "--udf", "mine:Above", *parameters, "--out", "out", "--workers", "2", "--executor", executor
    )
    assert done.returncode == 0, done.stderr
    loaded = load_results(tmp_path / "out" / "Above.npz")
    np.testing.assert_array_equal(loaded["number"], (counts * weight > 20).sum(axis=(2, 3)))
    assert loaded.provenance["asked"] == {"name": "mine:Above", "limit": 20, "weight": "@w.npy"}
    assert (tmp_path / "out" / "Above.png").exists()
