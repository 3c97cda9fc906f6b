"""``tilework demo`` and ``tilework warmup``: the whole path works, and finds what was simulated."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilework
from mount_namespace import in_mount_namespace
from tilework.cli.demo import compare
from tilework.io.results import load_results
from tilework.utils.simulate import ScanModel

pytest_plugins = ["command_fixtures"]


SHAPE = "24,24,128,128"


@pytest.fixture(scope="module")
def model() -> ScanModel:
    """What the demo of these tests simulates."""
    return ScanModel(scan_shape=(24, 24), detector_shape=(128, 128))


@pytest.fixture(scope="module")
def made(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the demo writes, and what it prints with --json."""
    place = tmp_path_factory.mktemp("demo")
    call = [*command, "demo", "--out", "demo", "--shape", SHAPE, "--json"]
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return place / "demo", json.loads(done.stdout)


def test_demo(made: tuple[Path, dict[str, Any]], model: ScanModel) -> None:
    """Every picture and array is there; field and grains are found; the summary says how well."""
    folder, document = made
    assert document == json.loads((folder / "summary.json").read_text())
    assert {"overview.png", "scan.npy", "scan.json", "com.npz", "sum.png"} <= set(document["files"])
    agreement = document["agreement"]
    assert agreement["field_angle_median_deg"] < 10
    assert agreement["field_length_ratio"] == pytest.approx(1, abs=0.05)
    assert agreement["grain_correct"] > 0.99
    assert agreement["grain_correlation"] > 0.95
    with Image.open(folder / "overview.png") as overview:
        assert overview.size[0] > 1000
    assert (folder / "overview.png").stat().st_size < 400_000
    field = load_results(folder / "com.npz")
    assert [(d.scale, d.units) for d in field.channels["field"].dims[:2]] == [(5.0, "nm"), (5.0, "nm")]
    assert np.corrcoef(field["field"][..., 0].ravel(), model.shift[..., 0].ravel())[0, 1] > 0.9
    assert np.corrcoef(field["field"][..., 1].ravel(), model.shift[..., 1].ravel())[0, 1] > 0.9
    assert ".part" not in (folder / "summary.json").read_text(), "no path of the folder before it got its name"


