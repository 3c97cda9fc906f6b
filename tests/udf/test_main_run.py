"""The main side of a run: whom it leaves how when it cannot begin, and what it says when it cannot end."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import NoBackendError
from tilework.testing.wrong_udfs import RightUDF
from tilework.udf.base import UDFRunner

told: list[bool] = []


class Told(RightUDF):
    """Notes what it is told at the end."""

    def end_run(self, is_complete: bool) -> None:
        told.append(is_complete)


class Refuses(RightUDF):
    """Cannot finish what it began."""

    def end_run(self, is_complete: bool) -> None:
        msg = "cannot be finished"
        raise ZeroDivisionError(msg)


def test_a_run_that_cannot_begin_gives_its_functions_back() -> None:
    """Also while somebody keeps the error, as notebooks do: the next run has the function itself, not a copy."""
    udf = FrameMax()
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=counts())
        with pytest.raises(NoBackendError) as kept:
            ctx.run_udf(dataset=ds, udf=udf, backends="cupy")
        ctx.run_udf(dataset=ds, udf=udf)
    assert kept.value is not None
    np.testing.assert_array_equal(udf.results.maximum, counts().max(axis=(2, 3)).reshape(-1))


def test_a_dry_run_that_fails_is_over() -> None:
    """What a function has opened for it, it can close."""

    class NoResults(Told):
        def get_results(self) -> Any:
            msg = "nothing there"
            raise ZeroDivisionError(msg)

    told.clear()
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=counts())
        UDFRunner.dry_run([Told()], ds)
        assert told == [False]
        with pytest.raises(ZeroDivisionError, match="nothing there"):
            UDFRunner.dry_run([NoResults()], ds)
    assert told == [False, False]


def test_several_errors_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """One is raised, the others are logged: not as those of a run that ended early."""
    caplog.set_level(logging.WARNING)
    with Context.make_with("inline") as ctx, pytest.raises(ZeroDivisionError, match="cannot be finished"):
        ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=[Refuses(), Refuses()])
    assert "end_run of Refuses failed, as that of another function" in caplog.text
    assert "early" not in caplog.text
