"""Selected frames are read where they lie, for functions that take them so, and for what is converted."""

from __future__ import annotations

import functools
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.kernels.picked_frames import PickedFrames
from tilework.corrections import CorrectionSet
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.convert import PAYOFF
from tilework.io.dataset.blocks import BlockReader
from tilework.io.dataset.memory import MemoryDataSet
from tilework.io.dataset.memory_partition import MemoryPartition
from tilework.io.dataset.tile import DataTile
from tilework.udf import UDF, ApplyMasksUDF, CoMUDF, StdDevUDF, SumSigUDF, SumUDF
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

NAV, SIG = (9, 11), (12, 20)


class Maximum(UDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        assert isinstance(frame, np.ndarray)
        self.results.maximum[:] = frame.max()


class MaximumOfTiles(UDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype=np.float32)}

    def process_tile(self, tile: Any) -> None:
        assert isinstance(tile, np.ndarray)
        self.results.maximum[:] = tile.max(axis=(1, 2))


class AsStored(Maximum):
    def get_preferred_input_dtype(self) -> Any:
        return self.USE_NATIVE_DTYPE


def maximum_of_frame(frame: Any, maximum: Any) -> None:
    maximum[0] = 0
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            maximum[0] = max(maximum[0], frame[y, x].real)


def maximum_of_tile(tile: Any, maximum: Any) -> None:
    for i in range(tile.shape[0]):
        maximum[i] = 0
        for y in range(tile.shape[1]):
            for x in range(tile.shape[2]):
                maximum[i] = max(maximum[i], tile[i, y, x])


class CompiledMaximum(AsStored):
    def get_frame_kernel(self) -> Any:
        return maximum_of_frame


class SlowMaximum(CompiledMaximum):
    def get_tiling_preferences(self) -> Any:
        return {"depth": 7, "total_size": UDF.TILE_SIZE_BEST_FIT}


class CompiledMaximumOfTiles(AsStored):
    def get_tile_kernel(self) -> Any:
        return maximum_of_tile


class SumOfArrays(SumUDF):
    def process_tile(self, tile: Any) -> None:
        assert isinstance(tile, np.ndarray)
        super().process_tile(tile)


def wrapped(process_tile: Any) -> Any:
    @functools.wraps(process_tile)
    def process(udf: Any, tile: Any) -> None:
        assert isinstance(tile, np.ndarray)
        process_tile(udf, tile)

    return process


class SumOfArraysByAWrapper(SumUDF):
    process_tile = wrapped(SumUDF.process_tile)


class SumOfArraysByAnObject(SumUDF):
    def preprocess(self) -> None:
        original = self.process_tile

        def process(tile: Any) -> None:
            assert isinstance(tile, np.ndarray)
            original(tile)

        self.process_tile = process  # type: ignore[method-assign]


class SumWithResult(SumUDF):
    def get_results(self) -> Any:
        return {"intensity": self.results.intensity}


