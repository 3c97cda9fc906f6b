"""DelayedJobExecutor keeps the part of the contract that an executor can keep which runs nothing itself."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.buffers import BufferWrapper, PlaceholderBufferWrapper, PreallocBufferWrapper
from tilework.common.dask_buffers import DaskBufferWrapper
from tilework.common.executor import Environment, NoopCommHandler, RunOptions
from tilework.common.shape import Shape
from tilework.exceptions import ExecutorError, ExecutorSpecException, JobCancelledError
from tilework.executor.delayed import DelayedJobExecutor
from tilework.testing.executor_services import Patched
from tilework.testing.executors import ExecutorContract
from tilework.testing.faults import CallTask, FakePartition, FakeTask, StreamHandler

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tilework.common.executor import TaskProtocol


class ComputedAtOnce(DelayedJobExecutor):
    """Its users compute what they get as they get it, with Dask, in their own thread."""

    def run_tasks(self, *args: Any, **kwargs: Any) -> Generator[tuple[Any, TaskProtocol], None, None]:
        return self._computed(super().run_tasks(*args, **kwargs))

    @staticmethod
    def _computed(
        results: Generator[tuple[Any, TaskProtocol], None, None],
    ) -> Generator[tuple[Any, TaskProtocol], None, None]:
        with closing(results):
            for delayed, task in results:
                yield delayed.compute(scheduler="sync"), task


# What the contract asks for and this executor does not have, with the reason; see docs/executors/delayed.md.
RUNNING = "tasks run in Dask's schedulers, which this executor has no hold on"
DECLARED = {
    "test_async_cancel": RUNNING,
    "test_async_task_is_cancelled": RUNNING,
    "test_cancel": RUNNING,
    "test_cancel_before_the_first_result": RUNNING,
    "test_cancel_one_of_two": RUNNING,
    "test_closed_in_the_middle_of_a_run": RUNNING,
    "test_ctrl_c_in_a_terminal": RUNNING,
    "test_deadline": "it runs nothing, so a time limit is refused",
    "test_deadline_that_is_kept": "it runs nothing, so a time limit is refused",
    "test_report": "an error shows where the result is computed, so the run that made the graph did not fail",
    "test_runs_as_many_tasks_at_a_time_as_declared": "its worker stands for a scheduler that it does not know",
    "test_messages_of_tasks": "tasks have no line to the main side: it may be long gone when they run",
}


def not_there(reason: str) -> Any:
    def test(self: Any) -> None:
        pytest.skip(f"declared: {reason}")

    return test


class TestDelayed(ExecutorContract):
    make_code = "from tilework.executor.delayed import DelayedJobExecutor; executor = DelayedJobExecutor()"
    worker_names = ("delayed",)
    threaded = True
    streams = False
    prioritises = False
    tells_interrupts = False

    def make_executor(self) -> DelayedJobExecutor:
        return ComputedAtOnce()


for name, reason in DECLARED.items():
    assert hasattr(ExecutorContract, name), name
    setattr(TestDelayed, name, not_there(reason))


# -- what only this executor does


@pytest.fixture
def executor() -> Iterator[DelayedJobExecutor]:
    with DelayedJobExecutor() as made:
        yield made


class Declared(dict[str, Any]):
    """Buffers by name, as the results of a UDF are."""

    def as_dict(self) -> dict[str, Any]:
        return self


class Part(FakePartition):
    """A partition with some frames."""

    def get_frame_count(self, roi: Any = None) -> int:
        return 5 if roi is None else int(np.count_nonzero(roi))


class BufferTask(FakeTask):
    """Returns the results of two UDFs."""

    def get_partition(self) -> Part:
        return Part(f"part-{self.index}")

    def __call__(self, params: Any, env: Environment) -> Any:
        return (
            Declared(nav=filled("nav", (5, 2), params), total=filled("sig", (3, 4), params + 1)),
            Declared(total=filled("single", (1,), params + 2)),
        )


def filled(kind: Any, shape: tuple[int, ...], value: float) -> BufferWrapper:
    extra = {"nav": shape[1:], "sig": (), "single": shape}[kind]
    buffer = PreallocBufferWrapper(np.full(shape, value, dtype="f4"), kind, extra, "f4")
    buffer.set_span(0, shape[0], (3, 4))
    return buffer


def masters() -> list[Any]:
    """Return two main-side UDFs: their declared results, and no region of interest."""
    first = Declared(
        nav=filled("nav", (25, 2), 0), total=filled("sig", (3, 4), 0), derived=PlaceholderBufferWrapper("nav")
    )
    meta = SimpleNamespace(roi=None)
    return [SimpleNamespace(results=r, meta=meta) for r in (first, Declared(total=filled("single", (1,), 0)))]


def test_tasks_become_delayed(executor: DelayedJobExecutor) -> None:
    """Nothing runs before somebody computes; then in whatever scheduler; the graph outlives its executor."""
    ran = []

    def work(params: Any, env: Environment) -> Any:
        ran.append(params)
        return params, env.threads_per_worker, env.threaded_executor

    with executor.scatter("p") as handle:
        made = list(executor.run_tasks([CallTask(i, fn=work) for i in range(3)], handle, "run", NoopCommHandler()))
    executor.close()
    assert ran == []
    assert [type(delayed).__name__ for delayed, _ in made] == ["Delayed"] * 3
    assert made[1][0].compute(scheduler="threads") == ("p", 1, True)
    assert ran == ["p"]


def test_registered_udfs_give_the_structure_of_results(executor: DelayedJobExecutor) -> None:
    executor.register_master_udfs(masters())
    with executor.scatter(7) as handle:
        (first, task), _ = executor.run_tasks([BufferTask(0), BufferTask(1)], handle, "run", NoopCommHandler())
        assert isinstance(task, BufferTask)
        assert [sorted(result) for result in first] == [["nav", "total"], ["total"]]
        buffers = [buffer for result in first for buffer in result.values()]
        assert [b.delayed_raw_data.shape for b in buffers] == [(5, 2), (3, 4), (1,)]
        assert [b.kind for b in buffers] == ["nav", "sig", "single"]
        values = [float(b.delayed_data.max().compute()) for b in buffers]
        assert values == [7, 8, 9]
        # They are those of one run.
        ((delayed, _),) = executor.run_tasks([FakeTask(3)], handle, "run", NoopCommHandler())
        assert delayed.compute(scheduler="sync") == 3


def test_registered_udfs_belong_to_their_thread(executor: DelayedJobExecutor) -> None:
    executor.register_master_udfs(masters())

    def elsewhere() -> Any:
        with executor.scatter(1) as handle:
            ((delayed, _),) = executor.run_tasks([FakeTask(3)], handle, "run", NoopCommHandler())
            return delayed.compute(scheduler="sync")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == 3


def test_updates_do_not_change_graphs_that_are_made(executor: DelayedJobExecutor) -> None:
    with executor.scatter(Patched(1)) as handle:

        def make() -> Any:
            task = CallTask(0, fn=lambda params, env: params.value)
            ((delayed, _),) = executor.run_tasks([task], handle, "run", NoopCommHandler())
            return delayed

        before = make()
        executor.scatter_update_patch(handle, 10)
        patched = make()
        executor.scatter_update(handle, Patched(5))
        updated = make()
    assert [d.compute(scheduler="sync") for d in (before, patched, updated)] == [1, 11, 5]


def test_what_it_cannot_do_is_refused(executor: DelayedJobExecutor) -> None:
    with executor.scatter(None) as handle:
        with pytest.raises(ValueError, match="time limit"):
            executor.run_tasks([FakeTask(0)], handle, "run", NoopCommHandler(), options=RunOptions(timeout=1))
        with pytest.raises(ExecutorError, match="streamed"):
            executor.run_tasks([FakeTask(0)], handle, "run", StreamHandler())
        run = executor.run_tasks([FakeTask(0), FakeTask(1)], handle, "run", NoopCommHandler())
        next(run)
        assert executor.cancel("run")
        with pytest.raises(JobCancelledError):
            next(run)


def test_run_delayed(executor: DelayedJobExecutor) -> None:
    pair = executor.run_delayed(divmod, 17, 5, _delayed_kwargs={"nout": 2})
    total = executor.run_delayed(lambda a, *, b: a + b, pair[0], b=pair[1])
    assert total.compute(scheduler="sync") == 5


def test_unwrap_results() -> None:
    arrays = DelayedJobExecutor.unwrap_results(BufferTask(0)(1, Environment(1, False)))
    assert [a.shape for a in arrays] == [(5, 2), (3, 4), (1,)]


def test_resources_of_udfs() -> None:
    def needs(*backends: str, user: Any = None) -> Any:
        return DelayedJobExecutor.get_resources_from_udfs([SimpleNamespace(get_backends=lambda: backends)], user)

    assert needs("numpy") == {"compute": 1, "CPU": 1, "ndarray": 1}
    assert needs("numpy", "cupy") == {"compute": 1, "ndarray": 1}
    assert needs("numpy", "cupy", user=("cupy",)) == {"compute": 1, "CUDA": 1, "ndarray": 1}
    assert needs("cuda") == {"compute": 1, "CUDA": 1}
    with pytest.raises(ValueError, match="none may be used"):
        needs("numpy", user="cupy")
    mixed = [SimpleNamespace(get_backends=lambda: "cupy"), SimpleNamespace(get_backends=lambda: "numpy")]
    with pytest.raises(ValueError, match="together"):
        DelayedJobExecutor.get_resources_from_udfs(mixed)


def test_only_buffers_that_can_be_large_become_dask_arrays(executor: DelayedJobExecutor) -> None:
    buffer: Any = BufferWrapper("nav", (3,), "f8")
    shape = Shape((1000, 1000, 8, 8), 2)
    nav: Any = executor.modify_buffer_type(buffer)
    nav.set_shape_ds(shape)
    nav.allocate()
    assert type(nav).__name__ == DaskBufferWrapper.__name__
    assert nav.data.shape == (1000, 1000, 3)
    assert nav.is_untouched
    nav.raw_data[5:7] = 1
    assert not nav.is_untouched
    for other in (BufferWrapper("sig"), BufferWrapper("single"), PlaceholderBufferWrapper("nav"), nav):
        assert executor.modify_buffer_type(other) is other


def test_by_name() -> None:
    with Context.make_with("delayed") as ctx:
        assert isinstance(ctx.executor, DelayedJobExecutor)
        assert ctx.executor.get_available_workers().names() == ["delayed"]
    for wrong in ({"cpus": 2}, {"gpus": 1}):
        with pytest.raises(ExecutorSpecException, match="leave out"):
            Context.make_with("delayed", **wrong)


def test_query_planning_of_dask() -> None:
    """Its arrays have no graphs that could be put together; the error names the setting."""
    code = """if True:
        import dask
        dask.config.set({"array.query-planning": True})
        import dask.array
        import pytest
        from tilework.api import Context
        from tilework.exceptions import DataSetException
        with pytest.raises(ValueError, match="array.query-planning"):
            Context.make_with("delayed")
        with Context.make_with("inline") as ctx, pytest.raises(DataSetException, match="array.query-planning"):
            ctx.load("dask", dask.array.ones((4, 4, 8, 8)), sig_dims=2)
    """
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
