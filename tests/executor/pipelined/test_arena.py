"""Shared memory: blocks that are used again, and never by two at a time."""

from __future__ import annotations

import gc
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mount_namespace import in_mount_namespace
from tilework.executor.pipelined.arena import Arena, ArenaReader
from tilework.executor.pipelined.control import ControlPage, MainStopFlag, WorkerStopFlag
from tilework.executor.pipelined.memory import PAGE, Segment, SharedMemoryFullError, map_segment
from tilework.executor.pipelined.parcel import SMALLEST_APART, Layout, pack, ship, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tilework.executor.pipelined.arena import Block


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(1 << 20)
    yield arena
    arena.close()


def reader(arena: Arena, *, writable: bool = True) -> ArenaReader:
    return ArenaReader(os.dup(arena.fd), arena.size, writable=writable)


def test_what_is_written_is_read(arena: Arena) -> None:
    other = reader(arena, writable=False)
    block = arena.allocate(5)
    assert block is not None
    arena.view(block)[:] = b"hello"
    assert bytes(other.view(block)) == b"hello"
    with pytest.raises(TypeError, match="read-only"):
        other.view(block)[0] = 1


def test_released_blocks_are_used_again(arena: Arena) -> None:
    """The same place comes around, so that the pages are those that are in the caches."""
    other = reader(arena)
    offsets = set()
    for _ in range(100):
        block = arena.allocate(1000)
        assert block is not None
        offsets.add(block.offset)
        other.release(block)
    assert len(offsets) <= 2


def test_a_full_arena(arena: Arena) -> None:
    """It gives nothing more until something is released; what can never fit is an error."""
    other = reader(arena)
    blocks = []
    while (block := arena.allocate(100_000)) is not None:
        blocks.append(block)
    assert len(blocks) == 10
    other.release(blocks[4])
    assert arena.allocate(100_000) is not None
    assert arena.allocate(100_000) is None
    with pytest.raises(SharedMemoryFullError, match="do not fit"):
        arena.allocate(1 << 21)


def test_kept_blocks(arena: Arena) -> None:
    """A block that is kept survives its release by the reader, until there is need of the place."""
    other = reader(arena)
    lost = []
    block = arena.allocate(600_000, lambda: lost.append("kept"))
    assert block is not None
    other.release(block)
    small = arena.allocate(1000)
    assert small is not None
    assert small.offset != block.offset
    assert lost == []
    arena.keep(block)
    assert arena.allocate(600_000) is None
    other.release(block)
    assert arena.allocate(600_000) is not None
    assert lost == ["kept"]


def test_half_is_left_to_others(arena: Arena) -> None:
    """Who leaves the upper half gets nothing of it, and takes nothing from it that is kept; others have room there."""
    other = reader(arena)
    lost: list[int] = []
    ahead = []
    while (block := arena.allocate(100_000, leave_half=True)) is not None:
        ahead.append(block)
    assert len(ahead) == 5
    kept = [arena.allocate(100_000, lambda: lost.append(1)) for _ in range(5)]
    assert arena.allocate(100_000) is None
    for block in kept:
        assert block is not None
        other.release(block)
    assert arena.allocate(100_000, leave_half=True) is None
    assert lost == []
    other.release(ahead[3])
    again = arena.allocate(100_000, leave_half=True)
    assert again is not None
    assert again.offset == ahead[3].offset
    assert arena.allocate(500_000) is not None
    assert len(lost) == 5
    assert arena.allocate(600_000, leave_half=True) is None  # more than the half, but no error: later all is there


def test_more_blocks_than_slots() -> None:
    """Tiny blocks use up the slots, not the budget: half of them is left to others, and kept blocks make way."""
    large = Arena(1 << 24)
    other = reader(large)
    lost: list[int] = []
    ahead = []
    while (block := large.allocate(1, lambda: lost.append(1), leave_half=True)) is not None:
        ahead.append(block)
    rest = []
    while (block := large.allocate(1, lambda: lost.append(1))) is not None:
        rest.append(block)
    assert len(ahead) == len(rest)
    assert lost == []
    for block in ahead[:10]:
        other.release(block)
    assert large.allocate(1) is not None
    assert len(lost) == 10
    large.close()


