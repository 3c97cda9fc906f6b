"""Which part of a result is valid: boxes, runs, and masks that fit."""

from __future__ import annotations

import numpy as np
import pytest

from tilework.common.buffers import (
    ArrayWithMask,
    InvalidMaskError,
    get_bbox,
    get_bbox_2d,
    get_bbox_slice,
    get_inner_slice,
)


def test_inner_slice_is_the_first_run_in_which_everything_is_valid() -> None:
    mask = np.ones((6, 3), dtype=bool)
    mask[0, 1] = mask[4] = False
    assert get_inner_slice(mask) == (slice(1, 4), slice(0, 3))
    assert get_inner_slice(np.zeros((2, 2), dtype=bool)) == (slice(0, 0), slice(0, 2))
    assert get_bbox_slice(np.zeros((2, 2), dtype=bool)) == (slice(0, 0), slice(0, 0))
    box = np.zeros((5, 6), dtype=bool)
    box[1:3, 2:5] = True
    assert get_bbox(box) == get_bbox_2d(box) == (1, 2, 2, 4)
    assert get_bbox(box[0]) == (6, 0)
    with pytest.raises(ValueError, match="two axes"):
        get_bbox_2d(box[0])


def test_array_with_mask_refuses_what_does_not_fit() -> None:
    assert ArrayWithMask(np.zeros((2, 3)), mask=True).mask.shape == (2, 3)
    with pytest.raises(InvalidMaskError, match="bool"):
        ArrayWithMask(np.zeros(3), np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(InvalidMaskError, match="does not fit"):
        ArrayWithMask(np.zeros(3), np.zeros(4, dtype=bool))
