from __future__ import annotations

import io
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common import Shape, progress
from tilework.common.comm_handler import NoopCommHandler
from tilework.common.progress import (
    CommsDispatcher,
    PartitionProgressTracker,
    PartitionTrackerNoOp,
    ProgressManager,
    ProgressReporter,
    ProgressState,
    TQDMProgressReporter,
)
from tilework.common.worker_queue import SimpleWorkerQueue, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tilework.common.subscriptions import Callback

SIG = (4, 5)


@dataclass
class Partition:
    name: str
    frames: int
    _worker_context: WorkerContext | None = None

    @property
    def shape(self) -> Shape:
        return Shape((self.frames, *SIG), 2)

    def get_ident(self) -> str:
        return self.name


@dataclass
class Task:
    partition: Partition

    @property
    def task_frames(self) -> int:
        return self.partition.frames

    def get_partition(self) -> Partition:
        return self.partition


@dataclass
class Tile:
    size: int


@dataclass
class Comms:
    """Delivers at once, in the thread that sends."""

    callbacks: dict[str, Callback] = field(default_factory=dict)

    def subscribe(self, topic: str, callback: Callback) -> None:
        self.callbacks[topic] = callback

    def send(self, topic: str, **message: Any) -> None:
        self.callbacks[topic](topic, message)


class Recorder(ProgressReporter):
    def __init__(self) -> None:
        self.calls: list[tuple[str, ProgressState]] = []

    def start(self, state: ProgressState) -> None:
        self.calls.append(("start", state))

    def update(self, state: ProgressState) -> None:
        self.calls.append(("update", state))

    def end(self, state: ProgressState) -> None:
        self.calls.append(("end", state))


def make_tasks(*frames: int) -> list[Task]:
    return [Task(Partition(f"part-{i}", n)) for i, n in enumerate(frames)]


def make_manager(*frames: int) -> tuple[list[Task], ProgressManager, Recorder, Comms]:
    tasks, recorder, comms = make_tasks(*frames), Recorder(), Comms()
    manager = ProgressManager(tasks, "the run", recorder)
    manager.connect(comms)
    return tasks, manager, recorder, comms


def test_finished_tasks_are_counted_without_any_message() -> None:
    tasks, manager, recorder, _ = make_manager(10, 6)
    manager.finalize_task(tasks[1])
    manager.finalize_task(tasks[0])
    manager.close()
    assert recorder.calls == [
        ("start", ProgressState(0, 16, 0, 0, 2, "the run")),
        ("update", ProgressState(6, 16, 1, 0, 2, "the run")),
        ("update", ProgressState(16, 16, 2, 0, 2, "the run")),
        ("end", ProgressState(16, 16, 2, 0, 2, "the run")),
    ]


def test_tiles_count_as_parts_of_frames_up_to_the_whole_task() -> None:
    tasks, manager, recorder, comms = make_manager(10, 6)
    comms.send("partition_start", ident="part-0")
    assert manager.state == ProgressState(0, 16, 0, 1, 2, "the run")
    comms.send("tile_complete", ident="part-0", elements=30)
    assert manager.state == ProgressState(1, 16, 0, 1, 2, "the run")
    assert type(manager.state.num_frames_complete) is int
    comms.send("tile_complete", ident="part-0", elements=10**6)
    assert manager.state == ProgressState(10, 16, 0, 1, 2, "the run")
    comms.send("partition_complete", ident="part-0")
    manager.finalize_task(tasks[0])
    assert manager.state == ProgressState(10, 16, 1, 0, 2, "the run")
    assert len(recorder.calls) == 5


def test_late_messages_change_nothing() -> None:
    tasks, manager, recorder, comms = make_manager(10)
    manager.finalize_task(tasks[0])
    done = manager.state
    comms.send("partition_start", ident="part-0")
    comms.send("tile_complete", ident="part-0", elements=20)
    comms.send("partition_complete", ident="part-0")
    comms.send("partition_start", ident="a partition of another run")
    assert manager.state == done
    manager.close()
    manager.close()
    assert [name for name, _ in recorder.calls] == ["start", "update", "end"]


def test_the_reporter_hears_nothing_after_the_end() -> None:
    _, manager, recorder, comms = make_manager(10)
    manager.close()
    comms.send("partition_start", ident="part-0")
    assert [name for name, _ in recorder.calls] == ["start", "end"]


messages = st.tuples(
    st.sampled_from(["partition_start", "tile_complete", "partition_complete", "finalize"]),
    st.integers(0, 3),
    st.integers(0, 300),
)


