"""A run that somebody iterates over, as others see it: its handle tells how far it is and how it ended, and cancels."""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import FrameMax, TileSum, counts
from tilework.api import Context, ResultGenerator, RunProgress, UDFRun
from tilework.exceptions import JobCancelledError, UDFException, UDFRunCancelled
from tilework.udf import UDF
from tilework.udf.results import UDFResults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = counts((8, 8, 6, 5))
N_PARTITIONS = 16


class OnPurposeError(Exception):
    pass


class Failing(UDF):
    """Fails in the partitions from `first` on."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        if self.meta.slice.origin[0] >= self.params.first:
            raise OnPurposeError


class Scaled(UDF):
    """The sum of frames times `factor`, after `seconds`."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        time.sleep(self.params.seconds)
        self.results.total[:] = frame.sum() * self.params.factor


@pytest.fixture(params=["inline", "threads"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    kwargs = {"cpus": 2} if request.param == "threads" else {}
    with Context.make_with(request.param, **kwargs) as context:
        yield context


def load(ctx: Context) -> Any:
    return ctx.load("memory", data=DATA, num_partitions=N_PARTITIONS)


def iterate(ctx: Context, udf: Any = None) -> ResultGenerator:
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax() if udf is None else udf)
    assert isinstance(parts, ResultGenerator)
    return parts


# ---- how it ends ----


def test_a_run_that_is_finished(ctx: Context) -> None:
    """Its handle has the same result as `run_udf`, and has called whoever asked for it, once."""
    seen: list[UDFRun] = []
    for udf in (FrameMax(), [FrameMax(), TileSum()]):
        parts = iterate(ctx, udf)
        run = parts.run
        assert isinstance(run, UDFRun)
        run.add_done_callback(seen.append)
        for n, part in enumerate(parts):
            assert run.progress == RunProgress(n + 1, N_PARTITIONS, (n + 1) * 4, 64)
            assert (run.done(), run.running()) == (False, True)
            assert run.partial().damage.data.sum() == part.damage.data.sum()
            assert not seen
        assert (run.done(), run.running(), run.cancelled(), run.exception()) == (True, False, False, None)
        assert run.cancel() is False
        got, want = run.result(), ctx.run_udf(dataset=load(ctx), udf=udf)
        for each, expected in zip(run.partial().buffers, want if isinstance(want, tuple) else (want,), strict=True):
            assert {k: v.data.tobytes() for k, v in each.items()} == {k: v.data.tobytes() for k, v in expected.items()}
        assert isinstance(got, tuple) == isinstance(want, tuple)
        assert "finished, 16 of 16 partitions" in repr(run)
        assert seen.pop() is run
        assert not list(parts)


def test_the_last_result_is_made_only_for_who_asks() -> None:
    """Somebody who takes no result of the last part does not pay for it, and may still do so later."""
    calls: list[int] = []

    class Counting(FrameMax):
        def get_results(self) -> Any:
            calls.append(1)
            return super().get_results()

    with Context.make_with("inline") as ctx:
        parts = iterate(ctx, Counting())
        assert len(list(parts)) == N_PARTITIONS
        assert not calls
        assert parts.run.result()["maximum"].data.all()
        assert len(calls) == 1


def drop(parts: ResultGenerator) -> None:
    next(parts)


def leave(parts: ResultGenerator) -> None:
    next(parts)
    parts.close()


def leave_without_a_step(parts: ResultGenerator) -> None:
    parts.close()


def forget_without_a_step(parts: ResultGenerator) -> None:
    pass


def interrupt(parts: ResultGenerator) -> None:
    next(parts)
    with pytest.raises(KeyboardInterrupt):
        parts.throw(KeyboardInterrupt())


def test_a_part_says_what_it_contains_and_can_be_kept(ctx: Context) -> None:
    """Its arrays are those of the run; pickle makes one that stays as it is, and so does `partial` of the run."""
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax())
    part = next(parts)
    merged = int(np.asarray(part.damage.raw_data).sum())
    assert repr(part) == f"<results of {merged} of {DATA.shape[0] * DATA.shape[1]} positions>"
    kept = [pickle.loads(pickle.dumps(part)), parts.run.partial()]
    ((name, buffer),) = part.buffers[0].items()
    before = buffer.data.copy()
    next(parts)
    assert not np.array_equal(buffer.data, before)
    for results in kept:
        assert isinstance(results, UDFResults)
        assert int(np.asarray(results.damage.raw_data).sum()) == merged
        np.testing.assert_array_equal(results.buffers[0][name].data, before)
    parts.close()


