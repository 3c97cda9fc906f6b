"""Runs over data of random shapes, dtypes and sizes, with random functions and selections, beside LiberTEM.

``python benchmarks/random_runs.py --peer PEER/bin/python [--executor pipelined] [--count N] [--functions NAME ...]``

What is tuned for a few workloads shows here. One process for each package holds an executor with two workers, and both
do the same, one after the other, twice; the quickest of several runs counts. The files are in the system's cache of
pages. The ratios are printed from the lowest on, with that of the first run, for which something may be compiled.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIGS = (
    (16, 16),
    (32, 32),
    (64, 64),
    (128, 128),
    (200, 180),
    (256, 64),
    (256, 256),
    (512, 512),
    (1024, 1024),
    (2048, 2048),
)
DTYPES = ("uint8", "int8", "uint16", ">u2", "int16", "uint32", "int32", "float32", "float64")
MIB = (4, 32, 128, 256)
FUNCTIONS = (
    "sum", "sumsig", "stddev", "masks1", "masks4", "masks16", "masks64", "sparse4", "sparse32", "shifted", "com",
    "com_all", "logsum", "fem", "crystallinity", "pick", "auto", "frame_max", "frame_stat", "tile_max", "frame_row",
    "partition_sum", "sum+sumsig", "com+masks1", "sum+stddev+com", "frame_max+sum", "frame_median", "frame_fft",
    "frame_bins", "frame_weighted", "tile_product", "tile_histogram",
)  # fmt: skip
SELECTED = (0, 0, 0, 0.01, 0.1, 0.5)
"""Parts of the positions, at random; 0: all of them, without a selection."""


class Work(NamedTuple):
    """A run."""

    path: str
    sig: tuple[int, ...]
    function: str
    selected: float
    is_corrected: bool
    repeat: int


# ---- one package, in a process of its own ----


def largest(frame: Any) -> Any:
    return frame.max()


def users_functions(udf_class: Any) -> dict[str, Any]:  # noqa: C901  (classes of two methods)
    """Return functions of the kind that users write."""

    class FrameMax(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="nav", dtype="f4")}

        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = frame.max()

    class FrameStat(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="nav", dtype="f4", extra_shape=(3,))}

        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = (frame.min(), frame.max(), frame.mean())

    class FrameRow(udf_class):  # type: ignore[misc]
        def get_preferred_input_dtype(self) -> Any:
            return self.USE_NATIVE_DTYPE

        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="nav", dtype="f8")}

        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = frame[frame.shape[0] // 2].sum()

    class FrameMedian(FrameMax):
        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = np.median(frame)

    class FrameFFT(FrameMax):
        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = np.abs(np.fft.rfft2(frame)).max()

    class FrameBins(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="nav", dtype="f4", extra_shape=(4, 4))}

        def process_frame(self, frame: Any) -> None:
            self.results.value[:] = frame.reshape(4, frame.shape[0] // 4, 4, -1).sum(axis=(1, 3))

    class FrameWeighted(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="sig", dtype="f4")}

        def process_frame(self, frame: Any) -> None:
            self.results.value[:] += self.params.weight * frame

        def merge(self, dest: Any, src: Any) -> None:
            dest.value[:] += src.value

    class TileProduct(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="nav", dtype="f4", extra_shape=(4,))}

        def get_task_data(self) -> Any:
            return {"masks": np.ones((*self.meta.dataset_shape.sig, 4), dtype="f4")}

        def process_tile(self, tile: Any) -> None:
            part = self.task_data.masks[self.meta.slice.get(sig_only=True)]
            self.results.value[:] += tile.reshape(len(tile), -1) @ part.reshape(-1, 4)

    class TileHistogram(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="single", dtype="i8", extra_shape=(64,))}

        def process_tile(self, tile: Any) -> None:
            self.results.value[:] += np.bincount(np.minimum(tile, 63).astype("i8").reshape(-1), minlength=64)

        def merge(self, dest: Any, src: Any) -> None:
            dest.value[:] += src.value

    class TileMax(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="sig", dtype="f4")}

        def process_tile(self, tile: Any) -> None:
            np.maximum(self.results.value, tile.max(axis=0), out=self.results.value)

        def merge(self, dest: Any, src: Any) -> None:
            np.maximum(dest.value, src.value, out=dest.value)

    class PartitionSum(udf_class):  # type: ignore[misc]
        def get_result_buffers(self) -> Any:
            return {"value": self.buffer(kind="sig", dtype="f4")}

        def process_partition(self, partition: Any) -> None:
            self.results.value[:] += partition.sum(axis=0)

        def merge(self, dest: Any, src: Any) -> None:
            dest.value[:] += src.value

    return {
        "frame_max": FrameMax,
        "frame_stat": FrameStat,
        "frame_row": FrameRow,
        "frame_median": FrameMedian,
        "frame_fft": FrameFFT,
        "frame_bins": FrameBins,
        "frame_weighted": FrameWeighted,
        "tile_product": TileProduct,
        "tile_histogram": TileHistogram,
        "tile_max": TileMax,
        "partition_sum": PartitionSum,
    }


def dense(n: int, sig: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).random((n, *sig)).astype("f4")


def discs(n: int, sig: tuple[int, ...]) -> Any:
    """Return sparse masks, each a small disc."""
    import sparse

    rng = np.random.default_rng(0)
    y, x = np.mgrid[: sig[0], : sig[1]]
    centres = zip(rng.integers(0, sig[0], n), rng.integers(0, sig[1], n), strict=True)
    masks = [(y - cy) ** 2 + (x - cx) ** 2 < (min(sig) / 12) ** 2 for cy, cx in centres]
    return sparse.COO.from_numpy(np.array(masks, dtype="f4"))


class Package:
    """What is run, in the words of one of the two packages, which are the same."""

    def __init__(self, package: str, executor: str) -> None:
        self._package = package
        self._users = users_functions(self._find("udf", "UDF"))
        self.context = self._make_context(executor)

    def _find(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{self._package}.{module}"), name)

    def _make_context(self, executor: str) -> Any:
        context = self._find("api", "Context")
        if executor == "pipelined":
            pool = self._find("executor.pipelined", "PipelinedExecutor")
            return context(executor=pool(pool.make_spec(cpus=range(2), cudas=[])))
        return context.make_with(executor) if executor == "inline" else context.make_with(executor, cpus=2)

    def function(self, name: str, sig: tuple[int, ...], nav: tuple[int, ...]) -> Any:
        """Return a UDF by its name."""
        if name == "frame_weighted":
            weights = np.random.default_rng(2).random(nav).astype("f4").reshape(-1)
            return self._users[name](weight=self._find("udf", "UDF").aux_data(weights, kind="nav", dtype="f4"))
        if name in self._users:
            return self._users[name]()
        for kind, make in (("masks", dense), ("sparse", discs)):
            if name.startswith(kind):
                n = int(name.removeprefix(kind))
                sparse: Any = "sparse.pydata" if kind == "sparse" else False
                udf = self._find("udf.masks", "ApplyMasksUDF")
                return udf(mask_factories=partial(make, n, sig), mask_count=n, mask_dtype=np.float32, use_sparse=sparse)
        middle = sig[0] / 2, sig[1] / 2
        match name:
            case "com":
                return self._find("udf.com", "CoMUDF").with_params(cy=middle[0], cx=middle[1], r=min(sig) / 2.2)
            case "com_all":
                return self._find("udf.com", "CoMUDF").with_params()
            case "fem":
                return self._find("udf.FEM", "FEMUDF")(center=middle, rad_in=min(sig) / 8, rad_out=min(sig) / 3)
            case "crystallinity":
                rings = {"rad_in": min(sig) / 8, "rad_out": min(sig) / 3, "real_center": middle, "real_rad": 2}
                return self._find("udf.crystallinity", "CrystallinityUDF")(**rings)
            case "shifted":
                udf = self._find("udf.masks", "ApplyMasksUDF")
                return udf(mask_factories=[partial(np.ones, sig, "f4")], shifts=(2, 3))
            case "auto":
                return self._find("udf.auto", "AutoUDF")(f=largest)
        module, udf = {
            "sum": ("sum", "SumUDF"),
            "sumsig": ("sumsigudf", "SumSigUDF"),
            "stddev": ("stddev", "StdDevUDF"),
            "logsum": ("logsum", "LogsumUDF"),
            "pick": ("raw", "PickUDF"),
        }[name]
        return self._find(f"udf.{module}", udf)()

    def seconds(self, work: Work) -> dict[str, float]:
        """Return how long the first run takes, and the quickest of those after it."""
        dataset = self.context.load("npy", path=work.path)
        nav = tuple(dataset.shape.nav)
        rng = np.random.default_rng(1)
        roi = rng.random(nav) < work.selected if work.selected else None
        if work.function == "pick":
            roi = np.zeros(nav, dtype=bool)
            roi[:1] = True
        udfs = [self.function(name, work.sig, nav) for name in work.function.split("+")]
        more = {}
        if work.is_corrected:
            dark, gain = rng.random(work.sig).astype("f4"), rng.random(work.sig).astype("f4") + 1
            more = {"corrections": self._find("corrections", "CorrectionSet")(dark=dark, gain=gain)}
        times = []
        for _ in range(1 + work.repeat):
            start = time.perf_counter()
            self.context.run_udf(dataset=dataset, udf=udfs, roi=roi, **more)
            times.append(time.perf_counter() - start)
        return {"first": times[0], "best": min(times[1:])}


def answer(package: str, executor: str) -> None:
    """Do what comes on standard input, a line of JSON each, and say how long it took."""
    warnings.simplefilter("ignore")
    runs = Package(package, executor)
    with runs.context:
        print("ready", flush=True)
        for line in sys.stdin:
            work = Work(*json.loads(line))
            try:
                said: dict[str, Any] = runs.seconds(work._replace(sig=tuple(work.sig)))
            except Exception as error:  # noqa: BLE001  (it is told, and the next one is done)
                said = {"error": f"{type(error).__name__}: {error}"[:120]}
            print(json.dumps(said), flush=True)


class Side:
    """A process with one of the packages."""

    def __init__(self, python: str, package: str, executor: str) -> None:
        command = [python, __file__, "--package", package, "--executor", executor]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._out, self._in = self._process.stdout, self._process.stdin
        assert self._out.readline() == "ready\n", f"{package} did not start"

    def ask(self, work: Work) -> dict[str, Any]:
        self._in.write(json.dumps(work) + "\n")
        self._in.flush()
        said: dict[str, Any] = json.loads(self._out.readline())
        return said

    def close(self) -> None:
        self._in.close()
        self._process.wait()


# ---- both ----


def make_file(rng: random.Random, folder: Path, number: int) -> tuple[Path, tuple[int, int], str]:
    """Write a dataset of random shape, dtype and size; returns it with the shape of a frame and what it is."""
    sig, dtype, mib = rng.choice(SIGS), np.dtype(rng.choice(DTYPES)), rng.choice(MIB)
    frames = max(4, mib * 2**20 // (dtype.itemsize * math.prod(sig)))
    across = int(frames**0.5)
    nav = (across, frames // across)
    some = np.random.default_rng(number).poisson(3, (min(16, frames), *sig)).astype(dtype)
    path = folder / f"{number}.npy"
    np.save(path, np.resize(some, (*nav, *sig)))
    return path, sig, f"{nav} x {sig} {dtype.str[0].replace('|', '').replace('<', '')}{dtype.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python that has LiberTEM")
    parser.add_argument("--executor", default="pipelined", choices=("inline", "threads", "pipelined", "dask"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--functions", nargs="+", default=FUNCTIONS, metavar="NAME", help=", ".join(FUNCTIONS))
    parser.add_argument("--package", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.package:
        answer(args.package, args.executor)
        return
    known = [(sys.executable, "tilework"), (args.peer, "libertem")]
    sides = [Side(*each, args.executor) for each in known]
    rng = random.Random(args.seed)
    rows: list[tuple[float, float, str, float, float]] = []
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        while len(rows) < args.count:
            number += 1
            path, sig, what = make_file(rng, Path(folder), number)
            for _ in range(4):
                repeat = 5 if path.stat().st_size < 2**26 else 3
                function, is_corrected = rng.choice(args.functions), rng.random() < 0.12
                if math.prod(sig) > 2**18 and function in {"masks16", "masks64", "sparse32"}:
                    continue  # gigabytes of masks
                work = Work(str(path), sig, function, rng.choice(SELECTED), is_corrected and function != "pick", repeat)
                told = [sides[i].ask(work) for i in (0, 1, 0, 1)]
                what_of_it = f"{work.selected:.0%} of " * bool(work.selected) + what + ", corrected" * work.is_corrected
                if errors := {each["error"] for each in told if "error" in each}:
                    print(f"not counted: {function} over {what_of_it}: {', '.join(errors)}")
                    for i in range(2):  # an executor may be of no use after an error
                        if "error" in told[i] or "error" in told[i + 2]:
                            sides[i].close()
                            sides[i] = Side(*known[i], args.executor)
                    continue
                own, others = (min(each["best"] for each in told[i::2]) for i in range(2))
                rows.append(
                    (others / own, told[1]["first"] / told[0]["first"], f"{function} over {what_of_it}", own, others)
                )
            path.unlink()
    for side in sides:
        side.close()
    for ratio, first, name, own, others in sorted(rows):
        print(f"{ratio:6.2f}  first {first:6.2f}  {own * 1e3:7.1f} {others * 1e3:7.1f} ms  {name}")
    mean = math.exp(sum(math.log(row[0]) for row in rows) / len(rows))
    print(f"{len(rows)} runs, geometric mean {mean:.2f}, below 1.1: {sum(row[0] < 1.1 for row in rows)}")


if __name__ == "__main__":
    main()