def test_demo_again(called: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """Its own folder is replaced when that is asked for; for people it prints some lines."""
    folder, _ = made
    again = called("demo", "--out", folder, "--shape", "8,8,32,32")
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    text = called("demo", "--out", "demo", "--shape", "8,8,32,32", "--executor", "inline")
    assert (text.returncode, text.stderr) == (0, "")
    assert "demo/overview.png" in text.stdout
    assert "°" in text.stdout
    over = called("demo", "--out", "demo", "--shape", "8,8,32,32", "--overwrite", "--quiet")
    assert (over.returncode, over.stdout, over.stderr) == (0, "", "")


def test_demo_bad_arguments(called: Any, tmp_path: Path) -> None:
    """A shape that cannot be simulated is refused, and a seed that random numbers cannot have."""
    for option, value, said in (
        ("--shape", "24,24,64", "give scan and detector"),
        ("--shape", "24,24,4,4", "at least 2 x 2 positions"),
        ("--seed", "-1", "tilework: the seed of random numbers must not be negative, it is -1\n"),
    ):
        done = called("demo", option, value)
        assert done.returncode == 1
        assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo_reports(called: Any, tmp_path: Path) -> None:
    """With ``--report``, it says who did what, and so does the summary."""
    done = called("demo", "--out", "demo", "--shape", "2,2,16,16", "--executor", "inline", "--report")
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs: 2 finished" in done.stdout
    assert json.loads((tmp_path / "demo/summary.json").read_text())["report"]["executor"] == "InlineJobExecutor"


@pytest.mark.parametrize("shape", ["2,2,16,16", "3,3,16,16"])
def test_what_is_too_small_is_not_measured(called: Any, shape: str) -> None:
    """On a detector whose central disc covers no pixel, nothing is said about angles."""
    done = called("demo", "--shape", shape, "--out", "demo", "--executor", "inline")
    assert (done.returncode, done.stderr) == (0, "")
    assert "deflection  not measurable" in done.stdout
    assert ("grains      not measurable" in done.stdout) == (shape == "2,2,16,16")


def test_boundary_shows_in_virtual_images(model: ScanModel, made: tuple[Path, dict[str, Any]]) -> None:
    """Bright field, ring and spot all change across the boundary by more than their noise."""
    folder, _ = made
    share = model.right_grain
    middle = [int(np.argmin(np.abs(row - 0.5))) for row in share]
    for name, page in (("bright_field", 0), ("dark_field_ring", 0), ("dark_field_spots", 1)):
        image = load_results(folder / f"{name}.npz")["intensity"][..., page]
        steps = [abs(image[y, x + 2] - image[y, x - 2]) for y, x in enumerate(middle) if 2 <= x < 22]
        noise = np.sqrt(2 * image.mean())
        assert np.mean(steps) > 3 * noise, name


def test_compare_notices_a_wrong_field(model: ScanModel) -> None:
    """The agreement is not a foregone conclusion: swapped or mirrored axes and swapped grains show."""
    right, left = model.right_grain * 1000 + 50, (1 - model.right_grain) * 1000 + 50
    good = compare({"field": model.shift, "left": left, "right": right}, model)
    assert good["field_angle_rms_deg"] == pytest.approx(0, abs=1e-6)
    assert good["grain_correct"] == 1
    for wrong in (model.shift[..., ::-1], -model.shift, model.shift * [1, -1]):
        assert compare({"field": wrong, "left": left, "right": right}, model)["field_angle_median_deg"] > 30
    assert compare({"field": model.shift, "left": right, "right": left}, model)["grain_correct"] == 0
    some = model.shift.copy()
    some[::2] = 0
    some[1, 0] = np.nan
    assert compare({"field": some, "left": left, "right": right}, model)["field_length_ratio"] == pytest.approx(1)
    nothing = compare({"field": 0 * model.shift, "left": left, "right": 0 * right + left}, model)
    assert {name for name, value in nothing.items() if np.isnan(value)} == {
        "field_angle_median_deg",
        "field_angle_rms_deg",
        "field_length_ratio",
        "grain_correlation",
    }


@pytest.mark.timeout(600)
def test_warmup(tilework: Any) -> None:
    """Compiles on two processes, shows how far it is, and says how long it took; then everything is there."""
    done = tilework("warmup", "--json", "--progress", "--workers", "2", timeout=580)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"uint16", ">u2", "float32"} <= set(document["dtypes"])
    # Of these, the built-in functions are not run: a first run still compiles.
    assert {"int8", ">i2", "complex64"} <= set(document["in_part"])
    assert not set(document["dtypes"]) & set(document["in_part"])
    parts = len(document["dtypes"]) + len(document["in_part"]) + 1  # the last are packed frames
    assert f"{parts}/{parts}" in done.stderr


def test_warmup_where_nothing_can_be_kept(command: list[str]) -> None:
    """With neither an installation nor a home folder that can be written, the minutes would be for nothing."""
    kept = Path(tilework.__file__).parent / "common" / "kernels" / "__pycache__"
    kept.mkdir(exist_ok=True)
    here = f"mount -t tmpfs -o ro none {kept}"
    called = f"env -u NUMBA_CACHE_DIR HOME=/dev/null XDG_CACHE_HOME=/dev/null {shlex.join(command)} warmup"
    done = in_mount_namespace(f"{here} && (timeout 60 {called}; echo ended with $?)")
    assert done.stdout == "ended with 1\n"
    assert f"tilework: later runs compile again, for compiled code cannot be kept in {kept} (Read-only" in done.stderr
    assert "NUMBA_CACHE_DIR can name another" in done.stderr


def test_warmup_of_an_installation_that_was_made_ready(command: list[str]) -> None:
    """As in the image of a container: nothing can be written, and nothing needs to be."""
    source = Path(tilework.__file__).parent
    here = f"mount --bind {source} {source} && mount -o remount,bind,ro {source}"
    called = f"env -u NUMBA_CACHE_DIR HOME=/dev/null XDG_CACHE_HOME=/dev/null {shlex.join(command)} warmup --json"
    said = subprocess.run([*command, "warmup"], check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(
        r"compiled the built-in functions for uint8, uint16, .* in [\d.]+ s\n"
        r"and parts of them for .*int8, >i2, .*: what is missing is compiled when it is used first\n",
        said,
    )
    done = in_mount_namespace(f"{here} && (timeout 60 {called} > /dev/null; echo ended with $?)")
    assert done.stdout == "ended with 0\n", done.stderr
