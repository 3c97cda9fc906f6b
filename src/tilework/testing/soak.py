"""Hours of everything at once, on workers that are killed and stopped all the time where they are processes.

::

    python -m tilework.testing.soak --minutes 60
    python -m tilework.testing.soak --minutes 60 --executor dask

Several threads use one executor: runs of user-defined functions over random data, with errors, cancels, deadlines, and
consumers that leave early; data that is streamed; functions; scattered objects. Another thread kills and stops workers.
Every completed result must be that of the inline executor, bit for bit. At the end nothing may be left: no process,
thread, descriptor or shared memory, and memory must not have grown.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

from tilework.api import Context
from tilework.common.executor import NoopCommHandler, RunOptions, TaskCommHandler
from tilework.exceptions import DeadlineExceededError, JobCancelledError, UDFRunCancelled, WorkerLostError
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.dask import DaskJobExecutor, cluster_spec
from tilework.executor.inline import InlineJobExecutor
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.executor_harness import Leftovers
from tilework.udf import UDF, ApplyMasksUDF, AutoUDF, CoMUDF, PickUDF, StdDevUDF, SumSigUDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilework.common.executor import Environment, JobExecutor, WorkerQueue

__all__ = ["SUBJECTS", "Soak", "Subject", "main"]

log = logging.getLogger(__name__)

_WARM_UP_SECONDS: Final = 20.0
_GROWTH_BYTES: Final = 400 * 2**20
"""Memory that was freed is kept, as much as the largest runs needed; a leak of 100 KiB a run shows all the same."""
_SETTLE_SECONDS: Final = 10.0
_FOREVER: Final = 3600


@dataclass(frozen=True)
class Subject:
    """What is particular to an executor."""

    make: Callable[[int], Any]
    """Makes one with so many workers."""
    victims: Callable[[Any], list[int]]
    """Processes that may be killed and stopped at this moment: workers that are ready."""
    streams: bool = True
    """Whether data can be streamed to tasks."""


def _pipelined_workers(executor: PipelinedExecutor) -> list[int]:
    return [process["pid"] for process in executor.report()["processes"] if process["state"] == "ready"]


def _dask_workers(executor: DaskJobExecutor) -> list[int]:
    return [station.pid for station in executor._connection.stations() if station.pid is not None]


SUBJECTS: Final = {
    "pipelined": Subject(lambda n: PipelinedExecutor(PipelinedExecutor.make_spec(n, [])), _pipelined_workers),
    "dask": Subject(
        lambda n: DaskJobExecutor.make_local(cluster_spec(n, 0, has_cupy=False, num_service=0)),
        _dask_workers,
        streams=False,
    ),
    "threads": Subject(ConcurrentJobExecutor.make_local, lambda _: []),
}
"""The executors that can be tested, by name."""


class _Masks:
    """Makes the same masks in every process."""

    def __init__(self, sig: tuple[int, ...], count: int) -> None:
        self.sig, self.count = sig, count

    def __call__(self) -> Any:
        return np.random.default_rng(self.count).random((self.count, *self.sig)).astype(np.float32)


class _Failing(UDF):
    """Raises in one frame."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"x": self.buffer(kind="nav")}

    def process_frame(self, frame: Any) -> None:
        if self.meta.slice.origin[0] == self.params.at:
            msg = "on purpose"
            raise LookupError(msg)
        self.results.x[:] = frame.sum()


class _Large(UDF):
    """A large result for every partition."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"x": self.buffer(kind="single", dtype=np.float64, extra_shape=(self.params.size,))}

    def process_partition(self, partition: Any) -> None:
        self.results.x[:] = partition.sum(dtype=np.float64)

    def merge(self, dest: Any, src: Any) -> None:
        dest.x[:] += src.x


class _Source(TaskCommHandler):
    """Streams numbers to tasks."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def handle_task(self, task: Any, queue: WorkerQueue) -> None:
        rng = random.Random(self.seed + task.index)
        for _ in range(rng.randrange(1, 20)):
            queue.put(task.index, memoryview(rng.randbytes(rng.choice([1, 1000, 100_000]))))
        queue.put(None)

    def expected(self, index: int) -> int:
        """Return the number of bytes that the task must find."""
        rng = random.Random(self.seed + index)
        return sum(len(rng.randbytes(rng.choice([1, 1000, 100_000]))) for _ in range(rng.randrange(1, 20)))


