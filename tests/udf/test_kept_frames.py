"""Frames that functions keep stay what they are, and otherwise the memory of one tile does for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, write_packed_mib
from tests_helpers import FrameMax
from tilework.api import Context
from tilework.corrections import CorrectionSet
from tilework.io.convert import PAYOFF
from tilework.udf import UDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.io.dataset.base import DataSet

NAV, SIG = (4, 8), (4, 128)
ROI = np.arange(32).reshape(NAV) % 3 != 1


class _InSmallTiles(UDF):
    def get_result_buffers(self) -> Any:
        return {"kept": self.buffer(kind="nav", dtype=object)}

    def get_tiling_preferences(self) -> Any:
        return {"depth": 2, "total_size": np.inf}


class _KeepsFrames(_InSmallTiles):
    def process_frame(self, frame: Any) -> None:
        self.results.kept[0] = frame[1:]


class _KeepsFramesAsStored(_KeepsFrames):
    def get_preferred_input_dtype(self) -> Any:
        return self.USE_NATIVE_DTYPE


class _KeepsTiles(_InSmallTiles):
    def process_tile(self, tile: Any) -> None:
        for i, frame in enumerate(tile):
            self.results.kept[i] = memoryview(frame[1:])  # which no array knows of


class _KeepsMatrices(_InSmallTiles):
    def get_backends(self) -> Any:
        return ("numpy.matrix",)

    def process_frame(self, frame: Any) -> None:
        self.results.kept[0] = frame[:, SIG[1] :]


class _KeepsSome(_InSmallTiles):
    """Keeps a frame of some tiles, and says of others where they lie."""

    def get_tiling_preferences(self) -> Any:
        return {"depth": 4, "total_size": np.inf}

    def process_frame(self, frame: Any) -> None:
        self.results.kept[0] = frame if self.meta.slice.origin[0] % 28 == 0 else frame.ctypes.data


class _Addresses(_InSmallTiles):
    """Says where each tile lies."""

    def process_tile(self, tile: Any) -> None:
        self.results.kept[:] = tile.ctypes.data


class _AddressesAsStored(_Addresses):
    def get_preferred_input_dtype(self) -> Any:
        return self.USE_NATIVE_DTYPE


class _Sparse(_InSmallTiles):
    def get_backends(self) -> Any:
        return ("scipy.sparse.csr_matrix",)

    def process_tile(self, tile: Any) -> None:
        self.results.kept[:] = tile.nnz


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("threads") as ctx:
        yield ctx


def _dataset(ctx: Context, stored: str, tmp_path: Path) -> DataSet:
    frames = _frames()
    if stored == "memory":
        return ctx.load("memory", data=frames, num_partitions=2)
    if stored == "npy":
        np.save(tmp_path / "scan.npy", frames.astype(">u2"))
        return ctx.load("npy", path=tmp_path / "scan.npy", num_partitions=2)
    write_packed_mib(tmp_path / "scan.mib", frames.reshape((-1, *SIG)), bits=12, quad=False)
    return ctx.load("mib", path=tmp_path / "scan.mib", nav_shape=NAV, num_partitions=2)


def _frames() -> NDArray[Any]:
    return counts((*NAV, *SIG), "u2", high=4095)


@pytest.mark.parametrize("cls", [_KeepsFrames, _KeepsFramesAsStored, _KeepsTiles, _KeepsMatrices])
@pytest.mark.parametrize("stored", ["memory", "npy", "packed"])
@pytest.mark.parametrize("roi", [None, ROI], ids=["all", "some"])
@pytest.mark.parametrize("dark", [None, np.ones(SIG)], ids=["plain", "corrected"])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_is_kept_stays(ctx: Context, tmp_path: Path, stored: str, cls: Any, roi: Any, dark: Any) -> None:
    """Also when a later run makes something else of the same data."""
    dataset = _dataset(ctx, stored, tmp_path)
    corrections = None if dark is None else CorrectionSet(dark=dark)
    run = ctx.run_udf(dataset=dataset, udf=cls(), roi=roi, corrections=corrections)
    ctx.run_udf(dataset=dataset, udf=cls(), roi=roi, corrections=CorrectionSet(dark=np.full(SIG, 7.0)))
    want = _frames()[np.ones(NAV, dtype=bool) if roi is None else roi][:, 1:] - (0.0 if dark is None else dark[1:])
    got = [np.asarray(kept).reshape(want.shape[1:]) for kept in run["kept"].raw_data]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("stored", ["memory", "packed"])
@pytest.mark.parametrize("dark", [None, np.ones(SIG)], ids=["plain", "corrected"])
def test_memory_of_a_tile_does_for_the_next(ctx: Context, tmp_path: Path, stored: str, dark: Any) -> None:
    """Nobody but functions of users holds on to a tile, so that nothing is allocated for each of them."""
    dataset = _dataset(ctx, stored, tmp_path)
    corrections = None if dark is None else CorrectionSet(dark=dark)
    first = _Addresses() if stored == "memory" else _AddressesAsStored()  # in memory, what is stored is where it is
    for others in ([], [SumUDF(), FrameMax()], [_Sparse()]):
        results = ctx.run_udf(dataset=dataset, udf=[first, *others], corrections=corrections)
        where = results[0]["kept"].data
        assert [len(set(part.reshape(-1))) for part in np.split(where, 2)] == [1, 1]


@pytest.mark.parametrize("name", ["inline", "threads"])
def test_kernels_write_nowhere_else(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    """What is found out about one tile is done to the next ones: where somebody has kept that one, anew."""
    monkeypatch.setattr(PAYOFF, "pixels", PAYOFF.to_import)
    frames = counts((64, 128, 128), "u2")
    with Context.make_with(name) as ctx:
        run = ctx.run_udf(dataset=ctx.load("memory", data=frames, num_partitions=1), udf=_KeepsSome())
    kept = run["kept"].data
    np.testing.assert_array_equal(list(kept[::28]), frames[::28])
    # The first frame of the first tile, of the eighth and of the fifteenth: others are where the tile before them was.
    begins = [begin if isinstance(begin, int) else begin.ctypes.data for begin in kept[::4]]
    np.testing.assert_array_equal(np.flatnonzero(np.diff(begins)), [0, 7, 14])
