"""What only programs of LiberTEM want."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp

from tilework.api import Context
from tilework.common import Shape, Slice
from tilework.compat.libertem.backends import BufferedBackend, DirectBackend, MMapBackend
from tilework.compat.libertem.compiled import cached_njit, numba_dtypes, rmatmul
from tilework.compat.libertem.coordinates import get_coordinates
from tilework.exceptions import DataSetException

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_rmatmul(kind: Any) -> None:
    rng = np.random.default_rng(0)
    dense, masks = rng.random((5, 7)), rng.random((7, 3)) * (rng.random((7, 3)) < 0.4)
    product = rmatmul(dense, kind(masks))
    assert isinstance(product, np.ndarray)
    assert np.allclose(product, dense @ masks)


def test_rmatmul_refuses_what_does_not_fit() -> None:
    for left, right, said in (
        (np.ones(3), sp.csr_matrix(np.eye(3)), "two dimensions"),
        (np.ones((2, 4)), sp.csr_matrix(np.eye(3)), "do not fit"),
        (np.ones((2, 3)), sp.coo_matrix(np.eye(3)), "CSR or CSC"),
        (np.ones((2, 3)), np.eye(3), "CSR or CSC"),
    ):
        with pytest.raises(ValueError, match=said):
            rmatmul(left, right)


def test_cached_njit(tmp_path: Path) -> None:
    """It is kept on disk for the next process, and not older than what it calls."""
    code = """\
from other import factor
from tilework.compat.libertem.compiled import cached_njit

@cached_njit(fastmath=True, cache=True)
def scaled(x):
    return x * factor

if __name__ == "__main__":
    print(scaled(2.0), len(scaled.stats.cache_hits))
"""
    (tmp_path / "program.py").write_text(code)
    said = []
    for factor in ("3.0", "3.0", "4.5"):
        (tmp_path / "other.py").write_text(f"factor = {factor}\n")
        done = subprocess.run(
            [sys.executable, "-B", "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said == [["6.0", "0"], ["6.0", "1"], ["9.0", "0"]]


def test_cached_njit_divides_as_python_does() -> None:
    def inverse(x: float) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError):
        cached_njit()(inverse)(0.0)


def test_dtypes() -> None:
    assert np.dtype("complex64") in numba_dtypes
    assert np.dtype("float16") not in numba_dtypes


def test_backends_are_what_load_takes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4, 5), dtype=np.float32))
    with Context.make_with("inline") as ctx:
        ds = ctx.load("npy", path=tmp_path / "a.npy", io_backend=MMapBackend(enable_readahead_hints=True))
        assert ds.shape.to_tuple() == (2, 3, 4, 5)
        for backend in (BufferedBackend(max_buffer_size=1 << 20), DirectBackend()):
            with pytest.raises(DataSetException, match="memory maps only"):
                ctx.load("npy", path=tmp_path / "a.npy", io_backend=backend)


def test_positions_of_the_frames_of_a_slice() -> None:
    """With a ROI, frames are counted among the selected ones, and a slice may reach beyond them."""

    def of(origin: int, frames: int, nav: tuple[int, ...], roi: Any = None) -> Any:
        where = Slice((origin, 0, 0), Shape((frames, 6, 7), sig_dims=2))
        found = get_coordinates(where, Shape((*nav, 6, 7), sig_dims=2), roi)
        assert found.dtype == np.int64
        return found.tolist()

    roi = np.zeros((4, 5), dtype=bool)
    roi[[0, 1, 3, 3], [1, 2, 0, 4]] = True
    assert of(4, 3, (4, 5)) == [[0, 4], [1, 0], [1, 1]]
    assert of(3, 2, (2, 2, 5)) == [[0, 0, 3], [0, 0, 4]]
    assert of(1, 2, (4, 5), roi) == of(1, 2, (4, 5), roi.reshape(-1)) == [[1, 2], [3, 0]]
    assert of(2, 9, (4, 5), roi) == [[3, 0], [3, 4]]
    assert of(0, 2, (4, 5), roi & False) == []
