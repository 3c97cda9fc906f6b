"""Programs of LiberTEM run unchanged, in real processes, with real workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

COMMAND = (sys.executable, "-m", "tilework.compat.libertem")

CLASSIC = """\
import sys

import libertem.api as lt
import numpy as np
from libertem.analysis.sum import SumAnalysis
from libertem.executor.inline import InlineJobExecutor
from libertem.masks import circular
from libertem.udf import UDF
from libertem.udf.masks import ApplyMasksUDF
from libertem.udf.sum import SumUDF
from libertem.viz.base import Dummy2DPlot


class MaxUDF(UDF):
    def get_result_buffers(self):
        return {
            "maximum": self.buffer(kind="nav", dtype="float32"),
            "envelope": self.buffer(kind="sig", dtype="float32"),
        }

    def process_frame(self, frame):
        self.results.maximum[:] = np.max(frame)
        self.results.envelope[:] = np.maximum(frame, self.results.envelope)

    def merge(self, dest, src):
        dest.maximum[:] = src.maximum
        dest.envelope[:] = np.maximum(dest.envelope, src.envelope)


if __name__ == "__main__":
    data = np.arange(6 * 5 * 8 * 8, dtype=np.float32).reshape(6, 5, 8, 8) % 1009
    np.save("scan.npy", data)
    with lt.Context(executor=InlineJobExecutor()) as ctx:
        file = {"path": "scan.npy"}
        for filetype, source in ("memory", {"data": data}), ("npy", file), ("auto", file):
            ds = ctx.load(filetype, **source)
            disk = ApplyMasksUDF(mask_factories=[lambda: circular(4, 4, 8, 8, 3), lambda: np.ones((8, 8))])
            masks, own = ctx.run_udf(dataset=ds, udf=[disk, MaxUDF()])
            inside = circular(4, 4, 8, 8, 3)
            assert np.allclose(masks["intensity"].data[..., 0], data[..., inside].sum(axis=-1))
            assert np.allclose(masks["intensity"].data[..., 1], data.sum(axis=(2, 3)))
            assert np.array_equal(own["maximum"].data, data.max(axis=(2, 3)))
            assert np.array_equal(own["envelope"].data, data.max(axis=(0, 1)))
        roi = np.zeros((6, 5), dtype=bool)
        roi[2:4] = True
        for part in ctx.run_udf_iter(dataset=ds, udf=SumUDF(), roi=roi):
            assert part.damage.data.any()
        assert np.allclose(part.buffers[0]["intensity"].data, data[2:4].sum(axis=(0, 1)))
        disk = ctx.run(ctx.create_disk_analysis(ds, cx=4, cy=4, r=3))
        assert np.allclose(disk.intensity.raw_data, masks["intensity"].data[..., 0])
        total = ctx.run(ctx.create_sum_analysis(dataset=ds))
        assert isinstance(ctx.create_sum_analysis(dataset=ds), SumAnalysis)
        assert np.allclose(total.intensity.raw_data, data.sum(axis=(0, 1)))
        watched = SumUDF()
        ctx.run_udf(dataset=ds, udf=watched, plots=[Dummy2DPlot(ds, watched)])
        assert np.array_equal(ctx.map(dataset=ds, f=np.max).data, data.max(axis=(2, 3)))
    print("right", sys.argv[1:])
"""

# A module that workers import: its classes are pickled by name.
BRIGHT = """\
import os
import sys

import libertem.api as lt
import numpy as np
from libertem.udf import UDF
from libertem.viz.base import Live2DPlot
from libertem.warnings import UseDiscouragedWarning

if "tilework" not in lt.__name__:
    raise RuntimeError(lt.__file__)


class Bright(UDF):
    def get_result_buffers(self):
        return {
            "maximum": self.buffer(kind="nav", dtype="float32"),
            "process": self.buffer(kind="nav", dtype="int64"),
        }

    def process_frame(self, frame):
        self.results.maximum[:] = np.max(frame)
        self.results.process[:] = os.getpid()


def is_installed(number):
    return "libertem.api" in sys.modules and lt.__name__ == "tilework.api" and number
"""

WITH_MODULE = """\
import os
import sys

import numpy as np
from bright import Bright, is_installed

import libertem.api as lt
from libertem.executor.concurrent import ConcurrentJobExecutor


def contexts(name):
    if name == "loky":
        import loky

        return lt.Context(executor=ConcurrentJobExecutor(loky.get_reusable_executor(2)))
    if name == "pool":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
        assert list(pool.map(is_installed, (1, 2))) == [1, 2]  # our code is in none of these workers before
        return lt.Context(executor=ConcurrentJobExecutor(pool))
    if name == "inline":
        return lt.Context.make_with(name)
    return lt.Context.make_with(name, cpus=2)


