"""Workers on this machine are forks of one process that has loaded what they need."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from dask_clusters import wait_until
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.executor.dask.template import PRELOAD, Template
from tilework.executor.forked import modules_to_preload

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not Template.is_possible, reason="processes are forked on Linux only")


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskJobExecutor]:
    with new_executor() as executor:
        yield executor


def new_executor() -> DaskJobExecutor:
    return DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0))


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def parents(executor: DaskJobExecutor) -> set[int]:
    return set(executor.run_each_worker(os.getppid).values())


def test_one_template(executor: DaskJobExecutor) -> None:
    """All clusters of the process have it, and it outlives each of them but the last."""
    (template,) = parents(executor)
    assert psutil.Process(template).ppid() == os.getpid()
    with new_executor() as other:
        assert parents(other) == {template}
    gc.collect()
    assert parents(executor) == {template}


def test_workers_load_no_more_than_they_need(executor: DaskJobExecutor) -> None:
    """Nothing after the fork, which each of them would do by itself, but what has to be done there."""
    loaded = set(executor.run_function(lambda: list(sys.modules)))
    code = (
        f"import importlib, multiprocessing.forkserver, sys\n"
        f"for name in {[PRELOAD, *modules_to_preload()]!r}: importlib.import_module(name)\n"
        f"print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    later = {name for name in loaded - set(done.stdout.split()) if name.split(".")[0] in sys.modules}
    of_functions = {"tilework.executor.dask.calls", "tilework.executor.dask.lanes", "tilework.executor.mean_time"}
    assert later - of_functions <= {"tilework.executor.dask.preload", "faulthandler"}


def test_it_ends_with_the_last_cluster(tmp_path: Path) -> None:
    """In a program of its own, with what was registered to be done when a worker exits."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import atexit, gc, os, pathlib, time
import psutil
from tilework.executor.dask import DaskJobExecutor, cluster_spec

def leave_word(path=pathlib.Path({str(tmp_path)!r})):
    def write():
        (path / str(os.getpid())).write_text("done")
    atexit.register(write)
    return os.getpid()

executor = DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0))
workers = set(executor.run_each_worker(leave_word).values())
(template,) = set(executor.run_each_worker(os.getppid).values())
executor.close()
del executor
until = time.monotonic() + 10
while psutil.pid_exists(template) and time.monotonic() < until:
    gc.collect()  # again and again: the thread of the event loop may be about to end, and hold something until then
    time.sleep(0.02)
assert not psutil.pid_exists(template)
assert not any(psutil.pid_exists(pid) for pid in workers)
assert {{int(path.name) for path in pathlib.Path({str(tmp_path)!r}).iterdir() if path.suffix == ""}} == workers
print("fine")
"""
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_workers_are_themselves(executor: DaskJobExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its random numbers, and the environment of the moment in which it was started."""

    def draw() -> tuple[float, float]:
        return random.random(), float(np.random.random())  # noqa: NPY002  (the global generators are meant)

    numbers = [number for pair in executor.run_each_worker(draw).values() for number in pair]
    assert len(set(numbers)) == len(numbers) == 4
    monkeypatch.setenv("TILEWORK_TEST_LATER", "yes")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with new_executor() as other:
        assert set(other.run_each_worker(lambda: os.environ.get("TILEWORK_TEST_LATER")).values()) == {"yes"}
        assert parents(other) == parents(executor)
    assert set(executor.run_each_worker(lambda: os.environ.get("TILEWORK_TEST_LATER")).values()) == {None}


def test_a_fork_of_the_program_has_its_own(tmp_path: Path) -> None:
    """It can start a cluster, as every program can: the template is no child of it, and cannot be asked."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import os
from tilework.executor.dask import DaskJobExecutor, cluster_spec

def add():
    with DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)) as executor:
        return executor.run_function(sum, (1, 2))

if __name__ == "__main__":
    with DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)) as executor:
        child = os.fork()
        if child == 0:
            os._exit(add())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert executor.run_function(sum, (1, 2)) == 3
"""
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_killed(executor: DaskJobExecutor) -> None:
    """The workers go on; one that dies then is a fork of the next."""
    (template,) = parents(executor)
    workers = set(executor.run_each_worker(os.getpid).values())
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not is_alive(template), "the template lives", 20)
    assert executor.run_function(sum, [1, 2]) == 3
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: len(set(executor.run_each_worker(os.getpid).values()) - workers) == 2, "they did not come back", 20
    )
    (other,) = parents(executor)
    assert other != template
    assert psutil.Process(other).ppid() == os.getpid()


def test_the_program_is_killed(tmp_path: Path) -> None:
    """Nothing is left of it."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import os, sys, time
from tilework.executor.dask import DaskJobExecutor, cluster_spec

executor = DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0))
(template,) = set(executor.run_each_worker(os.getppid).values())
print(template, *executor.run_each_worker(os.getpid).values(), flush=True)
time.sleep(60)
"""
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        process.kill()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "some are left", 20)


def test_blocked_signals(tmp_path: Path) -> None:
    """It learns that workers have ended, also when the program has blocked the signal that tells: the program ends."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import signal
from tilework.executor.dask import DaskJobExecutor, cluster_spec

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
with DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)) as executor:
    print(executor.run_function(signal.pthread_sigmask, signal.SIG_BLOCK, ()), flush=True)
"""
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=60, start_new_session=True
    )
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_are_ended_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """As by a terminal that is closed, or a batch system: nothing is left, in /dev/shm either."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import gc, os, signal, time
from multiprocessing import synchronize
from tilework.executor.dask import DaskJobExecutor, cluster_spec

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored below "nohup"

KINDS = {synchronize.Lock, synchronize.BoundedSemaphore}
executor = DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0))
print(*executor.run_each_worker(os.getpid).values())
print(*(f"/dev/shm/sem.{lock._semlock.name[1:]}" for lock in gc.get_objects() if type(lock) in KINDS), flush=True)
time.sleep(60)
"""
    )
    command = [sys.executable, str(program)]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **streams) as process:
        assert process.stdout is not None
        pids, files = (process.stdout.readline().split() for _ in range(2))
        assert len(pids) == 2
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=30)
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids), "some are left", 20)
    assert [file for file in files if Path(file).exists()] == []
    assert said == ""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_current_folder_is_removed(when: str, tmp_path: Path) -> None:
    """Workers are started, and started again, all the same."""
    program = """
import faulthandler; faulthandler.dump_traceback_later(60, exit=True)
import os, signal, sys
from tilework.executor.dask import DaskJobExecutor, cluster_spec
if sys.argv[1] == "before":
    os.rmdir(os.getcwd())
with DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)) as executor:
    if sys.argv[1] == "after":
        os.rmdir(os.getcwd())
    for pid in executor.run_each_worker(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    print(executor.run_function(abs, -3))
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [sys.executable, "-c", program, when]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "3\n", done.stderr


def test_temporary_files_where_no_socket_can_be(tmp_path: Path) -> None:
    """Its name is at most a hundred bytes. Workers are started in another way."""
    program = """
import faulthandler; faulthandler.dump_traceback_later(60, exit=True)
from tilework.executor.dask import DaskJobExecutor, cluster_spec
with DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)) as executor:
    print(executor.run_function(abs, -3))
"""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    command = [sys.executable, "-c", program]
    environ = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "3\n", done.stderr
    assert done.stderr == ""
