"""Dask is an extra: what to say when it is missing, and how its clients are set up and used."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from tilework.exceptions import ExecutorSpecException, NoSchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "LOG_LEVEL",
    "LOG_LEVEL_VARIABLE",
    "configuration_read_in_c",
    "no_scheduler",
    "quick",
    "require_dask",
    "submit",
]

LOG_LEVEL: Final = "distributed.logging.distributed"
"""Where Dask's configuration says from which level on Dask's messages are logged."""

LOG_LEVEL_VARIABLE: Final = "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED"
"""The same, in the environment."""


def require_dask() -> None:
    """Raise ExecutorSpecException when Dask cannot be imported, with what to do."""
    missing = [name for name in ("dask", "distributed") if find_spec(name) is None]
    if missing:
        msg = (
            f"the Dask executor needs {' and '.join(missing)}, which is not installed: pip install 'tilework[dask]', "
            "or use Context.make_with('threads')"
        )
        raise ExecutorSpecException(msg)


def no_scheduler(address: object, error: BaseException) -> NoSchedulerError:
    """Return what to raise when no scheduler can be reached at an address."""
    return NoSchedulerError(
        f"no Dask scheduler answers at {address}: {error}. Start one with 'dask scheduler', and check address and "
        "firewall"
    )


def quick(client: Any) -> Any:
    """Let a client of ours pass small messages on to the scheduler at once; Dask would wait 10 ms for more of them."""
    stream: Any = getattr(client, "scheduler_comm", None)
    if hasattr(stream, "interval"):
        stream.interval = 0.001
    return client


def submit(client: Any, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Let Dask call a function for us; returns the future.

    Where it may do so is for us to say, and not for the annotations of whoever happens to have caused it.
    """
    import dask

    with dask.annotate(resources=options.get("resources") or {}, retries=0, allow_other_workers=False):
        return client.submit(fn, *args, pure=False, **options)


@contextmanager
def configuration_read_in_c() -> Iterator[None]:
    """Let Dask, when it is imported inside the block, read its YAML files by the C library that comes with PyYAML.

    The parser in Python, which does the same, takes a tenth of the time that the whole import takes.
    """
    yaml: Any = import_module("yaml")
    in_python, in_c = yaml.loader.SafeLoader, getattr(yaml, "CSafeLoader", None)
    is_replaced = in_c is not None and yaml.SafeLoader is in_python  # or another thread is here, or has its own
    if is_replaced:
        yaml.SafeLoader = in_c
    try:
        yield
    finally:
        if is_replaced:
            yaml.SafeLoader = in_python
