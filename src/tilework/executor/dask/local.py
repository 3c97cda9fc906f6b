"""A Dask cluster on this machine, for this process."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError
from tilework.executor.dask.extra import LOG_LEVEL, LOG_LEVEL_VARIABLE, require_dask
from tilework.executor.exits import describe_exit, describe_last_words

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LocalCluster", "start_cluster"]

_LOOPBACK: Final = "127.0.0.1"

_EXIT_SECONDS: Final = 1.0
"""How long to wait for the exit code of a worker that the scheduler has lost."""

_LESS_OFTEN: Final = {
    "distributed.admin.tick.interval": ("20ms", "250ms"),
    "distributed.admin.system-monitor.interval": ("500ms", "2s"),
}
"""What Dask's default is, and ours. Scheduler, nannies and client share a thread, which has better things to do."""


def start_cluster(spec: Mapping[str, Any], cluster_kwargs: Mapping[str, Any] | None) -> LocalCluster:
    """Start a scheduler in this process, and the workers of a specification.

    Parameters
    ----------
    spec
        As of `cluster_spec`.
    cluster_kwargs
        For ``distributed.SpecCluster``. By default the scheduler can be reached from this machine only, and has no
        dashboard, which would take as long to load as everything else;
        ``cluster_kwargs={"scheduler": {"cls": distributed.Scheduler, "options": {"dashboard": True}}}`` has one.

    Raises
    ------
    ExecutorError
        In a daemon process, which cannot start any.
    """
    require_dask()
    if multiprocessing.current_process().daemon:
        msg = (
            "a daemon process, as workers of Dask are, cannot start the processes of a cluster: make the context with "
            "'dask-integration', which uses the cluster of the worker, or with 'pipelined', 'threads' or 'inline'"
        )
        raise ExecutorError(msg)
    import dask
    from distributed import Scheduler

    from tilework.common.threading import set_num_threads_env
    from tilework.executor.dask.nanny import LocalSpecCluster

    kwargs = dict(cluster_kwargs or {})
    given: Any = kwargs.pop("workers", None)
    workers = {name: _for_this_machine(entry) for name, entry in (spec if given is None else given).items()}
    options = {"dashboard": False, "dashboard_address": f"{_LOOPBACK}:0", "host": _LOOPBACK}
    kwargs.setdefault("scheduler", {"cls": Scheduler, "options": options})
    # What becomes of workers is seen by the executor, which says so where it matters.
    kwargs.setdefault("silence_logs", logging.CRITICAL)
    config = {
        "distributed.worker.profile.enabled": False,
        **({LOG_LEVEL: os.environ[LOG_LEVEL_VARIABLE]} if LOG_LEVEL_VARIABLE in os.environ else {}),
        **{name: now for name, (before, now) in _LESS_OFTEN.items() if dask.config.get(name, before) == before},
    }
    with set_num_threads_env(1), dask.config.set(config):
        return LocalCluster(LocalSpecCluster(workers=workers, **kwargs))


def _for_this_machine(entry: Mapping[str, Any]) -> dict[str, Any]:
    from distributed import Nanny

    from tilework.executor.dask.nanny import LocalNanny

    options = {"host": _LOOPBACK, "dashboard": False, **entry.get("options", {})}
    return {**entry, "cls": LocalNanny if entry["cls"] is Nanny else entry["cls"], "options": options}


class LocalCluster:
    """A cluster that this process has started.

    Parameters
    ----------
    cluster
        The ``distributed.SpecCluster``.
    """

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self._asleep: dict[str, Any] = {}

    def revive(self) -> None:
        """Start the workers again whose nanny has given up; Dask does not."""
        workers = self.cluster.workers
        for name in [name for name, nanny in workers.items() if nanny.status.name in {"closed", "failed"}]:
            del workers[name]
        if set(self.cluster.worker_spec) - set(workers):
            self.cluster.scale(len(self.cluster.worker_spec))

    async def describe_loss(self, name: str, pid: int | None) -> str:
        """Return how a worker ended that the scheduler has lost just now, for people: what follows its name."""
        for _ in range(0 if pid is None else 50):
            # One of that name, before this one or after it, may have ended otherwise just now.
            exits = [each for each in getattr(self.cluster.workers.get(name), "exits", ()) if each.pid == pid]
            if exits:
                return f": {describe_exit(exits[-1].code)}{describe_last_words(exits[-1].stderr)}"
            await asyncio.sleep(_EXIT_SECONDS / 50)
        return " left the cluster"

    def scale_down(self) -> int:
        """Let all workers go but one; returns how many there are then."""
        self._asleep = dict(self.cluster.worker_spec)
        self.cluster.scale(1)
        return 1

    def scale_up(self) -> int:
        """Start the workers again that went; returns how many there are then."""
        if self._asleep:
            self.cluster.worker_spec.update(self._asleep)
            self._asleep = {}
        self.cluster.scale(len(self.cluster.worker_spec))
        return len(self.cluster.worker_spec)

    def close(self, timeout: float = 30.0) -> None:
        """End scheduler and workers; TimeoutError when that takes longer, in seconds."""
        self.cluster.close(timeout=timeout)
