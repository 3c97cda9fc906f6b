"""How fast frames get from a socket into functions on worker processes, and how long a frame takes to its result.

::

    python benchmarks/stream.py [--frames N] [--together N] [--workers N] [--nice N]

A process sends frames of 256 x 256 uint16 through a socket of this machine: pages of a file, which it does not copy
itself (``sendfile``), since a detector's computer would not take this one's cores either. Three ways to compute with
them:

- tilework: received straight into shared memory (``recv_into``), a UDF on two pipelined workers, merged as it comes;
- queues: received into a buffer, pickled through a `multiprocessing.Queue` to two processes that compute the same;
- bare: received into a buffer, over and over, and nothing else.

The sender uses loss-based congestion control: with BBR, which some systems have as the default, it paces what it sends
to a guess of the bandwidth, and everything here waits for that.

*Latency* is the time from the last byte of the last frame of a partition to its merged result, with a sender that makes
a pause between frames, as a detector does, so that nothing queues up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.executor import NoopCommHandler, RunOptions, TaskCommHandler
from tilework.common.kernels.sums import sum_frames
from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.faults import FakePartition

if TYPE_CHECKING:
    from tilework.common.executor import Environment, WorkerQueue

SHAPE = (256, 256)
FRAME = SHAPE[0] * SHAPE[1] * 2


def send(address: tuple[str, int], n: int, together: int, pause: float) -> None:
    """Send `n` frames, with a pause after each `together` of them."""
    block = np.random.default_rng(0).poisson(3, (together, *SHAPE)).astype(np.uint16).tobytes()
    with tempfile.TemporaryFile() as file, socket.create_connection(address) as sock:
        file.write(block)
        file.flush()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        for _ in range(n // together):
            if pause:
                time.sleep(pause)
            sock.sendfile(file, 0, len(block))


class Sender:
    """A sender in another process, and the connection to it."""

    def __init__(self, n: int, together: int, pause: float = 0.0) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=send, args=(listener.getsockname(), n, together, pause))
        self._process.start()
        self.socket, _ = listener.accept()
        # Whoever receives is not woken for every packet.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 18)
        listener.close()

    def __enter__(self) -> socket.socket:
        return self.socket

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._process.join()


def receive(sock: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer."""
    while len(buffer):
        n = sock.recv_into(buffer, len(buffer), socket.MSG_WAITALL)
        if not n:
            raise EOFError
        buffer = buffer[n:]


# ---- tilework ----


class FrameTask:
    """Sums the frames that are streamed to it."""

    def __init__(self, index: int, frames: int) -> None:
        self.index, self.frames = index, frames

    def __call__(self, params: Any, env: Environment) -> Any:  # noqa: ARG002
        assert env.worker_context is not None
        queue = env.worker_context.get_worker_queue()
        total = np.zeros(SHAPE, np.uint64)
        left = self.frames
        while left:
            with queue.get() as (_, payload):
                assert payload is not None
                frames = np.frombuffer(payload, np.uint16).reshape(-1, *SHAPE)
                sum_frames(frames, total, compiled=True)
                left -= len(frames)
        return total

    def get_partition(self) -> FakePartition:
        return FakePartition(f"part-{self.index}")

    def get_resources(self) -> Any:
        return {"CPU": 1, "compute": 1, "ndarray": 1}

    def get_locations(self) -> None:
        return None

    def get_tracing_span_context(self) -> None:
        return None


