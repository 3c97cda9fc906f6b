"""How a cluster that starts workers on demand (``cluster.adapt()``) learns that there is some.

Tasks are sent to workers; where there are none, Dask sees nothing to do, and would start none.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from tilework.executor.dask.extra import submit

__all__ = ["ask_for_worker"]

_NOBODY: Final = {"tilework-nobody": 1}
"""What no worker has."""


def ask_for_worker(client: Any) -> Any:
    """Return a Dask future; as long as somebody holds it, Dask has a task that nobody can do, and wants a worker.

    One that the first worker could do would be done before that is known here, and the worker might go again at once.
    """
    return submit(client, _do_nothing, key=f"tilework-needs-workers-{uuid.uuid4().hex}", resources=_NOBODY)


def _do_nothing() -> None:
    """Be a task."""
