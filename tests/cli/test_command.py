"""The command line itself: help, version, usage errors, start-up cost."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tilework import __version__
from tilework.cli.parser import make_parser, parse

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


def test_values_may_begin_with_a_negative_number() -> None:
    """Regions and points count from the end or lie outside, in a value of its own or after ``=``; files keep theirs."""
    parser = make_parser()
    for roi in ("-3:,2:5", "-1", "-2,:"):
        for center, point in (("-1,-1", (-1.0, -1.0)), ("-.5,3", (-0.5, 3.0))):
            for how in (["--roi", roi, "--center", center], [f"--roi={roi}", f"--center={center}"]):
                args = parse(parser, ["run", "s.npy", "--udf", "com", *how, "--out", "o"])
                assert (args.roi.text, args.center) == (roi, point)
    args = parse(parser, ["info", "--sync-offset", "-5", "--json", "--", "-1.npy"])
    assert (args.sync_offset, args.json, args.file) == (-5, True, "-1.npy")


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
        (
            ("run", "x.npy", "--out", "o", "--udf", "disk", "--radius", "3", "--udf", "ring", "--radius=6"),
            "given twice",
        ),
        (
            ("run", "x.npy", "--out", "o", "--udf", "sum", "--roi", "1:2", "--roi", "3,4"),
            "--roi is given twice: it holds",
        ),
        (("run", "x.npy", "--out", "o", "--udf", "sum", "--dark", "a.npy", "--dark", "b.npy"), "--dark is given twice"),
        *(
            (("run", "x.npy", "--udf", "sum", "--out", "o", option, value, option, value), f"{option} is given twice")
            for option, value in (
                ("--out", "o"),
                ("--type", "auto"),
                ("--nav-shape", "4,4"),
                ("--sig-shape", "4,4"),
                ("--dtype", "u2"),
                ("--sync-offset", "1"),
                ("--format", "h5"),
                ("--scan-step", "1nm"),
                ("--executor", "inline"),
            )
        ),
        (
            ("run", "x.npy", "--out", "o", "--udf", "sum", "--udf", "a:B", "--param", "q=1", "--param", "q=2"),
            "--param q is given twice for --udf a:B: leave one out",
        ),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--nav-shape", "4,0"), "is not a shape"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--center", "4"), "is not a point"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--scan-step", "4"), "is not a length"),
        (("run", "x.npy", "--udf", "ring", "--out", "o", "--radius", "wide"), "is not a radius"),
        (("run", "x.npy", "--udf", "ring", "--out", "o", "--inner", "nan"), "is not a radius"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--param", "4"), "is not a parameter"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--fromat", "h5"), "--fromat h5; did you mean --format?"),
        (("info", "x.npy", "--nav-shpae=4,4"), "info: error: unrecognized arguments: --nav-shpae=4,4; did you mean"),
        (("info", "x.npy", "y.npy", "--zzz"), "info: error: unrecognized arguments: y.npy --zzz\n"),
        (("run", "x.npy", "--param", "a=4", "--udf", "sum", "--out", "o"), "--param belongs to the --udf before it"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--workers", "0"), "not positive"),
        (("run", "x.npy", "--udf", "sum", "--out", "o", "--workers", "x"), "x is not positive: write a number"),
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
    if arguments:
        about = "tilework" if arguments[0] == "fly" else f"tilework {arguments[0]}"
        first, second = done.stderr.splitlines()
        assert first.startswith(f"{about}: error: ")
        assert second == f"'{about} --help' lists all options"


def test_closed_standard_files(command: list[str], scan: Path, tmp_path: Path) -> None:
    """What was started without a stdout or stderr, as by a daemon, does its work all the same."""
    for number, closed in enumerate((">&-", "2>&-", "<&- >&- 2>&-")):
        line = shlex.join([*command, "run", str(scan), "--udf", "sum", "--out", f"out{number}", "--progress"])
        done = subprocess.run(
            ["sh", "-c", f"{line} {closed}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "rror" not in done.stderr
        assert (tmp_path / f"out{number}" / "summary.json").exists()


def test_processes_of_one_with_closed_standard_files_have_them(tmp_path: Path) -> None:
    """Workers, too, would take the next file that they open for stdout or stderr."""
    child = "import os; assert [os.path.samestat(os.fstat(n), os.stat(os.devnull)) for n in range(3)] == [True] * 3"
    program = f"""
import subprocess, sys
from tilework.cli.app import run_command
sys.argv[1:] = ["info", "nothing"]
run_command(None)
sys.exit(subprocess.run([sys.executable, "-c", {child!r}]).returncode)
"""
    line = shlex.join([sys.executable, "-c", program])
    done = subprocess.run(["sh", "-c", f"{line} <&- >&- 2>&-"], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_characters(tilework: Any, scan: Path, tmp_path: Path, encoding: str) -> None:
    """Escapes are printed, and the exit code is that of the work."""
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    odd = os.fsencode(tmp_path) + b"/scan\xff.npy"
    Path(os.fsdecode(odd)).write_bytes(scan.read_bytes())
    run = "run", "--udf", "sum", "--out", "out", "--overwrite"
    for path, arguments in (
        (str(scan), run),
        (str(scan), ("info", "--json")),
        (os.fsdecode(odd), (*run, "--json")),
        (os.fsdecode(odd), ("info",)),
    ):
        command, *options = arguments
        done = tilework(command, path, *options, env=env, encoding=encoding, errors="surrogateescape")
        assert (done.returncode, done.stderr) == (0, "")
        printed = done.stdout.encode(encoding, "surrogateescape")
        assert "--json" in options or os.fsencode(Path(path).name) in printed
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["file"] == os.fsdecode(odd)


def test_ctrl_c_while_modules_are_loaded() -> None:
    """No traceback, and the exit code of Ctrl-C."""
    program = """
import sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "tilework.cli.parser":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from tilework.cli import main
sys.exit(main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
