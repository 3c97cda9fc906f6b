"""Limits are proven by what threadpoolctl, numba and the environment really say, not by what was asked for."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threadpoolctl

from tilework.common.threading import (
    detect_pyfftw,
    detect_pytorch,
    leave_limits,
    limits_entered,
    mitigations,
    set_fftw_threads,
    set_num_threads,
    set_num_threads_env,
    set_numba_threads,
    set_torch_threads,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import FrameType


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _three_blas_threads() -> Iterator[None]:
    """Start from three threads on any machine, so that both 1 and 2 are changes, and end with them."""
    assert np.__version__
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        if blas_threads() != {3}:
            pytest.skip(f"this NumPy's BLAS cannot be set to three threads: {threadpoolctl.threadpool_info()}")
        yield
        assert blas_threads() == {3}


def test_limit_holds_inside_and_is_gone_after() -> None:
    with set_num_threads(1):
        assert blas_threads() == {1}
    assert blas_threads() == {3}


def test_none_changes_nothing() -> None:
    with set_num_threads(None):
        assert blas_threads() == {3}


def test_limit_is_gone_after_an_exception() -> None:
    with pytest.raises(RuntimeError, match="in the task"), set_num_threads(1):
        raise RuntimeError("in the task")
    assert blas_threads() == {3}


def test_the_same_object_can_be_entered_again_and_nested() -> None:
    limit = set_num_threads(2)
    for _ in range(2):
        with limit:
            with limit, set_num_threads(1), set_num_threads(None):
                assert blas_threads() == {2}, "nested different limits are ignored"
            assert blas_threads() == {2}
        assert blas_threads() == {3}


def test_the_first_thread_sets_and_the_last_one_to_leave_restores() -> None:
    with ThreadPoolExecutor(2) as pool:
        inside, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with set_num_threads(1):
                inside.set()
                leave.wait()

        holder = pool.submit(hold)
        inside.wait()
        with set_num_threads(2):
            assert blas_threads() == {1}, "the first limit holds for all threads"
        assert blas_threads() == {1}, "somebody is still inside"
        leave.set()
        holder.result()
        assert blas_threads() == {3}


def test_many_threads_leave_nothing_behind() -> None:
    def work(_: int) -> set[int]:
        seen = set()
        for _ in range(50):
            with set_num_threads(1), set_num_threads(2):
                seen |= blas_threads()
        return seen

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(work, range(4))) == {1}


def interrupted_at(n: int, block: AbstractContextManager[None]) -> str | None:
    """Enter and leave a block, with Ctrl-C at the n-th place where it can come; return where that is, if there is one.

    These are the beginnings of functions and the ends of calls of built-in ones.
    """
    left = n
    where = None

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal left, where
        if event in {"call", "c_return"} and frame.f_code is not interrupted_at.__code__:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                where = f"{event} {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGINT)

    profile = sys.getprofile()
    try:
        sys.setprofile(interrupt)
        with block:
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(profile)
    return where


@pytest.mark.parametrize("is_outermost", [True, False])
def test_no_limit_is_left_by_ctrl_c(is_outermost: bool) -> None:
    """Wherever it comes: what was counted is taken back."""
    seen = set()
    for n in itertools.count():
        with set_num_threads(None if is_outermost else 2):
            depth = limits_entered()
            where = interrupted_at(n, set_num_threads(1))
            if where in {"call __exit__", "call leave"}:  # before anything of it could be done
                assert limits_entered() == depth + 1
                leave_limits(depth)
            assert limits_entered() == depth
            assert blas_threads() == ({3} if is_outermost else {2})
        assert blas_threads() == {3}
        if where is None:
            break
        seen.add(where)
    assert {"call enter", "call set", "call restore", "call leave"} <= seen


def test_no_variable_is_left_by_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = set()
    block = set_num_threads_env(7)
    for n in itertools.count():
        where = interrupted_at(n, block)
        if where is None:
            break
        if where == "call __exit__" and "OMP_NUM_THREADS" in os.environ:  # before anything of it could be done
            block.__exit__(None, None, None)
        assert "OMP_NUM_THREADS" not in os.environ, where
        seen.add(where)
    assert {"call change", "call undo"} <= seen


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("limit", [set_num_threads, set_numba_threads, set_fftw_threads, set_torch_threads])
def test_a_limit_below_one_is_refused(limit: Any, n: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        limit(n)


def run_python(code: str, **env: str) -> None:
    """Run a program in a fresh interpreter, where we know what has been imported."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_for_the_limit() -> None:
    run_python(
        """
        import sys
        from tilework.common.threading import *
        assert "threadpoolctl" not in sys.modules
        with set_num_threads(1), set_numba_threads(1), set_fftw_threads(1), set_torch_threads(1), mitigations():
            pass
        assert not {"numba", "scipy", "torch", "pyfftw"} & set(sys.modules)
        """
    )


def test_a_library_loaded_while_a_limit_is_held_is_limited_at_the_next_entry_and_restored() -> None:
    run_python(
        """
        import numpy, threading, threadpoolctl
        from tilework.common.threading import set_num_threads
        def blas():
            return sorted(p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas")
        before = blas()
        with set_num_threads(1):
            import scipy.linalg.blas
            own = [n for n in blas() if n != 1]
            with set_num_threads(2):
                assert set(blas()) == {1}, blas()
            assert set(blas()) == {1}, blas()
        assert blas() == sorted(before + own), (before, own, blas())
        """,
        OPENBLAS_NUM_THREADS="2",
    )


