"""Datasets whose data comes while it is processed: a run tells them when it begins and when it is over."""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import TileSum, counts
from tilework.api import Context
from tilework.common.executor import TaskCommHandler
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import ExecutorError, UDFRunCancelled
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.executor.inline import InlineJobExecutor
from tilework.executor.pipelined import PipelinedExecutor
from tilework.io.dataset.acquisition import Acquisition
from tilework.io.dataset.base import DataSet, DataSetMeta, DataTile, Partition
from tilework.io.dataset.memory import MemoryDataSet
from tilework.udf import UDF
from tilework.udf.sumsigudf import SumSigUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.common.executor import JobExecutor, TaskProtocol, WorkerQueue

DATA = counts((4, 6, 5, 7))

MAKERS: dict[str, Callable[[], JobExecutor]] = {
    "dask": lambda: DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False, num_service=0)),
    "processes": lambda: ConcurrentJobExecutor.make_processes(1),
}


class Detector(TaskCommHandler):
    """Streams the frames of each partition; each stands for itself, so that one that was never armed has none."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.frames: Iterator[Any] = iter(())

    def handle_task(self, task: TaskProtocol, queue: WorkerQueue) -> None:
        partition = task.get_partition()
        assert isinstance(partition, Partition)
        for _ in range(partition.shape[0]):
            queue.put("frame", next(self.frames).tobytes())


class LivePartition(Partition):
    def get_tiles(
        self, tiling_scheme: Any, dest_dtype: Any = None, roi: Any = None, array_backend: Any = None
    ) -> Iterator[DataTile]:
        assert self._worker_context is not None
        queue = self._worker_context.get_worker_queue()
        for i in range(self.shape[0]):
            with queue.get() as (header, payload):
                assert (header, tiling_scheme[0].shape.to_tuple()) == ("frame", DATA.shape[2:])
                frame = np.frombuffer(payload or b"", dtype=DATA.dtype).reshape((1, *DATA.shape[2:]))
                where = Slice((self.slice.origin[0] + i, 0, 0), Shape(frame.shape, 2))
                yield DataTile(frame.astype(dest_dtype), where, 0)


class Live(DataSet):
    """An acquisition of DATA; nothing can be read from it unless it was started."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(num_partitions=3)
        self.detector = detector

    def initialize(self, executor: JobExecutor) -> DataSet:
        return self

    @property
    def shape(self) -> Shape:
        return Shape(DATA.shape, 2)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("u2")

    def check_valid(self) -> bool:
        return True

    def get_base_shape(self, roi: Any) -> tuple[int, ...]:
        return (1, *DATA.shape[2:])

    def get_partitions(self) -> Iterator[Partition]:
        for where, _, _ in Partition.make_slices(self.shape, 3):
            yield LivePartition(DataSetMeta(self.shape, raw_dtype=self.dtype), where)

    def get_task_comm_handler(self) -> TaskCommHandler:
        return self.detector

    def start_acquisition(self) -> None:
        self.detector.calls.append("start")
        self.detector.frames = iter(DATA.reshape((-1, *DATA.shape[2:])))

    def end_acquisition(self) -> None:
        self.detector.calls.append("end")
        self.detector.frames = iter(())


@pytest.mark.parametrize("make", [InlineJobExecutor, lambda: PipelinedExecutor(PipelinedExecutor.make_spec(2, []))])
def test_data_that_comes_during_the_run(make: Callable[[], JobExecutor]) -> None:
    live = Live(Detector())
    assert isinstance(live, Acquisition)
    with Context(executor=make()) as ctx:
        for n in (1, 2):
            total, sums = ctx.run_udf(dataset=live, udf=[TileSum(), SumSigUDF()])
            np.testing.assert_array_equal(total["sig"].data, DATA.sum(axis=(0, 1), dtype="f8"))
            np.testing.assert_array_equal(sums["intensity"].data, DATA.sum(axis=(2, 3)))
            assert live.detector.calls == ["start", "end"] * n


@pytest.mark.parametrize("name", ["dask", "processes"])
def test_what_cannot_be_streamed_is_not_begun(name: str) -> None:
    """The detector is not made ready for a run that is refused."""
    live = Live(Detector())
    with Context(executor=MAKERS[name]()) as ctx, pytest.raises(ExecutorError, match=r"Detector .*stream"):
        ctx.run_udf(dataset=live, udf=TileSum())
    assert live.detector.calls == []


class InC(UDF):
    """Gives the frame to a function in C that has not said ``const``."""

    def get_result_buffers(self) -> Any:
        return {}

    def process_frame(self, frame: Any) -> None:
        (ctypes.c_float * frame.size).from_buffer(frame)


