"""Kinds of arrays: the names are those of sparseconverter, and conversions keep every pixel where it is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import sparseconverter
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.common import array_backends
from tilework.common.array_backends import (
    BACKENDS,
    CPU_BACKENDS,
    D2_BACKENDS,
    SPARSE_BACKENDS,
    as_backend,
    as_matrix,
    can_hold,
    frames_of,
    holding_dtype,
)
from tilework.common.udf import UDFProtocol
from tilework.udf import UDF

# NumPy advises against its own matrices, which a function can ask for nevertheless.
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

ON_CPU = sorted(CPU_BACKENDS)
SETS = ["BACKENDS", "CPU_BACKENDS", "CUDA_BACKENDS", "CUPY_BACKENDS"]
SETS += ["SPARSE_BACKENDS", "DENSE_BACKENDS", "ND_BACKENDS", "D2_BACKENDS"]
DTYPES = [np.dtype(d) for d in ("u1", "u2", "i4", "u8", "f4", "f8", "c8", "c16", "?")]


def stack(shape: tuple[int, ...], dtype: Any, seed: int = 0, density: float = 0.3) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 50, size=shape).astype(dtype)
    return np.where(rng.random(shape) < density, values, np.zeros((), dtype))


def dense(array: Any) -> np.ndarray[Any, Any]:
    return np.asarray(sparseconverter.for_backend(array, "numpy"))


@pytest.mark.parametrize("name", SETS)
def test_sets_are_those_of_sparseconverter(name: str) -> None:
    assert getattr(array_backends, name) == getattr(sparseconverter, name)
    if name != "BACKENDS":
        assert getattr(UDF, name) == getattr(sparseconverter, name)


def test_constants_of_udfs() -> None:
    """Every backend for functions has a name; those of a function that supports all are ordered as specified."""
    named = {value for key, value in vars(UDFProtocol).items() if key.startswith("BACKEND_") and key != "BACKEND_ALL"}
    assert named == BACKENDS - {"numpy.matrix"}
    families = ["cupyx", "cupyx", "cupyx", "scipy", "scipy", "scipy", "scipy", "scipy", "scipy"]
    assert [b.split(".")[0] for b in UDF.BACKEND_ALL] == [*families, "cupy", "numpy", "sparse", "sparse"]


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_which_dtypes_can_be_held(backend: str) -> None:
    """As sparseconverter says; only half precision is promised by it for SciPy, which refuses it."""
    for dtype in DTYPES:
        assert can_hold(backend, dtype) == (sparseconverter.result_type(dtype, backend) == dtype)
        assert can_hold(backend, holding_dtype(dtype, [backend]))
        assert holding_dtype(dtype, [backend]) == sparseconverter.result_type(dtype, backend)


@pytest.mark.parametrize("backend", ON_CPU)
def test_half_precision(backend: str) -> None:
    """Sparse arrays are of single precision instead."""
    data = stack((3, 4, 5), "f2")
    converted = as_backend(data, backend)
    assert converted.dtype == holding_dtype(data.dtype, [backend]) == ("f4" if backend in SPARSE_BACKENDS else "f2")
    np.testing.assert_array_equal(dense(converted).reshape(data.shape), data)


@pytest.mark.parametrize("source", ON_CPU)
@pytest.mark.parametrize("target", ON_CPU)
def test_conversions_keep_all_pixels(source: str, target: str) -> None:
    data = stack((3, 4, 5), "u2")
    array = as_backend(data, source)
    converted = as_backend(array, target, data.shape)
    assert sparseconverter.get_backend(converted) == target
    assert tuple(converted.shape) == ((3, 20) if target in D2_BACKENDS else (3, 4, 5))
    assert converted.dtype == data.dtype
    np.testing.assert_array_equal(dense(converted).reshape(data.shape), data)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    backend=st.sampled_from(ON_CPU),
    seed=st.integers(0, 99),
    density=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_frames_are_the_rows(shape: tuple[int, ...], dtype: Any, backend: str, seed: int, density: float) -> None:
    data = stack(shape, dtype, seed, density)
    frames = list(frames_of(as_backend(data, backend), backend))
    assert len(frames) == len(data)
    sig = int(np.prod(shape[1:]))
    for frame, want in zip(frames, data, strict=True):
        assert sparseconverter.get_backend(frame) == backend
        assert tuple(frame.shape) == ((1, sig) if backend in D2_BACKENDS else shape[1:])
        np.testing.assert_array_equal(dense(frame).reshape(want.shape), want)


@pytest.mark.parametrize("backend", ON_CPU)
def test_matrices_for_sums_and_products(backend: str) -> None:
    data = stack((4, 3, 5), "f4")
    matrix = as_matrix(as_backend(data, backend))
    assert tuple(matrix.shape) == (4, 15)
    np.testing.assert_array_equal(np.asarray(matrix.sum(axis=0)).reshape(3, 5), data.sum(axis=0))
    weights = np.arange(30.0).reshape(15, 2)
    np.testing.assert_allclose(np.asarray(matrix @ weights), data.reshape(4, 15).astype("f8") @ weights)
    assert (backend in SPARSE_BACKENDS) == hasattr(matrix, "tocsr")


def test_a_dense_run_loads_nothing_for_sparse_arrays() -> None:
    """Neither sparseconverter nor pydata sparse, which take longer to load than a small run takes."""
    code = """
import sys, numpy as np
from tilework.api import Context
from tilework.udf import CoMUDF, StdDevUDF, SumSigUDF, SumUDF
with Context.make_with("inline") as ctx:
    ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype="u2"))
    ctx.run_udf(dataset=ds, udf=[SumUDF(), SumSigUDF(), StdDevUDF(), CoMUDF.with_params()])
print(sorted({"sparse", "sparseconverter", "numba", "cupy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
