"""Figures: what is drawn, without pyplot, with scale bars where units are known; no input is too strange to draw."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tilework.io.results import ResultAxis
from tilework.viz import figures
from tilework.viz.marks import add_circle, format_length, round_length

if TYPE_CHECKING:
    from pathlib import Path

SCAN = (ResultAxis("scan_y", 5.0, "nm"), ResultAxis("scan_x", 5.0, "nm"))


def texts(axes: Any) -> list[str]:
    return [t.get_text() for t in axes.texts if t.get_text()]


def pixels(figure: Any) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (5, 5), (96, 50), (0.03, 0.02), (1e-5, 1e-5), (3e7, 2e7)],
)
def test_round_length(limit: float, expected: float) -> None:
    """1, 2 or 5 times a power of ten, never longer than the limit."""
    assert round_length(limit) == pytest.approx(expected)


def test_format_length() -> None:
    """A larger unit from 1000 on."""
    assert format_length(50, "nm") == "50 nm"
    assert format_length(2000, "nm") == "2 µm"
    assert format_length(5e6, "pm") == "5 µm"
    assert format_length(2000, "1/nm") == "2000 1/nm"


def test_scale_bar_has_the_right_length() -> None:
    """The bar is as long as it says, in pixels of the data; without units there is none, and pixels are counted."""
    figure = figures.image_figure(np.random.default_rng(0).random((64, 64)), scales=SCAN, title="t")
    axes = figure.axes[0]
    assert texts(axes) == ["50 nm"]
    (bar,) = axes.patches
    assert bar.get_width() * 64 * 5.0 == pytest.approx(50)
    plain = figures.image_figure(np.random.default_rng(0).random((64, 64)))
    assert texts(plain.axes[0]) == []
    assert len(plain.axes[0].get_xticks()) > 2


def test_not_there_is_grey() -> None:
    """NaN and masked positions are grey on every kind of picture."""
    image = np.random.default_rng(0).random((8, 8)) + 1
    image[2, 3] = np.nan
    there = np.ones((8, 8), dtype=bool)
    there[5, 5] = False
    for options in ({}, {"logarithmic": True}, {"symmetric": True}, {"cmap": "inferno"}):
        figure = figures.image_figure(image, there=there, **options)
        shown = figure.axes[0].images[0]
        assert shown.get_array().mask.sum() == 2
        drawn = shown.to_rgba(shown.get_array(), bytes=True)
        grey = np.abs(drawn[..., :3].astype(int) - [143, 143, 148]).max(axis=-1) <= 1
        assert {tuple(p) for p in np.argwhere(grey)} == {(2, 3), (5, 5)}


def test_logarithmic_only_where_it_makes_sense() -> None:
    """A pattern gets a logarithmic scale; one that has no positive values does not."""
    from matplotlib.colors import LogNorm

    pattern = np.random.default_rng(0).poisson(3, (32, 32)) * 1000 + 1
    assert isinstance(figures.image_figure(pattern, logarithmic=True).axes[0].images[0].norm, LogNorm)
    for odd in (np.zeros((8, 8)), -np.ones((8, 8)), np.full((8, 8), 5.0)):
        assert not isinstance(figures.image_figure(odd, logarithmic=True).axes[0].images[0].norm, LogNorm)


def test_negative_values_are_not_lost_in_a_logarithm() -> None:
    """Where negative values are more than noise the scale is linear; of noise, the colour bar says that it is there."""
    from matplotlib.colors import LogNorm

    rng = np.random.default_rng(0)
    differences = rng.normal(0, 20, (16, 16))
    norm = figures.image_figure(differences, logarithmic=True).axes[0].images[0].norm
    assert not isinstance(norm, LogNorm)
    assert norm.vmin == differences.min()
    spot = 1e4 * np.exp(-np.hypot(*np.mgrid[-32:32, -32:32]) / 5) + rng.normal(0, 3, (64, 64))
    shown = figures.image_figure(spot, logarithmic=True).axes[0].images[0]
    assert isinstance(shown.norm, LogNorm)
    assert shown.colorbar.extend == "min"


def test_a_colour_bar_says_that_values_lie_beyond() -> None:
    """A hot pixel does not take all the colours, of a small picture either, and the colour bar is pointed."""
    image = np.random.default_rng(0).poisson(50, (16, 24)).astype(float)
    assert figures.image_figure(image).axes[0].images[0].colorbar.extend == "neither"
    highest = image.max()
    image[3, 3] = 6e4
    shown = figures.image_figure(image).axes[0].images[0]
    assert shown.norm.vmax == highest
    assert shown.colorbar.extend == "max"
    image[4, 4] = -6e4
    assert figures.image_figure(image).axes[0].images[0].colorbar.extend == "both"


def test_symmetric_range() -> None:
    """Signed values: zero has the middle colour."""
    image = np.linspace(-1, 3, 64).reshape(8, 8)
    norm = figures.image_figure(image, symmetric=True).axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (-3, 3)


def test_vectors_have_a_wheel_and_arrows_that_point() -> None:
    """The legend names the length at the rim; arrows have the direction of the field in the picture, y down."""
    y, x = np.mgrid[-1:1:26j, -1:1:26j]
    figure = figures.vector_figure(y, x, scales=SCAN, units="px", arrows=True)
    axes = figure.axes[0]
    (wheel,) = axes.child_axes
    assert texts(wheel) == ["1.4 px"]
    (quiver,) = [c for c in axes.collections if hasattr(c, "U")]
    at = quiver.XY
    drawn = ~quiver.Umask
    np.testing.assert_allclose(quiver.U[drawn], np.interp(at[drawn, 0], np.arange(26), x[0]), atol=1e-9)
    np.testing.assert_allclose(quiver.V[drawn], np.interp(at[drawn, 1], np.arange(26), y[:, 0]), atol=1e-9)
    assert quiver.angles == "xy", "in pixel coordinates, whose y points down"
    # And seen: an arrow field to the right is drawn to the right.
    figure = figures.vector_figure(np.zeros((13, 13)), np.ones((13, 13)), arrows=True)
    assert pixels(figure).std() > 0


@pytest.mark.parametrize("shape", [(2, 300), (300, 2), (20, 60)])
def test_the_wheel_of_a_narrow_picture_is_beside_it(shape: tuple[int, int]) -> None:
    """Of a few lines, a wheel in the corner would be too small: it is half an inch at least, and on the figure."""
    figure = figures.vector_figure(np.ones(shape), np.ones(shape), units="px")
    figure.canvas.draw()
    (wheel,) = figure.axes[0].child_axes
    place = wheel.get_window_extent()
    assert place.x0 >= figure.axes[0].get_window_extent().x1
    assert min(place.width, place.height) >= 0.5 * figure.dpi
    assert place.x1 <= figure.bbox.x1


def test_line() -> None:
    """One-dimensional results become lines over physical positions."""
    figure = figures.line_figure(np.arange(10.0), scale=ResultAxis("scan", 0.5, "nm"), title="t", label="electrons")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.arange(10) * 0.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("nm", "electrons")


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 200), (2, 2)])
@pytest.mark.parametrize("fill", [0.0, np.nan, -1.0, 1e30])
def test_any_shape_and_value_is_drawn(tmp_path: Path, shape: tuple[int, int], fill: float) -> None:
    """Extreme shapes and values make a picture of reasonable size, without a warning."""
    path = tmp_path / "p.png"
    values = np.full(shape, fill)
    for figure in (
        figures.image_figure(values, logarithmic=True, scales=SCAN, title="a title"),
        figures.vector_figure(values, values, arrows=True, units="px"),
    ):
        figures.save_figure(figure, path)
        with Image.open(path) as image:
            assert max(image.size) < 2500
            assert min(image.size) > 60


@pytest.mark.parametrize("ends", [(0, 1.7e308), (-1.7e308, 1.7e308), (0, 1e-320)])
def test_numbers_at_the_limits_of_their_type(ends: tuple[float, float]) -> None:
    """Where differences of values are infinite, or have no logarithm, there is a picture all the same."""
    values = np.linspace(0, 1, 12).reshape(3, 4) * ends[1]
    values[:, :2] += ends[0]
    for figure in (
        *(figures.image_figure(values, **options) for options in ({}, {"logarithmic": True}, {"symmetric": True})),
        figures.vector_figure(values, values, arrows=ends[1] > 1),
        figures.line_figure(values.ravel()),
    ):
        assert pixels(figure).std() > 0


def test_true_and_false_have_no_logarithm() -> None:
    """A mask, such as of hot pixels, is drawn as it is."""
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    (picture,) = figures.image_figure(mask, logarithmic=True).axes[0].images
    assert (picture.norm.vmin, picture.norm.vmax) == (0, 1)
    np.testing.assert_array_equal(picture.get_array(), mask)


def test_what_is_masked_is_not_drawn() -> None:
    """Of a masked array: grey, a gap in a line, and no part of the range."""
    values = np.ma.masked_greater(np.arange(1.0, 65).reshape(8, 8), 60)
    for options in ({}, {"logarithmic": True}, {"there": values.data > 2}):
        (picture,) = figures.image_figure(values, **options).axes[0].images
        there = ~values.mask & options.get("there", True)
        np.testing.assert_array_equal(np.ma.getmaskarray(picture.get_array()), ~there)
        assert picture.norm.vmax == 60
    (picture,) = figures.image_figure(values * 1j).axes[0].images
    np.testing.assert_array_equal(np.ma.getmaskarray(picture.get_array()), values.mask)
    figure = figures.vector_figure(values, np.zeros((8, 8)), units="px")
    (picture,) = figure.axes[0].images
    np.testing.assert_array_equal((picture.get_array() == [143, 143, 148]).all(axis=-1), values.mask)
    assert texts(figure.axes[0].child_axes[0]) == ["60 px"]
    for whole in (values[7], values[7].astype(int)):
        (line,) = figures.line_figure(whole).axes[0].lines
        np.testing.assert_array_equal(line.get_ydata(), [57, 58, 59, 60, *[np.nan] * 4])


def test_complex_values_are_drawn_as_their_magnitude() -> None:
    """In a picture and in a line, without a warning."""
    values = 3 * np.exp(1j * np.arange(12.0)).reshape(3, 4) * np.arange(1, 4)[:, np.newaxis]
    (picture,) = figures.image_figure(values, bar=False).axes[0].images
    np.testing.assert_allclose(picture.get_array(), np.abs(values))
    (line,) = figures.line_figure(values[:, 0]).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [3, 6, 9])


@pytest.mark.parametrize("shape", [(3, 4, 1), (4,), (), (0, 4)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    """The result of one mask has three axes: it is said how to have one image of it."""
    with pytest.raises(ValueError, match=r"a picture has two axes, not the shape .* choose one .*data\[\.\.\., 0\]"):
        figures.image_figure(np.zeros(shape))


def test_circle_is_at_its_center() -> None:
    """(y, x) in pixels of the data."""
    figure = figures.image_figure(np.zeros((20, 40)))
    add_circle(figure.axes[0], (5, 30), 3, "red")
    circle = figure.axes[0].patches[-1]
    assert (circle.center, circle.radius) == ((30, 5), 3)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".jpg", ".PNG"])
def test_the_suffix_decides_the_format(tmp_path: Path, suffix: str) -> None:
    """For publications; warnings are errors here, such as of metadata that a format does not know."""
    path = tmp_path / f"picture{suffix}"
    figures.save_figure(figures.image_figure(np.eye(8)), path)
    begins = {".pdf": b"%PDF", ".svg": b"<?xml", ".jpg": b"\xff\xd8", ".PNG": b"\x89PNG"}
    assert path.read_bytes().startswith(begins[suffix])


def test_same_picture_same_file(tmp_path: Path) -> None:
    """No date in the file."""
    image = np.random.default_rng(0).random((8, 8))
    for name in ("a.png", "b.png"):
        figures.save_figure(figures.image_figure(image), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_pyplot_no_global_state(tmp_path: Path) -> None:
    """Drawing imports no pyplot and changes no settings; importing tilework.viz does not import matplotlib."""
    program = """
