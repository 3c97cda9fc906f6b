"""What arguments say: every form of them, and what is refused."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.cli.values import (
    FromFile,
    Length,
    parse_length,
    parse_parameter,
    parse_point,
    parse_roi,
    parse_shape,
)

if TYPE_CHECKING:
    from pathlib import Path


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_shapes(shape: list[int]) -> None:
    """With commas, with x, with spaces, as Python writes them."""
    for text in (",".join(map(str, shape)), "x".join(map(str, shape)), str(tuple(shape)), ", ".join(map(str, shape))):
        assert parse_shape(text) == tuple(shape)


@pytest.mark.parametrize("text", ["", "a,b", "0,3", "-1,3", "1.5,2"])
def test_bad_shapes(text: str) -> None:
    """Not positive, not whole, not numbers."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a shape"):
        parse_shape(text)


def test_points() -> None:
    """y,x with fractions."""
    assert parse_point("63.5,-64") == (63.5, -64.0)
    for text in ("1", "1,2,3", "a,b", "nan,1", "inf,1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a point"):
            parse_point(text)


def test_lengths() -> None:
    """A positive number with a unit."""
    assert parse_length("0.5nm") == Length(0.5, "nm")
    assert parse_length(" 3e-1 mrad ") == Length(0.3, "mrad")
    assert parse_length("2um") == Length(2, "µm")
    for units in ("1/nm", "nm^-1", "nm-1", "nm⁻¹", "Å", "µm", "mrad/px", "1/Å"):
        assert parse_length(f"0.5 {units}") == Length(0.5, units)
    two = ("0.5,0.6nm", "0.5nm,0.6nm", "0.5, 0.6nm", "0.5x0.6nm", "0.5nm;0.6nm", "0.5nm0.6nm", "0.5 nm 0.6", "1.5nm12")
    for text in ("5", "nm", "-1nm", "0nm", "1..2nm", "1e999nm", *two):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a length"):
            parse_length(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=3.5", 3.5),
        ("a=true", True),
        ("a=None", None),
        ("a=yes", True),
        ("a=on", True),
        ("a=No", False),
        ("a= off ", False),
        ("a='on'", "on"),
        ("a=[1, 2]", [1, 2]),
        ("a='3'", "3"),
        ("a=float32", "float32"),
        ("a=inf", np.inf),
        ("a=x=y", "x=y"),
        ("a=", ""),
        ("a=@m.npy", FromFile("m.npy")),
    ],
)
def test_parameters(text: str, value: Any) -> None:
    """Numbers, text, lists, arrays from files."""
    assert parse_parameter(text) == ("a", value)


@pytest.mark.parametrize("text", ["a", "=3", "1a=3", "a-b=3"])
def test_bad_parameters(text: str) -> None:
    """No name, no value."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a parameter"):
        parse_parameter(text)


def test_roi_forms() -> None:
    """Disk, rectangle, slices: the same masks as drawn by NumPy."""
    shape = (12, 10)
    y, x = np.mgrid[:12, :10]
    np.testing.assert_array_equal(parse_roi("disk:5,4.5,3").mask(shape), (y - 5) ** 2 + (x - 4.5) ** 2 <= 9)
    expected = np.zeros(shape, bool)
    expected[2:6, 3:5] = True
    np.testing.assert_array_equal(parse_roi("rect:2,3,4,2").mask(shape), expected)
    np.testing.assert_array_equal(parse_roi("2:6,3:5").mask(shape), expected)
    expected = np.zeros(shape, bool)
    expected[::2, -1] = True
    np.testing.assert_array_equal(parse_roi("::2,-1").mask(shape), expected)
    row = np.zeros(shape, bool)
    row[3] = True
    np.testing.assert_array_equal(parse_roi("3").mask(shape), row)


@given(st.integers(-5, 15), st.integers(-5, 15), st.integers(1, 20), st.integers(1, 20))
def test_rectangle_is_clipped(top: int, left: int, height: int, width: int) -> None:
    """A rectangle beyond the border selects what lies within, and never wraps around."""
    y, x = np.mgrid[:12, :10]
    expected = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    roi = parse_roi(f"rect:{top},{left},{height},{width}")
    if expected.any():
        np.testing.assert_array_equal(roi.mask((12, 10)), expected)
    else:
        with pytest.raises(ValueError, match="selects nothing"):
            roi.mask((12, 10))


def test_roi_that_does_not_fit(tmp_path: Path) -> None:
    """Too many axes, outside, empty, another shape, not bool, not there: each says so."""
    with pytest.raises(ValueError, match="has 3 axes"):
        parse_roi("0:1,0:1,0:1").mask((4, 4))
    with pytest.raises(ValueError, match="outside of a scan"):
        parse_roi("9").mask((4, 4))
    with pytest.raises(ValueError, match="selects nothing"):
        parse_roi("disk:50,50,2").mask((4, 4))
    with pytest.raises(ValueError, match="needs a scan with two axes"):
        parse_roi("disk:1,1,2").mask((16,))
    path = tmp_path / "m.npy"
    np.save(path, np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"the mask has shape \(3, 4\), the scan \(4, 4\)"):
        parse_roi(str(path)).mask((4, 4))
    np.save(path, np.full((4, 4), 0.5))
    with pytest.raises(ValueError, match="holds float64, not bool"):
        parse_roi(str(path)).mask((4, 4))
    np.save(path, np.eye(4, dtype=np.uint8))
    np.testing.assert_array_equal(parse_roi(str(path)).mask((4, 4)), np.eye(4, dtype=bool))
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not an array"):
        parse_roi(str(path)).mask((4, 4))
    with pytest.raises(FileNotFoundError):
        parse_roi("nothing.npy").mask((4, 4))
