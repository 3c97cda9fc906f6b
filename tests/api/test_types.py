"""What type checkers and editors know of users' programs: here they are told what it must be, and it runs as told."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, get_origin, get_overloads

import numpy as np
import pytest

from tilework.api import Context, DataSet, ResultAsyncGenerator, ResultGenerator, UDFRun
from tilework.api.requests import RunArguments
from tilework.common.buffers import AuxBufferWrapper, BufferWrapper
from tilework.udf import UDF
from tilework.udf.data import UDFData, UDFKwargsWrapper
from tilework.udf.meta import UDFMeta
from tilework.udf.results import ResultBuffer, RunResult, UDFResults, UDFResultsLazy
from tilework.udf.sum import SumUDF
from tilework.udf.sumsigudf import SumSigUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import assert_type

    from numpy.typing import NDArray

    from tilework.udf.base import MergeAttrMapping
else:

    def assert_type(value, kind):
        """What a type checker must find, must be so."""
        assert isinstance(value, get_origin(kind) or kind)


Array = np.ndarray[Any, np.dtype[Any]]
MaskedArray = np.ma.MaskedArray[Any, np.dtype[Any]]
DATA = np.arange(3 * 4 * 5 * 6, dtype="float32").reshape(3, 4, 5, 6)


class Doubled(UDF):
    """As somebody writes it who annotates everything, but does not look up which types tilework has."""

    def __init__(self, weights: AuxBufferWrapper, scale: float = 2.0) -> None:
        super().__init__(weights=weights, scale=scale)

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        assert_type(self.params, UDFKwargsWrapper)
        assert_type(self.meta, UDFMeta)
        return {
            "total": self.buffer(kind="nav", dtype=np.float64),
            "pattern": self.buffer("sig", extra_shape=1, dtype=self.meta.input_dtype),
        }

    def get_tiling_preferences(self) -> dict[str, Any]:
        return {"depth": self.TILE_DEPTH_DEFAULT, "total_size": self.TILE_SIZE_MAX}

    def get_task_data(self) -> dict[str, Any]:
        return {"twice": 2 * self.params.scale / 2}

    def process_tile(self, tile: NDArray[Any]) -> None:
        assert_type(self.results, UDFData)
        assert_type(self.task_data, UDFData)
        self.results.total[:] += self.task_data.twice * tile.sum(axis=(1, 2)) * self.params.weights
        self.results.pattern += tile.sum(axis=0)[..., np.newaxis]

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        dest.total[:] = src.total
        dest.pattern[:] += src.pattern

    def get_results(self) -> dict[str, Any]:
        return {"total": self.results.total, "pattern": self.with_mask(self.results.pattern, mask=True)}


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as ctx:
        assert_type(ctx, Context)
        yield ctx


def load(ctx: Context) -> DataSet:
    dataset = ctx.load("memory", data=DATA, sig_dims=2, num_partitions=2)
    assert_type(dataset, DataSet)
    return dataset


def test_a_function_gives_results_by_name(ctx: Context) -> None:
    weights = UDF.aux_data(np.ones(12, dtype="float32"), kind="nav")
    assert_type(weights, AuxBufferWrapper)
    result = ctx.run_udf(dataset=load(ctx), udf=Doubled(weights))
    assert_type(result, RunResult)
    assert_type(result["total"], ResultBuffer)
    assert_type(result["total"].data, Array)
    assert_type(result["total"].raw_data, Array)
    assert_type(result["total"].masked_data, MaskedArray)
    assert result["total"].raw_data.sum() == 2 * DATA.sum()
    assert [(name, buffer.kind, buffer.data.shape) for name, buffer in result.items()] == [
        ("total", "nav", (3, 4)),
        ("pattern", "sig", (5, 6, 1)),
    ]


def test_several_functions_give_a_tuple(ctx: Context) -> None:
    several = ctx.run_udf(load(ctx), [SumUDF(), SumSigUDF()], None, plots=None)
    assert_type(several, tuple[RunResult, ...])
    pattern, total = several
    assert_type(pattern, RunResult)
    assert pattern["intensity"].data.sum() == total["intensity"].data.sum()


def test_mapped_functions_give_one_result(ctx: Context) -> None:
    result = ctx.map(load(ctx), lambda frame: frame.max())
    assert_type(result, ResultBuffer)
    np.testing.assert_array_equal(result.data, DATA.max(axis=(2, 3)))


def test_partial_results(ctx: Context) -> None:
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=SumUDF())
    assert_type(parts, ResultGenerator)
    for part in parts:
        assert_type(part, UDFResultsLazy)
        assert_type(part.buffers, tuple[RunResult, ...])
        assert_type(part.damage, BufferWrapper)
    assert parts.run.done()


def test_runs_in_the_background(ctx: Context) -> None:
    one = ctx.submit_udf(dataset=load(ctx), udf=SumUDF(), timeout=60)
    assert_type(one, UDFRun[RunResult])
    assert_type(one.result(), RunResult)
    assert_type(one.partial(), UDFResults)
    several = ctx.submit_udf(dataset=load(ctx), udf=(SumUDF(), SumSigUDF()), priority="batch")
    assert_type(several.result(), tuple[RunResult, ...])
    of_either: UDFRun = one
    assert of_either.progress.fraction == 1


def test_what_is_awaited(ctx: Context) -> None:
    asyncio.run(wait_for_each(ctx))


async def wait_for_each(ctx: Context) -> None:
    one = await ctx.run_udf(dataset=load(ctx), udf=SumUDF(), sync=False)
    assert_type(one, RunResult)
    several = await ctx.run_udf(dataset=load(ctx), udf=[SumUDF()], sync=False)
    assert_type(several, tuple[RunResult, ...])
    assert_type(await ctx.submit_udf(dataset=load(ctx), udf=SumUDF()), RunResult)
    parts = ctx.run_udf_iter(dataset=load(ctx), udf=SumUDF(), sync=False)
    assert_type(parts, ResultAsyncGenerator)
    async for part in parts:
        assert_type(part, UDFResults)


def test_results_that_are_lazy() -> None:
    with Context.make_with("delayed") as ctx:
        result = ctx.run_udf(dataset=load(ctx), udf=SumUDF())
        assert result["intensity"].delayed_data.sum().compute() == DATA.sum()


@pytest.mark.parametrize("function", [Context.run_udf, Context.run_udf_iter, Context.submit_udf])
def test_overloads_take_what_the_method_takes(function: Any) -> None:
    method = inspect.signature(function).parameters
    first, *others = (inspect.signature(each).parameters for each in get_overloads(function))
    differ = {"udf", "sync"}
    assert [*first] == [*method]
    assert [first[name] for name in first if name not in differ] == [
        method[name] for name in method if name not in differ
    ]
    common = {name: each.__forward_arg__ for name, each in RunArguments.__annotations__.items()}
    for other in others:
        taken = {name: each.annotation for name, each in other.items() if name not in {*differ, "more"}}
        assert {**common, **taken} == {name: each.annotation for name, each in method.items() if name not in differ}
