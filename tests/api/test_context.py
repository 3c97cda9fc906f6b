"""The context: how it is made and closed, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import ExecutorError, ExecutorSpecException
from tilework.executor.inline import InlineJobExecutor

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "numba",
    "scipy",
    "sparse",
    "sparseconverter",
    "matplotlib",
    "h5py",
    "zarr",
    "dask",
    "tqdm",
    "asyncio",
    "psutil",
}

NOT_AT_ONCE = {
    "html",
    "numpy.ma",
    "numpy.random",
    "numpy.typing",
    "shutil",
    "tempfile",
    "tilework.api.plots",
    "tilework.viz",
}
"""What only some programs need, and what each costs some thousandths of a second."""


def run_python(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)


def test_importing_the_api_imports_nothing_heavy() -> None:
    """Not even NumPy: processes for workers can be started before, and load it at the same time as this one."""
    done = run_python("import sys, tilework.api; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    of_runs = {"numpy", "tilework.udf", "tilework.io", "tilework.executor", "tilework.api.requests"}
    assert not (HEAVY | NOT_AT_ONCE | of_runs) & set(done.stdout.split())


@pytest.mark.parametrize("executor", ["'inline'", "'threads', cpus=2", "'pipelined', cpus=2"])
def test_a_first_small_result_needs_no_compiler_and_no_scipy(executor: str, tmp_path: Path) -> None:
    """Nor what only some programs need: all of a program's start is the time until then."""
    np.save(tmp_path / "data.npy", np.ones((4, 4, 8, 8), "u2"))
    done = run_python(
        "import sys\n"
        "from tilework.api import Context\n"
        "from tilework.udf import SumUDF\n"
        f"ctx = Context.make_with({executor})\n"
        f"ds = ctx.load('npy', path={str(tmp_path / 'data.npy')!r})\n"
        "assert ctx.run_udf(dataset=ds, udf=SumUDF())['intensity'].data[0, 0] == 16\n"
        "ctx.close()\n"
        "print(*sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    alone = run_python("import sys, numpy, threadpoolctl; print(*sys.modules)")  # old versions take more with them
    assert not (HEAVY | NOT_AT_ONCE) & (set(done.stdout.split()) - set(alone.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize(
    ("executor", "start", "meanwhile"),
    [
        ("'pipelined', cpus=1", "subprocess.Popen", {"tilework.executor.pipelined.executor"}),
        ("'dask', cpus=1", "multiprocessing.util.spawnv_passfds", {"tilework.executor.dask.executor", "distributed"}),
    ],
)
def test_a_process_is_started_before_what_is_imported_meanwhile(executor: str, start: str, meanwhile: set[str]) -> None:
    """The process that workers are forked from loads what they need, while this one loads what it needs itself."""
    meanwhile = meanwhile | {"numpy", "tilework.udf.runner", "tilework.api.generators"}
    done = run_python(
        "import sys, multiprocessing.util, subprocess\n"
        "from tilework.api import Context\n"
        f"start = {start}\n"
        "def started(*args, **kwargs):\n"
        f"    print(*{meanwhile!r} & set(sys.modules), sep=',', end=';')\n"
        "    return start(*args, **kwargs)\n"
        f"{start} = started\n"
        f"Context.make_with({executor}).close()\n"
        f"assert {meanwhile!r} <= set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(";")[0]


@pytest.mark.parametrize("spec", ["inline", "synchronous", "threads"])
def test_contexts_are_made_by_name_and_close(spec: Any) -> None:
    ctx = Context.make_with(spec)
    ds = ctx.load("memory", data=counts())
    assert ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].valid_mask.all()
    ctx.close()
    ctx.close()
    with pytest.raises(ExecutorError, match="closed"):
        ctx.run_udf(dataset=ds, udf=FrameMax())
    for use in (
        lambda: ctx.run_udf(dataset=ds, udf=FrameMax()),
        lambda: ctx.submit_udf(dataset=ds, udf=FrameMax()),
        lambda: ctx.load("memory", data=counts()),
    ):
        with pytest.raises(ExecutorError, match="this Context is closed: make a new one, or run"):
            use()


def test_closing_a_context_of_an_executor_that_others_use() -> None:
    """The executor is closed, as its owner is told; it says so of itself to whoever else has it."""
    executor = InlineJobExecutor()
    mine, other = Context(executor), Context(executor)
    ds = other.load("memory", data=counts())
    mine.close()
    with pytest.raises(ExecutorError, match="this InlineJobExecutor is closed"):
        other.run_udf(dataset=ds, udf=FrameMax())


@pytest.mark.parametrize(
    ("spec", "kwargs", "message"),
    [
        ("inline", {"cpus": 2}, "leave out cpus"),
        ("inline", {"gpus": 1}, "leave out gpus"),
        ("threads", {"gpus": 1}, "leave out gpus"),
        ("threads", {"cpus": 0}, "at least one CPU"),
        ("threads", {"cpus": 1.5}, "cpus must be an integer"),
        ("pipelined", {"cpus": 1.5}, "cpus must be an integer"),
        ("pipelined", {"cpus": "2"}, "cpus must be an integer"),
        ("pipelined", {"cpus": [-1]}, "cpus must not be negative"),
        ("pipelined", {"cpus": 1, "gpus": "0"}, "gpus must be an integer"),
        ("threads", {"cpus": 100_000}, "cpus asks for 100000 workers, .* best is one for each CPU"),
        ("pipelined", {"cpus": 100_000}, "cpus asks for 100000 workers"),
        ("pipelined", {"cpus": range(10**12)}, "cpus asks for 1000000000000 workers"),
        ("dask", {"cpus": 100_000}, "cpus asks for 100000 workers"),
        ("spark", {}, "choose one of synchronous, inline, threads"),
        ("inline", {"main_process_gpu": 99}, "GPU|gpu|CUDA"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(spec: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ExecutorSpecException, match=message):
        Context.make_with(spec, **kwargs)


@pytest.mark.parametrize("spec", ["inline", "threads", "pipelined", "delayed"])
def test_snoozing_is_for_dask(spec: Any) -> None:
    """The others have nothing to release, and so nothing changes by a time for that."""
    cpus = {"cpus": 1} if spec in {"threads", "pipelined"} else {}
    with Context.make_with(spec, snooze_timeout=1, **cpus) as ctx:
        assert ctx.executor.snooze_manager is None


def test_the_number_of_threads_is_what_was_asked_for() -> None:
    with Context.make_with("threads", cpus=3) as ctx:
        assert ctx.executor.get_available_workers().concurrency() == 3
    with Context.make_with("threads", cpus=[0, 1]) as ctx:
        assert ctx.executor.get_available_workers().concurrency() == 2


def test_a_program_that_does_not_close_ends_all_the_same() -> None:
    done = run_python(
        "import numpy as np\n"
        "from tilework.api import Context\n"
        "from tilework.udf import NoOpUDF\n"
        "ctx = Context.make_with('threads', cpus=2)\n"
        "ds = ctx.load('memory', data=np.ones((8, 8, 8, 8)), num_partitions=64)\n"
        "steps = ctx.run_udf_iter(dataset=ds, udf=NoOpUDF())\n"
        "next(steps)\n",
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_results_know_where_they_come_from_and_can_be_saved(tmp_path: Any) -> None:
    from tilework.io.results import load_results

    with Context.make_with("inline") as ctx:
        result = ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=FrameMax())
    written = result.save(tmp_path / "maximum.npz")
    loaded = load_results(written)
    assert (loaded["maximum"] == result["maximum"].data).all()
    assert loaded.provenance["udf"] == "FrameMax"
    assert loaded.provenance["dataset"]["shape"] == [6, 5, 8, 7]
    one = result["maximum"].save(tmp_path / "one.npz")
    assert set(load_results(one).channels) == {"maximum"}
    pytest.importorskip("xarray")
    labelled = result.to_xarray()
    assert labelled["maximum"].shape == (6, 5)
    assert np.array_equal(result["maximum"].to_xarray().values, result["maximum"].data)