def test_functions_that_insist_on_arrays_which_may_be_changed() -> None:
    """Elsewhere the task is done again, with copies; here its data is gone by then."""
    with Context(executor=InlineJobExecutor()) as ctx, pytest.raises(TypeError, match="not writable") as raised:
        ctx.run_udf(dataset=Live(Detector()), udf=InC())
    assert any("frame.copy()" in note for note in raised.value.__notes__)


class LateLive(Live):
    """It has nothing to stream from before it is started."""

    def get_task_comm_handler(self) -> TaskCommHandler:
        if self.detector.calls[-1:] != ["start"]:
            msg = "not started"
            raise RuntimeError(msg)
        return super().get_task_comm_handler()


def test_a_detector_that_is_known_when_it_is_ready() -> None:
    live = LateLive(Detector())
    with Context(executor=MAKERS["dask"]()) as ctx, pytest.raises(ExecutorError, match="Detector streams"):
        ctx.run_udf(dataset=live, udf=TileSum())
    assert live.detector.calls == ["start", "end"]
    with Context.make_with("threads") as ctx:
        total = ctx.run_udf(dataset=live, udf=TileSum())
    np.testing.assert_array_equal(total["sig"].data, DATA.sum(axis=(0, 1), dtype="f8"))


class Recorded(MemoryDataSet):
    """Frames in memory, and a record of what it is told."""

    calls: list[str]
    error: Exception | None = None
    error_at_end: Exception | None = None

    def start_acquisition(self) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append("start")

    def end_acquisition(self) -> None:
        self.calls.append("end")
        if self.error_at_end is not None:
            raise self.error_at_end


class Failing(UDF):
    def get_result_buffers(self) -> Any:
        return {}

    def process_frame(self, frame: Any) -> None:
        raise LookupError


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.fixture
def recorded(ctx: Context) -> Recorded:
    dataset = Recorded(data=DATA, num_partitions=3)
    dataset.initialize(ctx.executor)
    dataset.calls = []
    return dataset


def test_any_run_is_one(ctx: Context, recorded: Recorded) -> None:
    async def later() -> None:
        await ctx.run_udf(dataset=recorded, udf=TileSum(), sync=False)
        async for _ in ctx.run_udf_iter(dataset=recorded, udf=TileSum(), sync=False):
            assert recorded.calls[-1] == "start" or len(recorded.calls) % 2 == 0

    ctx.run_udf(dataset=recorded, udf=TileSum())
    asyncio.run(later())
    ctx.submit_udf(dataset=recorded, udf=TileSum()).result()
    ctx.run(ctx.create_sum_analysis(dataset=recorded))
    assert recorded.calls == ["start", "end"] * 5


def test_a_graph_is_no_run(recorded: Recorded) -> None:
    with Context.make_with("delayed") as lazy:
        total = lazy.run_udf(dataset=recorded, udf=TileSum())
    np.testing.assert_array_equal(total["sig"].data, DATA.sum(axis=(0, 1), dtype="f8"))
    assert recorded.calls == []


def test_it_begins_with_the_first_step_and_ends_with_the_last(ctx: Context, recorded: Recorded) -> None:
    steps = ctx.run_udf_iter(dataset=recorded, udf=TileSum())
    assert recorded.calls == []
    next(steps)
    assert recorded.calls == ["start"]
    assert len(list(steps)) == 2
    assert recorded.calls == ["start", "end"]


def test_it_is_over_however_it_ends(ctx: Context, recorded: Recorded) -> None:
    steps = ctx.run_udf_iter(dataset=recorded, udf=TileSum())
    next(steps)
    steps.close()
    assert recorded.calls == ["start", "end"]
    with pytest.raises(LookupError):
        ctx.run_udf(dataset=recorded, udf=Failing())
    assert recorded.calls == ["start", "end"] * 2


def test_one_that_cannot_start_is_not_ended(ctx: Context, recorded: Recorded) -> None:
    recorded.error = OSError("the detector is off")
    with pytest.raises(OSError, match="the detector is off"):
        ctx.run_udf(dataset=recorded, udf=TileSum())
    assert recorded.calls == []


def test_the_first_error_wins(ctx: Context, recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    """A detector that cannot be left alone does not hide why the run ended; without another error, it is the error."""
    recorded.error_at_end = OSError("the detector is gone")
    with pytest.raises(LookupError):
        ctx.run_udf(dataset=recorded, udf=Failing())
    steps = ctx.run_udf_iter(dataset=recorded, udf=TileSum())
    next(steps)
    steps.run.cancel()
    with pytest.raises(UDFRunCancelled):
        list(steps)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert caplog.text.count("OSError: the detector is gone") == 2
    with pytest.raises(OSError, match="the detector is gone"):
        ctx.run_udf(dataset=recorded, udf=TileSum())
    assert recorded.calls == ["start", "end"] * 3
