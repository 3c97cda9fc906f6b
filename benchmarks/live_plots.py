#!/usr/bin/env python3
"""Measure what live plots cost a run: the same run with ``plots=True`` and without, in turn.

    python benchmarks/live_plots.py [--where script notebook widgets] [--executors threads pipelined] [--pairs N]

Where: in a program, where figures are in memory; in a notebook, where pictures in the output of a cell are replaced; in
one with ``%matplotlib widget`` (ipympl). Notebooks run in a real kernel, without a browser.

The data is a raw file in the page cache. Runs are such that compiled code takes the time (many masks), or Python code
that holds the interpreter's lock. For each, the median of the ratios of neighbouring runs is shown, and their smallest
and largest; how often plots were drawn in a run, and how long that took, of the wall clock: while data came in, and for
the empty figures, which are made while the workers begin, and the complete ones after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.api import Context
from tilework.udf import UDF, ApplyMasksUDF, SumSigUDF, SumUDF
from tilework.viz.mpl import MPLLive2DPlot

if TYPE_CHECKING:
    from collections.abc import Callable

SIG = (256, 256)
WHERE = ("script", "notebook", "widgets")
MASKS = 384
# Steps of a loop in Python for each frame.
STEPS = 6000


class Timed(MPLLive2DPlot):
    """Notes how long drawing takes; not in `new_data`, for plots that have their own are not rationed."""

    drawn = 0
    meanwhile = 0.0
    around = 0.0

    def display(self) -> None:
        start = time.perf_counter()
        super().display()
        Timed.around += time.perf_counter() - start

    def update(self, damage: Any, force: bool = False) -> None:
        start = time.perf_counter()
        super().update(damage, force)
        if force:
            Timed.around += time.perf_counter() - start
        else:
            Timed.meanwhile += time.perf_counter() - start
            Timed.drawn += 1

    @staticmethod
    def reset() -> None:
        Timed.drawn, Timed.meanwhile, Timed.around = 0, 0.0, 0.0


class PythonFrame(UDF):
    """A user's function in pure Python, which holds the interpreter's lock."""

    def get_result_buffers(self) -> Any:
        return {"hash": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        total = int(frame[0, 0])
        for i in range(STEPS):
            total = (total * 31 + i) % 65521
        self.results.hash[:] = total


def masks(count: int) -> Any:
    return np.random.default_rng(1).random((count, *SIG), dtype=np.float32)


FUNCTIONS: dict[str, Callable[[], list[UDF]]] = {
    "compiled": lambda: [
        SumUDF(),
        SumSigUDF(),
        ApplyMasksUDF(mask_factories=partial(masks, MASKS), mask_count=MASKS, mask_dtype=np.float32),
    ],
    "python": lambda: [SumUDF(), PythonFrame()],
}
# Pictures that there are of each of them.
CHANNELS = {"compiled": [["intensity"], ["intensity"], []], "python": [["intensity"], ["hash"]]}


def make_file(path: Path, size: int) -> tuple[int, int]:
    """Write counts; return the shape of the scan."""
    some = np.random.default_rng(0).poisson(3.0, size=(64, *SIG)).astype("u2")
    rows = max(1, size // some.nbytes)
    with path.open("wb") as file:
        for i in range(rows):
            file.write(np.roll(some, i, axis=1).tobytes())
    return rows, 64


def measure(path: Path, nav: tuple[int, int], executor: Any, pairs: int) -> list[dict[str, Any]]:
    """Return one row for each kind of function."""
    rows = []
    with Context.make_with(executor, plot_class=Timed) as context:
        dataset = context.load("raw", path=path, nav_shape=nav, sig_shape=SIG, dtype="u2", num_partitions=64)
        for name, make in FUNCTIONS.items():
            seconds: dict[bool, list[float]] = {True: [], False: []}
            context.run_udf(dataset=dataset, udf=make())
            context.run_udf(dataset=dataset, udf=make(), plots=CHANNELS[name])  # loads matplotlib
            Timed.reset()
            for i in range(pairs):
                for plotted in (True, False) if i % 2 else (False, True):
                    start = time.perf_counter()
                    context.run_udf(dataset=dataset, udf=make(), plots=CHANNELS[name] if plotted else None)
                    seconds[plotted].append(time.perf_counter() - start)
            ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
            rows.append(
                {
                    "executor": executor,
                    "function": name,
                    "seconds": statistics.median(seconds[False]),
                    "ratios": ratios,
                    "drawn": Timed.drawn / pairs,
                    "meanwhile": Timed.meanwhile / pairs,
                    "around": Timed.around / pairs,
                }
            )
            close_figures()
    return rows


def close_figures() -> None:
    """Close what pyplot keeps: in a notebook with widgets, one figure for each plot of each run."""
    import sys

    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


def in_a_kernel(path: Path, nav: tuple[int, int], executor: str, pairs: int, *, widgets: bool) -> list[dict[str, Any]]:
    """Measure in a Jupyter kernel."""
    import nbclient
    import nbformat

    made: Any = nbformat.v4
    here = Path(__file__).resolve()
    cells = [
        "%matplotlib widget" if widgets else "pass",
        f"import sys, json\nsys.path.insert(0, {str(here.parent)!r})\nimport {here.stem} as benchmark",
        f"rows = benchmark.measure(benchmark.Path({str(path)!r}), {nav}, {executor!r}, {pairs})",
        "print(json.dumps(rows))",
    ]
    notebook = made.new_notebook(cells=[made.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    rows: list[dict[str, Any]] = json.loads(notebook.cells[-1].outputs[0].text)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", nargs="+", default=list(WHERE), choices=WHERE)
    parser.add_argument("--executors", nargs="+", default=["threads", "pipelined"])
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    head = (
        f"{'where':9s} {'executor':10s} {'function':9s} {'run, s':>7s} {'ratio':>7s} {'smallest':>9s} {'largest':>8s}"
    )
    print(f"{head} {'drawn':>6s} {'meanwhile, s':>13s} {'around, s':>10s}")
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
        path = Path(folder) / "scan.raw"
        nav = make_file(path, args.size * 2**20)
        for where in args.where:
            for executor in args.executors:
                if where == "script":
                    rows = measure(path, nav, executor, args.pairs)
                else:
                    rows = in_a_kernel(path, nav, executor, args.pairs, widgets=where == "widgets")
                for row in rows:
                    low, middle, high = min(row["ratios"]), statistics.median(row["ratios"]), max(row["ratios"])
                    print(
                        f"{where:9s} {row['executor']:10s} {row['function']:9s} {row['seconds']:7.2f} {middle:7.3f} "
                        f"{low:9.3f} {high:8.3f} {row['drawn']:6.1f} {row['meanwhile']:13.3f} {row['around']:10.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
