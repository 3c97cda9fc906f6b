"""CoMUDF and its functions against NumPy in double precision, and against fields that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests_helpers import counts
from tilework.api import Context
from tilework.common.masks import circular, ring
from tilework.udf import com as com_module
from tilework.udf.com import CoMParams, CoMUDF, RegressionOptions
from tilework.udf.plan import KERNELS_VARIABLE

DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8", "c8", ">u2", "b1"]


@pytest.fixture(params=["numpy", "numba"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)


@pytest.fixture(scope="module")
def ctx() -> Any:
    with Context.make_with("inline") as context:
        yield context


def load(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=3)


def shifts_of(data: Any, selection: Any, cy: float, cx: float) -> Any:
    data = data.astype(np.result_type(data.dtype, np.float64)) * selection
    y, x = np.mgrid[: selection.shape[0], : selection.shape[1]]
    total = data.sum(axis=(-2, -1))
    return np.stack([(data * c).sum(axis=(-2, -1)) / total - r for c, r in ((y, cy), (x, cx))], axis=-1)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("params", "selection", "center"),
    [
        ({}, np.ones((8, 7), dtype=bool), (4, 3)),
        ({"cy": 3, "cx": 4.5, "r": 2.6}, circular(4.5, 3, 7, 8, 2.6), (3, 4.5)),
        ({"cx": 2, "r": 3, "ri": 1.2}, ring(2, 4, 7, 8, 3, 1.2), (4, 2)),
        ({"r": 3, "ri": None}, circular(3, 4, 7, 8, 3), (4, 3)),
    ],
    ids=["all", "disc", "ring", "disc in the centre"],
)
def test_shifts_are_those_of_numpy(ctx: Context, dtype: str, params: Any, selection: Any, center: Any) -> None:
    data = counts(dtype=dtype)
    result = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(**params))
    reference = shifts_of(data, selection, *center)
    assert result["raw_shifts"].dtype == np.result_type(data.dtype, np.float32)
    np.testing.assert_allclose(result["raw_shifts"].data, reference, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["raw_com"].data, reference + center, rtol=1e-5)
    np.testing.assert_allclose(result["field"].data, reference, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result["field_y"].data, result["field"].data[..., 0])
    np.testing.assert_array_equal(result["field_x"].data, result["field"].data[..., 1])
    y, x = reference[..., 0], reference[..., 1]
    np.testing.assert_allclose(
        result["divergence"].data, np.gradient(y, axis=0) + np.gradient(x, axis=1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        result["curl"].data, np.gradient(y, axis=1) - np.gradient(x, axis=0), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(result["magnitude"].data, np.hypot(abs(y), abs(x)), rtol=1e-4, atol=1e-5)
    assert (result["regression"].data == 0).all()
    assert "raw_mask_result" not in result


def test_frames_without_intensity_have_no_shift_and_missing_ones_are_nan(ctx: Context) -> None:
    data = counts(dtype="f4")
    data[2, 3] = 0
    data[4, 1] = np.nan
    result = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(cy=3, cx=2, r=3, regression=1))
    assert result["raw_shifts"].data[2, 3].tolist() == [0, 0]
    assert result["raw_com"].data[2, 3].tolist() == [3, 2]
    assert np.isnan(result["raw_shifts"].data).sum() == 2
    assert np.isnan(result["field"].data).sum() == 2
    assert np.isfinite(result["regression"].data).all()


def test_regression_removes_descan_in_valid_positions(ctx: Context) -> None:
    data = counts(dtype="f4")
    roi = np.random.default_rng(0).random((6, 5)) < 0.7
    plain = shifts_of(data, np.ones((8, 7)), 4, 3)[roi]
    y, x = np.nonzero(roi)
    design = np.stack([np.ones(len(y)), y, x], axis=1)
    linear = np.linalg.lstsq(design, plain, rcond=None)[0]
    mean = np.zeros((3, 2))
    mean[0] = plain.mean(axis=0)
    given_by_user = np.array([[1, 2], [0.1, 0.2], [0.3, 0.4]])
    for regression, expected in (
        (RegressionOptions.NO_REGRESSION, np.zeros((3, 2))),
        (RegressionOptions.SUBTRACT_MEAN, mean),
        (1, linear),
        (given_by_user, given_by_user),
    ):
        result = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(regression=regression), roi=roi)
        np.testing.assert_allclose(result["regression"].data, expected, atol=1e-6)
        np.testing.assert_allclose(result["field"].raw_data, plain - design @ expected, atol=1e-5)
        np.testing.assert_allclose(result["raw_shifts"].raw_data, plain, atol=1e-5)
        assert np.isnan(result["divergence"].data[~roi]).all()


def test_partial_results_are_quiet_and_right_where_merged(ctx: Context) -> None:
    data = counts(dtype="u2")
    reference = shifts_of(data, np.ones((8, 7)), 4, 3).reshape(30, 2)
    for part in ctx.run_udf_iter(dataset=load(ctx, data), udf=CoMUDF.with_params(regression=0)):
        merged = part.damage.data.reshape(-1)
        field = part.buffers[0]["field"].data.reshape(30, 2)
        np.testing.assert_allclose(field[merged], reference[merged] - reference[merged].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("selected", [None, np.random.default_rng(2).random((6, 5)) < 0.8], ids=["all", "some"])
def test_partial_derivatives_are_taken_between_merged_positions_alone(ctx: Context, selected: Any) -> None:
    data = counts(dtype="u2")
    plain = shifts_of(data, np.ones((8, 7)), 4, 3)
    for part in ctx.run_udf_iter(dataset=load(ctx, data), udf=CoMUDF(), roi=selected):
        merged, (buffers,) = part.damage.data, part.buffers
        known = np.where(merged[..., np.newaxis], plain, np.nan)
        y, x = known[..., 0], known[..., 1]
        for name, expected in (
            ("magnitude", np.hypot(y, x)),
            ("divergence", np.gradient(y, axis=0) + np.gradient(x, axis=1)),
            ("curl", np.gradient(y, axis=1) - np.gradient(x, axis=0)),
        ):
            np.testing.assert_allclose(buffers[name].data[merged], expected[merged], atol=1e-4, err_msg=name)
    assert np.isfinite(buffers["divergence"].data).any()


def test_rotation_and_flip_of_the_field(ctx: Context) -> None:
    data = counts(dtype="f4")
    plain = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF())["raw_shifts"].data
    result = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(scan_rotation=90, flip_y=True))
    # y is flipped, then what pointed along x points along y.
    np.testing.assert_allclose(result["field_y"].data, plain[..., 1], atol=1e-6)
    np.testing.assert_allclose(result["field_x"].data, plain[..., 0], atol=1e-6)


def test_line_scans_have_no_derivative_across_the_line(ctx: Context) -> None:
    result = ctx.run_udf(dataset=load(ctx, counts((1, 9, 8, 7))), udf=CoMUDF())
    assert np.isnan(result["divergence"].data).all()
    assert np.isfinite(result["field"].data).all()


def test_further_results_by_overriding(ctx: Context) -> None:
    class Angle(CoMUDF):
        def get_result_buffers(self) -> Any:
            return {
                **super().get_result_buffers(),
                "angle": self.buffer(kind="nav", dtype="f4", use="result_only"),
            }

        def get_field_results(self, field_y: Any, field_x: Any) -> Any:
            return {**super().get_field_results(field_y, field_x), "angle": np.arctan2(field_y, field_x)}

    roi = np.random.default_rng(0).random((6, 5)) < 0.7
    result = ctx.run_udf(dataset=load(ctx, counts()), udf=Angle.with_params(r=3), roi=roi)
    field = result["field"].data
    np.testing.assert_allclose(result["angle"].data[roi], np.arctan2(field[..., 0], field[..., 1])[roi], rtol=1e-5)


class _WithAngle(CoMUDF):
    def get_result_buffers(self) -> Any:
        return {**super().get_result_buffers(), "angle": self.buffer(kind="nav", dtype="f4", use="result_only")}


class _ByName(_WithAngle):
    def get_field_results(self, *, field_x: Any, field_y: Any) -> Any:  # type: ignore[override]
        base = super().get_field_results(field_x=field_x, field_y=field_y)
        return {**base, "angle": np.arctan2(field_y, field_x)}


class _WithAnyArguments(_WithAngle):
    def get_field_results(self, **fields: Any) -> Any:  # type: ignore[override]
        return {**super().get_field_results(**fields), "angle": np.arctan2(fields["field_y"], fields["field_x"])}


@pytest.mark.parametrize("udf", [_ByName(), _WithAnyArguments()])
def test_components_of_the_field_go_by_name(ctx: Context, udf: CoMUDF) -> None:
    result = ctx.run_udf(dataset=load(ctx, counts()), udf=udf)
    field = result["field"].data
    np.testing.assert_allclose(result["angle"].data, np.arctan2(field[..., 0], field[..., 1]), rtol=1e-5)


class _ByEngine(CoMUDF):
    """Takes frames less a background, with what the class has for its own."""

    def process_tile(self, tile: Any) -> None:
        assert (self.task_data.com_params.cy, self.task_data.com_params.r) == (4, 2.5)
        self.results.raw_mask_result[:] += self.task_data.engine.process_tile(tile - 1)


@pytest.mark.parametrize("ri", [0, 1.2])
def test_classes_that_derive_from_it_have_an_engine(ctx: Context, ri: float) -> None:
    data = counts()
    result = ctx.run_udf(dataset=load(ctx, data), udf=_ByEngine.with_params(r=2.5, ri=ri))
    less = ctx.run_udf(dataset=load(ctx, data.astype("f4") - 1), udf=CoMUDF.with_params(r=2.5, ri=ri))
    np.testing.assert_allclose(result["raw_shifts"].data, less["raw_shifts"].data, rtol=1e-4, atol=1e-5)


class _Tilted(CoMUDF):
    def __init__(self, tilt: float = 0, **parameters: Any) -> None:
        super().__init__(**parameters)


def test_classes_that_derive_from_it_may_have_parameters_of_their_own(ctx: Context) -> None:
    data = counts()
    expected = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(cy=3, cx=2))["raw_shifts"].data
    shifts = ctx.run_udf(dataset=load(ctx, data), udf=_Tilted.with_params(cy=3, cx=2))["raw_shifts"].data
    np.testing.assert_array_equal(shifts, expected)


def test_single_parameters_are_for_with_params() -> None:
    """What most people write first says what to write."""
    with pytest.raises(TypeError, match=r"CoMUDF\.with_params\(cy=…, r=…\), on the command line --udf com"):
        CoMUDF(cy=3, r=4)


def test_wrong_parameters_are_refused(ctx: Context) -> None:
    for r, ri in ((3, 3), (2, 3)):
        with pytest.raises(ValueError, match="inner radius"):
            CoMUDF.with_params(r=r, ri=ri)
    with pytest.raises(ValueError, match="SUBTRACT_LINEAR"):
        CoMUDF.with_params(regression=7)
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        CoMUDF(CoMParams(regression=np.zeros((2, 2))))
    wrong: tuple[tuple[str, Any], ...] = (
        *(
            (name, value)
            for name in ("cy", "cx", "scan_rotation")
            for value in ("3", math.nan, math.inf, 1j, [3], True)
        ),
        *((name, value) for name in ("r", "ri") for value in ("3", math.nan, 1j, [3])),
        ("scan_rotation", None),
        ("r", None),
        *(("flip_y", value) for value in ("no", 2, None, [0], math.nan)),
    )
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"^{name} must be"):
            CoMUDF.with_params(**{name: value})
    for value in (True, np.False_, 0, np.uint8(1)):
        CoMUDF.with_params(cy=np.float32(3), cx=3, r=np.int64(5), ri=None, scan_rotation=90, flip_y=value)  # type: ignore[arg-type]
    ds = ctx.load("memory", data=counts((30, 8, 7)), sig_dims=2)
    with pytest.raises(ValueError, match="two axes"):
        ctx.run_udf(dataset=ds, udf=CoMUDF())


# -- functions


def test_masks_for_own_analyses() -> None:
    disc, times_y, times_x = com_module.com_masks_factory(6, 8, cy=2, cx=3, r=2)
    selection = circular(3, 2, 8, 6, 2)
    y, x = np.mgrid[:6, :8]
    np.testing.assert_array_equal(disc(), selection)
    np.testing.assert_array_equal(times_y(), selection * y)
    np.testing.assert_array_equal(times_x(), selection * x)
    assert times_y().dtype == np.float32
    base, base_y, _ = com_module.com_masks_generic(6, 8, lambda: np.full((6, 8), 2.0))
    np.testing.assert_array_equal(base_y(), base() * y)


@given(angle=st.floats(-400, 400), flip=st.booleans(), y=st.floats(-5, 5), x=st.floats(-5, 5))
def test_corrections_keep_lengths_and_can_be_undone(angle: float, flip: bool, y: float, x: float) -> None:
    there = com_module.apply_correction(np.array([y]), np.array([x]), angle, flip)
    back = com_module.apply_correction(there[0], there[1], angle, flip, forward=False)
    np.testing.assert_allclose(np.hypot(*there), math.hypot(y, x), atol=1e-12)
    np.testing.assert_allclose(np.concatenate(back), [y, x], atol=1e-12)


def test_directions_of_corrections() -> None:
    one, zero = np.ones(1), np.zeros(1)
    np.testing.assert_allclose(com_module.apply_correction(zero, one, 90, False), [[1], [0]], atol=1e-12)
    np.testing.assert_allclose(com_module.apply_correction(one, zero, 90, False), [[0], [-1]], atol=1e-12)
    np.testing.assert_allclose(com_module.apply_correction(one, zero, 0, True), [[-1], [0]], atol=1e-12)


def test_derivatives_of_known_fields() -> None:
    y, x = np.mgrid[:5, :6] * 1.0
    np.testing.assert_allclose(com_module.divergence(2 * y, 3 * x), 5)
    np.testing.assert_allclose(com_module.curl_2d(2 * x, 3 * y), -1)
    np.testing.assert_allclose(com_module.magnitude(3 + 0 * y, 4 + 0 * y), 5)


def atoms(rows: int = 40, columns: int = 44) -> Any:
    """Return a field without curl that points to a few narrow places, as the beam is deflected towards atoms."""
    y, x = np.mgrid[:rows, :columns] * 1.0
    field_y, field_x = np.zeros_like(y), np.zeros_like(x)
    for ay in range(6, rows, 14):
        for ax in range(6, columns, 14):
            weight = np.exp(-((y - ay) ** 2 + (x - ax) ** 2) / 8)
            field_y -= (y - ay) * weight
            field_x -= (x - ax) * weight
    return field_y, field_x


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0, 1, 37, 90, 180, -179, -90, -123])
def test_corrections_are_guessed_right(angle: int, flip: bool) -> None:
    y, x = atoms()
    seen = com_module.apply_correction(y, x, angle, flip, forward=False)
    guess = com_module.guess_corrections(seen[0] + 0.3, seen[1] - 0.2)
    assert guess.flip_y is flip
    assert (guess.scan_rotation - angle) % 360 in (0, 1, 359)
    assert -180 < guess.scan_rotation <= 180
    inner = (slice(0, -1), slice(0, -1))
    np.testing.assert_allclose([guess.cy, guess.cx], [seen[0][inner].mean() + 0.3, seen[1][inner].mean() - 0.2])


def test_the_curl_is_checked_for_all_angles() -> None:
    y, x = atoms()
    straight, flipped = com_module.coordinate_check(y, x)
    assert straight.shape == flipped.shape == (360,)
    for angle in (0, 50, 200):
        for curve, flip in ((straight, False), (flipped, True)):
            curl = com_module.curl_2d(*com_module.apply_correction(y, x, angle, flip))[:-1, :-1]
            np.testing.assert_allclose(curve[angle], np.sqrt(np.mean(curl**2)), rtol=1e-9)
    roi = np.zeros(y.shape, dtype=bool)
    roi[5:20, 6:30] = True
    np.testing.assert_allclose(
        com_module.coordinate_check(y, x, roi)[0],
        com_module.coordinate_check(y, x, (slice(5, 20), slice(6, 30)))[0],
    )
    holes = y.copy()
    holes[3, 3] = np.nan
    assert np.isfinite(com_module.coordinate_check(holes, x)[0]).all()
    assert com_module.guess_corrections(holes, x).scan_rotation == com_module.guess_corrections(y, x).scan_rotation


def test_nothing_can_be_guessed_from_a_line() -> None:
    with pytest.raises(ValueError, match="derivative"):
        com_module.guess_corrections(np.ones((1, 5)), np.ones((1, 5)))
    uniform = com_module.guess_corrections(np.ones((5, 5)), np.zeros((5, 5)))
    assert uniform.scan_rotation == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("params", [{"r": 3}, {"r": 3, "ri": 1.5}], ids=["disc", "ring"])
@pytest.mark.parametrize("kind", ["c8", "c16", "COO", "GCXS", "DOK"])
def test_pixels_that_are_not_selected_do_not_count_even_if_they_are_nan(ctx: Context, kind: str, params: Any) -> None:
    sparse = pytest.importorskip("sparse")
    data = counts(dtype="f8" if kind.isupper() else kind)
    expected = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(**params))["raw_shifts"].data
    data[1, 1, 0, 0], data[2, 0, -1, -1] = np.nan, np.inf
    data[0, 1, 4, 3 if "ri" not in params else 1] = np.nan  # this one is selected
    dataset = load(ctx, getattr(sparse, kind).from_numpy(data) if kind.isupper() else data)
    shifts = ctx.run_udf(dataset=dataset, udf=CoMUDF.with_params(**params))["raw_shifts"].data
    assert np.isnan(shifts[0, 1]).all()
    shifts[0, 1] = expected[0, 1]
    np.testing.assert_allclose(shifts, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_a_selected_pixel_that_is_infinite_leaves_no_centre(ctx: Context, dtype: str) -> None:
    data = counts(dtype=dtype)
    data[0, 0, 0, 0] = np.inf
    shifts = ctx.run_udf(dataset=load(ctx, data), udf=CoMUDF.with_params(cy=0, cx=0, r=2))["raw_shifts"].data
    assert np.isnan(shifts[0, 0]).all()
    assert np.isfinite(shifts[0, 1:]).all()