@pytest.mark.parametrize("end", [drop, leave, leave_without_a_step, forget_without_a_step, interrupt])
def test_a_run_that_is_left_early_is_cancelled(ctx: Context, end: Callable[[ResultGenerator], None]) -> None:
    """Whoever waits for it learns of that, and it keeps what it had merged."""
    parts = iterate(ctx, Scaled(factor=1, seconds=0))
    run = parts.run
    seen: list[UDFRun] = []
    run.add_done_callback(seen.append)
    end(parts)
    del parts
    gc.collect()
    assert (run.done(), run.cancelled()) == (True, True)
    assert seen == [run]
    n = run.progress.partitions
    with pytest.raises(UDFRunCancelled, match=f"^UDF run cancelled after {n} partitions$"):
        run.result(timeout=0)
    assert repr(run) == f"<UDFRun Scaled: cancelled, {n} of 16 partitions>"
    merged = run.partial().damage.data
    assert merged.sum() == 4 * n
    assert np.array_equal(run.partial().buffers[0]["total"].data[merged], DATA.sum(axis=(2, 3))[merged])
    assert ctx.run_udf(dataset=load(ctx), udf=FrameMax())["maximum"].data.all()


def test_a_run_that_fails(ctx: Context) -> None:
    """The error is raised where the run is iterated over, and by its handle."""
    parts = iterate(ctx, Failing(first=8))
    with pytest.raises(OnPurposeError) as raised:
        list(parts)
    run = parts.run
    assert run.exception() is raised.value
    assert (run.done(), run.cancelled(), run.cancel()) == (True, False, False)
    assert "failed" in repr(run)
    assert not list(parts)


def test_a_plot_that_fails_ends_the_run(ctx: Context) -> None:
    """Nothing goes on behind the back of somebody who got an error."""

    class Plot:
        def new_data(self, *args: Any, **kwargs: Any) -> None:
            raise OnPurposeError

        def get_udf(self) -> UDF:
            return udf

    udf = FrameMax()
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=udf, plots=[Plot()])
    with pytest.raises(OnPurposeError):
        next(parts)
    assert isinstance(parts.run.exception(timeout=0), OnPurposeError)
    assert not list(parts)


def test_an_error_keeps_nothing_alive(ctx: Context) -> None:
    """Neither the run nor its error waits for the garbage collector."""
    ds = load(ctx)
    gc.collect()
    gc.disable()
    try:
        try:
            ctx.run_udf(dataset=ds, udf=Failing(first=0))
        except OnPurposeError as error:
            alive = weakref.ref(error)
        until = time.monotonic() + 10
        while alive() is not None and time.monotonic() < until:
            time.sleep(0.001)  # a thread may still be about to let go of it
        assert alive() is None
    finally:
        gc.enable()


# ---- from other threads ----


def test_cancel_from_another_thread(ctx: Context) -> None:
    parts = iterate(ctx, Scaled(factor=1, seconds=0.002))
    begun = threading.Event()

    def cancel() -> None:
        begun.wait(60)
        assert parts.run.cancel() is True

    thread = threading.Thread(target=cancel)
    thread.start()
    next(parts)
    begun.set()
    with pytest.raises(UDFRunCancelled):
        list(parts)
    thread.join()
    assert parts.run.cancelled()
    assert "cancelled" in repr(parts.run)


def test_waiting_for_a_run_that_another_thread_iterates_over(ctx: Context) -> None:
    """It comes with the last part; the thread that iterates cannot wait for itself, and is told so."""
    parts = iterate(ctx)
    run = parts.run
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run.result(60)))
    thread.start()
    next(parts)
    for wait in (run.result, run.exception):
        with pytest.raises(RuntimeError, match="go on to its end first"):
            wait()
    assert len(list(parts)) == N_PARTITIONS - 1
    thread.join()
    assert results[0] is run.result()


def test_parameters_are_changed_through_the_handle(ctx: Context) -> None:
    """By whoever iterates, once it has begun, and by another thread."""
    parts = iterate(ctx, Scaled(factor=1, seconds=0))
    run = parts.run
    with pytest.raises(UDFException, match="after the first partial result"):
        run.update_parameters_experimental([{"factor": 2}])
    next(parts)
    run.update_parameters_experimental([{"factor": 2}])
    next(parts)
    thread = threading.Thread(target=run.update_parameters_experimental, args=([{"factor": 3}],))
    thread.start()
    thread.join()
    assert len(list(parts)) == N_PARTITIONS - 2
    factors = run.result()["total"].data / DATA.sum(axis=(2, 3))
    assert factors[0, 0] == 1
    assert factors[-1, -1] == 3


# ---- asyncio ----


class Doubled(UDF):
    """Makes something of a parameter once for all tasks; a task that has begun does it when there is a new one."""

    def get_result_buffers(self) -> Any:
        return {name: self.buffer(kind="nav", dtype="i8") for name in ("factor", "double")}

    def process_partition(self, partition: Any) -> None:
        del partition
        if self.params.factor == 1 and self.meta.slice.origin[0] > 0:
            self.params.began.set()
            assert self.params.changed.wait(20)
        self.results.factor[:] = self.params.factor
        self.results.double[:] = self.cached("double", lambda: 2 * self.params.factor)


