"""Corrections of arrays against plain loops in double precision, and the same bits on all paths."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sparse
from hypothesis import given
from hypothesis import strategies as st

from detector_files import counts
from tilework.exceptions import CorrectError, RepairValueError
from tilework.io.corrections.detector import as_flat, correct, correct_dot_masks, correct_frames
from tilework.io.corrections.repair import RepairDescriptor, excluded_coordinates

SIG = (7, 6)
RNG = np.random.default_rng(0)
DARK, GAIN = RNG.random(SIG) * 10, RNG.random(SIG) + 0.5
EXCLUDED = np.zeros(SIG, dtype=bool)
EXCLUDED[[0, 0, 3, 6, 2], [0, 1, 3, 5, 2]] = True


def plainly(frames: Any, dark: Any, gain: Any, excluded: Any) -> Any:
    """Correct frames pixel by pixel, in double precision."""
    wide = frames.astype(np.result_type(frames.dtype.newbyteorder("="), np.float64))
    wide = (wide - (0 if dark is None else dark)) * (1 if gain is None else gain)
    result = wide.copy()
    sig = excluded.shape
    for place in np.argwhere(excluded):
        around = [
            tuple(place + step)
            for step in itertools.product((-1, 0, 1), repeat=len(sig))
            if any(step) and all(0 <= p < s for p, s in zip(place + step, sig, strict=True))
        ]
        usable = [wide[(..., *p)] for p in around if not excluded[p]]
        result[(..., *place)] = np.mean(usable, axis=0)
    return result


@pytest.mark.parametrize("dtype", ["b1", "u1", "u2", ">u2", "i2", ">u4", "u8", "f2", "f4", ">f4", "f8", "c8", "c16"])
def test_formula(dtype: str) -> None:
    """``(frame - dark) * gain``, then repaired; relative error below 1e-6 in single and 1e-14 in double precision."""
    frames = counts((3, 2, *SIG), dtype)
    for dark, gain, excluded in itertools.product((None, DARK), (None, GAIN), (None, EXCLUDED)):
        got = correct(frames, dark, gain, excluded, sig_shape=SIG)
        assert got.dtype == np.result_type(np.float32, np.dtype(dtype))
        expected = plainly(frames, dark, gain, np.zeros(SIG, dtype=bool) if excluded is None else excluded)
        precision = 1e-6 if got.dtype in (np.float32, np.complex64) else 1e-14
        np.testing.assert_allclose(got, expected, rtol=precision, atol=precision * np.abs(expected).max())


@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [
        *((dtype, np.float32) for dtype in ("b1", "u1", "u2", ">u2", ">i2", "f4", ">f4", "c8")),
        *((dtype, np.float64) for dtype in ("u2", ">u2", "u4", ">u4", ">i8", "f8")),
    ],
)
def test_compiled_and_not_give_the_same_bits(dtype: str, out_dtype: Any) -> None:
    """For any number of threads, with gaps between the frames, and for any number of frames and pixels."""
    out_dtype = np.result_type(out_dtype, np.complex64) if dtype == "c8" else np.dtype(out_dtype)
    for shape in ((1, *SIG), (4, *SIG), (9, 3, 5), (5, 70, 600)):
        sig = shape[1:]
        rng = np.random.default_rng(sum(shape))
        with_gaps = counts((shape[0], 2, *sig), dtype)[:, 1]
        excluded = rng.random(sig) < 0.1
        descriptor = RepairDescriptor(sig, excluded, allow_empty=True)
        images = [as_flat(rng.random(sig), out_dtype) for _ in range(2)]
        for dark, gain in itertools.product((None, images[0]), (None, images[1])):
            results = []
            for compiled, threads in ((False, 1), (True, 1), (True, 3)):
                out = np.full((shape[0], sig[0] * sig[1]), 7, dtype=out_dtype)
                correct_frames(with_gaps, dark, gain, descriptor, out, compiled=compiled, threads=threads)
                results.append(out.tobytes())
            assert results[0] == results[1] == results[2], (shape, dark is None, gain is None)


@given(st.data())
def test_repair(data: st.DataObject) -> None:
    """Excluded pixels anywhere, on detectors with one to three axes: the mean of the usable neighbours."""
    sig = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    excluded = np.array(data.draw(st.lists(st.booleans(), min_size=int(np.prod(sig)), max_size=int(np.prod(sig)))))
    excluded = excluded.reshape(sig) & (np.random.default_rng(3).random(sig) < 0.4)
    frames = np.random.default_rng(1).random((2, *sig))
    try:
        got = correct(frames, excluded_pixels=excluded, sig_shape=sig)
    except RepairValueError:
        allowed = correct(frames, excluded_pixels=excluded, sig_shape=sig, allow_empty=True)
        np.testing.assert_array_equal(allowed[..., ~excluded], frames[..., ~excluded])
    else:
        np.testing.assert_allclose(got, plainly(frames, None, None, excluded), rtol=1e-14)


def test_forms_of_excluded_pixels() -> None:
    """A bool map, sparse ones, and coordinates mean the same."""
    coords = np.nonzero(EXCLUDED)
    forms = [EXCLUDED, sparse.COO.from_numpy(EXCLUDED), coords, np.array(coords)]
    inverted = sparse.COO.from_numpy(EXCLUDED, fill_value=True)
    for form in [*forms, inverted]:
        np.testing.assert_array_equal(excluded_coordinates(form, SIG), np.array(coords))
    assert excluded_coordinates(np.zeros((2, 0), dtype=int), SIG).shape == (2, 0)
    twice = excluded_coordinates(np.array([[1, 1], [2, 2]]), SIG)
    np.testing.assert_array_equal(twice, [[1], [2]])
    for wrong, message in (
        (np.zeros((3, 3), dtype=bool), "must have the shape of the detector"),
        (np.zeros((3, 3), dtype=int), "neither a bool map"),
        (np.array([[1.5], [2.0]]), "neither a bool map"),
        (np.array([[7], [0]]), "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            excluded_coordinates(wrong, SIG)


def test_in_place() -> None:
    """Floats are corrected where they lie; what cannot be is refused."""
    frames = counts((3, *SIG), "f4")
    expected = correct(frames, DARK, GAIN, EXCLUDED)
    out = correct(frames, DARK, GAIN, repair_descriptor=RepairDescriptor(SIG, EXCLUDED), inplace=True)
    assert out is frames
    np.testing.assert_array_equal(frames, expected)
    with pytest.raises(TypeError, match="only floats"):
        correct(counts((3, *SIG), "u2"), DARK, inplace=True)
    with pytest.raises(CorrectError, match="contiguous"):
        correct(np.zeros((*SIG, 2))[..., 0], DARK, inplace=True)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">c8"])
def test_in_place_in_another_byte_order(dtype: str) -> None:
    frames = counts((3, *SIG), dtype)
    expected = correct(frames, DARK, GAIN, EXCLUDED)
    correct(frames, DARK, GAIN, EXCLUDED, inplace=True)
    assert frames.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(frames, expected)


def test_what_does_not_fit_is_refused() -> None:
    """Shapes that differ or are not known, and two descriptions of the same."""
    frames = counts((2, *SIG), "f4")
    with pytest.raises(ValueError, match="not known"):
        correct(frames)
    with pytest.raises(ValueError, match="differ"):
        correct(frames, DARK, GAIN[1:])
    with pytest.raises(ValueError, match="do not fit frames"):
        correct(frames[:, 1:], DARK)
    number: Any = 3.0
    with pytest.raises(ValueError, match="dark_image must have the shape of a frame"):
        correct(frames, number)
    with pytest.raises(ValueError, match="one of them"):
        correct(frames, DARK, None, EXCLUDED, RepairDescriptor(SIG, EXCLUDED))
    everything = np.ones(SIG, dtype=bool)
    with pytest.raises(RepairValueError, match=r"\(0, 0\), .* and 37 more"):
        RepairDescriptor(SIG, everything)
    assert len(RepairDescriptor(SIG, everything, allow_empty=True)) == 0


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_masks_instead_of_frames(kind: str) -> None:
    """Corrected masks give for raw frames what the masks give for corrected ones; relative error below 1e-12."""
    frames = counts((4, *SIG), "f8")
    masks: Any = np.random.default_rng(5).normal(size=(3, *SIG))
    expected = np.einsum("nyx,myx->nm", plainly(frames, None, GAIN, EXCLUDED), masks)
    given_masks = sparse.COO.from_numpy(masks) if kind == "sparse" else masks
    changed: Any = correct_dot_masks(given_masks, GAIN, EXCLUDED)
    if kind == "sparse":
        assert isinstance(changed, sparse.COO)
        changed = changed.todense()
    np.testing.assert_allclose(np.einsum("nyx,myx->nm", frames, changed), expected, rtol=1e-12)
    only_excluded = correct_dot_masks(masks, None, EXCLUDED)
    without_gain = np.einsum("nyx,myx->nm", plainly(frames, None, None, EXCLUDED), masks)
    np.testing.assert_allclose(np.einsum("nyx,myx->nm", frames, only_excluded), without_gain, rtol=1e-12)
    np.testing.assert_array_equal(correct_dot_masks(masks, None, EXCLUDED.tolist()), only_excluded)
    assert correct_dot_masks(masks.astype("f4"), GAIN.astype("f4")).dtype == np.float32
    with pytest.raises(ValueError, match="not known"):
        correct_dot_masks(masks, None, np.nonzero(EXCLUDED))
    with pytest.raises(ValueError, match="do not fit masks"):
        correct_dot_masks(masks[..., 1:], GAIN)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_masks_do_not_see_the_gain_of_excluded_pixels(kind: str, bad: float) -> None:
    """A gain map made by dividing by a flat field is NaN or infinite where a pixel is dead; it stays as it is."""
    masks: Any = np.random.default_rng(5).normal(size=(3, *SIG))
    gain = np.where(EXCLUDED, bad, GAIN)
    expected = correct_dot_masks(masks, GAIN, EXCLUDED)
    got: Any = correct_dot_masks(sparse.COO.from_numpy(masks) if kind == "sparse" else masks, gain, EXCLUDED)
    np.testing.assert_array_equal(got.todense() if kind == "sparse" else got, expected)
    np.testing.assert_array_equal(gain, np.where(EXCLUDED, bad, GAIN))
