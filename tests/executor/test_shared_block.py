"""Blocks of shared memory, and the boards in them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from tilework.executor.shared_block import BlockGoneError, Board, BoardView, SharedBlock, attach


def test_contents_are_shared_or_private() -> None:
    """What is written to a shared view is seen by the owner, what is written to a private one is not."""
    block = SharedBlock(5000)
    block.content[:3] = b"abc"
    shared = attach(block.address, is_private=False)
    private = attach(block.address, is_private=True)
    assert bytes(shared[:4]) == bytes(private[:4]) == b"abc\0"
    assert len(shared) == len(private) == 5000
    private[0] = 1
    shared[1] = 2
    assert bytes(block.content[:3]) == b"a\x02c"
    assert private[0] == 1
    block.close()
    block.close()
    assert bytes(shared[:3]) == b"a\x02c", "it stays mapped as long as somebody looks"


def test_a_block_that_is_gone_is_not_mistaken_for_another() -> None:
    """After its end, a block is gone even when its descriptor stands for something else."""
    first = SharedBlock(10)
    address = first.address
    first.close()
    with pytest.raises(BlockGoneError):
        attach(address, is_private=False)
    second = SharedBlock(10)
    stale = replace(second.address, token=address.token)
    with pytest.raises(BlockGoneError, match="something else"):
        attach(stale, is_private=True)
    second.close()


def test_nothing_is_left_by_an_owner_that_is_killed() -> None:
    """No file, and no memory: a block has no name."""
    code = """
        import os, signal
        from tilework.executor.shared_block import SharedBlock
        block = SharedBlock(1 << 20)
        print(block.address.path, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    before = set(Path("/dev/shm").iterdir())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert not Path(done.stdout.strip()).exists()
    assert set(Path("/dev/shm").iterdir()) <= before


def test_without_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no memory files, there is a file in the temporary folder, until the block ends."""
    monkeypatch.delattr("os.memfd_create")
    block = SharedBlock(10)
    block.content[0] = 7
    path = block.address.path
    assert Path(path).exists()
    assert attach(block.address, is_private=True)[0] == 7
    block.close()
    assert not Path(path).exists()
    other = SharedBlock(10)
    path = other.address.path
    del other
    assert not Path(path).exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory files here")
def test_ctrl_c_as_the_memory_file_is_made_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.memfd_create

    def make_and_interrupt(name: str) -> int:
        make(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "memfd_create", make_and_interrupt)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(KeyboardInterrupt):
        SharedBlock(10)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_board() -> None:
    """The main side says stop, a worker says what it has begun; a closed board says nothing."""
    board = Board(3)
    view = BoardView(pickle.loads(pickle.dumps(board.address)))
    assert board.look(1) == (0, 0)
    view.note(1, 5)
    view.note(2, 6)
    assert board.look(1) == (os.getpid(), 5)
    board.clear(1)
    assert (board.look(1), board.look(2)) == ((0, 0), (os.getpid(), 6))
    assert not view.is_stopped()
    board.stop()
    assert view.is_stopped()
    board.reset()
    assert not view.is_stopped()
    assert board.look(2) == (0, 0)
    board.close()
    board.stop()
    assert board.look(1) == (0, 0)
