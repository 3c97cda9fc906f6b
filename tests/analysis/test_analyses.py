"""Analyses: their numbers against NumPy, names, pictures, parameters, selected positions, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import importlib
import itertools
import pickle
import re
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests_helpers import counts
from tilework.analysis import (
    Analysis,
    AnalysisResult,
    AnalysisResultSet,
    ApplyFFTMask,
    BaseAnalysis,
    ClusterAnalysis,
    COMAnalysis,
    FEMAnalysis,
    MasksAnalysis,
    PickFFTFrameAnalysis,
    RingMaskAnalysis,
    SDAnalysis,
    SumAnalysis,
    SumfftAnalysis,
    SumSigAnalysis,
)
from tilework.analysis.results import complex_results, real_result
from tilework.api import Context
from tilework.exceptions import JobCancelledError, TileworkError
from tilework.udf.crystallinity import CrystallinityUDF
from tilework.udf.sumsigudf import SumSigUDF
from tilework.viz.colors import NEUTRAL

if TYPE_CHECKING:
    from collections.abc import Iterator


COMPLEX = ("", "_log", "_real", "_imag", "_angle", "_complex")


def is_grey(colors: Any) -> bool:
    """Whether all are the colour of what is not there, however it was rounded."""
    return bool((abs(colors[..., :3] - np.array(NEUTRAL) * 255) < 1).all())


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.fixture(scope="module")
def data() -> Any:
    return counts((6, 5, 12, 10))


@pytest.fixture(scope="module")
def dataset(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=4)


@pytest.fixture(scope="module")
def complex_dataset(ctx: Context) -> Any:
    return ctx.load("memory", data=counts((6, 5, 12, 10), "c8"), sig_dims=2, num_partitions=4)


def distance(cy: float, cx: float) -> Any:
    y, x = np.ogrid[:12, :10]
    return np.hypot(y - cy, x - cx)


# -- numbers


def test_virtual_detectors(ctx: Context, dataset: Any, data: Any) -> None:
    """Disk, ring and point are sums over these pixels; by default in the middle of the detector."""
    for analysis, selected in (
        (ctx.create_disk_analysis(dataset), distance(6, 5) <= 1.5),
        (ctx.create_disk_analysis(dataset, cx=3, cy=7, r=2.5), distance(7, 3) <= 2.5),
        (ctx.create_ring_analysis(dataset), (distance(6, 5) <= 5) & (distance(6, 5) > 4)),
        (
            ctx.create_ring_analysis(dataset, cx=3, cy=7, ri=1, ro=4),
            (distance(7, 3) <= 4) & (distance(7, 3) > 1),
        ),
        (ctx.create_ring_analysis(dataset, ro=3), (distance(6, 5) <= 3) & (distance(6, 5) > 2.4)),
        (ctx.create_point_analysis(dataset), distance(6, 5) == 0),
        (ctx.create_point_analysis(dataset, x=2.9, y=4), distance(4, 2) == 0),
    ):
        result = ctx.run(analysis)
        assert result.keys() == ["intensity", "intensity_log"]
        np.testing.assert_allclose(result.intensity.raw_data, data[..., selected].sum(axis=-1), rtol=1e-6)


def test_masks(ctx: Context, dataset: Any, complex_dataset: Any, data: Any) -> None:
    masks = np.random.default_rng(3).random((2, 12, 10))
    factories = [lambda: masks[0], lambda: masks[1]]
    result = ctx.run(ctx.create_mask_analysis(factories, dataset))
    assert result.keys() == ["mask_0", "mask_1"]
    np.testing.assert_allclose(result[1].raw_data, np.einsum("abij,ij->ab", data, masks[1]), rtol=1e-6)
    computed = ctx.run(ctx.create_mask_analysis(lambda: masks.astype("f4"), dataset, mask_count=2, mask_dtype="f4"))
    assert computed.mask_0.raw_data.dtype == np.float32
    wider = ctx.run(ctx.create_mask_analysis(lambda: masks.astype("f4"), dataset, dtype="f8"))
    assert wider.mask_0.raw_data.dtype == np.float64
    result = ctx.run(ctx.create_mask_analysis(factories, complex_dataset))
    assert result.keys() == [f"mask_{i}{end}" for i in range(2) for end in COMPLEX]


def test_complex_data_as_parts(ctx: Context, complex_dataset: Any) -> None:
    """The parts of complex results make up the results."""
    result = ctx.run(ctx.create_disk_analysis(complex_dataset))
    assert result.keys() == [f"intensity{end}" for end in COMPLEX]
    values = result.intensity_complex.raw_data
    np.testing.assert_array_equal(result.intensity_real.raw_data + 1j * result.intensity_imag.raw_data, values)
    polar = result.intensity.raw_data * np.exp(1j * result.intensity_angle.raw_data)
    np.testing.assert_allclose(polar, values, rtol=1e-5)
    assert result.intensity_complex.visualized.shape == (6, 5, 3)
    frame = ctx.run(ctx.create_pick_analysis(complex_dataset, x=1, y=2))
    assert set(frame.keys()) == {f"intensity{end}" for end in ("", "_lin", *COMPLEX[2:])}
    with_parts = ctx.run(ctx.create_com_analysis(complex_dataset))
    assert with_parts.keys() == ["x_real", "y_real", "x_imag", "y_imag"]


def test_centre_of_mass(ctx: Context, dataset: Any, data: Any) -> None:
    """Relative to the centre, rotated and flipped; derivatives only where there are two rows and columns."""
    weights = data * (distance(6, 5) <= 4)
    y, x = (np.sum(weights * c, axis=(2, 3)) / weights.sum(axis=(2, 3)) for c in np.mgrid[:12, :10])
    result = ctx.run(ctx.create_com_analysis(dataset, mask_radius=4))
    assert result.keys() == ["field", "magnitude", "divergence", "curl", "x", "y"]
    np.testing.assert_allclose(result.y.raw_data, y - 6, atol=1e-6)
    np.testing.assert_allclose(result.x.raw_data, x - 5, atol=1e-6)
    assert result.field.raw_data[0] is result.x.raw_data
    np.testing.assert_allclose(result.magnitude.raw_data, np.hypot(y - 6, x - 5), atol=1e-6)
    np.testing.assert_allclose(result.curl.raw_data, np.gradient(y, axis=1) - np.gradient(x, axis=0), atol=1e-6)
    turned = ctx.run(ctx.create_com_analysis(dataset, mask_radius=4, scan_rotation=90, flip_y=True))
    np.testing.assert_allclose(turned.x.raw_data, y - 6, atol=1e-6)
    np.testing.assert_allclose(turned.y.raw_data, x - 5, atol=1e-6)
    line = ctx.load("memory", data=data.reshape(1, 30, 12, 10), sig_dims=2)
    assert ctx.run(ctx.create_com_analysis(line)).keys() == ["field", "magnitude", "x", "y"]
    ring = ctx.run(ctx.create_com_analysis(dataset, mask_radius=4, mask_radius_inner=2, cx=4, cy=4))
    weights = data * ((distance(4, 4) <= 4) & (distance(4, 4) > 2))
    expected = np.sum(weights * np.mgrid[:12, :10][0], axis=(2, 3)) / weights.sum(axis=(2, 3)) - 4
    np.testing.assert_allclose(ring.y.raw_data, expected, atol=1e-6)


def test_guessed_parameters_make_the_field_free_of_curl(ctx: Context) -> None:
    """What a turned, flipped potential gives is turned and flipped back."""
    y, x = np.mgrid[:12, :14]
    potential = np.exp(-((y - 5) ** 2 + (x - 6) ** 2) / 9)
    field = np.stack(np.gradient(potential)) * 30
    data = np.zeros((12, 14, 3, 3), dtype=np.float32)
    # A frame of four bright pixels whose centre of mass is the field, turned.
    data[..., 1, 1], data[..., 0, 1], data[..., 1, 0] = 200, 10, 10
    data[..., 2, 1], data[..., 1, 2] = 10 + field[1], 10 - field[0]
    dataset = ctx.load("memory", data=data, sig_dims=2)
    analysis = COMAnalysis(dataset, {"cx": 1, "cy": 1})
    guess = analysis.get_rpc_definitions()["guess_parameters"](ctx.run_udf(dataset=dataset, udf=analysis.get_udf()))
    before, after = ctx.run(analysis), ctx.run(COMAnalysis(dataset, guess))
    assert abs(after.curl.raw_data[:-1, :-1]).mean() < 0.1 * abs(before.curl.raw_data[:-1, :-1]).mean()


def test_radial_fourier_finds_the_symmetry(ctx: Context) -> None:
    """Rings with four and six maxima, and one with none."""
    y, x = np.mgrid[:48, :48] - 24
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    symmetries = np.array([[4, 6], [0, 4]])
    frames = 10 + (symmetries[..., None, None] > 0) * 9 * np.cos(symmetries[..., None, None] * angle + 0.3)
    dataset = ctx.load("memory", data=np.where(radius < 20, frames, 0).astype(np.float32), sig_dims=2)
    for use_sparse in (None, False, "scipy.sparse"):
        analysis = ctx.create_radial_fourier_analysis(
            dataset, ri=5, ro=18, n_bins=2, max_order=8, use_sparse=use_sparse
        )
        result = ctx.run(analysis)
        assert result.raw_results.shape == (2, 9, 2, 2)
        for b in range(2):
            np.testing.assert_array_equal(result[f"dominant_{b}"].raw_data, symmetries)
        np.testing.assert_allclose(np.abs(result.complex_1_4.raw_data[0, 0]), 0.45, rtol=0.02)
        np.testing.assert_array_equal(result.absolute_1_4.raw_data, np.abs(result.raw_results[1, 4]))
        np.testing.assert_allclose(np.abs(result.phase_1_4.raw_data[0, 0]), 0.3, atol=0.02)
        assert len(result) == 2 * (1 + 3 * 9)


def test_when_radial_fourier_is_sparse(ctx: Context) -> None:
    """Small stacks are dense; of large ones, those with few, wide rings."""
    dataset = ctx.load("memory", data=np.zeros((1, 1, 64, 64), dtype=np.uint8), sig_dims=2)
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"n_bins": 1}, False),
        ({"n_bins": 10}, "scipy.sparse"),
        ({"ro": 5, "max_order": 0}, False),
        ({"ro": 5}, "scipy.sparse"),
        ({"ro": 5, "use_sparse": False}, False),
    ]
    for params, sparse in cases:
        assert ctx.create_radial_fourier_analysis(dataset, **params).parameters["use_sparse"] == sparse


def test_sums_and_deviations(ctx: Context, dataset: Any, data: Any) -> None:
    total = ctx.run(ctx.create_sum_analysis(dataset))
    assert total.keys() == ["intensity", "intensity_lin"]
    np.testing.assert_array_equal(total.intensity.raw_data, data.sum(axis=(0, 1)))
    deviation = ctx.run(SDAnalysis(dataset, {}))
    np.testing.assert_allclose(deviation.intensity_lin.raw_data, data.std(axis=(0, 1)), rtol=1e-10)
    sums = ctx.run(SumSigAnalysis(dataset, {}))
    np.testing.assert_array_equal(sums.intensity.raw_data, data.sum(axis=(2, 3)))
    ring = ctx.run(FEMAnalysis(dataset, {"cx": 4, "cy": 6, "ri": 1, "ro": 4}))
    selected = (distance(6, 4) <= 4) & (distance(6, 4) > 1)
    np.testing.assert_allclose(ring.intensity.raw_data, data[..., selected].std(axis=-1), rtol=1e-5)


def test_frames_and_their_transforms(ctx: Context, dataset: Any, data: Any) -> None:
    """A frame as it is; its transform with the central beam masked out."""
    frame = ctx.run(ctx.create_pick_analysis(dataset, x=1, y=2))
    np.testing.assert_array_equal(frame.intensity.raw_data, data[2, 1])
    assert frame.intensity.raw_data.dtype == data.dtype
    disc = {"real_rad": 2, "real_centerx": 5, "real_centery": 6}
    expected = np.abs(np.fft.fftshift(np.fft.fft2(data[2, 1] * (distance(6, 5) > 2))))
    transform = ctx.run(PickFFTFrameAnalysis(dataset, {"x": 1, "y": 2, **disc}))
    np.testing.assert_allclose(transform.intensity.raw_data, expected, rtol=1e-10, atol=1e-9)
    total = ctx.run(SumfftAnalysis(dataset, disc))
    np.testing.assert_array_equal(total.intensity.raw_data, data.sum(axis=(0, 1)))
    assert (total.intensity.visualized != ctx.run(SumfftAnalysis(dataset, {})).intensity.visualized).any()
    volume = ctx.load("memory", data=data.reshape(2, 3, 5, 12, 10), sig_dims=2)
    np.testing.assert_array_equal(
        ctx.run(ctx.create_pick_analysis(volume, x=3, y=2, z=1)).intensity.raw_data,
        data.reshape(2, 3, 5, 12, 10)[1, 2, 3],
    )


@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_transforms_do_not_see_what_the_disc_hides(ctx: Context, data: Any, dtype: str) -> None:
    """The disc is set to 0, whatever is in it; the transform is in double precision."""
    frames = data.astype(dtype)
    hidden = distance(6, 5) <= 2
    expected = np.fft.fftshift(np.fft.fft2(np.where(hidden, 0, frames[2, 1]).astype("c16")))
    frames[..., 6, 4], frames[..., 7, 5] = np.nan, np.inf
    dataset = ctx.load("memory", data=frames, sig_dims=2)
    disc = {"real_rad": 2, "real_centerx": 5, "real_centery": 6}
    magnitude = ctx.run(PickFFTFrameAnalysis(dataset, {"x": 1, "y": 2, **disc}))[0].raw_data
    np.testing.assert_allclose(magnitude, np.abs(expected), rtol=1e-10, atol=1e-9)
    assert magnitude.dtype == np.float64


def test_clusters(ctx: Context) -> None:
    """Two grains with reflections at different places are told apart, in whatever part is selected."""
    rng = np.random.default_rng(0)
    data = rng.poisson(4, (8, 9, 24, 24))
    data[..., 11:14, 11:14] += 200
    data[:, :4, 5, 7] += 60
    data[:, 4:, 17, 15] += 60
    dataset = ctx.load("memory", data=data.astype(np.uint16), sig_dims=2)
    analysis = ClusterAnalysis(dataset, {"ri": 4, "n_peaks": 2, "n_clust": 2})
    labels = ctx.run(analysis).intensity.raw_data
    assert labels.dtype == np.int64
    assert len(np.unique(labels[:, :4])) == len(np.unique(labels[:, 4:])) == 1
    assert set(np.unique(labels)) == {1, 2}
    roi = np.zeros((8, 9), dtype=bool)
    roi[2:6, 1:8] = True
    result = ctx.run(analysis, roi=roi).intensity
    assert (result.raw_data[~roi] == 0).all()
    assert is_grey(result.visualized[~roi])
    assert len(np.unique(result.raw_data[2:6, 1:4])) == len(np.unique(result.raw_data[2:6, 4:8])) == 1
    with pytest.raises(ValueError, match="no peak"):
        ctx.run(ClusterAnalysis(dataset, {"cx": 500, "cy": 500, "ri": 1, "ro": 2}))
    with pytest.raises(ValueError, match="between 1 and 72"):
        ctx.run(ClusterAnalysis(dataset, {"ri": 4, "n_clust": 100}))
    for few in (np.zeros((8, 9), dtype=bool), (1, 1)):
        with pytest.raises(ValueError, match="two or more selected positions with a frame, there are"):
            ctx.run(analysis, roi=few)
    late = ctx.load("memory", data=data.reshape(72, 24, 24), nav_shape=(8, 9), sig_dims=2, sync_offset=-9)
    result = ctx.run(analysis.__class__(late, analysis.parameters)).intensity
    assert (result.raw_data[0] == 0).all()
    assert is_grey(result.visualized[0])
    assert len(np.unique(result.raw_data[1:, :4])) == len(np.unique(result.raw_data[1:, 4:])) == 1
    assert set(np.unique(result.raw_data[1:])) == {1, 2}
    below = np.ones((8, 9), dtype=bool)
    below[6:] = False
    assert late.absent_frames is not None
    np.testing.assert_array_equal(
        ctx.run(ClusterAnalysis(late, analysis.parameters), roi=below)[0].raw_data > 0, below & ~late.absent_frames
    )


def test_clusters_are_made_of_single_pixels_off_the_border(ctx: Context) -> None:
    """Of their values, also negative ones, relative to their mean size: noise is clustered as by hand."""
    cluster: Any = importlib.import_module("sklearn.cluster")
    image: Any = importlib.import_module("sklearn.feature_extraction.image")
    data = np.random.default_rng(3).normal(0.5, 1, (7, 8, 9, 9))
    peaks = [(2, 2), (2, 6), (6, 4)]
    for size, (y, x) in enumerate([*peaks, (0, 4), (4, 8)], start=6):
        data[:, :, y, x] *= size  # those on the border vary most
    dataset = ctx.load("memory", data=data, sig_dims=2)
    params = {"ri": 0, "ro": 20, "n_peaks": 3, "min_dist": 1, "n_clust": 5}
    found = ctx.run(ClusterAnalysis(dataset, params)).intensity.raw_data
    values = np.stack([data[:, :, y, x].ravel() for y, x in peaks], axis=1)
    made = cluster.AgglomerativeClustering(5, linkage="ward", connectivity=image.grid_to_graph(7, 8))
    expected = made.fit_predict(values / np.abs(values).mean(axis=0)).reshape(7, 8)
    pairs = {(int(a), int(b)) for a, b in zip(found.ravel(), expected.ravel(), strict=True)}
    assert len(pairs) == 5
    assert set(np.unique(found)) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clusters_next_to_bad_pixels(ctx: Context, bad: float) -> None:
    """Pixels that are not finite are no peaks, and others are found as without them; where all are, that is said."""
    data = np.random.default_rng(0).poisson(5, (6, 8, 16, 16)).astype(np.float32)
    data[:, :4, 8, 3] += 100
    data[:, 4:, 3, 8] += 100
    params = {"n_peaks": 2, "n_clust": 2}
    expected = ctx.run(ClusterAnalysis(ctx.load("memory", data=data, sig_dims=2), params)).intensity.raw_data
    data[..., 6, 6] = bad
    data[2, 3, 11, 11] = bad
    found = ctx.run(ClusterAnalysis(ctx.load("memory", data=data, sig_dims=2), params)).intensity.raw_data
    np.testing.assert_array_equal(found, expected)
    data[2, 3] = bad
    dataset = ctx.load("memory", data=data, sig_dims=2)
    with pytest.raises(ValueError, match=r"NaN or infinite in one or more of the frames: .* roi, .* excluded_pixels"):
        ctx.run(ClusterAnalysis(dataset, params))
    roi = np.ones((6, 8), dtype=bool)
    roi[2, 3] = False
    assert ctx.run(ClusterAnalysis(dataset, params), roi=roi).intensity.raw_data.max() == 2


def test_clusters_without_the_extra(ctx: Context, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(TileworkError, match=r"pip install 'tilework\[analysis\]'"):
        ctx.run(ClusterAnalysis(dataset, {}))


# -- pictures


def test_pictures_are_drawn_when_they_are_looked_at() -> None:
    drawn = []

    def draw() -> Any:
        drawn.append(1)
        return np.zeros((2, 3, 4), dtype=np.uint8)

    results = AnalysisResultSet(lambda: [type(real_result(np.ones(2), "", "", ""))(1.0, draw, "t", "d", "one")])
    assert not drawn
    assert results.one.title == "t"
    assert not drawn
    with Image.open(results.one.get_image()) as image:
        assert image.format == "PNG"
        assert image.size == (3, 2)
    with Image.open(results.one.get_image({"format": "tiff"})) as image:
        assert image.format == "TIFF"
    assert len(drawn) == 1


def test_result_set_access(ctx: Context, dataset: Any) -> None:
    result = ctx.run(ctx.create_disk_analysis(dataset))
    assert result["intensity"] is result.intensity is result[0]
    assert [r.key for r in result] == result.keys()
    assert len(result) == 2
    assert result.raw_results is None
    np.testing.assert_array_equal(np.array(result.intensity), result.intensity.raw_data)
    for kind in AttributeError, KeyError:  # the former also of an item, as in LiberTEM
        with pytest.raises(kind, match=r"^there is no result 'nothing': there are intensity, intensity_log$"):
            _ = result.nothing
        with pytest.raises(kind, match=r"^there is no result 'nothing': there are intensity, intensity_log$"):
            _ = result["nothing"]
    assert not hasattr(result, "__deepcopy__")


def test_results_go_through_pickle_with_their_pictures(ctx: Context, dataset: Any, complex_dataset: Any) -> None:
    jobs = [
        SumAnalysis(dataset, {}),
        ctx.create_com_analysis(dataset),
        ctx.create_radial_fourier_analysis(dataset, n_bins=1, max_order=1),
        SumfftAnalysis(dataset, {"real_rad": 1, "real_centery": 3, "real_centerx": 3}),
        ctx.create_disk_analysis(complex_dataset),
        SumSigAnalysis(complex_dataset, {}),
    ]
    for job in jobs:
        result = ctx.run(job)
        again = pickle.loads(pickle.dumps(result))
        assert again.keys() == result.keys()
        for one, other in zip(again, result, strict=True):
            np.testing.assert_array_equal(one.raw_data, other.raw_data)
            np.testing.assert_array_equal(one.visualized, other.visualized)


def test_what_is_not_selected_is_grey(ctx: Context, dataset: Any, data: Any) -> None:
    """Results and pictures have the shape of the scan; colours are those of the selected positions."""
    roi = np.zeros((6, 5), dtype=bool)
    roi[2:5, 1:4] = True
    for analysis in (
        ctx.create_disk_analysis(dataset),
        ctx.create_com_analysis(dataset),
        ctx.create_radial_fourier_analysis(dataset, max_order=2),
        SumSigAnalysis(dataset, {}),
    ):
        for result in ctx.run(analysis, roi=roi):
            assert is_grey(result.visualized[~roi]), (type(analysis), result.key)
    part = ctx.run(SumSigAnalysis(dataset, {}), roi=roi).intensity
    assert np.isnan(part.raw_data[~roi]).all()
    alone = ctx.load("memory", data=np.ascontiguousarray(data[2:5, 1:4]), sig_dims=2)
    np.testing.assert_array_equal(part.visualized[2:5, 1:4], ctx.run(SumSigAnalysis(alone, {})).intensity.visualized)


def test_what_is_absent_is_grey(ctx: Context, data: Any) -> None:
    """As what is not selected, also where the numbers are integers; in the background, too."""
    dataset = ctx.load("memory", data=data.reshape(30, 12, 10), nav_shape=(6, 5), sig_dims=2, sync_offset=-2)
    absent = np.zeros((6, 5), dtype=bool)
    absent[0, :2] = True
    roi = np.zeros((6, 5), dtype=bool)
    roi[:3, 1:] = True
    analyses: tuple[Any, ...] = (
        ctx.create_disk_analysis(dataset),
        ctx.create_com_analysis(dataset),
        ctx.create_radial_fourier_analysis(dataset, max_order=2),
    )
    for analysis, selected in itertools.product(analyses, (None, roi)):
        shown = ~absent if selected is None else roi & ~absent
        for result in ctx.run(analysis, roi=selected):
            assert is_grey(result.visualized[~shown]), (type(analysis), result.key)
            assert not is_grey(result.visualized[shown])
    assert is_grey(ctx.run(ctx.create_sum_analysis(dataset), roi=absent).intensity.visualized)
    sent: list[Any] = []

    async def send(results: Any, finished: bool) -> None:
        sent.append(results)

    asyncio.run(analyses[2].controller("job", ctx.executor.ensure_async(), lambda: False, send))
    assert is_grey(sent[0].dominant_0.visualized[absent])


def shown_as(result: Any) -> str:
    """Return what a notebook shows."""
    return str(result._repr_html_())


def test_printed_and_in_a_notebook(ctx: Context, dataset: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result says what it holds, and shows its picture; a set shows those of its results, but not of hundreds."""
    summed = data.sum(axis=(0, 1))
    result = ctx.run(ctx.create_sum_analysis(dataset))
    assert str(result.intensity) == (
        "title: intensity [log]\ndesc: sum of frames log-scaled\nkey: intensity\n"
        f"raw_data: <ndarray of shape (12, 10), float32>, from {summed.min()} to {summed.max()}"
    )
    html = shown_as(result.intensity)
    assert "intensity: intensity [log]<br>sum of frames log-scaled<br>&lt;ndarray of shape (12, 10)" in html
    assert "width: 213px; height: 256px" in html
    file = base64.b64decode(re.findall('base64,([^"]*)"', html)[0])
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(file))), result.intensity.visualized)
    assert shown_as(result).count("<img") == 2
    many = ctx.run(ctx.create_radial_fourier_analysis(dataset, n_bins=3, max_order=4))
    assert shown_as(many).count("<img") == 12
    assert f"and {len(many) - 12} more" in shown_as(many)
    field = ctx.run(ctx.create_com_analysis(dataset)).field
    assert "raw_data: (<ndarray of shape (6, 5), float" in str(field)
    line = ctx.run(ctx.create_disk_analysis(ctx.load("memory", data=data.reshape(30, 12, 10), sig_dims=2))).intensity
    assert "width: 256px; height: 16px" in shown_as(line)
    np.testing.assert_array_equal(np.asarray(Image.open(line.get_image())), line.visualized[np.newaxis])
    volume = ctx.load("memory", data=data.reshape(2, 3, 5, 12, 10), sig_dims=2)
    assert ctx.run(ctx.create_disk_analysis(volume))._repr_html_() is None
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert result._repr_html_() is None


