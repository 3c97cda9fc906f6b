"""Parts of a kernel in threads: each once, none when the call is over, and no thread stops for good."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tilework.common.kernels import parallel
from tilework.common.kernels.parallel import run_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread, timers")


def is_caller() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def meet(barrier: threading.Barrier) -> Callable[[int, int], None]:
    """Return a part that ends when as many threads as the barrier asks for are at theirs."""

    def part(start: int, stop: int) -> None:
        barrier.wait(60)

    return part


def run(program: str) -> None:
    """Run a program, which must say nothing, and end."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def busy_threads() -> Iterator[Callable[[], None]]:
    """No thread of the pool has time, until this is called; then all that they were asked for is over."""
    threads = os.cpu_count() or 1
    begun, go = threading.Semaphore(0), threading.Event()

    def part(start: int, stop: int) -> None:
        begun.release()
        assert go.wait(60)

    def free() -> None:
        go.set()
        other.join()
        run_parts(meet(threading.Barrier(threads + 1)), threads + 1, threads + 1)

    other = threading.Thread(target=run_parts, args=(part, threads + 1, threads + 1))
    other.start()
    try:
        for _ in range(threads + 1):
            assert begun.acquire(timeout=60)
        yield free
    finally:
        go.set()
        other.join()


@pytest.mark.parametrize("threads", [1, 2, 5, 100])
@pytest.mark.parametrize(("size", "grain"), [(0, 1), (1, 1), (10, 3), (64, 64), (1000, 7)])
def test_parts_cover_everything_once(size: int, grain: int, threads: int) -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def note(start: int, stop: int) -> None:
        with lock:
            seen.append((start, stop))

    run_parts(note, size, threads, grain)
    seen.sort()
    assert seen[0][0] == 0
    assert seen[-1][1] == size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(seen))
    assert all(start % grain == 0 for start, _ in seen)
    assert len(seen) <= threads


def test_parts_are_computed_at_the_same_time() -> None:
    run_parts(meet(threading.Barrier(2)), 2, 2)


def test_busy_threads_are_not_waited_for(busy_threads: Callable[[], None]) -> None:
    callers: list[bool] = []
    run_parts(lambda start, stop: callers.append(is_caller()), 4, 4)
    assert callers == [True] * 4


def test_parts_may_have_parts() -> None:
    seen: list[int] = []
    run_parts(lambda start, stop: run_parts(lambda i, j: seen.append(10 * start + i), 5, 5), 9, 9)
    assert sorted(seen) == [10 * i + j for i in range(9) for j in range(5)]


@pytest.mark.parametrize("fails", ["caller", "helper", "both"])
def test_an_error_is_raised_when_no_part_is_computed_any_more(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any begun: of four parts, only the two are that were under way."""
    monkeypatch.setattr(parallel, "_MOST_HELPERS", 1)
    together = threading.Barrier(2)
    begun: list[int] = []
    done: list[str] = []

    def part(start: int, stop: int) -> None:
        begun.append(start)
        together.wait(60)
        who = "caller" if is_caller() else "helper"
        if fails in {who, "both"}:
            raise ValueError(who)
        time.sleep(0.05)
        done.append(who)

    with pytest.raises(ValueError, match="caller" if fails == "both" else fails):
        run_parts(part, 4, 4)
    assert sorted(begun) == [0, 1]
    assert done == {"caller": ["helper"], "helper": ["caller"], "both": []}[fails]


def test_no_part_is_begun_after_an_error(busy_threads: Callable[[], None]) -> None:
    begun: list[int] = []

    def part(start: int, stop: int) -> None:
        begun.append(start)
        raise ValueError

    with pytest.raises(ValueError):
        run_parts(part, 4, 4)
    busy_threads()
    assert begun == [0]


@pytest.mark.parametrize("fails", [None, "caller", "helper"])
def test_nothing_is_kept(fails: str | None) -> None:
    """So that memory which is shared with others can be given back as soon as a call is over."""
    together = threading.Barrier(2)
    frames = np.zeros(3)
    left = weakref.ref(frames)

    def part(start: int, stop: int, frames: object = frames) -> None:
        together.wait(60)
        if fails == ("caller" if is_caller() else "helper"):
            raise ValueError

    gc.collect()
    gc.disable()
    try:
        if fails:
            with pytest.raises(ValueError):
                run_parts(part, 2, 2)
        else:
            run_parts(part, 2, 2)
        del part, frames
        assert left() is None
    finally:
        gc.enable()


def test_nothing_is_kept_for_threads_that_come_later(busy_threads: Callable[[], None]) -> None:
    frames = np.zeros(3)
    left = weakref.ref(frames)

    def part(start: int, stop: int, frames: object = frames) -> None:
        pass

    run_parts(part, 4, 4)
    del part, frames
    assert left() is None


@not_on_windows
def test_the_wait_for_other_threads_is_not_cut_short_by_ctrl_c() -> None:
    together = threading.Barrier(2)
    done: list[bool] = []

    def part(start: int, stop: int) -> None:
        together.wait(60)
        if not is_caller():
            for _ in range(5):
                time.sleep(0.02)  # until the caller waits, or waits again
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.02)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_parts(part, 2, 2)
    assert done == [True]


@not_on_windows
def test_ctrl_c_at_any_time() -> None:
    """Wherever it hits a call, no part is being computed after that, and all threads help with the next call."""
    run("""
import random
import signal
import threading
import time
from tilework.common.kernels.parallel import run_parts

rng = random.Random(3)
is_heard = False
n_heard = 0
main = threading.get_ident()
at_work = []

def on_signal(*_):
    global n_heard
    if is_heard:
        n_heard += 1
        raise KeyboardInterrupt

def part(start, stop):
    if threading.get_ident() != main:
        at_work.append(start)
        time.sleep(20e-6)
        at_work.pop()

signal.signal(signal.SIGALRM, on_signal)
for i in range(10_000):
    signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 200e-6, 50e-6)
    try:
        try:
            is_heard = True
            run_parts(part, 4, 4)
        finally:
            is_heard = False
    except KeyboardInterrupt:
        pass
    assert not at_work, i
signal.setitimer(signal.ITIMER_REAL, 0)
assert n_heard > 100, n_heard
together = threading.Barrier(2)
for i in range(10):
    run_parts(lambda start, stop: together.wait(30), 2, 2)
""")


def test_kernels_work_in_a_forked_child() -> None:
    """A child has none of its parent's threads, and must not wait for them."""
    run("""
import os, threading, warnings
from tilework.common.kernels.parallel import run_parts
warnings.simplefilter("ignore")
together = threading.Barrier(2)
def part(a, b):
    together.wait(30)
run_parts(part, 2, 2)
pid = os.fork()
if pid == 0:
    try:
        run_parts(part, 2, 2)
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""")


def test_kernels_work_while_the_interpreter_exits() -> None:
    run("""
import atexit, os, threading
from tilework.common.kernels.parallel import run_parts
together = threading.Barrier(2)
def part(a, b):
    together.wait(30)
def at_exit():
    try:
        run_parts(part, 2, 2)
    except BaseException:
        os._exit(1)
run_parts(part, 2, 2)
atexit.register(at_exit)
""")
