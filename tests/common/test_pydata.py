"""Conversions of pydata sparse keep every pixel where it is, and wait for no compiler."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import sparse

from tilework.common.pydata import csr_from_pydata, pydata_astype

SHAPE = (3, 4, 5, 2)


def few(shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).poisson(0.3, shape).astype("u2")


AXES = [axes for n in (1, 2, 3) for axes in itertools.combinations(range(4), n)]


@pytest.mark.parametrize("pixels", [None, 10, 20, 6])
@pytest.mark.parametrize("compressed", AXES)
def test_gcxs_of_any_axes(compressed: tuple[int, ...], pixels: int | None) -> None:
    array = sparse.GCXS.from_numpy(few(), compressed_axes=compressed)
    matrix = csr_from_pydata(array, pixels)
    np.testing.assert_array_equal(matrix.toarray(), few().reshape((-1, pixels or 40)))
    assert matrix.dtype == few().dtype


@pytest.mark.parametrize("shape", [SHAPE, (7,), (3, 4)])
@pytest.mark.parametrize("kind", [sparse.COO, sparse.GCXS, sparse.DOK])
def test_every_kind(kind: Any, shape: tuple[int, ...]) -> None:
    """Also where entries were written in any order."""
    array = kind.from_numpy(few(shape))
    if kind is sparse.DOK:
        array = sparse.DOK(shape, dict(reversed(array.data.items())), dtype="u2")
    np.testing.assert_array_equal(csr_from_pydata(array).toarray(), few(shape).reshape(shape[0], -1))
    np.testing.assert_array_equal(csr_from_pydata(kind.from_numpy(few(shape) * 0)).nnz, 0)


@pytest.mark.parametrize("kind", [sparse.COO, sparse.GCXS, sparse.DOK])
def test_astype(kind: Any) -> None:
    array = kind.from_numpy(few())
    converted = pydata_astype(array, np.dtype("f8"))
    assert isinstance(converted, kind)
    assert converted.dtype == converted.todense().dtype == np.float64
    assert converted.fill_value.dtype == np.float64
    np.testing.assert_array_equal(converted.todense(), few())
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array.todense(), few())


PROGRAM = """
import numpy as np, sparse
from numba.core import event
from tilework.api import Context
from tilework.udf import AutoUDF, SumUDF

with event.install_recorder("numba:compile") as seen:
    array = sparse.{kind}.from_numpy(np.eye(6, dtype="u2").reshape(2, 3, 2, 3))
    before = len(seen.buffer)
    with Context.make_with("inline") as context:
        scan = context.load("memory", data=array)
        context.run_udf(dataset=scan, udf=[SumUDF(), AutoUDF(f=np.sum)])
print(len(seen.buffer) - before)
"""


@pytest.mark.parametrize("kind", ["COO", "DOK"])
def test_a_first_run_waits_for_no_compiler(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(kind=kind)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
