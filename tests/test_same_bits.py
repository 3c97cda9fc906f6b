"""The built-in functions give the same bits on every executor and for any number of workers, with all kernels."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from every_executor import EVERY_EXECUTOR, make_context
from tilework.api import Context
from tilework.common.kernels.payoff import EXACT_SUMS
from tilework.corrections import CorrectionSet
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.udf import (
    FEMUDF,
    UDF,
    ApplyMasksUDF,
    AutoUDF,
    CoMUDF,
    CrystallinityUDF,
    LogsumUDF,
    NoOpUDF,
    PartitionMonitorUDF,
    PickUDF,
    SignalMonitorUDF,
    StdDevUDF,
    SumSigUDF,
    SumUDF,
)
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

# While it is there the delayed executor would compute on its client; it is one of those of `test_wrong_udfs`.
A_DEFAULT_FOR_DASK = "dask-integration, client"
DTYPES = ["u1", "u2", "u4", "i2", "f4", "f8", "c8"]


@pytest.fixture(scope="module")
def contexts() -> Iterator[dict[str, Context]]:
    others = EVERY_EXECUTOR.keys() - {"inline", "threads", A_DEFAULT_FOR_DASK}
    made = {
        "inline": Context(executor=InlineJobExecutor(inline_threads=1)),
        "inline, 3 threads in kernels": Context(executor=InlineJobExecutor(inline_threads=3)),
        "inline, debug": Context(executor=InlineJobExecutor(debug=True)),
        **{f"{n} threads": Context(executor=ConcurrentJobExecutor.make_local(n_threads=n)) for n in (1, 2, 7)},
    }
    with ExitStack() as stack:
        for context in made.values():
            stack.enter_context(context)
        yield made | {name: stack.enter_context(make_context(name)) for name in sorted(others)}


@contextmanager
def kernels(choice: str) -> Iterator[None]:
    before = os.environ.get(KERNELS_VARIABLE)
    os.environ[KERNELS_VARIABLE] = choice
    try:
        yield
    finally:
        if before is None:
            del os.environ[KERNELS_VARIABLE]
        else:
            os.environ[KERNELS_VARIABLE] = before


class Stack:
    """Makes the same masks in every process; a class, so that it can be pickled."""

    def __init__(self, count: int, sig: tuple[int, ...], sparse: bool) -> None:
        self.count, self.sig, self.sparse = count, sig, sparse

    def __call__(self) -> Any:
        rng = np.random.default_rng(self.count)
        dense = rng.random((self.count, *self.sig)).astype(np.float32)
        if not self.sparse:
            return dense
        import sparse

        return sparse.COO.from_numpy(np.where(dense > 0.8, dense, 0))


def built_in(sig: tuple[int, int]) -> list[Any]:
    return [
        SumUDF(),
        SumSigUDF(),
        StdDevUDF(),
        ApplyMasksUDF(mask_factories=Stack(1, sig, sparse=False), mask_count=1),
        ApplyMasksUDF(mask_factories=Stack(5, sig, sparse=False), mask_count=5),
        ApplyMasksUDF(mask_factories=Stack(3, sig, sparse=True), mask_count=3),
        CoMUDF.with_params(cy=sig[0] / 2, cx=sig[1] / 2, r=min(sig) / 2),
        PickUDF(),
        NoOpUDF(),
        LogsumUDF(),
        AutoUDF(f=np.mean),
        FEMUDF(center=(sig[0] / 2, sig[1] / 2), rad_in=-1, rad_out=max(sig)),
        CrystallinityUDF(rad_in=1, rad_out=4),
        SignalMonitorUDF(),
        PartitionMonitorUDF(),
    ]


class Maximum(UDF):
    """A function of a user, for which frames are converted."""

    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype=self.meta.input_dtype)}

    def process_tile(self, tile: Any) -> None:
        self.results.maximum[:] = np.maximum(self.results.maximum, tile.reshape(len(tile), -1).max(axis=1))


def make_corrections(sig: tuple[int, int], rng: np.random.Generator, cut: bool) -> CorrectionSet:
    """Return corrections; without excluded pixels where the data is cut into tiles of any shape."""
    excluded = None if cut else rng.random(sig) < 0.1
    return CorrectionSet(rng.random(sig), rng.random(sig) + 0.5, excluded, allow_empty=True)


def bits(results: Any) -> list[tuple[str, bytes]]:
    return [
        (f"{i} {name} {buffer.dtype} {buffer.data.shape}", np.ascontiguousarray(buffer.data).tobytes())
        for i, result in enumerate(results)
        for name, buffer in sorted(result.items())
    ]


@pytest.mark.timeout(300)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_executor_gives_the_same_bits(contexts: dict[str, Context], data: st.DataObject) -> None:
    nav = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)), label="nav")
    sig = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)), label="sig")
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES), label="dtype"))
    # Kernels for other numbers in foreign byte order would be compiled now; they have tests of their own.
    orders = "<>" if dtype in (np.uint16, np.uint32, np.float32) else "<"
    stored = dtype.newbyteorder(data.draw(st.sampled_from(orders), label="byte order"))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    frames = rng.random((*nav, *sig)) * 100
    if dtype.kind == "c":
        frames = frames + 1j * rng.random((*nav, *sig))
    frames = frames.astype(stored)
    with_roi = data.draw(st.booleans(), label="roi")
    roi = rng.random(nav) < 0.5 if with_roi else None
    cut = data.draw(st.booleans(), label="cut into tiles")
    tileshape = (
        data.draw(st.tuples(st.integers(1, 9), st.integers(1, sig[0]), st.integers(1, sig[1])), label="tile")
        if cut
        else None
    )
    parts = data.draw(st.integers(1, nav[0] * nav[1]), label="partitions")
    udfs = built_in(sig)
    if data.draw(st.booleans(), label="selected frames are read where they lie"):
        udfs = [*udfs[:7], Maximum()]
    if dtype.kind == "c":
        udfs = [u for u in udfs if not isinstance(u, LogsumUDF | CoMUDF | AutoUDF | CrystallinityUDF)]
    if tileshape is not None:
        # Functions of whole frames are not cut, and then nothing is.
        udfs = [u for u in udfs if not isinstance(u, LogsumUDF | AutoUDF | CrystallinityUDF)]
    corrections = make_corrections(sig, rng, cut) if data.draw(st.booleans(), label="corrections") else None
    with kernels(data.draw(st.sampled_from(["numpy", "numba", "auto"]), label="kernels")):
        got = {}
        for name, context in contexts.items():
            ds = context.load("memory", data=frames, sig_dims=2, num_partitions=parts, tileshape=tileshape)
            got[name] = bits(context.run_udf(dataset=ds, udf=udfs, roi=roi, corrections=corrections))
    for name, result in got.items():
        assert result == got["inline"], name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_kernels_change_no_bits_of_sums_of_short_integers(contexts: dict[str, Context], data: st.DataObject) -> None:
    """Those of small runs are NumPy's, until the kernels have paid off in a process."""
    nav = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)), label="nav")
    sig = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)), label="sig")
    dtype = data.draw(st.sampled_from(["u1", "i1", "<u2", ">u2", "<i2", ">i2"]), label="dtype")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), label="seed"))
    frames = rng.integers(-(2**15), 2**15, (*nav, *sig)).astype(dtype)
    roi = rng.random(nav) < 0.5 if data.draw(st.booleans(), label="roi") else None
    ds = contexts["inline"].load("memory", data=frames, sig_dims=2, num_partitions=min(3, nav[0] * nav[1]))
    got = {}
    for choice in ("numpy", "auto", "numba"):
        before, EXACT_SUMS.pixels = EXACT_SUMS.pixels, 1 << 60
        with kernels(choice):
            udfs = [SumUDF(), SumUDF(dtype="i8"), SumSigUDF(), StdDevUDF(), CoMUDF.with_params(r=min(sig) / 2)]
            got[choice] = bits(contexts["inline"].run_udf(dataset=ds, udf=udfs, roi=roi))
        EXACT_SUMS.pixels = before
    assert got["auto"] == got["numpy"]
    assert got["numba"] == got["numpy"]
