"""ApplyMasksUDF against NumPy in double precision: dense, sparse, shifted, all dtypes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import sparse

from tests_helpers import counts
from tilework.api import Context
from tilework.common.buffers import AuxBufferWrapper
from tilework.common.container import MaskContainer
from tilework.udf import UDF, ApplyMasksUDF
from tilework.udf.masks import ApplyMasksEngine
from tilework.udf.plan import KERNELS_VARIABLE

SIG = (8, 7)
DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8", "c8", ">u2", "b1"]


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)


@pytest.fixture(scope="module")
def ctx() -> Any:
    with Context.make_with("inline") as context:
        yield context


def load(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3)


def stack(count: int = 5, dtype: Any = "f4") -> Any:
    rng = np.random.default_rng(count)
    masks: Any = rng.normal(size=(count, *SIG))
    if np.dtype(dtype).kind == "c":
        masks = masks + 1j * rng.normal(size=masks.shape)
    return np.where(rng.random(masks.shape) < 0.5, masks, 0).astype(dtype)


def expected(data: Any, masks: Any) -> Any:
    wide = np.result_type(data.dtype, masks.dtype, np.float64)
    return np.einsum("...yx,myx->...m", data.astype(wide), masks.astype(wide))


@pytest.mark.parametrize("mask_dtype", ["f4", "f8", "c8", "i2", "b1"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products(ctx: Context, dtype: str, mask_dtype: str) -> None:
    data, masks = counts(dtype=dtype), stack(dtype=mask_dtype)
    udfs = [
        ApplyMasksUDF(mask_factories=lambda: masks),
        ApplyMasksUDF(
            mask_factories=[partial(masks.__getitem__, i) for i in range(5)], mask_count=5, mask_dtype=mask_dtype
        ),
        ApplyMasksUDF(mask_factories=lambda: sparse.COO.from_numpy(masks)),
        ApplyMasksUDF(mask_factories=[partial(sp.csr_matrix, masks[i]) for i in range(5)]),
        ApplyMasksUDF(mask_factories=lambda: masks, use_sparse=True, use_torch=False),
    ]
    reference = expected(data, masks)
    for result in ctx.run_udf(dataset=load(ctx, data), udf=udfs):
        intensity = result["intensity"]
        assert intensity.extra_shape == (5,)
        assert intensity.dtype == np.result_type(data.dtype, mask_dtype, np.float32)
        np.testing.assert_allclose(intensity.data, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17])
def test_any_number_of_masks_with_a_roi(ctx: Context, count: int) -> None:
    data, masks = counts(dtype="u2"), stack(count)
    roi = np.random.default_rng(1).random((6, 5)) < 0.4
    result = ctx.run_udf(dataset=load(ctx, data), udf=ApplyMasksUDF(mask_factories=lambda: masks), roi=roi)
    np.testing.assert_allclose(result["intensity"].raw_data, expected(data, masks)[roi], rtol=1e-5, atol=1e-3)
    assert np.isnan(result["intensity"].data[~roi]).all()


def test_preferred_dtype_decides_the_precision(ctx: Context) -> None:
    data, masks = counts(dtype="u2"), stack()
    ds = load(ctx, data)
    result = ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=lambda: masks, preferred_dtype="f8"))
    assert result["intensity"].dtype == np.float64
    np.testing.assert_allclose(result["intensity"].data, expected(data, masks), rtol=1e-12, atol=1e-12)
    whole = np.ones((2, *SIG), dtype="u2")
    result = ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=lambda: whole, preferred_dtype=bool))
    assert result["intensity"].dtype == np.uint16
    np.testing.assert_array_equal(result["intensity"].data, expected(data, whole))


def shifted(masks: Any, dy: int, dx: int) -> Any:
    height, width = masks.shape[1:]
    result = np.zeros_like(masks)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                result[:, y, x] = masks[:, y - dy, x - dx]
    return result


@pytest.mark.parametrize("use_sparse", [False, True, "sparse.pydata", None])
@pytest.mark.parametrize("dtype", ["u2", "f4", "c8"])
def test_shifts(ctx: Context, dtype: str, use_sparse: Any) -> None:
    data = counts(dtype=dtype)
    masks = stack(3, "c8" if dtype == "c8" else "f4")
    ds = load(ctx, data)
    for dy, dx in ((0, 0), (2, -3), (-1, 1), (7, 0), (8, 0), (-20, 30)):
        udf = ApplyMasksUDF(mask_factories=lambda: masks, use_sparse=use_sparse, shifts=(dy, dx))
        result = ctx.run_udf(dataset=ds, udf=udf)["intensity"].data
        np.testing.assert_allclose(result, expected(data, shifted(masks, dy, dx)), rtol=1e-4, atol=1e-3)

    shifts = np.random.default_rng(2).integers(-9, 10, size=(6, 5, 2))
    aux = ApplyMasksUDF.aux_data(shifts, kind="nav", extra_shape=(2,), dtype=int)
    assert isinstance(aux, AuxBufferWrapper)
    roi = np.random.default_rng(1).random((6, 5)) < 0.6
    for selected in (None, roi):
        udf = ApplyMasksUDF(mask_factories=lambda: masks, use_sparse=use_sparse, shifts=aux)
        result = ctx.run_udf(dataset=ds, udf=udf, roi=selected)["intensity"].data
        for y, x in np.ndindex(6, 5):
            if selected is None or selected[y, x]:
                reference = expected(data[y, x], shifted(masks, *shifts[y, x]))
                np.testing.assert_allclose(result[y, x], reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("use_sparse", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "c8"])
def test_an_unknown_shift_has_an_unknown_result(ctx: Context, dtype: str, use_sparse: bool) -> None:
    data = counts(dtype=dtype)
    masks = stack(3, "c8" if dtype == "c8" else "f4")
    shifts = np.ones((6, 5, 2))
    shifts[2, 3, 0], shifts[4, 0, 1], shifts[5, 4] = np.nan, np.inf, np.nan
    aux = ApplyMasksUDF.aux_data(shifts, kind="nav", extra_shape=(2,), dtype="float64")
    udf = ApplyMasksUDF(mask_factories=lambda: masks, use_sparse=use_sparse, shifts=aux)
    result = ctx.run_udf(dataset=load(ctx, data), udf=udf)["intensity"].data
    reference = expected(data, shifted(masks, 1, 1))
    reference[~np.isfinite(shifts).all(axis=-1)] = np.nan
    np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-3)


def test_an_unknown_shift_has_no_integer_as_result(ctx: Context) -> None:
    shifts = np.full((6, 5, 2), np.nan)
    aux = ApplyMasksUDF.aux_data(shifts, kind="nav", extra_shape=(2,), dtype="float64")
    udf = ApplyMasksUDF(mask_factories=lambda: stack(3, "i4"), preferred_dtype="i8", shifts=aux)
    with pytest.raises(ValueError, match=r"no integer stands for a frame whose shift is .*: give a float"):
        ctx.run_udf(dataset=load(ctx, counts(dtype="i4")), udf=udf)


@pytest.mark.parametrize("use_sparse", [False, True, "sparse.pydata.GCXS"])
@pytest.mark.parametrize("shift", [(10**12, 0), (-3.0, -1e18), (0.0, 1e300)])
def test_masks_that_are_shifted_far_away_have_no_products(ctx: Context, shift: Any, use_sparse: Any) -> None:
    each = np.broadcast_to(np.array(shift, dtype=np.float64), (6, 5, 2))
    aux = ApplyMasksUDF.aux_data(each, kind="nav", extra_shape=(2,), dtype=np.float64)
    for shifts in (shift, aux):
        udf = ApplyMasksUDF(mask_factories=stack, use_sparse=use_sparse, shifts=shifts)
        assert not ctx.run_udf(dataset=load(ctx, counts()), udf=udf)["intensity"].data.any()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("use_sparse", [False, True])
@pytest.mark.parametrize("shift", ["none", "one", "for each frame"])
def test_what_is_no_number_where_a_mask_is_zero(ctx: Context, shift: str, use_sparse: bool) -> None:
    """0 × NaN is NaN, in that frame alone; but a sparse mask, and one shifted for each frame, does not come there."""
    data = counts(dtype="f4")
    data[1, 2, 7, 6], data[2, 1, 0, 3], data[3, 3, 4, 3] = np.nan, np.inf, np.nan
    masks = np.zeros((2, *SIG), dtype=np.float32)
    masks[:, 3:6, 2:5] = [[[1]], [[2]]]
    shifts: Any = None if shift == "none" else (1, 0)
    if shift == "for each frame":
        each = np.broadcast_to(shifts, (6, 5, 2))
        shifts = ApplyMasksUDF.aux_data(each, kind="nav", extra_shape=(2,), dtype=int)
    udf = ApplyMasksUDF(mask_factories=lambda: masks, use_sparse=use_sparse, shifts=shifts)
    result = ctx.run_udf(dataset=load(ctx, data), udf=udf)["intensity"].data
    moved = masks if shift == "none" else shifted(masks, 1, 0)
    reference = expected(data, moved)  # float64 NumPy
    if use_sparse:
        reference = expected(np.where(moved.any(axis=0), data, 0), moved)
    elif shift == "for each frame":
        reference[2, 1] = expected(data[2, 1, 1:], moved[:, 1:])
    broken = {(3, 3)} | (set() if use_sparse else {(1, 2)})
    if not use_sparse and shift != "for each frame":
        broken.add((2, 1))
    assert {(int(y), int(x)) for y, x in np.argwhere(~np.isfinite(reference).all(axis=-1))} == broken
    np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("kernels")
class _LessDark(ApplyMasksUDF):
    def process_frame(self, frame: Any) -> None:
        super().process_frame(frame - 3)


def test_classes_that_derive_from_shifted_masks_get_frames(ctx: Context) -> None:
    """Also where one shift for all frames could be applied to tiles."""
    data, masks = counts(dtype="u2"), stack()
    result = ctx.run_udf(dataset=load(ctx, data), udf=_LessDark(mask_factories=lambda: masks, shifts=(2, -1)))
    reference = expected(data.astype("f4") - 3, shifted(masks, 2, -1))
    np.testing.assert_allclose(result["intensity"].data, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shifts", [None, (1, 2)])
@pytest.mark.parametrize("empty", [np.zeros((0, *SIG)), sparse.zeros((0, *SIG))], ids=["dense", "sparse"])
def test_no_masks_have_no_products(ctx: Context, empty: Any, shifts: Any) -> None:
    for dtype in ("u2", "c8"):
        udf = ApplyMasksUDF(mask_factories=lambda: empty, shifts=shifts)
        assert ctx.run_udf(dataset=load(ctx, counts(dtype=dtype)), udf=udf)["intensity"].data.shape == (6, 5, 0)


@pytest.mark.parametrize("use_sparse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_engine_for_own_functions(ctx: Context, dtype: str, use_sparse: bool) -> None:
    """Products with the masks, also from parts of the detector; relative error below 1e-5 of the largest."""

    class Products(UDF):
        def get_task_data(self) -> Any:
            masks = MaskContainer(stack, use_sparse=use_sparse)
            return {"engine": ApplyMasksEngine(masks=masks, meta=self.meta, use_torch=False)}

        def get_result_buffers(self) -> Any:
            dtype = np.result_type(self.meta.input_dtype, np.float32)
            return {"products": self.buffer(kind="nav", extra_shape=(5,), dtype=dtype)}

        def process_tile(self, tile: Any) -> None:
            products = self.task_data.engine.process_tile(tile)
            assert products.dtype == np.result_type(tile.dtype, np.float32)
            self.results.products[:] += products

    data = counts(dtype=dtype)
    reference = expected(data, stack())
    for tileshape in (None, (3, 2, 5)):
        dataset = ctx.load("memory", data=data, sig_dims=2, num_partitions=3, tileshape=tileshape)
        got = ctx.run_udf(dataset=dataset, udf=Products())["products"].data
        np.testing.assert_allclose(got, reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())


class _ByEngine(ApplyMasksUDF):
    """What users derive: they multiply themselves, with what the class has for it."""

    def process_tile(self, tile: Any) -> None:
        self.results.intensity[:] += self.forbuf(self.task_data.engine.process_tile(tile), self.results.intensity)


@pytest.mark.parametrize("backend", ["numpy", "scipy.sparse.csr_matrix"])
@pytest.mark.parametrize("tileshape", [None, (3, 2, 7)])
@pytest.mark.parametrize("use_sparse", [False, True])
def test_classes_that_derive_from_it_have_an_engine(
    ctx: Context, use_sparse: bool, tileshape: Any, backend: str
) -> None:
    data, masks = counts(dtype="u2"), stack()
    dataset = ctx.load("memory", data=data, sig_dims=2, num_partitions=3, tileshape=tileshape)
    for shifts in (None, (2, -1)):
        udf = _ByEngine(mask_factories=lambda: masks, use_sparse=use_sparse, shifts=shifts)
        result = ctx.run_udf(dataset=dataset, udf=udf, backends=backend)["intensity"].data
        reference = expected(data, masks if shifts is None else shifted(masks, *shifts))
        np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("use_sparse", [False, True])
@pytest.mark.parametrize("kind", [ApplyMasksUDF, _ByEngine])
@pytest.mark.parametrize("dtype", ["i8", "u8", "u4", "i1", "b1"])
def test_integers_stay_exact_and_wrap(ctx: Context, dtype: str, kind: Any, use_sparse: bool) -> None:
    """As NumPy's products of integers do; with shifts for all frames, and for each, as without."""
    rng = np.random.default_rng(4)
    of_data = np.dtype("i8" if dtype == "i8" else "u8")
    masks = rng.integers(0, 2, size=(3, *SIG)).astype(dtype)
    if of_data.kind == "u" and masks.dtype.kind == "i":
        of_data = np.dtype("u1")
    limits = np.iinfo(of_data)
    data = rng.integers(limits.min, limits.max, size=(6, 5, *SIG), dtype=of_data, endpoint=True)
    parameters: dict[str, Any] = {"use_sparse": use_sparse, "preferred_dtype": of_data}
    dataset = ctx.load("memory", data=data, sig_dims=2, num_partitions=3, tileshape=(4, 4, 7))
    roi = rng.random((6, 5)) < 0.7
    result_dtype = np.result_type(of_data, dtype)
    per_frame = ApplyMasksUDF.aux_data(np.full((6, 5, 2), (2, -1)), kind="nav", extra_shape=(2,), dtype=int)
    shifts = [None, (2, -1)] if kind is _ByEngine else [None, (2, -1), per_frame]
    for shift in shifts:
        udf = kind(mask_factories=lambda: masks, shifts=shift, **parameters)
        result = ctx.run_udf(dataset=dataset, udf=udf, roi=roi)["intensity"]
        moved = masks if shift is None else shifted(masks, 2, -1)
        reference = np.einsum("nyx,myx->nm", data[roi].astype(result_dtype), moved.astype(result_dtype))
        assert result.dtype == result_dtype
        np.testing.assert_array_equal(result.raw_data, reference)


