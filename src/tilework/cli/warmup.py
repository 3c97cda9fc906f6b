"""``tilework warmup``: compile everything that is compiled on first use; it is kept on disk for all later runs.

The compiler uses one core, so each worker process compiles for one type of numbers at a time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.cli.printing import print_text
from tilework.exceptions import CommandError

if TYPE_CHECKING:
    import argparse

    from tilework.api import Context
    from tilework.common.scheduler import WorkerSet

__all__ = ["warmup"]

_RUN_WITH = ("uint8", "uint16", "uint32", "int16", "float32", ">u2", ">u4")
"""What the built-in UDFs are run with; kernels and conversions are compiled for more."""


@dataclass(frozen=True)
class _Job:
    """What is compiled for one type of numbers, or, without one, for packed frames.

    For the executor, it is a partition of the whole work.
    """

    dtype: np.dtype[Any] | None

    def get_ident(self) -> str:
        """Return the name that stands in messages."""
        return f"warmup of {'packed frames' if self.dtype is None else self.dtype}"

    def get_locations(self) -> WorkerSet | None:
        """Any worker will do."""
        return None


def warmup(args: argparse.Namespace) -> None:
    """Compile for the usual types of numbers, on as many worker processes as there are CPUs.

    Raises
    ------
    CommandError
        When what is compiled cannot be kept for later runs.
    """
    from tqdm import tqdm

    from tilework.common.kernels import WARMUP_DTYPES
    from tilework.common.kernels.jit import why_not_kept
    from tilework.io.convert import CONVERTED_DTYPES, warmup_conversions

    # Small data would not be worth compiling for otherwise. Workers get the variable as well.
    os.environ["TILEWORK_KERNELS"] = "numba"
    start = time.perf_counter()
    # A small one first: where nothing can be kept, that shows at once.
    warmup_conversions([np.uint8])
    _require_kept(why_not_kept())
    # Those that take longest begin first.
    dtypes = list(dict.fromkeys(map(np.dtype, (*_RUN_WITH, *WARMUP_DTYPES, *CONVERTED_DTYPES))))
    jobs = [*map(_Job, dtypes), _Job(None)]
    show = args.progress or (sys.stderr.isatty() and not args.quiet)
    with (
        _make_context(args.workers, len(jobs)) as context,
        tqdm(desc="Compiling", unit="dtype", total=len(jobs), file=sys.stderr, disable=not show) as bar,
    ):
        bar.refresh()  # the first takes long
        for reason in context.executor.run_each_partition(jobs, _compile_for):
            _require_kept(reason)
            bar.update()
    seconds = time.perf_counter() - start
    names = [dtype.str if dtype.byteorder == ">" else dtype.name for dtype in dtypes]
    whole, part = names[: len(_RUN_WITH)], names[len(_RUN_WITH) :]
    if args.json:
        print_text(json.dumps({"seconds": round(seconds, 3), "dtypes": whole, "in_part": part}))
    elif not args.quiet:
        print_text(f"compiled the built-in functions for {', '.join(whole)} in {seconds:.1f} s")
        print_text(f"and parts of them for {', '.join(part)}: what is missing is compiled when it is used first")


def _require_kept(reason: str | None) -> None:
    if reason:
        msg = f"later runs compile again, for {reason}"
        raise CommandError(msg)


def _make_context(workers: int | None, n_jobs: int) -> Context:
    from tilework.api import Context
    from tilework.utils.devices import detect

    if not sys.platform.startswith("linux"):  # there are no worker processes, and threads wait for the one compiler
        return Context.make_with("inline")
    return Context.make_with("pipelined", cpus=min(workers or len(detect()["cpus"]), n_jobs))


def _compile_for(job: _Job) -> str | None:
    """Compile the kernels and the conversions, and run the built-in UDFs once; return why that is not kept."""
    from tilework.api import Context
    from tilework.cli.functions import disk_mask
    from tilework.common.kernels import WARMUP_DTYPES
    from tilework.common.kernels import warmup as compile_kernels
    from tilework.common.kernels.jit import why_not_kept
    from tilework.io.convert import warmup_conversions
    from tilework.io.corrections import CorrectionSet
    from tilework.io.decode import warmup_decoding
    from tilework.udf.com import CoMUDF
    from tilework.udf.masks import ApplyMasksUDF
    from tilework.udf.stddev import StdDevUDF
    from tilework.udf.sum import SumUDF
    from tilework.udf.sumsigudf import SumSigUDF

    dtype = job.dtype
    if dtype is None:
        warmup_decoding()
        return why_not_kept()
    if dtype in map(np.dtype, WARMUP_DTYPES):
        compile_kernels([dtype])
    warmup_conversions([dtype])
    if dtype not in map(np.dtype, _RUN_WITH):
        return why_not_kept()
    mask = disk_mask((128, 128), (64, 64), 40)
    corrections = CorrectionSet(dark=mask, gain=mask + 1, excluded_pixels=np.eye(128, dtype=bool))
    with Context.make_with("inline") as context:
        data = np.arange(16 << 14).reshape(4, 4, 128, 128) % 200
        dataset = context.load("memory", data=data.astype(dtype))
        udfs: list[Any] = [
            SumUDF(),
            SumSigUDF(),
            StdDevUDF(),
            CoMUDF.with_params(r=40),
            *(ApplyMasksUDF(mask_factories=[lambda: mask] * n, mask_count=n, mask_dtype="float32") for n in (1, 3, 16)),
        ]
        context.run_udf(dataset=dataset, udf=udfs)
        # Corrected frames are floats, of either size, and selected ones are corrected where they lie.
        for roi in (None, np.eye(4, dtype=bool)):
            context.run_udf(dataset=dataset, udf=udfs[1:], corrections=corrections, roi=roi)
    return why_not_kept()
