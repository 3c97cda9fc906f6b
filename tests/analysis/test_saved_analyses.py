"""Results of analyses that are saved: their numbers, masks and axes, and where they come from."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests_helpers import counts
from tilework.analysis import (
    AnalysisResult,
    AnalysisResultSet,
    BaseAnalysis,
    ClusterAnalysis,
    SumAnalysis,
)
from tilework.analysis.results import real_result
from tilework.api import Context
from tilework.exceptions import ResultFileError
from tilework.io.results import load_results
from tilework.udf.sumsigudf import SumSigUDF

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.fixture(scope="module")
def data() -> Any:
    return counts((6, 5, 12, 10))


@pytest.fixture(scope="module")
def dataset(ctx: Context, data: Any) -> Any:
    return ctx.load("memory", data=data, sig_dims=2, num_partitions=4)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zarr", ".tif"])
def test_results_can_be_saved(ctx: Context, dataset: Any, tmp_path: Any, suffix: str) -> None:
    """Their numbers with masks, axes, titles, and where they come from; also where results are called as axes are."""
    roi = np.zeros((6, 5), dtype=bool)
    roi[1:3, 2:] = True
    result = ctx.run(ctx.create_com_analysis(dataset=dataset, mask_radius=4), roi=roi)
    loaded = load_results(result.save(tmp_path / f"com{suffix}"))
    assert set(loaded) == {"magnitude", "divergence", "curl", "x", "y"}, "not the field, which repeats x and y"
    for name in loaded:
        np.testing.assert_allclose(loaded[name], result[name].raw_data, rtol=1e-6)
        channel = loaded.channels[name]
        assert (channel.kind, channel.title, channel.description) == ("nav", result[name].title, result[name].desc)
        np.testing.assert_array_equal(channel.valid, roi)
    assert loaded.provenance["analysis"]["name"] == "COMAnalysis"
    assert loaded.provenance["analysis"]["parameters"]["r"] == 4
    assert loaded.provenance["udf"] == "CoMUDF"
    assert loaded.provenance["dataset"]["shape"] == [6, 5, 12, 10]
    np.testing.assert_array_equal(loaded.roi, roi)
    with pytest.raises(ResultFileError, match="exists"):
        result.save(tmp_path / f"com{suffix}")
    result.save(tmp_path / f"com{suffix}", overwrite=True)


def test_every_kind_of_result_can_be_saved(ctx: Context, data: Any, dataset: Any, tmp_path: Any) -> None:
    """Of the scan, of the detector, and where these have the same shape; after two passes, those of the second one."""
    square = ctx.load("memory", data=data[:5, :5, :5, :5], sig_dims=2)
    for number, (job, wanted) in enumerate(
        [
            (SumAnalysis(dataset, {}), ("sig", ("ky", "kx"))),
            (ctx.create_pick_analysis(dataset=dataset, x=1, y=2), ("sig", ("ky", "kx"))),
            (ctx.create_disk_analysis(dataset=dataset), ("nav", ("y", "x"))),
            (SumAnalysis(square, {}), ("sig", ("ky", "kx"))),
            (ctx.create_disk_analysis(dataset=square), ("nav", ("y", "x"))),
            (ClusterAnalysis(dataset, {"n_clust": 2}), ("nav", ("y", "x"))),
        ]
    ):
        result = ctx.run(job)
        loaded = load_results(result.save(tmp_path / f"{number}.npz"))
        channel = loaded.channels["intensity"]
        assert (channel.kind, tuple(axis.name for axis in channel.dims)) == wanted
        assert channel.valid is None
        np.testing.assert_array_equal(channel.data, result.intensity.raw_data)


class Vectors(BaseAnalysis):
    """Has a vector that is to be saved, and one number."""

    def get_udf(self) -> Any:
        return SumSigUDF()

    def get_udf_results(self, udf_results: Any, roi: Any, damage: Any) -> AnalysisResultSet:
        values = udf_results["intensity"].data
        vector = AnalysisResult((values, -values), np.zeros((1, 1, 3), np.uint8), "vector", "x and y", "vector")
        return AnalysisResultSet([vector, real_result(values.max(), "max", "the largest", self.parameters["key"])])


def test_vectors_and_numbers_are_saved(ctx: Context, dataset: Any, tmp_path: Any) -> None:
    result = ctx.run(Vectors(dataset, {"key": "largest"}))
    loaded = load_results(pickle.loads(pickle.dumps(result)).save(tmp_path / "r.npz"))
    assert [axis.name for axis in loaded.channels["vector"].dims] == ["y", "x", "vector_0"]
    np.testing.assert_array_equal(loaded["vector"][..., 1], -loaded["vector"][..., 0])
    assert (loaded["largest"], loaded.channels["largest"].kind) == (loaded["vector"].max(), "single")
    with pytest.raises(ResultFileError, match=r"the largest/one.*begin with a letter"):
        ctx.run(Vectors(dataset, {"key": "the largest/one"})).save(tmp_path / "s.npz")


def test_results_that_no_run_made_are_not_saved(tmp_path: Any) -> None:
    results = AnalysisResultSet([real_result(np.zeros((3, 3)), "a", "b", "c")])
    with pytest.raises(ValueError, match=r"not made by Context\.run.*numpy\.savez"):
        results.save(tmp_path / "r.npz")
