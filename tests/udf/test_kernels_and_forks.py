"""Compiled functions of users, where a program forks while a thread imports numba, or compiles."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
    import os, signal, sys, threading, time
    import numpy as np
    from tilework.api import Context
    from tilework.udf import UDF

    begun = threading.Event()

    {slow}

    def add(frame, total):
        total[0] = frame.sum()

    class Sum(UDF):
        def get_result_buffers(self):
            return {{"total": self.buffer("nav", dtype="f8")}}

        def get_frame_kernel(self):
            return add

    def call(dtype):
        context = Context.make_with("inline")
        data = context.load("memory", data=np.ones((2, 2, 4, 4), dtype))
        return int(context.run_udf(dataset=data, udf=Sum())["total"].data.sum())

    thread = threading.Thread(target=call, args=("u2",))
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(call("u1"))
    status = os.waitpid(child, 0)[1]
    thread.join()
    print(os.waitstatus_to_exitcode(status), call("i2"))
"""

IMPORT = """
    class Slow:
        def find_spec(self, name, path=None, target=None):
            if name == "numba" and threading.current_thread() is not threading.main_thread():
                begun.set()
                time.sleep(0.5)

    sys.meta_path.insert(0, Slow())
"""

COMPILE = """
    import numba.core.compiler

    compile_extra = numba.core.compiler.compile_extra

    def compile_slowly(*args, **kwargs):
        begun.set()
        time.sleep(0.5)
        return compile_extra(*args, **kwargs)

    numba.core.compiler.compile_extra = compile_slowly
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("slow", [IMPORT, COMPILE], ids=["imports", "compiles"])
def test_a_child_forked_while_another_thread(slow: str, tmp_path: Path) -> None:
    """Nobody would go on in the child with what that thread has begun."""
    environ = {**os.environ, "TILEWORK_KERNELS": "numba", "NUMBA_CACHE_DIR": str(tmp_path)}
    program = textwrap.dedent(PROGRAM.format(slow=slow.strip()))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100, env=environ
    )
    assert done.stdout.split() == ["64", "64"], done.stderr
