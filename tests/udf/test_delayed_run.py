"""Runs that become Dask graphs: the same bits as inline, nothing read before it is computed, and then once."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dask.array
import dask.base
import dask.config
import numpy as np
import pytest
from dask.delayed import delayed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detector_files import counts
from tilework.api import Context
from tilework.corrections import CorrectionSet
from tilework.exceptions import DataSetException, UDFException, UnfitResultError
from tilework.io.dataset.dask import DaskDataSet
from tilework.io.dataset.memory import MemoryDataSet
from tilework.io.dataset.memory_partition import MemoryPartition
from tilework.io.results import load_results
from tilework.udf import (
    UDF,
    ApplyMasksUDF,
    AutoUDF,
    CoMUDF,
    LogsumUDF,
    PickUDF,
    RecordUDF,
    StdDevUDF,
    SumSigUDF,
    SumUDF,
)
from tilework.udf.delayed_results import DaskResultBufferWrapper, DelayedRunResult
from tilework.udf.delayed_run import merges_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

da: Any = dask.array
compute: Any = dask.base.compute

DATA = counts((6, 7, 8, 9), "u2")
ROI = np.random.default_rng(1).random((6, 7)) < 0.3

reads: list[int] = []
_lock = threading.Lock()


class CountingPartition(MemoryPartition):
    """Notes that it is read."""

    def get_tiles(self, *args: Any, **kwargs: Any) -> Any:
        assert self.idx is not None
        with _lock:
            reads.append(self.idx)
        return super().get_tiles(*args, **kwargs)


class CountingDataSet(MemoryDataSet):
    """An array whose partitions note that they are read."""

    def _make_partition(self, meta: Any, part: Any, segments: Any, frame_format: Any) -> MemoryPartition:
        return CountingPartition(meta, part, segments, frame_format, self._delivery)


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("delayed") as context:
        yield context


@pytest.fixture
def inline() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.fixture
def dataset() -> CountingDataSet:
    reads.clear()
    return CountingDataSet(data=DATA, num_partitions=6)


class Everything(UDF):
    """Results of all kinds, an initial value that is not zero, a merge that asks what is merged, and masks."""

    def __init__(self, start: float = -np.inf) -> None:
        super().__init__(start=start)

    def get_result_buffers(self) -> dict[str, Any]:
        return {
            "highest": self.buffer(kind="sig", dtype="f4"),
            "sums": self.buffer(kind="nav", dtype="f4", extra_shape=(2,)),
            "before": self.buffer(kind="nav", dtype="i8"),
            "steps": self.buffer(kind="single", dtype="f8"),
            "hidden": self.buffer(kind="single", dtype="i4", use="private"),
            "mean": self.buffer(kind="sig", dtype="f4", use="result_only"),
        }

    def preprocess(self) -> None:
        self.results.highest[:] = self.params.start
        self.results.sums[:] = 5

    def process_frame(self, frame: Any) -> None:
        np.maximum(self.results.highest, frame, out=self.results.highest)
        self.results.sums[:] = frame.sum(), self.meta.slice.origin[0]

    @property
    def n_merged(self) -> int:
        merged = self.meta.get_valid_nav_mask()
        assert merged is not None
        return int(merged.sum())

    def merge(self, dest: Any, src: Any) -> None:
        src.highest *= 1  # its own, to do with as it likes
        np.maximum(dest.highest, src.highest, out=dest.highest)
        dest.sums[:] += src.sums
        dest.before[:] = self.n_merged
        dest.steps[:] = dest.steps * 0.7 + 1
        dest.hidden[:] += 1

    def get_results(self) -> Mapping[str, Any]:
        results = self.results
        with np.errstate(all="ignore"):
            mean = results.highest / results.hidden[0] + self.n_merged
        return {
            "highest": results.highest,
            "sums": self.with_mask(results.sums, results.sums[:, :1] > 150_000),
            "mean": mean,
            "steps": results.steps,
        }


def bits(results: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what is in the results of several UDFs, bit by bit; computes what is lazy in one go."""
    arrays = [
        (f"{i} {name}", getattr(b, "delayed_data", b.data), getattr(b, "delayed_valid_mask", b.valid_mask), b.kind)
        for i, result in enumerate(results)
        for name, b in result.items()
    ]
    (computed,) = compute(arrays, **kwargs)
    return {
        name: (data.dtype, data.shape, np.ascontiguousarray(data).tobytes(), mask.tobytes(), kind)
        for name, data, mask, kind in computed
    }


