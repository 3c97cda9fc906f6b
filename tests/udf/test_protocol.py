"""The protocol of functions, piece by piece: what is called where and when, and what each method sees."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import UDFException
from tilework.udf import (
    UDF,
    NoOpUDF,
    UDFFrameMixin,
    UDFMergeAllMixin,
    UDFPartitionMixin,
    UDFPostprocessMixin,
    UDFPreprocessMixin,
    UDFTileMixin,
    UseDiscouragedWarning,
    check_cast,
)
from tilework.udf import base as udf_base
from tilework.udf.runner import UDFRunner
from tilework.udf.sum import SumUDF

EXECUTORS = ["inline", "threads"]
MIXINS = [
    UDFFrameMixin, UDFTileMixin, UDFPartitionMixin, UDFPreprocessMixin, UDFPostprocessMixin, UDFMergeAllMixin,
]  # fmt: skip
METHODS = ["process_frame", "process_tile", "process_partition", "preprocess", "postprocess", "merge_all"]


@pytest.fixture(params=EXECUTORS)
def ctx(request: pytest.FixtureRequest) -> Any:
    with Context.make_with(request.param) as context:
        yield context


def load(ctx: Context, data: Any, **kwargs: Any) -> Any:
    return ctx.load("memory", data=data, **{"num_partitions": 3, **kwargs})


# -- names


@pytest.mark.parametrize(("mixin", "method"), list(zip(MIXINS, METHODS, strict=True)))
def test_having_the_method_is_what_counts(mixin: Any, method: str) -> None:
    """With or without the mixin among the bases, in any order."""
    have = type("Have", (UDF,), {method: lambda self, *args: None})
    assert isinstance(have(), mixin)
    assert not isinstance(UDF(), mixin)
    for bases in ((UDF, mixin), (mixin, UDF)):
        also = type("Also", bases, {method: lambda self, *args: None})(a=1)
        assert isinstance(also, mixin)
        assert also.params.a == 1
        assert also.copy().params.a == 1


def test_names_that_programs_import_from_the_base() -> None:
    for name in ("UDF", "NoOpUDF", "UDFMeta", "UDFData", "UDFParams", "UDFKwargsWrapper", "MergeAttrMapping"):
        assert getattr(udf_base, name).__name__ == name
    for name in ("UDFRunner", "UDFTask", "GenericTask", "UDFResults", "UDFResultsLazy", "get_resources_for_backends"):
        assert getattr(udf_base, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = udf_base.Nothing  # type: ignore[attr-defined]


def test_check_cast() -> None:
    check_cast(np.zeros(1, "u2"), np.zeros(1, "f4"))
    with pytest.raises(TypeError, match="float64 to float32"):
        check_cast(np.zeros(1, "f8"), np.zeros(1, "f4"))


def test_no_operation(ctx: Context) -> None:
    assert dict(ctx.run_udf(dataset=load(ctx, counts()), udf=NoOpUDF())) == {}


# -- buffers of every kind


class Everything(UDF):
    """Buffers of all kinds, filled by one of the methods; what is private is used for the others."""

    def __init__(self, method: str, extra: tuple[int, ...], dtype: str, where: Any) -> None:
        super().__init__(method=method, extra=extra, dtype=dtype, where=where)

    def get_method(self) -> Any:
        return self.UDF_METHOD(self.params.method)

    def get_preferred_input_dtype(self) -> Any:
        return self.USE_NATIVE_DTYPE

    def get_result_buffers(self) -> Any:
        options: dict[str, Any] = {"extra_shape": self.params.extra, "dtype": self.params.dtype}
        return {
            "nav": self.buffer(kind="nav", where=self.params.where, **options),
            "sig": self.buffer(kind="sig", where=self.params.where, **options),
            "single": self.buffer(kind="single", **options),
            "hidden": self.buffer(kind="nav", use="private", **options),
            "doubled": self.buffer(kind="nav", use="result_only", **options),
        }

    def add(self, frames: Any) -> None:
        sig = tuple(range(1, frames.ndim))
        more = (np.newaxis,) * len(self.params.extra)
        per_frame = frames.sum(axis=sig, dtype=self.params.dtype)[(..., *more)]
        self.results.nav[:] += per_frame
        self.results.hidden[:] += per_frame
        self.results.sig[:] += frames.sum(axis=0, dtype=self.params.dtype)[(..., *more)]
        self.results.single[:] += frames.sum(dtype=self.params.dtype)
        assert self.results.doubled is None

    def process_frame(self, frame: Any) -> None:
        total = frame.sum(dtype=self.params.dtype)
        shape = self.params.extra or (1,)
        assert self.results.nav.shape == self.results.hidden.shape == shape
        assert self.results.sig.shape == frame.shape + self.params.extra
        self.results.nav[:] += total
        self.results.hidden[:] += total
        self.results.sig[:] += frame[(..., *(np.newaxis,) * len(self.params.extra))].astype(self.params.dtype)
        self.results.single[:] += total

    def process_tile(self, tile: Any) -> None:
        assert self.results.nav.shape == (len(tile), *self.params.extra)
        assert self.results.sig.shape == tile.shape[1:] + self.params.extra
        assert self.results.sig.flags.c_contiguous
        self.add(tile)

    def process_partition(self, partition: Any) -> None:
        assert tuple(self.meta.partition_shape) == partition.shape
        self.add(partition)

    def merge(self, dest: Any, src: Any) -> None:
        assert set(dest) == set(src) == {"nav", "sig", "single", "hidden"}
        dest.nav = src.nav
        dest.hidden[:] = src.hidden
        dest.sig[:] += src.sig
        dest.single[:] += src.single

    def get_results(self) -> Any:
        return {"doubled": 2 * self.results.hidden}


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["tile", "frame", "partition"]),
    extra=st.sampled_from([(), (1,), (3,), (2, 2)]),
    dtype=st.sampled_from(["i8", "f4", "f8", "c16"]),
    where=st.sampled_from([None, "device"]),
    shape=st.sampled_from([(4, 5, 6, 7), (7, 8, 8), (2, 3, 2, 9), (3, 4, 5, 2, 6)]),
    tileshape=st.booleans(),
    selected=st.sampled_from([None, 0.4, 0.0]),
)
def test_buffers_of_every_kind(
    method: str, extra: Any, dtype: str, where: Any, shape: Any, tileshape: bool, selected: Any
) -> None:
    data = counts(shape, "i4")
    nav, sig = shape[:-2], shape[-2:]
    roi = None if selected is None else np.random.default_rng(1).random(nav) < selected
    cut = (2, max(1, sig[0] - 1), max(1, sig[1] // 2)) if tileshape and method == "tile" else None
    with Context.make_with("inline") as ctx:
        ds = load(ctx, data, tileshape=cut, num_partitions=min(3, shape[0]))
        result = ctx.run_udf(ds, Everything(method, extra, dtype, where), roi=roi)
    taken = data if roi is None else data[roi]
    frames = taken.reshape((-1, *sig))
    repeat = (1,) * len(extra)
    assert set(result) == {"nav", "sig", "single", "doubled"}
    per_frame = np.broadcast_to(frames.sum(axis=(1, 2)).reshape((-1, *repeat)), (len(frames), *extra))
    np.testing.assert_array_equal(result["nav"].raw_data, per_frame)
    np.testing.assert_array_equal(result["doubled"].raw_data, 2 * per_frame)
    per_pixel = np.broadcast_to(frames.sum(axis=0).reshape((*sig, *repeat)), (*sig, *extra))
    np.testing.assert_array_equal(result["sig"].data, per_pixel)
    np.testing.assert_array_equal(result["single"].data, np.full(extra or (1,), frames.sum()))
    assert result["nav"].data.shape == (*nav, *extra)
    assert {b.data.dtype for b in result.values()} == {np.dtype(dtype)}
    # What was not selected is not valid; without a selection everything is.
    valid = np.ones(nav, dtype=bool) if roi is None else roi
    np.testing.assert_array_equal(
        result["nav"].valid_mask, np.broadcast_to(valid.reshape((*nav, *repeat)), (*nav, *extra))
    )


# -- the order of calls


class Calls(FrameMax):
    """Counts its calls, on both sides."""

    log: list[tuple[str, bool]] = []  # noqa: RUF012  (shared by all instances, to look at from outside)

    def note(self, what: str) -> None:
        self.log.append((what, self.meta.array_backend is None))

    def get_task_data(self) -> Any:
        self.note("get_task_data")
        return {"made": [0]}

    def preprocess(self) -> None:
        self.note("preprocess")

    def process_frame(self, frame: Any) -> None:
        super().process_frame(frame)
        self.task_data.made[0] += 1
        self.note("process_frame")

    def postprocess(self) -> None:
        assert self.task_data.made == [len(self.results.maximum)]
        self.note("postprocess")

    def cleanup(self) -> None:
        self.note("cleanup")

    def merge(self, dest: Any, src: Any) -> None:
        super().merge(dest, src)
        self.note("merge")

    def get_results(self) -> Any:
        self.note("get_results")
        return super().get_results()


def test_what_is_called_where_and_in_which_order() -> None:
    Calls.log.clear()
    with Context.make_with("inline") as ctx:
        ctx.run_udf(load(ctx, counts((2, 3, 4, 4)), num_partitions=2), Calls())
    names = [name for name, _ in Calls.log]
    task = ["get_task_data", "preprocess", *["process_frame"] * 3, "postprocess", "cleanup"]
    assert names == ["preprocess", *task, "merge", *task, "merge", "get_results"]
    on_main = {"merge", "get_results"}
    assert all(main == (name in on_main) for name, main in Calls.log[1:])
    assert Calls.log[0] == ("preprocess", True)


def test_cleanup_is_called_when_a_frame_fails(ctx: Context) -> None:
    class Fails(Calls):
        def process_frame(self, frame: Any) -> None:
            raise ZeroDivisionError

    Calls.log.clear()
    with pytest.raises(ZeroDivisionError):
        ctx.run_udf(dataset=load(ctx, counts()), udf=Fails())
    assert [name for name, _ in Calls.log].count("cleanup") >= 1


class Cleans(UDF):
    """Says when it is cleaned up, and fails where it is told to."""

    log: ClassVar[list[str]] = []

    def __init__(self, name: str, prepare: type[BaseException] | None = None, clean: Any = None) -> None:
        super().__init__(name=name, prepare=prepare, clean=clean)

    def get_result_buffers(self) -> Any:
        return {"x": self.buffer(kind="nav")}

    def get_task_data(self) -> Any:
        if self.params.prepare is not None:
            raise self.params.prepare(self.params.name)
        return {}

    def process_frame(self, frame: Any) -> None:
        pass

    def cleanup(self) -> None:
        self.log.append(self.params.name)
        if self.params.clean is not None:
            raise self.params.clean(self.params.name)


@pytest.mark.parametrize(
    ("udfs", "cleaned", "error", "cause"),
    [
        ([Cleans("a"), Cleans("b"), Cleans("c")], "cba", None, None),
        ([Cleans("a"), Cleans("b", prepare=KeyError), Cleans("c")], "a", "b", None),
        ([Cleans("a"), Cleans("b", clean=KeyError), Cleans("c")], "cba", "b", None),
        ([Cleans("a", clean=KeyError), Cleans("b", clean=KeyError)], "ba", "a", "b"),
        ([Cleans("a"), Cleans("b", clean=SystemExit)], "ba", "b", None),
        ([Cleans("a", clean=KeyError), Cleans("b", prepare=KeyError)], "a", "a", "b"),
    ],
    ids=["all", "one is not prepared", "one fails", "two fail", "one exits", "after an error"],
)
def test_cleanup_of_several(udfs: list[UDF], cleaned: str, error: str | None, cause: str | None) -> None:
    """The last one first, all that were prepared, whatever is raised; an error says which others it hides."""
    Cleans.log.clear()
    with Context.make_with("inline") as ctx:
        dataset = load(ctx, counts((1, 2, 4, 4)), num_partitions=1)
        raised = contextlib.nullcontext(None) if error is None else pytest.raises((Exception, SystemExit), match=error)
        with raised as info:
            ctx.run_udf(dataset=dataset, udf=udfs)
    assert "".join(Cleans.log) == cleaned
    if cause is not None:
        assert info is not None
        context: BaseException | None = info.value
        while context is not None and str(context).strip("'\"") != cause:
            context = context.__cause__ or context.__context__
        assert context is not None


# -- what a function may ask


def test_before_and_after_tiles_the_slice_is_that_of_the_partition(ctx: Context) -> None:
    """Over the whole detector, also where tiles are parts of it."""
    seen: list[Any] = []

    class Asks(UDF):
        def get_result_buffers(self) -> Any:
            seen.append(self.meta.slice)
            return {}

        def get_task_data(self) -> Any:
            seen.append(self.meta.slice)
            return {}

        def preprocess(self) -> None:
            seen.append(self.meta.slice)

        def process_tile(self, tile: Any) -> None:
            assert tuple(self.meta.slice.shape) == tile.shape != (10, 256, 64)

        def postprocess(self) -> None:
            seen.append(self.meta.slice)

        def get_tiling_preferences(self) -> Any:
            return {"depth": 1, "total_size": 2**14}

    ctx.run_udf(dataset=ctx.load("memory", data=np.ones((4, 5, 256, 64), "f4"), num_partitions=2), udf=Asks())
    shape = Shape((10, 256, 64), sig_dims=2)
    in_tasks = [part for part in seen if part is not None]
    assert in_tasks == [Slice((0, 0, 0), shape)] * 4 + [Slice((10, 0, 0), shape)] * 4


def test_every_property_of_meta(ctx: Context) -> None:
    data = counts((4, 5, 6, 8), "u2")
    roi = np.random.default_rng(2).random((4, 5)) < 0.6
    seen: list[Any] = []

    class Asks(UDF):
        def get_result_buffers(self) -> Any:
            return {"position": self.buffer(kind="nav", extra_shape=(2,), dtype=np.int64)}

        def process_tile(self, tile: Any) -> None:
            meta = self.meta
            self.results.position[:] = meta.coordinates
            assert meta.coordinates.shape == (len(tile), 2)
            assert tuple(meta.slice.shape) == tile.shape
            assert meta.sig_slice == meta.tiling_scheme[meta.tiling_scheme_idx]  # type: ignore[index]
            assert tuple(meta.sig_slice.shape) == tile.shape[1:]
            assert meta.slice.origin[1:] == meta.sig_slice.origin
            assert meta.get_valid_nav_mask() is None
            seen.append(
                (
                    meta.dataset_shape.to_tuple(),
                    meta.dataset_dtype,
                    meta.input_dtype,
                    meta.device_class,
                    meta.array_backend,
                    meta.roi is not None and meta.roi.shape,
                    meta.partition_shape.to_tuple()[1:],
                    not meta.corrections.have_corrections(),
                    self.xp,
                )
            )

        def merge(self, dest: Any, src: Any) -> None:
            dest.position[:] = src.position
            mask = self.meta.get_valid_nav_mask()
            full = self.meta.get_valid_nav_mask(full_nav=True)
            assert mask is not None
            assert full is not None
            assert mask.shape == (roi.sum(),)
            assert full.shape == (roi.size,)
            assert not full[~roi.reshape(-1)].any()
            with pytest.raises(ValueError, match="no partition"):
                _ = self.meta.partition_shape

        def get_results(self) -> Any:
            mask = self.meta.get_valid_nav_mask()
            assert mask is not None
            assert mask.all()
            assert self.meta.array_backend is None
            return super().get_results()

    result = ctx.run_udf(dataset=load(ctx, data, tileshape=(2, 3, 8)), udf=Asks(), roi=roi)
    np.testing.assert_array_equal(result["position"].raw_data, np.argwhere(roi))
    assert set(seen) == {
        ((4, 5, 6, 8), np.dtype("u2"), np.dtype("f4"), "cpu", "numpy", (4, 5), (6, 8), True, np),
    }


def test_meta_is_known_in_a_run_only() -> None:
    with pytest.raises(UDFException, match=r"SumUDF\.meta is known in a run only"):
        _ = SumUDF().meta


def test_old_access_by_item_works_and_is_discouraged() -> None:
    class Old(SumUDF):
        def process_tile(self, tile: Any) -> None:
            with pytest.warns(UseDiscouragedWarning):
                assert self.results["intensity"] is self.results.get_buffer("intensity")
            self.results.intensity += tile.sum(axis=0)
            with pytest.warns(UseDiscouragedWarning):
                assert self.params["dtype"] == "float32"

        def merge(self, dest: Any, src: Any) -> None:
            with pytest.warns(UseDiscouragedWarning):
                dest["intensity"][:] += src["intensity"]

        def get_results(self) -> Any:
            assert list(self.results.keys()) == ["intensity"]
            assert "intensity" in self.results
            assert self.results.get("nothing", 7) == 7
            return {name: self.results.get(name) for name in self.results}

    data = counts()
    with Context.make_with("inline") as ctx:  # warnings are caught for a whole process, not for a thread
        result = ctx.run_udf(dataset=load(ctx, data), udf=Old())
    np.testing.assert_array_equal(result["intensity"].data, data.sum(axis=(0, 1)))


# -- tiling preferences


@pytest.mark.parametrize(
    ("depth", "size"), list(itertools.product([1, 3, "default", "max"], [4 * 8 * 8 * 2, "fit", "max"]))
)
def test_tiling_preferences_are_bounds(depth: Any, size: Any) -> None:
    depths: list[tuple[int, int]] = []

    class Prefers(NoOpUDF):
        def __init__(self) -> None:
            UDF.__init__(self)

        def get_preferred_input_dtype(self) -> Any:
            return np.float32

        def get_tiling_preferences(self) -> Any:
            named = {"default": self.TILE_DEPTH_DEFAULT, "max": self.TILE_DEPTH_MAX}
            sizes = {"fit": self.TILE_SIZE_BEST_FIT, "max": self.TILE_SIZE_MAX}
            return {"depth": named.get(depth, depth), "total_size": sizes.get(size, size)}

        def process_tile(self, tile: Any) -> None:
            depths.append((len(tile), tile.nbytes))

    with Context.make_with("inline") as ctx:
        ctx.run_udf(load(ctx, counts((3, 5, 8, 8)), num_partitions=1), Prefers())
    assert sum(n for n, _ in depths) == 15
    if isinstance(depth, int):
        assert max(n for n, _ in depths) <= depth
    if isinstance(size, int):
        assert max(n for _, n in depths) <= size


@pytest.mark.parametrize("preference", [UDF.TILE_DEPTH_DEFAULT, UDF.TILE_SIZE_BEST_FIT])
def test_tiling_preferences_may_be_parameters(preference: Any) -> None:
    """They are themselves also in another process."""
    code = """if True:
        import pickle, sys
        from tilework.udf import UDF
        print(pickle.load(sys.stdin.buffer) in (UDF.TILE_DEPTH_DEFAULT, UDF.TILE_SIZE_BEST_FIT))
    """
    sent = pickle.dumps(preference)
    assert pickle.loads(sent) is preference
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"True\n"), done.stderr


# -- parameters that change, and looking without running


class Scales(UDF):
    def __init__(self, factor: Any, weights: Any = None) -> None:
        if factor < 0:
            msg = "the factor must not be negative"
            raise ValueError(msg)
        super().__init__(factor=factor, weights=weights)

    def get_result_buffers(self) -> Any:
        return {"x": self.buffer(kind="nav", dtype=np.float64)}

    def process_frame(self, frame: Any) -> None:
        weight = 1 if self.params.weights is None else self.params.weights[0]
        self.results.x[:] = self.params.factor * weight


def test_parameters_that_no_function_could_be_made_with_are_refused_at_once(ctx: Context) -> None:
    steps = ctx.run_udf_iter(dataset=load(ctx, counts((20, 5, 4, 4)), num_partitions=50), udf=Scales(factor=1))
    next(steps)
    with pytest.raises(UDFException, match=r"Scales has no parameter 'faktor'.*it has: factor, weights"):
        steps.update_parameters_experimental([{"faktor": 2}])
    with pytest.raises(
        UDFException, match=r"cannot be made with the new parameters factor: the factor must not be neg"
    ):
        steps.update_parameters_experimental([{"factor": -1}])
    small = UDF.aux_data(np.ones(3), kind="nav", dtype=np.float64)
    with pytest.raises(UDFException, match=r"Scales: parameter 'weights'.*needs 100 entries"):
        steps.update_parameters_experimental([{"weights": small}])
    steps.update_parameters_experimental([{"weights": UDF.aux_data(np.arange(100.0), kind="nav", dtype="f8")}])
    for last in steps:
        pass
    values = last.buffers[0]["x"].raw_data
    # Tasks that had begun still have what they began with; all later ones have their own part of the weights.
    assert values[0] == 1
    assert values[-1] == 99
    assert all(v in (1, i) for i, v in enumerate(values))


def test_parameters_are_not_changed_by_the_function_itself(ctx: Context) -> None:
    class Changes(Scales):
        def process_frame(self, frame: Any) -> None:
            self.params.factor = 3

    with pytest.raises(AttributeError, match=r"'factor' is set where it is made.*update_parameters_experimental"):
        ctx.run_udf(dataset=load(ctx, counts()), udf=Changes(factor=1))


def test_looking_at_results_without_running(ctx: Context) -> None:
    ds = load(ctx, counts())
    roi = ds.roi[1:3]
    declared = UDFRunner.inspect_udf(Everything("tile", (2,), "f8", None), ds, roi)
    assert {name: (b.kind, b.shape, b.use) for name, b in declared.items()} == {
        "nav": ("nav", (10, 2), None),
        "sig": ("sig", (8, 7, 2), None),
        "single": ("single", (2,), None),
        "hidden": ("nav", (10, 2), "private"),
        "doubled": ("nav", (10, 2), "result_only"),
    }
    dry = UDFRunner.dry_run([FrameMax(), Everything("tile", (), "f8", None)], ds, roi)
    assert np.isnan(dry.buffers[0]["maximum"].data[~roi]).all()
    assert not dry.buffers[0]["maximum"].data[roi].any()
    assert not dry.buffers[0]["maximum"].valid_mask.any()
    assert not dry.damage.data.any()
    assert set(dry.buffers[1]) == {"nav", "sig", "single", "doubled"}
    shown = ctx.display(dataset=ds, udf=SumUDF(), roi=roi)
    html = shown._repr_html_()
    for text in ("SumUDF", "tile", "scipy.sparse.csr_matrix", "float32", "intensity", "sig", "(8, 7)"):
        assert text in html
        assert text in repr(shown)
