"""Into how many tasks a run is cut, and that this changes no bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest

from tilework.api import Context
from tilework.udf import UDF, SumSigUDF, SumUDF
from tilework.udf.crystallinity import CrystallinityUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = np.random.default_rng(3).random((32, 64, 5, 7), dtype=np.float32)


class Mean(UDF):
    """Takes single frames, with a result for each."""

    def get_result_buffers(self) -> Any:
        return {"result": self.buffer(kind="nav", dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        self.results.result[:] = frame.mean()


class Prepared(Mean):
    def get_task_data(self) -> Any:
        return {"expensive": 1}


class Crystalline(CrystallinityUDF):
    """Has task data that is built in."""

    def process_frame(self, frame: Any) -> None:
        self.results.intensity[:] = frame.sum() * self.task_data.half_fourier_mask.sum()


class Last(Mean):
    """Looks at all of the partition."""

    def postprocess(self) -> None:
        self.results.result[:] = self.results.result[-1]


class Total(UDF):
    """Takes single frames, and adds them up."""

    def get_result_buffers(self) -> Any:
        return {"result": self.buffer(kind="sig", dtype="float32")}

    def process_frame(self, frame: Any) -> None:
        self.results.result += frame

    def merge(self, dest: Any, src: Any) -> None:
        dest.result += src.result


class TotalOfTiles(Total):
    def get_method(self) -> Any:
        return self.UDF_METHOD.TILE

    def process_tile(self, tile: Any) -> None:
        self.results.result += tile.sum(axis=0)


def region(*where: Any) -> Any:
    roi = np.zeros(DATA.shape[:2], dtype=bool)
    roi[where] = True
    return roi


@pytest.fixture(params=[1, 3])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with Context.make_with("threads", cpus=request.param) as ctx:
        yield ctx


def workers(ctx: Context) -> int:
    return ctx.executor.get_available_workers().concurrency()


def tasks(ctx: Context, udf: Any, roi: Any = None, ds: Any = None, **options: Any) -> int:
    """Return into how many tasks a run was cut, after comparing its result with that of one task."""
    runs = [
        ctx.submit_udf(dataset=ctx.load("memory", data=DATA, **kw) if ds is None else ds, udf=udf, roi=roi)
        for kw in (options, {"num_partitions": 1})
    ]
    result, expected = (run.result()[next(iter(run.result()))].data for run in runs)
    assert np.array_equal(result, expected, equal_nan=True) or not isinstance(udf, Mean)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    return runs[0].progress.partitions_total


def test_single_frames_are_for_all_workers(ctx: Context) -> None:
    """The dataset has one partition. A worker gets several tasks, of not too few frames."""
    n = workers(ctx)
    assert tasks(ctx, Mean()) == (1 if n == 1 else 2 * n)
    assert tasks(ctx, Prepared()) == n
    assert tasks(ctx, Crystalline(rad_in=0, rad_out=1)) == tasks(ctx, Mean())
    assert tasks(ctx, Mean(), num_partitions=2) == 2
    assert tasks(ctx, Mean(), region(slice(None, None, 8), slice(None))) == n
    assert tasks(ctx, Mean(), region(2, 3)) == 1


def test_what_could_change_bits_does_not_go_by_the_workers(ctx: Context) -> None:
    assert tasks(ctx, Total()) == 16
    assert tasks(ctx, TotalOfTiles()) == 4
    assert tasks(ctx, SumUDF()) == 1
    assert tasks(ctx, Total(), region(slice(0, 1), slice(0, 9))) == 2
    run = ctx.submit_udf(dataset=ctx.load("memory", data=DATA), udf=Last())
    run.result()
    assert run.progress.partitions_total == 16
    both = ctx.submit_udf(dataset=ctx.load("memory", data=DATA), udf=[Mean(), SumUDF()])
    both.result()
    assert both.progress.partitions_total == 4


def test_each_worker_gets_its_share_of_a_region() -> None:
    """Though all of it lies in one partition of sixteen."""
    data = np.zeros((64, 64, 64, 64), dtype=np.float64)
    roi = np.zeros((64, 64), dtype=bool)
    roi[1:4] = True
    with Context.make_with("threads", cpus=3) as ctx:
        ds = ctx.load("memory", data=data)
        assert ds.get_num_partitions() == 16
        run = ctx.submit_udf(dataset=ds, udf=Mean(), roi=roi)
        run.result()
        assert run.progress.partitions_total == 3
        whole = ctx.submit_udf(dataset=ds, udf=Mean())
        whole.result()
        assert whole.progress.partitions_total == 16


def test_partitions_with_a_few_selected_frames_are_joined(tmp_path: Path) -> None:
    """What is built in takes less time for them than a task. Four tasks stay, and partitions that were asked for."""
    data = np.zeros((64, 64, 64, 64), dtype=np.float64)
    data[:, :] = np.random.default_rng(4).random((64, 64))
    data[1] *= 3
    data[40, 5] = 7
    np.save(tmp_path / "scan.npy", data)
    every_fifth = np.arange(64 * 64).reshape(64, 64) % 5 == 0

    def check(udf: Any, roi: Any, tasks: int, **options: Any) -> None:
        results = []
        for executor in "inline", "threads", "delayed":
            with Context.make_with(executor) as ctx:
                ds = ctx.load("npy", path=tmp_path / "scan.npy", **options)
                assert options or ds.get_num_partitions() == 16
                run = ctx.submit_udf(dataset=ds, udf=udf, roi=roi)
                result = run.result()
                results.append(np.asarray(result[next(iter(result))].data))
                assert executor == "delayed" or run.progress.partitions_total == tasks
        assert all(np.array_equal(results[0], other, equal_nan=True) for other in results[1:])
        if isinstance(udf, SumUDF):
            np.testing.assert_allclose(results[0], data[roi].sum(axis=0), rtol=1e-6)

    check(SumUDF(), every_fifth, 6)  # 25 MiB
    check(SumUDF(), np.arange(64 * 64).reshape(64, 64) % 100 == 0, 4)
    check(SumSigUDF(), np.arange(64 * 64).reshape(64, 64) % 1000 == 0, 4)
    check(SumUDF(), np.arange(64 * 64).reshape(64, 64) % 3000 == 0, 2)
    check(SumUDF(), every_fifth, 16, num_partitions=16)
    check(TotalOfTiles(), every_fifth, 16)


def test_files_with_absent_frames(ctx: Context, tmp_path: Path) -> None:
    DATA.tofile(tmp_path / "scan.raw")
    options: dict[str, Any] = {"dtype": "f4", "sig_shape": DATA.shape[2:], "nav_shape": (40, 64), "sync_offset": -5}
    with pytest.warns(RuntimeWarning):
        ds = ctx.load("raw", path=tmp_path / "scan.raw", **options)
    assert tasks(ctx, Mean(), ds=ds) == (1 if workers(ctx) == 1 else 3 * workers(ctx))
    result = ctx.run_udf(dataset=ds, udf=Mean())["result"].data.reshape(-1)
    expected = [frame.mean() for frame in DATA.reshape(-1, *DATA.shape[2:])]
    np.testing.assert_array_equal(result[5 : 5 + len(expected)], expected)
    assert np.isnan(result[:5]).all()
    assert np.isnan(result[5 + len(expected) :]).all()


def test_chunks_stay_whole(ctx: Context) -> None:
    ds = ctx.load("dask", da.from_array(DATA, chunks=(8, -1, -1, -1)), sig_dims=2)
    assert tasks(ctx, Mean(), ds=ds) == ds.get_num_partitions()


@pytest.mark.parametrize("udf", [Mean(), Total(), TotalOfTiles()], ids=lambda udf: type(udf).__name__)
def test_the_same_bits_on_every_executor(udf: Any) -> None:
    roi = region(slice(3, 9), slice(None, 40))
    results = []
    executor: Any
    for executor, options in ("inline", {}), ("threads", {"cpus": 3}), ("delayed", {}):
        with Context.make_with(executor, **options) as ctx:
            ds = ctx.load("memory", data=DATA)
            results.append([np.asarray(ctx.run_udf(dataset=ds, udf=udf, roi=r)["result"].data) for r in (None, roi)])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(one, other)