@given(st.lists(messages, max_size=40))
def test_any_order_of_messages_goes_forward_and_ends_exact(sequence: list[tuple[str, int, int]]) -> None:
    tasks, manager, recorder, comms = make_manager(1, 2, 30, 7)
    for topic, i, elements in sequence:
        if topic == "finalize":
            manager.finalize_task(tasks[i])
        else:
            comms.send(topic, ident=f"part-{i}", elements=elements)
    for task in tasks:
        manager.finalize_task(task)
    manager.close()
    states = [state for _, state in recorder.calls]
    for before, after in pairwise(states):
        assert before.num_frames_complete <= after.num_frames_complete <= 40
        assert before.num_part_complete <= after.num_part_complete
        assert after.num_part_complete + after.num_part_in_progress <= 4
    assert states[-1] == ProgressState(40, 40, 4, 0, 4, "the run")


def test_a_wrong_topic_is_an_error() -> None:
    _, _, _, comms = make_manager(10)
    for callback in comms.callbacks.values():
        with pytest.raises(RuntimeError, match="Unrecognized topic"):
            callback("something", {"ident": "part-0"})


def test_a_run_without_tasks() -> None:
    with pytest.raises(ValueError, match="without tasks"):
        ProgressManager([], "the run", Recorder())


def test_the_reporter_may_be_a_class_or_a_function() -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    factory: Callable[[], ProgressReporter]
    for factory in (Recorder, make):
        ProgressManager(make_tasks(1), "the run", factory).close()
    assert [name for name, _ in made[0].calls] == ["start", "end"]


def test_the_interface_cannot_be_used_as_a_reporter() -> None:
    with pytest.raises(TypeError):
        ProgressReporter()  # type: ignore[abstract]


