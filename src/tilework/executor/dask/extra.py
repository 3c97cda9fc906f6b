"""Dask is an extra: what to say when it is missing, and how its clients are set up."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tilework.exceptions import ExecutorSpecException

__all__ = ["quick", "require_dask"]


def require_dask() -> None:
    """Raise ExecutorSpecException when Dask cannot be imported, with what to do."""
    missing = [name for name in ("dask", "distributed") if find_spec(name) is None]
    if missing:
        msg = (
            f"the Dask executor needs {' and '.join(missing)}, which is not installed: pip install 'tilework[dask]', "
            "or use Context.make_with('threads')"
        )
        raise ExecutorSpecException(msg)


def quick(client: Any) -> Any:
    """Let a client of ours pass small messages on to the scheduler at once; Dask would wait 10 ms for more of them."""
    stream: Any = getattr(client, "scheduler_comm", None)
    if hasattr(stream, "interval"):
        stream.interval = 0.001
    return client
