"""A run in steps, as those have it who do not go through `Context`: how it is ended, and changed by several threads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.executor.inline import InlineJobExecutor
from tilework.udf import UDFRunEndMixin
from tilework.udf.base import UDFRunner


class Ends(FrameMax, UDFRunEndMixin):
    """Notes that its run is over."""

    told: list[bool]

    def __init__(self, told: list[bool], factor: int = 1) -> None:
        super().__init__(told=told, factor=factor)

    def end_run(self, is_complete: bool) -> None:
        self.params.told.append(is_complete)


def test_an_exception_before_the_first_step_ends_the_run() -> None:
    told: list[bool] = []
    with Context.make_with("inline") as ctx:
        steps = UDFRunner([Ends(told)]).run_for_dataset_sync(ctx.load("memory", data=counts()), ctx.executor)
        with pytest.raises(ZeroDivisionError, match="thrown in"):
            steps.throw(ZeroDivisionError("thrown in"))
        assert told == [False]
        waits = threading.Thread(target=steps.wait_until_started, daemon=True)
        waits.start()
        waits.join(5)
        assert not waits.is_alive()


def test_parameters_that_two_threads_change_at_a_time() -> None:
    """What holds in the end on the workers holds on the main side, too."""
    sent: list[int] = []
    is_first_sent, is_second_over = threading.Event(), threading.Event()

    class Slow(InlineJobExecutor):
        def scatter_update_patch(self, handle: Any, patch: Any) -> None:
            super().scatter_update_patch(handle, patch)
            sent.append(patch[0]["factor"])
            if len(sent) == 1:
                is_first_sent.set()
                is_second_over.wait(0.2)

    with Slow() as executor:
        ds = Context(executor=executor).load("memory", data=counts(), num_partitions=3)
        steps = UDFRunner([Ends([])]).run_for_dataset_sync(ds, executor)
        next(steps)
        first = threading.Thread(target=steps.update_parameters_experimental, args=([{"factor": 2}],))
        first.start()
        assert is_first_sent.wait(5)
        steps.update_parameters_experimental([{"factor": 3}])
        is_second_over.set()
        first.join()
        assert sent == [2, 3]
        assert steps.run.udfs[0]._kwargs["factor"] == 3
        steps.close()


def test_results_of_a_run_whose_function_works_elsewhere() -> None:
    """They are those that it made, also while nobody has taken note yet that it is over."""
    data = counts()
    udf = FrameMax()
    with Context.make_with("inline") as ctx:
        steps = UDFRunner([udf]).run_for_dataset_sync(ctx.load("memory", data=data), ctx.executor, iterate=False)
        made = next(steps)
        ctx.run_udf(dataset=ctx.load("memory", data=counts((3, 2, 4, 4), seed=1)), udf=udf)
        for results in (made, steps.run.results()):
            np.testing.assert_array_equal(results.buffers[0]["maximum"].data, data.max(axis=(2, 3)))
