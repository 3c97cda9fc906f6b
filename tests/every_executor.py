"""One of every kind of executor, small, for tests that do the same on all of them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tilework.api import Context
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.delayed import DelayedJobExecutor
from tilework.executor.inline import InlineJobExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.common.executor import JobExecutor

__all__ = ["EVERY_EXECUTOR", "IN_PROCESS", "make_context"]


def _pipelined(n: int) -> JobExecutor:
    from tilework.executor.pipelined import PipelinedExecutor

    return PipelinedExecutor(PipelinedExecutor.make_spec(cpus=range(n), cudas=()))


def _dask(n: int) -> JobExecutor:
    from tilework.executor.dask import DaskJobExecutor, cluster_spec

    spec = cluster_spec(cpus=range(n), cudas=(), has_cupy=False)
    return DaskJobExecutor.make_local(spec=spec, client_kwargs={"set_as_default": False})


def _loky(stack: ExitStack) -> JobExecutor:
    loky = pytest.importorskip("loky")
    pool = loky.get_reusable_executor(2, timeout=300)
    stack.callback(pool.shutdown, wait=True)
    return ConcurrentJobExecutor(pool)


def _of_a_client(stack: ExitStack) -> JobExecutor:
    """Return the executor for somebody else's client, whose workers know nothing of tilework."""
    from distributed import Client, LocalCluster

    from tilework.executor.integration import get_dask_integration_executor

    quiet: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50, "host": "127.0.0.1"}
    cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, **quiet))
    stack.enter_context(Client(cluster))
    return get_dask_integration_executor(main_process_gpu=False)


def _of_dask(stack: ExitStack) -> JobExecutor:
    """Return the executor for Dask as it is without a client: on its threads."""
    import dask

    from tilework.executor.integration import get_dask_integration_executor

    stack.enter_context(dask.config.set(scheduler="threads", num_workers=2))
    return get_dask_integration_executor(main_process_gpu=False)


EVERY_EXECUTOR: dict[str, Callable[[ExitStack], JobExecutor]] = {
    "inline": lambda _: InlineJobExecutor(),
    "threads": lambda _: ConcurrentJobExecutor.make_local(2),
    "pipelined": lambda _: _pipelined(2),
    "pipelined, one worker": lambda _: _pipelined(1),
    "processes": lambda _: ConcurrentJobExecutor.make_processes(2),
    "loky": _loky,
    "dask": lambda _: _dask(2),
    "dask-integration, client": _of_a_client,
    "dask-integration, threads": _of_dask,
    "delayed": lambda _: DelayedJobExecutor(),
}
"""What makes each; what it puts on the stack is undone after the executor is closed."""

IN_PROCESS = frozenset({"inline", "threads", "dask-integration, threads", "delayed"})
"""Those that run tasks in this process, so that they see the objects of a test."""


@contextmanager
def make_context(name: str) -> Iterator[Context]:
    """Make the executor of this name, and a context with it; both are closed at the end of the block."""
    with ExitStack() as stack, Context(executor=EVERY_EXECUTOR[name](stack)) as context:
        yield context