class SocketHandler(TaskCommHandler):
    """Receives the frames of each task into its queue."""

    def __init__(self, sock: socket.socket, together: int) -> None:
        self.sock, self.together = sock, together
        self.complete: dict[int, float] = {}

    def handle_task(self, task: FrameTask, queue: WorkerQueue) -> None:
        for _ in range(task.frames // self.together):
            with queue.put_nocopy(None, self.together * FRAME) as buffer:
                receive(self.sock, buffer)
        self.complete[task.index] = time.perf_counter()


def tilework(
    executor: PipelinedExecutor, n: int, together: int, per_task: int, pause: float = 0.0
) -> tuple[float, list[float]]:
    """Return seconds for all frames, and the latencies of the tasks."""
    latencies = []
    merged = np.zeros(SHAPE, np.uint64)
    with Sender(n, together, pause) as sock, executor.scatter(None) as handle:
        handler = SocketHandler(sock, together)
        tasks = [FrameTask(i, per_task) for i in range(n // per_task)]
        start = time.perf_counter()
        for result, task in executor.run_tasks(tasks, handle, 0, handler, options=RunOptions(ordered=True)):
            merged += result
            latencies.append(time.perf_counter() - handler.complete[task.index])  # type: ignore[attr-defined]
        return time.perf_counter() - start, latencies


# ---- queues of multiprocessing ----


def compute(items: Any, results: Any, per_task: int, nice: int) -> None:
    """Sum the frames of each item that arrives."""
    os.nice(nice)
    total, left = np.zeros(SHAPE, np.uint64), per_task
    while (block := items.get()) is not None:
        frames = np.frombuffer(block, np.uint16).reshape(-1, *SHAPE)
        sum_frames(frames, total, compiled=True)
        left -= len(frames)
        if not left:
            results.put(total)
            total, left = np.zeros(SHAPE, np.uint64), per_task
    results.put(None)


def queues(n: int, together: int, per_task: int, workers: int, nice: int) -> float:
    """Return seconds for all frames."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    items = [context.Queue(64) for _ in range(workers)]
    processes = [context.Process(target=compute, args=(each, results, per_task, nice)) for each in items]
    for process in processes:
        process.start()
    for each in items:  # wait until they are up
        for _ in range(per_task // together):
            each.put(bytes(together * FRAME))
    for _ in items:
        results.get()
    merged = np.zeros(SHAPE, np.uint64)
    with Sender(n, together) as sock:
        start = time.perf_counter()
        buffer = bytearray(together * FRAME)

        def feed() -> None:
            for task in range(n // per_task):
                for _ in range(per_task // together):
                    receive(sock, memoryview(buffer))
                    items[task % workers].put(bytes(buffer))

        feeder = threading.Thread(target=feed)
        feeder.start()
        for _ in range(n // per_task):
            merged += results.get()
        seconds = time.perf_counter() - start
        feeder.join()
    for each in items:
        each.put(None)
    for process in processes:
        process.join()
    return seconds


# ---- bare ----


def bare(n: int, together: int) -> float:
    """Return seconds for receiving all frames into one buffer."""
    with Sender(n, together) as sock:
        buffer = memoryview(bytearray(together * FRAME))
        start = time.perf_counter()
        for _ in range(n // together):
            receive(sock, buffer)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16384)
    parser.add_argument("--together", type=int, default=16, help="frames that are received at a time")
    parser.add_argument("--per-task", type=int, default=256, help="frames of a partition")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nice", type=int, default=10, help="of the workers: whoever receives goes first")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    n, together, per_task = args.frames, args.together, args.per_task
    gigabytes = n * FRAME / 1e9
    spec = PipelinedExecutor.make_spec(args.workers, [])
    with PipelinedExecutor(spec, early_setup=partial(os.nice, args.nice)) as executor:
        with executor.scatter(None) as handle:
            list(executor.run_tasks([], handle, 0, NoopCommHandler()))
        speeds: dict[str, list[float]] = {"tilework": [], "queues": [], "bare": []}
        for _ in range(args.repeat):
            speeds["tilework"].append(gigabytes / tilework(executor, n, together, per_task)[0])
            speeds["queues"].append(gigabytes / queues(n, together, per_task, args.workers, args.nice))
            speeds["bare"].append(gigabytes / bare(n, together))
        few = 32 * per_task
        _, latencies = tilework(executor, few, together, per_task, pause=0.004)
    best = {name: max(values) for name, values in speeds.items()}
    for name, speed in best.items():
        print(f"{name:10s} {speed:6.2f} GB/s {speed * 1e9 / FRAME:9.0f} frames/s")
    print(f"tilework is {best['tilework'] / best['queues']:.1f} times as fast as queues", end=", ")
    print(f"and has {best['tilework'] / best['bare']:.0%} of the speed of a bare loop")
    ordered = sorted(latencies)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(f"latency to the merged result: p50 {statistics.median(ordered) * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