import sys, numpy as np
import tilework.viz, tilework.viz.figures
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
f = tilework.viz.figures
f.save_figure(f.image_figure(np.eye(8), logarithmic=True), sys.argv[1])
f.save_figure(f.vector_figure(np.eye(8), np.eye(8), arrows=True), sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(tmp_path / "p.png")], check=True, timeout=60)


def test_from_threads(tmp_path: Path) -> None:
    """Figures can be drawn by several threads at a time."""
    failures: list[BaseException] = []

    def draw(number: int) -> None:
        try:
            figures.save_figure(figures.image_figure(np.full((8, 8), number)), tmp_path / f"{number}.png")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("size", [1, 2, 4, 7, 300])
def test_ticks_are_at_pixels(size: int) -> None:
    """Also of very small scans, which matplotlib would divide into halves and less."""
    for figure in (figures.image_figure(np.eye(size)), figures.vector_figure(np.eye(size), np.eye(size))):
        axes = figure.axes[0]
        ticks = np.concatenate([axes.get_xticks(), axes.get_yticks()])
        assert (ticks == ticks.round()).all(), ticks


@pytest.mark.filterwarnings("error")
def test_long_numbers(tmp_path: Path) -> None:
    """Are drawn as others are, without a warning."""
    figure = figures.image_figure(np.arange(16, dtype=np.longdouble).reshape(4, 4))
    figures.save_figure(figure, tmp_path / "long.png")