def test_what_a_running_task_makes_of_old_parameters_is_not_for_later_tasks() -> None:
    began, changed = threading.Event(), threading.Event()
    with Context.make_with("threads", cpus=2) as ctx:
        ds = ctx.load("memory", data=counts((12, 1, 4, 4)), sig_dims=2, num_partitions=12)
        parts = ctx.run_udf_iter(dataset=ds, udf=Doubled(factor=1, began=began, changed=changed))
        next(parts)
        assert began.wait(20)
        parts.update_parameters_experimental([{"factor": 5}])
        changed.set()
        (last,) = [*parts][-1:]
    factor, double = (last.buffers[0][name].data for name in ("factor", "double"))
    assert {1, 5} == set(factor.flat)
    np.testing.assert_array_equal(double, 2 * factor)


def test_the_handle_of_an_asynchronous_iterator(ctx: Context) -> None:
    """It is there as soon as the run is prepared; others can await it, and cancel."""

    async def main() -> None:
        parts = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax(), sync=False)
        with pytest.raises(RuntimeError, match="not started"):
            _ = parts.run
        await anext(parts)
        assert parts.run.progress.partitions >= 1
        others = asyncio.ensure_future(parts.run)
        assert len([part async for part in parts]) == N_PARTITIONS - 1
        assert (await others)["maximum"].data.all()
        assert parts.run.done()

        left = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax(), sync=False)
        await anext(left)
        await left.aclose()
        assert left.run.cancelled()

        cancelled = ctx.run_udf_iter(dataset=load(ctx), udf=Scaled(factor=1, seconds=0.002), sync=False)
        await anext(cancelled)
        assert cancelled.run.cancel() is True
        with pytest.raises(UDFRunCancelled):
            [part async for part in cancelled]
        assert cancelled.run.cancelled()

    asyncio.run(main())


def test_cancelling_while_a_run_is_prepared(ctx: Context) -> None:
    """An asyncio task that is cancelled that early does not wait for the whole run either."""
    preparing, go_on = threading.Event(), threading.Event()
    frames: list[int] = []

    class SlowToPrepare(FrameMax):
        def preprocess(self) -> None:
            preparing.set()
            go_on.wait(60)

        def process_frame(self, frame: Any) -> None:
            frames.append(1)

    async def main(start: Callable[[], Any]) -> None:
        preparing.clear()
        go_on.clear()
        task = asyncio.ensure_future(start())
        await asyncio.to_thread(preparing.wait)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    ds = load(ctx)
    asyncio.run(main(lambda: ctx.run_udf(dataset=ds, udf=SlowToPrepare(), sync=False)))
    asyncio.run(main(lambda: anext(ctx.run_udf_iter(dataset=ds, udf=SlowToPrepare(), sync=False))))
    assert not frames


@pytest.mark.parametrize("n_steps", [5, N_PARTITIONS + 1])
def test_an_instance_that_runs_again_leaves_earlier_results_alone(ctx: Context, n_steps: int) -> None:
    """Also those that nobody has looked at before: of a run that was left, and of one that is finished."""
    udf = Scaled(factor=1, seconds=0)
    parts = iterate(ctx, udf)
    seen = list(itertools.islice(parts, n_steps))
    parts.close()
    ctx.run_udf(dataset=ctx.load("memory", data=np.zeros((3, 3, 4, 4))), udf=udf)
    partial = parts.run.partial()
    for part in (seen[-1], partial):
        merged = part.damage.data
        assert merged.sum() == min(64, n_steps * 4)
        assert np.array_equal(part.buffers[0]["total"].data[merged], DATA.sum(axis=(2, 3))[merged])


def test_an_error_of_results_that_contain_nothing(ctx: Context) -> None:
    """A ROI that selects nothing is a run like others: what goes wrong with its results is how it ended."""

    class NoResults(FrameMax):
        def get_results(self) -> Any:
            raise OnPurposeError

    run = ctx.submit_udf(dataset=load(ctx), udf=NoResults(), roi=np.zeros((8, 8), dtype=bool))
    assert isinstance(run.exception(60), OnPurposeError)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_job_cancelled_error_that_is_thrown_in_cancels(ctx: Context, steps: int) -> None:
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax())
    for _ in range(steps):
        next(parts)
    with pytest.raises(UDFRunCancelled, match=f"cancelled after {steps} partitions"):
        parts.throw(JobCancelledError("enough"))
    assert parts.run.cancelled()


def test_parameters_that_come_too_late(ctx: Context) -> None:
    """Whoever changes them as the run ends is told that it is over, and nothing of how they travel."""
    for _ in range(20):
        parts = ctx.run_udf_iter(dataset=load(ctx), udf=FrameMax())

        def change(run: Any = parts.run) -> str:
            while True:
                try:
                    run.update_parameters_experimental([{}])
                except UDFException as error:
                    return str(error)

        with ThreadPoolExecutor(1) as pool:
            next(parts)
            told = pool.submit(change)
            for _ in parts:
                pass
            assert "while the run goes on" in told.result(20)
