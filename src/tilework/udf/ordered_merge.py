"""Merging in partition order with `UDF.merge`, at once or as steps of a Dask graph: the same bits either way.

Each step copies what is merged so far and puts one partition in. It depends on the step before, so that the order is
that of the scan, whatever is read first; and it changes nothing that another step may need again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import zeros
from tilework.common.dask_graphs import ArraySpec, Constant, Item, LazyGraph, is_lazy, single_key
from tilework.udf.data import MergeAttrMapping, UDFData
from tilework.udf.instance import is_in_run, snapshot
from tilework.udf.merging import merge_part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilework.common.slice import Slice
    from tilework.udf.base import UDF

__all__ = ["merge_in_order"]

Array = np.ndarray[Any, np.dtype[Any]]


def merge_in_order(
    udf: UDF,
    ordered_results: Mapping[Slice, Any],
    names: Sequence[str],
    nav: Sequence[str] = (),
    initial: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Merge the results of all partitions with ``udf.merge``, one after the other.

    Parameters
    ----------
    udf
        Main-side instance.
    ordered_results
        For each partition, in order: its results as attributes, NumPy arrays or Dask arrays of one chunk. Keys are the
        partitions, in positions of the run; they are looked at when there are nav results, or a mask of merged
        positions.
    names
        Names of the results to merge.
    nav
        Those of them of which each partition has its own part.
    initial
        What results hold before the first merge, where that is not zeros: an array for one that is not nav, a Dask
        array of all positions, with one chunk per partition, for one that is.

    Returns
    -------
    dict
        The merged arrays by name, of the kind that was given.
    """
    given = initial or {}
    parts = [[getattr(part, name) for name in names] for part in ordered_results.values()]
    steps = [MergeStep(tuple(names), frozenset(nav), *_span(key)) for key in ordered_results]
    if any(is_lazy(array) for arrays in parts for array in arrays):
        return _merge_later(udf, parts, steps, given)
    state = {name: array for name, array in given.items() if name not in nav}
    own: list[dict[str, Array]] = []
    for arrays, step in zip(parts, steps, strict=True):
        made = step(udf, state, [], arrays)
        state, mine = made if nav else (made, {})
        own.append(mine)
    return state | {name: np.concatenate([mine[name] for mine in own]) for name in nav}


def _span(key: Any) -> tuple[int, int]:
    origin: tuple[int, ...] = getattr(key, "origin", (0,))
    shape: tuple[int, ...] = getattr(key, "shape", (0,))
    return origin[0], origin[0] + shape[0]


def _merge_later(
    udf: UDF, parts: Sequence[Sequence[Any]], steps: Sequence[MergeStep], initial: Mapping[str, Any]
) -> dict[str, Any]:
    """Return Dask arrays that are made by one step per partition."""
    names, nav = steps[0].names, steps[0].nav
    graph = LazyGraph(f"merge-{type(udf).__name__}")
    udf_key = graph.add("udf", Constant(snapshot(udf)))
    state = graph.add("start", Constant({name: array for name, array in initial.items() if name not in nav}))
    touched = [name for name in names if name in nav and name in initial]
    own_keys = []
    for i, (arrays, step) in enumerate(zip(parts, steps, strict=True)):
        own_initial = [initial[name].blocks[i] for name in touched]
        graph.use(*arrays, *own_initial)
        key = graph.add(
            f"merge-{i}",
            step.starting_with(touched),
            udf_key,
            state,
            [single_key(array) for array in own_initial],
            [single_key(array) for array in arrays],
        )
        own_keys.append(key)
        # Without results that add up, a step needs nothing of the step before.
        if nav != frozenset(names):
            state = graph.add(f"state-{i}", Item(0), key) if nav else key
    wanted = []
    for j, name in enumerate(names):
        shape, dtype = parts[0][j].shape, parts[0][j].dtype
        if name in nav:
            frames = tuple(arrays[j].shape[0] for arrays in parts)
            chunks = (frames, *((n,) for n in shape[1:]))
            wanted.append(ArraySpec(name, [(_Own(name), key) for key in own_keys], chunks, dtype))
        else:
            wanted.append(ArraySpec.whole(name, (Item(name), state), shape, dtype))
    return dict(zip(names, graph.arrays(wanted), strict=True))


class MergeStep:
    """Puts the results of one partition into what is merged so far; pure.

    Parameters
    ----------
    names
        Names of the results.
    nav
        Those of which the partition has its own part.
    start, stop
        First and one-past-last position of the partition, in positions of the run.
    touched
        Those of the nav results whose initial part is given.
    """

    __slots__ = ("_start", "_stop", "_touched", "names", "nav")

    def __init__(
        self, names: tuple[str, ...], nav: frozenset[str], start: int, stop: int, touched: tuple[str, ...] = ()
    ) -> None:
        self.names = names
        self.nav = nav
        self._start = start
        self._stop = stop
        self._touched = touched

    def starting_with(self, touched: Sequence[str]) -> MergeStep:
        """Return the step that gets the initial parts of these nav results."""
        return MergeStep(self.names, self.nav, self._start, self._stop, tuple(touched))

    def __call__(
        self, udf: UDF, state: Mapping[str, Array], own_initial: Sequence[Array], part: Sequence[Array]
    ) -> Any:
        """Return what is merged now, a dict; and, if there are nav results, the partition's own part of them, another.

        Parameters
        ----------
        udf
            Main-side instance; if it knows a mask of merged positions, that of the end of the run.
        state
            What was merged before; a result that is not there is zero.
        own_initial
            The initial parts of the nav results in `touched`.
        part
            The results of the partition.
        """
        twin = snapshot(udf, UDFData({}))  # in which the arrays are shown
        if is_in_run(udf) and (merged := udf.meta.get_valid_nav_mask()) is not None:
            merged = merged.copy()
            merged[self._start :] = False
            twin.meta.set_valid_nav_mask(merged)
        before = {**state, **dict(zip(self._touched, own_initial, strict=True))}
        # A merge may well write into what it gets; both sides are copies.
        src = {name: np.array(array) for name, array in zip(self.names, part, strict=True)}
        dest = {
            name: np.array(before[name]) if name in before else zeros(array.shape, array.dtype)
            for name, array in src.items()
        }
        where = f"partition that begins at position {self._start} of the run"
        merge_part(twin, dest, MergeAttrMapping(src), self._start, self._stop, where)
        if not self.nav:
            return dest
        own = {name: dest.pop(name) for name in self.nav}
        return dest, own


class _Own:
    """Takes one of the nav results out of what a step returns."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, made: tuple[Any, Mapping[str, Array]]) -> Array:
        return made[1][self._name]
