"""What an executor has of a Dask cluster: its client, which workers there are, and the way to them.

Who owns what: a `Connection` belongs to its executor. The client, and the cluster if there is one, end with it if they
are its own. Courier and roster live in the event loop of the client.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ResourceError
from tilework.executor.dask.courier import NO_WORKER_SECONDS, Courier
from tilework.executor.dask.demand import ask_for_worker
from tilework.executor.dask.extra import no_scheduler, quick
from tilework.executor.dask.roster import Roster, identity, make_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tilework.common.scheduler import Worker, WorkerSet
    from tilework.executor.dask.lanes import Station
    from tilework.executor.dask.local import LocalCluster

__all__ = ["Connection", "make_client"]

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 10.0


def make_client(scheduler: Any, client_kwargs: Mapping[str, Any] | None) -> tuple[Any, bool]:
    """Connect to a scheduler.

    Parameters
    ----------
    scheduler
        Its address, or whatever else ``distributed.Client`` takes.
    client_kwargs
        For ``distributed.Client``, which does not become Dask's default unless they say so.

    Returns
    -------
    client, is_local
        And whether it ends with the executor: unless it is Dask's default.

    Raises
    ------
    NoSchedulerError
        When the scheduler cannot be reached.
    """
    from distributed import Client

    options = {"set_as_default": False, **(client_kwargs or {})}
    try:
        client = quick(Client(scheduler, **options))
    except OSError as error:
        raise no_scheduler(scheduler, error) from error
    return client, not options["set_as_default"]


class Connection:
    """A client, and the workers of its cluster.

    Parameters
    ----------
    client
        The Dask client.
    is_tagged
        Whether the workers have the resources of `cluster_spec`; None: found out, also of those that come later.
    on_loss
        Method that is called in the client's event loop with a worker that has left, as long as its object lives.
    """

    cluster: LocalCluster | None = None
    """The cluster, if this process has started it."""

    def __init__(self, client: Any, is_tagged: bool | None, on_loss: Callable[[Worker], None]) -> None:
        self.client = client
        self.name = uuid.uuid4().hex[:16]
        """Names its runs on workers that others use as well."""
        self._on_loss = weakref.WeakMethod(on_loss)
        self._known_workers: dict[str, Worker] = {}  # those that are there, or were
        self._is_closed = False
        self._pid = os.getpid()
        infos = client.sync(identity, client)
        self.courier = Courier(client, self._describe_loss)
        self._roster = Roster(self.courier, is_tagged, self._on_change, self._on_shortage)
        client.sync(self._open, infos)

    async def _open(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        self.courier.loop_thread = threading.get_ident()
        self._roster.open(infos)

    @property
    def is_tagged(self) -> bool:
        """Whether the workers that there are, or were, have the resources of `cluster_spec`."""
        return self._roster.is_tagged

    # ---- workers ----

    def stations(self) -> list[Station]:
        """Return the workers that the scheduler knows of now, as the courier sees them."""
        return list(self.courier.dispatch.stations.values())

    def workers(self) -> WorkerSet:
        """Return the workers that the scheduler knows of now, by name."""
        return make_workers(dict(self.courier.dispatch.stations))

    def known_workers(self) -> list[Worker]:
        """Return the workers that are there, or were: those that died are expected back.

        When there never was one, it may be about to start, which is waited for; ResourceError when none comes.
        """
        if not self._known_workers:
            demand = ask_for_worker(self.client)
            until = time.monotonic() + NO_WORKER_SECONDS
            while not self._known_workers and time.monotonic() < until:
                time.sleep(0.05)
            del demand
        if not self._known_workers:
            msg = (
                f"the Dask cluster has no workers, and none came within {NO_WORKER_SECONDS:g} s: start some, with "
                "'tilework worker', 'dask worker' or cluster.scale(2); where they take longer to come, wait for them "
                "before the run, with executor.client.wait_for_workers(1)"
            )
            raise ResourceError(msg)
        return list(self._known_workers.values())

    def scale_down(self) -> None:
        """Let all workers go but one."""
        assert self.cluster is not None
        self.client.sync(self._roster.expect, self.cluster.scale_down())

    def scale_up(self) -> None:
        """Bring the workers back that went."""
        assert self.cluster is not None
        self.client.sync(self._roster.expect, self.cluster.scale_up())

    async def _describe_loss(self, station: Station) -> str:
        name = station.worker.name
        how = " left the cluster" if self.cluster is None else await self.cluster.describe_loss(name, station.pid)
        return f"the worker {name} at {station.address}{how}"

    def _on_change(self, topic: str, worker: Worker) -> None:
        self._known_workers[worker.name] = worker
        on_loss = self._on_loss()
        if topic == "worker_lost" and not self._is_closed and on_loss is not None:
            on_loss(worker)

    def _on_shortage(self) -> None:
        if self.cluster is not None and not self._is_closed:
            self.cluster.revive()

    # ---- the end ----

    def close(self, *, is_local: bool) -> None:
        """Stop what runs, and end the client and the cluster if they are `is_local`.

        Each step is bounded: an interpreter that exits must not wait for ever for an event loop that does not answer.
        Worker processes that are left then end with this one.
        """
        self._is_closed = True
        client = self.client
        try:
            if client.status in {"running", "connecting"}:
                client.sync(self._close, callback_timeout=_CLOSE_SECONDS)
        except TimeoutError:
            log.warning("the runs of a Dask executor did not end within %g s", _CLOSE_SECONDS)
        if not is_local:
            return
        client.close(timeout=5)
        if self.cluster is not None:
            try:
                self.cluster.close(timeout=_CLOSE_SECONDS)
            except TimeoutError:
                log.warning("a local Dask cluster did not end within %g s", _CLOSE_SECONDS)

    def let_go(self) -> None:
        """End without waiting for anything, as the garbage collector must, in whatever thread it comes by."""
        if not self._is_closed and not self.is_forked():
            self._is_closed = True
            self.client.loop.add_callback(self._close)

    def is_forked(self) -> bool:
        """Return whether this is a fork: without the event loop's thread, and with connections of its parent."""
        return os.getpid() != self._pid

    async def _close(self) -> None:
        await self.courier.close()
        self._roster.close()
