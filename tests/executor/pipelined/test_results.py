"""Whole runs of user-defined functions: large results, little shared memory, workers that are killed, the same bits."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mount_namespace import in_mount_namespace
from pipelined_harness import PipelinedHarness
from tilework.api import Context
from tilework.exceptions import ExecutorError, JobCancelledError, UDFRunCancelled, WorkerLostError
from tilework.executor.inline import InlineJobExecutor
from tilework.executor.pipelined import PipelinedExecutor
from tilework.udf import UDF, ApplyMasksUDF, CoMUDF, StdDevUDF, SumSigUDF, SumUDF

if TYPE_CHECKING:
    from pathlib import Path

    from tilework.io.dataset.base import DataSet


class LargeResult(UDF):
    """A result of 8 MiB for every partition."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"x": self.buffer(kind="single", dtype=np.float64, extra_shape=(1 << 20,))}

    def process_partition(self, partition: Any) -> None:
        self.results.x[:] = partition.sum()

    def merge(self, dest: Any, src: Any) -> None:
        src.x *= 2  # what arrives may be written to
        dest.x[:] += src.x


class Masks:
    """Makes the same masks in every process."""

    def __call__(self) -> Any:
        return np.random.default_rng(3).random((3, 16, 16)).astype(np.float32)


class InterruptedResult:
    """Its reader is interrupted while it is unpickled."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        return _interrupt, (self.array,)


def _interrupt(_array: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def functions() -> list[UDF]:
    return [
        SumUDF(),
        SumSigUDF(),
        StdDevUDF(),
        ApplyMasksUDF(mask_factories=Masks(), mask_count=3),
        CoMUDF.with_params(cy=8, cx=8, r=7),
        LargeResult(),
    ]


def bits(results: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{i} {name}", np.ascontiguousarray(buffer.data).tobytes())
        for i, result in enumerate(results)
        for name, buffer in sorted(result.items())
    ]


@pytest.fixture(scope="module")
def data() -> Any:
    return np.random.default_rng(1).poisson(5, (24, 24, 16, 16)).astype(np.uint16)


@pytest.fixture(scope="module")
def expected(data: Any) -> list[tuple[str, bytes]]:
    with Context(executor=InlineJobExecutor()) as ctx:
        return bits(ctx.run_udf(dataset=load(ctx, data), udf=functions()))


def load(ctx: Context, data: Any) -> DataSet:
    dataset: DataSet = ctx.load("memory", data=data, sig_dims=2, num_partitions=48)
    return dataset


class TestResults(PipelinedHarness):
    """Each test proves that nothing is left behind."""

    @pytest.mark.parametrize("n", [1, 3])
    @pytest.mark.parametrize("mib", [1, 40, None])
    def test_same_bits_with_little_shared_memory(self, n: int, mib: int | None, data: Any, expected: Any) -> None:
        """With any number of workers, and also where results do not fit into the shared memory at all."""
        spec = PipelinedExecutor.make_spec(n, [])
        budget = None if mib is None else mib << 20
        with Context(executor=PipelinedExecutor(spec, shared_memory=budget)) as ctx:
            assert bits(ctx.run_udf(dataset=load(ctx, data), udf=functions())) == expected

    def test_without_anonymous_memory(self, data: Any, expected: Any, tmp_path: Path) -> None:
        """With files for shared memory, on a file system of 64 MiB as in a container, in a namespace of its own."""
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(
                """
                import hashlib, sys
                import numpy as np
                from tilework.api import Context
                from tilework.executor.pipelined import PipelinedExecutor
                from tilework.udf import StdDevUDF, UDF

                class Large(UDF):
                    def get_result_buffers(self):
                        return {"x": self.buffer(kind="single", dtype=np.float64, extra_shape=(3 << 20,))}
                    def process_partition(self, partition):
                        self.results.x[:] = partition.sum()
                    def merge(self, dest, src):
                        dest.x[:] += src.x

                data = np.random.default_rng(1).poisson(5, (24, 24, 64, 64)).astype(np.uint16)
                spec = PipelinedExecutor.make_spec(2, [])
                executor = PipelinedExecutor(spec, shared_memory_folder=sys.argv[1])
                assert executor.report()["limits"]["shared_memory_bytes"] < 64 << 20
                with Context(executor=executor) as ctx:
                    dataset = ctx.load("memory", data=data, sig_dims=2, num_partitions=24)
                    large, std = ctx.run_udf(dataset=dataset, udf=[Large(), StdDevUDF()])
                    assert (large["x"].data == data.sum()).all()
                    assert np.allclose(std["std"].data, data.reshape(-1, 64, 64).std(axis=0))
                print("all right")
                """
            )
        )
        folder = tmp_path / "shm"
        folder.mkdir()
        command = f"mount -t tmpfs -o size=64m tmpfs {folder} && exec {sys.executable} {script} {folder}"
        done = in_mount_namespace(command)
        assert done.stdout == "all right\n"

    def test_workers_are_killed_ten_times(self, executor: PipelinedExecutor, data: Any, expected: Any) -> None:
        """The results are the same, bit for bit."""
        ctx = Context(executor=executor)
        rng = random.Random(2)
        kills = 0
        while kills < 10:
            stop = threading.Event()

            def kill(stop: threading.Event = stop) -> None:
                nonlocal kills
                while not stop.wait(rng.random() * 0.1) and kills < 10:
                    self.kill_worker(rng.choice(executor.report()["processes"] or [{"pid": 2**22}])["pid"])
                    kills += 1

            killer = threading.Thread(target=kill)
            killer.start()
            try:
                assert bits(ctx.run_udf(dataset=load(ctx, data), udf=functions())) == expected
            except WorkerLostError:
                pass  # one task was hit three times: possible, and no wrong result
            finally:
                stop.set()
                killer.join()
        assert bits(ctx.run_udf(dataset=load(ctx, data), udf=functions())) == expected

    def test_results_that_are_kept(self, executor: PipelinedExecutor) -> None:
        """Results of functions may be kept, as many as there is memory, without holding up the workers."""
        with PipelinedExecutor(PipelinedExecutor.make_spec(1, []), shared_memory=32 << 20) as small:
            kept = small.map(lambda i: np.full(1 << 19, i, np.float64), range(20))
            assert [int(array[0]) for array in kept] == list(range(20))
            kept[0][:] = 1

    @pytest.mark.parametrize("n", [100, 100_000, 4_000_000])
    def test_arguments_belong_to_the_function(self, executor: PipelinedExecutor, n: int) -> None:
        """It may write to them, and keep them: they are not overwritten by what comes later, however large they are."""

        def keep(array: Any) -> float:
            array += 1
            os.kept = array  # type: ignore[attr-defined]
            return float(array.sum())

        def kept() -> float:
            return float(os.kept.sum())  # type: ignore[attr-defined]

        assert executor.map(keep, [np.zeros(n)] * 3) == [n] * 3
        assert executor.run_each_worker(keep, np.zeros(n)) == {"cpu-0": n, "cpu-1": n}
        executor.map(np.sum, [np.full(n, 7.0)] * 6)
        assert executor.run_each_worker(kept) == {"cpu-0": n, "cpu-1": n}

    def test_interrupted_while_a_result_is_unpickled(self, executor: PipelinedExecutor) -> None:
        """Ctrl-C is Ctrl-C, also while users' code makes the object again; what else has arrived leaves the memory."""
        with pytest.raises(KeyboardInterrupt):
            executor.map(lambda i: InterruptedResult(np.full(1 << 18, i, np.uint8)), range(20))
        self.assert_usable(executor)
        for member in executor._hub.pool.members:
            assert member.arena is not None
            until = time.monotonic() + 10
            while any(member.arena._ledger[: 1 << 16]):
                assert time.monotonic() < until, "memory of results is not released"
                time.sleep(0.01)

    def test_closed_while_runs_have_large_parameters(self, nothing_left: None, data: Any) -> None:
        """Their memory is given back, whether they give it back themselves or the executor does."""
        for _ in range(6):
            ctx = Context(executor=self.make_executor())
            dataset = load(ctx, data)

            def run(ctx: Context = ctx, dataset: DataSet = dataset) -> None:
                with contextlib.suppress(UDFRunCancelled, ExecutorError):
                    while True:
                        ctx.run_udf(dataset=dataset, udf=LargeResult(large=np.ones(1 << 17)))

            threads = [threading.Thread(target=run) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.2)
            ctx.close()
            for thread in threads:
                thread.join()

    def test_closed_while_items_have_files_of_their_own(self, nothing_left: None) -> None:
        """What did not fit into the shared memory, and is on its way when the executor is closed."""
        for _ in range(6):
            executor = PipelinedExecutor(PipelinedExecutor.make_spec(2, []), shared_memory=2 << 20)

            def run(executor: PipelinedExecutor = executor) -> None:
                with contextlib.suppress(JobCancelledError, ExecutorError):
                    while True:
                        executor.map(np.sum, [np.ones(200_000)] * 8)

            threads = [threading.Thread(target=run) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            executor.close()
            for thread in threads:
                thread.join()

    def test_cancelled_in_the_middle(self, executor: PipelinedExecutor, data: Any) -> None:
        """A run that its consumer leaves, or cancels, stops; the next one is whole."""
        ctx = Context(executor=executor)
        iterator = ctx.run_udf_iter(dataset=load(ctx, data), udf=LargeResult())
        next(iterator)
        iterator.close()

        class Slow(UDF):
            def get_result_buffers(self) -> dict[str, Any]:
                return {"x": self.buffer(kind="nav")}

            def process_frame(self, frame: Any) -> None:
                time.sleep(0.01)

        def cancel() -> None:
            while not any(executor.cancel(control.cancel_id) for control in executor._runs_under_way()):
                time.sleep(0.01)

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(UDFRunCancelled, match=r"^UDF run cancelled after \d+ partitions$"):
            ctx.run_udf(dataset=load(ctx, data), udf=Slow())
        thread.join()
        assert ctx.run_udf(dataset=load(ctx, data), udf=SumUDF())["intensity"].data.sum() == data.sum()

    def test_parameters_change_during_a_run(self, executor: PipelinedExecutor, data: Any) -> None:
        """What tasks see that start later is the changed parameter, on every worker."""

        class Scale(UDF):
            def get_result_buffers(self) -> dict[str, Any]:
                return {"x": self.buffer(kind="nav")}

            def process_frame(self, frame: Any) -> None:
                time.sleep(0.001)
                self.results.x[:] = self.params.factor

        ctx = Context(executor=executor)
        iterator = ctx.run_udf_iter(dataset=load(ctx, data), udf=Scale(factor=1))
        last = next(iterator)
        iterator.update_parameters_experimental([{"factor": 2}])
        for last in iterator:
            pass
        seen = last.buffers[0]["x"].data
        assert set(np.unique(seen)) == {1.0, 2.0}
        assert seen[-1, -1] == 2

    def test_datasets_in_memory_are_not_sent_whole(self, executor: PipelinedExecutor) -> None:
        """Each task gets its own part of an array in memory."""
        ctx = Context(executor=executor)
        big = np.ones((64, 64, 64, 64), np.float32)
        dataset = ctx.load("memory", data=big, sig_dims=2, num_partitions=16)
        sizes = [len(pickle.dumps(partition)) for partition in dataset.get_partitions()]
        assert max(sizes) < 2 * big.nbytes / 16
        assert ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"].data.sum() == big.sum()


def test_main_script_needs_no_guard(tmp_path: Path) -> None:
    """A script without ``if __name__ == "__main__"`` works, with functions and classes of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np
            from tilework.api import Context
            from tilework.udf import UDF

            class Brightest(UDF):
                def get_result_buffers(self):
                    return {"x": self.buffer(kind="nav")}
                def process_frame(self, frame):
                    self.results.x[:] = double(frame.max())

            def double(x):
                return 2 * x

            ctx = Context.make_with("pipelined", cpus=2)
            dataset = ctx.load("memory", data=np.ones((4, 4, 8, 8)), sig_dims=2)
            print(ctx.run_udf(dataset=dataset, udf=Brightest())["x"].data.sum())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.fspath(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "32.0\n", "")