def test_what_is_masked_is_grey_and_no_part_of_the_range() -> None:
    """Masked arrays say where a result is valid."""
    values = np.ma.masked_greater(np.arange(20.0).reshape(4, 5), 11)
    results = [
        real_result(values, "t", "d", "real"),
        real_result(values, "t", "d", "real", np.ones((4, 5), bool), logarithmic=True),
        *complex_results(values * (1 + 1j), "complex", "t", "d"),
    ]
    for result in results:
        grey = [[is_grey(color) for color in row] for row in result.visualized]
        np.testing.assert_array_equal(grey, values.mask, err_msg=result.key)
    assert str(results[0]).endswith("float64>, from 0 to 11")


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8)])
def test_what_is_no_picture_is_not_shown_in_a_notebook(picture: Any) -> None:
    assert AnalysisResult(np.zeros((8, 8)), picture, "t", "d", "k")._repr_html_() is None


def test_frames_that_are_absent(ctx: Context, data: Any) -> None:
    """Their pictures are grey, what is computed from them is NaN, and the description says why."""
    dataset = ctx.load("memory", data=data.reshape(30, 12, 10), nav_shape=(6, 5), sig_dims=2, sync_offset=-2)
    for result in ctx.run(ctx.create_pick_analysis(dataset, x=1, y=0)):
        assert result.raw_data.dtype == data.dtype
        assert is_grey(result.visualized)
        assert "the source has no frame at x=1 y=0" in result.desc
    transform = ctx.run(PickFFTFrameAnalysis(dataset, {"x": 1, "y": 0})).intensity
    assert np.isnan(transform.raw_data).all()
    assert is_grey(transform.visualized)
    np.testing.assert_array_equal(ctx.run(ctx.create_pick_analysis(dataset, x=2, y=0))[0].raw_data, data[0, 0])