class Stacked(UDF):
    """Puts its partial results together at once."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"total": self.buffer(kind="sig", dtype="f8"), "frame": self.buffer(kind="nav", dtype="f4")}

    def process_tile(self, tile: Any) -> None:
        self.results.total[:] += tile.sum(axis=0, dtype="f8").astype(int)
        self.results.frame[:] += tile.reshape(len(tile), -1).sum(axis=1)

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] += src.total
        dest.frame[:] = src.frame

    def merge_all(self, ordered_results: Any) -> Mapping[str, Any]:
        starts = [part.origin[0] for part in ordered_results]
        assert starts == sorted(starts)
        parts = list(ordered_results.values())
        assert all(isinstance(part.total, da.Array) for part in parts)
        return {"total": np.stack([part.total for part in parts]).sum(axis=0)}


# -- the same bits


@pytest.mark.filterwarnings("ignore:.*without a frame.*:RuntimeWarning")
@settings(max_examples=25)
@given(data=st.data())
def test_own_functions_give_the_same_bits(data: st.DataObject) -> None:
    """Every kind of result, merge, ROI, partition, absent frames; built-in functions are in test_same_bits.py."""
    nav = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), label="nav")
    sig = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=2).map(tuple), label="sig")
    frames = counts((*nav, *sig), data.draw(st.sampled_from(["u1", "f4", ">u2"]), label="dtype"))
    density = data.draw(st.none() | st.integers(0, 9), label="selected tenths")
    roi = None if density is None else np.random.default_rng(density).random(nav) < density / 9
    parts = data.draw(st.integers(1, int(np.prod(nav))), label="partitions")
    skip = data.draw(st.sampled_from([0, 0, -2, 1]), label="sync_offset")
    assume(abs(skip) < np.prod(nav))
    scheduler = data.draw(st.sampled_from(["sync", "threads"]))
    made = {}
    for name in ("inline", "delayed"):
        with Context.make_with(name) as ctx:
            ds = ctx.load("memory", data=frames, sig_dims=len(sig), num_partitions=parts, sync_offset=skip)
            udfs = [Everything(), Everything(start=1000), Stacked(), AutoUDF(f=np.mean, monitor=True)]
            made[name] = bits(ctx.run_udf(dataset=ds, udf=udfs, roi=roi), scheduler=scheduler)
    assert made["delayed"] == made["inline"]


class Mask:
    """Makes a mask in every process."""

    def __call__(self) -> Any:
        return np.linspace(0, 1, 3 * 72, dtype="f4").reshape(3, 8, 9)


def everything() -> list[Any]:
    masks = ApplyMasksUDF(mask_factories=Mask(), mask_count=3)
    com = CoMUDF.with_params(cy=4, cx=4, r=3, regression=1)
    return [SumUDF(), StdDevUDF(), SumSigUDF(), masks, com, PickUDF(), LogsumUDF(), Everything(), Stacked()]


@pytest.mark.parametrize("roi", [None, ROI])
def test_every_scheduler_gives_the_same_bits(ctx: Context, inline: Context, roi: Any) -> None:
    """Also where graph, partitions and results go through pickle; the run's context is closed by then."""
    ds = inline.load("memory", data=DATA, num_partitions=6)
    expected = bits(inline.run_udf(dataset=ds, udf=everything(), roi=roi))
    results = ctx.run_udf(dataset=ds, udf=everything(), roi=roi)
    ctx.close()
    # Processes are started for each call, and get no other graph than the others.
    for scheduler in ("sync", "threads", *(["processes"] if roi is not None else [])):
        assert bits(results, scheduler=scheduler) == expected, scheduler


