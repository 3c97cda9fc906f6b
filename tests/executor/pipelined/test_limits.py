"""Limits that the system sets to a process: files, address space."""

from __future__ import annotations

import shlex
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from mount_namespace import in_mount_namespace
from tilework.executor.pipelined import PipelinedExecutor

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
import faulthandler; faulthandler.dump_traceback_later(40, exit=True)
import contextlib, os, resource
import numpy as np
from tilework.executor.pipelined import PipelinedExecutor

def make(n=2, **kwargs):
    return PipelinedExecutor(PipelinedExecutor.make_spec(n, []), **kwargs)

def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def use_up_files(left):
    hold = []
    with contextlib.suppress(OSError):
        while True:
            hold.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(left):
        os.close(hold.pop())
    return hold

def limit(what, soft, hard):
    resource.setrlimit(what, (soft, hard))
"""


def run_limited(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=80
    )


def test_no_files_left_for_a_large_result() -> None:
    """A result that has a file of its own: the run fails, saying why, or is done; later everything works again."""
    done = run_limited(
        """
        limit(resource.RLIMIT_NOFILE, 64, 64)
        with make(shared_memory=16 << 20) as executor:
            hold = use_up_files(0)
            print(told(lambda: executor.run_function(abs, -3)))
            print(told(lambda: executor.run_function(np.ones, 3_000_000).sum()))
            for fd in hold:
                os.close(fd)
            print(told(lambda: executor.run_function(np.ones, 3_000_000).sum()))
            print(len(executor.run_each_worker(os.getpid)))
        """
    )
    assert done.returncode == 0, done.stderr
    small, large, later, workers = done.stdout.splitlines()
    assert small == "3"
    assert large == "3000000.0" or "oo many open files" in large  # it is the system that writes it large
    assert later == "3000000.0"
    assert workers == "2"
    assert "too many open files" in done.stderr
    assert "please report it" not in done.stderr


def test_no_files_left_for_the_memory_of_workers() -> None:
    """A worker whose memory cannot be mapped here is not ready: the constructor says what is short, and leaves nothing.

    From too few descriptors to start all workers to enough for all, every number is tried.
    """
    done = run_limited(
        """
        limit(resource.RLIMIT_NOFILE, 64, 64)
        before = sorted(os.listdir("/proc/self/fd"))
        hold = use_up_files(12)
        for _ in range(20):
            print(told(lambda: make(4, shared_memory=16 << 20).close()))
            os.close(hold.pop())
        for fd in hold:
            os.close(fd)
        with make(2) as executor:
            print(len(executor.run_each_worker(np.ones, 100_000)))
        del executor
        print(sorted(os.listdir("/proc/self/fd")) == before)
        """
    )
    assert done.returncode == 0, done.stderr
    *errors, workers, is_clean = done.stdout.splitlines()
    for each in errors:
        assert each == "None" or "oo many open files" in each
        assert each == "None" or each.startswith(("PoolStateError", "OSError", "SharedMemoryFullError")), each
    assert any("failed to start" in each and "cannot map" in each for each in errors), errors
    assert any("Too many open files: raise the limit" in each for each in errors), errors
    assert not any(each.startswith("OSError") for each in errors), errors
    assert workers == "2"
    assert is_clean == "True"
    assert "please report it" not in done.stderr


def test_many_workers_with_a_low_soft_limit_of_files() -> None:
    """The limit that a process may raise by itself is raised."""
    done = run_limited(
        """
        limit(resource.RLIMIT_NOFILE, 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        with make(16, shared_memory=16 << 20) as executor:
            print(len(executor.run_each_worker(abs, -1)))
        """
    )
    assert done.stdout.strip() == "16", done.stderr


MAPPED = 'int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()'


def test_a_program_with_many_open_files() -> None:
    """More than `select.select` knows of."""
    done = run_limited(
        """
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        with make() as executor:
            print(executor.run_function(abs, -3))
        """
    )
    assert done.stdout.split() == ["3"], done.stderr


@pytest.mark.parametrize(
    ("limits", "most", "too_much", "remedies"),
    [
        (f"RLIMIT_AS, {MAPPED} + (2 << 30), resource.RLIM_INFINITY", 1 << 28, 8 << 30, ["shared_memory="]),
        ("RLIMIT_FSIZE, 20 << 20, 20 << 20", 20 << 20, 1 << 30, ["shared_memory=", "ulimit -f"]),
    ],
    ids=["address space", "size of files"],
)
def test_limited_memory(limits: str, most: int, too_much: int, remedies: list[str]) -> None:
    """The default keeps to what may be mapped, in files without a name; the error for too much names remedies."""
    done = run_limited(
        f"""
        from pathlib import Path
        limit(resource.{limits})
        with make(2) as executor:
            print(executor.report()["limits"]["shared_memory_bytes"] <= {most})
            print(executor.run_function(np.ones, 100_000).sum())
        print(told(lambda: make(2, shared_memory={too_much})))
        """
    )
    assert done.returncode == 0, done.stderr
    is_small, result, error = done.stdout.splitlines()
    assert is_small == "True"
    assert result == "100000.0"
    assert error.startswith("SharedMemoryFullError")
    assert [remedy for remedy in remedies if remedy in error] == remedies


def test_no_memory_for_the_thread_of_an_executor() -> None:
    """Its workers, which were started before, end, and so does the process that forks them."""
    done = run_limited(
        """
        import psutil
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit(resource.RLIMIT_AS, used + (4 << 20), resource.RLIM_INFINITY)
        print(told(make))
        limit(resource.RLIMIT_AS, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        print(psutil.Process().children(recursive=True))
        with make() as another:
            print(another.run_function(abs, -3))
        """
    )
    assert done.stdout.splitlines() == ["RuntimeError: can't start new thread", "[]", "3"], done.stdout + done.stderr


def test_no_room_in_the_folder() -> None:
    """The error names the folder, and what to do."""
    python = shlex.quote(sys.executable)
    script = shlex.quote(HEAD + "print(told(lambda: make(1, shared_memory_folder='/dev/shm')))")
    done = in_mount_namespace(
        f"mount -t tmpfs -o size=64k tmpfs /dev/shm; head -c 64k /dev/zero > /dev/shm/full; {python} -c {script}"
    )
    assert "no room for 64 KiB of shared memory in /dev/shm" in done.stdout
    assert "make room there" in done.stdout


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_what_is_no_folder(tmp_path: Path, folder: str) -> None:
    """The error names it, says what is wrong with it, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(MemoryError, match=rf"no file can be made in '.*{folder}' \(.* directory.*name another folder"):
        PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory_folder=str(tmp_path / folder))


def test_parameters_that_a_worker_has_no_room_for() -> None:
    """They are an error of the tasks that want them, and the workers stay."""
    done = run_limited(
        """
        from tilework.common.executor import NoopCommHandler
        from tilework.testing.faults import EchoTask

        def limit_worker():
            pages = int(open("/proc/self/statm").read().split()[0])
            limit(resource.RLIMIT_AS, pages * 4096 + (128 << 20), -1)

        def run(params):
            with executor.scatter(params) as handle:
                return [len(result) for result, _ in executor.run_tasks([EchoTask(0)], handle, 0, NoopCommHandler())]

        with make(shared_memory=16 << 20, early_setup=limit_worker) as executor:
            before = executor.run_each_worker(os.getpid)
            print(told(lambda: run(np.zeros(1 << 28, np.uint8))))
            print(executor.run_each_worker(os.getpid) == before, executor.report()["losses"])
        """
    )
    assert done.returncode == 0, done.stderr
    large, after = done.stdout.splitlines()
    assert "cannot map 256 MiB" in large
    assert "ulimit -v" in large
    assert after == "True 0"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
def test_a_program_without_standard_files(closed: str, tmp_path: Path) -> None:
    """As daemons are started, and programs without a terminal."""
    out = tmp_path / "out"
    script = HEAD.replace("faulthandler.dump", "pass #") + textwrap.dedent(
        f"""
        with make() as executor:
            told = [executor.run_function(abs, -3), int(executor.run_function(np.ones, 1_000_000).sum())]
            executor.run_each_worker(lambda: [os.write(fd, b"text") for fd in (1, 2)])
            told.append(len(executor.run_each_worker(os.getpid)))
        open({str(out)!r}, "w").write(str(told))
        """
    )
    command = f"exec {shlex.join([sys.executable, '-c', script])} {closed}"
    subprocess.run(["sh", "-c", command], check=True, timeout=80)
    assert out.read_text() == "[3, 1000000, 2]"


@pytest.mark.parametrize("when", ["idle", "run", "stream"])
def test_somebody_closes_all_files(when: str) -> None:
    """Runs end with an error that says so, the interpreter ends, and a new executor works."""
    done = run_limited(
        f"""
        import threading, time
        from tilework.common.executor import NoopCommHandler, TaskCommHandler
        from tilework.testing.faults import SleepTask

        class Slow(TaskCommHandler):
            def handle_task(self, task, queue):
                while True:
                    queue.put("x", bytes(1000))
                    time.sleep(0.01)

        def run(handler):
            with executor.scatter(None) as handle:
                return list(executor.run_tasks([SleepTask(i, seconds=60) for i in range(5)], handle, 0, handler))

        def close_all():
            time.sleep(0.5)
            os.closerange(3, 4096)

        executor = make()
        when = {when!r}
        if when == "idle":
            close_all()
        else:
            threading.Thread(target=close_all).start()
        handler = Slow() if when == "stream" else NoopCommHandler()
        call = (lambda: executor.run_function(abs, -3)) if when == "idle" else lambda: run(handler)
        start = time.monotonic()
        print(told(call))
        print(told(call))
        print(time.monotonic() - start < 8)
        with make() as another:
            print(another.run_function(abs, -3))
        """
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0].startswith("ExecutorError: something in this program has closed files"), done.stderr
    assert lines[1] == lines[0]
    assert lines[2:] == ["True", "3"]
    assert done.returncode == 0, done.stderr
    assert "please report it" not in done.stderr


def test_a_system_that_pins_nothing() -> None:
    """Workers say so, and work."""
    done = run_limited(
        """
        def forbid():
            def refuse(*_):
                raise PermissionError(1, "Operation not permitted")
            os.sched_setaffinity = refuse

        with make(early_setup=forbid) as executor:
            print(executor.run_function(abs, -3))
        """
    )
    assert done.stdout == "3\n", done.stderr
    assert done.stderr.count("cannot be pinned to one: [Errno 1] Operation not permitted") == 2


def test_a_system_that_does_not_tell_when_a_process_ends() -> None:
    """As with the filter of system calls of an older container: what is missing, and what to do, is told."""
    done = run_limited(
        """
        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")
        os.pidfd_open = refuse
        print(told(make))
        """
    )
    assert done.stdout == (
        "ExecutorSpecException: the pipelined executor needs the system call pidfd_open, which is refused here "
        "(Operation not permitted): use the executor 'threads', or 'dask'\n"
    ), done.stderr


def test_an_application_with_python_inside() -> None:
    """It says which Python processes are started with, as for `multiprocessing`; else it is told to."""
    done = run_limited(
        """
        import multiprocessing, sys
        python, sys.executable = sys.executable, ""
        print(told(make))
        multiprocessing.set_executable(python)
        with make() as executor:
            print(executor.run_function(abs, -3))
        """
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ExecutorSpecException: the pipelined executor starts processes, but"), done.stderr
    assert lines[1:] == ["3"], done.stderr


@pytest.mark.parametrize("n_taken", range(4))
def test_other_files_have_the_numbers_of_standard_files(n_taken: int, tmp_path: Path) -> None:
    """As in a daemon, which has closed those and opened others."""
    done = run_limited(
        f"""
        import sys
        out = os.open({str(tmp_path / "out")!r}, os.O_WRONLY | os.O_CREAT)
        os.closerange(0, 3)
        sys.stdin = sys.stdout = sys.stderr = None
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range({n_taken})]
        told = told(lambda: make().run_function(os.write, 1, b"text"))
        os.write(out, str(told).encode())
        """
    )
    assert (tmp_path / "out").read_text() == "4", done.stderr