if __name__ == "__main__":
    name = sys.argv[1]
    data = np.arange(6 * 5 * 8 * 8, dtype=np.float32).reshape(6, 5, 8, 8) % 1009
    with contexts(name) as ctx:
        ds = ctx.load("memory", data=data, sig_dims=2, num_partitions=4)
        found = ctx.run_udf(dataset=ds, udf=Bright())
        assert np.array_equal(found["maximum"].data, data.max(axis=(2, 3)))
        is_here = set(found["process"].data.ravel().tolist()) == {os.getpid()}
        assert is_here == (name in {"inline", "threads"}), name
        assert ctx.executor.run_function(is_installed, 7) == 7
    print("right")
"""


def run(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def put_libertem(folder: Path) -> None:
    """An installed LiberTEM, as far as anybody could notice that it is imported."""
    (folder / "libertem").mkdir(parents=True)
    (folder / "libertem" / "__init__.py").write_text("raise RuntimeError('LiberTEM was imported')\n")


def test_classic_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CLASSIC)
    done = run(tmp_path, "program.py", "--first", "second")
    assert (done.returncode, done.stdout, done.stderr) == (0, "right ['--first', 'second']\n", "")


def test_classic_program_is_one_of_libertem(tmp_path: Path, peer_python: str) -> None:
    (tmp_path / "program.py").write_text(CLASSIC)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [peer_python, "-W", "ignore", "program.py", "a"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "right ['a']\n"), done.stderr


@pytest.mark.parametrize("executor", ["inline", "threads", "pipelined", "dask", "loky", "pool"])
def test_modules_that_workers_import(tmp_path: Path, executor: str) -> None:
    """A LiberTEM that is installed is found neither here nor there."""
    put_libertem(tmp_path / "installed")
    program = tmp_path / "program"
    program.mkdir()
    (program / "bright.py").write_text(BRIGHT)
    (program / "main.py").write_text(WITH_MODULE)
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(tmp_path / "installed")) if p)
    done = run(tmp_path, "program/main.py", executor, environ={"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_with_libertem_installed(tmp_path: Path, peer_python: str) -> None:
    """Nothing of it is imported, where it really is there."""
    found = subprocess.run(
        [peer_python, "-c", "import importlib.util as u; print(*u.find_spec('libertem').submodule_search_locations)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    site = Path(found.stdout.strip()).parent
    (tmp_path / "bright.py").write_text(BRIGHT)
    (tmp_path / "main.py").write_text(
        WITH_MODULE + f"    roots = {str(site / 'libertem')!r}, {str(tmp_path / 'site')!r}\n"
        "    of_peer = [n for n, m in sys.modules.items() if str(getattr(m, '__file__', '')).startswith(roots)]\n"
        "    assert of_peer == [], of_peer\n"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "libertem").symlink_to(site / "libertem")
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(tmp_path / "site")) if p)
    for executor in ("inline", "pipelined"):
        done = run(tmp_path, "main.py", executor, environ={"PYTHONPATH": path})
        assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_module_and_code(tmp_path: Path) -> None:
    """As Python does it: name, arguments, exit code."""
    (tmp_path / "tool.py").write_text(
        "import sys\nimport libertem\nprint(__name__, libertem.__version__, sys.argv[1:])\nsys.exit(3)\n"
    )
    done = run(tmp_path, "-m", "tool", "-x")
    assert (done.returncode, done.stdout, done.stderr) == (3, "__main__ 0.16.0 ['-x']\n", "")
    done = run(tmp_path, "-c", "import sys, tool", "y")
    assert (done.returncode, done.stdout, done.stderr) == (3, "tool 0.16.0 ['y']\n", "")
    done = run(tmp_path, "-", "z", stdin="# \N{GREEK SMALL LETTER MU}m\nprint(__name__)\nimport sys, tool\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "__main__\ntool 0.16.0 ['z']\n", "")


def test_main_module_is_that_of_the_program(tmp_path: Path) -> None:
    """Also at exit, and its folder is the first on the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "p.py").write_text(
        dedent("""\
        import atexit, sys
        from pathlib import Path

        value = 5
        assert Path(__file__).is_absolute() and __spec__ is None and sys.argv == ["programs/p.py"], sys.argv
        assert Path(sys.path[0]) == Path(__file__).parent
        atexit.register(lambda: print(sys.modules["__main__"].value))
        def annotated(x: int): pass
        assert annotated.__annotations__ == {"x": int}
        raise ValueError("the program's own")
        """)
    )
    done = run(tmp_path, "programs/p.py")
    assert (done.returncode, done.stdout) == (1, "5\n")
    assert done.stderr.endswith("ValueError: the program's own\n")
    assert 'programs/p.py", line 10' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "usage:"),
        (("--help",), 0, "usage:"),
        (("-m",), 1, "-m needs an argument"),
        (("--fast", "p.py"), 1, "there is no option --fast"),
        (("nothing.py",), 1, "cannot read nothing.py: No such file"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
