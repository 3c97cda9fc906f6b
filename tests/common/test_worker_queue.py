"""Queues between main side and worker, and what a task sees of them."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tilework.common.worker_queue import (
    SimpleMPWorkerQueue,
    SimpleWorkerQueue,
    WorkerContext,
    WorkerQueue,
    WorkerQueueEmpty,
)


def test_items_arrive_in_order() -> None:
    """Headers of any kind pass by reference, payloads as bytes, in the order of put."""
    queue = SimpleWorkerQueue()
    headers = [("a", {"x": 1}), lambda: 5, None]
    for header in headers:
        queue.put(header)
    queue.put("payload", memoryview(b"abc"))
    assert queue.size() == 4
    for header in headers:
        with queue.get() as (got, payload):
            assert got is header
            assert payload is None
    with queue.get() as (got, payload):
        assert got == "payload"
        assert bytes(payload or b"") == b"abc"
    assert queue.size() == 0


def test_payload_is_a_copy() -> None:
    """The buffer of a put may be used again at once."""
    queue = SimpleWorkerQueue()
    buffer = bytearray(b"one")
    queue.put("data", memoryview(buffer))
    buffer[:] = b"two"
    with queue.get() as (_, payload):
        assert bytes(payload or b"") == b"one"


@pytest.mark.parametrize(
    "payload", [np.array(5), np.arange(6, dtype=">u2").reshape(2, 3)[:, ::2], np.empty((0, 3)), bytearray(b"four")]
)
def test_payloads_of_all_kinds(payload: Any) -> None:
    """Whatever has a buffer, of any layout: its values in C order."""
    queue = SimpleWorkerQueue()
    queue.put("data", payload)
    with queue.get() as (_, got):
        assert bytes(got or b"") == np.asarray(payload).tobytes()


def test_bytes_arrive_as_bytes() -> None:
    """They cannot change any more: the reader gets them as they are, also for after the block."""
    queue = SimpleWorkerQueue()
    queue.put("data", b"four")
    with queue.get() as (_, payload):
        assert isinstance(payload, bytes)
    assert payload == b"four"


def test_put_nocopy() -> None:
    """The buffer has the size that was asked for, is writable, and is queued when the block ends without an error."""
    queue = SimpleWorkerQueue()
    with pytest.raises(LookupError), queue.put_nocopy("never", 4):
        raise LookupError
    assert queue.size() == 0
    with queue.put_nocopy("data", 4) as buffer:
        assert (len(buffer), buffer.readonly) == (4, False)
        buffer[:] = b"abcd"
        assert queue.size() == 0
    with queue.get() as (header, payload):
        assert (header, bytes(payload or b"")) == ("data", b"abcd")


def test_empty() -> None:
    """An empty queue says so, at once or when the time is over."""
    queue = SimpleWorkerQueue()
    with pytest.raises(WorkerQueueEmpty, match="empty"), queue.get(block=False):
        pass
    with pytest.raises(WorkerQueueEmpty, match=r"within 0.01 s"), queue.get(timeout=0.01):
        pass


def test_close() -> None:
    """Closing discards what is left, unless it is told not to, and may be repeated."""
    queue = SimpleWorkerQueue()
    queue.put(1)
    queue.close(drain=False)
    assert queue.size() == 1
    queue.close()
    queue.close(force=True)
    assert queue.size() == 0


def test_between_threads() -> None:
    """What some threads put, another gets, all of it."""
    queue = SimpleWorkerQueue()

    def get() -> int:
        with queue.get(timeout=60) as (header, _):
            assert isinstance(header, int)
            return header

    with ThreadPoolExecutor(4) as pool:
        got = [pool.submit(get) for _ in range(100)]
        for i in range(100):
            queue.put(i)
        assert sorted(future.result() for future in got) == list(range(100))


def test_interface_is_abstract() -> None:
    """A queue must have all methods; size may be impossible to tell."""
    with pytest.raises(TypeError, match="abstract"):
        WorkerQueue()  # type: ignore[abstract]
    with pytest.raises(NotImplementedError):
        WorkerQueue.size(SimpleWorkerQueue())


def test_context() -> None:
    """A task gets its own queue, and signals with its partition's name; without either it is told, or ignored."""
    worker_queue, messages = SimpleWorkerQueue(), SimpleWorkerQueue()
    context = WorkerContext(worker_queue, messages)
    assert context.get_worker_queue() is worker_queue
    message = {"value": 1}
    context.signal("part-3", "topic", message)
    assert message == {"value": 1}
    with messages.get() as (header, _):
        assert header == ("topic", {"ident": "part-3", "value": 1})
    with pytest.raises(ValueError, match="'ident' is a reserved name"):
        context.signal("part-3", "topic", {"ident": 1})
    WorkerContext().signal("part-3", "topic", {})
    with pytest.raises(RuntimeError, match="does not override TaskCommHandler"):
        WorkerContext().get_worker_queue()


def add_up(requests: SimpleMPWorkerQueue, responses: SimpleMPWorkerQueue) -> None:
    """What another process does: it calls the header with the payload, until there is none."""
    while True:
        with requests.get(timeout=60) as (header, payload):
            if payload is None:
                break
            with responses.put_nocopy(header(payload), 2) as buffer:
                buffer[:] = payload[:2]
    requests.close()
    responses.close()


def test_items_pass_between_processes() -> None:
    """Headers are whatever cloudpickle can pickle; payloads arrive as bytes."""
    requests, responses = SimpleMPWorkerQueue(), SimpleMPWorkerQueue()
    process = multiprocessing.get_context("spawn").Process(target=add_up, args=(requests, responses))
    process.start()
    factor = 3
    requests.put(lambda payload: factor * sum(payload), memoryview(b"abc"))
    requests.put(len, np.arange(4, dtype="u2").tobytes())
    requests.put(None)
    for header, payload in ((3 * sum(b"abc"), b"ab"), (8, b"\0\0")):
        with responses.get(timeout=60) as got:
            assert got == (header, payload)
    process.join(60)
    assert process.exitcode == 0
    requests.close()
    responses.close()


def test_a_queue_between_processes_may_be_empty_and_closed_twice() -> None:
    queue = SimpleMPWorkerQueue()
    with pytest.raises(WorkerQueueEmpty, match="is empty"), queue.get(block=False):
        pass
    with pytest.raises(WorkerQueueEmpty, match=r"within 0.01 s"), queue.get(timeout=0.01):
        pass
    with pytest.raises((TypeError, pickle.PicklingError)):
        queue.put(multiprocessing.Lock().acquire)
    with pytest.raises(KeyError), queue.put_nocopy("nothing", 4):
        raise KeyError
    for i in range(100):
        queue.put(i, bytes(100_000))
    queue.close(drain=True, force=True)
    queue.close()
