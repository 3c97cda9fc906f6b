"""Environment: what a task sees, limits that hold inside a block only, and the flag that stops a run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tilework.common.environment import Environment, StopFlag
from tilework.common.worker_queue import WorkerContext
from tilework.exceptions import DeadlineExceededError, JobCancelledError


def blas_threads() -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_properties() -> None:
    """What was given is what is seen."""
    context = WorkerContext()
    env = Environment(3, True, worker_context=context, gpu_id=None)
    assert (env.threads_per_worker, env.threaded_executor, env.worker_context, env.gpu_id) == (3, True, context, None)
    assert env.device_class == "cpu"
    assert isinstance(env.has_cupy, bool)
    assert Environment(None, False, gpu_id=1).device_class == "cuda"


@pytest.mark.parametrize("threaded", [False, True])
def test_limit_holds_inside_only(threaded: bool) -> None:
    """The limit holds in the block, also nested and again, and is gone after it, also after an error."""
    env = Environment(1, threaded)
    before = blas_threads()
    for _ in range(3):
        with env.enter() as entered, env.enter(enable_gpu=False):
            assert entered is env
            assert set(blas_threads()) <= {1}
        assert blas_threads() == before
    with pytest.raises(LookupError), env.enter():
        raise LookupError
    assert blas_threads() == before


def test_no_limit() -> None:
    """None sets no limit."""
    before = blas_threads()
    with Environment(None, True).enter() as env:
        assert isinstance(env, Environment)
        assert blas_threads() == before


def test_the_same_environment_in_many_threads() -> None:
    """One environment is entered by several threads at once, in any order, and the limit is gone after the last."""
    env = Environment(1, True)
    before = blas_threads()

    def enter(i: int) -> bool:
        with env.enter():
            time.sleep(0.001 * (i % 3))
            return set(blas_threads()) <= {1}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(enter, range(40)))
    assert blas_threads() == before


def test_mitigations_where_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a threaded executor the interface cache of pyFFTW is off inside the block, once pyFFTW is imported."""
    import sys
    from types import ModuleType

    class Cache(ModuleType):
        on = True

        def is_enabled(self) -> bool:
            return self.on

        def disable(self) -> None:
            self.on = False

        def enable(self) -> None:
            self.on = True

    cache = Cache("pyfftw.interfaces.cache")
    states = []
    monkeypatch.setitem(sys.modules, "pyfftw", ModuleType("pyfftw"))
    monkeypatch.setitem(sys.modules, "pyfftw.interfaces.cache", cache)
    for threaded in (True, False):
        with Environment(1, threaded).enter():
            states.append(cache.on)
        states.append(cache.on)
    assert states == [False, True, True, True]


def test_gpu_without_cupy() -> None:
    """A device number without CuPy that works selects nothing, and is no error."""
    env = Environment(1, False, gpu_id=0)
    if not env.has_cupy:
        with env.enter() as entered:
            assert entered.gpu_id == 0


def test_raise_if_stopped() -> None:
    """Nothing happens until the flag is set, and never without a flag."""
    Environment(None, False).raise_if_stopped()
    flag = StopFlag()
    env = Environment(None, False, stop=flag)
    env.raise_if_stopped()
    flag.set("the user has gone home")
    flag.set("too late")
    assert flag.is_set()
    with pytest.raises(JobCancelledError, match="the user has gone home"):
        env.raise_if_stopped()


def test_deadline() -> None:
    """A flag with a deadline sets itself; a reason that was given before counts more."""
    early, late = StopFlag(time.monotonic() - 1), StopFlag(time.monotonic() + 1000)
    assert (early.is_set(), late.is_set()) == (True, False)
    late.raise_if_set()
    with pytest.raises(DeadlineExceededError, match="longer than the time"):
        Environment(None, False, stop=early).raise_if_stopped()
    early.set("cancelled")
    with pytest.raises(JobCancelledError, match="cancelled") as caught:
        early.raise_if_set()
    assert type(caught.value) is JobCancelledError