def test_sums_of_truth_values_are_truth_values(ctx: Context) -> None:
    data = counts(dtype="b1")
    masks = stack(2, "b1")
    for use_sparse in (False, True):
        udf = ApplyMasksUDF(mask_factories=lambda: masks, preferred_dtype=bool, use_sparse=use_sparse)
        result = ctx.run_udf(dataset=load(ctx, data), udf=udf)["intensity"].data
        assert result.dtype == bool
        np.testing.assert_array_equal(result, expected(data, masks) > 0)


def test_wrong_parameters_are_refused(ctx: Context) -> None:
    with pytest.raises(ValueError, match="together with shifts"):
        ApplyMasksUDF(mask_factories=stack, use_sparse="scipy.sparse", shifts=(1, 1))
    with pytest.raises(ValueError, match="two numbers"):
        ApplyMasksUDF(mask_factories=stack, shifts=(1, 2, 3))
    wrong: tuple[Any, ...]
    for wrong in ((np.nan, 0), (1, np.inf), ("1", "2"), (1j, 2)):
        with pytest.raises(ValueError, match="shifts must be finite numbers"):
            ApplyMasksUDF(mask_factories=stack, shifts=wrong)
    ds = load(ctx, counts())
    line = ctx.load("memory", data=np.ones((4, 7)), sig_dims=1)
    each = ApplyMasksUDF.aux_data(np.zeros((4, 2), dtype=int), kind="nav", extra_shape=(2,), dtype=int)
    for shifts in ((1, 1), each):
        with pytest.raises(ValueError, match="masks can be shifted on detectors with two axes"):
            ctx.run_udf(dataset=line, udf=ApplyMasksUDF(mask_factories=lambda: np.ones((3, 7)), shifts=shifts))
    with pytest.raises(ValueError, match="no usable array backend"):
        ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=stack, backends=("sparse.DOK",)))
    with pytest.raises(ValueError, match="do not fit"):
        ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=[lambda: np.ones((3, 3))]))


@pytest.mark.parametrize("told", [{}, {"mask_count": SIG[0], "mask_dtype": "float32"}])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sparse.COO.from_numpy])
def test_a_single_mask_is_no_stack(ctx: Context, told: dict[str, Any], form: Any) -> None:
    """One function that returns one mask: the error says what to write, whenever the masks are made."""
    each = ApplyMasksUDF.aux_data(np.zeros((6, 5, 2), dtype=int), kind="nav", extra_shape=(2,), dtype=int)
    for shifts in (None, (1, 1), each):
        udf = ApplyMasksUDF(mask_factories=lambda: form(np.ones(SIG)), shifts=shifts, **told)
        with pytest.raises(ValueError, match=r"must return a stack of masks, of shape \(n, 8, 7\).*\[function\]"):
            ctx.run_udf(dataset=load(ctx, counts()), udf=udf)


def test_masks_are_made_once_per_run(ctx: Context, tmp_path: Any) -> None:
    log = tmp_path / "made"

    def factory() -> Any:
        with log.open("a") as f:
            f.write("x")
        return np.ones((1, *SIG), dtype="f4")

    ctx.run_udf(dataset=load(ctx, counts()), udf=ApplyMasksUDF(mask_factories=factory))
    assert len(log.read_text()) <= 2  # once where results are declared, once where tasks run