def test_numba_limit_is_per_thread() -> None:
    run_python(
        """
        import threading, numba
        from concurrent.futures import ThreadPoolExecutor
        from tilework.common.threading import set_num_threads, set_numba_threads
        assert numba.get_num_threads() == 4
        barrier = threading.Barrier(3)
        def task(n):
            with set_num_threads(n):
                barrier.wait()
                inside = numba.get_num_threads()
                with set_num_threads(1):
                    assert numba.get_num_threads() == inside
                barrier.wait()
            return inside, numba.get_num_threads()
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(task, [1, 2, 9])) == [(1, 4), (2, 4), (4, 4)]
        with set_numba_threads(3):
            assert numba.get_num_threads() == 3
        assert numba.get_num_threads() == 4
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with set_numba_threads(5):
                assert numba.get_num_threads() == 4
        assert "4 threads, not 5" in str(caught[0].message)
        """,
        NUMBA_NUM_THREADS="4",
    )


def test_numba_threads_are_not_started_by_a_limit_but_by_the_explicit_one() -> None:
    run_python(
        """
        import numba, numba.np.ufunc.parallel as parallel
        from tilework.common.threading import set_num_threads, set_numba_threads
        with set_num_threads(1):
            assert not parallel._is_initialized
        with set_numba_threads(1):
            assert numba.get_num_threads() == 1
        with set_num_threads(2):
            assert numba.get_num_threads() == 2
        assert numba.get_num_threads() == 4
        """,
        NUMBA_NUM_THREADS="4",
    )


def test_openmp_limit_is_per_thread() -> None:
    """Loaded through numba's OpenMP layer, where there is one."""
    run_python(
        """
        import numba, sys, threading, threadpoolctl
        from concurrent.futures import ThreadPoolExecutor
        from tilework.common.threading import set_num_threads
        numba.get_num_threads()
        def openmp():
            return {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "openmp"}
        if not openmp():
            sys.exit()
        barrier = threading.Barrier(2)
        def task(n):
            before = openmp()
            with set_num_threads(n):
                barrier.wait()
                inside = openmp()
                barrier.wait()
            return before, inside, openmp()
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(task, [1, 2])) == [({5}, {1}, {5}), ({5}, {2}, {5})]
        """,
        OMP_NUM_THREADS="5",
    )


def test_environment_variables_are_set_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    before = dict(os.environ)
    with set_num_threads_env(2, set_numba=True):
        assert [os.environ[name] for name in names] == ["2"] * 4
        with set_num_threads_env(1):
            assert [os.environ[name] for name in names] == ["2"] * 4
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert dict(os.environ) == before
    with set_num_threads_env(set_numba=False):
        assert os.environ["MKL_NUM_THREADS"] == "1"
        assert "NUMBA_NUM_THREADS" not in os.environ
    assert dict(os.environ) == before


def test_numba_variable_is_set_by_default_where_numba_is_not_imported() -> None:
    run_python(
        """
        import os
        from tilework.common.threading import set_num_threads_env
        os.environ.pop("NUMBA_NUM_THREADS", None)
        with set_num_threads_env(1):
            assert os.environ["NUMBA_NUM_THREADS"] == "1"
        assert "NUMBA_NUM_THREADS" not in os.environ
        import numba
        with set_num_threads_env(1):
            assert "NUMBA_NUM_THREADS" not in os.environ
        """
    )


def test_nothing_to_detect_where_nothing_is_imported() -> None:
    run_python(
        """
        from tilework.common.threading import detect_pyfftw, detect_pytorch
        assert detect_pyfftw() is None and detect_pytorch() is None
        """
    )


def test_pyfftw_threads_and_cache() -> None:
    pyfftw: Any = pytest.importorskip("pyfftw")
    pytest.importorskip("pyfftw.interfaces.cache")
    pyfftw.interfaces.cache.enable()
    pyfftw.config.NUM_THREADS = 3
    try:
        with set_num_threads(1), mitigations(), mitigations():
            expected = 1 if detect_pyfftw() else 3
            assert expected == pyfftw.config.NUM_THREADS
            assert not pyfftw.interfaces.cache.is_enabled()
        with set_fftw_threads(2):
            expected = 2 if detect_pyfftw() else 3
            assert expected == pyfftw.config.NUM_THREADS
        assert pyfftw.config.NUM_THREADS == 3
        assert pyfftw.interfaces.cache.is_enabled()
    finally:
        pyfftw.interfaces.cache.disable()


def test_pytorch_threads() -> None:
    torch: Any = pytest.importorskip("torch")
    before = torch.get_num_threads()
    assert detect_pytorch() == torch
    torch.set_num_threads(3)
    try:
        with set_num_threads(1):
            assert torch.get_num_threads() == 1
        with set_torch_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_no_limit_of_threads_that_it_does_not_have() -> None:
    """What its own thread has entered holds, until that leaves it."""
    run_python(
        """
        import os, threading, warnings
        import numpy, threadpoolctl
        from tilework.common import threading as limits
        from tilework.common.threading import set_num_threads

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        blas = lambda: {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}

        def check_in_child(expected, check):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    assert blas() == expected, blas()
                    check()
                    numpy.ones((300, 300)) @ numpy.ones((300, 300))
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0

        def hold():
            with set_num_threads(1):
                inside.set()
                leave.wait()

        def use():
            with set_num_threads(1):
                assert blas() == {1}
            assert blas() == {2}

        def end():
            limit.__exit__(None, None, None)
            assert blas() == {2}

        assert blas() == {2}
        inside, leave = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait()
        check_in_child({2}, use)
        limit = set_num_threads(1)
        limit.__enter__()
        check_in_child({1}, end)
        leave.set()
        holder.join()
        end()
        with limits._lock:
            check_in_child({2}, use)
        """,
        OPENBLAS_NUM_THREADS="2",
    )
