"""Every form of a region of interest means the same."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sparse

from tilework.common.roi import normalize_roi

NAV = (3, 4)


def wanted() -> np.ndarray[Any, Any]:
    mask = np.zeros(NAV, dtype=bool)
    mask[1, 2] = mask[2, 0] = True
    return mask


@pytest.mark.parametrize(
    "roi",
    [
        wanted(),
        wanted().reshape(-1),
        scipy.sparse.csr_matrix(wanted()),
        scipy.sparse.coo_array(wanted()),
        scipy.sparse.csr_matrix(wanted()).todense(),
        sparse.COO.from_numpy(wanted()),
        [((1, 2), True), ((2, 0), True)],
        [(c, False) for c in np.ndindex(*NAV) if c not in {(1, 2), (2, 0)}],
    ],
)
def test_all_forms_select_the_same(roi: Any) -> None:
    mask = normalize_roi(roi, NAV)
    assert type(mask) is np.ndarray
    assert np.array_equal(mask, wanted())


def test_arrays_of_other_packages_are_arrays() -> None:
    """Such as a comparison of a result of the delayed executor, or of an array with named axes."""
    dask_array = pytest.importorskip("dask.array").from_array(wanted())
    named = pytest.importorskip("xarray").DataArray(wanted(), dims=("y", "x"))
    for roi in (dask_array, named):
        mask = normalize_roi(roi, NAV)
        assert isinstance(mask, np.ndarray)
        assert np.array_equal(mask, wanted())


def test_a_coordinate_selects_one_position() -> None:
    mask = normalize_roi((1, -1), NAV)
    assert mask is not None
    assert mask.sum() == 1
    assert mask[1, 3]


def test_a_sparse_array_that_leaves_out_is_understood() -> None:
    mask = normalize_roi(sparse.COO(coords=[[1], [2]], data=False, shape=NAV, fill_value=True), NAV)
    assert mask is not None
    assert mask.sum() == 11
    assert not mask[1, 2]


def test_the_callers_array_is_copied() -> None:
    roi = wanted()
    mask = normalize_roi(roi, NAV)
    roi[:] = False
    assert mask is not None
    assert mask.any()


def test_other_dtypes_are_converted_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="not bool"):
        mask = normalize_roi(wanted().astype(int), NAV)
    assert mask is not None
    assert np.array_equal(mask, wanted())


def test_a_result_that_is_nan_outside_of_its_roi_is_warned_of() -> None:
    """NaN is not 0: somebody who means the positions of a result must not get all others, too, without a word."""
    result = np.where(wanted(), 3.0, np.nan)
    with pytest.warns(UserWarning, match="not 0 are selected, those with NaN as well"):
        mask = normalize_roi(result, NAV)
    assert mask is not None
    assert mask.all()
    with pytest.warns(UserWarning, match="not 0 are selected$"):
        normalize_roi(np.nan_to_num(result), NAV)


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_what_is_masked_out_is_not_selected(dtype: Any) -> None:
    """As in what a comparison makes of a result that is valid in parts: nothing later sees a masked array."""
    roi = np.ma.masked_array(np.ones(NAV, dtype=dtype), mask=~wanted(), fill_value=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the roi is not bool")
        mask = normalize_roi(roi, NAV)
    assert type(mask) is np.ndarray
    assert np.array_equal(mask, wanted())


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((4, 3), r"give roi\.T if its axes are swapped, roi\.reshape\(-1\)"), ((2, 6), r"; roi\.reshape")],
)
def test_other_axes_are_warned_of(shape: tuple[int, ...], advice: str) -> None:
    """As many elements in other axes mean other positions than they seem to; what the array selects stays the same."""
    roi = np.zeros(shape, dtype=bool)
    roi[1, 0] = True
    with pytest.warns(UserWarning, match=rf"shape \({shape[0]}, {shape[1]}\), the scan \(3, 4\).*{advice}"):
        mask = normalize_roi(roi, NAV)
    np.testing.assert_array_equal(mask, roi.reshape(NAV))


@pytest.mark.parametrize("shape", [(12,), (1, 12), (12, 1), (3, 4, 1), (1, 3, 4)])
def test_a_flat_one_is_not_warned_of(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(normalize_roi(wanted().reshape(shape), NAV), wanted())


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.zeros((4, 4), dtype=bool), r"roi: incompatible shapes.*\(3, 4\).*\(4, 4\)"),
        ([((0, 0), True), ((0, 1), False)], "both"),
        ((1, 2, 3), "axes of the scan"),
        (5, "axes of the scan"),
        ((7, 0), "not within the scan"),
        ((0, -5), "not within the scan"),
        ("all", "cannot understand"),
        (5.0, "cannot understand"),
        ([((0.5, 1), True)], "cannot understand"),
        ([True, False], "cannot understand"),
        (wanted().astype(str), "roi: it holds text"),
        (np.ones((64, 64), dtype=bool).tolist(), r"^.{0,400}give a bool array of the shape of the scan"),
    ],
)
def test_what_does_not_fit_is_refused(roi: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize_roi(roi, NAV)