def test_on_a_cluster(ctx: Context, inline: Context) -> None:
    """On a scheduler and two worker processes; chunks that the cluster holds can be computed with."""
    ds = inline.load("memory", data=DATA, num_partitions=6)
    expected = bits(inline.run_udf(dataset=ds, udf=everything(), roi=ROI))
    results = ctx.run_udf(dataset=ds, udf=everything(), roi=ROI)
    import distributed

    client_class: Any = distributed.Client
    with client_class(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        assert bits(results, scheduler=client) == expected
        held = client.persist(results[2]["intensity"].delayed_data)
        total = client.compute(held[ROI].sum(dtype="f8")).result()
        assert total == DATA[ROI].sum(dtype="f8")
        with pytest.raises(DataSetException, match="persist"):
            DaskDataSet(client.persist(da.ones((4, 4, 4), chunks=2)), sig_dims=2)
        array = client.compute(results[0]["intensity"].delayed_data / 2, retries=1).result()
    np.testing.assert_array_equal(array, DATA[ROI].sum(axis=0) / np.float32(2))


def test_chunks_are_merged_on_every_scheduler(ctx: Context, inline: Context, dataset: CountingDataSet) -> None:
    """Also where Dask is set to merge chunks in a way that only a cluster can do."""
    udfs: Any = [StdDevUDF(), Everything()]
    expected = inline.run_udf(dataset=dataset, udf=udfs, roi=ROI)
    with dask.config.set({"array.rechunk.method": "p2p", "scheduler": "threads"}):
        for result, same in zip(ctx.run_udf(dataset=dataset, udf=udfs, roi=ROI), expected, strict=True):
            for name, buffer in result.items():
                assert buffer.data.tobytes() == same[name].data.tobytes(), name


# -- nothing is read before, and then once


def test_nothing_is_read_before_it_is_computed(ctx: Context, dataset: CountingDataSet) -> None:
    results = ctx.run_udf(dataset=dataset, udf=everything())
    masks = results[3]["intensity"]
    assert (masks.kind, masks.dtype, masks.extra_shape, masks.shape) == ("nav", np.dtype("f4"), (3,), (42, 3))
    assert masks.delayed_data.shape == (6, 7, 3)
    assert masks.delayed_raw_data.shape == (42, 3)
    assert masks.valid_mask.all()
    (sum(r.sum() for result in results for r in (b.delayed_data for b in result.values()))).dask  # noqa: B018
    assert reads == []


def test_one_read_for_all_functions(ctx: Context, dataset: CountingDataSet) -> None:
    """However many results of however many functions are computed together, with other things."""
    results = ctx.run_udf(dataset=dataset, udf=everything())
    lazy = [b.delayed_data for result in results for b in result.values()]
    image = results[2]["intensity"].delayed_data
    # What is made of Delayed objects is optimized apart from arrays.
    doubled = [delayed(np.multiply)(block, 2) for block in image.to_delayed().ravel()]
    got = compute(*lazy, image.mean(axis=1), (lazy[0] + 1).max(), *doubled)
    assert sorted(reads) == list(range(6))
    np.testing.assert_array_equal(got[0], DATA.sum(axis=(0, 1), dtype="f4"))
    np.testing.assert_array_equal(np.concatenate(got[-len(doubled) :]), 2 * DATA.sum(axis=(2, 3), dtype="f4"))


def test_what_is_made_on_the_way_is_kept(ctx: Context, dataset: CountingDataSet) -> None:
    """`data` computes; what is in memory as a whole then needs no second pass."""
    sums, deviations = ctx.run_udf(dataset=dataset, udf=[SumUDF(), StdDevUDF()])
    np.testing.assert_array_equal(sums["intensity"].data, DATA.sum(axis=(0, 1), dtype="f4"))
    np.testing.assert_allclose(deviations["std"].data, DATA.std(axis=(0, 1)))
    assert deviations["num_frames"].raw_data.tolist() == [42]
    assert np.asarray(deviations["mean"]).dtype == np.float64
    assert deviations["var"].valid_mask.all()
    assert len(reads) == 6


def test_large_results_are_computed_when_asked_for(ctx: Context, dataset: CountingDataSet) -> None:
    """A result in many chunks is not made because another is wanted."""
    total, image = ctx.run_udf(dataset=dataset, udf=[SumUDF(), SumSigUDF()])
    assert total["intensity"].data.any()
    buffer = image["intensity"]
    assert isinstance(buffer, DaskResultBufferWrapper)
    assert not buffer.is_computed
    assert len(reads) == 6
    np.testing.assert_array_equal(buffer.data, DATA.sum(axis=(2, 3)))
    assert len(reads) == 12
    assert np.asarray(buffer).any()
    assert len(reads) == 12


def test_results_are_computed_together(ctx: Context, dataset: CountingDataSet, tmp_path: Path) -> None:
    result = ctx.run_udf(dataset=dataset, udf=Everything())
    assert isinstance(result, DelayedRunResult)
    assert result.compute() is result
    assert all(isinstance(b, DaskResultBufferWrapper) and b.is_computed for b in result.values())
    assert len(reads) == 6
    again = ctx.run_udf(dataset=dataset, udf=Everything())
    again.save(tmp_path / "all.npz")
    assert len(reads) == 12
    saved = load_results(tmp_path / "all.npz")
    for name, buffer in result.items():
        np.testing.assert_array_equal(np.ma.getdata(saved[name]), buffer.data)


def test_only_what_a_slice_needs_is_read(ctx: Context, dataset: CountingDataSet) -> None:
    image = ctx.run_udf(dataset=dataset, udf=SumSigUDF())["intensity"]
    row = image.delayed_data[2].compute()
    np.testing.assert_array_equal(row, DATA[2].sum(axis=(1, 2)))
    assert reads == [2]


def test_positions_that_are_not_selected_are_not_read(ctx: Context, dataset: CountingDataSet) -> None:
    roi = np.zeros((6, 7), dtype=bool)
    roi[1, 2:4] = roi[4, 6] = True
    image = ctx.run_udf(dataset=dataset, udf=SumSigUDF(), roi=roi)["intensity"]
    embedded = image.delayed_data.compute()
    np.testing.assert_array_equal(embedded[roi], DATA[roi].sum(axis=(1, 2)))
    assert np.isnan(embedded[~roi]).all()
    assert sorted(reads) == [1, 4]


def test_a_dask_array_as_input(ctx: Context, inline: Context) -> None:
    array = da.from_array(DATA, chunks=(2, 7, 8, 9)) + np.uint16(1)
    ds = ctx.load("dask", array, sig_dims=2, min_size=1)
    lazy = ctx.run_udf(dataset=ds, udf=[SumUDF(), SumSigUDF()])
    assert bits(lazy) == bits(inline.run_udf(dataset=ds, udf=[SumUDF(), SumSigUDF()]))
    assert lazy[1]["intensity"].delayed_data.chunks == ((2, 2, 2), (7,))


# -- what users do with results


def test_a_result_is_taken_as_a_dask_array(ctx: Context, dataset: CountingDataSet) -> None:
    image = ctx.run_udf(dataset=dataset, udf=SumSigUDF(), roi=ROI)["intensity"]
    array = da.asarray(image)
    assert isinstance(array, da.Array)
    assert reads == []
    assert array.name == da.asarray(image).name or array.shape == (6, 7)


def test_masks(ctx: Context, inline: Context, dataset: CountingDataSet) -> None:
    """valid_mask, masked_data and raw_masked_data are those of inline."""
    lazy = ctx.run_udf(dataset=dataset, udf=Everything(), roi=ROI)
    for name, expected in inline.run_udf(dataset=dataset, udf=Everything(), roi=ROI).items():
        got = lazy[name]
        np.testing.assert_array_equal(got.valid_mask, expected.valid_mask)
        np.testing.assert_array_equal(got.masked_data.mask, expected.masked_data.mask)
        np.testing.assert_array_equal(got.raw_masked_data.filled(0), expected.raw_masked_data.filled(0))
        assert got.valid_slice_bounding == expected.valid_slice_bounding


def test_results_travel(ctx: Context, dataset: CountingDataSet) -> None:
    """A result goes through pickle, computed or not."""
    result = ctx.run_udf(dataset=dataset, udf=SumUDF())["intensity"]
    copy = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copy.data, result.data)
    assert pickle.loads(pickle.dumps(result)).is_computed


