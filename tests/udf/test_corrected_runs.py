"""Runs with detector corrections: what UDFs get, in which dtype, however the data is cut and wherever it is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, PartitionMean, TileSum, counts
from tilework.api import Context
from tilework.corrections import CorrectionSet
from tilework.corrections.detector import correct
from tilework.exceptions import DataSetException, RepairValueError
from tilework.io.dataset.memory import MemoryDataSet
from tilework.io.results import load_results
from tilework.udf import UDF, CoMUDF, PickUDF, StdDevUDF, SumSigUDF
from tilework.udf.plan import KERNELS_VARIABLE
from tilework.udf.sum import SumUDF

SIG = (8, 7)
RNG = np.random.default_rng(0)
DARK, GAIN = RNG.random(SIG) * 10, RNG.random(SIG) + 0.5
EXCLUDED = np.zeros(SIG, dtype=bool)
EXCLUDED[[0, 3, 3, 7], [0, 2, 3, 6]] = True
DTYPES = ["u1", "u2", ">u2", "u4", "i2", "f4", "f8", "c8", "b1"]


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)


@pytest.fixture(scope="module")
def ctx() -> Any:
    with Context.make_with("inline") as context:
        yield context


def everything() -> CorrectionSet:
    return CorrectionSet(DARK, GAIN, EXCLUDED)


def load(ctx: Context, data: Any, **kwargs: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3, **kwargs)


def expected_frames(data: Any) -> Any:
    """Return corrected frames in double precision."""
    return correct(data.astype(np.result_type(data.dtype, np.float64)), DARK, GAIN, EXCLUDED)


@pytest.mark.parametrize("roi", [None, "some"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_built_in(ctx: Context, dtype: str, roi: Any) -> None:
    """Sums, single frames and deviations of corrected frames; relative error below 2e-6 (float32), 1e-12 (float64)."""
    data = counts(dtype=dtype)
    mask = np.random.default_rng(1).random((6, 5)) < 0.5 if roi else np.ones((6, 5), dtype=bool)
    frames = expected_frames(data)[mask]
    total, sums, picked, deviations = ctx.run_udf(
        dataset=load(ctx, data),
        udf=[SumUDF(), SumSigUDF(), PickUDF(), StdDevUDF()],
        roi=None if roi is None else mask,
        corrections=everything(),
    )
    base = np.result_type(np.float32, np.dtype(dtype))
    assert {r["intensity"].dtype for r in (total, sums, picked)} == {base}
    assert deviations["std"].dtype == np.float64
    rtol = 2e-6 if base in (np.float32, np.complex64) else 1e-12
    np.testing.assert_allclose(total["intensity"].data, frames.sum(axis=0), rtol=rtol)
    np.testing.assert_allclose(sums["intensity"].data[mask], frames.sum(axis=(1, 2)), rtol=rtol)
    np.testing.assert_allclose(picked["intensity"].data, frames, rtol=rtol, atol=rtol * 100)
    np.testing.assert_allclose(deviations["std"].data, frames.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(deviations["mean"].data, frames.mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_complex_corrections_of_real_frames(ctx: Context, dtype: str) -> None:
    """They are for results that are complex; relative error below 1e-12."""
    data = counts(dtype=dtype)
    dark, gain = DARK + 1j, GAIN * (1 - 2j)
    total, deviations = ctx.run_udf(
        dataset=load(ctx, data),
        udf=[SumUDF(dtype="complex128"), StdDevUDF(dtype="complex128")],
        corrections=CorrectionSet(dark, gain),
    )
    expected = ((data.astype("c16") - dark) * gain).sum(axis=(0, 1))
    assert total["intensity"].dtype == np.complex128
    np.testing.assert_allclose(total["intensity"].data, expected, rtol=1e-12)
    np.testing.assert_allclose(deviations["mean"].data * 30, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="does not fit real frames"):
        ctx.run_udf(dataset=load(ctx, data), udf=SumUDF(), corrections=CorrectionSet(dark, gain))


class SeesDtype(UDF):
    """Notes the dtype of what it gets."""

    def get_preferred_input_dtype(self) -> Any:
        return self.USE_NATIVE_DTYPE

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        return True

    def get_result_buffers(self) -> Any:
        return {"itemsize": self.buffer(kind="nav", dtype="i8"), "declared": self.buffer(kind="nav", dtype="i8")}

    def process_tile(self, tile: Any) -> None:
        assert self.meta.input_dtype == tile.dtype
        assert self.meta.corrections.have_corrections()
        self.results.itemsize[:] = tile.dtype.itemsize
        self.results.declared[:] = self.meta.input_dtype.itemsize


@pytest.mark.parametrize(("dtype", "size"), [("u1", 4), ("u2", 4), ("i4", 8), ("f4", 4), ("f8", 8), ("c8", 8)])
def test_corrected_frames_are_at_least_float32(ctx: Context, dtype: str, size: int) -> None:
    """Whatever a UDF prefers: integers could not hold them. What is declared before the run is what comes."""
    dataset = load(ctx, counts(dtype=dtype))
    result = ctx.run_udf(dataset=dataset, udf=SeesDtype(), corrections=CorrectionSet(dark=DARK))
    assert set(result["itemsize"].data.ravel()) == {size} == set(result["declared"].data.ravel())


def test_users_functions(ctx: Context) -> None:
    """Functions of frames, tiles and partitions get corrected data; together in one run, and each in its dtype."""
    data = counts()
    frames = expected_frames(data)
    for udfs in ([FrameMax()], [TileSum()], [PartitionMean()], [FrameMax(), TileSum(), SumUDF()]):
        results = ctx.run_udf(dataset=load(ctx, data), udf=udfs, corrections=everything())
        for udf, result in zip(udfs, results, strict=True):
            if isinstance(udf, FrameMax):
                np.testing.assert_allclose(result["maximum"].data, frames.max(axis=(2, 3)), rtol=1e-6)
            elif isinstance(udf, TileSum):
                np.testing.assert_allclose(result["nav"].data, frames.sum(axis=(2, 3)), rtol=1e-12)
                np.testing.assert_allclose(result["sig"].data, frames.sum(axis=(0, 1)), rtol=1e-12)
            elif isinstance(udf, PartitionMean):
                np.testing.assert_allclose(result["mean"].data, frames.mean(axis=(2, 3)), rtol=1e-6)
            else:
                np.testing.assert_allclose(result["intensity"].data, frames.sum(axis=(0, 1)), rtol=1e-6)
    mapped = ctx.map(dataset=load(ctx, data), f=np.max, corrections=everything())
    np.testing.assert_allclose(mapped.data, frames.max(axis=(2, 3)), rtol=1e-6)


def test_the_sum_has_the_same_bits_alone_and_in_company(ctx: Context) -> None:
    dataset = load(ctx, counts())
    alone = ctx.run_udf(dataset=dataset, udf=SumUDF(), corrections=everything())
    together = ctx.run_udf(dataset=dataset, udf=[FrameMax(), SumUDF()], corrections=everything())[1]
    assert alone["intensity"].data.tobytes() == together["intensity"].data.tobytes()


class SumAndLowest(SumUDF):
    """Also wants to see the frames: its author knows nothing of raw ones."""

    def get_result_buffers(self) -> Any:
        return {**super().get_result_buffers(), "lowest": self.buffer(kind="nav", dtype=np.float32)}

    def process_tile(self, tile: Any) -> None:
        super().process_tile(tile)
        assert tile.dtype == np.float32
        self.results.lowest[:] = tile.min(axis=(1, 2))

    def merge(self, dest: Any, src: Any) -> None:
        super().merge(dest, src)
        dest.lowest[:] = src.lowest


@pytest.mark.parametrize("corrections", [everything(), CorrectionSet()], ids=["corrected", "plain"])
def test_a_subclass_with_its_own_method_gets_what_every_function_gets(ctx: Context, corrections: Any) -> None:
    """Corrected frames, in float32, although what it is derived from takes raw ones as they are stored."""
    data = counts()
    frames = expected_frames(data) if corrections.have_corrections() else data
    result = ctx.run_udf(dataset=load(ctx, data), udf=SumAndLowest(), corrections=corrections)
    np.testing.assert_allclose(result["intensity"].data, frames.sum(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(result["lowest"].data, frames.min(axis=(2, 3)), rtol=1e-5)


def test_a_large_dark_frame_costs_no_precision(ctx: Context) -> None:
    """The sum is corrected in double precision: 1 count on an offset of 60 000 is found again to 1e-6."""
    data = np.full((20, 20, *SIG), 60001, dtype="u2")
    total = ctx.run_udf(dataset=load(ctx, data), udf=SumUDF(), corrections=CorrectionSet(dark=np.full(SIG, 60000.0)))
    np.testing.assert_allclose(total["intensity"].data, 400, rtol=1e-6)


def test_tiles_of_parts_of_the_detector(ctx: Context) -> None:
    """Parts get their own corrections; where an excluded pixel touches a border, the run does not begin."""
    data = counts()
    frames = expected_frames(data)
    dataset = load(ctx, data, tileshape=(2, 5, 7))
    total, nav = ctx.run_udf(dataset=dataset, udf=[SumUDF(), TileSum()], corrections=everything())
    np.testing.assert_allclose(total["intensity"].data, frames.sum(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(nav["nav"].data, frames.sum(axis=(2, 3)), rtol=1e-12)
    dataset = load(ctx, data, tileshape=(2, 4, 7))
    with pytest.raises(ValueError, match="an excluded pixel touches their border"):
        ctx.run_udf(dataset=dataset, udf=TileSum(), corrections=everything())
    # Sums are repaired when they are complete, and without excluded pixels borders are where they like.
    ctx.run_udf(dataset=dataset, udf=SumUDF(), corrections=everything())
    ctx.run_udf(dataset=dataset, udf=TileSum(), corrections=CorrectionSet(DARK, GAIN))


class Rows(UDF):
    """Notes how many detector rows its tiles have, and sums."""

    def get_tiling_preferences(self) -> Any:
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.params.size}

    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype="f4"), "parts": self.buffer(kind="nav", dtype="i8")}

    def process_tile(self, tile: Any) -> None:
        self.results.total[:] += tile.sum(axis=(1, 2))
        self.results.parts[:] += 1


def test_large_frames_are_cut_where_no_excluded_pixel_is(ctx: Context) -> None:
    """With the excluded pixels at the borders of the tiles that would be taken otherwise."""
    sig = (256, 128)
    data = counts((2, 2, *sig))
    dataset = ctx.load("memory", data=data, sig_dims=2)
    udf = Rows(size=64 * 1024)
    plain = ctx.run_udf(dataset=dataset, udf=udf)
    parts = int(plain["parts"].data[0, 0])
    assert parts > 1
    height = -(-sig[0] // parts)
    excluded = np.zeros(sig, dtype=bool)
    excluded[[height, 2 * height - 1], [5, 9]] = True
    corrections = CorrectionSet(excluded_pixels=excluded)
    result = ctx.run_udf(dataset=dataset, udf=udf, corrections=corrections)
    assert result["parts"].data[0, 0] > 1
    frames = correct(data.astype("f8"), excluded_pixels=excluded, sig_shape=sig)
    np.testing.assert_allclose(result["total"].data, frames.sum(axis=(2, 3)), rtol=1e-5)


class OfADetector(MemoryDataSet):
    """Comes with its corrections."""

    def get_correction_data(self) -> CorrectionSet:
        return CorrectionSet(dark=DARK)


class Uncorrectable(MemoryDataSet):
    """Cannot be corrected."""

    def supports_correction(self) -> bool:
        return False


def test_corrections_that_come_with_the_data(ctx: Context) -> None:
    """They are used unless others are given; an empty set switches them off."""
    data = counts()
    dataset = OfADetector(data=data, sig_dims=2, num_partitions=3)
    total = data.sum(axis=(0, 1), dtype="f8")
    for given, expected in (
        (None, total - 30 * DARK),
        (CorrectionSet(), total),
        (CorrectionSet(gain=GAIN), total * GAIN),
    ):
        result = ctx.run_udf(dataset=dataset, udf=SumUDF(), corrections=given)
        np.testing.assert_allclose(result["intensity"].data, expected, rtol=1e-5, atol=1e-3)
    assert PickUDF().get_preferred_input_dtype() is bool
    shown = ctx.display(dataset, PickUDF())._repr_html_()
    assert "float32" in shown
    (part,) = (p for p in ctx.run_udf_iter(dataset=dataset, udf=SumUDF(), roi=(2, 3)))
    np.testing.assert_allclose(part.buffers[0]["intensity"].data, data[2, 3] - DARK, rtol=1e-5)


def test_what_is_saved_says_that_it_is_corrected(ctx: Context, tmp_path: Any) -> None:
    dataset = load(ctx, counts())
    plain = ctx.run_udf(dataset=dataset, udf=SumUDF())
    assert plain.provenance is not None
    assert plain.provenance.as_dict()["corrections"] is None
    corrected = ctx.run_udf(
        dataset=dataset, udf=SumUDF(), corrections=CorrectionSet(dark=DARK, excluded_pixels=EXCLUDED)
    )
    path = corrected.save(tmp_path / "sum.npz")
    found = load_results(path).provenance["corrections"]
    assert found == {"dark": {"min": DARK.min(), "max": DARK.max()}, "gain": None, "excluded_pixels": 4}


def test_what_does_not_fit_is_refused_before_data_is_read(ctx: Context) -> None:
    dataset = load(ctx, counts())
    with pytest.raises(ValueError, match=r"made for a detector of shape \(7, 8\)"):
        ctx.run_udf(dataset=dataset, udf=SumUDF(), corrections=CorrectionSet(dark=DARK.T))
    with pytest.raises(TypeError, match=r"must be a tilework\.corrections\.CorrectionSet"):
        ctx.run_udf(dataset=dataset, udf=SumUDF(), corrections={"dark": DARK})  # type: ignore[call-overload]
    with pytest.raises(DataSetException, match="does not support detector corrections"):
        ctx.run_udf(
            dataset=Uncorrectable(data=counts(), sig_dims=2), udf=SumUDF(), corrections=CorrectionSet(dark=DARK)
        )
    with pytest.raises(RepairValueError, match="no usable neighbour"):
        CorrectionSet(excluded_pixels=np.ones(SIG, dtype=bool))


def test_absent_frames_stay_absent(ctx: Context, tmp_path: Any) -> None:
    """A dark frame is subtracted from frames that are there; positions without one give nothing to a sum."""
    data = counts((5, *SIG))
    data.tofile(tmp_path / "a.raw")
    how: dict[str, Any] = {"dtype": "u2", "nav_shape": (2, 4), "sig_shape": SIG, "num_partitions": 3}
    with pytest.warns(RuntimeWarning, match="without a frame"):
        dataset = ctx.load("raw", path=tmp_path / "a.raw", **how)
    total, sums = ctx.run_udf(dataset=dataset, udf=[SumUDF(), SumSigUDF()], corrections=CorrectionSet(dark=DARK))
    np.testing.assert_allclose(total["intensity"].data, data.sum(axis=0) - 5 * DARK, rtol=1e-5)
    assert np.isnan(sums["intensity"].data).sum() == 3


def test_centre_of_mass_of_corrected_frames(ctx: Context) -> None:
    """Against moments of corrected frames in double precision; 1e-5 pixels."""
    data = counts()
    frames = expected_frames(data)
    result = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(cy=4, cx=3), corrections=everything())
    y, x = np.mgrid[: SIG[0], : SIG[1]]
    total = frames.sum(axis=(2, 3))
    com = np.stack([(frames * y).sum(axis=(2, 3)) / total, (frames * x).sum(axis=(2, 3)) / total], axis=-1)
    np.testing.assert_allclose(result["raw_com"].data, com, atol=1e-5)
