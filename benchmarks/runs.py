#!/usr/bin/env python3
"""Measure whole runs, from `Context.run_udf` to its results: built-in and user's functions, shapes, dtypes, executors.

    python benchmarks/runs.py [--executors inline threads] [--size MiB] [--repeat N] [--json FILE]

The data is a file in the page cache (a raw file made in a temporary folder, removed at the end). The first run over
each file is not counted: it maps the file. Speeds count the bytes as they are stored.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.api import Context
from tilework.udf import UDF, ApplyMasksUDF, CoMUDF, StdDevUDF, SumSigUDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: list[tuple[str, tuple[int, int]]] = [
    ("<u1", (256, 256)),
    ("<u2", (256, 256)),
    (">u2", (256, 256)),
    ("<u4", (256, 256)),
    ("<f4", (256, 256)),
    ("<u2", (16, 16)),
    ("<u2", (61, 67)),
    ("<u2", (1024, 1024)),
    ("<u2", (2048, 2048)),
]


class FrameMax(UDF):
    """A user's function of one frame."""

    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        self.results.maximum[:] = frame.max()


def find_maximum(frame: Any, maximum: Any) -> None:
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            maximum[0] = max(maximum[0], frame[y, x])


class CompiledFrameMax(FrameMax):
    """The same as a compiled function of one frame."""

    def accepts_tile_dtype(self, dtype: Any) -> bool:
        return bool(dtype.kind in "ui")

    def get_frame_kernel(self) -> Any:
        return find_maximum


class TileMean(UDF):
    """A user's function of a tile, in the dtype that UDFs get by default."""

    def get_result_buffers(self) -> Any:
        return {"mean": self.buffer(kind="nav", dtype=np.float32)}

    def process_tile(self, tile: Any) -> None:
        self.results.mean[:] += tile.mean(axis=(1, 2))


@lru_cache
def masks(sig: tuple[int, int]) -> Any:
    return np.random.default_rng(1).random((16, *sig)).astype(np.float32)


def functions(sig: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    com: dict[str, Any] = {"cy": sig[0] / 2, "cx": sig[1] / 2, "r": 0.4 * min(sig)}
    stack: dict[str, Any] = {"mask_factories": lambda: masks(sig), "mask_count": 16, "mask_dtype": np.float32}
    return {
        "sum": SumUDF,
        "sumsig": SumSigUDF,
        "stddev": StdDevUDF,
        "com": lambda: CoMUDF.with_params(**com),
        "16 masks": lambda: ApplyMasksUDF(**stack),
        "sum + com + 16 masks": lambda: [SumUDF(), CoMUDF.with_params(**com), ApplyMasksUDF(**stack)],
        "user's frame": FrameMax,
        "user's compiled frame": CompiledFrameMax,
        "user's tile": TileMean,
    }


def make_file(path: Path, dtype: str, sig: tuple[int, int], size: int) -> tuple[int, int]:
    """Write counts; return the shape of the scan."""
    side = max(2, math.isqrt(size // (np.dtype(dtype).itemsize * sig[0] * sig[1])))
    some = np.random.default_rng(0).poisson(3.0, size=(min(side, 64), *sig)).astype(dtype)
    row = np.resize(some, (side, *sig))
    with path.open("wb") as file:
        for _ in range(side):
            file.write(row.tobytes())
    return side, side


def seconds(context: Context, dataset: Any, make: Callable[[], Any], roi: Any, repeat: int) -> float:
    best = math.inf
    for i in range(repeat + 1):
        udf = make()
        start = time.perf_counter()
        context.run_udf(dataset=dataset, udf=udf, roi=roi)
        if i:
            best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", nargs="+", default=["inline", "threads"])
    parser.add_argument("--size", type=int, default=512, help="MiB of a file")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows = []
    contexts = {name: Context.make_with(name) for name in args.executors}
    print(f"{'dtype':5s} {'frame':11s} {'function':22s}" + "".join(f"{name:>14s}" for name in contexts) + "   GB/s")
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
        for dtype, sig in CASES:
            path = Path(folder) / "scan.raw"
            nav = make_file(path, dtype, sig, args.size * 2**20)
            size = path.stat().st_size / 1e9
            roi = np.random.default_rng(5).random(nav) < 0.1
            cases: list[tuple[str, Callable[[], Any], Any, float]] = [
                (name, make, None, size) for name, make in functions(sig).items()
            ]
            cases.append(("sum of a random 10 %", SumUDF, roi, size * float(roi.mean())))
            for name, make, selected, amount in cases:
                speeds = {}
                for executor, context in contexts.items():
                    ds = context.load("raw", path=path, nav_shape=nav, sig_shape=sig, dtype=dtype)
                    speeds[executor] = amount / seconds(context, ds, make, selected, args.repeat)
                rows.append({"dtype": dtype, "sig": sig, "function": name, "GB/s": speeds})
                shown = "".join(f"{s:14.2f}" for s in speeds.values())
                print(f"{dtype:5s} {sig[0]:4d} x {sig[1]:4d} {name:22s}{shown}", flush=True)
            path.unlink()
    for context in contexts.values():
        context.close()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