def test_the_function_may_run_again_before_its_results_are_computed(ctx: Context, dataset: CountingDataSet) -> None:
    """A graph keeps the parameters of its run, whatever the instance is used for afterwards."""
    aux = UDF.aux_data(np.arange(42.0), kind="nav", dtype="f8")

    class Weighted(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"sum": self.buffer(kind="sig", dtype="f8"), "weights": self.buffer(kind="single", dtype="f8")}

        def process_frame(self, frame: Any) -> None:
            self.results.sum += frame * self.params.weight

        def merge(self, dest: Any, src: Any) -> None:
            dest.sum += src.sum
            dest.weights += self.params.weight.sum()  # those of the partition

    udf = Weighted(weight=aux)
    first = ctx.run_udf(dataset=dataset, udf=udf, roi=ROI)
    second = ctx.run_udf(dataset=dataset, udf=udf)
    weights = np.arange(42.0).reshape(6, 7)
    assert first["weights"].data == weights[ROI].sum()
    assert second["weights"].data == weights.sum()
    np.testing.assert_allclose(first["sum"].data, (DATA[ROI] * weights[ROI][:, None, None]).sum(axis=0))


class ManyArrays(UDF):
    """Uses parameters in tasks, in merging and at the end; arrays that belong together do so in each of them."""

    def __init__(self, weight: Any, aux: Any, pair: Any) -> None:
        super().__init__(weight=weight, aux=aux, pair=pair)
        self.weight = weight

    def get_result_buffers(self) -> dict[str, Any]:
        return {"sum": self.buffer(kind="nav", dtype="f8"), "merged": self.buffer(kind="single", dtype="f8")}

    def process_frame(self, frame: Any) -> None:
        params = self.params
        self.results.sum[:] = (frame * params.weight).sum() * params.aux + params.pair[0]["offset"]

    def merge(self, dest: Any, src: Any) -> None:
        dest.sum[:] = src.sum
        dest.merged += self.params.weight[0, 0]

    def get_results(self) -> dict[str, Any]:
        assert self.weight is self.params.weight
        return {"sum": self.results.sum * self.weight[0, 0], "merged": self.results.merged}


