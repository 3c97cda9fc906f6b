"""The interpreter ends soon, whatever threads of the user's program wait for workers then."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import faulthandler; faulthandler.dump_traceback_later(20, exit=True)
import atexit, threading, time
from tilework.common.executor import NoopCommHandler
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.faults import SleepTask
from concurrent.futures import ThreadPoolExecutor

executor = PipelinedExecutor(PipelinedExecutor.make_spec(cpus=2, cudas=[]))
ended = []

def note(call):
    try:
        call()
    except BaseException as error:
        ended.append(f"{type(error).__name__}: {error}")

def work():
    with executor.scatter(None) as handle:
        list(executor.run_tasks((SleepTask(i, seconds=0.02) for i in range(5000)), handle, 0, NoopCommHandler()))

def main_ends():
    time.sleep(0.2)
    start = time.monotonic()
    atexit.register(lambda: print(time.monotonic() - start < 5, sorted(set(ended))))
"""


@pytest.mark.parametrize(
    ("waiting", "told"),
    [
        ("threading.Thread(target=note, args=(work,)).start()", ["JobCancelledError: the interpreter exits"]),
        (
            "threading.Thread(target=note, args=(lambda: executor.run_function(time.sleep, 60),)).start()",
            ["JobCancelledError: the interpreter exits"],
        ),
        (
            # those that have not begun find the executor closed
            "ThreadPoolExecutor(2).map(lambda _: note(lambda: executor.run_function(time.sleep, 60)), range(9))",
            ["ExecutorError: this executor is closed: make a new one", "JobCancelledError: the interpreter exits"],
        ),
    ],
    ids=["run", "function", "pool"],
)
def test_threads_that_wait_when_main_ends(waiting: str, told: list[str]) -> None:
    """Their runs are cancelled: they do not keep the interpreter for ever."""
    script = textwrap.dedent(HEAD) + waiting + "\nmain_ends()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == f"True {told}", done.stderr
    assert done.returncode == 0, done.stderr


def test_a_run_of_an_executor_whose_hub_was_closed() -> None:
    """Whoever waits for workers that were ended behind the executor's back is told so, instead of waiting for ever."""
    script = textwrap.dedent(HEAD) + textwrap.dedent(
        """
        thread = threading.Thread(target=note, args=(lambda: executor.run_function(time.sleep, 60),))
        thread.start()
        time.sleep(0.2)
        executor._hub.close(0.0)
        thread.join()
        print(ended)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "['JobCancelledError: the executor was closed']", done.stderr
