"""Datasets whose data comes while it is processed: from a detector."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.io.dataset.base import DataSet

__all__ = ["Acquisition", "acquiring"]

logger = logging.getLogger(__name__)


@runtime_checkable
class Acquisition(Protocol):
    """What a `DataSet` has as well when it must know that it is processed now.

    The data itself reaches the tasks through `DataSet.get_task_comm_handler`.
    """

    def start_acquisition(self) -> None:
        """Make the detector ready; called when a run begins, before its first task. Without it there is no run."""

    def end_acquisition(self) -> None:
        """Leave the detector alone; called when a run that began is over, however it ended."""


@contextmanager
def acquiring(dataset: DataSet) -> Iterator[None]:
    """Tell an acquisition that a run goes on inside; other datasets need not know.

    An error of the run is raised as it is, also when the acquisition cannot be ended after it: that is logged.
    """
    if not isinstance(dataset, Acquisition):
        yield
        return
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