@pytest.fixture
def picked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames are in each tile that is read where it lies; with all kernels."""
    found = []
    original = BlockReader.picked

    def spy(reader: BlockReader, depth: int) -> Any:
        for nav, frames in original(reader, depth):
            found.append(len(frames) if isinstance(frames, PickedFrames) else 0)
            yield nav, frames

    monkeypatch.setattr(BlockReader, "picked", spy)
    monkeypatch.setenv(KERNELS_VARIABLE, "numba")
    monkeypatch.setattr(PAYOFF, "pixels", PAYOFF.to_import)
    return found


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(executor=InlineJobExecutor())


def make_frames(dtype: str) -> Any:
    return np.random.default_rng(0).integers(0, 200, (*NAV, *SIG)).astype(dtype)


def select(kind: str) -> Any:
    roi = np.zeros(NAV, dtype=bool)
    if kind == "some":
        roi[np.random.default_rng(1).random(NAV) < 0.4] = True
    elif kind == "a rectangle":
        roi[2:7, 3:9] = True
    elif kind == "one":
        roi[5, 5] = True
    else:
        roi[3:5] = True
    return roi


@pytest.mark.parametrize("selection", ["some", "a rectangle", "one", "whole lines"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "<i4", "<f4"])
@pytest.mark.parametrize("source", ["raw", "memory"])
def test_results_are_those_of_numpy(
    context: Context, picked: list[int], tmp_path: Path, source: str, dtype: str, selection: str
) -> None:
    frames, roi = make_frames(dtype), select(selection)
    if source == "raw":
        frames.tofile(tmp_path / "frames.raw")
        options: dict[str, Any] = {"path": tmp_path / "frames.raw", "nav_shape": NAV, "sig_shape": SIG, "dtype": dtype}
        ds = context.load("raw", num_partitions=4, **options)
    else:
        ds = context.load("memory", data=frames, sig_dims=2, num_partitions=4)
    masks = np.random.default_rng(2).random((3, *SIG)).astype(np.float32)
    udfs = [
        SumUDF(),
        SumSigUDF(),
        StdDevUDF(),
        ApplyMasksUDF(mask_factories=lambda: masks, mask_count=3),
        CoMUDF.with_params(r=5),
        *([Maximum()] if dtype != "<f4" else []),
    ]
    total, pixels, deviations, products, centre, *maximum = context.run_udf(dataset=ds, udf=udfs, roi=roi)
    assert picked
    assert any(picked) == (selection in {"some", "a rectangle"})
    chosen = frames[roi].astype(np.float64)
    np.testing.assert_allclose(total["intensity"].data, chosen.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(pixels["intensity"].raw_data, chosen.sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviations["std"].data, chosen.std(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(products["intensity"].raw_data, np.einsum("iyx,myx->im", chosen, masks), rtol=1e-5)
    alone = context.run_udf(dataset=ds, udf=CoMUDF.with_params(r=5))
    assert centre["raw_com"].data[roi].tobytes() == alone["raw_com"].data[roi].tobytes()
    for each in maximum:
        assert (each["maximum"].raw_data == chosen.max(axis=(1, 2))).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "<i4", "<f4", ">f4"])
@pytest.mark.parametrize("given", ["dark", "gain", "both", "excluded", "all"])
def test_what_is_selected_is_corrected(context: Context, picked: list[int], given: str, dtype: str) -> None:
    """The bits are those of a run over all positions."""
    rng = np.random.default_rng(3)
    corrections = CorrectionSet(
        dark=rng.random(SIG) if given in {"dark", "both", "all"} else None,
        gain=rng.random(SIG) + 0.5 if given in {"gain", "both", "all"} else None,
        excluded_pixels=rng.random(SIG) < 0.1 if given in {"excluded", "all"} else None,
    )
    roi = select("some")
    ds = context.load("memory", data=make_frames(dtype), sig_dims=2, num_partitions=2)
    udfs = [CoMUDF.with_params(r=5), Maximum(), SumSigUDF()]
    some = context.run_udf(dataset=ds, udf=udfs, roi=roi, corrections=corrections)
    assert any(picked)
    everything = context.run_udf(dataset=ds, udf=udfs, corrections=corrections)
    for ours, theirs, name in zip(some, everything, ("raw_com", "maximum", "intensity"), strict=True):
        assert ours[name].data[roi].tobytes() == theirs[name].data[roi].tobytes()


@pytest.mark.parametrize("udf", [AsStored(), [SumUDF(), AsStored()]], ids=["alone", "beside another"])
def test_functions_that_want_what_is_stored_get_copies(context: Context, picked: list[int], udf: Any) -> None:
    ds = context.load("memory", data=make_frames("<u2"), sig_dims=2, num_partitions=2)
    context.run_udf(dataset=ds, udf=udf, roi=select("some"))
    assert not picked


@pytest.mark.parametrize("dtype", ["<u2", "u1", "<f4", "<c8"])
def test_compiled_functions_of_a_frame_take_them_where_they_lie(
    context: Context, picked: list[int], dtype: str
) -> None:
    frames, roi = make_frames(dtype), select("some")
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=2)
    result = context.run_udf(dataset=ds, udf=CompiledMaximum(), roi=roi)
    assert len(picked) == 2
    assert all(picked)
    assert (result["maximum"].raw_data == frames[roi].real.max(axis=(1, 2))).all()


def test_compiled_functions_of_a_frame_get_tiles_of_the_size_of_others(context: Context, picked: list[int]) -> None:
    """They may take long, and only between tiles is looked whether the run goes on."""
    roi = select("some")
    ds = context.load("memory", data=make_frames("<u2"), sig_dims=2, num_partitions=1)
    context.run_udf(dataset=ds, udf=[SumUDF(), SlowMaximum()], roi=roi)
    assert max(picked) == 7
    assert sum(picked) == np.count_nonzero(roi)


@pytest.mark.parametrize("compiled", ["numpy", "numba"])
def test_other_functions_of_a_frame_get_copies(
    context: Context, picked: list[int], monkeypatch: pytest.MonkeyPatch, compiled: str
) -> None:
    """Those that Python calls; and those of a tile, which are compiled for one array without gaps."""
    monkeypatch.setenv(KERNELS_VARIABLE, compiled)
    frames, roi = make_frames("<u2"), select("some")
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=2)
    for udf in [CompiledMaximumOfTiles(), *([CompiledMaximum()] if compiled == "numpy" else [])]:
        result = context.run_udf(dataset=ds, udf=udf, roi=roi)
        assert not picked
        assert (result["maximum"].raw_data == frames[roi].max(axis=(1, 2))).all()


def test_a_process_tile_in_a_wrapper_gets_arrays(
    context: Context, picked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As profilers put one around it with `functools.wraps`; the wrapper may need an array."""
    original = SumUDF.process_tile
    seen = []

    @functools.wraps(original)
    def wrapper(self: SumUDF, tile: Any) -> None:
        seen.append(type(tile))
        original(self, tile)

    monkeypatch.setattr(SumUDF, "process_tile", wrapper)
    frames, roi = make_frames("<u2"), select("some")
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=2)
    result = context.run_udf(dataset=ds, udf=SumUDF(), roi=roi)
    assert set(seen) == {np.ndarray}
    assert not picked
    assert (result["intensity"].data == frames[roi].sum(axis=0)).all()


