"""Axes that several results share: their coordinates, and names that no result has as well."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.io.results.channel import ResultAxis, ResultChannel

__all__ = ["shared_coordinates", "with_distinct_axes"]

Array = np.ndarray[Any, np.dtype[Any]]

_PREFIXES = {"nav": "scan", "sig": "sig", "single": "axis"}


def shared_coordinates(channels: Mapping[str, ResultChannel]) -> dict[str, tuple[ResultAxis, Array]]:
    """Return the axes whose scale is known, by name, each with its coordinates, float64.

    Left out is a name that means different axes in different results.
    """
    axes: dict[str, set[tuple[ResultAxis, int]]] = {}
    for channel in channels.values():
        for axis, size in zip(channel.dims, channel.data.shape, strict=True):
            axes.setdefault(axis.name, set()).add((axis, size))
    known = {}
    for name, meanings in axes.items():
        axis, size = next(iter(meanings))
        values = axis.coordinates(size)
        if len(meanings) == 1 and values is not None:
            known[name] = (axis, values)
    return known


def with_distinct_axes(channels: Mapping[str, ResultChannel]) -> dict[str, ResultChannel]:
    """Return the results, with other names for axes that are called as a result: ``x`` becomes ``scan_x``.

    Coordinates are stored beside the results under the names of their axes, and xarray knows both by these names.
    """

    def distinct(axis: ResultAxis, kind: str) -> ResultAxis:
        name = axis.name
        while name in channels:
            name = f"{_PREFIXES[kind]}_{name}"
        return axis if name == axis.name else replace(axis, name=name)

    return {
        key: replace(channel, dims=tuple(distinct(axis, channel.kind) for axis in channel.dims))
        for key, channel in channels.items()
    }
