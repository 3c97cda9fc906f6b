"""What functions call their own: no name of theirs may be one that only this system needs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = np.arange(4 * 5 * 6 * 7, dtype=np.float32).reshape(4, 5, 6, 7)
SUMS = DATA.sum(axis=(2, 3))
PLAIN_NAMES = (
    "claim", "release", "reset", "set_cache", "snapshot", "update_kwargs", "is_in_run", "kwargs", "cached", "_cache",
    "_position", "_run", "_cupy_on_main", "_declared", "_needs_order",
)  # fmt: skip


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


class Sums(UDF):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer("nav")}

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] = frame.sum()


def run(ctx: Context, *udfs: UDF) -> Any:
    dataset = ctx.load("memory", data=DATA, sig_dims=2, num_partitions=2)
    first, *others = ctx.run_udf(dataset=dataset, udf=udfs)
    assert all(np.array_equal(first["total"].data, other["total"].data) for other in others)
    return first["total"].data


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_attributes(ctx: Context, name: str) -> None:
    class Remembers(Sums):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            setattr(self, name, {"mine": 1})

        def process_frame(self, frame: Any) -> None:
            super().process_frame(frame)
            assert getattr(self, name) == {"mine": 1}

    udf = Remembers(threshold=3)
    assert np.array_equal(run(ctx, udf, udf, udf.copy()), SUMS)
    assert np.array_equal(run(ctx, udf), SUMS)
    assert getattr(udf, name) == {"mine": 1}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_methods(ctx: Context, name: str) -> None:
    def method(self: Any, one: Any, two: Any, three: Any) -> Any:
        raise AssertionError(one, two, three)

    udf = type("Helped", (Sums,), {name: method})()
    assert np.array_equal(run(ctx, udf), SUMS)


@pytest.mark.parametrize("name", ["values", "items", "keys", "get", "show", "clear_views", "as_dict", "flush"])
def test_parameters(ctx: Context, name: str) -> None:
    """Also where auxiliary data changes what parameters show."""

    class Scaled(Sums):
        def process_frame(self, frame: Any) -> None:
            self.results.total[:] = frame.sum() * self.params.scale

        def merge(self, dest: Any, src: Any) -> None:
            assert getattr(self.params, name) == 3
            dest.total[:] = src.total / self.params.scale

    scale = UDF.aux_data(np.full((4, 5), 2.0), "nav", dtype="float64")
    assert np.array_equal(run(ctx, Sums(**{name: 3})), SUMS)
    assert np.array_equal(run(ctx, Scaled(**{name: 3, "scale": scale})), SUMS)


def test_a_result(ctx: Context) -> None:
    class Show(UDF):
        def get_result_buffers(self) -> Any:
            return {"show": self.buffer("nav")}

        def process_frame(self, frame: Any) -> None:
            self.results.show[:] = frame.sum()

    dataset = ctx.load("memory", data=DATA, sig_dims=2)
    assert np.array_equal(ctx.run_udf(dataset=dataset, udf=Show())["show"].data, SUMS)


def test_merges_of_two_functions_at_a_time_see_their_own_results() -> None:
    """Where Dask computes results, in threads."""
    both = threading.Barrier(2)

    class Pattern(UDF):
        def get_result_buffers(self) -> Any:
            return {"pattern": self.buffer("sig")}

        def process_frame(self, frame: Any) -> None:
            self.results.pattern[:] += frame

        def merge(self, dest: Any, src: Any) -> None:
            assert np.shares_memory(self.results.pattern, dest.pattern)
            both.wait(timeout=10)
            assert np.shares_memory(self.results.pattern, dest.pattern)
            both.wait(timeout=10)
            dest.pattern[:] += src.pattern

    compute: Any = pytest.importorskip("dask").compute
    with Context.make_with("delayed") as ctx:
        dataset = ctx.load("memory", data=DATA, sig_dims=2, num_partitions=2)
        results = ctx.run_udf(dataset=dataset, udf=[Pattern(), Pattern()])
        arrays = [result["pattern"].delayed_raw_data for result in results]
        for pattern in compute(*arrays, scheduler="threads", num_workers=2):
            assert np.array_equal(pattern, DATA.sum(axis=(0, 1)))
