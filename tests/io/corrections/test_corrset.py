"""Sets of corrections: what they hold, tiles they are applied to, and tile shapes they allow."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import sparse
from hypothesis import given
from hypothesis import strategies as st

from detector_files import counts
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import RepairValueError
from tilework.io.corrections import CorrectionSet, correct

SIG = (12, 10)
RNG = np.random.default_rng(0)
DARK, GAIN = RNG.random(SIG) * 10, RNG.random(SIG) + 0.5
EXCLUDED = np.zeros(SIG, dtype=bool)
EXCLUDED[[0, 5, 5], [0, 5, 6]] = True


def test_what_it_holds() -> None:
    everything = CorrectionSet(DARK, GAIN, EXCLUDED)
    assert everything.have_corrections()
    np.testing.assert_array_equal(everything.get_dark_frame(), DARK)
    np.testing.assert_array_equal(everything.get_gain_map(), GAIN)
    pixels = everything.get_excluded_pixels()
    assert isinstance(pixels, sparse.COO)
    np.testing.assert_array_equal(pixels.todense(), EXCLUDED)
    assert "3 excluded" in repr(everything)
    nothing = CorrectionSet()
    assert not nothing.have_corrections()
    assert nothing.get_dark_frame() is nothing.get_gain_map() is nothing.get_excluded_pixels() is None
    nothing.check_fits((3, 3))
    everything.check_fits(SIG)
    with pytest.raises(ValueError, match="made for a detector of shape"):
        everything.check_fits((10, 12))


def test_its_description_is_json() -> None:
    """The range is that of what counts: of finite values that are not excluded, also where there are none."""
    gain = np.where(EXCLUDED, np.inf, GAIN)
    gain[0, 0], gain[5, 5], gain[7, 7] = np.nan, 1e6, -np.inf
    counting = GAIN[~EXCLUDED & np.isfinite(gain)]
    described = CorrectionSet(np.full(SIG, np.nan), gain, EXCLUDED).describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == {
        "dark": {"min": None, "max": None},
        "gain": {"min": counting.min(), "max": counting.max()},
        "excluded_pixels": 3,
    }
    assert CorrectionSet(gain=GAIN.astype("c8") + 1j).describe()["gain"]["min"] == GAIN.astype("f4").min()
    assert CorrectionSet().describe() == {"dark": None, "gain": None, "excluded_pixels": 0}


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dark \(12, 10\), gain \(11, 10\)"):
        CorrectionSet(DARK, GAIN[1:])
    with pytest.raises(ValueError, match="not a list of coordinates"):
        CorrectionSet(excluded_pixels=[(1, 2), (3, 4)])
    with pytest.raises(RepairValueError):
        CorrectionSet(excluded_pixels=np.ones(SIG, dtype=bool))
    assert CorrectionSet(excluded_pixels=np.ones(SIG, dtype=bool), allow_empty=True).have_corrections()
    with pytest.raises(TypeError, match="convert it first"):
        CorrectionSet(DARK).apply(counts((2, *SIG), "u2"), Slice.from_shape((2, *SIG), 2))


def test_coordinates_are_no_map() -> None:
    """Whatever goes wrong with an array that could be coordinates, the message says what is accepted."""
    coordinates = np.array(np.nonzero(EXCLUDED))
    hint = r"excluded_pixels of int64 and shape \(2, 3\) was taken for a map.*mask\[tuple\(coordinates\)\] = True"
    with pytest.raises(ValueError, match=rf"give corrections of that shape; {hint}"):
        CorrectionSet(excluded_pixels=coordinates, allow_empty=True).check_fits(SIG)
    with pytest.raises(ValueError, match=rf"the shapes of the corrections differ.*{hint}"):
        CorrectionSet(DARK, excluded_pixels=coordinates)
    with pytest.raises(RepairValueError, match=rf"no usable neighbour.*{hint}"):
        CorrectionSet(excluded_pixels=np.array([[3, 4, 5], [1, 2, 3]]))
    with pytest.raises(ValueError, match=r"give corrections of that shape$"):
        CorrectionSet(excluded_pixels=EXCLUDED[:, 1:].astype(int)).check_fits(SIG)


@pytest.mark.parametrize("given", [EXCLUDED.tolist(), EXCLUDED.astype(int), EXCLUDED * 255, EXCLUDED * 0.5])
def test_other_maps(given: object) -> None:
    """Nested lists of bool, and numbers that are not 0 where a pixel is excluded."""
    np.testing.assert_array_equal(CorrectionSet(excluded_pixels=given).get_excluded_pixels().todense(), EXCLUDED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[0, 1], [1, 0]], r"not a list of coordinates: make a map with mask = numpy\.zeros"),
        ([[True, False], [True]], "not lists of different lengths: make a map"),
        (np.full(SIG, "no"), "not an array of <U2: make a map"),
        ("dead.npy", "not an array of <U8"),
    ],
)
def test_what_is_no_map(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrectionSet(excluded_pixels=given)


@pytest.mark.parametrize("name", ["dark", "gain"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full(SIG, "3"), "must be an array of numbers of the shape of a frame, this holds text"),
        ("dark.npy", "holds text; load a file with numpy.load"),
        (np.full(SIG, 3, dtype=object), r"holds Python objects; convert them with \.astype\(float\)"),
        (np.full(SIG, "2020", dtype="M8[Y]"), r"holds datetime64\[Y\]"),
    ],
)
def test_images_are_numbers(name: str, given: Any, message: str) -> None:
    given_by_name: dict[str, Any] = {name: given}
    with pytest.raises(TypeError, match=f"{name} .*{message}"):
        CorrectionSet(**given_by_name)
    with pytest.raises(TypeError, match=message):
        correct(np.ones((2, *SIG)), given, sig_shape=SIG)


@pytest.mark.parametrize("name", ["dark", "gain"])
def test_complex_images_are_for_complex_frames(name: str) -> None:
    """Real frames could not hold what comes out; an imaginary part that is 0 does not matter."""
    given: dict[str, Any] = {name: np.full(SIG, 2 + 1j)}
    corrections = CorrectionSet(**given)
    whole = Slice.from_shape((1, *SIG), 2)
    with pytest.raises(ValueError, match="complex dark frame or gain map does not fit real frames"):
        corrections.apply(np.ones((1, *SIG), dtype=np.float32), whole)
    frames = np.full((1, *SIG), 3, dtype=np.complex64)
    corrections.apply(frames, whole)
    np.testing.assert_array_equal(frames, 1 - 1j if name == "dark" else 6 + 3j)
    real = np.full((1, *SIG), 3, dtype=np.float32)
    given = {name: np.full(SIG, 2 + 0j)}
    CorrectionSet(**given).apply(real, whole)
    np.testing.assert_array_equal(real, 1 if name == "dark" else 6)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
def test_a_tile_in_place(dtype: str) -> None:
    """A part of the detector gets its part of the corrections; pixels outside of the part are no neighbours."""
    corrections = CorrectionSet(DARK, GAIN, EXCLUDED)
    whole = counts((3, *SIG), dtype)
    tile = whole[:, 4:9, 3:10].copy()
    corrections.apply(tile, Slice((7, 4, 3), Shape((3, 5, 7), 2)))
    expected = correct(whole[:, 4:9, 3:10], DARK[4:9, 3:10], GAIN[4:9, 3:10], EXCLUDED[4:9, 3:10])
    np.testing.assert_array_equal(tile, expected)


def test_integers_are_left_alone_when_there_is_nothing_to_correct() -> None:
    tile = counts((1, *SIG), "u2")
    before = tile.copy()
    CorrectionSet().apply(tile, Slice.from_shape(tile.shape, 2))
    np.testing.assert_array_equal(tile, before)
    with pytest.raises(TypeError, match="convert it first"):
        CorrectionSet(gain=GAIN).apply(tile, Slice.from_shape(tile.shape, 2))


def test_it_travels_without_what_it_prepared() -> None:
    corrections = CorrectionSet(DARK, GAIN, EXCLUDED)
    size = len(pickle.dumps(corrections))
    tile = counts((1, *SIG), "f8")
    corrections.apply(tile, Slice.from_shape((1, *SIG), 2))
    assert len(pickle.dumps(corrections)) == size
    copy, again = pickle.loads(pickle.dumps(corrections)), counts((1, *SIG), "f8")
    copy.apply(again, Slice.from_shape((1, *SIG), 2))
    np.testing.assert_array_equal(again, tile)


def test_the_sum_is_corrected_as_the_frames() -> None:
    """What corrections make of a sum is the sum of what they make of the frames; relative error below 1e-13."""
    corrections = CorrectionSet(DARK * 1000, GAIN, EXCLUDED)
    frames = counts((50, *SIG), "u2")
    total = frames.sum(axis=0, dtype=np.float64)
    corrections.correct_sum(total, len(frames), Slice.from_shape((50, *SIG), 2))
    expected = correct(frames.astype("f8"), DARK * 1000, GAIN, EXCLUDED).sum(axis=0)
    np.testing.assert_allclose(total, expected, rtol=1e-13)


@given(st.data())
def test_tiles_whose_borders_no_excluded_pixel_touches(data: st.DataObject) -> None:
    """The result is a multiple of the base or spans the axis, and no excluded pixel is beside a border."""
    sig = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    base = tuple(data.draw(st.integers(1, s)) for s in sig)
    wanted = tuple(min(s, b * data.draw(st.integers(1, 10))) for s, b in zip(sig, base, strict=True))
    count = data.draw(st.integers(0, 6))
    excluded = np.zeros(sig, dtype=bool)
    for _ in range(count):
        excluded[tuple(data.draw(st.integers(0, s - 1)) for s in sig)] = True
    corrections = CorrectionSet(excluded_pixels=excluded, allow_empty=True)
    tile = corrections.adjust_tileshape(wanted, sig, base)
    assert not corrections.touches_border(tile, sig)
    for axis, (t, s, b, w) in enumerate(zip(tile, sig, base, wanted, strict=True)):
        assert t == s or t % b == 0
        places = np.flatnonzero(excluded.any(axis=1 - axis))
        for border in range(t, s, t):
            assert border not in places
            assert border - 1 not in places
        if not count:
            assert t == w
    if not corrections.touches_border(wanted, sig):
        assert tile == wanted


def test_the_nearest_tile_is_taken() -> None:
    excluded = np.zeros((64, 64), dtype=bool)
    excluded[7] = True
    corrections = CorrectionSet(excluded_pixels=excluded, allow_empty=True)
    assert corrections.adjust_tileshape((8, 64), (64, 64), (1, 64)) == (9, 64)
    assert corrections.adjust_tileshape((8, 64), (64, 64), (4, 64)) == (12, 64)
    excluded[::2] = True
    dense = CorrectionSet(excluded_pixels=excluded, allow_empty=True)
    assert dense.adjust_tileshape((8, 64), (64, 64), (1, 64)) == (64, 64)
