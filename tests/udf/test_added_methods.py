"""Methods that only tilework asks for: programs that do not know them may have something else under their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from every_executor import make_context
from tilework.common.udf import ADDED_METHODS
from tilework.corrections import CorrectionSet
from tilework.exceptions import UDFException
from tilework.io.dataset.memory import MemoryDataSet
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.api import Context

DATA = np.arange(4 * 5 * 6 * 7, dtype=np.uint16).reshape(4, 5, 6, 7)
SUMS = DATA.sum(axis=(2, 3))


class Unreadable(MemoryDataSet):
    """An array that nobody may read."""

    def get_partitions(self) -> Any:
        pytest.fail("data was read")


@pytest.fixture(params=["inline", "delayed"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as context:
        yield context


class Sums(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer("nav", dtype="float64")}

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] = frame.sum()


def check(ctx: Context, udf: UDF) -> None:
    dataset = ctx.load("memory", data=DATA, sig_dims=2, num_partitions=2)
    corrections = CorrectionSet(dark=np.zeros((6, 7)))
    for each in (None, corrections):
        assert np.array_equal(ctx.run_udf(dataset=dataset, udf=udf, corrections=each)["total"].data, SUMS)


@pytest.mark.parametrize("name", sorted(ADDED_METHODS))
def test_data_of_the_object_under_such_a_name(ctx: Context, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Remembers(Sums):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, 5)

        def process_frame(self, frame: Any) -> None:
            super().process_frame(frame)
            assert getattr(self, name) == 5

    monkeypatch.setenv("TILEWORK_KERNELS", "numba")
    check(ctx, Remembers())


@pytest.mark.parametrize("name", [*sorted(ADDED_METHODS), "preprocess", "postprocess"])
def test_none_under_such_a_name(ctx: Context, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TILEWORK_KERNELS", "numba")
    check(ctx, type("HasNone", (Sums,), {name: None})())


@pytest.mark.parametrize("made_up", [None, 5, lambda *_: 5])
def test_what_getattr_makes_up_is_no_method(ctx: Context, made_up: Any) -> None:
    class HasAll(Sums):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return made_up

    check(ctx, HasAll())


def test_methods_of_the_object_that_others_know_too(ctx: Context) -> None:
    called = []

    class Chooses(Sums):
        def __init__(self) -> None:
            super().__init__()
            self.postprocess = lambda: called.append("postprocess")

    check(ctx, Chooses())
    assert called


@pytest.mark.parametrize("name", sorted(ADDED_METHODS))
@pytest.mark.parametrize("wrong", [5, np.ones(3), lambda _self, _one, _two: None])
def test_something_else_in_the_class(
    ctx: Context, name: str, wrong: int | np.ndarray[Any, Any] | Callable[..., Any]
) -> None:
    udf = type("HasAnother", (Sums,), {name: wrong})()
    with pytest.raises(UDFException) as e:
        ctx.run_udf(dataset=Unreadable(data=DATA, sig_dims=2), udf=udf)
    for part in (f"HasAnother.{name}", ADDED_METHODS[name], "another name"):
        assert part in str(e.value)
