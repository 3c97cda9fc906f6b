"""Time of delayed runs: making the graph, and computing it on Dask's threads; on tilework, or on LiberTEM.

``python benchmarks/delayed.py [--folder DIR] [--package libertem] [--save results.npz]``

The same lines run on both packages, each with its own Python. ``--save`` keeps the results, to be compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def make_data(folder: Path) -> dict[str, Path]:
    """Make the files, once per folder: 1 GiB of 8192 frames, uint16, and 4096 frames of 8 x 8."""
    folder.mkdir(parents=True, exist_ok=True)
    large, small = folder / "large.npy", folder / "small.npy"
    rng = np.random.default_rng(0)
    if not large.exists():
        frames = np.lib.format.open_memmap(large, mode="w+", dtype="<u2", shape=(64, 128, 256, 256))
        base = rng.poisson(3.0, size=(64, 256, 256)).astype("<u2")
        for line in frames:
            line[:] = base[rng.integers(0, 64, size=128)]
        frames.flush()
    if not small.exists():
        np.save(small, rng.random((64, 64, 8, 8)).astype("f4"))
    return {"large": large, "small": small}


def masks() -> Any:
    """Return 16 masks."""
    return np.random.default_rng(1).random((16, 256, 256)).astype("f4")


def functions(package: str) -> dict[str, tuple[str, Any]]:
    """Return what is measured: name, file, and a function that makes the UDFs."""
    udf_class: Any = importlib.import_module(f"{package}.udf").UDF

    def builtin(module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{package}.udf.{module}"), name)

    class Largest(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"pixel": self.buffer(kind="sig", dtype="f4"), "frame": self.buffer(kind="nav", dtype="f4")}

        def process_frame(self, frame: Any) -> None:
            np.maximum(self.results.pixel, frame, out=self.results.pixel)
            self.results.frame[:] = frame.max()

        def merge(self, dest: Any, src: Any) -> None:
            np.maximum(dest.pixel, src.pixel, out=dest.pixel)
            dest.frame[:] = src.frame

    sums, deviations = builtin("sum", "SumUDF"), builtin("stddev", "StdDevUDF")
    image, com = builtin("sumsigudf", "SumSigUDF"), builtin("com", "CoMUDF")
    products = builtin("masks", "ApplyMasksUDF")
    return {
        "sum of frames": ("large", lambda: [sums()]),
        "sum of pixels": ("large", lambda: [image()]),
        "standard deviation": ("large", lambda: [deviations()]),
        "16 dense masks": ("large", lambda: [products(mask_factories=masks, mask_count=16, mask_dtype=np.float32)]),
        "centre of mass": ("large", lambda: [com.with_params(cy=128, cx=128, r=100)]),
        "a user's function": ("large", lambda: [Largest()]),
        "sum, pixels, deviation, in one": ("large", lambda: [sums(), image(), deviations()]),
        "1024 partitions, sum of frames": ("small", lambda: [sums()]),
        "1024 partitions, sum of pixels": ("small", lambda: [image()]),
        "1024 partitions, a user's function": ("small", lambda: [Largest()]),
    }


def main() -> None:
    """Measure, and print a line of JSON for each work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/tilework-delayed"))
    parser.add_argument("--package", default="tilework")
    parser.add_argument("--partitions", type=int, default=32, help="of the large file; the same for both")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    files = make_data(args.folder)
    context: Any = importlib.import_module(f"{args.package}.api").Context
    compute: Any = importlib.import_module("dask.base").compute
    ctx = context.make_with("delayed")
    kept: dict[str, Any] = {}
    for name, (file, make) in functions(args.package).items():
        if args.only not in name:
            continue
        ds = ctx.load("npy", path=str(files[file]), num_partitions=args.partitions if file == "large" else 1024)
        times = []
        for _ in range(args.repeat + 1):  # the first warms up
            start = time.perf_counter()
            results = ctx.run_udf(dataset=ds, udf=make())
            built = time.perf_counter()
            arrays = {f"{i} {key}": b.delayed_data for i, r in enumerate(results) for key, b in r.items()}
            (computed,) = compute(arrays, scheduler="threads", num_workers=2)
            times.append((time.perf_counter() - start, built - start))
        total, graph = min(times[1:])
        print(json.dumps({"work": name, "seconds": round(total, 3), "graph": round(graph, 3)}), flush=True)
        kept |= {f"{name}: {key}": value for key, value in computed.items()}
    if args.save is not None:
        np.savez(args.save, **kept)


if __name__ == "__main__":
    main()
