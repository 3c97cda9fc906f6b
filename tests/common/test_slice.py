from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.common import Shape, Slice, SliceUsageError
from tilework.common.slice import disjoint

NAV, SIG = (4, 5), (6, 7)
WHOLE = Slice.from_shape((*NAV, *SIG), sig_dims=2)
EVERYTHING = np.arange(WHOLE.shape.size).reshape(*NAV, *SIG)


@st.composite
def slices(draw: st.DrawFn, shape: tuple[int, ...] = (*NAV, *SIG)) -> Slice:
    """Draw any region that lies in `shape`, empty ones included."""
    starts = [draw(st.integers(0, n)) for n in shape]
    sizes = [draw(st.integers(0, n - start)) for n, start in zip(shape, starts, strict=True)]
    return Slice(tuple(starts), Shape(sizes, 2))


def elements(slice_: Slice) -> set[int]:
    return set(EVERYTHING[slice_.get()].ravel().tolist())


@given(slices(), slices())
def test_intersection_holds_what_is_in_both_and_is_symmetric(a: Slice, b: Slice) -> None:
    both = a.intersection_with(b)
    assert elements(both) == elements(a) & elements(b)
    assert both == b.intersection_with(a)
    assert both.is_null() == (not elements(both))
    assert a.intersection_with(a) == a
    assert a.intersection_with(WHOLE) == a


@given(slices(), st.tuples(*[st.integers(1, 8)] * 4))
def test_subslices_hold_every_element_once_in_c_order(slice_: Slice, shape: tuple[int, int, int, int]) -> None:
    pieces = list(slice_.subslices(shape))
    count = np.zeros(WHOLE.shape.to_tuple(), dtype=int)
    for piece in pieces:
        count[piece.get()] += 1
        assert piece.shape.sig_dims == 2
        assert all(0 < n <= m for n, m in zip(piece.shape, shape, strict=True))
    expected = np.zeros_like(count)
    expected[slice_.get()] = 1
    np.testing.assert_array_equal(count, expected)
    assert [p.origin for p in pieces] == sorted(p.origin for p in pieces)


@given(slices(), slices())
def test_shift_counts_from_the_other_origin_and_back(a: Slice, b: Slice) -> None:
    shifted = a.shift(b)
    assert shifted.shape == a.shape
    assert shifted.shift_by(b.origin) == a
    assert a.shift(a).origin == (0, 0, 0, 0)


@given(slices(), st.tuples(*[st.integers(0, 8)] * 4))
def test_clip_cuts_at_the_upper_border(slice_: Slice, border: tuple[int, int, int, int]) -> None:
    clipped = slice_.clip_to(border)
    assert elements(clipped) == elements(slice_.intersection_with(Slice.from_shape(border, 2)))
    assert clipped.origin == slice_.origin


@given(st.data(), st.integers(1, 40))
def test_adjust_for_roi_counts_selected_frames(data: st.DataObject, n: int) -> None:
    """The adjusted slice finds, among the selected frames alone, exactly those that the slice holds of all frames."""
    start = data.draw(st.integers(0, n))
    length = data.draw(st.integers(0, n - start))
    roi = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    slice_ = Slice((start, 0, 1), Shape((length, 2, 3), 2))
    adjusted = slice_.adjust_for_roi(roi)
    frames = np.arange(n)
    expected = [f for f in frames[start : start + length] if roi[f]]
    np.testing.assert_array_equal(frames[roi][adjusted.get(nav_only=True)], expected)
    assert adjusted.sig == slice_.sig
    assert slice_.adjust_for_roi(None) == slice_
    assert slice_.adjust_for_roi(np.ones(n, dtype=bool)) == slice_
    assert {type(i) for i in (*adjusted.origin, *adjusted.shape)} == {int}


def test_adjust_for_roi_takes_the_roi_in_the_shape_of_the_scan() -> None:
    roi = np.zeros((2, 4), dtype=bool)
    roi[0, 1] = roi[1, 0] = roi[1, 3] = True
    assert Slice((2, 0), Shape((5, 9), 1)).adjust_for_roi(roi) == Slice((1, 0), Shape((1, 9), 1))
    with pytest.raises(SliceUsageError, match="2 navigation axes"):
        WHOLE.adjust_for_roi(roi)


@given(slices())
def test_flattened_slice_holds_the_same_frames_or_is_refused(slice_: Slice) -> None:
    """Whatever is contiguous can be flattened; nothing else can."""
    frames = np.arange(20).reshape(NAV)[slice_.nav.get()].ravel()
    is_run = len(frames) > 0 and frames[-1] - frames[0] == len(frames) - 1
    for whole in (WHOLE.shape, WHOLE.shape.nav, (*NAV, *SIG), NAV):
        try:
            flat = slice_.flatten_nav(whole)
        except SliceUsageError:
            assert not is_run
            continue
        np.testing.assert_array_equal(np.arange(20)[flat.nav.get()], frames)
        assert flat.sig == slice_.sig
        assert flat.shape.nav_dims == 1
        assert {type(i) for i in (*flat.origin, *flat.shape)} == {int}


