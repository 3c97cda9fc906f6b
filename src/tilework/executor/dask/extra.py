"""Dask is an extra: what to say when it is missing."""

from __future__ import annotations

from importlib.util import find_spec

from tilework.exceptions import ExecutorSpecException

__all__ = ["require_dask"]


def require_dask() -> None:
    """Raise ExecutorSpecException when Dask cannot be imported, with what to do."""
    missing = [name for name in ("dask", "distributed") if find_spec(name) is None]
    if missing:
        msg = (
            f"the Dask executor needs {' and '.join(missing)}, which is not installed: pip install 'tilework[dask]', "
            "or use Context.make_with('threads')"
        )
        raise ExecutorSpecException(msg)
