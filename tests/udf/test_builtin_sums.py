"""SumUDF, SumSigUDF, StdDevUDF, LogsumUDF, PickUDF and AutoUDF against NumPy in double precision."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sparse

from tests_helpers import counts
from tilework.api import Context
from tilework.exceptions import UDFException
from tilework.udf import UDF, AutoUDF, LogsumUDF, PickUDF, StdDevUDF, SumSigUDF, SumUDF
from tilework.udf import stddev as stddev_module
from tilework.udf.logsum import run_logsum
from tilework.udf.plan import KERNELS_VARIABLE
from tilework.udf.runner import UDFRunner
from tilework.udf.stddev import consolidate_result, run_stddev
from tilework.udf.sumsigudf import run_sumsig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.udf import TilingPreferences

DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8", "c8", ">u2", "b1"]


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)
    assert os.environ[KERNELS_VARIABLE] == request.param
    return str(request.param)


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


def load(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3)


def exact(data: Any) -> Any:
    return data.astype(np.result_type(data.dtype, np.float64))


ROI = np.random.default_rng(5).random((6, 5)) < 0.5


@pytest.mark.parametrize("roi", [None, ROI], ids=["all", "roi"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_deviations(ctx: Context, dtype: str, roi: Any) -> None:
    data = counts(dtype=dtype)
    ds = load(ctx, data)
    udfs = [SumUDF(), SumUDF(dtype="f8"), SumSigUDF(), StdDevUDF(), LogsumUDF()]
    total, double, image, deviations, logsum = ctx.run_udf(dataset=ds, udf=udfs, roi=roi)
    selected = exact(data)[np.ones((6, 5), dtype=bool) if roi is None else roi]
    single = np.result_type(data.dtype, np.float32)

    assert total["intensity"].dtype == single
    assert double["intensity"].dtype == selected.dtype
    np.testing.assert_allclose(total["intensity"].data, selected.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(double["intensity"].data, selected.sum(axis=0), rtol=1e-12 if dtype != "c8" else 1e-6)

    assert image["intensity"].dtype == single
    np.testing.assert_allclose(image["intensity"].raw_data, selected.sum(axis=(1, 2)), rtol=1e-6)

    results = consolidate_result(deviations)
    assert results["num_frames"] == len(selected)
    np.testing.assert_allclose(results["sum"], selected.sum(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(results["mean"], selected.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(results["var"], selected.var(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(results["std"], selected.std(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(results["varsum"], selected.var(axis=0) * len(selected), rtol=1e-12, atol=1e-12)
    assert results["std"].dtype == np.float64

    positive = np.abs(selected) if dtype == "c8" else selected
    scaled = np.log(positive - positive.min(axis=(1, 2), keepdims=True) + 1).sum(axis=0)
    assert logsum["logsum"].dtype == np.float32
    np.testing.assert_allclose(logsum["logsum"].data, scaled, rtol=1e-5)


def test_dtype_of_the_sum(ctx: Context) -> None:
    data = counts(dtype="u2")
    for wanted, expected in (("u1", "u2"), ("i4", "i4"), ("f4", "f4"), ("c8", "c8"), (bool, "u2")):
        result = ctx.run_udf(dataset=load(ctx, data), udf=SumUDF(dtype=wanted))["intensity"]
        assert result.dtype == expected
        np.testing.assert_array_equal(result.data, data.sum(axis=(0, 1)).astype(expected))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_deviations_are_declared_in_this_order(ctx: Context, dtype: str) -> None:
    declared = UDFRunner.inspect_udf(StdDevUDF(dtype=dtype), load(ctx, counts()))
    names = [name for name, buffer in declared.items() if buffer.use != "private"]
    assert names == ["varsum", "num_frames", "sum", "var", "std", "mean"]


def test_deviations_in_single_precision(ctx: Context) -> None:
    data = counts(dtype="u2")
    result = ctx.run_udf(dataset=load(ctx, data), udf=StdDevUDF(dtype=np.float32, use_numba=False))
    assert {result[k].dtype for k in ("var", "std", "varsum", "mean", "sum")} == {np.dtype("f4")}
    np.testing.assert_allclose(result["std"].data, data.std(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(result["mean"].data, data.mean(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["i4", "u2", bool])
def test_deviations_are_no_whole_numbers(ctx: Context, dtype: Any) -> None:
    with pytest.raises(UDFException, match="StdDevUDF: dtype="):
        ctx.run_udf(dataset=load(ctx, counts(dtype="u2")), udf=StdDevUDF(dtype=dtype))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_real_frames_have_deviations_in_complex_numbers_as_well(ctx: Context, dtype: str) -> None:
    data = counts(dtype="u2")
    result = ctx.run_udf(dataset=load(ctx, data), udf=StdDevUDF(dtype=dtype))
    assert result["std"].data.dtype == dtype
    np.testing.assert_allclose(result["std"].data, data.std(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(result["mean"].data, data.mean(axis=(0, 1)), rtol=1e-5)


def test_small_deviations_from_a_large_mean(ctx: Context) -> None:
    data = (60_000 + np.random.default_rng(0).integers(0, 4, size=(8, 9, 5, 6))).astype("u2")
    result = ctx.run_udf(dataset=load(ctx, data), udf=StdDevUDF())
    np.testing.assert_allclose(result["var"].data, data.var(axis=(0, 1)), rtol=1e-10)


@pytest.mark.parametrize("executor", ["inline", "delayed"])
@pytest.mark.parametrize("dtype", ["f4", "f2", "c8"])
def test_deviations_are_rounded_to_less_than_double_precision_only_at_the_end(executor: Any, dtype: str) -> None:
    data = (1e6 + np.random.default_rng(0).normal(0, 0.5, size=(8, 9, 5, 6))).astype("f4")
    with Context.make_with(executor) as ctx:
        result = ctx.run_udf(dataset=load(ctx, data), udf=StdDevUDF(dtype=dtype))
    assert list(result) == ["var", "std", "mean", "varsum", "num_frames", "sum"]
    assert (result["std"].dtype, result["sum"].dtype) == (np.dtype(dtype), np.result_type("f4", dtype))
    rtol = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(result["var"].data, exact(data).var(axis=(0, 1)), rtol=rtol)
    np.testing.assert_allclose(result["varsum"].data, 72 * exact(data).var(axis=(0, 1)), rtol=rtol)
    np.testing.assert_allclose(result["sum"].data, exact(data).sum(axis=(0, 1)), rtol=float(np.finfo("f4").eps))


@pytest.mark.parametrize("dtype", ["g", "G"])
def test_numbers_longer_than_double_precision_are_summed_as_they_are(ctx: Context, dtype: str) -> None:
    data = exact(counts(dtype="f4")).astype(dtype) / 3
    total, deviations = ctx.run_udf(dataset=load(ctx, data), udf=[SumUDF(), StdDevUDF()])
    assert total["intensity"].dtype == data.dtype
    np.testing.assert_allclose(total["intensity"].data, data.sum(axis=(0, 1)), rtol=1e-17)
    np.testing.assert_allclose(deviations["var"].data, data.var(axis=(0, 1)).astype("f8"), rtol=1e-12)


def test_run_functions(ctx: Context) -> None:
    data = counts(dtype="f4")
    ds = load(ctx, data)
    image = run_sumsig(ctx, ds)["intensity"].data
    np.testing.assert_allclose(image, exact(data).sum(axis=(2, 3)), rtol=1e-6)
    deviations = run_stddev(ctx, ds, roi=ROI, use_numba=False)
    np.testing.assert_allclose(deviations["std"], exact(data)[ROI].std(axis=0), rtol=1e-9)
    assert deviations["num_frames"] == ROI.sum()
    assert run_logsum(ctx, ds, roi=ROI)["logsum"].data.shape == (8, 7)


def test_formulas_for_own_functions() -> None:
    data = counts((20, 6, 7), dtype="f8")
    for cut in (0, 6, 20):
        total, varsum = np.zeros((6, 7)), np.zeros((6, 7))
        n = stddev_module.process_tile(data[:cut], 0, total, varsum)
        n = stddev_module.process_tile(data[cut:], n, total, varsum)
        assert n == 20
        np.testing.assert_allclose(varsum / n, data.var(axis=0))
        np.testing.assert_allclose(total, data.sum(axis=0))
        total, varsum = np.zeros((6, 7)), np.zeros((6, 7))

        def forbuf(a: Any, target: Any) -> Any:
            return np.asarray(a).reshape(target.shape)

        n = stddev_module.process_tile_ndarray(data[:cut], 0, total, varsum, forbuf)
        n = stddev_module.process_tile_ndarray(data[cut:], n, total, varsum, forbuf)
        np.testing.assert_allclose(varsum / n, data.var(axis=0))
        np.testing.assert_allclose(total, data.sum(axis=0))


def test_merging_all_partitions_at_once_gives_the_same() -> None:
    data = counts((20, 6, 7), dtype="u2")
    parts: Any = {}
    for i, part in enumerate(np.array_split(data, 4)):
        total, varsum = np.zeros((6, 7)), np.zeros((6, 7))
        n = stddev_module.process_tile(part, 0, total, varsum)
        parts[i] = type("Part", (), {"sum": total, "varsum": varsum, "num_frames": np.array([n]), "intensity": total})
    merged = StdDevUDF().merge_all(parts)
    np.testing.assert_allclose(merged["var"], data.var(axis=0))
    np.testing.assert_allclose(merged["std"], data.std(axis=0))
    assert merged["num_frames"].tolist() == [20]
    np.testing.assert_array_equal(SumUDF().merge_all(parts)["intensity"], data.sum(axis=0))


def test_results_before_the_first_frame_are_quiet(ctx: Context) -> None:
    result = ctx.run_udf(dataset=load(ctx, counts()), udf=StdDevUDF(), roi=np.zeros((6, 5), dtype=bool))
    assert np.isnan(result["std"].data).all()
    assert result["num_frames"].data[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_picked_frames_are_the_frames(ctx: Context, dtype: str) -> None:
    data = counts(dtype=dtype)
    ds = load(ctx, data)
    result = ctx.run_udf(dataset=ds, udf=PickUDF(), roi=ROI)["intensity"]
    assert result.kind == "single"
    assert result.dtype == ds.dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result.data, data[ROI])
    everything = ctx.run_udf(dataset=load(ctx, data), udf=PickUDF())["intensity"]
    np.testing.assert_array_equal(everything.data, data.reshape(30, 8, 7))


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_an_absent_frame_is_picked_as_not_valid(ctx: Context, dtype: str) -> None:
    data = counts((30, 8, 7), dtype)
    ds = ctx.load("memory", data=data, nav_shape=(6, 5), sig_dims=2, sync_offset=-2, num_partitions=3)
    picked = ctx.run_udf(dataset=ds, udf=PickUDF())["intensity"]
    assert picked.dtype == data.dtype
    assert not picked.valid_mask[:2].any()
    assert picked.valid_mask[2:].all()
    np.testing.assert_array_equal(picked.data[2:], data[:28])
    alone = ctx.run_udf(dataset=ds, udf=PickUDF(), roi=(0, 1))["intensity"]
    assert alone.masked_data.mask.all()
    first = next(ctx.run_udf_iter(dataset=load(ctx, data.reshape(6, 5, 8, 7)), udf=PickUDF()))
    np.testing.assert_array_equal(
        first.buffers[0]["intensity"].valid_mask.all(axis=(1, 2)), first.damage.data.reshape(-1)
    )


class HalfOfFrames(PickUDF):
    """Changes what is picked, where all selected frames have their place."""

    def process_tile(self, tile: Any) -> None:
        super().process_tile(tile)
        self.results.intensity[self.meta.slice.get()] //= 2


class WithCount(PickUDF):
    """Has a result of its own, and merges both."""

    def get_result_buffers(self) -> Any:
        return {**super().get_result_buffers(), "count": self.buffer(kind="single", dtype="i8")}

    def process_tile(self, tile: Any) -> None:
        super().process_tile(tile)
        self.results.count[:] += tile.size

    def merge(self, dest: Any, src: Any) -> None:
        super().merge(dest, src)
        dest.count[:] += src.count


@pytest.mark.parametrize("executor", ["inline", "threads", "delayed"])
@pytest.mark.parametrize("roi", [None, ROI], ids=["all", "roi"])
def test_classes_that_derive_from_it_have_the_picked_frames(executor: str, roi: Any) -> None:
    """In tasks, too: there is room for all of them, under the name of the result."""
    data = counts()
    expected = data[ROI] if roi is ROI else data.reshape(30, 8, 7)
    with Context.make_with(executor) as ctx:  # type: ignore[arg-type]
        half = ctx.run_udf(dataset=load(ctx, data), udf=HalfOfFrames(), roi=roi)
        both = ctx.run_udf(dataset=load(ctx, data), udf=WithCount(), roi=roi)
        assert (list(half), sorted(both)) == (["intensity"], ["count", "intensity"])
        np.testing.assert_array_equal(half["intensity"].data, expected // 2)
        np.testing.assert_array_equal(both["intensity"].data, expected)
        assert both["count"].data == expected.size
        assert half["intensity"].dtype == data.dtype


class Late(UDF):
    """Of the first frames, there is nothing before those of others have been looked at."""

    def get_result_buffers(self) -> Any:
        return {"seen": self.buffer(kind="nav", dtype=bool)}

    def process_partition(self, partition: Any) -> None:
        if self.meta.slice.origin[0] == 0:
            assert self.params.others.wait(5)
        self.results.seen[:] = True


def test_picked_frames_do_not_wait_for_those_before_them() -> None:
    """Each partition has its own frames, so they are shown in the order in which they come."""
    others = threading.Event()
    data = counts()
    with Context.make_with("threads", cpus=2) as ctx:
        parts = ctx.run_udf_iter(dataset=load(ctx, data), udf=[PickUDF(), Late(others=others)])
        first = next(parts)
        others.set()
        there = first.damage.data.reshape(-1)
        assert there.any()
        assert not there[0]
        np.testing.assert_array_equal(first.buffers[0]["intensity"].data[there], data.reshape(30, 8, 7)[there])
        (last,) = [*parts][-1:]
        np.testing.assert_array_equal(last.buffers[0]["intensity"].data, data.reshape(30, 8, 7))


def test_picking_very_much_is_warned_about(
    ctx: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilework.udf.raw._LARGE", 1000)
    caplog.set_level(logging.WARNING)
    ctx.run_udf(dataset=load(ctx, counts()), udf=PickUDF())
    assert sum("fewer frames" in r.message for r in caplog.records) == 1


class Extremes(AutoUDF):
    """Declares results of its own in the way of its base."""

    def get_result_buffers(self) -> Any:
        return {
            **super().get_result_buffers(),
            "extremes": self.auto_buffer(np.zeros(2, dtype="u2")),
            "half": self.auto_buffer(0.5),
            "largest": self.auto_monitor_buffer(np.uint16(7)),
        }

    def process_frame(self, frame: Any) -> None:
        super().process_frame(frame)
        self.results.extremes[:] = frame.min(), frame.max()
        self.results.half[:] = frame.max() / 2

    def get_results(self) -> Any:
        results = self.results
        return {**super().get_results(), "largest": results.extremes.max(keepdims=True)[0, -1:]}


def test_classes_that_derive_from_it_declare_results_as_it_does(ctx: Context) -> None:
    data = counts()
    result = ctx.run_udf(dataset=load(ctx, data), udf=Extremes(f=np.sum))
    np.testing.assert_array_equal(result["result"].data, data.sum(axis=(2, 3)))
    np.testing.assert_array_equal(result["extremes"].data[..., 1], data.max(axis=(2, 3)))
    np.testing.assert_array_equal(result["half"].data, data.max(axis=(2, 3)) / 2)
    assert (result["extremes"].dtype, result["half"].dtype) == (np.dtype("u2"), np.dtype("f8"))
    assert (result["largest"].kind, result["largest"].data[0]) == ("single", data.max())


def test_any_function_of_a_frame(ctx: Context) -> None:
    data = counts(dtype="u2")
    ds = load(ctx, data)
    image = ctx.run_udf(dataset=ds, udf=AutoUDF(f=np.max))["result"]
    np.testing.assert_array_equal(image.data, data.max(axis=(2, 3)))
    assert image.dtype == np.float32
    rows = ctx.run_udf(dataset=ds, udf=AutoUDF(f=lambda frame: frame.sum(axis=0)), roi=ROI)["result"]
    np.testing.assert_array_equal(rows.raw_data, data[ROI].sum(axis=1))
    places = ctx.run_udf(dataset=ds, udf=AutoUDF(f=np.argmax))["result"]
    assert places.dtype.kind == "i"


def test_monitor_shows_the_last_finished_position(ctx: Context) -> None:
    data = counts(dtype="u2")
    shown = []
    for part in ctx.run_udf_iter(dataset=load(ctx, data), udf=AutoUDF(f=lambda frame: frame.sum(axis=0), monitor=True)):
        last = int(np.flatnonzero(part.damage.data.reshape(-1))[-1])
        np.testing.assert_array_equal(part.buffers[0]["monitor"].data, data.reshape(30, 8, 7)[last].sum(axis=0))
        shown.append(last)
    assert shown[-1] == 29
    number = ctx.run_udf(dataset=load(ctx, data), udf=AutoUDF(f=np.sum, monitor=True))
    assert number["monitor"].data.tolist() == [data[-1, -1].sum()]
    nothing = ctx.run_udf(
        dataset=load(ctx, data), udf=AutoUDF(f=np.sum, monitor=True), roi=np.zeros((6, 5), dtype=bool)
    )
    assert nothing["monitor"].data.tolist() == [0]


class Binned(SumSigUDF):
    """Has a parameter of its own."""

    def __init__(self, every: int, **kwargs: Any) -> None:
        super().__init__(every=every, **kwargs)

    def get_result_buffers(self) -> dict[str, Any]:
        return {**super().get_result_buffers(), "binned": self.buffer("single", (3,), use="result_only")}

    def get_results(self) -> dict[str, Any]:
        sums = self.results.get_buffer("intensity").data
        return {"intensity": sums, "binned": sums.ravel()[:: self.params.every][:3]}


def test_sums_with_parameters_of_a_class_derived_from_it(ctx: Context) -> None:
    data = counts((3, 4, 5, 6), "u2")
    result = ctx.run_udf(dataset=ctx.load("memory", data=data), udf=Binned(4))
    np.testing.assert_allclose(result["binned"].data, data.sum(axis=(2, 3))[:, 0])
    with pytest.raises(TypeError, match="SumSigUDF has no parameters, got dtype"):
        SumSigUDF(dtype="float64")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("is_sparse", [False, True])
def test_sums_of_logarithms_of_very_many_frames_are_precise(ctx: Context, is_sparse: bool) -> None:
    data = np.zeros((10 if is_sparse else 200, 400, 2, 3), dtype=np.uint8)
    data[..., 0, 1], data[..., 1, 2] = 1, 7
    frames = sparse.COO.from_numpy(data) if is_sparse else data
    ds = ctx.load("memory", data=frames, sig_dims=2, num_partitions=1)
    result = ctx.run_udf(dataset=ds, udf=LogsumUDF())["logsum"].data
    np.testing.assert_allclose(result, np.log1p(exact(data)).sum(axis=(0, 1)), rtol=2e-6)


class _Brightened(LogsumUDF):
    def process_frame(self, frame: Any) -> None:
        super().process_frame(frame * 2)


class _Counted(LogsumUDF):
    def process_frame(self, frame: Any) -> None:
        assert frame.dtype == np.float32  # as derived classes always get frames, also where the kernel takes integers
        self.results.logsum[:] += 1


class _InTiles(_Counted):
    def process_tile(self, tile: Any) -> None:
        self.results.logsum[:] += 100 * len(tile)


class _Percent(_Brightened):
    """Finds the sum in the results, also at the end of a partition, and need not know that more is to be done there."""

    def process_frame(self, frame: Any) -> None:
        super().process_frame(frame)
        assert self.results.logsum.any()

    def postprocess(self) -> None:
        self.results.logsum[:] *= 100


class _PercentOfTiles(LogsumUDF):
    def postprocess(self) -> None:
        self.results.logsum[:] *= 100


class _InFewPixels(LogsumUDF):
    def get_tiling_preferences(self) -> TilingPreferences:
        return {"depth": 1, "total_size": 32}


def test_sums_of_logarithms_can_be_derived_from_by_frames(ctx: Context) -> None:
    data = counts(dtype="u2")
    brightened, counted, tiles = ctx.run_udf(dataset=load(ctx, data), udf=[_Brightened(), _Counted(), _InTiles()])
    doubled = load(ctx, exact(data).astype("f4") * 2)
    expected = ctx.run_udf(dataset=doubled, udf=LogsumUDF())["logsum"].data
    np.testing.assert_allclose(brightened["logsum"].data, expected, rtol=1e-5)
    percent, of_tiles = ctx.run_udf(dataset=load(ctx, data), udf=[_Percent(), _PercentOfTiles()])
    np.testing.assert_allclose(percent["logsum"].data, 100 * expected, rtol=1e-5)
    plain = ctx.run_udf(dataset=load(ctx, data), udf=LogsumUDF())["logsum"].data
    np.testing.assert_allclose(of_tiles["logsum"].data, 100 * plain, rtol=1e-5)
    assert (counted["logsum"].data == 30).all()
    assert (tiles["logsum"].data == 3000).all()


def test_derived_sums_of_logarithms_get_whole_frames(ctx: Context) -> None:
    """The lowest pixel can be anywhere, whatever tiles they ask for."""
    data = counts(dtype="u2")
    plain = ctx.run_udf(dataset=load(ctx, data), udf=LogsumUDF())["logsum"].data
    few = ctx.run_udf(dataset=load(ctx, data), udf=_InFewPixels())["logsum"].data
    np.testing.assert_allclose(few, plain, rtol=1e-5)


def test_derived_sums_of_logarithms_get_sparse_frames_as_well(ctx: Context) -> None:
    data = counts(dtype="f4") * (np.random.default_rng(3).random((6, 5, 8, 7)) < 0.1)
    ds = ctx.load("memory", data=sparse.COO.from_numpy(data), sig_dims=2, num_partitions=3)
    expected = ctx.run_udf(dataset=load(ctx, data * 2), udf=LogsumUDF())["logsum"].data
    result = ctx.run_udf(dataset=ds, udf=_Brightened(), backends=("sparse.COO",))["logsum"].data
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", ["u2", "i1", "f4", "c8"])
@pytest.mark.parametrize("kind", ["COO", "GCXS"])
def test_sums_of_logarithms_of_sparse_frames_that_store_all_pixels_or_negative_ones(
    ctx: Context, kind: str, dtype: str
) -> None:
    data = counts(dtype=dtype)
    data[0] = np.abs(data[0]) + 3
    data[1] = 127
    if dtype[0] in "if":
        data[2, :, ::2], data[2, :, 1::2, ::2] = -100, 0
    if dtype == "f4":
        data[3, 0, 0, 0] = -np.inf
        data[3, 0, 1] = 0
    ds = ctx.load("memory", data=getattr(sparse, kind).from_numpy(data), sig_dims=2, num_partitions=3)
    expected = ctx.run_udf(dataset=load(ctx, data), udf=LogsumUDF())["logsum"].data
    result = ctx.run_udf(dataset=ds, udf=LogsumUDF(), backends=(f"sparse.{kind}",))["logsum"].data
    np.testing.assert_allclose(result, expected, rtol=1e-5)