def test_parameters_may_be_changed_before_results_are_computed(ctx: Context, inline: Context) -> None:
    """A program that goes through values of a parameter may do that in one array."""
    dataset = ctx.load("memory", data=DATA, num_partitions=3)
    weight, dark, aux, offset = arrays = np.ones((8, 9)), np.ones((8, 9)), np.ones(42), np.ones(1)
    udf = ManyArrays(weight, UDF.aux_data(aux, kind="nav", dtype="f8"), pair=[{"offset": offset}, 1])
    lazy: list[Any] = []
    expected: list[Any] = []
    for value in (1, 2, 3):
        for array in arrays:
            array[:] = value
        corrections = CorrectionSet(dark=dark)
        for context, results in ((ctx, lazy), (inline, expected)):
            results.extend(context.run_udf(dataset=dataset, udf=[udf, SumSigUDF()], corrections=corrections))
    assert bits(lazy) == bits(expected)
    assert lazy[0].provenance.parameters["weight"][0, 0] == 1


READ_ONLY = np.ones((8, 9))
READ_ONLY.setflags(write=False)


def test_what_nobody_can_write_to_is_not_copied(ctx: Context, dataset: CountingDataSet) -> None:
    """It may be large. Neither is what holds no arrays."""

    class Shares(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"shares": self.buffer(kind="nav", dtype=bool, extra_shape=(2,))}

        def process_frame(self, frame: Any) -> None:
            params = self.params
            self.results.shares[:] = [np.shares_memory(READ_ONLY, a) for a in (params.array, *params.more)]
            params.log.append(1)

    log: list[int] = []
    result = ctx.run_udf(dataset=dataset, udf=Shares(array=READ_ONLY[:, 3:], more=[READ_ONLY.T], log=log))
    assert result["shares"].data.all()
    assert len(log) == 42