def test_kept_blocks_in_places_that_were_others() -> None:
    """What was noted of a block that is gone, is not taken for a note of the next one in its slot."""
    arena = Arena(1 << 20)
    other = reader(arena)
    lost: list[str] = []
    first, second = arena.allocate(100), arena.allocate(100)
    assert first is not None
    assert second is not None
    arena.free(second)
    kept = arena.allocate(100, lambda: lost.append("kept"))
    assert kept is not None
    assert kept.slot == second.slot
    arena.view(kept)[:] = b"k" * 100
    other.release(kept)
    other.release(first)
    for _ in range(5):
        block = arena.allocate(100)
        assert block is not None
        arena.view(block)[:] = bytes(100)
    assert lost == []
    assert bytes(arena.view(kept)) == b"k" * 100
    arena.close()


def test_blocks_apart(arena: Arena) -> None:
    """They need no place in the arena, and all of them take no more than its budget."""
    other = reader(arena)
    while arena.allocate(100_000) is not None:
        pass
    n = arena.n_blocks
    first = arena.allocate_apart(700_000)
    assert first is not None
    block, segment = first
    assert block.is_apart
    assert len(memoryview(segment.map)) >= 700_000
    assert arena.allocate_apart(700_000) is None
    assert arena.is_unread(block)
    other.release(block)
    assert not arena.is_unread(block)
    segment.close()
    second = arena.allocate_apart(700_000)
    assert second is not None
    second[1].close()
    arena.lend(second[0], "reader")
    arena.let_go(second[0])
    arena.forget_reader("reader")
    assert arena.n_blocks == n


def test_readers_that_are_gone(arena: Arena) -> None:
    """What was lent to a reader that is gone is free again, unless it is kept for another."""
    first, second = object(), object()
    kept = arena.allocate(400_000, lambda: None)
    lent = arena.allocate(400_000)
    assert kept is not None
    assert lent is not None
    arena.lend(kept, first)
    arena.lend(lent, first)
    arena.forget_reader(first)
    assert arena.n_blocks == 1
    arena.lend(kept, second)
    arena.let_go(kept)
    assert arena.n_blocks == 1
    arena.forget_reader(second)
    assert arena.n_blocks == 0
    never_lent = arena.allocate(10, lambda: None)
    assert never_lent is not None
    arena.let_go(never_lent)
    assert arena.n_blocks == 0


def test_watched_blocks(arena: Arena) -> None:
    """A block is released when the last array in it is forgotten, also an array made from a part of another."""
    other = reader(arena)
    block = arena.allocate(8000)
    assert block is not None
    array = np.frombuffer(other.view_until_forgotten(block), dtype=np.float64)
    part = array[3:5].reshape(1, 2)
    assert other.watched_bytes == 8000
    del array
    gc.collect()
    again = arena.allocate(8000)
    assert again is not None
    assert again.offset != block.offset
    del part
    assert other.watched_bytes == 0
    third = arena.allocate(8000)
    assert third is not None
    assert third.offset == block.offset


