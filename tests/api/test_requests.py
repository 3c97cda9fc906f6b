"""What is wrong with what a user asks for shows at once, however the run is started."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.api.requests import check_udfs, find_corrections
from tilework.corrections import CorrectionSet
from tilework.exceptions import UDFException
from tilework.udf import RecordUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAYS: dict[str, Callable[..., Any]] = {
    "run": lambda ctx, **kwargs: ctx.run_udf(**kwargs),
    "run later": lambda ctx, **kwargs: ctx.run_udf(**kwargs, sync=False),
    "iterate": lambda ctx, **kwargs: ctx.run_udf_iter(**kwargs),
    "iterate later": lambda ctx, **kwargs: ctx.run_udf_iter(**kwargs, sync=False),
    "submit": lambda ctx, **kwargs: ctx.submit_udf(**kwargs),
}


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.mark.parametrize("start", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"udf": FrameMax}, TypeError, "an instance is wanted, not the class"),
        ({"udf": [FrameMax(), "sum"]}, TypeError, "'sum'"),
        ({"priority": "urgent"}, ValueError, "'live', 'interactive', 'batch'"),
        ({"timeout": -1}, ValueError, "-1"),
    ],
    ids=["a class", "a name", "a priority", "a timeout"],
)
def test_wrong_requests(ctx: Context, start: Any, wrong: dict[str, Any], error: Any, message: str) -> None:
    dataset = ctx.load("memory", data=counts())
    with pytest.raises(error, match=message):
        start(ctx, **{"dataset": dataset, "udf": FrameMax(), **wrong})


def test_one_function_or_several() -> None:
    one, other = FrameMax(), FrameMax()
    assert check_udfs(one) == [one]
    assert check_udfs(udf for udf in (one, other)) == [one, other]


def test_an_iterator_of_functions_is_used_up_once(ctx: Context) -> None:
    """Also where the run itself begins later, on another thread."""
    dataset = ctx.load("memory", data=counts())
    later = ctx.run_udf(dataset=dataset, udf=iter([FrameMax(), FrameMax()]), sync=False)
    assert len(asyncio.run(later)) == 2


def test_corrections_are_those_of_the_dataset_unless_others_are_given(ctx: Context) -> None:
    data = counts()
    dataset = ctx.load("memory", data=data)
    given = CorrectionSet(dark=data[0, 0])
    assert find_corrections(dataset, None) is None
    assert find_corrections(dataset, given) is given
    assert find_corrections(dataset, CorrectionSet()) is None
    with pytest.raises(TypeError, match="CorrectionSet, got ndarray"):
        find_corrections(dataset, data[0, 0])


def test_a_recording_never_replaces_what_is_read(tmp_path: Path) -> None:
    """By whatever name: the data would be gone before it is read. Another file may be replaced."""
    data = counts((4, 4, 5, 6))
    np.save(tmp_path / "scan.npy", data)
    (tmp_path / "link.npy").symlink_to("scan.npy")
    (tmp_path / "hard.npy").hardlink_to(tmp_path / "scan.npy")
    np.save(tmp_path / "old.npy", np.zeros(3))
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("npy", path=tmp_path / "link.npy")
        for name in ("scan.npy", "link.npy", "hard.npy"):
            wrong = [FrameMax(), RecordUDF(tmp_path / name)]
            for way in ("run", "iterate", "submit"):
                with pytest.raises(UDFException, match=rf"would replace .*{name}, which this run reads"):
                    WAYS[way](ctx, dataset=dataset, udf=wrong)
            with pytest.raises(UDFException, match="which this run reads"):
                asyncio.run(ctx.run_udf(dataset=dataset, udf=wrong, sync=False))
        np.testing.assert_array_equal(np.load(tmp_path / "scan.npy"), data)
        for name in ("old.npy", "new.npy"):
            ctx.run_udf(dataset=dataset, udf=RecordUDF(tmp_path / name))
            np.testing.assert_array_equal(np.load(tmp_path / name), data)
