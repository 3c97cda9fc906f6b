"""Turns of threads at the interpreter, at the end of compiled conversions."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.kernels import turns
from tilework.common.kernels.kernel import compiles_nothing
from tilework.common.kernels.turns import HELD, SPINS, Turn
from tilework.io.convert import PAYOFF, convert_tile, repeat_conversion
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(compiles_nothing(), reason="numba is told to compile nothing")

SHAPE = (4, 160, 160)
SOMEBODY = -1


@pytest.fixture(autouse=True)
def _nobody_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(PAYOFF, "pixels", 1 << 60)
    yield
    assert turns._flag[0] in (0, SOMEBODY)
    turns._flag[0] = 0


def conversion(turn: Turn) -> tuple[Callable[[Any], None], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return what converts a tile in turn, the tile, and where it goes."""
    tile = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    out = np.zeros(SHAPE, np.float32)
    convert_tile(tile, np.float32, out, compiled=True)
    out[:] = 0
    repeat = repeat_conversion(tile, out, turn)
    assert repeat is not None
    return repeat, tile, out


def test_the_turn_is_taken_at_the_end_of_a_kernel_and_left_before_the_next() -> None:
    mine, other = Turn(), Turn()
    convert, tile, out = conversion(mine)
    convert(tile)
    assert (out == tile).all()
    assert mine._memory[HELD] == 1
    assert turns._flag[0] != 0
    convert_other, _, _ = conversion(other)
    other._memory[SPINS] = 10
    convert_other(tile)
    assert other._memory[HELD] == 0, "it is the turn of the first"
    mine.leave()
    mine.leave()
    assert (mine._memory[HELD], turns._flag[0]) == (0, 0)
    convert_other(tile)
    assert other._memory[HELD] == 1
    convert(tile)
    other.leave()


def test_who_has_not_the_turn_waits_for_it_without_the_lock() -> None:
    first, second = Turn(), Turn()
    convert, tile, _ = conversion(first)
    convert(tile)
    convert_second, _, out = conversion(second)
    second._memory[SPINS] = 1 << 60
    has_returned = threading.Event()

    def work() -> None:
        convert_second(tile)
        has_returned.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not has_returned.wait(0.05)
    assert (out == tile).all()
    first.leave()
    assert has_returned.wait(10)
    thread.join()
    assert second._memory[HELD] == 1
    second.leave()


def test_who_waits_in_vain_goes_on_and_does_without_for_a_while() -> None:
    turn = Turn()
    convert, tile, out = conversion(turn)
    turns._flag[0] = SOMEBODY
    for _ in range(turns._MISSES):
        assert turn._memory[SPINS] > 0
        out[:] = 0
        convert(tile)
        assert (out == tile).all()
        assert turn._memory[HELD] == 0
    turns._flag[0] = 0
    for _ in range(turns._WITHOUT):
        assert turn._memory[SPINS] == 0
        convert(tile)
        assert turn._memory[HELD] == 0
    convert(tile)
    assert turn._memory[HELD] == 1
    turn.leave()


def test_a_fork_has_no_turn_of_a_thread_that_is_not_there() -> None:
    turns._flag[0] = SOMEBODY
    pid = os.fork()
    if pid == 0:
        os._exit(int(turns._flag[0] != 0))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert turns._flag[0] == SOMEBODY


class Largest(UDF):
    """The maximum of each frame; may fail at one of them."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__(fail=fail)

    def get_result_buffers(self) -> dict[str, Any]:
        return {"largest": self.buffer(kind="nav", dtype=np.float32), "held": self.buffer(kind="single", dtype=bool)}

    def process_frame(self, frame: Any) -> None:
        if self.params.fail and frame.max() > 60000:
            msg = "too bright"
            raise ValueError(msg)
        self.results.largest[:] = frame.max()
        self.results.held[:] |= turns._flag[0] != 0

    def merge(self, dest: Any, src: Any) -> None:
        dest.largest[:] = src.largest
        dest.held[:] |= src.held


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_runs_on_threads_take_turns_and_leave_them(executor: str) -> None:
    data = (np.arange(48 * 256 * 256, dtype=np.uint32) // 50).astype(np.uint16).reshape(6, 8, 256, 256)
    warm = np.zeros((2, 256, 256), np.float32)
    convert_tile(data[0, :2], np.float32, warm, compiled=True)
    workers = {} if executor == "inline" else {"cpus": 2}
    with Context.make_with(executor, **workers) as ctx:  # type: ignore[arg-type]
        scan = ctx.load("memory", data=data, num_partitions=2)
        result = ctx.run_udf(scan, Largest())
        assert (result["largest"].data == data.max(axis=(2, 3))).all()
        assert bool(result["held"].data[0]) == (executor == "threads")
        assert turns._flag[0] == 0
        with pytest.raises(ValueError, match="too bright"):
            ctx.run_udf(scan, Largest(fail=True))
        deadline = time.monotonic() + 10
        while turns._flag[0] and time.monotonic() < deadline:  # the other thread has its tile to end
            time.sleep(0.01)
        assert turns._flag[0] == 0
