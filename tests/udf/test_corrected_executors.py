"""Runs with corrections, and the functions of whole frames, give the same bits on every executor that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests_helpers import counts
from tilework.api import Context
from tilework.api.executors import ExecutorSpecType
from tilework.corrections import CorrectionSet
from tilework.udf import (
    FEMUDF,
    CoMUDF,
    CrystallinityUDF,
    PickUDF,
    RecordUDF,
    SignalMonitorUDF,
    StdDevUDF,
    SumSigUDF,
    SumUDF,
)
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

OTHERS = [spec for spec in get_args(ExecutorSpecType) if spec not in {"inline", "synchronous"}]
SIG = (24, 20)


def results(spec: Any, folder: Path) -> dict[str, bytes]:
    """Run everything, and return its bits."""
    rng = np.random.default_rng(0)
    # In the dtype of the tiles, so that workers use them as they come, which may be read-only.
    dark, gain = rng.random(SIG).astype("f4"), (rng.random(SIG) + 0.5).astype("f4")
    corrections = CorrectionSet(dark, gain, rng.random(SIG) < 0.05)
    udfs = [
        SumUDF(),
        SumSigUDF(),
        StdDevUDF(),
        CoMUDF.with_params(cy=12, cx=10, r=9),
        PickUDF(),
        FEMUDF(center=(12, 10), rad_in=4, rad_out=8),
        CrystallinityUDF(rad_in=2, rad_out=6),
        SignalMonitorUDF(),
    ]
    found: dict[str, bytes] = {}
    with Context.make_with(spec) as ctx:
        for dtype in ("u2", ">u2"):
            dataset = ctx.load("memory", data=counts((6, 5, *SIG), dtype), sig_dims=2, num_partitions=7)
            for roi in (None, np.random.default_rng(1).random((6, 5)) < 0.5):
                run = ctx.run_udf(dataset=dataset, udf=udfs, corrections=corrections, roi=roi)
                for udf, result in zip(udfs, run, strict=True):
                    where = f"{type(udf).__name__} {dtype} {'all' if roi is None else 'some'}"
                    found |= {f"{where} {name}": np.asarray(b.data).tobytes() for name, b in result.items()}
            if spec != "delayed":  # which computes what is asked for, and here is nothing to ask for
                ctx.run_udf(dataset=dataset, udf=RecordUDF(folder / "a.npy"), corrections=corrections)
                found[f"recorded {dtype}"] = (folder / "a.npy").read_bytes()
            ctx.export_dataset(dataset, path=folder / "b.npy", overwrite=True)
            found[f"exported {dtype}"] = (folder / "b.npy").read_bytes()
    if spec == "dask-make-default":
        # Closing the context leaves them to the user: whatever uses Dask later in this process would go there.
        executor: Any = ctx.executor
        executor.client.close()
        executor.client.cluster.close()
    return found


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
@pytest.mark.parametrize("spec", OTHERS)
def test_same_bits(spec: Any, kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    expected = results("inline", tmp_path)
    found = results(spec, tmp_path)
    assert np.load(tmp_path / "b.npy").any()
    assert expected.keys() - found.keys() == ({"recorded u2", "recorded >u2"} if spec == "delayed" else set())
    for name, bits in found.items():
        assert bits == expected[name], name
