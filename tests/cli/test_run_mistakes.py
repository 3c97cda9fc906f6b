"""``tilework run`` with what cannot be: a clear error before anything is written."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["command_fixtures"]


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


def _broken(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import numpy as np\n"
        "from tilework.udf import UDF\n"
        "class Fails(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'x': self.buffer(kind='nav')}\n"
        "    def process_frame(self, frame):\n"
        "        raise ZeroDivisionError('my mistake')\n"
        "class BrokenPipe(Fails):\n"
        "    def process_frame(self, frame):\n"
        "        raise BrokenPipeError(32, 'Broken pipe')\n"
        "class FullDisk(Fails):\n"
        "    def process_frame(self, frame):\n"
        "        raise OSError(28, 'No space left on device')\n"
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
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_there\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("average", "there is no UDF 'average': use one of sum, sumsig"),
        ("nowhere:X", "there is no module 'nowhere'"),
        ("broken:Missing", "does not exist; broken has BrokenPipe, Fails, FullDisk, Nothing, Undeclared"),
        ("broken:Other", "is not a UDF"),
        ("broken:Fails", "my mistake"),
        ("broken:BrokenPipe", "tilework: BrokenPipeError: [Errno 32] Broken pipe; in process_frame of BrokenPipe"),
        ("broken:FullDisk", "tilework: OSError: [Errno 28] No space left on device; in process_frame of FullDisk"),
        ("broken:Nothing", "process_frame"),
        ("broken:Undeclared", "declares x"),
        ("syntax:X", "importing syntax failed: SyntaxError"),
        ("exits:X", "importing exits ended the program: put what it does as a program under if __name__"),
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
        (["--udf", "sum", "--param", "nonsense=3"], "--udf sum has no parameter nonsense: there are dtype\n"),
        (["--udf", "logsum", "--param", "dtype=f8"], "--udf logsum has no parameter dtype: it has none\n"),
        (
            ["--udf", "com", "--param", "rotation=3"],
            "--udf com has no parameter rotation: there are cy, cx, r, ri, scan",
        ),
        (["--udf", "com", "--param", "center=3,3"], "--udf com has no parameter center: write --center\n"),
        (["--udf", "fem", "--param", "ri=3"], "--udf fem has no parameter ri: there are center, rad_in, rad_out\n"),
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
        (["--udf", "sum", "--type", "raw", "--dtype", "uint8"], "--nav-shape"),
        (["--udf", "sum", "--dtype", "uint8"], "begins as a file of the format npy does"),
        (["--udf", "sum", "--type", "RAW", "--dtype", "uint8"], "--nav-shape"),
        (["--udf", "sum", "--type", "npy", "--dtype", "uint8"], "--dtype is for raw files"),
        (
            ["--udf", "sum", "--dtype", "uint8", "--nav-shape", "6,5", "--sig-shape", "16,12"],
            "begins as a file of the format npy does, which says itself what its numbers are: leave out --dtype",
        ),
        (["--udf", "sum", "--type", "docx"], "docx"),
        (["--udf", "disk", "--param", "cx=3"], "--udf disk has no parameter cx: write --center\n"),
        (["--udf", "ring", "--param", "ri=3"], "--udf ring has no parameter ri: write --inner\n"),
        (["--udf", "tilework.udf.com:CoMUDF", "--param", "cx=6"], "with_params(cx=…), on the command line --udf com"),
        (["--udf", "sum", "--executor", "inline", "--workers", "3"], "inline has one worker"),
        (["--udf", "sum", "--executor", "threads", "--workers", "100000"], "100000 workers, which is more than this"),
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


def test_the_traceback_of_a_worker_is_not_shown(called: Any, scan: Path, tmp_path: Path) -> None:
    """An error that could not travel says so in one line."""
    (tmp_path / "ends.py").write_text(
        "from tilework.udf import UDF\n\n\nclass Ends(UDF):\n"
        "    def get_result_buffers(self):\n        return {'m': self.buffer(kind='nav', dtype='f4')}\n\n"
        "    def process_frame(self, frame):\n        raise SystemExit(3)\n"
    )
    done = called("run", scan, "--udf", "ends:Ends", "--out", "out", "--executor", "pipelined", "--workers", "1")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "Slow worker startup" not in line)  # on a busy machine
    assert line.startswith(
        "tilework: SystemExit: 3 in process_frame of Ends, partition part-0, frames 0 to 29 of the scan "
    )
    assert "(raised on a worker; it could not be sent as it is: " in line


@pytest.mark.parametrize("option", ["--roi", "--dark", "--masks", "--param"])
@pytest.mark.parametrize(
    ("content", "said"), [("nothing", "is empty (0 bytes)"), ("several", "holds several arrays"), ("text", "is not an")]
)
def test_files_that_hold_no_array(
    called: Any, scan: Path, tmp_path: Path, option: str, content: str, said: str
) -> None:
    """What is called .npy need not be one."""
    path = tmp_path / "array.npy"
    with path.open("wb") as file:
        if content == "several":
            np.savez(file, a=np.ones((16, 12)), b=np.ones((16, 12)))
        elif content == "text":
            file.write(b"\x93NUMPY\x01\x00v\x00" + b"{'shape': (".ljust(118))
    value = f"flip_y=@{path}" if option == "--param" else path
    name = {"--masks": "masks", "--param": "com"}.get(option, "sum")
    done = called("run", scan, "--udf", name, option, value, "--out", "out", "--executor", "inline")
    assert done.returncode == 1
    assert f"{path} {said}" in done.stderr
    assert f"tilework: {option} " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


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


def test_messages_for_people(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A function that does not fit the scan: what tilework says itself is shown as it is."""
    assert main(["run", str(scan), "--nav-shape", "30", "--udf", "com", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "CoMUDF works on scans and detectors with two axes" in said
    assert "nav_shape and sig_shape say what they are when it is loaded, (1, 30) for a line" in said
    assert "Error" not in said


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (np.zeros((0, 16, 12)), "none.npy holds no mask, its shape is (0, 16, 12): give at least one"),
        (np.zeros((2, 16, 12), "U1"), "is of dtype <U1, which are no numbers"),
        (np.zeros((2, 16, 12), "M8[s]"), "is of dtype datetime64[s], which are no numbers"),
    ],
)
def test_masks_that_are_none(called: Any, scan: Path, tmp_path: Path, masks: np.ndarray, said: str) -> None:
    """Refused, instead of results without a number, or errors of NumPy."""
    np.save(tmp_path / "none.npy", masks)
    done = called("run", scan, "--udf", "masks", "--masks", "none.npy", "--out", "out")
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_formats_that_the_command_line_cannot_use(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Are not named: arrays have no path. Formats of the program's own are."""
    assert main(["run", str(scan), "--udf", "sum", "--type", "docx", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "use one of raw, mib, blo, empad, npy, " in said
    assert said.endswith("or auto\n")
    assert "memory" not in said
    assert "dask" not in said


UNSTORABLE = """
from pathlib import Path
from tilework.udf import UDF

class Base(UDF):
    def process_frame(self, frame):
        Path("was_run").touch()

class Name(Base):
    def get_result_buffers(self):
        return {"x/y": self.buffer("nav")}

class Objects(Base):
    def get_result_buffers(self):
        return {"a": self.buffer("nav", dtype=object)}

class Pairs(Base):
    def get_result_buffers(self):
        return {"a": self.buffer("nav", dtype="f4,f4"), "own": self.buffer("nav", dtype=object, use="private")}
"""


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("Name", "npz", "a result cannot be saved under the name 'x/y'"),
        ("Objects", "npz", "out/Objects.npz: 'a' has Python objects"),
        ("Objects", "zarr", "out/Objects.zarr: 'a' has Python objects"),
        ("Pairs", "tif", "out/Pairs.tif: the result 'a' of dtype [('f0', '<f4'), ('f1', '<f4')] is no image"),
    ],
)
def test_results_that_no_file_can_hold(
    called: Any, scan: Path, tmp_path: Path, name: str, form: str, said: str
) -> None:
    """That is said before the run, which may take hours."""
    (tmp_path / "unstorable.py").write_text(UNSTORABLE)
    done = called("run", scan, "--udf", f"unstorable:{name}", "--format", form, "--out", "out")
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "was_run").exists()
    assert not (tmp_path / "out").exists()
    if name == "Pairs":
        done = called("run", scan, "--udf", "unstorable:Pairs", "--no-pictures", "--out", "out")
        assert (done.returncode, (tmp_path / "was_run").exists()) == (0, True), done.stderr
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Pairs.npz", "summary.json"]


def test_pictures_without_matplotlib(tilework: Any, scan: Path, tmp_path: Path) -> None:
    """What to install is said, and that the run goes without; it does, with the same arguments and that one."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib here')")
    command = ("run", scan, "--udf", "sum", "--out", "out")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = tilework(*command, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'tilework[plot]'; or leave the pictures out: --no-pictures" in done.stderr
    assert not (tmp_path / "out").exists()
    done = tilework(*command, "--no-pictures", env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sum.npz", "summary.json"]
