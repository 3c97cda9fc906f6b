"""What a file says of the run that its results come from: which region, and how much of it."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests_helpers import counts
from tilework.api import Context
from tilework.exceptions import ResultFileError
from tilework.io.results import load_results, pack_mask, unpack_mask
from tilework.udf import UDF, ApplyMasksUDF, SumUDF
from tilework.udf.com import CoMUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAV, SIG = (6, 7), (8, 9)
FORMATS = [".npz", ".h5", ".zarr", ".tif"]


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


@pytest.fixture(scope="module")
def dataset(ctx: Context) -> Any:
    return ctx.load("memory", data=counts((*NAV, *SIG)), sig_dims=2, num_partitions=6)


@pytest.fixture(scope="module")
def roi() -> Any:
    return np.random.default_rng(1).random(NAV) < 0.5


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_region_comes_back(ctx: Context, dataset: Any, roi: Any, tmp_path: Path, suffix: str) -> None:
    """Also of a result of the detector, which shows nothing of it."""
    saved = ctx.run_udf(dataset=dataset, udf=SumUDF(), roi=roi).save(tmp_path / f"r{suffix}")
    loaded = load_results(saved)
    assert loaded.roi is not None
    np.testing.assert_array_equal(loaded.roi, roi)
    np.testing.assert_array_equal(loaded.merged, roi)
    assert loaded.complete
    assert loaded.provenance["roi"] == {"selected": int(roi.sum()), "of": list(NAV), "packed": pack_mask(roi)}
    assert loaded.provenance["merged"] == {"complete": True, "wanted": int(roi.sum()), "positions": int(roi.sum())}


@pytest.mark.parametrize("selected", [False, True])
def test_a_partial_result_says_so(ctx: Context, dataset: Any, roi: Any, tmp_path: Path, selected: bool) -> None:
    """How many positions it contains, and which, as they were when the result was made."""
    parts = ctx.run_udf_iter(dataset=dataset, udf=SumUDF(), roi=roi if selected else None)
    next(parts)
    part = parts.run.partial().buffers[0]
    next(parts)
    loaded = load_results(part.save(tmp_path / "part.npz"))
    parts.close()
    assert loaded.complete is False
    wanted = np.zeros(NAV, dtype=bool)
    wanted[0] = roi[0] if selected else True
    np.testing.assert_array_equal(loaded.merged, wanted)
    merged, total = int(wanted.sum()), int(roi.sum()) if selected else 42
    assert (loaded.provenance["merged"]["positions"], loaded.provenance["merged"]["wanted"]) == (merged, total)
    assert repr(loaded).endswith(f"; {merged} of {total} positions>")


def test_the_whole_scan(ctx: Context, dataset: Any, tmp_path: Path) -> None:
    loaded = load_results(ctx.run_udf(dataset=dataset, udf=SumUDF()).save(tmp_path / "r.npz"))
    assert loaded.roi is None
    assert loaded.complete
    assert loaded.merged is not None
    assert loaded.merged.shape == NAV
    assert loaded.merged.all()
    assert loaded.provenance["merged"] == {"complete": True, "wanted": 42, "positions": 42}


@pytest.mark.filterwarnings("ignore:.*absent")
@pytest.mark.filterwarnings("ignore:.*frames")
def test_absent_frames_are_not_waited_for(ctx: Context, tmp_path: Path) -> None:
    """A result is complete without the frames that do not exist; which positions it contains is said."""
    np.save(tmp_path / "scan.npy", counts((10, *SIG)))
    scan = ctx.load("npy", path=tmp_path / "scan.npy", nav_shape=(3, 4))
    loaded = load_results(ctx.run_udf(dataset=scan, udf=SumUDF()).save(tmp_path / "r.npz"))
    assert loaded.complete
    assert loaded.provenance["merged"]["positions"] == loaded.provenance["merged"]["wanted"] == 10
    np.testing.assert_array_equal(loaded.merged, np.arange(12).reshape(3, 4) < 10)


def test_a_lazy_result_says_the_same(roi: Any, tmp_path: Path) -> None:
    with Context.make_with("delayed") as context:
        scan = context.load("memory", data=counts((*NAV, *SIG)), sig_dims=2, num_partitions=3)
        loaded = load_results(context.run_udf(dataset=scan, udf=SumUDF(), roi=roi).save(tmp_path / "r.npz"))
    assert loaded.complete
    np.testing.assert_array_equal(loaded.merged, roi)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
@pytest.mark.parametrize("selected", [False, True])
def test_results_travel_without_functions_and_data(
    ctx: Context, roi: Any, tmp_path: Path, again: Callable[[Any], Any], selected: bool
) -> None:
    """Masks may be functions that pickle cannot take, and the dataset can be large; files say the same of a copy."""
    scan = ctx.load("memory", data=counts((*NAV, 256, 128)), sig_dims=2, num_partitions=6)
    udf = ApplyMasksUDF(mask_factories=lambda: np.ones((1, 256, 128)))
    result = ctx.run_udf(dataset=scan, udf=udf, roi=roi if selected else None)
    assert len(pickle.dumps(again(result))) < 20_000
    kept = again(result)
    np.testing.assert_array_equal(kept["intensity"].data, result["intensity"].data)
    assert kept.to_xarray()["intensity"].dims == ("y", "x", "intensity_0")
    assert kept._repr_html_() == result._repr_html_()
    files = [r.save(tmp_path / f"{i}.npz") for i, r in enumerate((result, kept))]
    documents = [{**load_results(file).provenance, "saved": ""} for file in files]
    assert documents[0] == documents[1]


def test_files_without_a_region(tmp_path: Path, ctx: Context, dataset: Any) -> None:
    """Those that an earlier version wrote still load; what they do not say is not known."""
    path = ctx.run_udf(dataset=dataset, udf=SumUDF()).save(tmp_path / "r.npz")
    loaded = load_results(path)
    for old in ({"roi": {"selected": 3, "of": [6, 7]}}, {}):
        known = type(loaded)(loaded.channels, old)
        assert known.roi is None
        assert known.merged is None
        assert known.complete is None
        assert "positions" not in repr(known)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=1, max_dims=3, max_side=20)))
def test_any_mask_can_be_packed(mask: Any) -> None:
    unpacked = unpack_mask(json.loads(json.dumps(pack_mask(mask))), mask.shape)
    np.testing.assert_array_equal(unpacked, mask)


@given(st.text(max_size=20))
def test_no_packed_mask(text: str) -> None:
    with pytest.raises(ValueError, match="no packed mask"):
        unpack_mask(text, (1000, 1000))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_large_region(ctx: Context, tmp_path: Path, suffix: str) -> None:
    """A random one is as long as it can get: more than an attribute of HDF5 could hold by itself."""
    scan = ctx.load("memory", data=np.ones((1024, 1024, 1, 1), dtype=np.uint8), sig_dims=2)
    selected = np.random.default_rng(2).random((1024, 1024)) < 0.5
    loaded = load_results(ctx.run_udf(dataset=scan, udf=SumUDF(), roi=selected).save(tmp_path / f"r{suffix}"))
    assert loaded.roi is not None
    np.testing.assert_array_equal(loaded.roi, selected)


def test_what_is_loaded_is_a_mapping(ctx: Context, dataset: Any, tmp_path: Path) -> None:
    loaded = load_results(ctx.run_udf(dataset=dataset, udf=CoMUDF.with_params()).save(tmp_path / "com.npz"))
    assert "field" in loaded
    assert "nothing" not in loaded
    assert list(loaded) == list(loaded.keys()) == list(loaded.channels)
    assert len(loaded) == 9
    assert dict(loaded)["field"].shape == (*NAV, 2)
    assert {name: array.shape for name, array in loaded.items()}["curl"] == NAV
    assert loaded.get("nothing") is None
    with pytest.raises(KeyError, match=r"there is no result 'nothing': there are raw_shifts, raw_com, "):
        loaded["nothing"]
    assert repr(loaded).startswith("<LoadedResults of CoMUDF: raw_shifts (6, 7, 2) float32, ")
    assert repr(loaded).count("\n") == 0
    assert loaded == loaded
    assert loaded != load_results(tmp_path / "com.npz")
    assert len({loaded, loaded}) == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_loaded_as_xarray(ctx: Context, dataset: Any, tmp_path: Path, suffix: str) -> None:
    """The same as before it was saved; xarray opens the Zarr group itself with the same coordinates."""
    result = ctx.run_udf(dataset=dataset, udf=SumUDF())
    loaded = load_results(result.save(tmp_path / f"r{suffix}")).to_xarray()
    live = result.to_xarray()
    xr.testing.assert_identical(loaded.drop_attrs(deep=False), live.drop_attrs(deep=False))
    assert loaded.attrs.keys() == live.attrs.keys()


class _BadName(UDF):
    def get_result_buffers(self) -> dict[str, Any]:
        return {"a/b": self.buffer("nav")}

    def process_frame(self, frame: Any) -> None:
        getattr(self.results, "a/b")[:] = frame.sum()


def test_a_name_that_no_file_can_hold(ctx: Context, dataset: Any, tmp_path: Path) -> None:
    """The error is that of all results that cannot be saved, and says which names can."""
    result = ctx.run_udf(dataset=dataset, udf=_BadName())
    for each in (result, result["a/b"]):
        with pytest.raises(ResultFileError, match="under the name 'a/b': begin with a letter"):
            each.save(tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []
