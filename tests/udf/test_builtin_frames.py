"""FEM, crystallinity, recording and monitors against NumPy in double precision."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import counts
from tilework.api import Context
from tilework.corrections import CorrectionSet
from tilework.udf import FEMUDF, CrystallinityUDF, PartitionMonitorUDF, RecordUDF, SignalMonitorUDF
from tilework.udf.crystallinity import run_analysis_crystall
from tilework.udf.FEM import run_fem
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ["u1", "u2", ">u2", "u4", "i2", "f4", "f8", "c8", "b1"]
SIG = (8, 7)


@pytest.fixture(scope="module")
def ctx() -> Any:
    with Context.make_with("inline") as context:
        yield context


def load(ctx: Context, data: Any, **kwargs: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3, **kwargs)


def wide(data: Any) -> Any:
    return data.astype(np.result_type(data.dtype.newbyteorder("="), np.float64))


def distance(cy: float, cx: float, sig: tuple[int, int] = SIG) -> Any:
    y, x = np.ogrid[: sig[0], : sig[1]]
    return np.hypot(y - cy, x - cx)


@pytest.mark.parametrize("tileshape", [None, (2, 3, 4), (1, 1, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fem(ctx: Context, dtype: str, tileshape: Any) -> None:
    """The standard deviation over a ring, also put together from parts of the detector; relative error below 1e-7."""
    data = counts(dtype=dtype)
    dataset = load(ctx, data, tileshape=tileshape)
    r = distance(3.5, 2)
    ring = (r > 1) & (r <= 3)
    expected = wide(data)[..., ring].std(axis=-1)
    result = ctx.run_udf(dataset=dataset, udf=FEMUDF(center=(3.5, 2), rad_in=1, rad_out=3))
    assert list(result) == ["intensity"]
    assert result["intensity"].dtype == np.float32
    np.testing.assert_allclose(result["intensity"].data, expected, rtol=1e-7)
    roi = np.random.default_rng(0).random((6, 5)) < 0.4
    some = run_fem(ctx, dataset, (3.5, 2), 1, 3, roi=roi)["intensity"]
    np.testing.assert_allclose(some.raw_data, expected[roi], rtol=1e-7)


def test_fem_with_a_large_mean(ctx: Context) -> None:
    """Deviations are found on an offset that is a million times as large."""
    data = counts((3, 4, 64, 64), "f8") + 3e7
    result = ctx.run_udf(dataset=load(ctx, data), udf=FEMUDF(center=(32, 32), rad_in=5, rad_out=30))
    r = distance(32, 32, (64, 64))
    np.testing.assert_allclose(result["intensity"].data, data[..., (r > 5) & (r <= 30)].std(axis=-1), rtol=1e-7)


@pytest.mark.parametrize("between", [0, 24])
@pytest.mark.parametrize("dtype", ["u2", "f8", "c16"])
def test_fem_of_a_ring_that_is_gathered_in_parts(ctx: Context, dtype: str, between: int) -> None:
    """Parts with means of their own are the same as all pixels at once; of frames one after the other, or not."""
    sig = (400, 400)
    held = np.random.default_rng(0).poisson(3, (4, 400 * 400 + between)).astype(dtype)
    data = held[:, between:].reshape((2, 2, *sig))
    data += np.arange(400, dtype="u2")[:, np.newaxis].astype(dtype)
    result = ctx.run_udf(dataset=load(ctx, data), udf=FEMUDF(center=(200, 200), rad_in=20, rad_out=190))
    r = distance(200, 200, sig)
    expected = wide(data)[..., (r > 20) & (r <= 190)].std(axis=-1)
    np.testing.assert_allclose(result["intensity"].data, expected, rtol=1e-7)


def test_fem_of_nothing_is_refused(ctx: Context) -> None:
    with pytest.raises(ValueError, match="holds no pixel of a detector"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=FEMUDF(center=(100, 100), rad_in=1, rad_out=2))
    with pytest.raises(ValueError, match="two axes"):
        ctx.run_udf(dataset=ctx.load("memory", data=counts(), sig_dims=1), udf=FEMUDF((1, 1), 1, 2))
    with pytest.raises(ValueError, match=r"center must be two numbers \(y, x\), it is 4"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=FEMUDF(4, 1, 2))  # type: ignore[arg-type]


class _Relative(FEMUDF):
    def get_result_buffers(self) -> dict[str, Any]:
        return {**super().get_result_buffers(), "brightest": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        assert frame.dtype == np.float32
        super().process_frame(frame * 2)
        self.results.intensity[:] /= frame.mean()
        self.results.brightest[:] = frame.max()


class _Percent(FEMUDF):
    def postprocess(self) -> None:
        self.results.intensity[:] *= 100


@pytest.mark.parametrize("selected", [False, True])
def test_fem_can_be_derived_from(ctx: Context, selected: bool) -> None:
    """A function of frames is called, and results are there where frames and partitions are processed."""
    data = counts(dtype="u2")
    r = distance(3.5, 2)
    std = wide(data)[..., (r > 1) & (r <= 3)].std(axis=-1)
    roi = np.random.default_rng(0).random(data.shape[:2]) < 0.4 if selected else np.ones(data.shape[:2], dtype=bool)
    udfs = [_Relative((3.5, 2), 1, 3), _Percent((3.5, 2), 1, 3)]
    relative, percent = ctx.run_udf(dataset=load(ctx, data), udf=udfs, roi=roi)
    mean, brightest = data.mean(axis=(-1, -2)), data.max(axis=(-1, -2))
    np.testing.assert_allclose(relative["intensity"].raw_data, (2 * std / mean)[roi], rtol=1e-5)
    np.testing.assert_array_equal(relative["brightest"].raw_data, brightest[roi])
    np.testing.assert_allclose(percent["intensity"].raw_data, 100 * std[roi], rtol=1e-5)


@pytest.mark.parametrize("sig", [(8, 8), (9, 8), (8, 9), (15, 11)])
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "c8"])
def test_crystallinity(ctx: Context, dtype: str, sig: tuple[int, int]) -> None:
    """The sum over a ring of the full transform's half with x frequencies from 0 on; relative error below 1e-6."""
    data = counts((3, 4, *sig), dtype)
    dataset = load(ctx, data)
    frequency = np.hypot(np.fft.fftfreq(sig[0], 1 / sig[0])[:, None], np.fft.fftfreq(sig[1], 1 / sig[1]))
    half = np.zeros(sig, dtype=bool)
    half[:, : sig[1] // 2 + 1] = True
    for rad_in, rad_out, center, radius in ((0, 3, None, None), (1, 2.5, (4, 3), 2)):
        frames = wide(data) * (1 if center is None else distance(*center, sig) > radius)
        ring = (frequency > rad_in) & (frequency <= rad_out) & half
        expected = np.abs(np.fft.fft2(frames))[..., ring].sum(axis=-1)
        result = run_analysis_crystall(ctx, dataset, rad_in, rad_out, center, radius)
        assert result["intensity"].dtype == np.float32
        np.testing.assert_allclose(result["intensity"].data, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_crystallinity_does_not_see_what_the_disc_hides(ctx: Context, bad: float) -> None:
    """The disc is set to 0, whatever is in it, in the bits of frames where it is 0; what is outside of it counts."""
    data = counts((2, 3, 9, 8), "f4")
    hidden = distance(4, 3, (9, 8)) <= 2
    blank = np.where(hidden, np.float32(0), data)
    data[0, :, 4, 4] = bad
    data[1, 1, 0, 0] = bad
    got = run_analysis_crystall(ctx, load(ctx, data), 1, 3, (4, 3), 2)["intensity"].data
    expected = run_analysis_crystall(ctx, load(ctx, blank), 1, 3)["intensity"].data
    seen = np.zeros((2, 3), dtype=bool)
    seen[1, 1] = True
    np.testing.assert_array_equal(got[~seen], expected[~seen])
    assert not np.isfinite(got[seen]).any()


def test_crystallinity_of_what_it_cannot_be_of(ctx: Context) -> None:
    with pytest.raises(ValueError, match="a centre and a radius"):
        CrystallinityUDF(1, 2, real_center=(3, 3))
    with pytest.raises(ValueError, match=r"real_center must be two numbers \(y, x\), it is 3"):
        CrystallinityUDF(1, 2, real_center=3, real_rad=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="real frames with two axes"):
        ctx.run_udf(dataset=load(ctx, counts(dtype="c8")), udf=CrystallinityUDF(1, 2))
    with pytest.raises(ValueError, match="inner radius rad_in=5 must be smaller than the outer radius rad_out=3"):
        CrystallinityUDF(5, 3)
    with pytest.raises(ValueError, match="rad_in=3"):
        CrystallinityUDF(3, 3)
    with pytest.raises(ValueError, match="rad_out must be a number, it is nan"):
        CrystallinityUDF(3, np.nan)


@pytest.mark.parametrize("tileshape", [None, (2, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", ["inline", "threads"])
def test_record(spec: Any, dtype: str, tileshape: Any, tmp_path: Path) -> None:
    """The file holds the dataset, as NumPy reads it."""
    data = counts(dtype=dtype)
    with Context.make_with(spec) as ctx:
        result = ctx.run_udf(dataset=load(ctx, data, tileshape=tileshape), udf=RecordUDF(tmp_path / "a.npy"))
    assert not list(result)
    got = np.load(tmp_path / "a.npy")
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(got, data)


def test_record_on_a_full_disk(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of full size with zeros in it is left; and the error is that of the disk."""
    write, calls = os.pwrite, []

    def until_full(*args: Any) -> int:
        calls.append(args)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    monkeypatch.setattr(os, "pwrite", until_full)
    with pytest.raises(OSError, match="No space left"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=RecordUDF(tmp_path / "a.npy"))
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_record_corrected_frames(ctx: Context, tmp_path: Path) -> None:
    dark = np.random.default_rng(0).random(SIG)
    data = counts()
    ctx.run_udf(dataset=load(ctx, data), udf=RecordUDF(tmp_path / "a.npy"), corrections=CorrectionSet(dark=dark))
    got = np.load(tmp_path / "a.npy")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, data - dark, rtol=1e-5)


def test_record_what_cannot_be(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="leave the roi out"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=RecordUDF(tmp_path / "a.npy"), roi=(1, 1))
    assert not (tmp_path / "a.npy").exists()
    with pytest.raises(FileNotFoundError):
        ctx.run_udf(dataset=load(ctx, counts()), udf=RecordUDF(tmp_path / "nowhere" / "a.npy"))


@pytest.mark.parametrize("kernels", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_monitors(ctx: Context, dtype: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every merged partition, its last frame, and its sum."""
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    data = counts((4, 3, *SIG), dtype)
    flat = wide(data).reshape(12, *SIG)
    dataset = load(ctx, data)
    ends: list[int] = []
    for step in ctx.run_udf_iter(dataset=dataset, udf=[SignalMonitorUDF(), PartitionMonitorUDF()]):
        end = int(step.damage.data.sum())
        start = ends[-1] if ends else 0
        ends.append(end)
        last, total = (buffers["intensity"] for buffers in step.buffers)
        assert last.dtype == total.dtype == np.result_type(np.float32, np.dtype(dtype))
        np.testing.assert_array_equal(last.data, flat[end - 1])
        np.testing.assert_allclose(total.data, flat[start:end].sum(axis=0), rtol=1e-6)
    assert ends == [4, 8, 12]


def test_a_monitor_keeps_what_it_saw_when_frames_are_absent(ctx: Context, tmp_path: Path) -> None:
    data = counts((5, *SIG))
    data.tofile(tmp_path / "a.raw")
    how: dict[str, Any] = {"dtype": "u2", "nav_shape": (8,), "sig_shape": SIG, "num_partitions": 8}
    with pytest.warns(RuntimeWarning, match="without a frame"):
        dataset = ctx.load("raw", path=tmp_path / "a.raw", **how)
    result = ctx.run_udf(dataset=dataset, udf=SignalMonitorUDF())
    np.testing.assert_array_equal(result["intensity"].data, data[-1])


class Brightest(FEMUDF):
    """What users derive: something else of the ring of each frame."""

    def process_frame(self, frame: Any) -> None:
        self.results.intensity[:] = np.max(frame * self.task_data.mask)


def test_classes_that_derive_from_fem(ctx: Context) -> None:
    data = counts((3, 4, 16, 16))
    result = ctx.run_udf(dataset=ctx.load("memory", data=data), udf=Brightest(center=(8, 8), rad_in=1, rad_out=5))
    y, x = np.ogrid[-8:8, -8:8]
    ring = (np.hypot(y, x) > 1) & (np.hypot(y, x) <= 5)
    np.testing.assert_array_equal(result["intensity"].data, data[:, :, ring].max(axis=-1))


class _ByHand(CrystallinityUDF):
    """The same, with the masks that the class has for those that derive from it."""

    def process_frame(self, frame: Any) -> None:
        masks = self.task_data
        spectrum = np.fft.rfft2(frame if masks.real_mask is None else frame * masks.real_mask)
        self.results.intensity[:] = np.sum(np.abs(spectrum) * masks.half_fourier_mask)


@pytest.mark.parametrize("disc", [{}, {"real_center": (4, 3), "real_rad": 2}])
def test_classes_that_derive_from_crystallinity(ctx: Context, disc: dict[str, Any]) -> None:
    dataset = load(ctx, counts())
    expected = ctx.run_udf(dataset=dataset, udf=CrystallinityUDF(rad_in=1, rad_out=3, **disc))["intensity"].data
    result = ctx.run_udf(dataset=dataset, udf=_ByHand(rad_in=1, rad_out=3, **disc))["intensity"].data
    np.testing.assert_allclose(result, expected, rtol=1e-5)
