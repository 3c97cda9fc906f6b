"""Dask graphs that are put together task by task. Dask is imported when it is needed.

Tasks are written in Dask's graph specification: a tuple of a callable and of what it is called with, where keys of
other tasks, also in lists, stand for what those return. Everything that is no key belongs to the callable.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from tilework.exceptions import ExecutorSpecException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Constant", "Dask", "Item", "LazyGraph", "import_dask", "is_lazy", "single_key"]


class Dask(NamedTuple):
    """What is used of Dask."""

    array: Any
    delayed: Any
    Delayed: Any
    HighLevelGraph: Any
    compute: Any


def import_dask(what: str = "this") -> Dask:
    """Return what is used of Dask.

    Raises
    ------
    ExecutorSpecException
        When it cannot be imported; `what` says what needs it.
    """
    try:
        import dask.array
        from dask.base import compute
        from dask.delayed import Delayed, delayed
        from dask.highlevelgraph import HighLevelGraph
    except ImportError as e:
        msg = f"{what} needs Dask, which cannot be imported ({e}): pip install 'tilework[dask]'"
        raise ExecutorSpecException(msg) from e
    return Dask(dask.array, delayed, Delayed, HighLevelGraph, compute)


def is_lazy(array: Any) -> bool:
    """Return whether `array` is a Dask array, or another of Dask's collections."""
    return hasattr(array, "__dask_graph__")


def single_key(array: Any) -> Any:
    """Return the key of a Dask array that has one chunk only."""
    keys = array.__dask_keys__()
    while isinstance(keys, list):
        (keys,) = keys
    return keys


class Constant:
    """A task that returns the same object every time; whatever it is, Dask does not look into it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        """Return it."""
        return self.value


class Item:
    """A task that takes one item out of what another returns."""

    __slots__ = ("index",)

    def __init__(self, index: Any) -> None:
        self.index = index

    def __call__(self, container: Any) -> Any:
        """Return the item."""
        return container[self.index]


class LazyGraph:
    """Tasks that are added one by one and become one layer of the graphs of arrays.

    Parameters
    ----------
    name
        What its tasks are called in Dask's dashboards; a number is added that no other graph has.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}-{uuid.uuid4().hex}"
        self._tasks: dict[Any, Any] = {}
        self._sources: dict[str, Any] = {}

    def add(self, label: str, call: Callable[..., Any], *keys: Any) -> str:
        """Add a task.

        Parameters
        ----------
        label
            What it does; unique in this graph.
        call
            Called with what the tasks of `keys` return. It must not change that: others may use it, too.
        *keys
            Keys, or lists of keys.

        Returns
        -------
        str
            The key of the task.
        """
        key = f"{label}-{self._name}"
        self._tasks[key] = (call, *keys)
        return key

    def use(self, *collections: Any) -> None:
        """Make the tasks of Dask arrays, and others of Dask's collections, known: their keys can be given to `add`."""
        for collection in collections:
            (name,) = collection.__dask_layers__()
            self._sources[name] = collection

    def arrays(self, wanted: Iterable[tuple[str, Sequence[Any], tuple[tuple[int, ...], ...], Any]]) -> list[Any]:
        """Return Dask arrays of what tasks of this graph return; the last thing that is done with it.

        Parameters
        ----------
        wanted
            For each array: its label; the keys of its chunks, which differ along the first axis; the sizes of the
            chunks along each axis; and its dtype.

        Returns
        -------
        list of dask.array.Array
        """
        dask = import_dask()
        base = dask.HighLevelGraph.from_collections(self._name, self._tasks, dependencies=list(self._sources.values()))
        made = []
        for label, keys, chunks, dtype in wanted:
            name = f"{label}-{self._name}"
            rest = (0,) * (len(chunks) - 1)
            layer = {(name, i, *rest) if chunks else (name,): key for i, key in enumerate(keys)}
            graph = dask.HighLevelGraph({**base.layers, name: layer}, {**base.dependencies, name: {self._name}})
            made.append(dask.array.Array(graph, name, chunks, dtype=dtype))
        return made