def test_progress_bar_shows_frames_and_partitions(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.enumerate()
    tasks = make_tasks(10, 6)
    manager = ProgressManager(tasks, "the run")
    comms = Comms()
    manager.connect(comms)
    comms.send("partition_start", ident="part-0")
    comms.send("tile_complete", ident="part-0", elements=50)
    for task in tasks:
        manager.finalize_task(task)
    manager.close()
    shown = capsys.readouterr().err
    assert "Partitions 0/2, Frames:   0%" in shown
    assert "Partitions 2/2, Frames: 100%" in shown
    assert "16/16" in shown
    assert threading.enumerate() == before, "no thread watches over the bar"


def test_progress_bar_names_partitions_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    reporter = TQDMProgressReporter()
    reporter.start(ProgressState(0, 16, 0, 0, 2, "the run"))
    reporter.end(ProgressState(10, 16, 0, 1, 2, "the run"))
    reporter.update(ProgressState(16, 16, 2, 0, 2, "the run"))
    assert "Partitions 0(1)/2, Frames:" in screen.getvalue()
    assert "10/16" in screen.getvalue()
    assert "16/16" not in screen.getvalue()


def test_progress_bar_that_is_elsewhere() -> None:
    """Who derives from ours opens a bar of its own; what is put off before the end is shown there, at the end."""

    class Bar:
        n = 0.0
        shown: ClassVar[list[tuple[str, float]]] = []
        text = ""

        def set_description_str(self, text: str, refresh: bool) -> None:
            assert not refresh
            self.text = text

        def update(self, n: float) -> None:
            self.n += n

        def refresh(self) -> None:
            self.shown.append((self.text, self.n))

        def close(self) -> None:
            self.shown.append(("closed", self.n))

    class Elsewhere(TQDMProgressReporter):
        def start(self, state: ProgressState) -> None:
            self._bar = Bar()
            self._bar.set_description_str(self._get_description(state), refresh=False)

        def update(self, state: ProgressState) -> None:
            if state.num_frames_complete < 16:
                self._update(state, clip=True, refresh=True)

    reporter = Elsewhere()
    reporter.start(ProgressState(0, 8, 0, 0, 2, "the run"))
    reporter.update(ProgressState(12, 8, 0, 1, 2, "the run"))
    reporter.update(ProgressState(16, 8, 1, 1, 2, "the run"))
    reporter.end(ProgressState(16, 8, 2, 0, 2, "the run"))
    assert Bar.shown == [
        ("Partitions 0(1)/2, Frames", 8),
        ("Partitions 2/2, Frames", 16),
        ("closed", 16),
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress, "get_time", lambda: now[0])
    return now


def drain(queue: SimpleWorkerQueue) -> list[tuple[str, dict[str, Any]]]:
    found = []
    while queue.size():
        with queue.get() as (header, _):
            found.append(header)
    return found


def test_tracker_sends_at_most_one_message_per_interval_and_counts_all_elements(clock: list[float]) -> None:
    messages = SimpleWorkerQueue()
    tracker = PartitionProgressTracker(Partition("part-3", 10, WorkerContext(messages=messages)))
    tracker.signal_start()
    assert drain(messages) == [("partition_start", {"ident": "part-3"})]
    for seconds in (0.0, 0.4, 0.5):
        clock[0] += seconds
        tracker.signal_tile_complete(Tile(20))
        assert drain(messages) == []
    clock[0] += 0.1
    tracker.signal_tile_complete(Tile(7))
    assert drain(messages) == [("tile_complete", {"ident": "part-3", "elements": 67})]
    clock[0] += 1
    tracker.signal_tile_complete(Tile(5))
    assert drain(messages) == [("tile_complete", {"ident": "part-3", "elements": 5})]
    tracker.signal_complete()
    assert drain(messages) == [("partition_complete", {"ident": "part-3"})]


@pytest.mark.parametrize("tracker", [PartitionProgressTracker(Partition("x", 3)), PartitionTrackerNoOp()])
def test_trackers_that_have_nobody_to_tell(tracker: PartitionProgressTracker, clock: list[float]) -> None:
    tracker.signal_start()
    for _ in range(3):
        tracker.signal_tile_complete(Tile(20))
        clock[0] += 10
    tracker.signal_complete()


def test_dispatcher_delivers_everything_in_order_and_leaves_neither_thread_nor_item() -> None:
    before = threading.enumerate()
    queue, seen = SimpleWorkerQueue(), []
    subscriptions: dict[str, list[Callback]] = {
        "a": [
            lambda topic, msg: seen.append((1, topic, msg["n"])),
            lambda topic, msg: seen.append((2, topic, msg["n"])),
        ]
    }
    with CommsDispatcher(queue, subscriptions) as dispatcher:
        for n in range(3):
            queue.put(("a", {"n": n}))
            queue.put(("nobody listens", {}))
        assert any(thread.name == "CommsDispatcher" for thread in threading.enumerate())
        with pytest.raises(RuntimeError, match="Cannot re-enter CommsDispatcher"):
            dispatcher.__enter__()
    assert seen == [(i, "a", n) for n in range(3) for i in (1, 2)]
    assert queue.size() == 0
    assert threading.enumerate() == before


def test_no_dispatcher_is_left_by_ctrl_c_as_it_starts() -> None:
    """`Thread.start` is interrupted where it waits for a thread that is there by then."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is threading.Event.wait.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    def start() -> None:
        sys.setprofile(interrupt)
        CommsDispatcher(SimpleWorkerQueue(), {}).__enter__()

    before = threading.enumerate()
    profile = sys.getprofile()
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        sys.setprofile(profile)
    until = time.monotonic() + 20
    while threading.enumerate() != before:
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.001)


def test_dispatcher_goes_on_after_a_subscriber_failed(caplog: pytest.LogCaptureFixture) -> None:
    queue, seen = SimpleWorkerQueue(), []

    def fail(_topic: str, _message: dict[str, Any]) -> None:
        raise ValueError("wrong subscriber")

    with CommsDispatcher(queue, {"a": [fail, lambda _, msg: seen.append(msg["n"])]}):
        queue.put(("a", {"n": 1}))
        queue.put(("a", {"n": 2}))
    assert seen == [1, 2]
    assert "wrong subscriber" in caplog.text


def test_from_worker_to_reporter_through_the_comm_handler() -> None:
    """The whole way: tracker, queue, dispatcher thread, manager, reporter, while the main thread finishes tasks."""
    tasks, recorder, comms = make_tasks(10, 6), Recorder(), NoopCommHandler()
    queue = SimpleWorkerQueue()
    manager = ProgressManager(tasks, "the run", recorder)
    manager.connect(comms)
    with comms.monitor(queue):
        for task in tasks:
            partition = Partition(task.partition.name, task.partition.frames, WorkerContext(messages=queue))
            tracker = PartitionProgressTracker(partition, min_message_interval=0)
            tracker.signal_start()
            for _ in range(4):
                tracker.signal_tile_complete(Tile(20))
            manager.finalize_task(task)
    manager.close()
    assert recorder.calls[-1] == ("end", ProgressState(16, 16, 2, 0, 2, "the run"))
