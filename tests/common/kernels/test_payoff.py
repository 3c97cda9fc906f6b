"""Sums of integers have the same bits with the kernel as with NumPy, so that it may be used as soon as that pays."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_tiles import cuts, make_tile, tiles
from tilework.common.kernels import MomentRegion, accumulate_variance, sum_frames, sum_moments, sum_pixels
from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.payoff import EXACT_SUMS, Payoff
from tilework.common.masks import circular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SHORTS = ["u1", "i1", "u2", "i2", "b1"]
INTEGERS = [*SHORTS, "u4", "i4"]
FLOATS = ["f4", "f8"]


def frames(tile: Any, compiled: bool | None, dtype: str = "f4") -> bytes:
    out = np.full(tile.shape[1:], 0.1 if dtype[0] == "f" else 1, dtype=dtype)
    sum_frames(tile, out, compiled=compiled)
    return out.tobytes()


def pixels(tile: Any, compiled: bool | None, dtype: str = "f4") -> bytes:
    out = np.full(len(tile), 0.1, dtype=dtype)
    sum_pixels(tile, out, compiled=compiled)
    return out.tobytes()


def moments(tile: Any, compiled: bool | None) -> bytes:
    sig = tile.reshape(len(tile), tile.shape[1], -1).shape[1:]
    regions = np.ones(sig, dtype=bool), circular(sig[1] / 2, sig[0] / 2, sig[1], sig[0], min(sig) / 2)
    out = np.full((len(regions), len(tile), 3), 0.1)
    for sums, selection in zip(out, regions, strict=True):
        sum_moments(tile, MomentRegion(selection, (3, 5)), sums, compiled=compiled)
    return out.tobytes()


def variance(tile: Any, compiled: bool | None, parts: Iterable[slice] = (slice(None),)) -> bytes:
    total, deviations, n = np.zeros(tile.shape[1:]), np.zeros(tile.shape[1:]), 0
    for part in parts:
        n = accumulate_variance(tile[part], n, total, deviations, compiled=compiled)
    return total.tobytes() + deviations.tobytes()


COMPUTED: list[Callable[..., bytes]] = [frames, pixels, moments, variance]


@pytest.fixture
def paid() -> Iterator[None]:
    """Let this process have computed so much that kernels are used."""
    before, EXACT_SUMS.pixels = EXACT_SUMS.pixels, 1 << 60
    yield
    EXACT_SUMS.pixels = before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tile=tiles(dtypes=INTEGERS), out=st.sampled_from(["f4", "f8", "f2"]))
def test_sums_of_integers_have_the_bits_of_numpy(tile: Any, out: str, paid: None) -> None:
    assert len({frames(tile, compiled, out) for compiled in (True, False, None)}) == 1
    assert len({pixels(tile, compiled, out) for compiled in (True, False, None)}) == 1


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tile=tiles(dtypes=INTEGERS), out=st.sampled_from(["i8", "u8", "i4", "i2"]))
def test_whatever_the_result_is(tile: Any, out: str, paid: None) -> None:
    """Where the kernel would have other bits, it is not used."""
    assert frames(tile, None, out) == frames(tile, compiled=False, dtype=out)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tile=tiles(dtypes=SHORTS, sig_dims=2), data=st.data())
def test_moments_and_variances_of_short_integers_have_the_bits_of_numpy(
    tile: Any, data: st.DataObject, paid: None
) -> None:
    if tile.dtype.kind != "b":
        assert len({moments(tile, compiled) for compiled in (True, False, None)}) == 1
    parts = data.draw(cuts(len(tile)))
    assert len({variance(tile, compiled, parts) for compiled in (True, False, None)}) == 1


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("shape", [(140_000, 19), (70, 160, 170), (2, 600, 900)])
def test_many_frames_and_large_ones(dtype: str, shape: tuple[int, ...]) -> None:
    """More than 4 bytes hold, more than NumPy converts at a time; of the largest and the smallest numbers."""
    info = np.iinfo(dtype)
    ends = np.random.default_rng(0).choice(np.array([info.max, info.max - 1, info.min], dtype=dtype), size=shape)
    for tile in (ends, np.full(shape, info.max, dtype=dtype)):
        assert variance(tile, compiled=True) == variance(tile, compiled=False)
        assert frames(tile, compiled=True, dtype="f8") == frames(tile, compiled=False, dtype="f8")
        assert pixels(tile, compiled=True) == pixels(tile, compiled=False)
        assert moments(tile, compiled=True) == moments(tile, compiled=False)


@pytest.mark.parametrize("dtype", [">u2", ">i2", ">i4"])
def test_foreign_byte_order(dtype: str, paid: None) -> None:
    tile = make_tile(dtype[1:], (19, 20, 33)).astype(dtype)
    for compute in COMPUTED:
        assert compute(tile, None) == compute(tile, False)
        if tile.itemsize == 2:
            assert compute(tile, True) == compute(tile, False)


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_left_to_numpy(dtype: str, paid: None) -> None:
    tile = make_tile(dtype, (300, 64, 64))
    for compute in COMPUTED:
        assert compute(tile, None) == compute(tile, False)


@pytest.mark.parametrize("compute", COMPUTED)
def test_kernels_are_called_when_they_pay_and_not_before(
    compute: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = make_tile("u2", (8, 32, 32))
    compute(tile, True)  # now it is at hand
    called = []
    monkeypatch.setattr(Kernel, "__call__", lambda self, *_: called.append(self))
    monkeypatch.setattr(EXACT_SUMS, "pixels", 1 << 60)
    compute(tile, None)
    assert called
    called.clear()
    compute(tile, False)
    assert not called
    monkeypatch.setattr(Payoff, "count", lambda *_: False)
    compute(tile, None)
    assert not called


def test_a_kernel_that_is_not_on_disk_is_not_compiled_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXACT_SUMS, "pixels", EXACT_SUMS.to_load)
    monkeypatch.setattr(Kernel, "is_at_hand", lambda *_: False)
    monkeypatch.setattr(Kernel, "__call__", lambda *_: pytest.fail("a kernel was called"))
    tile = make_tile("u2", (8, 32, 32))
    for compute in COMPUTED:
        compute(tile, None)


def test_a_kernel_that_numba_would_leave_in_python_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setattr(EXACT_SUMS, "pixels", 1 << 60)
    monkeypatch.setattr(Kernel, "is_at_hand", lambda *_: False)
    monkeypatch.setattr(Kernel, "__call__", lambda *_: pytest.fail("a kernel was called"))
    tile = make_tile("u2", (8, 32, 32))
    for compute in COMPUTED:
        compute(tile, None)


def test_the_first_small_sums_of_a_process_load_nothing() -> None:
    code = """
import sys
import numpy as np
from tilework.common.kernels import MomentRegion, accumulate_variance, sum_frames, sum_moments, sum_pixels
tile = np.ones((20, 256, 256), np.uint16)
region = MomentRegion(np.ones((256, 256), dtype=bool))
sum_frames(tile, np.zeros((256, 256)), compiled=None)
sum_pixels(tile, np.zeros(20), compiled=None)
sum_moments(tile, region, np.zeros((20, 3)), compiled=None)
accumulate_variance(tile, 0, np.zeros((256, 256)), np.zeros((256, 256)), compiled=None)
assert not {"numba", "llvmlite"} & set(sys.modules)
assert "_weights" not in vars(region)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
