"""Where errors of a task are said to happen."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import RemoteError, UDFException
from tilework.udf import UDF


class Misspelt(UDF):
    """Its kernel asks for task data that only its tasks know not to be there."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype="float32")}

    def get_task_data(self) -> Any:
        return {"weights": 2}

    def get_frame_kernel(self) -> Any:
        def weighted(frame: Any, total: Any, weigths: Any) -> None:
            total[0] = frame.sum() * weigths

        return weighted


def test_an_error_before_the_tiles_is_that_of_its_own_function() -> None:
    """Not that of another one of the same run."""
    with Context.make_with("inline") as ctx, pytest.raises(UDFException, match="'weigths'") as caught:
        ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=[Misspelt(), FrameMax()])
    (note,) = caught.value.__notes__
    assert note.startswith("in get_frame_kernel of Misspelt, partition")


class Leaves(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        raise self.params.kind("enough")


@pytest.mark.parametrize(
    ("executor", "kind"),
    [("inline", SystemExit), ("inline", GeneratorExit), ("threads", asyncio.CancelledError), ("pipelined", SystemExit)],
)
def test_what_would_end_the_interpreter_says_where_it_was_raised(executor: Any, kind: Any) -> None:
    """As errors do: it arrives as one."""
    with Context.make_with(executor) as ctx, pytest.raises(RemoteError, match=f"{kind.__name__}: enough") as caught:
        ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=Leaves(kind=kind))
    text = "".join(traceback.format_exception(caught.value))
    assert "in process_frame of Leaves, partition part-" in text


def test_an_interrupt_stays_what_it_is() -> None:
    """Of an inline run, which is in the thread that is interrupted."""
    with Context.make_with("inline") as ctx, pytest.raises(KeyboardInterrupt, match="enough"):
        ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=Leaves(kind=KeyboardInterrupt))
