"""Pixels that are infinite or NaN, and sums that become it, show in results; built-in functions do not warn as well.

Tests fail where there is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sparse

from tilework.api import Context
from tilework.corrections import CorrectionSet
from tilework.udf import FEMUDF, ApplyMasksUDF, CoMUDF, CrystallinityUDF, LogsumUDF, StdDevUDF, SumSigUDF, SumUDF
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


def hostile(dtype: str) -> Any:
    """Return frames of shape (2, 2, 3, 3) whose sums, over frames and over pixels, are infinite, or NaN."""
    data = np.zeros((4, 3, 3), dtype=dtype)
    largest = np.finfo(dtype).max
    data[0, 0, 0], data[3, 0, 0] = np.inf, -np.inf
    data[0, 2, 2] = np.nan
    data[1, 1, 1] = data[3, 1, 1] = largest
    data[2] = complex(largest, largest) if data.dtype.kind == "c" else largest
    return data.reshape(2, 2, 3, 3)


def masks() -> Any:
    return np.ones((2, 3, 3), dtype=np.float32)


def functions(dtype: str) -> list[Any]:
    each = ApplyMasksUDF.aux_data(np.ones(8), kind="nav", extra_shape=(2,), dtype=float)
    linear = [
        SumUDF(),
        SumUDF(dtype="c16"),
        SumSigUDF(),
        StdDevUDF(),
        StdDevUDF(dtype="f4"),
        *(ApplyMasksUDF(masks, use_sparse=kind, shifts=s) for kind in (False, True) for s in (None, (1, 0), each)),
        ApplyMasksUDF(lambda: masks() * 1j),
        *(CoMUDF.with_params(r=2, scan_rotation=20, regression=kind) for kind in (-1, 0, 1)),
        FEMUDF(center=(1, 1), rad_in=-1, rad_out=2),
    ]
    return linear if dtype.startswith("c") else [*linear, LogsumUDF(), CrystallinityUDF(0, 2)]


@pytest.mark.parametrize("corrected", [False, True], ids=["", "corrected"])
@pytest.mark.parametrize("kind", ["whole frames", "tiles", "COO"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_nobody_warns_of_what_results_show(ctx: Context, dtype: str, kind: str, corrected: bool) -> None:
    data = hostile(dtype)
    array = sparse.COO.from_numpy(data) if kind == "COO" else data
    tileshape = (1, 1, 3) if kind == "tiles" else None
    gain = np.array([[0, 1, 2], [1, np.inf, 1], [1, 1, 1]])
    corrections = CorrectionSet(np.full((3, 3), 10.0), gain) if corrected else None
    for parts in (1, 4):
        ds = ctx.load("memory", data=array, sig_dims=2, num_partitions=parts, tileshape=tileshape)
        for udf in functions(dtype):
            ctx.run_udf(dataset=ds, udf=udf, corrections=corrections)
    ds = ctx.load("memory", data=array, sig_dims=2, num_partitions=4, tileshape=tileshape)
    total, image = ctx.run_udf(dataset=ds, udf=[SumUDF(), SumSigUDF()])
    with np.errstate(invalid="ignore", over="ignore"):
        wide = data.astype(np.result_type(dtype, np.longdouble))
        np.testing.assert_array_equal(np.isnan(total["intensity"].data), np.isnan(wide.sum(axis=(0, 1)).astype(dtype)))
    assert np.isnan(image["intensity"].data).tolist() == [[True, False], [False, False]]
