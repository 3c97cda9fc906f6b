"""Runs in the background: what can be seen, changed and awaited while they go on, and that they do not mix."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import psutil
import pytest

from tests_helpers import FrameMax, TileSum, counts
from tilework.api import Context, RunProgress, UDFRun
from tilework.common.progress import ProgressReporter
from tilework.exceptions import DeadlineExceededError, UDFException, UDFRunCancelled
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.io.dataset.memory import MemoryDataSet
from tilework.testing.faults import Signals
from tilework.udf import UDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

DATA = counts((8, 8, 6, 5))
N_PARTITIONS = 16


class Gated(UDF):
    """Sums frames times `factor`; the partitions from the second on wait for a signal, and count ``begun``."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        if self.meta.slice.origin[0] >= 4 and self.params.signals is not None:
            self.params.signals.add("begun")
            while not self.params.signals.count("go"):
                time.sleep(0.001)
        self.results.total[:] = frame.sum() * self.params.factor


class Failing(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        msg = "on purpose"
        raise ValueError(msg)


class Slow(UDF):
    """Two milliseconds for each frame."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        time.sleep(0.002)
        self.results.total[:] = frame.sum()


@pytest.fixture(params=["inline", "threads"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    before = set(threading.enumerate())
    kwargs = {"cpus": 2} if request.param == "threads" else {}
    with Context.make_with(request.param, **kwargs) as context:
        yield context
    until = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < until, "threads are left"
        time.sleep(0.001)


@pytest.fixture
def threads() -> Iterator[Context]:
    with Context.make_with("threads", cpus=2) as context:
        yield context


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(str(tmp_path))


def load(ctx: Context, data: Any = DATA) -> Any:
    return ctx.load("memory", data=data, num_partitions=N_PARTITIONS)


def totals() -> Any:
    return DATA.sum(axis=(2, 3), dtype=np.float64)


# ---- what comes out ----


def test_the_result_is_that_of_run_udf(ctx: Context) -> None:
    """For one UDF, for several, and with a ROI."""
    ds = load(ctx)
    roi = np.random.default_rng(0).random((8, 8)) < 0.5
    run = ctx.submit_udf(dataset=ds, udf=FrameMax())
    assert isinstance(run, UDFRun)
    assert np.array_equal(run.result(60)["maximum"].data, ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].data)
    pair = ctx.submit_udf(ds, [FrameMax(), TileSum()], roi=roi).result()
    expected = ctx.run_udf(dataset=ds, udf=[FrameMax(), TileSum()], roi=roi)
    for got, want in zip(pair, expected, strict=True):
        for name in want:
            assert got[name].raw_data.tobytes() == want[name].raw_data.tobytes()
    empty = ctx.submit_udf(ds, FrameMax(), roi=np.zeros((8, 8), dtype=bool))
    assert len(empty.result()["maximum"].raw_data) == 0
    assert empty.progress == RunProgress(0, 0, 0, 0)
    assert empty.progress.fraction == 1


def test_a_finished_run(ctx: Context) -> None:
    """It says so in every way."""
    run = ctx.submit_udf(load(ctx), FrameMax())
    result = run.result()
    assert (run.done(), run.running(), run.cancelled(), run.exception()) == (True, False, False, None)
    assert run.cancel() is False
    assert run.progress == RunProgress(N_PARTITIONS, N_PARTITIONS, 64, 64)
    assert run.partial().buffers[0] is result
    assert repr(run) == "<UDFRun FrameMax: finished, 16 of 16 partitions>"
    with pytest.raises(UDFException, match="while the run goes on"):
        run.update_parameters_experimental([{}])


def test_errors(ctx: Context) -> None:
    """What is wrong with arguments shows at once, what goes wrong in the run where its result is asked for."""
    ds = load(ctx)
    with pytest.raises(TypeError, match="instance"):
        ctx.submit_udf(ds, FrameMax)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"'live', 'interactive', 'batch'"):
        ctx.submit_udf(ds, FrameMax(), priority="urgent")
    with pytest.raises(ValueError, match="timeout"):
        ctx.submit_udf(ds, FrameMax(), timeout=0)
    run = ctx.submit_udf(ds, Failing())
    with pytest.raises(ValueError, match="on purpose"):
        run.result(60)
    assert isinstance(run.exception(), ValueError)
    assert (run.done(), run.cancelled()) == (True, False)
    assert "failed" in repr(run)
    assert not run.partial().damage.data.any()
    assert ctx.submit_udf(ds, FrameMax()).exception() is None


# ---- while it goes on ----


def test_progress_and_partial_results(threads: Context, signals: Signals) -> None:
    """They are consistent with each other, and a partial result does not change any more."""
    run = threads.submit_udf(load(threads), Gated(signals=signals, factor=1))
    while run.progress.partitions < 1:
        time.sleep(0.001)
    assert run.progress == RunProgress(1, N_PARTITIONS, 4, 64)
    assert run.progress.fraction == 1 / 16
    early = run.partial()
    merged = early.damage.data
    assert merged.sum() == 4
    assert np.array_equal(early.buffers[0]["total"].data[merged], totals()[merged])
    assert (run.running(), run.done()) == (True, False)
    with pytest.raises(TimeoutError, match="1 of 16 partitions"):
        run.result(timeout=0.01)
    with pytest.raises(TimeoutError, match="goes on"):
        run.exception(timeout=0.01)
    signals.add("go")
    assert np.array_equal(run.result()["total"].data, totals())
    assert early.damage.data.sum() == 4
    assert np.count_nonzero(early.buffers[0]["total"].data) == 4


def test_partial_results_at_any_time(ctx: Context) -> None:
    """Whoever looks while parts are merged sees whole parts, in all results of all UDFs."""
    data = counts((16, 16, 4, 4))
    ds = ctx.load("memory", data=data, num_partitions=256)
    run = ctx.submit_udf(ds, [TileSum(), FrameMax()])
    n_seen = set()
    while not run.done():
        partial = run.partial()
        merged = partial.damage.data
        sums, maxima = partial.buffers
        assert np.array_equal(sums["sig"].data, data[merged].sum(axis=0))
        assert np.array_equal(sums["nav"].data[merged], data[merged].sum(axis=(1, 2)))
        assert np.array_equal(maxima["maximum"].data[merged], data[merged].max(axis=(1, 2)))
        n_seen.add(int(merged.sum()))
    assert run.exception() is None
    assert run.partial().damage.data.all()


class LooksWhileItMerges(UDF):
    """Asks for the progress of its own run, as a signal handler does that comes meanwhile."""

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="single", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] += frame.sum()

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] += src.total
        if runs:
            seen.append((runs[0].progress.partitions, int(runs[0].partial().damage.data.sum())))


runs: list[Any] = []
seen: list[tuple[int, int]] = []


def test_a_run_looks_at_itself(ctx: Context) -> None:
    """In the thread that merges, which would wait for itself."""
    results = ctx.run_udf_iter(load(ctx), LooksWhileItMerges())
    runs.append(results.run)
    try:
        for last in results:
            total = last.buffers[0]["total"].data[0]
    finally:
        runs.clear()
    assert total == DATA.sum()
    assert seen == [(i, 4 * i) for i in range(N_PARTITIONS)]
    seen.clear()


class Leaves(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="single", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        pass

    def merge(self, dest: Any, src: Any) -> None:
        raise SystemExit("no licence")


def test_a_method_that_ends_the_program(ctx: Context) -> None:
    """The thread of the run ends, and the reason is told."""
    error = ctx.submit_udf(load(ctx), Leaves()).exception(20)
    assert isinstance(error, UDFRunCancelled)
    assert repr(error.__cause__) == "SystemExit('no licence')"


class NeverEnds(ProgressReporter):
    def start(self, state: Any) -> None:
        pass

    def update(self, state: Any) -> None:
        pass

    def end(self, state: Any) -> None:
        msg = "the bar is gone"
        raise LookupError(msg)


def test_an_end_that_cannot_be_reported(ctx: Context, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged: neither is the result lost, nor the reason why there is none."""
    result = ctx.run_udf(load(ctx), SumUDF(), progress=NeverEnds())
    assert np.array_equal(result["intensity"].data, DATA.sum(axis=(0, 1)))
    with pytest.raises(ValueError, match="on purpose"):
        ctx.run_udf(load(ctx), Failing(), progress=NeverEnds())
    assert caplog.text.count("the end of a run could not be reported") == 2


def test_a_udf_is_pickled_while_it_runs(threads: Context, signals: Signals) -> None:
    """It is not in that run where it arrives."""
    udf = Gated(signals=signals, factor=2)
    run = threads.submit_udf(load(threads), udf)
    twin = pickle.loads(pickle.dumps(udf))
    signals.add("go")
    run.result(20)
    assert np.array_equal(threads.run_udf(load(threads), twin)["total"].data, 2 * totals())


def test_parameters_are_changed(threads: Context, signals: Signals) -> None:
    """Directly after submitting, and in the middle: what begins later uses the new ones."""
    run = threads.submit_udf(load(threads), Gated(signals=signals, factor=1))
    with pytest.raises(ValueError, match="each of the 1 UDFs"):
        run.update_parameters_experimental([])
    signals.wait("begun", 2)
    run.update_parameters_experimental([{"factor": 3}])
    signals.add("go")
    factors = run.result()["total"].data / totals()
    assert set(np.unique(factors)) == {1, 3}
    assert factors.reshape(-1)[-4:].tolist() == [3] * 4
    for _ in range(20):
        run = threads.submit_udf(load(threads), Gated(signals=None, factor=1))
        try:
            run.update_parameters_experimental([{"factor": 2}])
        except UDFException:  # it was over already
            assert run.done()
        assert set(np.unique(run.result()["total"].data / totals())) <= {1, 2}


# ---- cancel, deadline, priority ----


def test_cancel(ctx: Context) -> None:
    """From another thread: the run ends soon, keeps what it had merged, and others go on."""
    ds = load(ctx)
    run = ctx.submit_udf(ds, Slow())
    other = ctx.submit_udf(ds, FrameMax())
    while run.progress.partitions < 2:
        time.sleep(0.001)
    assert run.cancel() is True
    with pytest.raises(UDFRunCancelled, match="partitions"):
        run.result(60)
    assert (run.cancelled(), run.done(), run.cancel()) == (True, True, False)
    partial = run.partial()
    merged = partial.damage.data
    assert 8 <= merged.sum() < 64
    assert np.array_equal(partial.buffers[0]["total"].data[merged], totals()[merged])
    assert "cancelled" in repr(run)
    assert other.result()["maximum"].data.all()
    assert ctx.submit_udf(ds, FrameMax()).result()["maximum"].data.all()


def test_cancel_at_any_time(ctx: Context) -> None:
    """However early a run is cancelled, it is, unless it is finished."""
    ds = load(ctx)
    rng = random.Random(3)
    ends = set()
    for _ in range(40):
        run = ctx.submit_udf(ds, Slow())
        time.sleep(rng.choice([0, 0, 0.001, 0.005]))
        run.cancel()
        ends.add(type(run.exception(60)))
    assert ends == {UDFRunCancelled}


def test_closing_the_context_cancels(signals: Signals) -> None:
    """A run does not outlive its executor."""
    ctx = Context.make_with("threads", cpus=2)
    run = ctx.submit_udf(load(ctx), Slow())
    ctx.close()
    assert run.exception(60) is not None
    assert run.done()


class Acquired(MemoryDataSet):
    """Its detector is ready when `may_start` is set."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_asked, self.may_start = threading.Event(), threading.Event()

    def start_acquisition(self) -> None:
        self.is_asked.set()
        assert self.may_start.wait(60)

    def end_acquisition(self) -> None:
        pass


def test_closing_the_context_cancels_what_has_not_begun(ctx: Context) -> None:
    """The executor knows nothing of such a run, which is none that failed because that is closed."""
    dataset = Acquired(data=DATA)
    run = ctx.submit_udf(dataset, SumUDF())
    assert dataset.is_asked.wait(60)
    ctx.close()
    dataset.may_start.set()
    assert isinstance(run.exception(60), UDFRunCancelled)
    assert run.cancelled()


def test_deadline(ctx: Context) -> None:
    """It ends the run, in the background and in the foreground; an error of waiting is a different thing."""
    ds = load(ctx)
    run = ctx.submit_udf(ds, Slow(), timeout=0.02)
    with pytest.raises(DeadlineExceededError):
        run.result(60)
    assert isinstance(run.exception(), DeadlineExceededError)
    assert run.cancelled() is False
    with pytest.raises(DeadlineExceededError):
        ctx.run_udf(ds, Slow(), timeout=0.02)
    with pytest.raises(DeadlineExceededError):
        for _ in ctx.run_udf_iter(ds, Slow(), timeout=0.02):
            pass
    assert ctx.run_udf(ds, FrameMax(), timeout=60, priority="live")["maximum"].data.all()


def test_priorities(signals: Signals) -> None:
    """What is urgent is done before what was submitted earlier."""
    order: list[str] = []
    with Context.make_with("threads", cpus=1) as ctx:
        ds = load(ctx)
        first = ctx.submit_udf(ds, Gated(signals=signals, factor=1), priority="batch")
        signals.wait("begun")
        runs = []
        for priority in ("batch", "interactive", "live"):
            run = ctx.submit_udf(ds, Slow(), priority=priority)
            run.add_done_callback(lambda _, priority=priority: order.append(priority))  # type: ignore[misc]
            runs.append(run)
            time.sleep(0.05)  # until its tasks are queued
        signals.add("go")
        for run in [first, *runs]:
            assert run.exception(60) is None
    assert order == ["live", "interactive", "batch"]


# ---- many at a time ----


def test_many_runs_from_many_threads(threads: Context) -> None:
    """200 runs from eight threads, of one UDF instance, with different ROIs: all right, and memory is flat."""
    data = counts((16, 16, 32, 32))
    maxima = data.max(axis=(2, 3))
    ds = threads.load("memory", data=data, num_partitions=8)
    shared = FrameMax()

    def work(seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        pending = []
        for _ in range(n):
            roi = rng.random((16, 16)) < rng.random()
            pending.append((roi, threads.submit_udf(ds, [shared, TileSum()], roi=roi)))
            if rng.random() < 0.3:
                check(pending)
        check(pending)

    def check(pending: list[tuple[Any, UDFRun]]) -> None:
        while pending:
            roi, run = pending.pop()
            maximum, sums = run.result(60)
            assert np.array_equal(maximum["maximum"].raw_data, maxima[roi])
            assert np.array_equal(sums["sig"].data, data[roi].sum(axis=0))
            assert run.progress.frames == roi.sum()

    def used() -> int:
        gc.collect()
        rss: int = psutil.Process().memory_info().rss
        return rss

    before = 0
    with ThreadPoolExecutor(8) as pool:
        for n in (10, 25):  # first to warm up
            before = used()
            for future in [pool.submit(work, seed, n) for seed in range(8)]:
                future.result()
    assert used() - before < 20 * 2**20


def test_nothing_is_kept(threads: Context) -> None:
    """Neither a finished run nor a failed one is kept alive, also without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        for udf in (FrameMax(), Failing()):
            run = threads.submit_udf(load(threads), udf)
            run.exception(60)
            alive = weakref.ref(run)
            del run
            until = time.monotonic() + 10
            while alive() is not None and time.monotonic() < until:
                time.sleep(0.001)  # its thread may still be about to end
            assert alive() is None, f"the run of {udf!r} is kept"
    finally:
        gc.enable()


# ---- callbacks, asyncio, Ctrl-C, exit ----


def test_callbacks(threads: Context, signals: Signals) -> None:
    """They get the run, whatever its end, also when they are added late; their errors harm nobody."""
    ds = load(threads)
    seen: list[UDFRun] = []

    def fail(run: UDFRun) -> None:
        raise ValueError(run)

    run = threads.submit_udf(ds, Gated(signals=signals, factor=1))
    run.add_done_callback(fail)
    run.add_done_callback(seen.append)
    assert seen == []
    signals.add("go")
    run.result()
    until = time.monotonic() + 10
    while not seen and time.monotonic() < until:
        time.sleep(0.001)
    run.add_done_callback(seen.append)
    failed = threads.submit_udf(ds, Failing())
    failed.exception()
    failed.add_done_callback(seen.append)
    assert seen == [run, run, failed]


def test_await(ctx: Context) -> None:
    """A run can be awaited, several together, and after it is over; its errors are raised there."""
    ds = load(ctx)

    async def main() -> None:
        one = ctx.submit_udf(ds, FrameMax())
        assert (await one)["maximum"].data.all()
        assert (await one)["maximum"].data.all()
        runs = [ctx.submit_udf(ds, [FrameMax()]) for _ in range(5)]
        for (result,) in await asyncio.gather(*runs):
            assert result["maximum"].data.all()
        with pytest.raises(ValueError, match="on purpose"):
            await ctx.submit_udf(ds, Failing())
        cancelled = ctx.submit_udf(load(ctx, counts((64, 64, 2, 2))), Slow())  # takes seconds
        cancelled.cancel()
        with pytest.raises(UDFRunCancelled):
            await cancelled

    asyncio.run(main())


class Counted(UDF):
    """A tenth of a second for each frame; `seen` counts them."""

    seen: ClassVar[list[int]] = []

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        self.seen.append(1)
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread")
@pytest.mark.parametrize("how", ["run", "iterate", "submit"])
def test_a_signal_handler_reaches_a_loop_that_waits_for_a_run(threads: Context, how: str) -> None:
    """Also one that asks with `call_soon`, which does not wake the loop: so Jupyter's kernels interrupt a cell."""
    ds = threads.load("memory", data=DATA, num_partitions=N_PARTITIONS)
    Counted.seen.clear()

    async def wait() -> Any:
        if how == "submit":
            return await threads.submit_udf(dataset=ds, udf=Counted())
        if how == "run":
            return await threads.run_udf(dataset=ds, udf=Counted(), sync=False)
        async for _ in threads.run_udf_iter(dataset=ds, udf=Counted(), sync=False):
            pass
        return None

    async def main() -> None:
        task = asyncio.create_task(wait())
        loop = asyncio.get_running_loop()
        before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon(task.cancel))
        sender = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident or 0, signal.SIGUSR1))
        sender.start()
        try:
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            sender.join()
            signal.signal(signal.SIGUSR1, before)

    asyncio.run(main())
    assert len(Counted.seen) < DATA.shape[0] * DATA.shape[1]