def test_roi_as_parameter(ctx: Context, dataset: Any, data: Any) -> None:
    """Described by shapes; what is given with the run wins."""
    disk = {"roi": {"shape": "disk", "cx": 2, "cy": 3, "r": 1}}
    y, x = np.ogrid[:6, :5]
    selected = np.hypot(y - 3, x - 2) <= 1
    result = ctx.run(SumAnalysis(dataset, disk))
    np.testing.assert_array_equal(result.intensity.raw_data, data[selected].sum(axis=0))
    rect = {"roi": {"shape": "rect", "x": 1, "y": 2, "width": 2, "height": 3}}
    np.testing.assert_array_equal(
        ctx.run(SumAnalysis(dataset, rect)).intensity.raw_data, data[2:6, 1:4].sum(axis=(0, 1))
    )
    np.testing.assert_array_equal(ctx.run(SumAnalysis(dataset, disk), roi=(0, 0)).intensity.raw_data, data[0, 0])
    assert SumAnalysis(dataset, {"roi": {}}).get_roi() is None
    with pytest.raises(NotImplementedError, match="unknown shape"):
        ctx.run(SumAnalysis(dataset, {"roi": {"shape": "star"}}))
    with pytest.raises(ValueError, match="lacks 'r'"):
        ctx.run(SumAnalysis(dataset, {"roi": {"shape": "disk", "cx": 2, "cy": 2}}))
    with pytest.raises(TypeError, match=r"described as 'disk' or 'rect', not as ndarray: give masks to run\(\)"):
        ctx.run(SumAnalysis(dataset, {"roi": selected}))