@pytest.mark.usefixtures("picked")
@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
@pytest.mark.parametrize("udf", [SumOfArrays(), SumOfArraysByAWrapper(), SumOfArraysByAnObject()])
def test_derived_functions_with_a_process_tile_get_arrays(context: Context, udf: Any, dtype: str) -> None:
    frames, roi = make_frames(dtype), select("some")
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=2)
    result = context.run_udf(dataset=ds, udf=udf, roi=roi)
    assert (result["intensity"].data == frames[roi].sum(axis=0)).all()


def test_derived_functions_that_leave_tiles_alone_take_them_where_they_lie(context: Context, picked: list[int]) -> None:
    ds = context.load("memory", data=make_frames("<u2"), sig_dims=2, num_partitions=2)
    context.run_udf(dataset=ds, udf=SumWithResult(), roi=select("some"))
    assert len(picked) == 2
    assert all(picked)


def test_converted_tiles_have_the_size_of_others(context: Context, picked: list[int]) -> None:
    ds = context.load("memory", data=make_frames("<u2"), sig_dims=2, num_partitions=1, tileshape=(7, *SIG))
    roi = select("some")
    context.run_udf(dataset=ds, udf=[SumUDF(), MaximumOfTiles()], roi=roi)
    assert max(picked) == 7
    assert sum(picked) == np.count_nonzero(roi)


def test_large_selections_come_in_several_tiles(context: Context, picked: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr("tilework.io.dataset.fixed_stride_partition.PICKED_BYTES", 2**22)
    frames = np.random.default_rng(0).integers(0, 200, (512, 2, 128, 128), dtype=np.uint16)
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=1)
    roi = np.random.default_rng(1).random((512, 2)) < 0.9
    context.run_udf(dataset=ds, udf=SumUDF(), roi=roi)  # whatever is loaded and compiled is there now
    tracemalloc.start()
    result = context.run_udf(dataset=ds, udf=SumUDF(), roi=roi)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(picked) == 128
    assert peak < frames.nbytes / 4
    assert (result["intensity"].data == frames[roi].sum(axis=0)).all()


def test_frames_in_memory_are_as_slow_as_they_should_be(context: Context, picked: list[int], monkeypatch: Any) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    ds = context.load("memory", data=make_frames("<u2"), sig_dims=2, num_partitions=2, tiledelay=0.25)
    context.run_udf(dataset=ds, udf=SumUDF(), roi=select("some"))
    assert waits == [0.25] * len(picked) == [0.25] * 2


class DoubledPartition(MemoryPartition):
    def get_tiles(self, *args: Any, **kwargs: Any) -> Any:
        for tile in super().get_tiles(*args, **kwargs):
            yield DataTile(2 * tile.data, tile.tile_slice, tile.scheme_idx)


class DoubledDataSet(MemoryDataSet):
    def _make_partition(self, meta: Any, part: Any, segments: Any, frame_format: Any) -> MemoryPartition:
        return DoubledPartition(meta, part, segments, frame_format, self._delivery)


def test_derived_partitions_with_tiles_of_their_own_are_asked_for_them(context: Context, picked: list[int]) -> None:
    frames, roi = make_frames("<u2"), select("some")
    result = context.run_udf(dataset=DoubledDataSet(data=frames, num_partitions=2), udf=SumUDF(), roi=roi)
    assert not picked
    assert (result["intensity"].data == 2 * frames[roi].sum(axis=0)).all()


@pytest.mark.parametrize("tileshape", [(3, 5, 20), (3, 12, 7)])
def test_parts_of_frames_are_copied(context: Context, picked: list[int], tileshape: tuple[int, ...]) -> None:
    frames, roi = make_frames("<u2"), select("some")
    ds = context.load("memory", data=frames, sig_dims=2, num_partitions=2, tileshape=tileshape)
    result = context.run_udf(dataset=ds, udf=SumUDF(), roi=roi)
    assert not picked
    assert (result["intensity"].data == frames[roi].sum(axis=0)).all()


@pytest.mark.usefixtures("picked")
def test_a_file_that_others_write_to_meanwhile_is_noticed(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "frames.raw"
    original = BlockReader.picked

    def write(reader: BlockReader, depth: int) -> Any:
        for block in original(reader, depth):
            with path.open("r+b") as file:
                file.write(b"1234")
            os.utime(path, ns=(0, 0))
            yield block

    monkeypatch.setattr(BlockReader, "picked", write)
    make_frames("<u2").tofile(path)
    ds = context.load("raw", path=path, nav_shape=NAV, sig_shape=SIG, dtype="<u2", num_partitions=1)
    with pytest.raises(DataSetException, match=r"frames\.raw"):
        context.run_udf(dataset=ds, udf=SumUDF(), roi=select("some"))
