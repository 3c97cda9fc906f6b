"""Exceptions form the tree that is drawn, and are those of Python, too, which programs for LiberTEM catch."""

from __future__ import annotations

import re

import pytest

from tilework import exceptions
from tilework.executor.dask import DaskJobExecutor, cluster_spec


def drawn() -> dict[str, list[str]]:
    """Return the names of the bases of each exception, as the docstring draws them."""
    bases: dict[str, list[str]] = {}
    above: dict[int, str] = {}
    for indent, name, also in re.findall(
        r"^([ │]*[├└]── )(\w+)(?: +\(also ([\w, ]+)\))?", exceptions.__doc__ or "", re.MULTILINE
    ):
        depth = len(indent) // 4
        bases[name] = [above.get(depth - 1, "TileworkError"), *filter(None, also.split(", "))]
        above[depth] = name
    return bases


def test_all_are_drawn() -> None:
    assert drawn().keys() | {"TileworkError", "ended_iteration"} == set(exceptions.__all__)


@pytest.mark.parametrize(("name", "bases"), drawn().items())
def test_bases_are_those_drawn(name: str, bases: list[str]) -> None:
    assert [base.__name__ for base in getattr(exceptions, name).__bases__] == bases


def test_a_cluster_where_no_scheduler_answers() -> None:
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        DaskJobExecutor.connect("tcp://127.0.0.1:1", client_kwargs={"timeout": 0.2})


def test_arguments_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="preload is part of a spec"):
        DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False), preload=("os",))
