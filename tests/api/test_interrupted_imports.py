"""Ctrl-C in a first call, which imports what it needs: it arrives, and the next call works in the same process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

# As NumPy 2 and NumPy 1 call it.
NUMPY = "numpy.lib._histograms_impl,numpy.lib.histograms"
PREPARE = """
import os, signal, sys
from tilework.api import Context

path = sys.argv[2]


class Interrupting:
    @classmethod
    def find_spec(cls, name, *args):
        if name in sys.argv[1].split(","):
            sys.meta_path.remove(cls)
            os.kill(os.getpid(), signal.SIGINT)


def call(executor, **arguments):
    with Context.make_with(executor, **arguments) as context:
        dataset = context.load("npy", path=path)
        from tilework.udf.sumsigudf import SumSigUDF

        context.run_udf(dataset=dataset, udf=SumSigUDF(), plots=executor == "inline")
    import numpy as np

    np.quantile([1, 2], 0.5)  # which needs what NumPy imports last


def import_first():
    from tilework.udf.sumsigudf import SumSigUDF

    call("threads", cpus=1)
"""
CELL = """
if __name__ == "__main__":
    sys.meta_path.insert(0, Interrupting)
    try:
        {cell}
    except KeyboardInterrupt:
        {cell}
        print("interrupted")
"""


@pytest.mark.parametrize(
    ("module", "cell"),
    [
        (NUMPY, "import_first()"),
        (NUMPY, "call('inline')"),
        (NUMPY, "call('pipelined', cpus=1)"),
        ("matplotlib.rcsetup", "call('inline')"),
        ("matplotlib.artist", "call('inline')"),
        ("dask.base", "call('dask', cpus=1)"),
    ],
)
def test_packages_are_imported_to_their_end(tmp_path: Path, module: str, cell: str) -> None:
    """What is interrupted is the import of a module, which comes in the middle of that of its package."""
    (tmp_path / "program.py").write_text(PREPARE + CELL.format(cell=cell))
    np.save(tmp_path / "scan.npy", np.ones((4, 4, 8, 8), np.uint16))
    program = [sys.executable, "program.py", module, "scan.npy"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "interrupted\n", done.stderr