class AnyUse(RuleBasedStateMachine):
    """Blocks never overlap, and what is in them stays until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(1 << 16)
        self.other = reader(self.arena)
        self.live: dict[int, tuple[Block, int]] = {}
        self.n = 0

    @rule(size=st.integers(0, 20_000))
    def allocate(self, size: int) -> None:
        block = self.arena.allocate(size)
        if block is None:
            return
        self.n += 1
        self.arena.view(block)[:] = bytes([self.n % 256]) * size
        self.live[self.n] = block, self.n % 256

    @rule(which=st.integers(0, 30), frees=st.booleans())
    def give_back(self, which: int, frees: bool) -> None:
        if self.live:
            key = sorted(self.live)[which % len(self.live)]
            block, _ = self.live.pop(key)
            if frees:
                self.arena.free(block)
            else:
                self.other.release(block)

    @invariant()
    def contents_are_untouched(self) -> None:
        for block, value in self.live.values():
            assert bytes(self.other.view(block)) == bytes([value]) * block.size

    def teardown(self) -> None:
        self.arena.close()


TestAnyUse = AnyUse.TestCase


# ---- segments ----


@pytest.mark.parametrize("in_folder", [False, True])
def test_segments(in_folder: bool, tmp_path: Path) -> None:
    """They have no name anywhere; another process sees what is written, or has a copy of its own."""
    segment = Segment(3 * PAGE - 1, str(tmp_path) if in_folder else None)
    segment.allocate(segment.size)
    assert list(tmp_path.iterdir()) == []
    segment.map[:5] = b"first"
    shared = map_segment(os.dup(segment.fd), segment.size, writable=True)
    private = map_segment(os.dup(segment.fd), segment.size, private=True)
    private[:5] = b"other"
    shared[:5] = b"again"
    assert (segment.map[:5], private[:5]) == (b"again", b"other")
    segment.close()
    segment.close()


def test_no_room_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """Where a file system is full, that shows before anything is written; run in a namespace with a tiny one."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from tilework.executor.pipelined.arena import Arena
            from tilework.executor.pipelined.memory import SharedMemoryFullError
            arena = Arena(64 << 20, sys.argv[1])
            blocks = []
            try:
                while True:
                    block = arena.allocate(1 << 20)
                    arena.view(block)[:] = b"x" * (1 << 20)
                    blocks.append(block)
            except SharedMemoryFullError as error:
                print(len(blocks), error)
            """
        )
    )
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = f"mount -t tmpfs -o size=16m tmpfs {folder} && exec {sys.executable} {script} {folder}"
    done = in_mount_namespace(command)
    assert "no room for" in done.stdout
    assert 8 <= int(done.stdout.split()[0]) <= 16


# ---- parcels ----


def send(arena: Arena, obj: Any, *, copy: bool = False, keep: bool = True) -> Any:
    parcel, fd = ship(pack(obj), arena)
    return unpack(parcel, reader(arena), fd, copy=copy, keep=keep)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "obj",
    [
        None,
        {"a": 1},
        np.arange(10),
        np.arange(50_000.0).reshape(50, 1000),
        np.asfortranarray(np.arange(50_000.0).reshape(50, 1000)),
        [np.zeros(SMALLEST_APART, "u1"), np.ones(SMALLEST_APART - 1, "u1"), np.zeros(0)],
        list(range(100_000)),
        bytearray(50_000),
    ],
    ids=["nothing", "dict", "small", "large", "Fortran", "several", "large pickle", "bytes"],
)
def test_parcels(arena: Arena, obj: Any, copy: bool, keep: bool) -> None:
    back = send(arena, obj, copy=copy, keep=keep)
    np.testing.assert_equal(back, obj)


def test_a_parcel_that_does_not_fit(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    """It travels in a piece of memory of its own, which the log says, and may be written to."""
    array = np.arange(1 << 18, dtype=np.float64)
    back = send(arena, array)
    assert np.array_equal(back, array)
    back[0] = 5
    assert "slower" in caplog.text


def test_results_may_be_written_to(arena: Arena) -> None:
    """What is received is the receiver's own."""
    back = send(arena, np.zeros(5000))
    back += 1
    assert back.sum() == 5000


# ---- the control page ----


def test_stopping() -> None:
    """A flag that is set on one side is seen on the other; other runs do not see it."""
    page = ControlPage()
    other = ControlPage(os.dup(page.fd))
    flag = MainStopFlag(page, 5, None)
    seen, another = WorkerStopFlag(other, 5, None), WorkerStopFlag(other, 6, None)
    assert not seen.is_set()
    flag.set("enough")
    assert seen.is_set()
    assert not another.is_set()
    another.raise_if_set()
    assert WorkerStopFlag(other, 7, 0.0).is_set(), "its deadline has passed"
    other.close()
    page.close()
    flag.set("late, after the end of the executor")


def test_taking_back() -> None:
    """Either the worker begins a ticket, or it is taken back."""
    page = ControlPage()
    page.clear(3)
    assert page.begin(3, 1)
    assert page.revoke(3, 4) == 1
    assert not page.begin(3, 2)
    assert not page.begin(3, 4)
    assert page.begin(3, 5)
    assert page.begun(3) == 5
    page.close()


def test_given_back_while_it_is_locked(arena: Arena) -> None:
    """The garbage collector ends runs in any thread at any moment, also in one that has the lock."""
    block, kept = arena.allocate(700_000), arena.allocate(10, lambda: None)
    assert block is not None
    assert kept is not None
    with arena._lock:
        arena.free(block)
        arena.let_go(kept)
    assert arena.allocate(700_000) is not None
    assert arena.n_blocks == 1


def test_interrupted_while_large_arrays_are_copied(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C comes when they have been copied, and nobody has the block yet."""
    packed = pack(np.ones(100_000, dtype=np.uint8))

    def write(self: Layout, view: memoryview) -> None:
        view.release()
        raise KeyboardInterrupt

    monkeypatch.setattr(Layout, "write", write)
    with pytest.raises(KeyboardInterrupt):
        ship(packed, arena)
    assert arena.n_blocks == 0