# -- parameters


def test_datasets_that_do_not_fit(ctx: Context, data: Any) -> None:
    line = ctx.load("memory", data=data.reshape(30, 12, 10), sig_dims=2)
    volume = ctx.load("memory", data=data.reshape(2, 3, 5, 12, 10), sig_dims=2)
    spectra = ctx.load("memory", data=data.reshape(6, 5, 120), sig_dims=1)
    for create in (ctx.create_disk_analysis, ctx.create_ring_analysis, ctx.create_radial_fourier_analysis):
        with pytest.raises(ValueError, match="two signal dimensions"):
            create(spectra)
        assert ctx.run(create(volume))[0].raw_data.shape == (2, 3, 5)
        assert ctx.run(create(line))[0].visualized.shape == (30, 4)
    for bad in (line, volume):
        with pytest.raises(ValueError, match="two navigation dimensions"):
            ctx.create_com_analysis(bad)
    with pytest.raises(ValueError, match="two signal dimensions"):
        ctx.create_com_analysis(spectra)
    with pytest.raises(ValueError, match="at most two navigation dimensions"):
        ctx.create_point_analysis(volume)
    for bad_pick in ({"x": 1}, {"x": 1, "y": 2, "z": 1}, {"x": 1, "y": 6}, {"x": -1, "y": 0}):
        with pytest.raises(ValueError, match=r"a frame of a scan|not within the scan"):
            ctx.create_pick_analysis(spectra, **bad_pick)
    no_positions: list[Any] = [0.5, -0.5, "1", [1], np.nan, True]
    for no_position in no_positions:
        with pytest.raises(ValueError, match="x must be a whole number, it is "):
            ctx.create_pick_analysis(spectra, x=no_position, y=2)
    assert ctx.run(ctx.create_pick_analysis(spectra, x=1, y=2)).intensity.visualized.shape == (120, 4)
    whole: Any = np.float32(1)
    result = ctx.run(ctx.create_pick_analysis(spectra, x=whole, y=whole + 1)).intensity
    assert result.desc == "the frame at x=1 y=2 log-scaled"