def test_large_factories_are_warned_about_once_per_run(caplog: pytest.LogCaptureFixture) -> None:
    """Not by each worker, whose logging goes to stderr, and from there into the log of the main process."""
    large = np.ones((200, *SIG, 20))
    udf = ApplyMasksUDF(mask_factories=partial(np.mean, large, axis=-1))
    with Context.make_with("pipelined", cpus=2) as context:
        dataset = load(context, counts())
        for _ in range(2):
            context.run_udf(dataset=dataset, udf=udf)
    assert caplog.text.count("sent to every worker") == 2


@pytest.mark.usefixtures("kernels")
def test_real_sparse_masks_treat_real_and_imaginary_parts_apart(ctx: Context) -> None:
    data, masks = counts(dtype="c16"), stack()
    masks[:, 4, 4] = 1
    reference = expected(data, masks)
    data[2, 3, 4, 4] += np.inf
    reference[2, 3] += np.inf
    result = ctx.run_udf(dataset=load(ctx, data), udf=ApplyMasksUDF(lambda: masks, use_sparse=True))["intensity"].data
    np.testing.assert_allclose(result.real, reference.real, rtol=1e-9)
    np.testing.assert_allclose(result.imag, reference.imag, rtol=1e-9)


@pytest.mark.parametrize("shifts", ["none", "all", "each"])
@pytest.mark.parametrize("count", [1, 5])
def test_sums_over_many_pixels_stay_precise_in_single_precision(ctx: Context, count: int, shifts: str) -> None:
    """Where all pixels are alike, each addition to what is summed so far rounds in the same direction."""
    data = np.full((3, 600, 600), 1000.1, dtype="f4")
    masks = np.full((count, 600, 600), 0.1, dtype="f4")
    each = ApplyMasksUDF.aux_data(np.zeros(6), kind="nav", extra_shape=(2,), dtype=float)
    given = {"none": None, "all": (0, 0), "each": each}[shifts]
    result = ctx.run_udf(dataset=load(ctx, data), udf=ApplyMasksUDF(lambda: masks, shifts=given))["intensity"].data
    np.testing.assert_allclose(result, 600**2 * float(data[0, 0, 0]) * float(masks[0, 0, 0]), rtol=1e-5)


@pytest.mark.parametrize("shifts", ["none", "all", "each"])
def test_an_infinite_part_of_a_complex_pixel_leaves_the_other_part(ctx: Context, shifts: str) -> None:
    data = np.full((4, 3, 3), 5 + 1j, dtype="c8")
    data[1, 1, 1], data[2, 0, 0] = complex(5, np.inf), complex(np.nan, 2)
    each = ApplyMasksUDF.aux_data(np.zeros(8), kind="nav", extra_shape=(2,), dtype=float)
    given = {"none": None, "all": (0, 0), "each": each}[shifts]
    udf = ApplyMasksUDF(lambda: np.eye(3, dtype="f4")[np.newaxis], use_sparse=True, shifts=given)
    result = ctx.run_udf(dataset=load(ctx, data), udf=udf)["intensity"].data[:, 0]
    np.testing.assert_array_equal(result, [15 + 3j, complex(15, np.inf), complex(np.nan, 4), 15 + 3j])
