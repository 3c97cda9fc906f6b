"""Lines between processes: whole frames, in order, with descriptors, whatever the sizes."""

from __future__ import annotations

import os
import random
import resource
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tilework.executor.pipelined.wire import Frame, Wire, WireClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator


def pair() -> tuple[Wire, Wire, list[Wire]]:
    """Return an end that does not block, one that does, and those that had something left in the outbox."""
    blocked: list[Wire] = []
    here, there = Wire.pair(blocked.append)
    return here, Wire(there), blocked


def test_frames_of_any_size_in_order() -> None:
    """Many frames, from empty ones to some that are larger than the socket's buffer, both ways at the same time."""
    here, there, _ = pair()
    rng = random.Random(5)
    bodies = [rng.randbytes(rng.choice([0, 1, 100, 70_000, 3_000_000])) for _ in range(40)]

    def echo() -> None:
        for _ in bodies:
            frame = there.receive()
            assert frame is not None
            there.send(frame.body)

    thread = threading.Thread(target=echo)
    thread.start()
    for body in bodies:
        here.send(body)
    got: list[bytes] = []
    while len(got) < len(bodies):
        here.flush()
        got += [frame.body for frame in here.receive_nowait()]
    thread.join()
    assert got == bodies
    here.close()
    there.close()


def test_a_reader_that_does_not_read_blocks_nobody() -> None:
    """What the socket does not take waits in the outbox, and is sent when there is room, in order."""
    here, there, blocked = pair()
    for i in range(3000):
        here.send(i.to_bytes(4, "little") * 100)
    assert blocked
    assert not here.flush()
    got = 0
    while got < 3000:
        here.flush()
        frame = there.receive(timeout=5)
        assert frame is not None
        assert frame.body == got.to_bytes(4, "little") * 100
        got += 1
    assert here.flush()
    here.close()
    there.close()


def test_descriptors_stay_with_their_frames() -> None:
    """Also when they wait in the outbox, and their owner closes them meanwhile."""
    here, there, _ = pair()
    for i in range(200):
        read, write = os.pipe()
        os.write(write, i.to_bytes(2, "little"))
        os.close(write)
        here.send(b"x" * 20_000, (read,) if i % 3 else ())
        os.close(read)
    for i in range(200):
        here.flush()
        frame = there.receive(timeout=5)
        assert isinstance(frame, Frame)
        assert len(frame.descriptors) == (1 if i % 3 else 0)
        for fd in frame.descriptors:
            assert os.read(fd, 2) == i.to_bytes(2, "little")
            os.close(fd)
    here.close()
    there.close()


def test_what_is_held_is_sent_together_and_in_order() -> None:
    """Until release, or a descriptor, nothing arrives; then everything does, in the order in which it was sent."""
    here, there, _ = pair()
    here.hold()
    for body in (b"a", b"b"):
        here.send(body)
    assert there.receive(timeout=0.01) is None
    with open(os.devnull) as file:  # noqa: PTH123
        here.send(b"c", (file.fileno(),))
    frames = [there.receive(timeout=5) for _ in range(3)]
    assert [frame and frame.body for frame in frames] == [b"a", b"b", b"c"]
    assert frames[2] is not None
    os.close(frames[2].descriptors[0])
    here.send(b"d")
    assert there.receive(timeout=0.01) is None
    here.release()
    assert there.receive(timeout=5) == Frame(b"d", ())
    here.send(b"e")
    assert there.receive(timeout=5) == Frame(b"e", ())
    here.hold()
    here.send(b"f")
    here.close()
    with pytest.raises(WireClosedError):
        there.receive(timeout=5)
    there.close()


def test_the_other_end_is_gone() -> None:
    """What was sent before is still received; then there is an error, for both directions."""
    here, there, _ = pair()
    there.send(b"last words")
    there.close()
    assert [frame.body for frame in here.receive_nowait()] == [b"last words"]
    with pytest.raises(WireClosedError):
        here.receive_nowait()
    with pytest.raises(WireClosedError):
        here.send(b"anybody?")
    here.close()
    with pytest.raises(WireClosedError):
        here.send(b"anybody?")


def test_hanging_up() -> None:
    """The other end gets what was sent before, and waits neither for more, nor for somebody to read what it sends."""
    here, there, _ = pair()
    here.send(b"goodbye")
    here.hang_up()
    with pytest.raises(WireClosedError):
        there.send(bytes(1 << 20))
    frame = there.receive(timeout=5)
    assert frame is not None
    assert frame.body == b"goodbye"
    with pytest.raises(WireClosedError):
        there.receive(timeout=5)
    here.close()
    there.close()


def test_nothing_in_time() -> None:
    here, there, _ = pair()
    assert here.receive_nowait() == []
    assert there.receive(timeout=0.01) is None
    here.close()
    there.close()


def test_descriptors_that_nobody_took_are_closed() -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    here, there, _ = pair()
    with open(os.devnull) as file:  # noqa: PTH123
        for _ in range(5):
            here.send(b"x", (file.fileno(),))
        taken = there.receive(timeout=5)
    here.close()
    there.close()
    assert taken is not None
    os.close(taken.descriptors[0])  # it belongs to who took it
    assert set(os.listdir("/proc/self/fd")) - before == set()  # noqa: PTH208


@contextmanager
def no_more_descriptors(room: int) -> Iterator[None]:
    """Let this process open `room` more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))  # noqa: PTH208
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(room):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("room", [0, 1])
def test_no_room_for_descriptors(room: int) -> None:
    """The system drops what a process has no room for: what came before is received, then both ends are at an end."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    here, there, _ = pair()
    with open(os.devnull) as file:  # noqa: PTH123
        there.send(b"before")
        there.send(b"with", (file.fileno(), file.fileno()))
        there.send(b"after", (file.fileno(),))
        with no_more_descriptors(room):
            assert here.receive_nowait() == [Frame(b"before", ())]
            with pytest.raises(WireClosedError, match="too many open files"):
                here.receive_nowait()
    assert here.trouble is not None
    with pytest.raises(WireClosedError):
        there.receive(timeout=5)
    with pytest.raises(WireClosedError):
        there.send(b"anybody?")
    here.close()
    there.close()
    assert set(os.listdir("/proc/self/fd")) - before == set()  # noqa: PTH208


def test_no_room_to_keep_descriptors() -> None:
    """One that has to wait in the outbox, and cannot, is the end of the line."""
    here, there, blocked = pair()
    while not blocked:
        here.send(b"x" * 20_000)
    with open(os.devnull) as file, no_more_descriptors(1), pytest.raises(WireClosedError, match="Too many open files"):  # noqa: PTH123
        here.send(b"y", (file.fileno(), file.fileno()))
    with suppress(WireClosedError):
        while there.receive(timeout=5) is not None:
            pass
    with pytest.raises(WireClosedError):
        there.receive(timeout=5)
    here.close()
    there.close()
