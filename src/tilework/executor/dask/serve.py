"""Workers for a scheduler that runs somewhere else, until somebody ends them."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorError
from tilework.executor.dask.extra import no_scheduler
from tilework.executor.dask.spec import set_worker_log_level

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["serve"]

START_SECONDS: Final = 60.0

CONNECT_SECONDS: Final = 10.0
"""How long to look for the scheduler, unless Dask is configured to give up earlier."""


def serve(scheduler: str, spec: Mapping[str, Mapping[str, Any]], log_level: str = "WARNING") -> None:
    """Start workers, and return when all have ended.

    Parameters
    ----------
    scheduler
        Its address, such as ``"tcp://host:8786"``.
    spec
        The workers, as of `cluster_spec`.
    log_level
        What they log to standard error.

    Raises
    ------
    NoSchedulerError
        When the scheduler does not answer.
    ExecutorError
        When workers do not start.
    """
    import dask

    from tilework.common.threading import set_num_threads_env

    with (
        set_num_threads_env(1),
        set_worker_log_level(log_level, force=True),
        dask.config.set({"distributed.worker.profile.enabled": False}),
    ):
        asyncio.run(_serve(scheduler, spec, log_level))


async def _serve(scheduler: str, spec: Mapping[str, Mapping[str, Any]], log_level: str) -> None:
    from distributed import Nanny

    from tilework.executor.dask.nanny import LocalNanny

    for handler in logging.getLogger("distributed").handlers:
        handler.setLevel(log_level)
    await _check(scheduler)
    nannies = [
        (LocalNanny if entry["cls"] is Nanny else entry["cls"])(
            scheduler, name=name, **{**entry["options"], "silence_logs": log_level, "dashboard": False}
        )
        for name, entry in spec.items()
    ]
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM) if sys.platform != "win32" else ():
        loop.add_signal_handler(number, ended.set)
    try:
        try:
            await asyncio.wait_for(asyncio.gather(*nannies), START_SECONDS)
        except (RuntimeError, OSError) as error:
            msg = f"the workers for the scheduler at {scheduler} could not be started: {error.__cause__ or error}"
            raise ExecutorError(msg) from error
        all_ended: asyncio.Future[Any] = asyncio.gather(*(nanny.finished() for nanny in nannies))
        asked: asyncio.Future[Any] = asyncio.ensure_future(ended.wait())
        await asyncio.wait({all_ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
    finally:
        await asyncio.gather(*(nanny.close(timeout=5) for nanny in nannies), return_exceptions=True)


async def _check(scheduler: str) -> None:
    import dask
    from dask.utils import parse_timedelta
    from distributed.comm import connect

    seconds = min(CONNECT_SECONDS, parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")))
    try:
        comm = await connect(scheduler, timeout=seconds)
    except (OSError, ValueError) as error:
        raise no_scheduler(scheduler, error) from error
    await comm.close()
