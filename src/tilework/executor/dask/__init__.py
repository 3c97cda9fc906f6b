"""Tasks and functions on the workers of a Dask cluster.

::

    DaskJobExecutor        what the interface asks for                                                     executor
      lend_thread          what a run inside a Dask task does first                                        nested
    AsyncDaskJobExecutor   the same for asyncio                                                            aio
      Connection           the client, the workers that there are, and the way to them                     connection
      DaskBackend          one run, in its consumer's thread                                               backend
        Courier            batches to the workers and back; in the event loop of the Dask client           courier
          Dispatch         who gets what: decisions without I/O                                            dispatch
            Lane, Station  a run and a worker, as these decisions see them                                 lanes
          Roster           who is there: the events of the scheduler                                       roster
          ask_for_worker   what lets a cluster that adapts start its first worker                          demand
          Carriage         how a batch travels: to a seat, or as a Dask task                               carriage
          Shipment         what a run has on its way                                                       shipment
          Reach            who can be reached without the scheduler                                        reach
          Scattered        parameters of runs; survive every worker                                        scattered
            Sealed         what travels                                                                    sealed
            Seat           a Dask task on a worker's thread, which gets the batches of a run               seat, seating
              Table        which batch is whose: decisions without I/O                                    table
            run_batch      what happens on a worker                                                        worker
            Orphans        ends what a killed program left                                                 orphans
    cluster_spec           which workers a cluster has                                                     spec
    LocalCluster           a cluster of our own                                                            local
      LocalNanny           starts and restarts each of its workers                                         nanny
        WorkerProcess      a fork of the template, or a new interpreter                                    spawning
          Template         has loaded what all workers need                                                template
        StderrRelay        what they write to stderr                                                       stderr
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilework.common.later import import_later

if TYPE_CHECKING:
    from tilework.executor.dask.aio import AsyncDaskJobExecutor
    from tilework.executor.dask.executor import DaskJobExecutor
    from tilework.executor.dask.spec import cluster_spec, set_worker_log_level

# The template is started before the rest is imported; and workers need little of it.
_PLACES = {
    "AsyncDaskJobExecutor": "aio",
    "DaskJobExecutor": "executor",
    "cluster_spec": "spec",
    "set_worker_log_level": "spec",
}

__all__ = ["AsyncDaskJobExecutor", "DaskJobExecutor", "cluster_spec", "set_worker_log_level"]

if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, __name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
