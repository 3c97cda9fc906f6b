"""Pixels: ranges, colours of values and of directions, grey where there is nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tilework.exceptions import TileworkError
from tilework.viz import auto_range, cyclic_colormap, encode_image, rgb_from_2dvector, visualize_simple
from tilework.viz.colors import NEUTRAL, direction_colors, get_colormap

GREY = np.rint(np.array(NEUTRAL) * 255).astype(int)


def is_grey(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(pixels[..., :3].astype(int) - GREY).max(axis=-1) <= 1)


def test_auto_range() -> None:
    """All values are shown, except a few extremes far out."""
    rng = np.random.default_rng(0)
    values = rng.normal(100, 1, (100, 100))
    assert auto_range(values) == (values.min(), values.max())
    values[3, 4], values[5, 6] = 1e6, -1e6
    low, high = auto_range(values)
    assert 90 < low < 98
    assert 102 < high < 110
    assert auto_range(np.full((4, 4), 7.0)) == (7, 7)
    assert auto_range(np.full((4, 4), np.nan)) == (0, 0)
    assert auto_range(np.zeros((0, 4))) == (0, 0)
    sparse = np.zeros((100, 100))
    sparse[:2, 0] = 1
    assert auto_range(sparse) == (0, 1), "a few counts on nothing are what there is to see"


def test_auto_range_of_a_part() -> None:
    """Values that are not there do not count."""
    values = np.array([[1.0, 2.0], [np.inf, 1000.0]])
    assert auto_range(values, np.array([[True, True], [True, False]])) == (1, 2)


@given(hnp.arrays(np.float64, (7, 5), elements=st.floats(-1e6, 1e6)))
def test_auto_range_is_within_the_values(values: np.ndarray) -> None:
    """The range never goes beyond the values."""
    low, high = auto_range(values)
    assert values.min() <= low <= high <= values.max()


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f4", "f8", "?"])
def test_visualize_simple_is_monotonic(dtype: str) -> None:
    """Larger values are further along the colour map; the ends are its ends."""
    values = np.arange(12).reshape(3, 4).astype(dtype)
    rgba = visualize_simple(values)
    assert rgba.shape == (3, 4, 4)
    assert rgba.dtype == np.uint8
    ends = get_colormap()(np.array([0.0, 1.0]), bytes=True)
    np.testing.assert_array_equal(rgba[0, 0], ends[0])
    np.testing.assert_array_equal(rgba[-1, -1], ends[1])


def test_visualize_simple_grey_where_nothing_is() -> None:
    """NaN, infinite and damaged positions are grey, whatever the colour map, and nothing else is."""
    values = np.arange(16.0).reshape(4, 4)
    values[0, 0], values[0, 1] = np.nan, np.inf
    damage = np.ones((4, 4), dtype=bool)
    damage[3, 3] = False
    for name in (None, "inferno", "gray", cyclic_colormap()):
        grey = is_grey(visualize_simple(values, colormap=name, damage=damage))
        assert grey[0, 0]
        assert grey[0, 1]
        assert grey[3, 3]
        assert grey.sum() == 3 or name == "gray"


def test_what_is_masked_is_grey() -> None:
    """And no part of the range, in values and in vectors."""
    plain = np.arange(16.0).reshape(4, 4)
    masked = np.ma.masked_greater(plain, 9)
    for logarithmic in (False, True):
        shown = visualize_simple(masked, logarithmic=logarithmic)
        np.testing.assert_array_equal(is_grey(shown), masked.mask)
        np.testing.assert_array_equal(shown[~masked.mask], visualize_simple(plain[plain <= 9], logarithmic=logarithmic))
    for y, x in ((masked, plain), (plain, masked)):
        rgb = rgb_from_2dvector(y, x)
        np.testing.assert_array_equal(is_grey(rgb), masked.mask)
        np.testing.assert_array_equal(rgb, rgb_from_2dvector(y, x, vmax=np.hypot(9, 9)))


@pytest.mark.parametrize("logarithmic", [False, True])
def test_values_whose_differences_are_infinite(logarithmic: bool) -> None:
    largest = np.finfo(np.float64).max
    values = np.array([[-largest, 0, largest]])
    rgba = visualize_simple(values, "gray", logarithmic=logarithmic)
    assert rgba[0, ::2, 0].tolist() == [0, 255]
    assert rgb_from_2dvector(values, values)[0, 1].tolist() == [0, 0, 0]


def test_visualize_simple_limits_and_logarithm() -> None:
    """Given limits are used; on a logarithmic scale a decade is a decade, and zero is half of the smallest."""
    middle = get_colormap()(0.5, bytes=True)
    rgba = visualize_simple(np.array([[1.0, 10.0, 100.0]]), logarithmic=True)
    assert np.abs(rgba[0, 1].astype(int) - middle).max() <= 2
    values = np.array([[1.0, 10.0, 100.0, 0.0]])
    rgba = visualize_simple(values, logarithmic=True)
    np.testing.assert_array_equal(rgba[0, 3], visualize_simple(np.array([[0.5, 100.0]]), logarithmic=True)[0, 0])
    assert (rgba[0, 3] != rgba[0, 0]).any()
    clipped = visualize_simple(values, vmin=10, vmax=20)
    np.testing.assert_array_equal(clipped[0, 0], clipped[0, 1])
    same = visualize_simple(np.zeros((2, 2)))
    assert not is_grey(same).any()


def test_logarithms_are_those_of_what_lies_above_a_background() -> None:
    """Whatever the offset of a camera, the unit of the numbers, and single dead pixels."""
    counts = np.tile(np.array([0.0, 0, 3, 150, 300]), (40, 50))
    expected = visualize_simple(counts, colormap="gray", logarithmic=True)[..., 0]
    assert expected[0, :5].tolist() == [0, 0, 62, 225, 255]
    for offset in (100000, 1, -30):
        shown = visualize_simple(counts + offset, colormap="gray", logarithmic=True)[..., 0]
        np.testing.assert_array_equal(shown, expected)
    with_dead = counts + 100000
    with_dead[3, 4] = 0
    shown = visualize_simple(with_dead, colormap="gray", logarithmic=True)[..., 0]
    np.testing.assert_array_equal(np.delete(shown, 4, axis=1), np.delete(expected, 4, axis=1))
    small = [visualize_simple((counts + b) * 1e-9 + 1e-12, colormap="gray", logarithmic=True) for b in (0, 1e4)]
    np.testing.assert_allclose(small[0].astype(int), small[1], atol=1)
    assert 80 < small[0][0, 2, 0] < 110, "weak is seen besides strong"


def test_limits_of_logarithms() -> None:
    values = np.array([[0.0, 10, 1000, 5000]])
    limited = visualize_simple(values, colormap="gray", logarithmic=True, vmin=10, vmax=1000)[0, :, 0]
    assert limited.tolist() == [0, 0, 255, 255]
    below = visualize_simple(values, colormap="gray", logarithmic=True, vmin=-100)[0, :, 0]
    assert 0 < below[0] < below[1] < below[2]


def test_directions_have_equal_lightness_and_distinct_colors() -> None:
    """All directions are equally light to the eye, neighbours differ little, opposite ones much."""
    angle = np.linspace(-np.pi, np.pi, 256, endpoint=False)
    rgb = direction_colors(angle)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    assert lightness.max() - lightness.min() < 12
    steps = np.abs(np.diff(np.vstack([rgb, rgb[:1]]), axis=0)).max(axis=1)
    assert steps.max() < 0.05, "no jump, not even where the ends meet"
    opposite = np.linalg.norm(rgb - np.roll(rgb, 128, axis=0), axis=1)
    assert opposite.min() > 0.35


def test_vectors() -> None:
    """Black is zero, the hue is the direction whatever the length, the full colour is the longest, grey is nothing."""
    y = np.array([[0.0, 0.0, 0.0, 1.0, np.nan]])
    x = np.array([[0.0, 1.0, 0.5, 0.0, 1.0]])
    rgb = rgb_from_2dvector(y, x)
    assert rgb.shape == (1, 5, 3)
    assert rgb.dtype == np.uint8
    assert rgb[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(rgb[0, 1], 255 * direction_colors(0.0), atol=1)
    np.testing.assert_allclose(rgb[0, 3], 255 * direction_colors(np.pi / 2), atol=1)
    assert np.argsort(rgb[0, 2]).tolist() == np.argsort(rgb[0, 1]).tolist()
    assert rgb[0, 2].sum() < 0.7 * rgb[0, 1].sum()
    assert is_grey(rgb)[0].tolist() == [False, False, False, False, True]
    np.testing.assert_array_equal(rgb_from_2dvector(y, x, vmax=0.5)[0, 1], rgb_from_2dvector(y, x, vmax=0.5)[0, 2])
    assert rgb_from_2dvector(np.zeros((2, 2)), np.zeros((2, 2))).max() == 0


def test_cyclic_colormap_ends_meet() -> None:
    """The first and the last colour are neighbours."""
    cmap = cyclic_colormap()
    assert np.abs(np.array(cmap(0.0)) - np.array(cmap(1.0))).max() < 0.03
    assert get_colormap("tilework_cyclic") == cmap.with_extremes(bad=NEUTRAL)


def test_encode_image_round_trip() -> None:
    """PNG by default, any format that is asked for; at its start; same pixels."""
    rgba = visualize_simple(np.arange(12.0).reshape(3, 4))
    for pixels, options in itertools.product((rgba, rgba[..., :3]), (None, {"format": "tiff"})):
        file = encode_image(pixels, options)
        assert file.tell() == 0
        with Image.open(file) as image:
            assert image.format == (options or {"format": "png"})["format"].upper()
            np.testing.assert_array_equal(np.asarray(image), pixels)


def test_formats_without_transparency_get_the_colours() -> None:
    rgba = np.full((3, 4, 4), [200, 30, 30, 255], np.uint8)
    for pixels, name in itertools.product((rgba, rgba[..., :3]), ("jpeg", "eps")):
        with Image.open(encode_image(pixels, {"format": name})) as image:
            assert (image.format, image.mode, image.size) == (name.upper(), "RGB", (4, 3))
    with Image.open(encode_image(rgba, {"format": "jpeg", "quality": 95})) as image:
        np.testing.assert_allclose(np.asarray(image)[1, 1], [200, 30, 30], atol=4)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, bool])
def test_pixels_are_bytes(dtype: Any) -> None:
    """Others would become black, or wrong colours, without a word."""
    with pytest.raises(TypeError, match=f"pixels are uint8, from 0 to 255, not {np.dtype(dtype)}: visualize_simple"):
        encode_image(np.ones((2, 2, 3), dtype))


def test_formats_of_images_are_given_in_a_mapping() -> None:
    name: Any = "tiff"
    with pytest.raises(TypeError, match=r"such as \{'format': 'tiff'\}, not 'tiff'"):
        encode_image(np.zeros((2, 2, 3), np.uint8), name)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(TileworkError, match=r"pip install 'tilework\[plot\]'"):
        visualize_simple(np.zeros((2, 2)))
