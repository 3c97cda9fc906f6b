"""Datasets whose data comes while it is processed: from a detector."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tilework.common.executor import ChoosyExecutor, NoopCommHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import JobExecutor, TaskCommHandler
    from tilework.io.dataset.base import DataSet

__all__ = ["Acquisition", "acquiring"]

logger = logging.getLogger(__name__)


@runtime_checkable
class Acquisition(Protocol):
    """What a `DataSet` has as well when it must know that it is processed now.

    The data itself reaches the tasks through `DataSet.get_task_comm_handler`, which some executors cannot serve: that
    is asked for before the beginning, too. With an executor that makes Dask graphs instead of running anything there is
    no beginning and no end, so it is not told.
    """

    def start_acquisition(self) -> None:
        """Make the detector ready; called when a run begins, before its first task. Without it there is no run."""

    def end_acquisition(self) -> None:
        """Leave the detector alone; called when a run that began is over, however it ended."""


@contextmanager
def acquiring(dataset: DataSet, executor: JobExecutor) -> Iterator[None]:
    """Tell an acquisition that a run goes on inside; other datasets need not know.

    An error of the run is raised as it is, also when the acquisition cannot be ended after it: that is logged.

    Raises
    ------
    ExecutorError
        When the executor cannot pass on what the acquisition streams. Nothing was made ready then.
    """
    if not isinstance(dataset, Acquisition):
        yield
        return
    if isinstance(executor, ChoosyExecutor):
        handler: TaskCommHandler = NoopCommHandler()
        with suppress(Exception):  # some have none before they are ready, and are refused later
            handler = dataset.get_task_comm_handler()
        executor.check_handler(handler)
    dataset.start_acquisition()
    try:
        yield
    except BaseException:
        try:
            dataset.end_acquisition()
        except Exception:
            logger.warning("a run that did not get to its end could not end its acquisition either", exc_info=True)
        raise
    dataset.end_acquisition()
