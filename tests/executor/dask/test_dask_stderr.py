"""What a process writes to stderr passes by, and its end is kept."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import psutil

from tilework.executor.dask.stderr import StderrRelay
from tilework.executor.exits import STDERR_LINES

if TYPE_CHECKING:
    import pytest


def relayed(code: str) -> tuple[str, ...]:
    """Return the last lines of a program, and pass on everything."""

    async def main() -> tuple[str, ...]:
        relay = StderrRelay(asyncio.get_running_loop())
        process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", code, stderr=relay.there)
        relay.hand_over()
        await process.wait()
        relay.close()
        relay.close()
        return relay.last_lines

    before = psutil.Process().num_fds()
    lines = asyncio.run(main())
    assert psutil.Process().num_fds() == before
    return lines


def test_many_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """The last ones are kept; all of them pass, although they are far more than a pipe takes."""
    lines = relayed("import sys\nfor i in range(50_000): sys.stderr.write(f'{i}\\n')")
    assert lines == tuple(str(i) for i in range(50_000 - STDERR_LINES, 50_000))
    assert capfd.readouterr().err == "".join(f"{i}\n" for i in range(50_000))


def test_lines_that_do_not_end(capfd: pytest.CaptureFixture[str]) -> None:
    """The end of a progress bar, and what is no text, are kept to a certain length."""
    (line,) = relayed("import os\nfor i in range(5000): os.write(2, f'\\r{i:4} \\xff'.encode('latin-1'))")
    assert line.endswith("4999 \N{REPLACEMENT CHARACTER}")
    assert len(line) < 2000
    assert capfd.readouterr().err.startswith("\r   0 ")
    assert relayed("") == ()


def test_lines_are_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """A line that is written bit by bit, as compiled code does when it crashes, is not broken by somebody else's."""

    async def main() -> None:
        relay = StderrRelay(asyncio.get_running_loop())
        # What is waiting and what is read are more together than is read at once.
        for text in (b"first\nsec", b"ond\n" + b"thi" * 1000, b"rd" * 32_000 + b"\nfou", b"rth"):
            os.write(relay.there, text)
            await asyncio.sleep(0.01)
            os.write(2, b"other\n")
        relay.close()

    asyncio.run(main())
    long = "thi" * 1000 + "rd" * 32_000
    assert capfd.readouterr().err == f"first\nother\nsecond\nother\n{long}\nother\nother\nfourth"
