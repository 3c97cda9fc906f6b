"""Mask makers: geometry, borders, sums, and that antialiased rings fit together without gap or overlap."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework import masks
from tilework.common import mask_stacks, sparse
from tilework.common import masks as single

centers = st.floats(-5, 25)
sizes = st.integers(1, 20)
radii = st.floats(0, 30)


def distance(cx: float, cy: float, sx: int, sy: int) -> Any:
    y, x = np.mgrid[:sy, :sx]
    return np.hypot(y - cy, x - cx)


@given(cx=centers, cy=centers, sx=sizes, sy=sizes, r=radii, ri=radii)
def test_disc_and_ring_hold_the_pixels_within_their_radii(
    cx: float, cy: float, sx: int, sy: int, r: float, ri: float
) -> None:
    y, x = np.mgrid[:sy, :sx]
    squared = (y - cy) ** 2 + (x - cx) ** 2
    disc = masks.circular(cx, cy, sx, sy, r)
    assert disc.dtype == bool
    np.testing.assert_array_equal(disc, squared <= r * r)
    np.testing.assert_array_equal(masks.ring(cx, cy, sx, sy, r, ri), (squared <= r * r) & (squared > ri * ri))
    np.testing.assert_array_equal(masks._make_circular_mask(cx, cy, sx, sy, r), disc)


@given(
    cy=st.floats(-30, 30) | st.integers(-30, 30),
    cx=st.floats(-30, 30) | st.integers(-30, 30),
    r=st.floats(0, 40) | st.integers(0, 40) | st.sampled_from([np.inf, 1e300]),
    ri=st.floats(-1, 20) | st.integers(-1, 20) | st.just(np.inf),
)
def test_discs_and_rings_anywhere(cy: float, cx: float, r: float, ri: float) -> None:
    """They may lie on the detector in part, around all of it, or elsewhere."""
    y, x = np.ogrid[:9, :11]
    square = (y - float(cy)) ** 2 + (x - float(cx)) ** 2
    disc = square <= r * r
    np.testing.assert_array_equal(masks.circular(cx, cy, 11, 9, r), disc)
    np.testing.assert_array_equal(masks.ring(cx, cy, 11, 9, r, ri), disc & ~((square <= ri * ri) & (ri >= 0)))


def test_sizes_of_discs_and_rings_may_be_floats() -> None:
    """As they are after a division."""
    width: Any = 16 / 2
    height: Any = 12 / 2
    np.testing.assert_array_equal(masks.circular(3, 2, width, height, 2), masks.circular(3, 2, 8, 6, 2))
    np.testing.assert_array_equal(masks.ring(3, 2, width, height, 2, 1), masks.ring(3, 2, 8, 6, 2, 1))


def test_radius_at_the_limits() -> None:
    assert masks.circular(3, 2, 8, 6, 0).sum() == 1
    assert masks.circular(3, 2, 8, 6, -1).sum() == 0
    assert masks.circular(3, 2, 8, 6, math.inf).all()
    assert masks.circular(3, 2, 8, 6, 2).shape == (6, 8)


def test_infinite_radius_of_antialiased_masks() -> None:
    """What the bare masks take, and what a disc that covers the detector has in it: no NaN."""
    assert (masks.circular(3, 2, 8, 6, math.inf, antialiased=True) == 1).all()
    around = masks.ring(3, 2, 8, 6, math.inf, 2, antialiased=True)
    np.testing.assert_allclose(around, np.clip(distance(3, 2, 8, 6) - 1.5, 0, 1))
    assert (masks.ring(3, 2, 8, 6, math.inf, math.inf, antialiased=True) == 0).all()
    assert (masks.radial_gradient(3, 2, 8, 6, math.inf, antialiased=True) == 0).all()
    found = masks.background_subtraction(3, 2, 8, 6, math.inf, 2, antialiased=True)
    assert found[2, 3] == 1
    np.testing.assert_allclose(found.sum(), 0, atol=1e-9)


@pytest.mark.parametrize("antialiased", [False, True])
def test_centre_and_radius_as_arrays_of_one_number(antialiased: bool) -> None:
    cx, cy, r, ri = (cast("float", np.array(value)) for value in (3.2, 2, 2.5, 1))
    expected = masks.ring(3.2, 2, 8, 6, 2.5, 1, antialiased)
    np.testing.assert_array_equal(masks.ring(cx, cy, 8, 6, r, ri, antialiased), expected)


@given(cx=st.floats(8, 12), cy=st.floats(8, 12), r=st.floats(2, 6), ri=st.floats(1, 5))
def test_antialiased_regions_have_the_area_of_the_circle(cx: float, cy: float, r: float, ri: float) -> None:
    disc = masks.circular(cx, cy, 21, 21, r, antialiased=True)
    assert disc.min() >= 0
    assert disc.max() <= 1
    np.testing.assert_allclose(disc.sum(), math.pi * r * r, rtol=0.1)
    if ri < r - 1:
        around = masks.ring(cx, cy, 21, 21, r, ri, antialiased=True)
        np.testing.assert_allclose(around.sum(), math.pi * (r * r - ri * ri), rtol=0.15)


@given(cx=st.floats(0, 20), cy=st.floats(0, 20), n=st.integers(1, 8), r=st.floats(4, 15))
def test_radial_bins_of_at_least_a_pixel_add_up_to_the_disc(cx: float, cy: float, n: int, r: float) -> None:
    n = min(n, int(r))
    bins = masks.radial_bins(cx, cy, 21, 20, radius=r, n_bins=n, use_sparse=False)
    assert bins.shape == (n, 20, 21)
    disc = np.clip(r + 0.5 - distance(cx, cy, 21, 20), 0, 1)
    # The pixel in the middle belongs to the first bin as a whole.
    middle = np.zeros((20, 21), dtype=bool)
    if 0 <= round(cy) < 20 and 0 <= round(cx) < 21:
        middle[round(cy), round(cx)] = True
    np.testing.assert_allclose(bins.sum(axis=0)[~middle], disc[~middle], atol=1e-9)
    assert (bins[0][middle] == 1).all()


@pytest.mark.parametrize("ri", [0, 0.01, 0.3, 0.49])
@pytest.mark.parametrize(("cx", "cy"), [(8, 9), (8.3, 8.8), (8.5, 8.5)])
def test_a_hole_smaller_than_a_pixel_takes_a_part_of_it(cx: float, cy: float, ri: float) -> None:
    """The pixel in the centre loses as much as the hole is wide, not half a pixel as soon as there is one."""
    disc = masks.radial_bins(cx, cy, 17, 17, radius=5, n_bins=1, use_sparse=False)[0]
    with_hole = masks.radial_bins(cx, cy, 17, 17, radius=5, radius_inner=ri, n_bins=1, use_sparse=False)[0]
    assert with_hole[round(cy), round(cx)] >= 1 - ri
    assert (with_hole <= disc).all()


def test_radial_bins_defaults_and_options() -> None:
    assert masks.bounding_radius(3, 2, 8, 6) == 8
    assert masks.bounding_radius(-3, 2.5, 8, 6) == 13
    assert masks.radial_bins(3, 2, 8, 6).shape == (8, 6, 8)
    normal = masks.radial_bins(10, 10, 21, 21, radius=9, n_bins=3, normalize=True, use_sparse=False)
    np.testing.assert_allclose(normal.sum(axis=(1, 2)), 1)
    assert masks.radial_bins(3, 2, 8, 6, n_bins=2, dtype=np.complex64).dtype == np.complex64
    sparse = masks.radial_bins(64, 64, 128, 128, radius=60)
    assert masks.is_sparse(sparse)
    dense = masks.radial_bins(64, 64, 128, 128, radius=60, use_sparse=False)
    np.testing.assert_array_equal(masks.to_dense(sparse), dense)
    assert not masks.is_sparse(masks.radial_bins(64, 64, 128, 128, radius=60, n_bins=3))


def test_gradients() -> None:
    gx, gy = masks.gradient_x(4, 3), masks.gradient_y(4, 3, dtype=np.int32)
    np.testing.assert_array_equal(gx, np.mgrid[:3, :4][1])
    np.testing.assert_array_equal(gy, np.mgrid[:3, :4][0])
    assert gx.dtype == np.float32
    assert gy.dtype == np.int32
    r = distance(3, 2, 8, 6)
    np.testing.assert_allclose(masks.radial_gradient(3, 2, 8, 6, 3), np.where(r <= 3, r / 3, 0))
    smooth = masks.radial_gradient(3, 2, 8, 6, 3, antialiased=True)
    assert ((smooth >= 0) & (smooth <= 1)).all()
    assert (masks.radial_gradient(3, 2, 8, 6, 0) == 0).all()


def test_radial_gradient_with_background() -> None:
    r = np.array([0, 2.5, 4.4, 4.5, 5, 5.5, 6, 8, 8.5])
    profile = masks.radial_gradient_background_subtraction(r, 5, 8)
    np.testing.assert_allclose(profile, [0, 0.5, 0.88, 1, 0, -1, -1, -1, 0])
    np.testing.assert_allclose(masks.radial_gradient_background_subtraction(r, 5, 8, delta=0)[4:6], [-1, -1])


@pytest.mark.parametrize("antialiased", [False, True])
def test_background_subtraction_has_no_sum(antialiased: bool) -> None:
    mask = masks.background_subtraction(10, 9, 21, 20, 7, 4, antialiased)
    np.testing.assert_allclose(mask.sum(), 0, atol=1e-9)
    assert mask[9, 10] == 1
    assert mask[9, 16] < 0
    assert (masks.background_subtraction(10, 9, 21, 20, 4, 4)[9, 10]) == 1


def test_balance_scales_what_is_negative() -> None:
    np.testing.assert_allclose(masks.balance(np.array([[1, 2, -1], [0, 0, 4]])), [[1, 2, -7], [0, 0, 4]])
    np.testing.assert_array_equal(masks.balance(np.array([1, 2])), [1, 2])


def test_polar_map_turns_an_ellipse_into_a_circle() -> None:
    r, phi = masks.polar_map(10, 12, 30, 30, stretchY=0.5, angle=0.3)
    t = np.linspace(0, 2 * math.pi, 50, endpoint=False)
    along, across = 8 * np.cos(t), 4 * np.sin(t)
    x = np.rint(10 + along * math.cos(0.3) - across * math.sin(0.3)).astype(int)
    y = np.rint(12 + along * math.sin(0.3) + across * math.cos(0.3)).astype(int)
    assert (np.abs(r[y, x] - 8) < 1.6).all()
    r, phi = masks.polar_map(3, 2, 8, 6)
    np.testing.assert_allclose(r * np.cos(phi), np.mgrid[:6, :8][1] - 3, atol=1e-12)
    np.testing.assert_allclose(r * np.sin(phi), np.mgrid[:6, :8][0] - 2, atol=1e-12)


@pytest.mark.parametrize(
    ("args", "rows", "columns"),
    [
        ((2, 1, 3, 2), slice(1, 4), slice(2, 6)),
        ((5, 4, -3, -2), slice(2, 5), slice(2, 6)),
        ((-1, -1, 3, 3), slice(0, 3), slice(0, 3)),
        ((6, 4, 5, 5), slice(4, 6), slice(6, 8)),
        ((2, 1, 0, 2), slice(0, 0), slice(0, 0)),
    ],
)
def test_rectangular_includes_its_borders(args: tuple[float, float, float, float], rows: slice, columns: slice) -> None:
    expected = np.zeros((6, 8), dtype=bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(masks.rectangular(*args, 8, 6), expected)


def test_templates_are_placed_added_and_cut_off() -> None:
    template = np.array([[1.0, 2], [3, 4]])
    stack = masks.sparse_template_multi_stack([0, 0, 1], [1, 2, -1], [0, 0, 4], template, 6, 5)
    expected = np.zeros((2, 5, 6))
    expected[0, 0:2, 1:3] += template
    expected[0, 0:2, 2:4] += template
    expected[1, 4, 0] = 2
    np.testing.assert_array_equal(stack.todense(), expected)


def test_discs_in_a_sparse_stack() -> None:
    stack = masks.sparse_circular_multi_stack([0, 0, 2], [1, 4.2, 3], [1, 2, 1], 6, 5, 1.5)
    assert stack.shape == (3, 5, 6)
    discs = [masks.circular(x, y, 6, 5, 1.5) for x, y in ((1, 1), (4, 2), (3, 1))]
    np.testing.assert_array_equal(stack.todense(), [discs[0] | discs[1], np.zeros((5, 6)), discs[2]])


def test_names_that_users_import() -> None:
    """All of them, and one that is private but used."""
    makers = {*single.__all__, *mask_stacks.__all__, "_make_circular_mask"} - {"prefers_sparse", "check_radii"}
    assert set(masks.__all__) == makers | {"is_sparse", "to_dense", "to_sparse"}
    for name in masks.__all__:
        home = next(module for module in (single, mask_stacks, sparse) if hasattr(module, name))
        assert getattr(masks, name) is getattr(home, name)


@pytest.mark.parametrize("use_sparse", [None, False, True])
def test_fourier_coefficients_of_rings(use_sparse: bool | None) -> None:
    """A ring of six spots has coefficients 0 and 6; a frame of the wrong centre or order would have others."""
    stack = masks.radial_fourier(20, 19, 41, 40, 14, 6, n_bins=2, max_order=7, use_sparse=use_sparse)
    assert stack.shape == (16, 40, 41)
    assert stack.dtype == np.complex64
    dense = stack.todense() if hasattr(stack, "todense") else stack
    y, x = np.mgrid[:40, :41]
    phi, r = np.arctan2(y - 19, x - 20), np.hypot(y - 19, x - 20)
    frame = (1 + np.cos(6 * phi - 0.4)) * np.exp(-(((r - 12) / 1.5) ** 2))
    inner, outer = np.einsum("yx,bnyx->bn", frame, dense.reshape(2, 8, 40, 41))
    assert abs(outer[0]) > 10 * abs(inner[0])
    np.testing.assert_allclose(abs(outer[6]), abs(outer[0]) / 2, rtol=0.02)
    np.testing.assert_allclose(np.angle(outer[6]), 0.4, atol=0.02)
    assert np.abs(outer[[1, 2, 3, 5, 7]]).max() < 0.02 * abs(outer[0])
    bins = masks.radial_bins(20, 19, 41, 40, 14, 6, n_bins=2, use_sparse=False)
    np.testing.assert_allclose(dense.reshape(2, 8, 40, 41)[:, 0], bins, atol=1e-6)
    np.testing.assert_allclose(dense[3], bins[0] * np.exp(3j * phi), atol=1e-6)


def test_large_narrow_fourier_masks_are_sparse() -> None:
    assert hasattr(masks.radial_fourier(64, 64, 128, 128, n_bins=30, max_order=4), "todense")
    assert not hasattr(masks.radial_fourier(64, 64, 128, 128, n_bins=1, max_order=4), "todense")
    assert not hasattr(masks.radial_fourier(8, 8, 16, 16, n_bins=10, max_order=4), "todense")


def test_whole_pixels() -> None:
    """Borders of rectangles, and centres of discs, are truncated; a balanced template keeps its dtype."""
    np.testing.assert_array_equal(masks.rectangular(3.7, 2, 2.5, 1.9, 9, 8), masks.rectangular(3, 2, 3, 1, 9, 8))
    between = masks.sparse_circular_multi_stack([0], [3.9], [4.2], 9, 8, 2)
    np.testing.assert_array_equal(between.todense()[0], masks.circular(3, 4, 9, 8, 2))
    template = np.array([[1, -3], [2, -3]], dtype=np.float32)
    assert masks.balance(template).dtype == np.float32
    np.testing.assert_allclose(masks.balance(template.astype(int)), [[1, -1.5], [2, -1.5]])
    found = masks.balance(template + 1j)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found.sum(), 0, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], template[:, 0] + 1j)


def test_profile_beyond_its_outer_radius() -> None:
    r = np.array([0, 2, 3.9, 4, 5, 6, 6.1])
    found = masks.radial_gradient_background_subtraction(r, r0=4, r_outer=6, delta=2)
    np.testing.assert_allclose(found, [0, 0.5, 0.1, 0, -1, -1, 0])
