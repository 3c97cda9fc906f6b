#!/usr/bin/env python3
"""Measure the kernels of the built-in UDFs, and print their share of the roofline measured in the same run.

A file is mapped and read from the page cache, as in a run: in tiles of whole partitions, each in one thread, by as many
threads as there are CPUs. The memory roofline is how fast the same threads sum the same file as 64-bit words, the
arithmetic one (for products with masks) how fast they multiply and add in registers. Both are measured again before
each kernel, since other work on the machine moves them.

    python benchmarks/kernels.py [--quick] [--file FILE.npy] [--json FILE]

Without --file, files of 1 GiB (--quick: 256 MiB) are made in a temporary folder and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common import kernels
from tilework.common.kernels.cpu import HAS_LONG_VECTORS
from tilework.common.kernels.jit import jit
from tilework.common.kernels.rows import NATIVE
from tilework.common.kernels.simd_numba import add, add_up, load, load_half, multiply_add
from tilework.common.masks import circular, radial_bins
from tilework.io.convert import convert_tile

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, np.dtype[Any]]
FILES = [
    *((dtype, (256, 256)) for dtype in ("<u1", "<u2", ">u2", "<u4", "<f4", "<f8")),
    *(("<u2", sig) for sig in ((16, 16), (61, 67), (2048, 2048))),
]
TILE_BYTES = 32 * 2**20
# Floats in a register.
LANES = 16 if HAS_LONG_VECTORS else 8
load_register = load if HAS_LONG_VECTORS else load_half


@jit
def add_words(words: Array) -> Any:
    total = np.uint64(0)
    for i in range(words.size):
        total += words[i]
    return total


@jit
def multiply_and_add(values: Array, times: int) -> Any:
    """Ten chains of operations in registers: as many as hide that one takes some cycles."""
    x = load_register(values, values, 0, NATIVE)
    a = b = c = d = e = f = g = h = k = m = load_register(values, values, 0, NATIVE)
    for _ in range(times):
        a, b, c, d, e = (
            multiply_add(a, x, x),
            multiply_add(b, x, x),
            multiply_add(c, x, x),
            multiply_add(d, x, x),
            multiply_add(e, x, x),
        )
        f, g, h, k, m = (
            multiply_add(f, x, x),
            multiply_add(g, x, x),
            multiply_add(h, x, x),
            multiply_add(k, x, x),
            multiply_add(m, x, x),
        )
    s = add(add(add(a, b), add(c, d)), add(add(add(e, f), add(g, h)), add(k, m)))
    return add_up(s)


def make_file(folder: Path, file: tuple[str, tuple[int, int]], size: int) -> Path:
    dtype, sig = file
    path = folder / "frames.npy"
    frames = size // (np.dtype(dtype).itemsize * sig[0] * sig[1])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(frames, *sig))
    several = min(frames, max(4, 2**22 // (sig[0] * sig[1])))
    some = np.random.default_rng(0).poisson(3.0, size=(several, *sig)).astype(dtype)
    for start in range(0, frames, several):
        out[start : start + several] = some[: frames - start]
    out.flush()
    return path


class Bench:
    """Frames in a file, cut into tiles, and the threads that process them."""

    def __init__(self, path: Path, threads: int, repeat: int) -> None:
        data = np.load(path, mmap_mode="r")
        self.data: Array = np.asarray(data).reshape(-1, *data.shape[-2:])
        self.threads, self.repeat = threads, repeat
        depth = max(24, TILE_BYTES // self.data[0].nbytes)
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

    def peak(self) -> float:
        """Return GFlop/s, float32, of multiplications and additions in registers."""
        times, values = 2_000_000, np.full(16, 0.5, dtype=np.float32)
        best = float("inf")
        with ThreadPoolExecutor(self.threads) as pool:
            multiply_and_add(values, 10)
            for _ in range(self.repeat):
                start = time.perf_counter()
                list(pool.map(lambda _: multiply_and_add(values, times), range(self.threads)))
                best = min(best, time.perf_counter() - start)
        return self.threads * times * 10 * LANES * 2 / 1e9 / best

    def cases(self, masks: int) -> dict[str, tuple[Callable[[Array], Any], float]]:
        """Return what is measured, and how many multiplications with a mask's value a pixel has in it."""
        sig, dtype = self.data.shape[1:], self.data.dtype
        native = dtype.newbyteorder("=")
        result = np.result_type(native, np.float32)
        single, double = (np.complex64, np.complex128) if native.kind == "c" else (np.float32, np.float64)
        disc = kernels.MomentRegion(circular(sig[1] / 2, sig[0] / 2, sig[1], sig[0], 0.39 * min(sig)))
        everything = kernels.MomentRegion(np.ones(sig, dtype=bool))
        stack = np.random.default_rng(1).random((masks, *sig)).astype(np.float32)
        dense = {n: kernels.DenseMasks(stack[:n], dtype, np.dtype(single), compiled=True) for n in (1, 4, masks)}
        from scipy import sparse

        few = sparse.csr_matrix(np.where(stack > 0.99, stack, 0).reshape(masks, -1))
        rare = kernels.SparseMasks(few, dtype, np.dtype(single), compiled=True)
        n_bins = min(sig) // 4
        bins = radial_bins(sig[1] / 2, sig[0] / 2, sig[1], sig[0], min(sig) / 2, n_bins=n_bins, use_sparse=True)
        rings = sparse.csr_matrix(bins.reshape((n_bins, -1)).to_scipy_sparse())
        radial = kernels.SparseMasks(rings, dtype, np.dtype(single), compiled=True)
        pixels = sig[0] * sig[1]
        depth = max(1, 2**21 // (result.itemsize * pixels))
        scratch = threading.local()

        def variance(tile: Array) -> None:
            kernels.accumulate_variance(tile, 0, np.zeros(sig, double), np.zeros(sig), compiled=True)

        def moments(region: Any) -> Callable[[Array], None]:
            return lambda tile: kernels.sum_moments(tile, region, np.zeros((len(tile), 3)), compiled=True)

        def products(packed: Any) -> Callable[[Array], None]:
            return lambda tile: packed.apply(tile, np.zeros((len(tile), len(packed)), dtype=single))

        def convert(tile: Array) -> None:
            if not hasattr(scratch, "out"):
                scratch.out = np.empty((depth, *sig), dtype=result)
            for i in range(0, len(tile), depth):
                part = tile[i : i + depth]
                convert_tile(part, result, scratch.out[: len(part)], compiled=True)

        found = {
            "sum of frames": (lambda tile: kernels.sum_frames(tile, np.zeros(sig, single), compiled=True), 0),
            "sum of pixels": (lambda tile: kernels.sum_pixels(tile, np.zeros(len(tile), single), compiled=True), 0),
            "variance": (variance, 0),
            "moments in a disc (48 % of the pixels)": (moments(disc), 0),
            "moments of all pixels": (moments(everything), 0),
            **{f"{n} dense masks": (products(packed), n) for n, packed in dense.items()},
            f"{masks} sparse masks of 1 % each": (products(rare), few.nnz / pixels),
            f"{n_bins} radial bins": (products(radial), rings.nnz / pixels),
            f"conversion to {result}, in tiles of 2 MiB": (convert, 0),
        }
        if native == result:
            found.popitem()
        if native.kind == "c":  # the centre of mass of complex frames is a product with masks
            found = {name: case for name, case in found.items() if "moments" not in name}
        return found


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
    head = f"{'dtype':6s} {'frame':12s} {'kernel':40s} {'GB/s':>7s} {'memory':>7s} {'share':>6s}"
    print(f"{head} {'GFlop/s':>8s} {'peak':>7s} {'share':>6s}   {args.threads} threads")
    with tempfile.TemporaryDirectory(prefix="tilework-bench-") as folder:
        size = (256 if args.quick else 1024) * 2**20
        for source in args.file or FILES:
            path = source if isinstance(source, Path) else make_file(Path(folder), source, size)
            bench = Bench(path, args.threads, repeat)
            dtype, frame = bench.data.dtype.str.lstrip("<|"), " x ".join(map(str, bench.data.shape[1:]))
            for name, (work, products) in bench.cases(args.masks).items():
                roofline, peak = bench.roofline(), bench.peak() if products else 0.0
                speed = bench.best(work, bench.tiles)
                flops = 2 * products * speed / bench.data.itemsize
                row = {"dtype": dtype, "frame": frame, "kernel": name, "GB/s": speed, "memory GB/s": roofline}
                rows.append({**row, "GFlop/s": flops, "peak GFlop/s": peak})
                arithmetic = f"{flops:8.1f} {peak:7.1f} {flops / peak:6.0%}" if products else ""
                share = f"{speed:7.2f} {roofline:7.2f} {speed / roofline:6.0%}"
                print(f"{dtype:6s} {frame:12s} {name:40s} {share} {arithmetic}", flush=True)
            del bench
            if not isinstance(source, Path):
                path.unlink()
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
