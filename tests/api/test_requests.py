"""What is wrong with what a user asks for shows at once, however the run is started."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.api.requests import check_udfs, find_corrections
from tilework.corrections import CorrectionSet
from tilework.exceptions import DataSetException, ExecutorSpecException, UDFException
from tilework.executor.dask import DaskJobExecutor
from tilework.executor.pipelined import PipelinedExecutor
from tilework.udf import ApplyMasksUDF, RecordUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        ({"priority": None}, ValueError, "'live', 'interactive', 'batch'"),
        ({"priority": 3}, ValueError, "Priority.LIVE, Priority.INTERACTIVE, Priority.BATCH, not 3"),
        ({"timeout": -1}, ValueError, "positive number of seconds, or None for no limit, not -1"),
        ({"timeout": "3"}, TypeError, "positive number of seconds, or None for no limit, not '3'"),
        ({"timeout": [3]}, TypeError, "positive number of seconds"),
        ({"timeout": True}, TypeError, "positive number of seconds"),
    ],
)
def test_wrong_requests(ctx: Context, start: Any, wrong: dict[str, Any], error: Any, message: str) -> None:
    dataset = ctx.load("memory", data=counts())
    with pytest.raises(error, match=message):
        start(ctx, **{"dataset": dataset, "udf": FrameMax(), **wrong})


def test_other_wrong_requests(ctx: Context) -> None:
    dataset = ctx.load("memory", data=counts())
    for backends in (3, ["numpy", 3]):
        with pytest.raises(TypeError, match="the name of an array backend, such as 'numpy', or several of them, not"):
            ctx.run_udf(dataset=dataset, udf=FrameMax(), backends=backends)  # type: ignore[arg-type]
    run = ctx.submit_udf(dataset=dataset, udf=FrameMax())
    for wait in (run.result, run.exception):
        with pytest.raises(TypeError, match=r"must be a number of seconds, or None .* not '3'"):
            wait("3")  # type: ignore[arg-type]
    assert run.result(np.float64(60))["maximum"].data.shape == counts().shape[:2]
    with pytest.raises(TypeError, match=r"f must be a function of a frame, such as np\.max, not 'sum'"):
        ctx.map(dataset=dataset, f="sum")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an instance is wanted, not the class"):
        ctx.display(dataset, FrameMax)  # type: ignore[arg-type]
    with pytest.raises(DataSetException, match=r"filetype must be the name of a format, .*, not None"):
        ctx.load(None)  # type: ignore[arg-type]
    with pytest.raises(DataSetException, match=r"sig_dims='2' does not fit .*: must be an integer from 1 to 4"):
        ctx.load("memory", data=counts(), sig_dims="2")


def test_messages_do_not_hold_all_the_data(ctx: Context) -> None:
    """Of an array in the place of something else, its shape and dtype; of a list, its beginning."""
    data = counts()
    dataset = ctx.load("memory", data=data)
    shown = f"<ndarray of shape {data.shape}, {data.dtype}>"
    masks = [np.ones(data.shape[2:])] * 4
    anything: Any = (data, data.tolist(), Path("a.npy"), masks, [dataset, dataset])
    array, numbers, path, given, several = anything
    for wrong, hint in (
        (lambda: ctx.load(array), f"not {shown}; an array is loaded with load('memory', data=array)"),
        (lambda: ctx.load(numbers), "; an array is loaded with load('memory', data=array)"),
        (lambda: ctx.load(path), "load('auto', path='a.npy')"),
        (lambda: ctx.create_disk_analysis(dataset, r=np.ndarray), "r must be a number"),  # type: ignore[arg-type]
        (lambda: ctx.run_udf(dataset=dataset, udf=[array]), f"got {shown}"),
        (
            lambda: ctx.run_udf(dataset=dataset, udf=ApplyMasksUDF(mask_factories=given)),
            "such as [lambda: mask]; it is [<ndarray of shape ",
        ),
        (lambda: ctx.create_disk_analysis(dataset, r=array), f"r must be a number, it is {shown}"),
        (lambda: ctx.run_udf(dataset=several, udf=FrameMax()), "a run has one dataset, and any number of UDFs"),
    ):
        with pytest.raises(Exception, match=re.escape(hint)) as refused:
            wrong()
        assert len(str(refused.value)) < 500


def test_wrong_executors() -> None:
    with pytest.raises(ExecutorSpecException, match=r"executor must be .*, not 'inline': Context\.make_with"):
        Context(executor="inline")  # type: ignore[arg-type]
    with pytest.raises(ExecutorSpecException, match="snooze_timeout must be a positive number of minutes, not '3'"):
        Context.make_with("dask", cpus=1, snooze_timeout="3")  # type: ignore[arg-type]
    with pytest.raises(ExecutorSpecException, match="snooze_timeout must be a positive number of seconds, not '3'"):
        DaskJobExecutor.make_local(snooze_timeout="3")  # type: ignore[arg-type]
    for name in ("startup_timeout", "cleanup_timeout"):
        with pytest.raises(ExecutorSpecException, match=f"{name} must be a number of seconds, not '3'"):
            PipelinedExecutor(**{name: "3"})  # type: ignore[arg-type]
    for size in ("1G", -5, 2e9, True):
        with pytest.raises(ExecutorSpecException, match="shared_memory must be a number of bytes, not "):
            PipelinedExecutor(shared_memory=size)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    "start",
    [
        lambda ctx, dataset, roi: ctx.run_udf(dataset=dataset, udf=FrameMax(), roi=roi),
        lambda ctx, dataset, roi: ctx.map(dataset=dataset, f=np.sum, roi=roi),
        lambda ctx, dataset, roi: ctx.run(ctx.create_sum_analysis(dataset=dataset), roi=roi),
    ],
    ids=["run_udf", "map", "run"],
)
def test_warnings_about_a_roi_name_the_line_that_gives_it(ctx: Context, start: Any) -> None:
    """Python shows a warning once for each line: one within the library would be shown once for all calls."""
    dataset = ctx.load("memory", data=counts())
    with pytest.warns(UserWarning, match="the roi is not bool but int64") as caught:
        start(ctx, dataset, np.ones(counts().shape[:2], dtype=np.int64))
    assert [each.filename for each in caught] == [__file__]
