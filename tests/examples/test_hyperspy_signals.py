"""The example of signals of HyperSpy: results are those of the counts, with the axes of the scan."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.filterwarnings("ignore")  # those of HyperSpy
def test_signals_are_datasets_and_results_signals(tmp_path: Path) -> None:
    """Sums and centres of mass are those of NumPy; what is an image knows the step of the scan."""
    hs: Any = pytest.importorskip("hyperspy.api", reason="HyperSpy is not installed: pip install hyperspy")
    importlib.import_module("hyperspy_signals").main(tmp_path)
    counts = hs.load(tmp_path / "scan.hspy").data
    sums = hs.load(tmp_path / "sums.hspy")
    assert np.array_equal(sums.data, counts.sum(axis=(2, 3)))
    assert [(axis.scale, axis.units) for axis in sums.axes_manager.signal_axes] == [(2.0, "nm")] * 2
    shifts = hs.load(tmp_path / "shifts.hspy").data
    y, x = np.indices((32, 32))
    expected = [np.sum(counts * axis, axis=(2, 3)) / counts.sum(axis=(2, 3)) - 16 for axis in (x, y)]
    assert np.allclose(shifts, expected, atol=1e-4)
