"""Compiled functions of a tile: right results, the same from every executor and from Python, for any tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest

from every_executor import EVERY_EXECUTOR, make_context
from tests_helpers import counts
from tilework.api import Context
from tilework.common.udf import UDFMethod
from tilework.corrections import CorrectionSet
from tilework.executor.inline import InlineJobExecutor
from tilework.udf import UDF
from tilework.udf.plan import KERNELS_VARIABLE
from tilework.udf.user_kernels import _CompiledKernel, _tile_compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = (6, 5, 8, 7)


def weigh(tile: Any, total: Any, moments: Any, pattern: Any, parts: Any, weight: Any, gain: Any, factor: Any) -> None:
    """Weighted sums of frames and of pixels."""
    for i in range(tile.shape[0]):
        for y in range(tile.shape[1]):
            for x in range(tile.shape[2]):
                value = tile[i, y, x] * gain[y, x] * factor
                total[i] += value
                moments[i, 0] += value
                moments[i, 1] += value * value
                pattern[y, x] += value * weight[i]
        parts[0] += 1


class Weighed(UDF):
    """Has buffers and parameters of all kinds; numbers are such that sums are exact in any order."""

    def __init__(self, weight: Any, gain: Any, factor: float) -> None:
        super().__init__(weight=weight, gain=gain, factor=factor)

    def get_result_buffers(self) -> Any:
        return {
            "total": self.buffer(kind="nav", dtype=np.float64),
            "moments": self.buffer(kind="nav", extra_shape=(2,), dtype=np.float64),
            "pattern": self.buffer(kind="sig", dtype=np.float64),
            "parts": self.buffer(kind="single", dtype=np.int64),
        }

    def get_tile_kernel(self) -> Any:
        return weigh

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] = src.total
        dest.moments[:] = src.moments
        dest.pattern[:] += src.pattern
        dest.parts[:] += src.parts


class CompiledByUser(Weighed):
    _kernel = staticmethod(numba.njit(weigh))

    def get_tile_kernel(self) -> Any:
        return self._kernel


class OnStoredNumbers(Weighed):
    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        return dtype.kind in "uif"


def arguments() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    weight = np.round(rng.random(SHAPE[:2]) * 8) / 8
    gain = np.round(rng.random(SHAPE[2:]) * 8) / 8
    return {
        "weight": UDF.aux_data(weight, kind="nav", dtype=np.float64),
        "gain": UDF.aux_data(gain, kind="sig", dtype=np.float64),
        "factor": 0.5,
    }


@pytest.fixture(scope="module")
def inline() -> Iterator[Context]:
    with Context(executor=InlineJobExecutor(inline_threads=1)) as context:
        yield context


@pytest.fixture(scope="module", params=sorted(EVERY_EXECUTOR))
def context(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as made:
        yield made


def check(result: Any, data: Any, roi: Any, n_parts: int = 1) -> None:
    chosen = np.ones(SHAPE[:2], dtype=bool) if roi is None else roi
    given = arguments()
    weight = np.asarray(given["weight"].data).reshape(SHAPE[:2])[chosen]
    values = data.astype("f8")[chosen] * np.asarray(given["gain"].data).reshape(SHAPE[2:]) * 0.5
    np.testing.assert_array_equal(result["total"].data[chosen], values.sum(axis=(1, 2)))
    np.testing.assert_array_equal(result["moments"].data[chosen][:, 0], values.sum(axis=(1, 2)))
    np.testing.assert_array_equal(result["moments"].data[chosen][:, 1], (values**2).sum(axis=(1, 2)))
    np.testing.assert_array_equal(result["pattern"].data, np.tensordot(weight, values, axes=1))
    assert result["parts"].data[0] == chosen.sum() * n_parts


@pytest.mark.parametrize("with_roi", [False, True])
def test_results_are_right_on_every_executor(context: Context, monkeypatch: pytest.MonkeyPatch, with_roi: bool) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "numba")
    data = counts(SHAPE, "u2")
    roi = np.random.default_rng(2).random(SHAPE[:2]) < 0.6 if with_roi else None
    ds = context.load("memory", data=data, num_partitions=4)
    check(context.run_udf(dataset=ds, udf=Weighed(**arguments()), roi=roi), data, roi)


@pytest.mark.parametrize("choice", ["numba", "numpy"])
@pytest.mark.parametrize("cls", [Weighed, CompiledByUser, OnStoredNumbers])
@pytest.mark.parametrize("dtype", ["u2", ">u2", "f2", "f4"])
@pytest.mark.parametrize("tileshape", [None, (3, 8, 7), (4, 3, 7), (2, 5, 3)])
def test_results_are_right_for_any_tiles(
    inline: Context, monkeypatch: pytest.MonkeyPatch, cls: Any, dtype: str, tileshape: Any, choice: str
) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, choice)
    data = counts(SHAPE, dtype)
    roi = np.random.default_rng(2).random(SHAPE[:2]) < 0.6
    n_parts = 1 if tileshape is None else -(-8 // tileshape[1]) * -(-7 // tileshape[2])
    ds = inline.load("memory", data=data, num_partitions=4, tileshape=tileshape)
    for selected in (None, roi):
        check(inline.run_udf(dataset=ds, udf=cls(**arguments()), roi=selected), data, selected, n_parts)


def test_a_method_gets_auxiliary_data_for_any_tiles(inline: Context) -> None:
    class Method(UDF):
        def get_result_buffers(self) -> Any:
            return {"total": self.buffer(kind="nav", dtype=np.float64)}

        def process_tile(self, tile: Any) -> None:
            self.results.total[:] += (tile * self.params.gain).sum(axis=(1, 2))

    data, gain = counts(SHAPE, "u2"), arguments()["gain"]
    ds = inline.load("memory", data=data, num_partitions=2, tileshape=(2, 5, 3))
    expected = (data * np.asarray(gain.data).reshape(SHAPE[2:])).sum(axis=(2, 3))
    np.testing.assert_array_equal(inline.run_udf(dataset=ds, udf=Method(gain=gain))["total"].data, expected)


@pytest.mark.parametrize("choice", ["numba", "numpy"])
def test_tiles_come_corrected(inline: Context, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, choice)
    data, dark = counts(SHAPE, "u2"), np.arange(56.0).reshape(8, 7)
    ds = inline.load("memory", data=data, num_partitions=2)
    udf = OnStoredNumbers(**arguments())
    check(inline.run_udf(dataset=ds, udf=udf, corrections=CorrectionSet(dark=dark)), data - dark, None)


def copy_first(tile: Any, first: Any) -> None:
    for i in range(tile.shape[0]):
        first[i] = tile[i, 0, 0]


def test_frames_with_something_between_them() -> None:
    """As in files with a header for each frame, whose tiles are not contiguous."""
    tile, first = np.arange(60.0).reshape(5, 12)[:, 3:].reshape(5, 3, 3), np.zeros(5)
    strided = np.lib.stride_tricks.as_strided(np.arange(60.0)[3:], (5, 3, 3), (96, 24, 8), writeable=False)
    _tile_compiled(_CompiledKernel("copy_first", copy_first, checked=False))(strided, (first,))
    np.testing.assert_array_equal(first, tile[:, 0, 0])


def is_compiled() -> int:
    return 0


@numba.extending.overload(is_compiled)
def _is_compiled() -> Any:
    return lambda: 1


def which(tile: Any, by: Any) -> None:
    """Say 1 in compiled code, 0 in Python."""
    for i in range(tile.shape[0]):
        by[i] = is_compiled()


def of_frames(frame: Any, by: Any) -> None:
    by[0] = 9


class By(UDF):
    def get_result_buffers(self) -> Any:
        return {"by": self.buffer(kind="nav", dtype=np.int64)}

    def get_tile_kernel(self) -> Any:
        return which


def test_the_function_is_compiled_in_large_runs_only(inline: Context) -> None:
    class WithProcess(By):
        def process_tile(self, tile: Any) -> None:
            self.results.by[:] = 7

    for cls, small in ((By, 0), (WithProcess, 7)):
        for shape, by in (((4, 4, 8, 8), small), ((9, 9, 64, 64), 1)):
            ds = inline.load("memory", data=np.zeros(shape, dtype="f4"))
            assert (inline.run_udf(dataset=ds, udf=cls())["by"].data == by).all()


def test_tiles_come_before_frames_unless_the_function_wants_frames(inline: Context) -> None:
    class Both(By):
        def get_frame_kernel(self) -> Any:
            return of_frames

    class Frames(Both):
        def get_method(self) -> Any:
            return UDFMethod.FRAME

    ds = inline.load("memory", data=np.zeros((4, 4, 8, 8), dtype="f4"))
    for cls, by in ((Both, 0), (Frames, 9)):
        assert (inline.run_udf(dataset=ds, udf=cls())["by"].data == by).all()