def test_several_threads_build_and_compute(ctx: Context) -> None:
    """One executor, many threads; the graph of each run has the structure of its own functions."""
    ds = ctx.load("memory", data=DATA, num_partitions=6)

    def work(i: int) -> bool:
        udfs = everything()[i % 3 :]
        return bits(ctx.run_udf(dataset=ds, udf=udfs), scheduler="sync").keys() == expected[i % 3].keys()

    expected = [bits(ctx.run_udf(dataset=ds, udf=everything()[i:]), scheduler="sync") for i in range(3)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


def test_iterating_gives_the_results_once(ctx: Context, dataset: CountingDataSet) -> None:
    (item,) = ctx.run_udf_iter(dataset=dataset, udf=SumUDF())
    assert item.damage.data.all()
    assert isinstance(item.buffers[0]["intensity"], DaskResultBufferWrapper)
    assert reads == []


async def _run(ctx: Context, dataset: CountingDataSet) -> Any:
    return await ctx.run_udf(dataset=dataset, udf=SumUDF(), sync=False)


def test_asynchronously(ctx: Context, dataset: CountingDataSet) -> None:
    import asyncio

    result = asyncio.run(_run(ctx, dataset))
    assert reads == []
    np.testing.assert_array_equal(result["intensity"].data, DATA.sum(axis=(0, 1), dtype="f4"))


@pytest.mark.parametrize("roi", [None, ROI])
def test_results_that_are_objects(ctx: Context, inline: Context, roi: Any) -> None:
    class Notes(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"note": self.buffer(kind="nav", dtype=object), "all": self.buffer(kind="single", dtype=object)}

        def process_frame(self, frame: Any) -> None:
            self.results.note[0] = {"max": int(frame.max())}

        def merge(self, dest: Any, src: Any) -> None:
            dest.note[:] = src.note
            dest.all[0] = (dest.all[0] or []) + list(src.note)

    ds = ctx.load("memory", data=DATA, num_partitions=6)
    lazy, expected = (c.run_udf(dataset=ds, udf=Notes(), roi=roi) for c in (ctx, inline))
    assert lazy["note"].data.tolist() == expected["note"].data.tolist()
    assert lazy["all"].data.tolist() == expected["all"].data.tolist()


def test_mapping_a_function(ctx: Context) -> None:
    image: Any = ctx.map(dataset=ctx.load("memory", data=DATA), f=np.max)
    np.testing.assert_array_equal(image.delayed_data.compute(), DATA.max(axis=(2, 3)))


# -- merge_all, and what is refused


class Subclass(Stacked):
    """Changes how two results are merged."""

    def merge(self, dest: Any, src: Any) -> None:
        dest.total[:] = np.maximum(dest.total, src.total)
        dest.frame[:] = src.frame


def test_merge_all_of_a_base_class_is_not_taken_for_another_merge(ctx: Context, inline: Context) -> None:
    assert merges_all(Stacked())
    assert merges_all(SumUDF())
    assert not merges_all(Subclass())
    assert not merges_all(SumSigUDF())
    ds = ctx.load("memory", data=DATA, num_partitions=6)
    assert bits([ctx.run_udf(dataset=ds, udf=Subclass())]) == bits([inline.run_udf(dataset=ds, udf=Subclass())])


def variant(base: type[UDF] = Stacked, **methods: Any) -> UDF:
    udf: UDF = type("Variant", (base,), methods)()
    return udf


@pytest.mark.parametrize(
    ("udf", "error", "message"),
    [
        (variant(merge_all=lambda self, parts: {}), UDFException, "did not return 'total'"),
        (variant(merge_all=lambda self, parts: {"total": np.zeros((8, 9)), "x": 1}), UDFException, "'x'"),
        (variant(merge_all=lambda self, parts: {"total": np.zeros((9, 8))}), UDFException, r"\(9, 8\)"),
        (variant(merge_all=lambda self, parts: {"total": np.zeros((8, 9), "c8")}), UDFException, "complex64"),
        (variant(get_results=lambda self: {"other": 1}), UDFException, "'other'"),
        (variant(Everything, get_results=UDF.get_results), UDFException, "result_only"),
        (variant(Stacked, merge=UDF.merge, merge_all=None), TypeError, "None"),
    ],
)
def test_broken_rules_show_before_anything_is_read(
    ctx: Context, dataset: CountingDataSet, udf: UDF, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ctx.run_udf(dataset=dataset, udf=udf)
    assert reads == []


def test_a_run_without_results_is_refused(ctx: Context, dataset: CountingDataSet, tmp_path: Path) -> None:
    """There would be nothing to compute, and what its tasks do would never be done."""
    with pytest.raises(UDFException, match="RecordUDF has no results"):
        ctx.run_udf(dataset=dataset, udf=RecordUDF(tmp_path / "copy.npy"))
    assert not list(tmp_path.iterdir()), "the file that it had begun is left, full of zeros"
    results = ctx.run_udf(dataset=dataset, udf=[RecordUDF(tmp_path / "with_sum.npy"), SumUDF()])
    results[1]["intensity"].data.sum()
    np.testing.assert_array_equal(np.load(tmp_path / "with_sum.npy"), DATA)


def test_a_merge_is_needed(ctx: Context, dataset: CountingDataSet) -> None:
    class NoMerge(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"total": self.buffer(kind="sig")}

        def process_tile(self, tile: Any) -> None:
            pass

    with pytest.raises(UDFException, match="implement merge"):
        ctx.run_udf(dataset=dataset, udf=NoMerge())
    assert reads == []


def test_results_that_cannot_be_made_of_zeros(ctx: Context, inline: Context) -> None:
    """get_results is asked for zeros first; where it cannot do that, what is declared is believed."""

    def get_results(self: Any) -> Any:
        if not self.results.total.any():
            raise ZeroDivisionError
        return {"total": self.results.total / self.results.total.max(), "frame": self.results.frame}

    ds = ctx.load("memory", data=DATA, num_partitions=6)
    udf = variant(get_results=get_results)
    assert bits([ctx.run_udf(dataset=ds, udf=udf)]) == bits([inline.run_udf(dataset=ds, udf=udf)])


def test_results_that_are_something_else_for_zeros(ctx: Context, inline: Context) -> None:
    """What is declared is true of the results, though not of those of zeros, whose root is real."""

    class Roots(UDF):
        def get_result_buffers(self) -> Any:
            return {
                "total": self.buffer(kind="nav", dtype="f8"),
                "root": self.buffer(kind="nav", dtype="c16", use="result_only"),
            }

        def process_frame(self, frame: Any) -> None:
            self.results.total[:] = -frame.sum(dtype="f8") - 1

        def get_results(self) -> Any:
            return {"total": self.results.total, "root": np.emath.sqrt(self.results.total)}

    ds = ctx.load("memory", data=DATA, num_partitions=6)
    lazy = ctx.run_udf(dataset=ds, udf=Roots())
    assert lazy["root"].delayed_data.dtype == np.complex128
    assert bits([lazy]) == bits([inline.run_udf(dataset=ds, udf=Roots())])


def test_a_dtype_that_was_not_declared_is_kept(ctx: Context, inline: Context) -> None:
    """As on every other executor: what get_results returns decides, within the kind of dtype."""
    ds = ctx.load("memory", data=DATA, num_partitions=6)
    udf = variant(get_results=lambda self: {"frame": self.results.frame.astype("f8") / 3, "total": self.results.total})
    lazy = ctx.run_udf(dataset=ds, udf=udf)
    assert lazy["frame"].delayed_data.dtype == np.float64
    assert bits([lazy]) == bits([inline.run_udf(dataset=ds, udf=udf)])


class Scaled(UDF):
    """Returns a wider dtype where there is something to scale: what it returns for zeros is not a promise."""

    def __init__(self, dtype: str, wide: str, factor: float, can_do_zeros: bool = True) -> None:
        super().__init__(dtype=dtype, wide=wide, factor=factor, can_do_zeros=can_do_zeros)

    def get_result_buffers(self) -> Any:
        return {
            "total": self.buffer(kind="nav", dtype=self.params.dtype),
            "scaled": self.buffer(kind="nav", dtype=self.params.dtype, use="result_only"),
        }

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] = frame[0, 0] + 1

    def get_results(self) -> Any:
        total = self.results.total
        if total.any():
            scaled = total.astype(self.params.wide) * np.dtype(self.params.wide).type(self.params.factor)
        else:
            assert self.params.can_do_zeros
            scaled = total
        return {"total": total, "scaled": scaled}


@pytest.mark.parametrize("can_do_zeros", [True, False])
@pytest.mark.parametrize(("dtype", "wide", "factor"), [("i4", "i8", 2**33), ("f4", "f8", 1e60), ("c8", "c16", 1 / 3)])
@pytest.mark.parametrize("roi", [None, ROI])
def test_values_do_not_change_with_the_dtype_that_was_expected(
    ctx: Context,
    inline: Context,
    dataset: CountingDataSet,
    roi: Any,
    dtype: str,
    wide: str,
    factor: float,
    can_do_zeros: bool,
) -> None:
    """`data` is what get_results returns; a Dask array, whose dtype is settled, says that it cannot hold that."""
    udf = Scaled(dtype, wide, factor, can_do_zeros)
    expected = inline.run_udf(dataset=dataset, udf=udf, roi=roi)["scaled"]
    result = ctx.run_udf(dataset=dataset, udf=udf, roi=roi)
    lazy = result["scaled"]
    assert lazy.delayed_data.dtype == dtype
    with pytest.raises(UnfitResultError, match=rf"Scaled.*'scaled' as {expected.dtype}.*zeros"):
        lazy.delayed_data.compute()
    assert (lazy.data.dtype, lazy.data.tobytes()) == (np.dtype(wide), expected.data.tobytes())
    assert lazy.dtype == expected.dtype == wide
    assert result["total"].dtype == dtype


@pytest.mark.parametrize("can_do_zeros", [True, False])
@pytest.mark.parametrize(("dtype", "wide"), [("i4", "i8"), ("f4", "f8"), ("i8", "i4"), ("f8", "f4")])
def test_a_dask_array_has_the_dtype_that_it_says(
    ctx: Context, dataset: CountingDataSet, dtype: str, wide: str, can_do_zeros: bool
) -> None:
    """Also when get_results returns another one, as long as the values are the same."""
    lazy = ctx.run_udf(dataset=dataset, udf=Scaled(dtype, wide, 2, can_do_zeros))["scaled"]
    computed = lazy.delayed_data.compute()
    assert computed.dtype == lazy.delayed_data.dtype == dtype
    assert lazy.data.dtype == wide
    np.testing.assert_array_equal(computed, lazy.data)


def test_text_is_not_cut(ctx: Context, inline: Context) -> None:
    """How long it is shows when it is made, and not before."""

    class Words(UDF):
        def get_result_buffers(self) -> Any:
            return {
                "total": self.buffer(kind="nav", dtype="f4"),
                "short": self.buffer(kind="nav", dtype="U2", use="result_only"),
                "long": self.buffer(kind="single", dtype="S1", use="result_only"),
            }

        def process_frame(self, frame: Any) -> None:
            self.results.total[:] = frame.sum()

        def get_results(self) -> Any:
            words = np.array(["", "ab"])[(self.results.total > 0).astype(int)]
            long = str(self.results.total.sum()).encode()
            return {"total": self.results.total, "short": words, "long": np.array([long])}

    def name(frame: Any) -> str:
        return "high" if frame.sum() else "low"

    udfs = [Words(), AutoUDF(f=name, monitor=True)]
    expected, lazy = (c.run_udf(dataset=c.load("memory", data=DATA, num_partitions=6), udf=udfs) for c in (inline, ctx))
    assert bits(lazy) == bits(expected)
    assert lazy[1]["monitor"].data == ["high"]


def test_an_error_in_a_task_says_where(ctx: Context, dataset: CountingDataSet) -> None:
    class Fails(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"x": self.buffer(kind="nav")}

        def process_frame(self, frame: Any) -> None:
            raise KeyError("on purpose")

    result = ctx.run_udf(dataset=dataset, udf=Fails())
    with pytest.raises(KeyError, match="on purpose") as caught:
        result["x"].delayed_data.compute(scheduler="sync")
    assert any("process_frame of Fails, partition part-" in note for note in caught.value.__notes__)


def test_progress_is_not_promised(ctx: Context, dataset: CountingDataSet) -> None:
    with pytest.warns(UserWarning, match="ProgressBar"):
        ctx.run_udf(dataset=dataset, udf=SumUDF(), progress=True)


def test_results_larger_than_memory_can_be_declared(ctx: Context) -> None:
    """A tebibyte of results: the graph is there at once, and a part of them can be had."""

    class Copies(UDF):
        def get_result_buffers(self) -> dict[str, Any]:
            return {"copy": self.buffer(kind="nav", extra_shape=(1024, 1024, 64), dtype="f4")}

        def process_frame(self, frame: Any) -> None:
            self.results.copy[0, 0, :8] = frame[0, :8]

    ds = ctx.load(
        "memory", data=np.broadcast_to(DATA[0], (600, 7, 8, 9)).reshape(-1, 8, 9), sig_dims=2, num_partitions=4200
    )
    result = ctx.run_udf(dataset=ds, udf=Copies())["copy"]
    assert result.delayed_data.nbytes > 2**40
    np.testing.assert_array_equal(result.delayed_data[11, 0, 0, :8].compute(), DATA[0, 4, 0, :8])