def test_flatten_nav_of_single_frames_and_runs() -> None:
    assert Slice((3, 2, 0, 0), Shape((1, 1, *SIG), 2)).flatten_nav(NAV) == Slice((17, 0, 0), Shape((1, *SIG), 2))
    assert Slice((1, 0, 0, 0), Shape((2, 5, *SIG), 2)).flatten_nav(NAV) == Slice((5, 0, 0), Shape((10, *SIG), 2))
    assert Slice((2, 0, 0), Shape((3, *SIG), 2)).flatten_nav((20,)) == Slice((2, 0, 0), Shape((3, *SIG), 2))
    assert Slice((0, 0), Shape(SIG, 2)).flatten_nav(SIG) == Slice((0, 0, 0), Shape((1, *SIG), 2))
    with pytest.raises(SliceUsageError, match="number of axes"):
        WHOLE.flatten_nav((4,))


def test_get_selects_all_nav_or_sig_axes() -> None:
    slice_ = Slice((1, 2, 3, 0), Shape((2, 1, 3, 7), 2))
    assert slice_.get() == (slice(1, 3), slice(2, 3), slice(3, 6), slice(0, 7))
    np.testing.assert_array_equal(slice_.get(EVERYTHING), EVERYTHING[1:3, 2:3, 3:6])
    np.testing.assert_array_equal(slice_.get(EVERYTHING, sig_only=True), EVERYTHING[:, :, 3:6])
    np.testing.assert_array_equal(slice_.get(EVERYTHING[0, 0], sig_only=True), EVERYTHING[0, 0, 3:6])
    np.testing.assert_array_equal(slice_.get(EVERYTHING, nav_only=True), EVERYTHING[1:3, 2:3])
    assert slice_.get(sig_only=True) == slice_.sig.get() == (slice(3, 6), slice(0, 7))
    assert slice_.get(nav_only=True) == slice_.nav.get() == (slice(1, 3), slice(2, 3))
    assert np.shares_memory(slice_.get(EVERYTHING), EVERYTHING)
    with pytest.raises(SliceUsageError):
        slice_.get(sig_only=True, nav_only=True)


def test_discard_nav_is_a_key_for_the_sig_part() -> None:
    a, b = Slice((1, 2, 3, 0), Shape((2, 1, 3, 7), 2)), Slice((0, 4, 3, 0), Shape((1, 1, 3, 7), 2))
    assert a != b
    assert {a.discard_nav(): "value"}[b.discard_nav()] == "value"
    assert a.discard_nav() == Slice((0, 0, 3, 0), Shape((0, 0, 3, 7), 2))
    assert a.discard_nav() != Slice((1, 2, 3, 1), Shape((2, 1, 3, 6), 2)).discard_nav()


@given(slices())
def test_equal_hashable_picklable(slice_: Slice) -> None:
    fresh = pickle.dumps(slice_)
    assert slice_.nav is not None
    assert slice_.sig is not None
    assert pickle.dumps(slice_) == fresh
    copy = pickle.loads(fresh)
    assert copy == slice_
    assert hash(copy) == hash(slice_)
    assert copy != slice_.origin
    assert slice_.shift_by((1, 0, 0, 0)) != slice_
    assert Slice(slice_.origin, Shape(slice_.shape, 1)) != slice_


def test_no_numpy_scalars_leak() -> None:
    slice_ = Slice(np.array([1, 2, 3]), Shape(np.array([4, 5, 6]), 2))
    assert {type(i) for i in slice_.origin} == {int}
    assert {type(i) for i in slice_.shift_by(np.array([1, 2, 3]).tolist()).origin} == {int}


def test_misuse_shows_both_sides() -> None:
    three: Any = Slice((0, 0, 0), Shape((1, 2, 3), 2))
    wrong: Any = (1, 2)
    with pytest.raises(SliceUsageError, match="tuple"):
        Slice((0, 0), wrong)
    with pytest.raises(SliceUsageError, match="same number of axes"):
        Slice((0,), Shape((1, 2), 2))
    for misuse in (
        lambda: WHOLE.intersection_with(three),
        lambda: three.intersection_with(Slice((0, 0, 0), Shape((1, 2, 3), 1))),
        lambda: WHOLE.shift(three),
        lambda: WHOLE.shift_by((1, 2)),
        lambda: WHOLE.clip_to((1, 2)),
        lambda: WHOLE.subslices((1, 2)),
        lambda: WHOLE.subslices((1, 1, 0, 1)),
    ):
        with pytest.raises(SliceUsageError, match="origin="):
            misuse()
    with pytest.raises(ValueError):
        WHOLE.shift(three)
    with pytest.raises(AttributeError):
        WHOLE.signal  # type: ignore[attr-defined]  # noqa: B018


@given(slices(), st.lists(slices(), max_size=4))
def test_disjoint_regions_share_no_element(part: Slice, others: list[Slice]) -> None:
    covered = np.zeros(EVERYTHING.shape, dtype=bool)
    for other in others:
        covered[other.get()] = True
    assert disjoint(part, others) == (not covered[part.get()].any())
