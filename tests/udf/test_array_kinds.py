"""The same results, within rounding, whatever kind of array the data is and whatever kind a function gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.api import Context
from tilework.common.array_backends import CPU_BACKENDS, D2_BACKENDS, NUMPY_BACKENDS, SPARSE_BACKENDS, as_backend
from tilework.io.corrections.corrset import CorrectionSet
from tilework.udf import UDF
from tilework.udf.com import CoMUDF
from tilework.udf.logsum import LogsumUDF
from tilework.udf.masks import ApplyMasksUDF
from tilework.udf.raw import PickUDF
from tilework.udf.stddev import StdDevUDF
from tilework.udf.sum import SumUDF
from tilework.udf.sumsigudf import SumSigUDF
from tilework.utils.devices import has_cupy

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
EXECUTORS = ["inline", "threads", "pipelined"]
ON_CPU = sorted(CPU_BACKENDS)
CSR = "scipy.sparse.csr_matrix"


@pytest.fixture(scope="module", params=EXECUTORS)
def ctx(request: pytest.FixtureRequest) -> Any:
    # One process is enough for arrays to be sent to another, and it compiles what `sparse` does not keep compiled.
    with Context.make_with(request.param, cpus=1 if request.param == "pipelined" else None) as context:
        yield context


def counts(shape: tuple[int, ...] = (4, 5, 8, 7), dtype: Any = "u2", seed: int = 0, density: float = 0.2) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 200, size=shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.integers(1, 9, size=shape)
    return np.where(rng.random(shape) < density, values, 0).astype(dtype)


def load(ctx: Context, data: Any, kind: str, **kwargs: Any) -> Any:
    """Load `data` as an array of that kind; matrices have the axes frames and pixels."""
    nav, sig = data.shape[:-2], data.shape[-2:]
    flat = data.reshape((-1, *sig))
    if kind in D2_BACKENDS:
        return ctx.load("memory", data=as_backend(flat, kind), nav_shape=nav, sig_shape=sig, **kwargs)
    array = data if kind in NUMPY_BACKENDS else getattr(sparse, kind.rpartition(".")[2]).from_numpy(data)
    return ctx.load("memory", data=array, **kwargs)


def functions(sig: tuple[int, int], n_frames: int) -> list[UDF]:
    rng = np.random.default_rng(3)
    masks = rng.random((3, *sig)).astype("f4")
    few = np.where(masks > 0.8, masks, 0)
    shifts = ApplyMasksUDF.aux_data(rng.integers(-2, 3, (n_frames, 2)), kind="nav", extra_shape=(2,), dtype=int)
    return [
        SumUDF(),
        SumSigUDF(),
        StdDevUDF(),
        ApplyMasksUDF(lambda: masks),
        ApplyMasksUDF(lambda: sparse.COO.from_numpy(few)),
        ApplyMasksUDF(lambda: masks, shifts=(1, -1)),
        ApplyMasksUDF(lambda: few, shifts=shifts),
        CoMUDF.with_params(cy=sig[0] / 2, cx=sig[1] / 2, r=3),
        LogsumUDF(),
        PickUDF(),
    ]


def assert_same(got: Any, want: Any, what: str) -> None:
    assert set(got) == set(want)
    for name, buffer in want.items():
        assert got[name].data.dtype == buffer.data.dtype, what
        scale = np.nanmax(np.abs(buffer.data), initial=1)
        np.testing.assert_allclose(
            got[name].data, buffer.data, rtol=2e-6, atol=2e-6 * scale, err_msg=f"{what}: {name}", equal_nan=True
        )


@pytest.mark.parametrize("kind", ON_CPU)
def test_built_in_functions_on_every_kind_of_array(ctx: Context, kind: str) -> None:
    """Alone, each in the kind of array that it likes best, and together, where the dataset is converted less."""
    data = counts()

    def udfs() -> list[UDF]:
        return functions((8, 7), 20)

    want = ctx.run_udf(dataset=load(ctx, data, "numpy", num_partitions=3), udf=udfs())
    ds = load(ctx, data, kind, num_partitions=3)
    for got in (ctx.run_udf(dataset=ds, udf=udfs()), [ctx.run_udf(dataset=ds, udf=udf) for udf in udfs()]):
        for udf, a, b in zip(udfs(), got, want, strict=True):
            assert_same(a, b, f"{type(udf).__name__} on {kind}")


KINDS = st.sampled_from(["numpy", "sparse.COO", "sparse.GCXS", CSR, "scipy.sparse.csc_array", "scipy.sparse.coo_array"])


@settings(max_examples=60, deadline=None)
@given(
    nav=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    sig=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    dtype=st.sampled_from(["u1", "u2", "i4", "u8", "f4", "f8", "c8", "?"]),
    density=st.sampled_from([0.0, 0.05, 1.0]),
    kind=KINDS,
    asked=st.one_of(st.none(), KINDS),
    cut=st.booleans(),
    selected=st.sampled_from([None, 0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_shapes_dtypes_selections_and_tilings(
    nav: Any, sig: Any, dtype: Any, density: float, kind: str, asked: Any, cut: bool, selected: Any, seed: int
) -> None:
    data = counts((*nav, *sig), dtype, seed, density)
    roi = None if selected is None else np.random.default_rng(seed).random(nav) < selected
    tileshape = (2, max(1, sig[0] // 2), max(1, sig[1] - 1)) if cut else None
    masks = np.random.default_rng(seed).random((2, *sig))

    def make() -> list[UDF]:
        return [SumUDF(), SumSigUDF(), ApplyMasksUDF(lambda: masks), CoMUDF.with_params(), PickUDF()]

    n_partitions = min(2, nav[0] * nav[1])
    with Context.make_with("inline") as ctx:
        want = ctx.run_udf(load(ctx, data, "numpy", num_partitions=n_partitions), make(), roi=roi)
        ds = load(ctx, data, kind, num_partitions=n_partitions, tileshape=tileshape)
        for udf, reference in zip(make(), want, strict=True):
            allowed = None if asked is None or asked not in udf.get_backends() else asked
            got = ctx.run_udf(ds, udf, roi=roi, backends=allowed)
            assert_same(got, reference, f"{type(udf).__name__} on {kind} as {allowed}")


class Seen(UDF):
    """Notes what it gets."""

    def __init__(self, backends: Any, method: str, dtype: Any = np.float32) -> None:
        super().__init__(backends=backends, method=method, dtype=dtype)

    def get_backends(self) -> Any:
        return self.params.backends

    def get_method(self) -> Any:
        return self.UDF_METHOD(self.params.method)

    def get_preferred_input_dtype(self) -> Any:
        return self.params.dtype

    def get_result_buffers(self) -> Any:
        return {
            "total": self.buffer(kind="nav", dtype=np.float64),
            "seen": self.buffer(kind="nav", dtype=object),
        }

    def note(self, data: Any) -> None:
        numbers = data.asformat("coo") if isinstance(data, sparse.DOK) else data
        total = numbers.reshape((data.shape[0], -1)).sum(axis=1)
        self.results.total[:] += self.forbuf(total, self.results.total)
        kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
        self.results.seen[:] = f"{self.meta.array_backend} {kind} {data.dtype} {data.ndim}"

    def process_tile(self, tile: Any) -> None:
        assert tuple(tile.shape) in {tuple(self.meta.slice.shape), tuple(self.meta.slice.shape.flatten_sig())}
        self.note(tile)

    def process_partition(self, partition: Any) -> None:
        self.note(partition)

    def process_frame(self, frame: Any) -> None:
        assert tuple(frame.shape) == ((1, 56) if self.meta.array_backend in self.D2_BACKENDS else (8, 7))
        self.note(frame.reshape((1, -1)))


@pytest.mark.parametrize("kind", [CSR, "sparse.COO", "numpy"])
@pytest.mark.parametrize("method", ["tile", "frame", "partition"])
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_function_gets_the_kind_of_array_it_asks_for(kind: str, method: str, backend: str) -> None:
    data = counts()
    with Context.make_with("inline") as ctx:
        result = ctx.run_udf(load(ctx, data, kind, num_partitions=2), Seen(backend, method))
    np.testing.assert_allclose(result["total"].data, data.sum(axis=(2, 3), dtype=float))
    (seen,) = set(result["seen"].raw_data)
    name, array, dtype, ndim = seen.split()
    assert name == backend
    assert array.split(".")[1] == backend.rsplit(".", maxsplit=1)[-1].replace("numpy", "ndarray")
    assert dtype == "float32"
    assert ndim == ("2" if backend in D2_BACKENDS or method == "frame" else "3")


def test_the_run_can_restrict_what_is_used(ctx: Context) -> None:
    data = counts()
    ds = load(ctx, data, CSR, num_partitions=2)
    for allowed, want in [(None, CSR), ("numpy", "numpy"), (["sparse.COO", "cupy"], "sparse.COO")]:
        result = ctx.run_udf(dataset=ds, udf=Seen((CSR, "numpy", "sparse.COO"), "tile"), backends=allowed)
        assert {s.split()[0] for s in result["seen"].raw_data} == {want}
        np.testing.assert_allclose(result["total"].data, data.sum(axis=(2, 3), dtype=float))


def test_native_dtypes_stay_in_sparse_tiles(ctx: Context) -> None:
    ds = load(ctx, counts(), "sparse.GCXS", num_partitions=2)
    result = ctx.run_udf(dataset=ds, udf=Seen(UDF.BACKEND_ALL, "tile", UDF.USE_NATIVE_DTYPE))
    assert set(result["seen"].raw_data) == {"sparse.GCXS sparse.GCXS uint16 3"}


def test_conversions_are_made_once_per_tile_and_shared() -> None:
    ids: dict[str, set[int]] = {}

    class Keeps(Seen):
        def process_tile(self, tile: Any) -> None:
            ids.setdefault(self.meta.array_backend or "", set()).add(id(tile.data if hasattr(tile, "nnz") else tile))

    with Context.make_with("inline") as ctx:
        ds = load(ctx, counts(), "numpy", num_partitions=1)
        ctx.run_udf(ds, [Keeps((CSR,), "tile"), Keeps((CSR,), "tile"), Keeps("numpy", "tile"), Keeps("numpy", "tile")])
    assert {name: len(found) for name, found in ids.items()} == {CSR: 1, "numpy": 1}


def test_forbuf_fits_any_array_to_a_result() -> None:
    data = counts((3, 4), "f4")
    udf = SumUDF()
    target = np.zeros((4, 3), dtype="f4")
    for kind in ON_CPU:
        converted = udf.forbuf(as_backend(data, kind), target)
        assert type(converted) is np.ndarray
        np.testing.assert_array_equal(converted, data.reshape(4, 3))
    with pytest.raises(ValueError, match=r"(reshape|shape)"):
        udf.forbuf(data, np.zeros(5))


def test_a_sparse_result_is_refused_with_the_way_out(ctx: Context) -> None:
    from tilework.exceptions import UDFException

    class Sparse(SumUDF):
        def get_results(self) -> Any:
            return {"intensity": sp.csr_matrix(self.results.intensity)}

    with pytest.raises(UDFException, match=r"'intensity' as a sparse csr_matrix.*self\.forbuf"):
        ctx.run_udf(dataset=load(ctx, counts(), CSR), udf=Sparse())


def test_sparse_tiles_are_as_deep_as_what_is_stored_allows() -> None:
    """Frames with few electrons are processed many at a time, and nothing of their full size is ever made."""
    depths: list[int] = []

    class Depth(SumSigUDF):
        def process_tile(self, tile: Any) -> None:
            depths.append(tile.shape[0])
            super().process_tile(tile)

    rng = np.random.default_rng(0)
    matrix = sp.random(200, 2**22, density=1e-5, format="csr", dtype="f4", random_state=rng)
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=matrix, nav_shape=(10, 20), sig_shape=(2048, 2048), num_partitions=1)
        result = ctx.run_udf(ds, Depth())
    assert depths == [200]
    np.testing.assert_allclose(result["intensity"].raw_data, np.asarray(matrix.sum(axis=1))[:, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "sparse.COO", CSR])
def test_corrections_are_the_same_for_all_kinds(ctx: Context, kind: str) -> None:
    """What is corrected is not sparse any more; a function that takes sparse tiles only gets them made from it."""
    data, rng = counts(), np.random.default_rng(4)
    excluded = sparse.COO(coords=np.array([[2, 5], [3, 0]]), shape=(8, 7), data=True)
    corrections = CorrectionSet(dark=rng.random((8, 7)), gain=rng.random((8, 7)) + 0.5, excluded_pixels=excluded)
    ds = load(ctx, data, kind, num_partitions=3)
    got = ctx.run_udf(dataset=ds, udf=functions((8, 7), 20), corrections=corrections)
    reference = load(ctx, data, "numpy", num_partitions=3)
    want = ctx.run_udf(dataset=reference, udf=functions((8, 7), 20), corrections=corrections)
    for udf, a, b in zip(functions((8, 7), 20), got, want, strict=True):
        assert_same(a, b, f"{type(udf).__name__} on {kind}")
    only = ctx.run_udf(dataset=ds, udf=[SumUDF(), Seen((CSR,), "tile")], corrections=corrections)
    assert_same(only[0], want[0], "beside another")
    np.testing.assert_allclose(only[1]["total"].data, want[1]["intensity"].data, rtol=1e-5)
    assert ds.array_backends[0] == kind
    assert_same(ctx.run_udf(dataset=ds, udf=SumUDF(), corrections=corrections, backends=CSR), want[0], "as CSR")


# -- on a GPU, where there is one

GPU = pytest.mark.skipif(not has_cupy(), reason="there is no GPU with CuPy here")


@GPU
@pytest.mark.usefixtures("no_device_is_set")
@pytest.mark.parametrize("kind", ["numpy", CSR, "sparse.COO"])
@pytest.mark.parametrize("allowed", [None, "cupy", "cupyx.scipy.sparse.csr_matrix", "numpy"])
def test_built_in_functions_on_a_gpu(kind: str, allowed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = counts()
    with Context.make_with("inline") as ctx:
        want = ctx.run_udf(dataset=load(ctx, data, "numpy", num_partitions=3), udf=functions((8, 7), 20))
    monkeypatch.setenv("TILEWORK_USE_CUDA", "0")
    with Context.make_with("inline") as ctx:
        ds = load(ctx, data, kind, num_partitions=3)
        for udf, reference in zip(functions((8, 7), 20), want, strict=True):
            if allowed is not None and allowed not in udf.get_backends():
                continue
            got = ctx.run_udf(dataset=ds, udf=udf, backends=allowed)
            assert_same(got, reference, f"{type(udf).__name__} on {kind}")


@GPU
@pytest.mark.usefixtures("no_device_is_set")
def test_buffers_on_the_device_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    kinds: set[Any] = set()

    class OnDevice(SumUDF):
        def process_tile(self, tile: Any) -> None:
            kinds.add((type(tile), type(self.results.intensity), self.xp))
            super().process_tile(tile)

    monkeypatch.setenv("TILEWORK_USE_CUDA", "0")
    data = counts()
    with Context.make_with("inline") as ctx:
        result = ctx.run_udf(dataset=load(ctx, data, "numpy"), udf=OnDevice(), backends="cupy")
    assert kinds == {(cupy.ndarray, cupy.ndarray, cupy)}
    assert type(result["intensity"].data) is np.ndarray
    np.testing.assert_allclose(result["intensity"].data, data.sum(axis=(0, 1)))


def test_sparse_backends_are_those_that_stay_sparse() -> None:
    with Context.make_with("inline") as ctx:
        for kind in sorted(SPARSE_BACKENDS & CPU_BACKENDS):
            ds = load(ctx, counts(), kind)
            assert ds.array_backends[0] == kind
            assert set(ds.array_backends[:9]) == SPARSE_BACKENDS & CPU_BACKENDS
            assert 0 < ds.density < 0.3


class _Pixels(UDF):
    """Copies the pixels of its tiles, of whatever kind they are."""

    def get_backends(self) -> Any:
        return (self.params.kind,)

    def get_preferred_dtype(self) -> Any:
        return self.params.wanted

    def get_result_buffers(self) -> Any:
        return {"pixels": self.buffer("nav", dtype=self.meta.input_dtype, extra_shape=self.meta.dataset_shape.sig)}

    def process_tile(self, tile: Any) -> None:
        dense = np.asarray(as_backend(tile, "numpy"))
        where = self.meta.sig_slice.get(sig_only=True)
        self.results.pixels[(slice(None), *where)] = dense.reshape((len(dense), *self.meta.sig_slice.shape))


@pytest.mark.parametrize("wanted", ["f2", "f4", UDF.USE_NATIVE_DTYPE])
@pytest.mark.parametrize("kind", sorted(SPARSE_BACKENDS & CPU_BACKENDS))
def test_half_precision_for_functions_of_sparse_tiles(kind: str, wanted: Any) -> None:
    """No sparse array is computed with in half precision: such data is given to functions in single precision."""
    data = counts((3, 4, 5, 6), "f2")
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=data, num_partitions=2)
        pixels = ctx.run_udf(dataset=dataset, udf=_Pixels(kind=kind, wanted=wanted))["pixels"].data
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, data)
