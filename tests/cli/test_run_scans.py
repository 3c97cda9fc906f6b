"""``tilework run`` on scans of all kinds: any shape, with absent frames, as detectors wrote them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.cli import main
from tilework.io.results import load_results

pytest_plugins = ["command_fixtures"]


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


def test_a_scan_smaller_than_its_file(called: Any, scan: Path, tmp_path: Path) -> None:
    """Frames at the end that are not used are counted, for people and in the summary."""
    done = called("run", scan, "--nav-shape", "5,5", "--udf", "sumsig", "--out", "out", "--no-pictures")
    assert "5 frames at the end of the file are not used: the scan of 5 × 5 has no more positions" in done.stdout
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dataset"]["ignored_frames"] == 5
    done = called("run", scan, "--udf", "sumsig", "--out", "all", "--no-pictures")
    assert "not used" not in done.stdout


@pytest.mark.parametrize("nav", [(1,), (30,), (2, 3, 5), (1, 30)])
def test_scans_of_any_shape(scan: Path, tmp_path: Path, nav: tuple[int, ...]) -> None:
    """Lines, single frames and stacks of scans are written and drawn, too."""
    out = tmp_path / "out"
    shape = ",".join(map(str, nav))
    udfs = ["--udf", "sum", "--udf", "sumsig", "--udf", "disk", "--udf", "stddev"]
    assert main(["run", str(scan), "--nav-shape", shape, *udfs, "--out", str(out), "--quiet"]) == 0
    assert load_results(out / "sumsig.npz")["intensity"].shape == nav
    assert (out / "sum.png").exists()


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
        said = json.loads((out / "summary.json").read_text())
        assert np.dtype(said["dataset"]["raw_dtype"]) == np.dtype(record["dtype"])


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