def test_parameters_that_do_not_fit(ctx: Context, dataset: Any) -> None:
    with pytest.raises(ValueError, match="mask_radius_inner needs mask_radius"):
        ctx.create_com_analysis(dataset, mask_radius_inner=2)
    with pytest.raises(ValueError, match="does not know radius: its parameters are cx, cy, ri, ro"):
        RingMaskAnalysis(dataset, {"radius": 3})
    with pytest.raises(ValueError, match="needs ri, ro"):
        FEMAnalysis(dataset, {"cx": 3, "cy": 3})
    with pytest.raises(ValueError, match="needs factories"):
        MasksAnalysis(dataset, {})
    with pytest.raises(ValueError, match="given are real_rad"):
        SumfftAnalysis(dataset, {"real_rad": 3})
    with pytest.raises(ValueError, match="not on the detector"):
        ctx.create_point_analysis(dataset, x=10, y=0)
    with pytest.raises(ValueError, match="scan_rotation must be a number, it is '90'"):
        ctx.create_com_analysis(dataset, scan_rotation="90")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scan_rotation must be a finite number, it is inf"):
        ctx.create_com_analysis(dataset, scan_rotation=np.inf)
    with pytest.raises(ValueError, match="cy must be a number, it is nan"):
        ctx.create_disk_analysis(dataset, cy=np.nan)
    for n in (2.5, "2", np.inf, [2]):
        with pytest.raises(ValueError, match="n_bins must be a whole number, it is "):
            ctx.create_radial_fourier_analysis(dataset, n_bins=n)  # type: ignore[arg-type]
    whole = ctx.create_radial_fourier_analysis(dataset, n_bins=2.0, max_order=1)  # type: ignore[arg-type]
    assert ctx.run(whole).raw_results.shape[:2] == (2, 2)


