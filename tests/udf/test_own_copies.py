"""Compiled functions that insist on arrays which they may change get arrays of their own."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from every_executor import EVERY_EXECUTOR, make_context
from tests_helpers import counts
from tilework.exceptions import UDFException
from tilework.udf import UDF
from tilework.udf.sum import SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.api import Context

DATA = counts((4, 6, 5, 7))
WEIGHTS = np.linspace(-1, 1, 35, dtype=np.float32).reshape((5, 7))
WEIGHTED = (DATA.astype(np.float32) * WEIGHTS).sum(axis=(2, 3))


def in_c(array: Any) -> Any:
    """Return an array as C has it that has not said ``const``, as most functions of Cython."""
    memory = (ctypes.c_float * array.size).from_buffer(array)
    return np.frombuffer(memory, np.float32).reshape(array.shape)


class Weighted(UDF):
    """Sums the weighted pixels of each frame; the first of its results is changed before C refuses the frames."""

    def __init__(self, weights: Any = None, change: bool = False) -> None:
        super().__init__(weights=WEIGHTS if weights is None else weights, change=change)

    def get_result_buffers(self) -> dict[str, Any]:
        return {"calls": self.buffer("nav", dtype=int), "total": self.buffer("nav", dtype="float32")}

    def weigh(self, frames: Any) -> None:
        self.results.calls[:] += 1
        frames, weights = in_c(frames), in_c(self.params.weights)
        self.results.total[:] = (frames * weights).sum(axis=(-2, -1))
        if self.params.change:
            frames.reshape(-1)[0] += 1


class ByFrame(Weighted):
    def process_frame(self, frame: Any) -> None:
        self.weigh(frame)


class ByTile(Weighted):
    def process_tile(self, tile: Any) -> None:
        self.weigh(tile)


class ByPartition(Weighted):
    def process_partition(self, partition: Any) -> None:
        self.weigh(partition)


@pytest.fixture(scope="module", params=EVERY_EXECUTOR)
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as context:
        yield context


@pytest.mark.parametrize("cls", [ByFrame, ByTile, ByPartition])
@pytest.mark.parametrize("with_roi", [False, True])
def test_arrays_that_may_be_changed(ctx: Context, cls: type[Weighted], with_roi: bool) -> None:
    """Also where another function sees the same frames; and nothing is counted twice."""
    roi = np.indices((4, 6)).sum(axis=0) % 3 == 0 if with_roi else None
    dataset = ctx.load("memory", data=DATA, num_partitions=3)
    mine, total = ctx.run_udf(dataset=dataset, udf=[cls(), SumUDF()], roi=roi)
    selected = np.ones((4, 6), dtype=bool) if roi is None else roi
    np.testing.assert_allclose(mine["total"].data[selected], WEIGHTED[selected], rtol=1e-4)
    assert np.all(mine["calls"].data[selected] == 1)
    np.testing.assert_array_equal(total["intensity"].data, DATA[selected].sum(axis=0))


@pytest.mark.parametrize("cls", [ByFrame, ByTile, ByPartition])
def test_what_changes_its_copy(ctx: Context, cls: type[Weighted]) -> None:
    """It may have meant to change what others see."""
    dataset = ctx.load("memory", data=DATA)
    with pytest.raises(UDFException, match=rf"{cls.__name__}.process_\w+ changes its input"):
        np.asarray(ctx.run_udf(dataset=dataset, udf=cls(change=True))["total"].data)  # which Dask graphs wait for
    assert np.all(ctx.run_udf(dataset=dataset, udf=cls())["calls"].data == 1)


def test_auxiliary_data(ctx: Context) -> None:
    dataset = ctx.load("memory", data=DATA, num_partitions=3)
    weights = UDF.aux_data(WEIGHTS, kind="sig", dtype="float32")
    total = ctx.run_udf(dataset=dataset, udf=ByTile(weights=weights))["total"]
    np.testing.assert_allclose(total.data, WEIGHTED, rtol=1e-4)


class OfGivenTypes(UDF):
    def get_result_buffers(self) -> dict[str, Any]:
        return {"total": self.buffer("nav", dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        numba = pytest.importorskip("numba")
        self.results.total[:] = numba.njit("float32(float32[:, :])")(total_of)(frame)


def total_of(frame: Any) -> Any:
    return frame.sum()


def test_numba_for_given_types() -> None:
    with make_context("inline") as ctx:
        total = ctx.run_udf(dataset=ctx.load("memory", data=DATA), udf=OfGivenTypes())["total"]
        np.testing.assert_allclose(total.data, DATA.sum(axis=(2, 3)))
