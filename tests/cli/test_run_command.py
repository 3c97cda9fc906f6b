"""``tilework run``: the numbers are right, everything asked for is written, everything wrong is a clear error."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilework.api import Context
from tilework.cli import main
from tilework.cli.output import output_folder, write_summary
from tilework.io.results import load_results

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


def test_progress_goes_to_stderr(tilework: Any, scan: Path) -> None:
    """--progress shows a bar although stderr is no terminal; stdout stays one document."""
    done = tilework("run", scan, "--udf", "sum", "--out", "out", "--json", "--progress", "--no-pictures")
    assert done.returncode == 0
    json.loads(done.stdout)
    assert "30/30" in done.stderr


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


UNWILLING = """
from tilework.udf import SumUDF

class Ring(SumUDF):
    def __init__(self, inner, outer):
        if inner >= outer:
            raise ValueError(f"the inner radius {inner} must be smaller than the outer one, {outer}")
        super().__init__()
"""


def test_a_function_that_refuses_its_parameters(called: Any, scan: Path, tmp_path: Path) -> None:
    """One line that says which function and why; no folder, no traceback."""
    (tmp_path / "unwilling.py").write_text(UNWILLING)
    done = called("run", scan, "--udf", "unwilling:Ring", "--param", "inner=8", "--param", "outer=4", "--out", "out")
    assert (done.returncode, done.stdout) == (1, "")
    wanted = "tilework: --udf unwilling:Ring does not take these parameters: ValueError: the inner radius 8 must be"
    assert done.stderr.startswith(wanted)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


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
    said = summary(tmp_path / "out")["corrections"]
    assert said == {"dark": "dark.npy", "gain": "gain.npy", "excluded": "excluded.npy"}
    np.save(tmp_path / "all.npy", np.ones((16, 12), dtype=bool))
    for option, name, message in (
        ("--dark", "small", "small.npy has shape (15, 12), the detector (16, 12)"),
        ("--gain", "nothing", "nothing.npy: No such file"),
        ("--excluded", "all", "the detector cannot be corrected: no usable neighbour"),
    ):
        wrong = [option, str(tmp_path / f"{name}.npy"), "--out", str(tmp_path / "other")]
        assert main(["run", str(scan), "--udf", "sum", *wrong]) == 1
        assert message in capsys.readouterr().err


def test_scales_from_the_command_line(scan: Path, tmp_path: Path) -> None:
    """Sizes of pixels that the file does not know become axes of the results."""
    out = tmp_path / "out"
    scales = ["--scan-step", "0.5nm", "--detector-pixel", "0.3 mrad"]
    assert main(["run", str(scan), "--udf", "sum", "--udf", "sumsig", *scales, "--out", str(out), "--quiet"]) == 0
    dims = load_results(out / "sumsig.npz").channels["intensity"].dims
    assert [(d.scale, d.units) for d in dims] == [(0.5, "nm"), (0.5, "nm")]
    dims = load_results(out / "sum.npz").channels["intensity"].dims
    assert [(d.scale, d.units) for d in dims] == [(0.3, "mrad"), (0.3, "mrad")]


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
    com, disk = (f["asked"] for f in summary(out)["functions"])
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


def test_own_function(tilework: Any, scan: Path, counts: np.ndarray, tmp_path: Path) -> None:
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
    done = tilework("run", scan, "--udf", "mine:Above", *parameters, "--out", "out", "--workers", "2")
    assert done.returncode == 0, done.stderr
    loaded = load_results(tmp_path / "out" / "Above.npz")
    np.testing.assert_array_equal(loaded["number"], (counts * weight > 20).sum(axis=(2, 3)))
    assert loaded.provenance["asked"] == {"name": "mine:Above", "limit": 20, "weight": "@w.npy"}
    assert (tmp_path / "out" / "Above.png").exists()


def _broken(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import numpy as np\n"
        "from tilework.udf import UDF\n"
        "class Fails(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'x': self.buffer(kind='nav')}\n"
        "    def process_frame(self, frame):\n"
        "        raise ZeroDivisionError('my mistake')\n"
        "class Nothing(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'x': self.buffer(kind='nav')}\n"
        "class Undeclared(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'x': self.buffer(kind='nav')}\n"
        "    def process_frame(self, frame):\n"
        "        pass\n"
        "    def get_results(self):\n"
        "        return {'other': np.zeros(30)}\n"
        "class Other: pass\n"
    )
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_there\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("average", "there is no UDF 'average': use one of sum, sumsig"),
        ("nowhere:X", "there is no module 'nowhere'"),
        ("broken:Missing", "does not exist; broken has Fails, Nothing, Undeclared"),
        ("broken:Other", "is not a UDF"),
        ("broken:Fails", "my mistake"),
        ("broken:Nothing", "process_frame"),
        ("broken:Undeclared", "declares x"),
        ("syntax:X", "importing syntax failed: SyntaxError"),
        ("needs:X", "needs a module that is not installed: a_module_that_is_not_there"),
        ("masks", "needs --masks"),
    ],
)
def test_bad_functions(called: Any, scan: Path, tmp_path: Path, name: str, said: str) -> None:
    """Unknown, broken and impossible functions: exit code 1, one line that says what and where, nothing written."""
    executor = "inline" if name == "broken:Nothing" else "threads"
    _broken(tmp_path)
    before = set(tmp_path.iterdir())
    done = called("run", scan, "--udf", name, "--out", "out", "--executor", executor)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert {p for p in tmp_path.iterdir() if p.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--udf", "sum", "--roi", "disk:50,50,1"], "selects nothing"),
        (["--udf", "sum", "--roi", "0:1,0:1,0:1"], "has 3 axes"),
        (["--udf", "sum", "--roi", "no.npy"], "no.npy: No such file"),
        (["--udf", "sum", "--param", "nonsense=3"], "does not take these parameters"),
        (["--udf", "disk", "--center", "500,500", "--radius", "2"], "selects no pixel"),
        (["--udf", "ring", "--radius", "2", "--inner", "3"], "must be smaller than"),
        (["--udf", "com", "--radius", "2", "--inner", "3"], "--udf com"),
        (["--udf", "com", "--param", "flip_y=maybe"], "flip_y must be True or False, it is 'maybe'"),
        (["--udf", "sum", "--radius", "4"], "--radius has no effect here: it is for disk, ring, com, fem and"),
        (["--udf", "sum", "--udf", "disk", "--inner", "4"], "--inner has no effect here: it is for ring, com and fem"),
        (["--udf", "stddev", "--center", "3,3"], "--center has no effect here: it is for disk"),
        (["--udf", "disk", "--masks", "stack.npy"], "--masks has no effect here: it is for masks"),
        (["--udf", "com", "--radius", "4", "--param", "r=3"], "--radius has no effect here"),
        (
            ["--udf", "crystallinity", "--param", "rad_in=1", "--param", "rad_out=4", "--center", "3,3"],
            "crystallinity with --radius",
        ),
        (["--udf", "disk", "--param", "radius=4"], "--udf disk has no parameter radius: write --radius"),
        (["--udf", "masks", "--param", "foo=4"], "--udf masks has no parameter foo: there are mask_factories"),
        (["--udf", "masks", "--masks", "no.npy"], "no.npy: No such file"),
        (["--udf", "sum", "--sig-shape", "16,13"], "sig_shape"),
        (["--udf", "sum", "--dtype", "uint8"], "--nav-shape"),
        (["--udf", "sum", "--type", "npy", "--dtype", "uint8"], "--dtype is for raw files"),
        (["--udf", "sum", "--type", "docx"], "docx"),
        (["--udf", "sum", "--executor", "inline", "--workers", "3"], "inline has one worker"),
    ],
)
def test_bad_requests(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What does not fit: exit code 1, one line with the remedy, nothing written."""
    assert main(["run", str(scan), *arguments, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("library", "options", "remedy"),
    [
        ("matplotlib", [], "pip install 'tilework[plot]'"),
        ("h5py", ["--format", "h5", "--no-pictures"], "pip install 'tilework[hdf5]'"),
        ("zarr", ["--format", "zarr", "--no-pictures"], "pip install 'tilework[zarr]'"),
    ],
)
def test_missing_library_is_found_out_before_the_run(
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    options: list[str],
    remedy: str,
) -> None:
    """Nobody waits an hour to be told that pictures cannot be drawn."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("tilework.cli.run.execute", lambda *_: pytest.fail("it ran"))
    assert main(["run", str(scan), "--udf", "sum", *options, "--out", str(tmp_path / "out")]) == 1
    assert remedy in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_existing_output(tilework: Any, scan: Path, tmp_path: Path) -> None:
    """Refused before any work is done; replaced with --overwrite when it is ours; never when it is not."""
    assert tilework("run", scan, "--udf", "sum", "--out", "out", "--no-pictures").returncode == 0
    done = tilework("run", scan, "--udf", "sumsig", "--out", "out", "--no-pictures")
    assert done.returncode == 1
    assert "out exists: choose another --out, or --overwrite" in done.stderr
    assert (tmp_path / "out" / "sum.npz").exists()
    assert tilework("run", scan, "--udf", "sumsig", "--out", "out", "--no-pictures", "--overwrite").returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["summary.json", "sumsig.npz"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    done = tilework("run", scan, "--udf", "sum", "--out", "mine", "--overwrite")
    assert done.returncode == 1
    assert "was not written by tilework" in done.stderr
    assert (mine / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("option", ["--masks", "--dark", "--gain", "--excluded", "--roi", "--param"])
def test_a_folder_with_what_is_read_is_not_replaced(called: Any, scan: Path, tmp_path: Path, option: str) -> None:
    """Whatever it is read as, also when it took the place of a file that tilework wrote."""
    with output_folder(tmp_path / "out", overwrite=False) as folder:
        np.save(folder / "mine.npy", np.ones((6, 5), dtype=bool))
        write_summary(folder, {})
    value = "mask=@out/mine.npy" if option == "--param" else "out/mine.npy"
    done = called("run", scan, "--udf", "disk", option, value, "--out", "out", "--overwrite")
    assert done.returncode == 1
    assert "out is not replaced, for it holds out/mine.npy, which is read: choose another --out" in done.stderr
    assert np.load(tmp_path / "out" / "mine.npy").all()


@pytest.fixture
def large_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan whose sum pattern takes 1 MiB."""
    path = tmp_path_factory.mktemp("large") / "large.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (2, 2, 512, 512), dtype=np.uint8))
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")
@pytest.mark.parametrize("suffix", ["npz", "h5", "zarr", "tif"])
def test_full_disk(tilework: Any, large_frames: Path, tmp_path: Path, suffix: str) -> None:
    """No space left: exit code 1, says so, nothing half-written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    try:
        done = tilework("run", large_frames, "--udf", "sum", "--out", disk / "a" / "out", "--format", suffix)
        assert done.returncode == 1, done.stderr
        assert "no space left" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_file_size_limit(tilework: Any, large_frames: Path, tmp_path: Path) -> None:
    """A limit of the size of files, met by the arrays or by a picture: the same."""

    def limit(size: int) -> Any:
        def restrict() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return restrict

    for udf, size in (("sum", 100_000), ("sumsig", 8_000)):
        done = tilework("run", large_frames, "--udf", udf, "--out", "out", preexec_fn=limit(size))
        assert done.returncode == 1, done.stderr
        assert "large" in done.stderr or "space" in done.stderr
        assert list(tmp_path.iterdir()) == []


# Everything is imported, then root, who may do everything, becomes somebody else.
WITHOUT_PERMISSION = """
import os, sys
from tilework.cli import main
readable, secret, good_out, bad_out = sys.argv[1:]
main(["run", readable, "--udf", "sum", "--out", good_out, "--no-pictures", "--quiet"])
main(["info", good_out])
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
print("info", main(["info", secret]))
print("run", main(["run", readable, "--udf", "sum", "--out", bad_out, "--no-pictures"]))
"""


def test_no_permission(scan: Path) -> None:
    """A file that may not be read, and a folder that may not be written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        readable, secret, closed = folder / "scan.npy", folder / "secret.npy", folder / "closed"
        for path, mode in ((readable, 0o644), (secret, 0o000)):
            path.write_bytes(scan.read_bytes())
            path.chmod(mode)
        closed.mkdir(0o500)
        arguments = [readable, secret, folder / "good", closed / "out"]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PERMISSION, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "info 1" in done.stdout
        assert "run 1" in done.stdout
        assert f"{secret} cannot be read, permission is missing" in done.stderr
        assert f"{closed / 'out'} cannot be written, permission is missing in {closed}" in done.stderr
        assert list(closed.iterdir()) == []


def test_a_scan_with_absent_frames(called: Any, scan: Path, counts: np.ndarray, tmp_path: Path) -> None:
    """Positions whose frame is not in the file are invalid, and are said to be so."""
    done = called("run", scan, "--nav-shape", "7,5", "--udf", "sumsig", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "5 frames are not in the file" in done.stdout
    channel = load_results(tmp_path / "out" / "sumsig.npz").channels["intensity"]
    assert channel.valid is not None
    assert channel.valid[:6].all()
    assert not channel.valid[6].any()
    np.testing.assert_array_equal(channel.data[:6], counts.sum(axis=(2, 3)))


@pytest.mark.parametrize("nav", [(1,), (30,), (2, 3, 5), (1, 30)])
def test_scans_of_any_shape(scan: Path, tmp_path: Path, nav: tuple[int, ...]) -> None:
    """Lines, single frames and stacks of scans are written and drawn, too."""
    out = tmp_path / "out"
    shape = ",".join(map(str, nav))
    udfs = ["--udf", "sum", "--udf", "sumsig", "--udf", "disk", "--udf", "stddev"]
    assert main(["run", str(scan), "--nav-shape", shape, *udfs, "--out", str(out), "--quiet"]) == 0
    assert load_results(out / "sumsig.npz")["intensity"].shape == nav
    assert (out / "sum.png").exists()


# -- files of real detectors


def _ground_truth(folder: Path) -> list[dict[str, Any]]:
    records = json.loads((folder / "ground_truth.json").read_text())
    return [r for r in records if r["file"].endswith((".mib", ".blo"))]


def _unpack(folder: Path, record: dict[str, Any], target: Path) -> Path:
    archive, inside, member = str(record["file"]).partition("!/")
    if not inside:
        return folder.joinpath(archive)
    with zipfile.ZipFile(folder / archive) as opened:
        for name in (member, member.removesuffix(".mib") + ".hdr"):
            opened.extract(name, target)
    return target / member


def test_every_detector_file(shared_data: Path, tmp_path: Path) -> None:
    """Sum over everything, of the first and of the last frame, of every MIB and BLO file that detectors wrote."""
    records = _ground_truth(shared_data)
    assert len(records) >= 24
    for number, record in enumerate(records):
        path = _unpack(shared_data, record, tmp_path / str(number))
        nav = record["shape"][:-2] or [1]
        out = tmp_path / f"out{number}"
        arguments = [
            "--udf",
            "sumsig",
            "--udf",
            "sum",
            "--nav-shape",
            ",".join(map(str, nav)),
            "--no-pictures",
            "--quiet",
        ]
        assert main(["run", str(path), *arguments, "--out", str(out)]) == 0, record["file"]
        frames = load_results(out / "sumsig.npz")["intensity"].ravel()
        assert [frames.sum(dtype=np.float64), frames[0], frames[-1]] == [record[k] for k in ("sum", "first", "last")]
        assert load_results(out / "sum.npz")["intensity"].sum(dtype=np.float64) == record["sum"]
        assert np.dtype(summary(out)["dataset"]["raw_dtype"]) == np.dtype(record["dtype"])


@pytest.mark.parametrize("name", ["001_4x2_6bit.hdr", "Quad_9_Frame_CounterDepth_1_Rows_256RAW.mib", "test1.blo"])
def test_detector_files_through_the_shell(tilework: Any, shared_data: Path, tmp_path: Path, name: str) -> None:
    """The installed command on a Merlin scan by its header, a packed quad file, and a NanoMEGAS file: as they are."""
    record = next(r for r in _ground_truth(shared_data) if r["file"].endswith(name.replace(".hdr", ".mib")))
    path = _unpack(shared_data, record, tmp_path / "in").with_suffix(Path(name).suffix)
    nav = ["--nav-shape", "2,4"] if name.endswith(".hdr") else []
    done = tilework("run", path, *nav, "--udf", "sumsig", "--udf", "disk", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["functions"][0]["results"]["intensity"]["sum"] == record["sum"]
    assert np.prod(document["dataset"]["nav_shape"]) == np.prod(record["shape"][:-2])


def test_messages_for_people(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A function that does not fit the scan: what tilework says itself is shown as it is."""
    assert main(["run", str(scan), "--nav-shape", "30", "--udf", "com", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "CoMUDF works on scans and detectors with two axes" in said
    assert "nav_shape and sig_shape say what they are" in said
    assert "Error" not in said
