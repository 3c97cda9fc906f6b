"""What is decided before a run: dtypes, methods, kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, PartitionMean, TileSum
from tilework.common.shape import Shape
from tilework.common.udf import UDFMethod
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset.base import DataSet, DataSetMeta
from tilework.io.dataset.memory import MemoryDataSet
from tilework.udf import UDF, NoOpUDF
from tilework.udf.plan import KERNELS_VARIABLE, make_plan


class FakeDataSet:
    """Only the facts that a plan is made from."""

    def __init__(self, dtype: Any, shape: tuple[int, ...] = (4, 4, 8, 8)) -> None:
        self.stored = np.dtype(dtype)
        self.dtype = self.stored.newbyteorder("=")
        self.array_backends = ("numpy", "cuda")
        self.shape = Shape(shape, sig_dims=2)

    def need_decode(self, read_dtype: Any, roi: Any, corrections: Any) -> bool:
        return roi is not None or corrections is not None or np.dtype(read_dtype) != self.stored


class Native(TileSum):
    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        return dtype.kind in "ui"


def plan(*udfs: UDF, dtype: Any = "u2", **kwargs: Any) -> Any:
    return make_plan(udfs, FakeDataSet(dtype), **kwargs)  # type: ignore[arg-type]


class AnyOrder(Native):
    def accepts_foreign_order(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("dtype", "want"), [("u1", "f4"), ("u2", "f4"), ("u4", "f8"), ("f4", "f4"), ("f8", "f8"), ("c8", "c8")]
)
def test_the_input_dtype_holds_both_what_is_preferred_and_the_data(dtype: str, want: str) -> None:
    assert plan(FrameMax(), dtype=dtype).udfs[0].input_dtype == np.dtype(want)


def test_a_function_has_the_same_dtype_in_any_company() -> None:
    alone = plan(FrameMax()).udfs[0]
    beside = plan(FrameMax(), TileSum()).udfs[0]
    assert alone == beside


def test_no_preference_means_the_dtype_of_the_data() -> None:
    assert plan(NoOpUDF()).udfs[0].input_dtype == np.dtype("u2")
    assert not plan(NoOpUDF()).converts


def test_native_tiles_are_not_converted_and_leave_the_input_dtype() -> None:
    native = plan(Native())
    assert native.udfs[0].tile_dtype == np.dtype("u2")
    assert native.udfs[0].input_dtype == np.dtype("f8")
    assert not native.converts
    assert plan(Native(), FrameMax()).converts
    assert plan(Native(), dtype="f4").converts


def test_only_compiled_kernels_that_say_so_get_foreign_byte_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "numba")
    foreign = plan(AnyOrder(), dtype=">u2")
    assert foreign.udfs[0].tile_dtype == np.dtype(">u2")
    assert foreign.dataset_dtype == np.dtype("u2")
    assert not foreign.converts
    assert plan(Native(), dtype=">u2").udfs[0].tile_dtype == np.dtype("u2")
    assert plan(Native(), dtype=">u2").converts
    assert plan(AnyOrder(), dtype=">u2", corrections=object()).udfs[0].tile_dtype == np.dtype("f8")
    assert plan(AnyOrder(), dtype="u2").udfs[0].tile_dtype == np.dtype("u2")
    monkeypatch.setenv(KERNELS_VARIABLE, "numpy")
    assert plan(AnyOrder(), dtype=">u2").udfs[0].tile_dtype == np.dtype("u2")


def test_backends_that_only_the_meta_of_the_partitions_names() -> None:
    class Sparse(MemoryDataSet):
        array_backends = DataSet.array_backends

        @property
        def meta(self) -> DataSetMeta:
            return DataSetMeta(self.shape, ("scipy.sparse.csr_matrix",), raw_dtype="u2")

    dataset = Sparse(data=np.zeros((4, 4, 8, 8), dtype="u2"), num_partitions=1)
    dataset.initialize(InlineJobExecutor())
    assert dataset.array_backends == ("numpy", "cuda")
    assert make_plan([FrameMax()], dataset).offered == ("scipy.sparse.csr_matrix",)


def test_methods_are_tile_then_frame_then_partition() -> None:
    assert [p.method for p in plan(FrameMax(), TileSum(), PartitionMean()).udfs] == [
        UDFMethod.FRAME,
        UDFMethod.TILE,
        UDFMethod.PARTITION,
    ]


def test_size_alone_decides_whether_kernels_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    side = int(UDF.COMPILED_FROM_PIXELS**0.5)
    below, large = FakeDataSet("u2", (4, 4, side // 4, side // 4 - 1)), FakeDataSet("u2", (4, 4, side // 4, side // 4))

    def compiled(ds: FakeDataSet, selected: int = 16) -> bool:
        roi = (np.arange(16) < selected).reshape(4, 4)
        return bool(make_plan([NoOpUDF()], ds, roi=roi).compiled)  # type: ignore[arg-type]

    assert not compiled(below)
    assert compiled(large)
    assert compiled(large, selected=4)
    assert not compiled(large, selected=3)


def test_a_function_can_wait_longer_for_kernels_than_its_company(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(TileSum):
        COMPILED_FROM_PIXELS = 2**26

    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    both = make_plan([Patient(), TileSum()], FakeDataSet("u2", (64, 64, 64, 64)))  # type: ignore[arg-type]
    assert [p.compiled for p in both.udfs] == [None, True]
    assert both.compiled


def test_the_environment_overrides_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "numba")
    assert plan(NoOpUDF()).compiled
    monkeypatch.setenv(KERNELS_VARIABLE, "fortran")
    with pytest.raises(ValueError, match="numpy, numba or auto"):
        plan(NoOpUDF())


PROGRAM = """
from functools import partial

import numpy as np
from tilework.api import Context
from tilework.io.corrections.corrset import CorrectionSet
from tilework.udf.com import CoMUDF
from tilework.udf.masks import ApplyMasksUDF

CoMUDF.COMPILED_FROM_PIXELS = 1
context = Context.make_with("inline")
dataset = context.load("memory", data=np.ones((4, 4, 32, 32), "u2"), sig_dims=2)
udfs = [CoMUDF.with_params(cy=16, cx=16, r=8), ApplyMasksUDF(mask_factories=partial(np.ones, (2, 32, 32), "f4"))]
com, masks = context.run_udf(dataset=dataset, udf=udfs, corrections=CorrectionSet(dark=np.full((32, 32), 0.5)))
assert np.allclose(com["field_y"].data, 0), com["field_y"].data
assert (masks["intensity"].data == 512).all(), masks["intensity"].data
"""


@pytest.mark.parametrize("choice", ["auto", "numba"])
def test_what_numba_leaves_as_it_is_has_no_kernels(choice: str) -> None:
    """With NUMBA_DISABLE_JIT, as for coverage of one's own functions: kernels with vectors are nothing without it."""
    environ = {**os.environ, "NUMBA_DISABLE_JIT": "1", KERNELS_VARIABLE: choice}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
