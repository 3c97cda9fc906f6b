"""Whatever is wrong with a UDF ends in an error that names it and says what to do, and the executor lives."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from every_executor import EVERY_EXECUTOR, IN_PROCESS, make_context
from tests_helpers import counts
from tilework.exceptions import UDFException
from tilework.io.dataset.memory import MemoryDataSet
from tilework.testing.wrong_udfs import (
    CATALOGUE,
    RAISING_METHODS,
    MissingMerge,
    NoProcess,
    ReturnsUndeclared,
    RightUDF,
    WrongUDF,
    make_raising,
    text_of,
)

if TYPE_CHECKING:
    from tilework.api import Context
# Where nothing is ever filled, the delayed executor has nothing to compute, and says so first.
OF_DELAYED = {"FillsResultOnly": (UDFException, ("FillsResultOnly", "'maximum'", "nothing would ever be computed"))}


class Watched(MemoryDataSet):
    """An array that notes when somebody reads it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reads = 0
        super().__init__(*args, **kwargs)

    def get_partitions(self) -> Any:
        for partition in super().get_partitions():
            get_tiles = partition.get_tiles

            def noting(*args: Any, get_tiles: Any = get_tiles, **kwargs: Any) -> Any:
                self.reads += 1
                return get_tiles(*args, **kwargs)

            partition.get_tiles = noting  # type: ignore[method-assign]
            yield partition


@pytest.fixture(scope="module", params=EVERY_EXECUTOR)
def ctx(request: pytest.FixtureRequest) -> Any:
    with make_context(request.param) as context:
        context.name = request.param  # type: ignore[attr-defined]
        yield context


def load(ctx: Any) -> Any:
    kwargs: dict[str, Any] = {"data": counts(), "num_partitions": 3}
    return Watched(**kwargs) if ctx.name in IN_PROCESS else ctx.load("memory", **kwargs)


def run(ctx: Context, **kwargs: Any) -> Any:
    """Run, and have all results as NumPy arrays: the delayed executor computes them when they are looked at."""
    results = ctx.run_udf(**kwargs)
    for result in results if isinstance(results, tuple) else [results]:
        for buffer in result.values():
            assert isinstance(buffer.data, np.ndarray)
    return results


def assert_alive(ctx: Context) -> None:
    result = run(ctx, dataset=ctx.load("memory", data=counts(), num_partitions=3), udf=RightUDF())
    assert (result["maximum"].data == counts().max(axis=(2, 3))).all()


@pytest.mark.parametrize("wrong", CATALOGUE, ids=lambda w: w.name)
def test_the_error_says_what_is_wrong_and_the_next_run_works(ctx: Any, wrong: WrongUDF) -> None:
    error, words = wrong.error, wrong.words
    if ctx.name == "delayed":
        error, words = OF_DELAYED.get(wrong.name, (error, words))
    ds = load(ctx)
    with pytest.raises(error) as info:
        run(ctx, dataset=ds, udf=wrong.make())
    text = text_of(info.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    if ctx.name in IN_PROCESS and not wrong.reads:
        assert ds.reads == 0
    assert_alive(ctx)


@pytest.mark.parametrize(
    ("make", "also"),
    [(NoProcess, TypeError), (MissingMerge, NotImplementedError), (ReturnsUndeclared, KeyError)],
    ids=["no method", "no merge", "no declaration"],
)
def test_an_error_is_also_what_programs_written_for_libertem_catch(ctx: Any, make: Any, also: type[Exception]) -> None:
    with pytest.raises(also) as info:
        run(ctx, dataset=load(ctx), udf=make())
    assert isinstance(info.value, UDFException)
    assert str(info.value).startswith(make.__name__)  # KeyError would have it in quotes
    copy = pickle.loads(pickle.dumps(info.value))
    assert (type(copy), str(copy)) == (type(info.value), str(info.value))


def test_the_catalogue_is_complete() -> None:
    assert len(CATALOGUE) >= 40
    assert len({w.name for w in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("method", RAISING_METHODS)
def test_an_exception_of_any_method_arrives_as_it_is(ctx: Any, method: str) -> None:
    """With its type and message; where the traceback does not lead to the UDF's method, a note does."""
    with pytest.raises(ZeroDivisionError, match=f"^a mistake in {method}") as info:
        run(ctx, dataset=load(ctx), udf=make_raising(method))
    assert str(info.value) == f"a mistake in {method}"
    if method in {"get_task_data", "process_frame", "postprocess", "cleanup"}:
        assert f"in {method} of _Raises, partition part-" in text_of(info.value)
    elif method in {"get_result_buffers", "preprocess", "merge", "get_results"}:
        assert f"in {method} of _Raises" in text_of(info.value)
    assert_alive(ctx)


def test_where_in_the_data_it_happened(ctx: Any) -> None:
    """The note counts positions as the user does: of the scan, or of what is selected."""

    class FailsLate(RightUDF):
        def process_frame(self, frame: Any) -> None:
            if self.meta.slice.origin[0] == 12:
                msg = "here"
                raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError) as info:
        run(ctx, dataset=load(ctx), udf=FailsLate())
    assert "partition part-1, frames 10 to 19 of the scan" in text_of(info.value)
    roi = np.zeros((6, 5), dtype=bool)
    roi[2:] = True
    with pytest.raises(ZeroDivisionError) as info:
        run(ctx, dataset=load(ctx), udf=FailsLate(), roi=roi)
    assert "frames 10 to 19 of the selected positions" in text_of(info.value)


def test_an_error_while_data_is_read_blames_no_udf(ctx: Any) -> None:

    class Breaks(MemoryDataSet):
        def get_partitions(self) -> Any:
            for partition in super().get_partitions():

                def broken(*args: Any, get_tiles: Any = partition.get_tiles, **kwargs: Any) -> Any:
                    yield next(iter(get_tiles(*args, **kwargs)))
                    msg = "the disk is gone"
                    raise OSError(msg)

                partition.get_tiles = broken  # type: ignore[method-assign]
                yield partition

    with pytest.raises(OSError, match="the disk is gone") as info:
        run(ctx, dataset=Breaks(data=counts(), num_partitions=1), udf=RightUDF())
    assert "in reading data of the UDFs, partition part-0" in text_of(info.value)


def test_of_several_udfs_the_wrong_one_is_named(ctx: Any) -> None:
    with pytest.raises(ZeroDivisionError) as info:
        run(ctx, dataset=load(ctx), udf=[RightUDF(), make_raising("process_frame"), RightUDF()])
    assert "process_frame of _Raises" in text_of(info.value)
    assert "RightUDF" not in text_of(info.value)


def test_wrong_arguments(ctx: Any) -> None:
    ds = load(ctx)
    with pytest.raises(ValueError, match="empty list of UDFs"):
        run(ctx, dataset=ds, udf=[])
    with pytest.raises(TypeError, match="not the class"):
        run(ctx, dataset=ds, udf=RightUDF)
    with pytest.raises(ValueError, match="roi: incompatible shapes"):
        run(ctx, dataset=ds, udf=RightUDF(), roi=np.ones((2, 2), dtype=bool))
    with pytest.raises(UDFException, match=r"RightUDF supports numpy, and the run allows cupy.*backends="):
        run(ctx, dataset=ds, udf=RightUDF(), backends="cupy")
