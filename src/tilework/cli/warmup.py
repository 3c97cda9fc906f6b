"""``tilework warmup``: compile everything that is compiled on first use; it is kept on disk for all later runs."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["warmup"]

DTYPES = ("uint8", "uint16", "uint32", "int16", "float32", ">u2", ">u4")
"""Those that the built-in functions are run with; kernels are compiled for more."""


def warmup(args: argparse.Namespace) -> None:
    """Run the built-in UDFs once for the usual types of numbers, compiled."""
    # Small data would not be worth compiling for otherwise.
    os.environ["TILEWORK_KERNELS"] = "numba"
    import numpy as np

    from tilework.api import Context
    from tilework.cli.functions import disk_mask
    from tilework.common.kernels import warmup as warmup_kernels
    from tilework.io.convert import warmup_conversions
    from tilework.io.corrections import CorrectionSet
    from tilework.udf.com import CoMUDF
    from tilework.udf.masks import ApplyMasksUDF
    from tilework.udf.stddev import StdDevUDF
    from tilework.udf.sum import SumUDF
    from tilework.udf.sumsigudf import SumSigUDF

    mask = disk_mask((128, 128), (64, 64), 40)
    corrections = CorrectionSet(dark=mask, gain=mask + 1, excluded_pixels=np.eye(128, dtype=bool))
    start = time.perf_counter()
    warmup_kernels()
    warmup_conversions()
    with Context.make_with("inline") as context:
        for dtype in DTYPES:
            data = np.arange(16 << 14).reshape(4, 4, 128, 128) % 200
            dataset = context.load("memory", data=data.astype(dtype))
            udfs: list[Any] = [
                SumUDF(),
                SumSigUDF(),
                StdDevUDF(),
                CoMUDF.with_params(r=40),
                *(
                    ApplyMasksUDF(mask_factories=[lambda: mask] * n, mask_count=n, mask_dtype="float32")
                    for n in (1, 3, 16)
                ),
            ]
            context.run_udf(dataset=dataset, udf=udfs)
            # Corrected frames are floats, of either size.
            context.run_udf(dataset=dataset, udf=udfs[1:], corrections=corrections)
    seconds = time.perf_counter() - start
    if args.json:
        print(json.dumps({"seconds": round(seconds, 3), "dtypes": list(DTYPES)}))
    elif not args.quiet:
        print(f"compiled for {', '.join(DTYPES)} in {seconds:.1f} s")
