"""``tilework run``: the numbers are right, everything asked for is written, and it is said what that is."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tilework.cli import main
from tilework.io.results import load_results

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["command_fixtures"]


def summary(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return document


def test_all_built_in_functions(tilework: Any, scan: Path, counts: np.ndarray, tmp_path: Path) -> None:
    """One pass with every built-in function; results against NumPy in float64; every file is named in the summary."""
    data = counts.astype(np.float64)
    stack = np.random.default_rng(0).random((3, 16, 12)).astype(np.float32)
    np.save(tmp_path / "stack.npy", stack)
    names = ("sum", "sumsig", "stddev", "com", "disk", "ring", "masks")
    # Pixels lie exactly at both radii: the outer one counts, the inner one does not.
    geometry = ["--center", "7,6", "--radius", "5", "--inner", "3", "--masks", "stack.npy"]
    udfs = [part for name in names for part in ("--udf", name)]
    done = tilework("run", scan, *udfs, *geometry, "--out", "out")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    out = tmp_path / "out"

    y, x = np.mgrid[:16, :12]
    distance = np.hypot(y - 7, x - 6)
    disk, ring = distance <= 5, (distance <= 5) & (distance > 3)
    expected = {
        ("sum", "intensity"): data.sum(axis=(0, 1)),
        ("sumsig", "intensity"): data.sum(axis=(2, 3)),
        ("stddev", "std"): data.std(axis=(0, 1)),
        ("stddev", "mean"): data.mean(axis=(0, 1)),
        ("disk", "intensity"): (data * disk).sum(axis=(2, 3))[..., np.newaxis],
        ("ring", "intensity"): (data * ring).sum(axis=(2, 3))[..., np.newaxis],
        ("masks", "intensity"): np.einsum("abyx,nyx->abn", data, stack),
    }
    for (name, channel), values in expected.items():
        np.testing.assert_allclose(load_results(out / f"{name}.npz")[channel], values, rtol=1e-5)
    total = (data * ring).sum(axis=(2, 3))
    field = load_results(out / "com.npz")["field"]
    np.testing.assert_allclose(field[..., 0], (data * ring * y).sum(axis=(2, 3)) / total - 7, atol=1e-4)
    np.testing.assert_allclose(field[..., 1], (data * ring * x).sum(axis=(2, 3)) / total - 6, atol=1e-4)

    about = summary(out)
    assert [f["label"] for f in about["functions"]] == list(names)
    assert sorted(about["files"]) == sorted(str(p.relative_to(out)) for p in out.rglob("*"))
    assert {"sum.png", "com_field.png", "masks_2.png", "stddev_std.png"} <= set(about["files"])
    for file in about["files"]:
        if file.endswith(".png"):
            with Image.open(out / file) as picture:
                assert min(picture.size) > 100
    provenance = load_results(out / "disk.npz").provenance
    assert provenance["asked"] == {"name": "disk", "center": [7.0, 6.0], "radius": 5.0}
    assert provenance["dataset"]["path"] == str(scan)


@pytest.mark.parametrize("suffix", ["npz", "h5", "zarr", "tif"])
@pytest.mark.parametrize("executor", [["--executor", "inline"], ["--workers", "2"]])
def test_formats_and_executors(
    scan: Path, counts: np.ndarray, tmp_path: Path, suffix: str, executor: list[str]
) -> None:
    """The same numbers from every executor in every format."""
    out = tmp_path / "out"
    arguments = ["run", str(scan), "--udf", "sumsig", "--format", suffix, "--no-pictures", "--quiet", *executor]
    assert main([*arguments, "--out", str(out)]) == 0
    loaded = load_results(out / f"sumsig.{suffix}")
    np.testing.assert_array_equal(loaded["intensity"], counts.sum(axis=(2, 3), dtype=np.float32))
    assert loaded.provenance["udf"] == "SumSigUDF"
    assert not list(out.glob("*.png"))


def test_json_is_one_document_and_nothing_else(tilework: Any, scan: Path, tmp_path: Path) -> None:
    """stdout is what summary.json holds; stderr is empty; without --json and with --quiet, nothing is printed."""
    done = tilework("run", scan, "--udf", "sum", "--out", "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document == summary(tmp_path / "out")
    assert document["functions"][0]["results"]["intensity"]["shape"] == [16, 12]
    assert document["run"]["bytes"] == 6 * 5 * 16 * 12 * 2
    quiet = tilework("run", scan, "--udf", "sum", "--out", "quiet", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


PRINTING = """
import ctypes
import numpy as np
from tilework.udf import UDF


