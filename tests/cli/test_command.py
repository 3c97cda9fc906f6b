"""The command line itself: help, version, usage errors, start-up cost."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tilework import __version__

pytest_plugins = ["command_fixtures"]


def test_version_and_help(tilework: Any) -> None:
    """On stdout, exit code 0; as a module, too."""
    assert tilework("--version").stdout.strip() == f"tilework {__version__}"
    for command in ((), ("info",), ("run",), ("demo",), ("warmup",), ("worker",)):
        done = tilework(*command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: tilework")
    module = subprocess.run([sys.executable, "-m", "tilework", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == tilework("--version").stdout


def test_help_imports_nothing_heavy() -> None:
    """Neither NumPy nor anything larger is imported to show help or to refuse wrong usage."""
    program = """
import sys
from tilework.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"numpy", "numba", "scipy", "matplotlib", "tqdm", "h5py", "zarr", "tifffile"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: tilework"),
        (("fly",), "invalid choice"),
        (("run", "x.npy", "--out", "o"), "--udf"),
        (("run", "x.npy", "--udf", "sum"), "--out"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--roi", "circle:1,2,3"), "is not a region"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--roi", "disk:1,2"), "is not a region"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--roi", "0:2:0"), "is not a region"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--nav-shape", "4,0"), "is not a shape"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--center", "4"), "is not a point"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--scan-step", "4"), "is not a length"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--param", "4"), "is not a parameter"),
        (("run", "x.npy", "--param", "a=4", "--udf", "sum", "--out", "o"), "--param belongs to the --udf before it"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--workers", "0"), "not positive"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--executor", "magic"), "invalid choice"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--format", "docx"), "invalid choice"),
    ],
)
def test_wrong_usage(tilework: Any, arguments: tuple[str, ...], message: str) -> None:
    """Exit code 2, an explanation on stderr, nothing on stdout."""
    done = tilework(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
