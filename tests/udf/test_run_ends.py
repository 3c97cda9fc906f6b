"""The end of a run is told, however it comes; and a recording that is not complete does not look as if it were."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from every_executor import EVERY_EXECUTOR, make_context
from tests_helpers import counts
from tilework.exceptions import UDFException, UDFRunCancelled
from tilework.testing.wrong_udfs import MissingMerge, RightUDF, make_raising
from tilework.udf import UDF, RecordUDF, UDFRunEndMixin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tilework.api import Context

told: list[tuple[bool, int | None]] = []


class Told(RightUDF):
    """Notes what it is told, and how many positions are merged then."""

    def end_run(self, is_complete: bool) -> None:
        merged = self.meta.get_valid_nav_mask()
        told.append((is_complete, None if merged is None else int(merged.sum())))


class Refuses(RightUDF):
    """Cannot finish what it began."""

    def end_run(self, is_complete: bool) -> None:
        msg = "cannot be finished"
        raise ZeroDivisionError(msg)


class FailsLate(RightUDF):
    """Fails in the second of three partitions."""

    def process_frame(self, frame: Any) -> None:
        if self.meta.slice.origin[0] >= 10:
            msg = "late"
            raise ZeroDivisionError(msg)
        super().process_frame(frame)


@pytest.fixture(scope="module", params=[name for name in EVERY_EXECUTOR if name != "delayed"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as context:
        yield context


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


def load(ctx: Context) -> Any:
    return ctx.load("memory", data=counts(), num_partitions=3)


def test_a_run_that_is_complete(ctx: Context) -> None:
    """Once, with everything merged, before the results are there; for every instance."""
    ctx.run_udf(dataset=load(ctx), udf=Told())
    assert told == [(True, 30)]
    roi = np.zeros((6, 5), dtype=bool)
    roi[2] = True
    ctx.run_udf(dataset=load(ctx), udf=[Told(), RightUDF(), Told()], roi=roi)
    assert told[1:] == [(True, 5), (True, 5)]
    assert isinstance(Told(), UDFRunEndMixin)


def test_a_run_that_selects_nothing_is_complete(ctx: Context) -> None:
    ctx.run_udf(dataset=load(ctx), udf=Told(), roi=np.zeros((6, 5), dtype=bool))
    assert told == [(True, 0)]


def test_a_run_that_is_left(ctx: Context) -> None:
    steps = ctx.run_udf_iter(dataset=load(ctx), udf=Told())
    next(steps)
    assert told == []
    steps.close()
    assert told == [(False, 10)]
    for _ in (steps := ctx.run_udf_iter(dataset=load(ctx), udf=Told())):
        pass
    steps.close()
    assert told[1:] == [(True, 30)]


def test_a_run_that_is_cancelled(ctx: Context) -> None:
    steps = ctx.run_udf_iter(dataset=load(ctx), udf=Told())
    next(steps)
    steps.cancel()
    with pytest.raises(UDFRunCancelled):
        list(steps)
    ((is_complete, merged),) = told
    assert not is_complete
    assert merged in {10, 20}


def test_a_run_that_fails(ctx: Context) -> None:
    with pytest.raises(ZeroDivisionError, match="late"):
        ctx.run_udf(dataset=load(ctx), udf=[Told(), FailsLate()])
    ((is_complete, merged),) = told
    assert not is_complete
    assert merged is not None
    assert merged < 30


def test_a_run_that_does_not_begin(ctx: Context) -> None:
    """Because nobody takes a step, or because another function is wrong."""
    ctx.run_udf_iter(dataset=load(ctx), udf=Told()).close()
    assert told == [(False, None)]
    with pytest.raises(UDFException, match="merge"):
        ctx.run_udf(dataset=load(ctx), udf=[Told(), MissingMerge()])
    assert told[1:] == [(False, None)]


def test_an_error_at_the_end(ctx: Context, caplog: pytest.LogCaptureFixture) -> None:
    """It is that of a run that was complete; the reason of an early end is not hidden by it. All others are told."""
    with pytest.raises(ZeroDivisionError, match="cannot be finished") as info:
        ctx.run_udf(dataset=load(ctx), udf=[Refuses(), Told()])
    assert "in end_run of Refuses" in info.value.__notes__
    assert told == [(True, 30)]
    assert not caplog.records
    with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError, match="a mistake in process_frame"):
        ctx.run_udf(dataset=load(ctx), udf=[Refuses(), make_raising("process_frame"), Told()])
    assert told[1:] == [(False, 0)]
    assert "end_run of Refuses failed" in caplog.text
    ctx.run_udf(dataset=load(ctx), udf=Told())
    assert told[2:] == [(True, 30)]


def test_an_end_that_cannot_be_told(ctx: Context) -> None:
    class TakesNothing(RightUDF):
        def end_run(self) -> None: ...

    with pytest.raises(
        UDFException, match=r"TakesNothing.end_run.* cannot be called: .* def end_run\(self, is_complete\)"
    ):
        ctx.run_udf(dataset=load(ctx), udf=TakesNothing())


@pytest.mark.parametrize("end", ["error", "left", "cancelled"])
def test_a_recording_that_ended_early(ctx: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str) -> None:
    """What is there is kept under a name of its own, and said; the file of before is as it was."""
    path = tmp_path / "scan.npy"
    np.save(path, np.ones(3))
    others: list[UDF] = [FailsLate()] if end == "error" else []
    steps = ctx.run_udf_iter(dataset=load(ctx), udf=[RecordUDF(path), *others])
    if end == "error":
        with pytest.raises(ZeroDivisionError, match="late"):
            list(steps)
    else:
        next(steps)
        if end == "left":
            steps.close()
        else:
            steps.cancel()
            with pytest.raises(UDFRunCancelled):
                list(steps)
    assert np.load(path).tolist() == [1, 1, 1]
    partial = np.load(f"{path}.part")
    merged = steps.run.partial().damage.data
    assert partial.shape == counts().shape
    np.testing.assert_array_equal(partial[merged], counts()[merged])
    assert f"{path}.part has {int(merged.sum())} of 30 frames, and zeros" in caplog.text
    ctx.run_udf(dataset=load(ctx), udf=RecordUDF(path))
    np.testing.assert_array_equal(np.load(path), counts())
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


def test_a_recording_that_did_not_begin(ctx: Context, tmp_path: Path) -> None:
    """Nothing is left of it."""
    with pytest.raises(UDFException, match="merge"):
        ctx.run_udf(dataset=load(ctx), udf=[RecordUDF(tmp_path / "scan.npy"), MissingMerge()])
    ctx.run_udf_iter(dataset=load(ctx), udf=RecordUDF(tmp_path / "scan.npy")).close()
    with pytest.raises(IsADirectoryError):
        ctx.run_udf(dataset=load(ctx), udf=RecordUDF(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.parent.glob(f"{tmp_path.name}.part")) == []


def test_a_recording_through_a_link(ctx: Context, tmp_path: Path) -> None:
    """What the link leads to is replaced, not the link."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "scan.npy"
    link.symlink_to(tmp_path / "disk" / "a.npy")
    ctx.run_udf(dataset=load(ctx), udf=RecordUDF(link))
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "disk" / "a.npy"), counts())
