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

__all__ = [
    "ArraySpec",
    "Constant",
    "Dask",
    "Item",
    "LazyGraph",
    "import_dask",
    "is_lazy",
    "rechunked",
    "single_key",
    "single_task",
]


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
        When it cannot be imported, or its arrays are of a kind of which no graphs are made here; `what` says what needs
        it.
    """
    try:
        import dask.array
        from dask.base import compute
        from dask.delayed import Delayed, delayed
        from dask.highlevelgraph import HighLevelGraph
    except ImportError as e:
        msg = f"{what} needs Dask, which cannot be imported ({e}): pip install 'tilework[dask]'"
        raise ExecutorSpecException(msg) from e
    if getattr(dask.array, "ARRAY_EXPR_ENABLED", False):
        msg = (
            f"{what} cannot use Dask's arrays with query planning: leave its setting array.query-planning out, or let "
            "it be False, when dask.array is imported"
        )
        raise ExecutorSpecException(msg)
    return Dask(dask.array, delayed, Delayed, HighLevelGraph, compute)


def is_lazy(array: Any) -> bool:
    """Return whether `array` is a Dask array, or another of Dask's collections."""
    return hasattr(array, "__dask_graph__")


def rechunked(array: Any, chunks: Any) -> Any:
    """Return a Dask array with other chunks.

    Whatever is set for Dask, by way of tasks that every scheduler can do: those of "p2p" need a cluster.
    """
    return array.rechunk(chunks, method="tasks")


def single_key(array: Any) -> Any:
    """Return the key of a Dask array that has one chunk only."""
    keys = array.__dask_keys__()
    while isinstance(keys, list):
        (keys,) = keys
    return keys


def single_task(array: Any) -> tuple[Any, ...]:
    """Return the task that makes a Dask array of one chunk, which must come from a `LazyGraph`.

    Another array can have it as one of its chunks, without a task that only hands it on.
    """
    task: tuple[Any, ...] = array.dask.layers[array.name][single_key(array)]
    return task


# The key that is the second one of tasks that have only one; the same in all graphs.
_ANCHOR = "tilework-anchor"


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

    Dask joins a task and the only one that it depends on into one with another key, and does so for each kind of
    collection alone: what both an array and a `Delayed` depend on would be done twice. Tasks of this graph are never
    joined to what they depend on: each depends on two others, on an anchor if need be.

    Parameters
    ----------
    name
        What its tasks are called in Dask's dashboards; a number is added that no other graph has.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}-{uuid.uuid4().hex}"
        self._tasks: dict[Any, Any] = {}

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
        self._tasks[key] = self._task(call, keys)
        return key

    def _task(self, call: Callable[..., Any], keys: Sequence[Any]) -> tuple[Any, ...]:
        n_keys = sum(len(key) if isinstance(key, list) else 1 for key in keys)
        return (call, *keys) if n_keys != 1 else (_Anchored(call), _ANCHOR, *keys)

    def use(self, *collections: Any) -> None:
        """Take over the tasks of Dask arrays, or others of Dask's collections: their keys can be given to `add`.

        They become part of the one layer: thousands of layers take Dask as long as thousands of tasks.
        """
        for collection in collections:
            for layer in collection.__dask_graph__().layers.values():
                self._tasks.update(layer)

    def _base(self) -> Any:
        self._tasks[_ANCHOR] = 0
        return import_dask().HighLevelGraph({self._name: self._tasks}, {self._name: set()})

    def delayed(self, key: str) -> Any:
        """Return the `dask.delayed.Delayed` of a task."""
        return import_dask().Delayed(key, self._base(), layer=self._name)

    def arrays(self, wanted: Iterable[ArraySpec]) -> list[Any]:
        """Return Dask arrays of what tasks of this graph return; the last thing that is done with it."""
        dask = import_dask()
        base = self._base()
        made = []
        for spec in wanted:
            name = f"{spec.label}-{self._name}"
            rest = (0,) * (len(spec.chunks) - 1)
            layer = {(name, i, *rest): self._task(call, keys) for i, (call, *keys) in enumerate(spec.blocks)}
            graph = dask.HighLevelGraph({**base.layers, name: layer}, {**base.dependencies, name: {self._name}})
            made.append(dask.array.Array(graph, name, spec.chunks, dtype=spec.dtype))
        return made


class ArraySpec(NamedTuple):
    """A Dask array that is wanted of a `LazyGraph`.

    Attributes
    ----------
    label
        Its name; unique in the graph.
    blocks
        For each chunk, which follow each other along the first axis: a callable, and the keys that it is called with.
    chunks
        Sizes of the chunks along each axis.
    dtype
        Dtype.
    """

    label: str
    blocks: Sequence[tuple[Any, ...]]
    chunks: tuple[tuple[int, ...], ...]
    dtype: Any

    @classmethod
    def whole(cls, label: str, block: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> ArraySpec:
        """Return an array of one chunk."""
        return cls(label, [block], tuple((n,) for n in shape), dtype)


class _Anchored:
    """Calls something with all but the first of what it gets."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, _anchor: None, *args: Any) -> Any:
        return self._call(*args)