def test_radii_between_which_nothing_lies(ctx: Context, dataset: Any) -> None:
    """They are refused when the analysis is made, by their names; its results would be 0 everywhere."""
    radii: dict[str, Any]
    for radii, message in (
        ({"ri": 5, "ro": 3}, "the inner radius ri=5 must be smaller than the outer radius ro=3"),
        ({"ri": 3, "ro": 3}, "must be smaller"),
        ({"ri": np.nan, "ro": 3}, "ri must be a number, it is nan"),
        ({"ri": -3, "ro": -1}, "the radius ro=-1 must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ctx.create_ring_analysis(dataset, **radii)
    for radii, message in (
        ({"ri": 5, "ro": 3}, "the inner radius ri=5 must not be larger than the outer radius ro=3"),
        ({"ri": 40}, "ri=40"),
        ({"ro": "3"}, "ro must be a number, it is '3'"),
    ):
        with pytest.raises(ValueError, match=message):
            ctx.create_radial_fourier_analysis(dataset, **radii)
    thin = ctx.run(ctx.create_radial_fourier_analysis(dataset, ri=3, ro=3, max_order=0))
    assert (thin.absolute_0_0.raw_data > 0).all()
    for r, message in ((-1, "the radius r=-1 must not be negative"), ("3", "r must be a number, it is '3'")):
        with pytest.raises(ValueError, match=message):
            ctx.create_disk_analysis(dataset, r=r)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rad_in=5"):
        ctx.run(ApplyFFTMask(dataset, {"rad_in": 5, "rad_out": 3}))
    with pytest.raises(ValueError, match="ri=3"):
        ctx.create_com_analysis(dataset, mask_radius=2, mask_radius_inner=3)
    for analysis in (FEMAnalysis, ClusterAnalysis):
        with pytest.raises(ValueError, match="the inner radius ri=5 must be smaller than the outer radius ro=3"):
            analysis(dataset, {"cx": 4, "cy": 6, "ri": 5, "ro": 3})
    disc = {"real_rad": -2, "real_centerx": 4, "real_centery": 6}
    with pytest.raises(ValueError, match="the radius real_rad=-2 must not be negative"):
        SumfftAnalysis(dataset, disc)
    with pytest.raises(ValueError, match="the radius real_rad=-2 must not be negative"):
        CrystallinityUDF(rad_in=1, rad_out=3, real_center=(6, 4), real_rad=-2)


def test_a_function_is_no_analysis(ctx: Context) -> None:
    with pytest.raises(TypeError, match=r"run\(\) takes an analysis.*run_udf\(\)"):
        ctx.run(SumSigUDF())  # type: ignore[arg-type]


def test_when_to_run_again(dataset: Any) -> None:
    com = COMAnalysis(dataset, {})
    assert not com.need_rerun({"cx": 1, "flip_y": True}, {"cx": 1, "flip_y": False, "scan_rotation": 3})
    assert com.need_rerun({"cx": 1}, {"cx": 2})
    assert SumAnalysis(dataset, {}).need_rerun({}, {})


# -- by name, and without a Context


def test_registry() -> None:
    assert set(Analysis.registry) >= {
        "APPLY_DISK_MASK", "APPLY_FFT_MASK", "APPLY_POINT_SELECTOR", "APPLY_RING_MASK", "CENTER_OF_MASS", "CLUST",
        "FEM",
        "FFTSUM_FRAMES", "PICK_FFT_FRAME", "PICK_FRAME", "RADIAL_FOURIER", "SD_FRAMES", "SUM_FRAMES", "SUM_SIG",
    }  # fmt: skip
    assert Analysis.get_analysis_by_type("SUM_FRAMES") is SumAnalysis
    for kind in TileworkError, KeyError:
        with pytest.raises(kind, match="there is no analysis 'NOTHING'"):
            Analysis.get_analysis_by_type("NOTHING")


def test_own_analysis(ctx: Context, dataset: Any, data: Any) -> None:
    """A user's analysis: a UDF, and what to make of its results."""

    class Share(BaseAnalysis, id_="SHARE"):
        def get_udf(self) -> Any:
            return SumSigUDF()

        def get_udf_results(self, udf_results: Any, roi: Any, damage: Any) -> Any:
            sums = udf_results["intensity"].data
            return AnalysisResultSet([real_result(sums / np.nansum(sums), "share", "of all", "share", damage)])

    try:
        result = ctx.run(Analysis.get_analysis_by_type("SHARE")(dataset, {"anything": 1}))
    finally:
        del Analysis.registry["SHARE"]
    np.testing.assert_allclose(result.share.raw_data, data.sum(axis=(2, 3)) / data.sum(), rtol=1e-6)


def test_in_the_background(ctx: Context, dataset: Any, data: Any) -> None:
    """For programs with an event loop: results are sent, unless the job is cancelled."""
    sent: list[Any] = []

    async def send(results: Any, finished: bool) -> None:
        sent.append((results, finished))

    analysis = SumAnalysis(dataset, {"roi": {"shape": "rect", "x": 0, "y": 0, "width": 1, "height": 1}})
    asyncio.run(analysis.controller("job", ctx.executor.ensure_async(), lambda: False, send))
    ((results, finished),) = sent
    assert finished
    np.testing.assert_array_equal(results.intensity.raw_data, data[:2, :2].sum(axis=(0, 1)))
    with pytest.raises(JobCancelledError, match="SumAnalysis was cancelled"):
        asyncio.run(analysis.controller("job", ctx.executor, lambda: True, send))
    assert len(sent) == 1