def _read(params: Any, env: Environment) -> int:
    assert env.worker_context is not None
    queue = env.worker_context.get_worker_queue()
    total = 0
    while True:
        env.raise_if_stopped()
        with queue.get() as (header, payload):
            if header is None:
                return total
            assert payload is not None
            total += len(payload)


def _bits(results: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{i} {name}", np.ascontiguousarray(buffer.data).tobytes())
        for i, result in enumerate(results)
        for name, buffer in sorted(result.items())
    ]


class Soak:
    """One soak test.

    Parameters
    ----------
    subject
        The executor.
    seconds
        How long.
    workers
        Workers of the executor.
    threads
        Threads that use them.
    seed
        For everything that is random, but for the times at which things happen.
    kill_every
        Mean time between two kills, in seconds.
    """

    def __init__(
        self,
        subject: Subject,
        seconds: float,
        workers: int = 2,
        threads: int = 4,
        seed: int = 0,
        kill_every: float = 1.0,
    ) -> None:
        self.subject = subject
        self.seconds = seconds
        self.threads = threads
        self.seed = seed
        self.kill_every = kill_every
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._workers = workers
        self._until = 0.0
        self._lock = threading.Lock()
        self._inline = Context(executor=InlineJobExecutor(inline_threads=1))

    def run(self) -> list[str]:
        """Do it; returns what went wrong, in words."""
        process = psutil.Process()
        # what Python itself, or Dask, starts once, and keeps
        with self.subject.make(self._workers) as executor:
            executor.run_function(abs, -1)
        before = Leftovers(f"tilework-{os.getpid()}-")
        self._until = time.monotonic() + self.seconds
        with self.subject.make(self._workers) as executor:
            users = [
                threading.Thread(target=self._use, args=(executor, self.seed + i), name=f"user-{i}")
                for i in range(self.threads)
            ]
            enemy = threading.Thread(target=self._harm, args=(executor,), name="enemy")
            for thread in (*users, enemy):
                thread.start()
            time.sleep(min(_WARM_UP_SECONDS, self.seconds / 3))
            warm = process.memory_full_info().uss
            for thread in (*users, enemy):
                thread.join()
            gc.collect()
            grown = process.memory_full_info().uss - warm
            self.counts["losses"] = executor.report()["losses"]
        self._inline.close()
        if grown > _GROWTH_BYTES:
            self.problems.append(f"memory of the main process has grown by {grown / 2**20:.0f} MiB")
        until = time.monotonic() + _SETTLE_SECONDS
        while new := Leftovers(f"tilework-{os.getpid()}-").since(before):
            if time.monotonic() > until:
                self.problems.append(f"left behind: {new}")
                break
            gc.collect()
            multiprocessing.active_children()  # until somebody asks, Python keeps a pipe of a child that has ended
            time.sleep(0.05)
        return self.problems

    # ---- harm ----

    def _harm(self, executor: JobExecutor) -> None:
        rng = random.Random(self.seed)
        while time.monotonic() < self._until:
            time.sleep(rng.expovariate(1 / self.kill_every))
            victims = self.subject.victims(executor)
            if not victims:
                continue
            pid = rng.choice(victims)
            try:
                if rng.random() < 0.7:
                    os.kill(pid, signal.SIGKILL)
                    self._count("kills")
                else:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(rng.random() * 0.5)
                    os.kill(pid, signal.SIGCONT)
                    self._count("stops")
            except ProcessLookupError:
                pass

    # ---- use ----

    def _use(self, executor: JobExecutor, seed: int) -> None:
        rng = random.Random(seed)
        actions: Sequence[Callable[[JobExecutor, random.Random], None]] = (
            *[self._udfs] * 6,
            self._error,
            self._cancel,
            self._deadline,
            self._leave,
            *[self._stream] * self.subject.streams,
            self._functions,
            self._scattered,
        )
        while time.monotonic() < self._until:
            action = rng.choice(actions)
            try:
                action(executor, rng)
                self._count(action.__name__[1:])
            except WorkerLostError as error:
                if "3 times" not in str(error):
                    self._problem(action, error)
                self._count("given up")  # killed three times with the same task: possible
            except BaseException as error:  # noqa: BLE001  (whatever it is, it is reported)
                self._problem(action, error)

    def _problem(self, action: Callable[..., None], error: BaseException) -> None:
        log.error("%s went wrong", action.__name__, exc_info=error)
        self.problems.append(f"{action.__name__}: {type(error).__name__}: {error}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    @staticmethod
    def _dataset(ctx: Context, data: Any, parts: int) -> Any:
        return ctx.load("memory", data=data, sig_dims=2, num_partitions=parts)

    @staticmethod
    def _random_data(rng: random.Random) -> tuple[Any, int]:
        nav = (rng.randrange(1, 20), rng.randrange(1, 20))
        sig = (rng.randrange(1, 40), rng.randrange(1, 40))
        numbers = np.random.default_rng(rng.randrange(2**32))
        data = numbers.poisson(5, (*nav, *sig)).astype(rng.choice(["u1", "u2", ">u2", "i4", "f4", "f8"]))
        return data, rng.randrange(1, min(40, nav[0] * nav[1]) + 1)

    def _udfs(self, executor: JobExecutor, rng: random.Random) -> None:
        data, parts = self._random_data(rng)
        sig = data.shape[2:]
        choice: list[Callable[[], UDF]] = [
            SumUDF,
            SumSigUDF,
            StdDevUDF,
            PickUDF,
            lambda: AutoUDF(f=np.mean),
            lambda: ApplyMasksUDF(mask_factories=_Masks(sig, 3), mask_count=3),
            lambda: CoMUDF.with_params(cy=sig[0] / 2, cx=sig[1] / 2, r=min(sig) / 2),
            lambda: _Large(size=rng.choice([10, 100_000, 1_000_000])),
        ]
        chosen = [rng.choice(choice)() for _ in range(rng.randrange(1, 4))]
        roi = None
        if rng.random() < 0.5:
            roi = np.random.default_rng(rng.randrange(2**32)).random(data.shape[:2]) < 0.4
        ctx = Context(executor=executor)
        got = _bits(ctx.run_udf(dataset=self._dataset(ctx, data, parts), udf=chosen, roi=roi))
        with self._lock:
            want = _bits(
                self._inline.run_udf(
                    dataset=self._dataset(self._inline, data, parts), udf=[udf.copy() for udf in chosen], roi=roi
                )
            )
        if got != want:
            different = [name for (name, a), (_, b) in zip(got, want, strict=True) if a != b]
            msg = f"other bits than inline in {different} of {[type(u).__name__ for u in chosen]} on {data.shape}"
            raise AssertionError(msg)

    def _error(self, executor: JobExecutor, rng: random.Random) -> None:
        data, parts = self._random_data(rng)
        ctx = Context(executor=executor)
        at = rng.randrange(data.shape[0] * data.shape[1])
        try:
            ctx.run_udf(dataset=self._dataset(ctx, data, parts), udf=_Failing(at=at))
        except LookupError:
            return
        msg = "the error of a function got lost"
        raise AssertionError(msg)

    def _cancel(self, executor: JobExecutor, rng: random.Random) -> None:
        from tilework.testing.faults import SleepTask

        name = object()
        timer = threading.Timer(rng.random() * 0.1, executor.cancel, (name,))
        with executor.scatter(None) as handle:
            run = executor.run_tasks((SleepTask(i) for i in range(_FOREVER)), handle, name, NoopCommHandler())
            timer.start()
            try:
                for _ in run:
                    pass
            except JobCancelledError:
                return
            finally:
                run.close()
                timer.join()
        msg = "a cancelled run was completed"
        raise AssertionError(msg)

    def _deadline(self, executor: JobExecutor, rng: random.Random) -> None:
        from tilework.testing.faults import SleepTask

        options = RunOptions(timeout=0.01 + rng.random() * 0.1)
        with executor.scatter(None) as handle:
            try:
                for _ in executor.run_tasks(
                    (SleepTask(i) for i in range(_FOREVER)), handle, 0, NoopCommHandler(), options=options
                ):
                    pass
            except DeadlineExceededError:
                return
        msg = "a run went on after its deadline"
        raise AssertionError(msg)

    def _leave(self, executor: JobExecutor, rng: random.Random) -> None:
        data, parts = self._random_data(rng)
        ctx = Context(executor=executor)
        iterator = ctx.run_udf_iter(dataset=self._dataset(ctx, data, parts), udf=SumUDF())
        try:
            for n, _ in enumerate(iterator):
                if n == rng.randrange(3):
                    break
        except UDFRunCancelled:
            return
        finally:
            iterator.close()

    def _stream(self, executor: JobExecutor, rng: random.Random) -> None:
        from tilework.testing.faults import CallTask

        source = _Source(rng.randrange(2**32))
        tasks = [CallTask(i, fn=_read) for i in range(rng.randrange(1, 30))]
        with executor.scatter(None) as handle:
            got = [(task.index, result) for result, task in executor.run_tasks(tasks, handle, 0, source)]  # type: ignore[attr-defined]
        if sorted(got) != [(i, source.expected(i)) for i in range(len(tasks))]:
            msg = "data got lost on its way"
            raise AssertionError(msg)

    def _functions(self, executor: JobExecutor, rng: random.Random) -> None:
        n = rng.randrange(30)
        size = rng.choice([1, 100_000])
        got = executor.map(lambda i: np.full(size, i), range(n))
        if [(len(a), int(a[-1])) for a in got] != [(size, i) for i in range(n)]:
            msg = "a wrong result of map"
            raise AssertionError(msg)

    def _scattered(self, executor: JobExecutor, rng: random.Random) -> None:
        from tilework.testing.faults import CallTask

        value = rng.random()
        with executor.scatter((value, np.full(rng.choice([1, 200_000]), value))) as handle:
            for _ in range(2):
                tasks = [CallTask(i, fn=_look) for i in range(10)]
                seen = {result for result, _ in executor.run_tasks(tasks, handle, 0, NoopCommHandler())}
                if seen != {(value, value)}:
                    msg = f"tasks saw {seen} instead of {value}"
                    raise AssertionError(msg)
                value = rng.random()
                executor.scatter_update(handle, (value, np.full(10, value)))


def _look(params: Any, env: Environment) -> tuple[float, float]:
    return params[0], float(params[1][-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak test from the command line; returns 0 when nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tilework.testing.soak", description=__doc__)
    parser.add_argument("--executor", choices=SUBJECTS, default="pipelined", help="which (default: pipelined)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes or threads of the executor (default: 2)")
    parser.add_argument("--threads", type=int, default=4, help="threads that use them (default: 4)")
    parser.add_argument("--seed", type=int, default=None, help="for what is random (default: another every time)")
    parser.add_argument("--kill-every", type=float, default=1.0, help="mean seconds between kills (default: 1)")
    args = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
    soak = Soak(SUBJECTS[args.executor], args.minutes * 60, args.workers, args.threads, seed, args.kill_every)
    problems = soak.run()
    out = sys.stdout.write
    out(f"seed {seed}: " + ", ".join(f"{n} {what}" for what, n in sorted(soak.counts.items())) + "\n")
    for problem in problems:
        out(f"PROBLEM {problem}\n")
    out("nothing went wrong\n" if not problems else f"{len(problems)} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
