"""``tilework info``: what a file is, from the file; clear errors where it is nothing."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


pytest_plugins = ["command_fixtures"]


def test_npy(tilework: Any, scan: Path) -> None:
    """Shape, dtype, how it was detected; for people and as one JSON document."""
    done = tilework("info", scan)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 × 5 positions" in done.stdout
    assert "positions (from the header)" in done.stdout
    assert "16 × 12 pixels" in done.stdout
    assert "uint16" in done.stdout
    assert "npy (found out from the file)" in done.stdout
    about = json.loads(tilework("info", scan, "--json").stdout)
    assert (about["nav_shape"], about["sig_shape"], about["dtype"]) == ([6, 5], [16, 12], "uint16")
    assert about["detected"]["type"] == "npy"
    assert about["bytes"] == 6 * 5 * 16 * 12 * 2
    assert about["absent_frames"] == 0


def test_blo(called: Any, shared_data: Path) -> None:
    """A real NanoMEGAS file, with the scales that it knows."""
    about = json.loads(called("info", shared_data / "blo" / "test1.blo", "--json").stdout)
    assert about["shape"] == [3, 2, 144, 144]
    assert about["detected"]["type"] == "blo"
    assert about["axes"][0]["units"] == "nm"
    assert "12.8 nm" in called("info", shared_data / "blo" / "test1.blo").stdout


def test_raw_needs_to_be_told(called: Any, tmp_path: Path, counts: np.ndarray) -> None:
    """A raw file says nothing about itself: the error lists what to give; with it, it is read."""
    path = tmp_path / "scan.raw"
    counts.astype(">u2").tofile(path)
    told = ["--dtype", ">u2", "--nav-shape", "6,5", "--sig-shape", "16x12"]
    done = called("info", path, *told, "--json")
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    assert (about["shape"], about["raw_dtype"], about["detected"]) == ([6, 5, 16, 12], ">u2", None)
    assert json.loads(called("info", path, "--type", "RAW", *told, "--json").stdout) == about
    done = called("info", path, "--dtype", ">u2", "--nav-shape", "6,5")
    assert done.returncode == 1
    assert "--sig-shape" in done.stderr
    done = called("info", path, *told[2:], "--dtype", "uint17")
    assert done.returncode == 1
    assert "--dtype uint17" in done.stderr
    assert "TypeError" not in done.stderr
    done = called("info", path)
    assert done.returncode == 1
    assert "--type raw --dtype … --nav-shape … --sig-shape …" in done.stderr
    assert "memory" not in done.stderr
    assert "dask" not in done.stderr


@pytest.mark.parametrize("kind", ["memory", "dask"])
def test_a_file_is_no_array(called: Any, scan: Path, kind: str) -> None:
    """Formats that are none of files are refused with those that are."""
    done = called("info", scan, "--type", kind)
    assert done.returncode == 1
    assert f"{kind!r} is no format of files, it takes no path: use one of raw, mib" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_absent_frames_are_reported(called: Any, scan: Path) -> None:
    """A scan larger than the file: the frames that are not there are counted."""
    done = called("info", scan, "--nav-shape", "7,5")
    assert done.returncode == 0, done.stderr
    assert "5 of 35 frames are not in the file" in done.stdout
    assert "7 × 5 positions (as given)" in done.stdout


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY junk"])
def test_what_is_not_a_scan(called: Any, tmp_path: Path, content: bytes) -> None:
    """Empty, unknown and broken files: exit code 1, one line that names the file, nothing on stdout, no traceback."""
    for name in ("x.npy", "x.mib", "x.blo", "x.xyz"):
        path = tmp_path / name
        path.write_bytes(content)
        done = called("info", path, "--json")
        assert done.returncode == 1
        assert done.stdout == ""
        assert name in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_no_file(called: Any, tmp_path: Path) -> None:
    """A path that does not exist."""
    done = called("info", tmp_path / "no.mib")
    assert done.returncode == 1
    assert "no.mib: there is no such file" in done.stderr


def test_debug_shows_the_traceback(tilework: Any, tmp_path: Path) -> None:
    """--debug before or after the command."""
    for arguments in (("--debug", "info", tmp_path / "no.mib"), ("info", tmp_path / "no.mib", "--debug")):
        done = tilework(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_reader_of_the_output_goes_away(command: list[str], scan: Path) -> None:
    """``tilework info … | head`` ends without a traceback."""
    process = subprocess.Popen(
        [*command, "info", str(scan), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert complaints == ""
