"""``tilework run`` where files cannot be written, or read: a clear error, and nothing is left half-written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.cli.output import output_folder, write_summary

pytest_plugins = ["command_fixtures"]


def test_existing_output(tilework: Any, scan: Path, tmp_path: Path) -> None:
    """Refused before any work is done; replaced with --overwrite when it is ours; never when it is not."""
    done = tilework("run", scan, "--udf", "sum", "--out", "out", "--no-pictures")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "results in out/"
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