def test_cancelling_the_asyncio_task_cancels_the_run(ctx: Context) -> None:
    """The run is over when the cancellation is through; a shield protects it."""
    ds = load(ctx)

    async def main() -> None:
        run = ctx.submit_udf(ds, Slow())

        async def wait() -> None:
            await run

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert run.cancelled()
        protected = ctx.submit_udf(ds, Slow())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(protected), 0.01)
        assert (await protected)["total"].data.all()

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a thread")
def test_ctrl_c_ends_the_wait_only(threads: Context, signals: Signals) -> None:
    """The run goes on, and its result can be asked for again."""
    run = threads.submit_udf(load(threads), Gated(signals=signals, factor=1))

    about_to_wait = threading.Event()

    def interrupt() -> None:
        about_to_wait.wait()
        signals.wait("begun")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()

    def wait_for_it() -> None:
        about_to_wait.set()
        run.result()

    with pytest.raises(KeyboardInterrupt):
        wait_for_it()
    thread.join()
    signals.add("go")
    assert np.array_equal(run.result()["total"].data, totals())


def test_ctrl_c_while_a_run_is_asked_how_it_goes(threads: Context, signals: Signals) -> None:
    """Wherever it comes, nothing is left locked: the run ends, and others get its result."""
    run = threads.submit_udf(load(threads), Gated(signals=signals, factor=1))
    left = 0

    def interrupt(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal left
        if event in {"call", "c_return"}:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def ask() -> bool:
        assert (run.running(), run.done(), run.cancelled()) == (True, False, False)
        with contextlib.suppress(TimeoutError):
            run.result(timeout=1e-3)
        return True

    profile = sys.getprofile()
    is_through = False
    for n in itertools.count():
        left = n
        try:
            sys.setprofile(interrupt)
            is_through = ask()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(profile)
        if is_through:
            break
    signals.add("go")
    with ThreadPoolExecutor(1) as others:
        result = others.submit(run.result, timeout=20).result()
    assert np.array_equal(result["total"].data, totals())
    assert run.done()


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_exit_in_the_middle_of_a_run(executor: str) -> None:
    """An interpreter that exits cancels its runs, and ends quietly."""
    code = (
        "import numpy as np, time\n"
        "from tilework.api import Context\n"
        "from tilework.udf import UDF\n"
        "class Slow(UDF):\n"
        "    def get_result_buffers(self):\n"
        "        return {'x': self.buffer(kind='nav', dtype='f4')}\n"
        "    def process_frame(self, frame):\n"
        "        time.sleep(0.01)\n"
        f"ctx = Context.make_with({executor!r})\n"
        "ds = ctx.load('memory', data=np.ones((100, 100, 8, 8)), num_partitions=100)\n"
        "run = ctx.submit_udf(ds, Slow())\n"
        "while run.progress.partitions < 1: time.sleep(0.01)\n"
        "print(run.progress.partitions_total)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")


@pytest.mark.parametrize("kind", ["processes", "pipelined"])
def test_on_processes(kind: str, signals: Signals) -> None:
    """The same on workers that share no memory: results, partial results, new parameters, cancelling."""

    class Waiting(UDF):  # local, so that it is sent by value
        def get_result_buffers(self) -> Any:
            return {"total": self.buffer(kind="nav", dtype=np.float64)}

        def process_frame(self, frame: Any) -> None:
            if self.meta.slice.origin[0] >= 4:
                self.params.signals.add("begun")
                while not self.params.signals.count("go"):
                    time.sleep(0.001)
            self.results.total[:] = frame.sum() * self.params.factor

    class Sleeping(UDF):
        def get_result_buffers(self) -> Any:
            return {"total": self.buffer(kind="nav", dtype=np.float64)}

        def process_frame(self, frame: Any) -> None:
            time.sleep(0.01)

    if kind == "processes":
        context = Context(executor=ConcurrentJobExecutor.make_processes(2))
    else:
        context = Context.make_with("pipelined", cpus=2)
    with context as ctx:
        ds = load(ctx)
        runs = [ctx.submit_udf(ds, [TileSum(), FrameMax()]) for _ in range(10)]
        for each in runs:
            sums, maxima = each.result(60)
            assert np.array_equal(sums["sig"].data, DATA.sum(axis=(0, 1)))
            assert np.array_equal(maxima["maximum"].data, DATA.max(axis=(2, 3)))
        run = ctx.submit_udf(ds, Waiting(signals=signals, factor=1))
        signals.wait("begun", 1)
        while run.progress.partitions < 1:
            time.sleep(0.001)
        assert run.partial().damage.data.sum() == 4
        run.update_parameters_experimental([{"factor": 3}])
        signals.add("go")
        factors = run.result(60)["total"].data / totals()
        assert factors.reshape(-1)[-4:].tolist() == [3] * 4
        run = ctx.submit_udf(ds, Sleeping())
        while run.progress.partitions < 1:
            time.sleep(0.001)
        assert run.cancel()
        assert isinstance(run.exception(60), UDFRunCancelled)