class Prints(UDF):
    def get_result_buffers(self):
        return {"x": self.buffer(kind="nav")}

    def process_frame(self, frame):
        print("from Python")
        ctypes.CDLL(None).printf(b"from C\\n")
"""


@pytest.mark.parametrize("executor", ["inline", "pipelined"])
def test_what_functions_print_is_no_part_of_the_document(tilework: Any, tmp_path: Path, executor: str) -> None:
    """It goes to stderr, wherever they run, and through whatever buffers."""
    (tmp_path / "printing.py").write_text(PRINTING)
    np.save(tmp_path / "small.npy", np.ones((1, 2, 4, 4), np.uint8))
    arguments = ["--udf", "printing:Prints", "--no-pictures", "--out", "out", "--executor", executor]
    done = tilework("run", "small.npy", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == summary(tmp_path / "out")
    assert done.stderr.count("from Python") == 2
    assert executor == "pipelined" or done.stderr.count("from C") == 2
    done = tilework("run", "small.npy", *arguments, "--overwrite")
    assert done.stdout.count("from Python") == 2


def test_progress_goes_to_stderr(tilework: Any, scan: Path) -> None:
    """--progress shows a bar although stderr is no terminal; stdout stays one document."""
    done = tilework("run", scan, "--udf", "sum", "--out", "out", "--json", "--progress", "--no-pictures")
    assert done.returncode == 0
    json.loads(done.stdout)
    assert "30/30" in done.stderr


def test_a_bar_that_cannot_be_written_costs_no_results(command: list[str], scan: Path, tmp_path: Path) -> None:
    """Whoever looked at it is gone, or the disk with the log is full."""
    arguments = ["run", str(scan), "--udf", "sum", "--progress", "--no-pictures"]
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for name, stderr in (("full", full), ("gone", writer)):
        call = [*command, *arguments, "--out", name]
        assert subprocess.run(call, check=False, cwd=tmp_path, stderr=stderr, timeout=100).returncode == 0
        assert (tmp_path / name / "sum.npz").exists()
        os.close(stderr)


def test_standard_output_that_takes_nothing(command: list[str], scan: Path, tmp_path: Path) -> None:
    """That is said to be the fault, and that the results are there."""
    call = [*command, "run", str(scan), "--udf", "sum", "--no-pictures", "--out", "out"]
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(call, check=False, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(full)
    assert done.returncode == 1
    assert "the results are complete in out, but standard output cannot be written: No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "out" / "sum.npz").exists()


def test_standard_output_that_nobody_reads(command: list[str], scan: Path, tmp_path: Path) -> None:
    """Whoever did has seen enough: there is nothing to be said about it."""
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["run", str(scan), "--udf", "sum", "--no-pictures", "--out", "out"], ["info", str(scan)]):
        call = [*command, *arguments]
        done = subprocess.run(
            call, check=False, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100
        )
        assert (done.returncode, done.stderr) == (1, "")
    os.close(writer)
    assert (tmp_path / "out" / "sum.npz").exists()


def test_roi(called: Any, scan: Path, counts: np.ndarray, tmp_path: Path) -> None:
    """Only selected positions are computed; others are marked invalid, and said to be few in the summary."""
    mask = np.zeros((6, 5), bool)
    mask[1:4, 2:] = True
    np.save(tmp_path / "mask.npy", mask)
    for number, roi in enumerate(("1:4,2:", "rect:1,2,3,3", "mask.npy")):
        done = called("run", scan, "--udf", "sumsig", "--udf", "sum", "--roi", roi, "--out", f"out{number}", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["roi"] == {"asked": roi, "selected": 9, "of": 30}
        channel = load_results(tmp_path / f"out{number}" / "sumsig.npz").channels["intensity"]
        assert channel.valid is not None
        np.testing.assert_array_equal(channel.valid, mask)
        np.testing.assert_array_equal(channel.data[mask], counts.sum(axis=(2, 3))[mask])
        total = load_results(tmp_path / f"out{number}" / "sum.npz")["intensity"]
        np.testing.assert_array_equal(total, counts[mask].sum(axis=0))


def test_valid_counts_what_is_a_result(scan: Path, tmp_path: Path) -> None:
    """Numbers at selected positions that are not NaN; a gradient at the rim of a region is."""
    out = tmp_path / "out"
    arguments = [
        "run",
        str(scan),
        "--udf",
        "com",
        "--roi",
        "1:4,2:",
        "--no-pictures",
        "--quiet",
        "--executor",
        "inline",
    ]
    assert main([*arguments, "--out", str(out)]) == 0
    loaded = load_results(out / "com.npz")
    said = summary(out)["functions"][0]["results"]
    for name in ("field", "divergence", "curl", "magnitude"):
        channel = loaded.channels[name]
        assert channel.valid is not None
        numbers = channel.data[channel.valid & ~np.isnan(channel.data)]
        assert said[name]["valid"] == len(numbers)
        assert said[name]["min"] == pytest.approx(numbers.min())
    assert said["magnitude"]["valid"] == 9
    assert said["field"]["valid"] == 18
    assert "valid" not in said["regression"]


def test_scales_from_the_command_line(scan: Path, tmp_path: Path) -> None:
    """Sizes of pixels that the file does not know become axes of the results."""
    out = tmp_path / "out"
    scales = ["--scan-step", "0.5nm", "--detector-pixel", "0.3 mrad"]
    assert main(["run", str(scan), "--udf", "sum", "--udf", "sumsig", *scales, "--out", str(out), "--quiet"]) == 0
    dims = load_results(out / "sumsig.npz").channels["intensity"].dims
    assert [(d.scale, d.units) for d in dims] == [(0.5, "nm"), (0.5, "nm")]
    dims = load_results(out / "sum.npz").channels["intensity"].dims
    assert [(d.scale, d.units) for d in dims] == [(0.3, "mrad"), (0.3, "mrad")]


def test_pictures_of_complex_data(counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an imaginary part, they are those of real data; with one, colours show it, but not of what is real."""
    turned = counts * np.exp(1j * np.arange(12))
    for name, data in (("real", counts.astype("f4")), ("stored", counts.astype("c8")), ("phase", turned.astype("c8"))):
        np.save(tmp_path / f"{name}.npy", data)
        udfs = ["--udf", "sum", "--udf", "com", "--roi", "1:,:"]
        assert main(["run", str(tmp_path / f"{name}.npy"), *udfs, "--out", str(tmp_path / name), "--quiet"]) == 0
    assert capsys.readouterr().err == ""

    def pixels(name: str, picture: str) -> np.ndarray:
        with Image.open(tmp_path / name / picture) as image:
            return np.asarray(image.convert("RGB"), dtype=np.int64)

    for picture in ("sum.png", "com_field.png", "com_magnitude.png", "com_divergence.png", "com_curl.png"):
        stored, real = pixels("stored", picture), pixels("real", picture)
        assert stored.shape == real.shape, picture
        # Sums of complex numbers are rounded differently.
        assert np.abs(stored - real).mean() < 0.5, picture
    # A bar of one colour map is beside the image, where a complex result has its wheel.
    assert pixels("phase", "com_magnitude.png").shape == pixels("real", "com_magnitude.png").shape
    assert pixels("phase", "sum.png").shape != pixels("real", "sum.png").shape
