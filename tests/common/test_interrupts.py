"""Ctrl-C is never lost, also where code runs that would lose it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from tilework.common.interrupts import interrupts_later

if TYPE_CHECKING:
    from pathlib import Path


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_comes_at_the_end() -> None:
    done = []

    @interrupts_later()
    def work() -> None:
        interrupt()
        interrupt()
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_an_error() -> None:
    @interrupts_later()
    def fail() -> None:
        interrupt()
        raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        fail()
    assert isinstance(caught.value.__context__, ValueError)


def test_in_another_thread() -> None:
    """It is the main thread's business."""
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def look() -> None:
        with interrupts_later():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_program_that_ignores_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_later():
            interrupt()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


COMPILE = """
    import os, signal
    import numba.core.codegen as codegen

    def compiled(cls, module, buffer, hook=codegen.JITCodeLibrary._object_compiled_hook.__func__):
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C while LLVM works, which calls this at the end
        hook(cls, module, buffer)

    codegen.JITCodeLibrary._object_compiled_hook = classmethod(compiled)
"""
KERNEL = """
    import numpy as np
    from tilework.common.kernels import sum_pixels
    total = np.zeros(3)
    call = lambda: sum_pixels(np.arange(30, dtype="u2").reshape(3, 10), total, compiled=True)
"""
USERS = """
    import numpy as np
    from tilework.api import Context
    from tilework.udf import UDF

    def add(frame, out):
        out[0] += frame[0, 0]

    class Add(UDF):
        def get_result_buffers(self):
            return {"out": self.buffer(kind="nav", dtype="float64")}

        def get_frame_kernel(self):
            return add

    context = Context.make_with("inline")
    data = context.load("memory", data=np.ones((64, 64, 64, 64), dtype="u2"), sig_dims=2)
    call = lambda: context.run_udf(data, Add())
"""


@pytest.mark.parametrize("making", [KERNEL, USERS], ids=["kernel", "user's"])
def test_while_numba_compiles(making: str, tmp_path: Path) -> None:
    program = textwrap.dedent(COMPILE) + textwrap.dedent(making) + "\ncall()\nprint('it went on')\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "", done.stderr
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
