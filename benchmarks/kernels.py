#!/usr/bin/env python3
"""Measure the kernels of the built-in UDFs, and print their share of the roofline measured in the same run.

A file is mapped and read from the page cache, as in a run: in tiles of whole partitions, each in one thread, by as many
threads as there are CPUs. The roofline is how fast the same threads sum the same file as 64-bit words, measured again
before each kernel, since other work on the machine moves it.

    python benchmarks/kernels.py [--quick] [--file FILE.npy] [--json FILE]

Without --file, files of 1 GiB (--quick: 256 MiB) are made in a temporary folder and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common import kernels
from tilework.common.kernels.jit import jit
from tilework.common.masks import circular

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ("<u1", "<u2", ">u2", "<f4")
SIG = (256, 256)
TILE_BYTES = 32 * 2**20


@jit
def add_words(words: Array) -> Any:
    total = np.uint64(0)
    for i in range(words.size):
        total += words[i]
    return total


def make_file(folder: Path, dtype: str, size: int) -> Path:
    path = folder / f"{np.dtype(dtype).str[1:]}.npy"
    frames = size // (np.dtype(dtype).itemsize * SIG[0] * SIG[1])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(frames, *SIG))
    some = np.random.default_rng(0).poisson(3.0, size=(64, *SIG)).astype(dtype)
    for start in range(0, frames, 64):
        out[start : start + 64] = some[: frames - start]
    out.flush()
    return path


class Bench:
    """Frames in a file, cut into tiles, and the threads that process them."""

    def __init__(self, path: Path, threads: int, repeat: int) -> None:
        data = np.load(path, mmap_mode="r")
        self.data: Array = np.asarray(data).reshape(-1, *data.shape[-2:])
        self.threads, self.repeat = threads, repeat
        depth = max(1, TILE_BYTES // self.data[0].nbytes)
        self.tiles = [self.data[i : i + depth] for i in range(0, len(self.data), depth)]

    def best(self, work: Callable[[Any], Any], parts: list[Any]) -> float:
        """Return GB/s of the fastest of some passes over the file."""
        best = float("inf")
        with ThreadPoolExecutor(self.threads) as pool:
            work(parts[0])
            for _ in range(self.repeat):
                start = time.perf_counter()
                list(pool.map(work, parts))
                best = min(best, time.perf_counter() - start)
        return self.data.nbytes / 1e9 / best

    def roofline(self) -> float:
        whole = self.data.reshape(-1).view(np.uint8)
        words = whole[: whole.size // 8 * 8].view(np.uint64)
        return self.best(add_words, np.array_split(words, 4 * self.threads))

    def cases(self, masks: int) -> dict[str, Callable[[Array], Any]]:
        sig, dtype = self.data.shape[1:], self.data.dtype
        runs = kernels.find_runs(circular(sig[1] / 2, sig[0] / 2, sig[1], sig[0], 0.39 * min(sig)))
        everything = kernels.find_runs(np.ones(sig, dtype=bool))
        stack = np.random.default_rng(1).random((masks, *sig)).astype(np.float32)
        dense = {n: kernels.DenseMasks(stack[:n], dtype, np.dtype("f4"), compiled=True) for n in (1, 4, masks)}
        from scipy import sparse

        few = sparse.csr_matrix(np.where(stack > 0.99, stack, 0).reshape(masks, -1))
        rare = kernels.SparseMasks(few, dtype, np.dtype("f4"), compiled=True)

        def variance(tile: Array) -> None:
            kernels.accumulate_variance(tile, 0, np.zeros(sig), np.zeros(sig), compiled=True)

        def moments(region: Any) -> Callable[[Array], None]:
            return lambda tile: kernels.sum_moments(tile, region, np.zeros((len(tile), 3)), compiled=True)

        def products(packed: Any) -> Callable[[Array], None]:
            return lambda tile: packed.apply(tile, np.zeros((len(tile), len(packed)), dtype=np.float32))

        return {
            "sum of frames": lambda tile: kernels.sum_frames(tile, np.zeros(sig, np.float32), compiled=True),
            "sum of pixels": lambda tile: kernels.sum_pixels(tile, np.zeros(len(tile), np.float32), compiled=True),
            "variance": variance,
            "moments in a disc (48 % of the pixels)": moments(runs),
            "moments of all pixels": moments(everything),
            "1 dense mask": products(dense[1]),
            "4 dense masks": products(dense[4]),
            f"{masks} dense masks": products(dense[masks]),
            f"{masks} sparse masks of 1 % each": products(rare),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller files, fewer passes")
    parser.add_argument("--file", type=Path, action="append", help="a .npy file of frames; may be given several times")
    parser.add_argument("--masks", type=int, default=16, help="number of masks in the largest stack")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    repeat = 3 if args.quick else 6
    rows = []
    print(f"{'dtype':6s} {'kernel':40s} {'GB/s':>8s} {'roofline':>9s} {'share':>6s}   {args.threads} threads")
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
        size = (256 if args.quick else 1024) * 2**20
        for source in args.file or DTYPES:
            path = source if isinstance(source, Path) else make_file(Path(folder), source, size)
            bench = Bench(path, args.threads, repeat)
            for name, work in bench.cases(args.masks).items():
                roofline = bench.roofline()
                speed = bench.best(work, bench.tiles)
                dtype = bench.data.dtype.str.lstrip("<|")
                rows.append({"dtype": dtype, "kernel": name, "GB/s": speed, "roofline": roofline})
                print(f"{dtype:6s} {name:40s} {speed:8.2f} {roofline:9.2f} {speed / roofline:6.0%}", flush=True)
            if not isinstance(source, Path):
                path.unlink()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
