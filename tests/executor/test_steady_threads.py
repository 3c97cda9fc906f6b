from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from tilework.executor.steady_threads import SteadyThreads


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def wait_until_gone(name: str) -> None:
    until = time.monotonic() + 20
    while named(name):
        assert time.monotonic() < until, named(name)
        time.sleep(0.01)


def test_it_calls_functions_on_its_threads() -> None:
    with SteadyThreads(3, "steady-call") as pool:
        assert isinstance(pool, ThreadPoolExecutor)
        assert len(named("steady-call")) == 3
        together = threading.Barrier(3)
        places = [pool.submit(together.wait, timeout=20) for _ in range(3)]
        assert sorted(place.result(20) for place in places) == [0, 1, 2]
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
    assert not named("steady-call")


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    with SteadyThreads(1, "steady-error") as pool:
        assert isinstance(pool.submit(int, "x").exception(20), ValueError)
        with pytest.raises(SystemExit):
            pool.submit(sys.exit, 3).result(20)
        assert pool.submit(int, "7").result(20) == 7  # the thread goes on


def test_what_was_given_before_the_end_is_still_done() -> None:
    pool = SteadyThreads(1, "steady-end")
    go = threading.Event()
    first, second = pool.submit(go.wait, 20), pool.submit(int, "5")
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int, "6")
    assert not second.done()
    go.set()
    assert first.result(20)
    assert second.result(20) == 5
    pool.shutdown()
    assert not named("steady-end")


def test_what_waits_can_be_cancelled_at_the_end() -> None:
    pool = SteadyThreads(1, "steady-cancel")
    go, began = threading.Event(), threading.Event()

    def wait() -> bool:
        began.set()
        return go.wait(20)

    first, second, third = pool.submit(wait), pool.submit(int, "5"), pool.submit(int, "6")
    assert began.wait(20)
    assert third.cancel()
    pool.shutdown(wait=False)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        second.result(20)
    go.set()
    assert first.result(20)
    pool.shutdown()
    assert not named("steady-cancel")


def test_a_pool_that_is_forgotten_ends() -> None:
    pool = SteadyThreads(2, "steady-forgotten")
    assert pool.submit(int, "5").result(20) == 5
    del pool
    gc.collect()
    wait_until_gone("steady-forgotten")


@pytest.mark.parametrize("keeps", ["pool", "None"])
def test_the_interpreter_exits_while_a_pool_is_open(keeps: str) -> None:
    program = (
        "from tilework.executor.steady_threads import SteadyThreads\n"
        "pool = SteadyThreads(2, 'steady')\n"
        "assert pool.submit(int, '5').result() == 5\n"
        f"pool = {keeps}\n"
        "print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="timers")
def test_ctrl_c_while_pools_are_made() -> None:
    """Wherever it hits, the threads of a pool that nobody has got end, and so does the program."""
    program = """
import random
import signal
import threading
import time
from tilework.executor.steady_threads import SteadyThreads

rng = random.Random(3)
is_heard = False
n_heard = 0

def on_signal(*_):
    global n_heard
    if is_heard:
        n_heard += 1
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, on_signal)
for _ in range(1000):
    signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 300e-6)
    try:
        try:
            is_heard = True
            pool = SteadyThreads(2, "steady")
            pool.submit(int, "5")
        finally:
            is_heard = False
    except KeyboardInterrupt:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    pool = None
assert n_heard > 100, n_heard
until = time.monotonic() + 20
while len(threading.enumerate()) > 1:
    assert time.monotonic() < until, threading.enumerate()
    time.sleep(0.01)
with SteadyThreads(2, "steady") as pool:
    assert pool.submit(int, "5").result() == 5
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_system_gives_too_few_threads() -> None:
    """The error says what to do, and the program ends with it: no thread that has started keeps it."""
    program = """
import resource
import threading
from pathlib import Path
from tilework.executor.steady_threads import SteadyThreads

STACK = 1 << 30
threading.stack_size(STACK)
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * STACK + STACK // 2, -1))  # for the starter, and one more
SteadyThreads(8, "steady")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "can't start new thread" in done.stderr
    assert "of 8 threads: use fewer, or raise the limit of processes (ulimit -u)" in done.stderr
