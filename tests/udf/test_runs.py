"""Runs from end to end, on the inline executor and on threads."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, PartitionMean, TileSum, counts
from tilework.api import Context
from tilework.common.progress import ProgressReporter, ProgressState
from tilework.exceptions import UDFException, UDFRunCancelled
from tilework.udf import UDF

EXECUTORS = ["inline", "threads"]


@pytest.fixture(params=EXECUTORS)
def ctx(request: pytest.FixtureRequest) -> Any:
    with Context.make_with(request.param) as context:
        yield context


def load(ctx: Context, data: Any, **kwargs: Any) -> Any:
    return ctx.load("memory", data=data, **{"num_partitions": 4, **kwargs})


def test_frames_tiles_and_partitions_give_what_numpy_gives(ctx: Context) -> None:
    data = counts()
    frames, tiles, parts = ctx.run_udf(dataset=load(ctx, data), udf=[FrameMax(), TileSum(), PartitionMean()])
    assert (frames["maximum"].data == data.max(axis=(2, 3))).all()
    assert (tiles["nav"].data == data.sum(axis=(2, 3))).all()
    assert (tiles["sig"].data == data.sum(axis=(0, 1))).all()
    assert tiles["frames"].data.tolist() == [30]
    np.testing.assert_allclose(parts["mean"].data, data.mean(axis=(2, 3)), rtol=1e-12)


@pytest.mark.parametrize("tileshape", [(1, 8, 7), (3, 2, 7), (7, 3, 2), (100, 1, 1)])
def test_every_cut_gives_the_same(ctx: Context, tileshape: tuple[int, ...]) -> None:
    data = counts()
    result = ctx.run_udf(dataset=load(ctx, data, tileshape=tileshape), udf=TileSum())
    assert (result["nav"].data == data.sum(axis=(2, 3))).all()
    assert (result["sig"].data == data.sum(axis=(0, 1))).all()
    assert result["frames"].data.tolist() == [30]


def test_a_result_that_is_not_there(ctx: Context) -> None:
    """A misspelt name says which results there are; all that a mapping has is as it was."""
    result = ctx.run_udf(dataset=load(ctx, counts()), udf=TileSum())
    with pytest.raises(KeyError, match=r"^there is no result 'frame': there are nav, sig, frames$"):
        result["frame"]
    assert result.get("frame") is None
    assert "frame" not in result


def test_a_roi_selects_positions_and_leaves_the_others_empty(ctx: Context) -> None:
    data = counts()
    roi = np.random.default_rng(1).random((6, 5)) < 0.3
    frames, tiles, parts = ctx.run_udf(dataset=load(ctx, data), udf=[FrameMax(), TileSum(), PartitionMean()], roi=roi)
    assert (frames["maximum"].raw_data == data[roi].max(axis=(1, 2))).all()
    assert np.isnan(frames["maximum"].data[~roi]).all()
    assert (tiles["sig"].data == data[roi].sum(axis=0)).all()
    assert tiles["frames"].data.tolist() == [roi.sum()]
    assert (frames["maximum"].valid_mask == roi).all()
    assert np.allclose(parts["mean"].raw_data, data[roi].mean(axis=(1, 2)))


def test_a_roi_that_selects_nothing_gives_an_empty_result(ctx: Context) -> None:
    roi = np.zeros((6, 5), dtype=bool)
    ds = load(ctx, counts())
    assert np.isnan(ctx.run_udf(dataset=ds, udf=FrameMax(), roi=roi)["maximum"].data).all()
    assert len(list(ctx.run_udf_iter(dataset=ds, udf=FrameMax(), roi=roi))) == 1


def test_partial_results_grow_to_the_whole(ctx: Context) -> None:
    data = counts()
    seen = []
    for part in ctx.run_udf_iter(dataset=load(ctx, data), udf=FrameMax()):
        assert isinstance(part.buffers, tuple)
        damage = part.damage.data
        buffer = part.buffers[0]["maximum"]
        assert (buffer.valid_mask == damage).all()
        assert (buffer.data[damage] == data.max(axis=(2, 3))[damage]).all()
        seen.append(int(damage.sum()))
    assert seen[-1] == 30
    assert len(seen) == 4
    assert sorted(seen) == seen


def test_the_iterator_can_be_closed_early_and_the_next_run_works(ctx: Context) -> None:
    ds = load(ctx, counts())
    steps = ctx.run_udf_iter(dataset=ds, udf=FrameMax())
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)
    assert ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].valid_mask.all()


def test_what_is_thrown_into_the_iterator_comes_back(ctx: Context) -> None:
    ds = load(ctx, counts())
    steps = ctx.run_udf_iter(dataset=ds, udf=FrameMax())
    next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].valid_mask.all()


def test_coroutines_give_the_same_and_items_do_not_change(ctx: Context) -> None:
    data = counts()
    ds = load(ctx, data)

    async def main() -> tuple[Any, list[Any]]:
        result = await ctx.run_udf(dataset=ds, udf=FrameMax(), sync=False)
        items = [
            (p.buffers[0]["maximum"].data, p.damage.data) async for p in ctx.run_udf_iter(ds, FrameMax(), sync=False)
        ]
        return result, items

    result, items = asyncio.run(main())
    want = data.max(axis=(2, 3))
    assert (result["maximum"].data == want).all()
    for array, damage in items:
        assert (array[damage] == want[damage]).all()
        assert not array[~damage].any()


def test_cancelling_the_asyncio_task_ends_the_run(ctx: Context) -> None:
    ds = load(ctx, counts(), tiledelay=0.05, num_partitions=30)

    async def main() -> None:
        task = asyncio.create_task(ctx.run_udf(dataset=ds, udf=FrameMax(), sync=False))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ctx.run_udf(dataset=load(ctx, counts()), udf=FrameMax())["maximum"].valid_mask.all()


def test_a_cancelled_run_says_how_far_it_came(ctx: Context) -> None:
    class CancelsItself(FrameMax):
        def merge(self, dest: Any, src: Any) -> None:
            steps.cancel()
            super().merge(dest, src)

    steps = ctx.run_udf_iter(dataset=load(ctx, counts(), num_partitions=30), udf=CancelsItself())
    with pytest.raises(UDFRunCancelled, match=r"^UDF run cancelled after \d+ partitions$"):
        list(steps)


def test_a_cancelled_run_stops_between_frames(ctx: Context) -> None:
    calls: list[int] = []

    class CancelsInFrame(FrameMax):
        def process_frame(self, frame: Any) -> None:
            calls.append(1)
            steps.cancel()

    steps = ctx.run_udf_iter(dataset=load(ctx, counts((50, 40, 4, 4)), num_partitions=4), udf=CancelsInFrame())
    with pytest.raises(UDFRunCancelled, match="after 0 partitions"):
        list(steps)
    assert len(calls) <= ctx.executor.get_available_workers().concurrency()


def test_a_run_within_a_frame_leaves_the_frame_alone() -> None:
    data, other = counts(), counts(seed=9)
    with Context.make_with("inline") as inner:
        inner_data = load(inner, other)

        class RunsWithin(FrameMax):
            def process_frame(self, frame: Any) -> None:
                inner.run_udf(dataset=inner_data, udf=FrameMax())
                super().process_frame(frame)

        with Context.make_with("inline") as outer:
            result = outer.run_udf(dataset=load(outer, data), udf=RunsWithin())
    assert (result["maximum"].data == data.max(axis=(2, 3))).all()


class Scaled(UDF):
    def __init__(self, factor: float) -> None:
        super().__init__(factor=factor)

    def get_result_buffers(self) -> Any:
        return {"x": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        self.results.x[:] = self.params.factor


def test_parameters_can_change_during_a_run(ctx: Context) -> None:
    steps = ctx.run_udf_iter(dataset=load(ctx, counts((40, 5, 4, 4)), num_partitions=200), udf=Scaled(factor=1))
    next(steps)
    wrong: Any = {"factor": 2}
    with pytest.raises(ValueError, match=r"a list with one mapping for each UDF, such as .*, not \{'factor': 2\}"):
        steps.update_parameters_experimental(wrong)
    for wrong in (None, 5, [None]):
        with pytest.raises(ValueError, match=r"a list with one mapping for each UDF, such as .*, not "):
            steps.update_parameters_experimental(wrong)
    with pytest.raises(ValueError, match="each of the 1"):
        steps.update_parameters_experimental([])
    steps.update_parameters_experimental([{"factor": 2}])
    last = None
    for last in steps:
        pass
    assert last is not None
    values = last.buffers[0]["x"].raw_data
    assert values is not None
    assert values[0] == 1
    assert values[-1] == 2
    assert set(values.tolist()) == {1, 2}
    with pytest.raises(UDFException, match="while the run goes on"):
        steps.update_parameters_experimental([{"factor": 3}])


class Weighted(UDF):
    """Uses auxiliary data of all kinds, an extra shape, preprocessing and postprocessing."""

    def get_result_buffers(self) -> Any:
        return {
            "x": self.buffer(kind="nav", extra_shape=(2,), dtype=np.float64),
            "hidden": self.buffer(kind="nav", dtype=np.float64, use="private"),
            "made": self.buffer(kind="nav", dtype=np.float64, use="result_only"),
        }

    def get_preferred_input_dtype(self) -> Any:
        return np.float64

    def get_task_data(self) -> Any:
        return {"calls": [0]}

    def preprocess(self) -> None:
        self.results.hidden[:] = 100

    def process_frame(self, frame: Any) -> None:
        self.task_data.calls[0] += 1
        self.results.x[:] = [(frame * self.params.per_pixel).sum() * self.params.per_frame[0], self.params.one[0]]
        assert self.meta.coordinates.shape == (1, 2)

    def postprocess(self) -> None:
        self.results.hidden[:] += self.task_data.calls[0]

    def get_results(self) -> Any:
        return {"x": self.results.x, "made": self.with_mask(self.results.hidden * 2, self.results.x[:, 0] > 0)}


@pytest.mark.parametrize("with_roi", [False, True])
def test_auxiliary_data_private_and_made_results(ctx: Context, with_roi: bool) -> None:
    data = counts()
    rng = np.random.default_rng(3)
    roi = rng.random((6, 5)) < 0.5 if with_roi else np.ones((6, 5), dtype=bool)
    per_frame, per_pixel = rng.random(30), rng.random((8, 7))
    udf = Weighted(
        per_frame=UDF.aux_data(per_frame, kind="nav", dtype="float64"),
        per_pixel=UDF.aux_data(per_pixel, kind="sig", dtype="float64"),
        one=UDF.aux_data(np.array([4.0]), kind="single", dtype="float64"),
    )
    result = ctx.run_udf(dataset=load(ctx, data), udf=udf, roi=roi if with_roi else None)
    want = (data * per_pixel).sum(axis=(2, 3)) * per_frame.reshape(6, 5)
    assert set(result) == {"x", "made"}
    np.testing.assert_allclose(result["x"].data[roi][:, 0], want[roi], rtol=1e-12)
    assert (result["x"].data[roi][:, 1] == 4).all()
    assert (result["made"].data[roi] > 200).all()
    assert result["made"].valid_mask.shape == (6, 5)
    assert (result["made"].valid_mask == roi).all()


def test_several_runs_with_one_instance_do_not_disturb_each_other(ctx: Context) -> None:
    data, other = counts(), counts(seed=5)
    udf = FrameMax()
    first = ctx.run_udf_iter(dataset=load(ctx, data), udf=udf)
    next(first)
    between = ctx.run_udf(dataset=load(ctx, other), udf=udf)
    last = None
    for last in first:
        pass
    assert last is not None
    assert (last.buffers[0]["maximum"].data == data.max(axis=(2, 3))).all()
    assert (between["maximum"].data == other.max(axis=(2, 3))).all()


def test_absent_frames_are_empty_and_not_counted(ctx: Context) -> None:
    data = counts((30, 8, 7))
    ds = ctx.load("memory", data=data, nav_shape=(6, 5), sig_dims=2, sync_offset=-3, num_partitions=4)
    frames, tiles = ctx.run_udf(dataset=ds, udf=[FrameMax(), TileSum()])
    maximum = frames["maximum"].data.reshape(-1)
    assert np.isnan(maximum[:3]).all()
    assert (maximum[3:] == data[:27].max(axis=(1, 2))).all()
    assert frames["maximum"].valid_mask.sum() == 27
    assert tiles["frames"].data.tolist() == [27]
    assert (tiles["sig"].data == data[:27].sum(axis=0)).all()


class Recorder(ProgressReporter):
    def __init__(self) -> None:
        self.states: list[tuple[str, ProgressState]] = []

    def start(self, state: ProgressState) -> None:
        self.states.append(("start", state))

    def update(self, state: ProgressState) -> None:
        self.states.append(("update", state))

    def end(self, state: ProgressState) -> None:
        self.states.append(("end", state))


def test_progress_counts_frames_and_partitions(ctx: Context) -> None:
    reporter = Recorder()
    ctx.run_udf(dataset=load(ctx, counts()), udf=FrameMax(), progress=reporter)
    assert reporter.states[0][0] == "start"
    kind, state = reporter.states[-1]
    assert kind == "end"
    assert state.num_frames_total == state.num_frames_complete == 30
    assert state.num_part_complete == 4


def test_map_infers_shape_and_dtype(ctx: Context) -> None:
    data = counts()
    ds = load(ctx, data)
    assert (ctx.map(dataset=ds, f=np.max).data == data.max(axis=(2, 3))).all()
    rows = ctx.map(dataset=ds, f=lambda frame: frame.sum(axis=1))
    assert rows.data.shape == (6, 5, 8)
    np.testing.assert_allclose(rows.data, data.sum(axis=3), rtol=1e-6)


def test_display_describes_without_running(ctx: Context) -> None:
    shown = ctx.display(load(ctx, counts()), TileSum())
    assert "sig" in repr(shown)
    assert "(8, 7)" in shown._repr_html_()
    assert "float64" in repr(shown)
