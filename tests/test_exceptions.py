"""Exceptions are those of Python, too, which programs catch that were written for LiberTEM."""

from __future__ import annotations

import pytest

from tilework.executor.dask import DaskJobExecutor, cluster_spec


def test_a_cluster_where_no_scheduler_answers() -> None:
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        DaskJobExecutor.connect("tcp://127.0.0.1:1", client_kwargs={"timeout": 0.2})


def test_arguments_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="preload is part of a spec"):
        DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False), preload=("os",))
