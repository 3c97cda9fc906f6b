"""Saved results come back as they were, appear whole or not at all, and failures say what to do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilework import __version__
from tilework.exceptions import ResultFileError
from tilework.io.results import ResultAxis, ResultChannel, load_results, save_results, suffixes, to_xarray
from tilework.io.results.atomic import appearing
from tilework.io.results.jsonable import jsonable
from tilework.udf.com import CoMParams

if TYPE_CHECKING:
    from tilework.io.results.channel import ResultKind

SCAN = (ResultAxis("scan_y", 0.5, "nm", 1.0), ResultAxis("scan_x", 0.25, "nm"))
DETECTOR = (ResultAxis("ky", 0.2, "mrad", -3.0), ResultAxis("kx", 0.2, "mrad", -3.0))
LOSSLESS = [".npz", ".h5", ".hdf5", ".zarr"]
ALL = [*LOSSLESS, ".tif", ".tiff"]


def some_channels() -> dict[str, ResultChannel]:
    rng = np.random.default_rng(5)
    valid = rng.random((3, 4)) > 0.5
    field = np.where(valid[..., np.newaxis], rng.random((3, 4, 2), dtype=np.float32), np.nan)
    added = ResultAxis("field_0")
    return {
        "intensity": ResultChannel("intensity", rng.random((3, 4), dtype=np.float32), "nav", None, SCAN, 0, "counts"),
        "field": ResultChannel("field", field, "nav", np.stack([valid, valid], axis=-1), (*SCAN, added), 1, "px"),
        "pattern": ResultChannel("pattern", rng.integers(0, 2**31, (5, 6), dtype=np.uint32), "sig", None, DETECTOR),
        "good": ResultChannel("good", valid, "nav", None, SCAN),
        "num_frames": ResultChannel("num_frames", np.array([12]), "single"),
    }


def same(a: ResultChannel, b: ResultChannel) -> None:
    np.testing.assert_array_equal(a.data, b.data)
    assert a.data.dtype == b.data.dtype
    assert a.describe() == b.describe()
    if a.valid is None:
        assert b.valid is None
    else:
        assert b.valid is not None
        np.testing.assert_array_equal(a.valid, b.valid)


@pytest.mark.parametrize("suffix", ALL)
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    """Data, masks, axes, units and provenance come back the same from every format."""
    channels = some_channels()
    provenance = {"udf": "CoMUDF", "parameters": {"r": np.inf, "n": np.int64(3), "mask": np.eye(2)}, "roi": None}
    path = save_results(tmp_path / f"r{suffix}", channels, provenance)
    loaded = load_results(path)
    assert list(loaded.channels) == sorted(channels) or list(loaded.channels) == list(channels)
    for name, channel in channels.items():
        same(channel, loaded.channels[name])
    assert loaded.provenance["tilework_version"] == __version__
    assert loaded.provenance["parameters"] == {"r": "inf", "n": 3, "mask": [[1.0, 0.0], [0.0, 1.0]]}
    assert "saved" in loaded.provenance
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(loaded["pattern"], channels["pattern"].data)


def test_named_tuples_keep_their_names() -> None:
    """Parameters of a centre of mass can be read without knowing in which order they were."""
    described = jsonable({"com_params": CoMParams(cy=3, regression=np.eye(2)), "size": (1, 2)})
    assert described == {
        "com_params": {
            "cy": 3, "cx": None, "r": "inf", "ri": 0.0, "scan_rotation": 0.0, "flip_y": False,
            "regression": [[1.0, 0.0], [0.0, 1.0]],
        },
        "size": [1, 2],
    }  # fmt: skip


def test_numbers_that_python_does_not_have() -> None:
    """Long doubles in parameters are described as they are: NumPy gives no Python number for them."""
    long = np.longdouble("0.1")
    assert jsonable({"a": long, "b": np.array([long, 2])}) == {"a": str(long), "b": [str(long), "2.0"]}
    assert jsonable(np.clongdouble(1 + 2j)) == "(1+2j)"


@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=0, max_dims=5, max_side=4),
    dtype=st.sampled_from(["?", "u1", "<u2", ">u2", "i4", "u8", "i8", "f2", "f4", ">f4", "f8", "c8", "c16"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_array_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shape: tuple[int, ...], dtype: str
) -> None:
    """Whatever shape, kind and dtype: exactly from .npz and .h5, to single precision from .tif."""
    array = data.draw(hnp.arrays(np.dtype(dtype), shape, elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False)))
    extra = data.draw(st.integers(0, max(len(shape) - 1, 0)))
    kind: ResultKind = data.draw(st.sampled_from(["nav", "sig", "single"]))
    channel = ResultChannel("x", array, kind, extra_ndim=extra)
    folder = tmp_path_factory.mktemp("any")
    for suffix in (".npz", ".h5"):
        same(channel, load_results(save_results(folder / f"x{suffix}", {"x": channel}, {})).channels["x"])
    page = load_results(save_results(folder / "x.tif", {"x": channel}, {})).channels["x"]
    big = array.dtype.kind in "ui" and page.data.dtype != array.dtype
    assert not big or np.abs(array.astype(float)).max() >= 2**31
    assert page.data.dtype == (np.float32 if big else array.dtype)
    assert page.data.shape == array.shape
    exact = array.dtype.kind == "b" or (array.dtype.kind in "ui" and array.itemsize <= 4) or array.dtype in ("f2", "f4")
    if exact:
        np.testing.assert_array_equal(page.data, array)
    elif array.dtype.kind in "fc":
        with np.errstate(over="ignore"):
            single = array.astype(np.complex64 if array.dtype.kind == "c" else np.float32).astype(array.dtype)
        np.testing.assert_array_equal(page.data, single)


@pytest.mark.parametrize("suffix", ALL)
def test_single_numbers_and_masked_arrays(tmp_path: Path, suffix: str) -> None:
    """An array without axes comes back as one; what a masked array masks is no result, beside what is none anyway."""
    number = ResultChannel("number", np.array(3.5, dtype=np.float32))
    masked = np.ma.masked_array(np.arange(4, dtype=np.int32), [False, True, False, False])
    channels = {
        "number": number,
        "masked": ResultChannel("masked", masked),
        "both": ResultChannel("both", masked, valid=np.array([True, True, True, False])),
    }
    save_results(os.fsencode(tmp_path / f"r{suffix}"), channels, {})
    loaded = load_results(os.fsencode(tmp_path / f"r{suffix}"))
    for name, channel in channels.items():
        same(channel, loaded.channels[name])
    assert loaded["number"].shape == ()
    for name, valid in (("masked", [True, False, True, True]), ("both", [True, False, True, False])):
        np.testing.assert_array_equal(loaded.channels[name].valid, np.array(valid))
        np.testing.assert_array_equal(loaded[name], np.arange(4))
        assert type(loaded[name]) is np.ndarray


@pytest.mark.parametrize("name", ["tilework.json", "zarr.json"])
def test_names_that_files_have_for_themselves(name: str) -> None:
    """Refused as other names that cannot be saved are."""
    with pytest.raises(ValueError, match=f"under the name '{name}', which files have for themselves: use another"):
        ResultChannel(name, np.zeros(3))


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    """NumPy, h5py, xarray and tifffile find the arrays and their names without tilework."""
    channels = some_channels()
    for suffix in (".npz", ".h5", ".zarr", ".tif"):
        save_results(tmp_path / f"r{suffix}", channels, {"udf": "X"})
    with np.load(tmp_path / "r.npz") as archive:
        np.testing.assert_array_equal(archive["field"], channels["field"].data)
        assert archive["field.valid"].dtype == bool
        assert json.loads(str(archive["tilework.json"]))["provenance"]["udf"] == "X"
    with h5py.File(tmp_path / "r.h5") as file:
        assert file["intensity"].attrs["units"] == "counts"
        assert [d.label for d in file["pattern"].dims] == ["ky", "kx"]
        assert json.loads(file.attrs["tilework"])["provenance"]["udf"] == "X"
    group = zarr.open_group(str(tmp_path / "r.zarr"), mode="r")
    assert group.metadata.zarr_format == 3
    with xr.open_zarr(str(tmp_path / "r.zarr"), consolidated=False) as opened:
        assert opened["field"].dims == ("scan_y", "scan_x", "field_0")
    with tifffile.TiffFile(tmp_path / "r.tif") as tiff:
        pages: list[Any] = list(tiff.pages)
        about = [json.loads(page.tags["ImageDescription"].value) for page in pages]
        assert [(a["channel"], a["part"], a["page"]) for a in about[:5]] == [
            ("intensity", "data", 0),
            ("field", "data", 0),
            ("field", "data", 1),
            ("field", "valid", 0),
            ("field", "valid", 1),
        ]
        numerator, denominator = pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(1e7 / 0.25), "pixels per centimetre, of 0.25 nm each"
        np.testing.assert_array_equal(pages[2].asarray(), channels["field"].data[..., 1])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "r.tif")[0], channels["intensity"].data)


def test_tifffile_reads_results_of_several_shapes(tmp_path: Path) -> None:
    """It looks at a few pages only, the last one among them, to know whether all are alike."""
    images = [np.full((4, 5), number, np.float32) for number in range(9)]
    arrays = {f"image_{number}": image for number, image in enumerate(images)}
    names = [*list(arrays)[:3], "count", *list(arrays)[3:]]
    channels = {name: ResultChannel(name, arrays.get(name, np.array([12])), "single", None) for name in names}
    path = save_results(tmp_path / "r.tif", channels, {})
    np.testing.assert_array_equal(tifffile.imread(path), images)
    assert list(load_results(path)) == names


def test_other_programs_find_the_coordinates(tmp_path: Path) -> None:
    """In Zarr as xarray names them, in HDF5 as dimension scales; where there is no scale, there are none."""
    channels = some_channels()
    for suffix in (".h5", ".zarr"):
        save_results(tmp_path / f"r{suffix}", channels, {})
    wanted = {"scan_y": [1.0, 1.5, 2.0], "scan_x": [0.0, 0.25, 0.5, 0.75]}
    with xr.open_zarr(str(tmp_path / "r.zarr"), consolidated=False) as opened:
        assert set(opened.coords) == {"scan_y", "scan_x", "ky", "kx"}
        assert set(opened.data_vars) == {*channels, "field.valid"}
        for name, values in wanted.items():
            np.testing.assert_allclose(opened[name], values)
            assert opened[name].attrs["units"] == "nm"
        assert opened["intensity"].sel(scan_y=1.5, scan_x=0.25) == channels["intensity"].data[1, 1]
        assert opened["ky"].attrs["units"] == "mrad"
    with h5py.File(tmp_path / "r.h5") as file:
        for name, dimension in zip(wanted, file["field"].dims, strict=False):
            assert list(dimension.keys()) == [name]
            np.testing.assert_allclose(dimension[0], wanted[name])
            assert dimension[0].attrs["units"] == "nm"
        assert file["field.valid"].dims[1][0] == file["scan_x"]
        assert len(file["field"].dims[2]) == len(file["num_frames"].dims[0]) == 0
        assert file["ky"].is_scale


@pytest.mark.parametrize("suffix", ALL)
def test_axes_and_results_of_the_same_name(tmp_path: Path, suffix: str) -> None:
    """A result may be called as an axis is; the axis gets another name, for both are known by it."""
    axes = (ResultAxis("y", 0.5, "nm"), ResultAxis("x", 0.25, "nm"))
    channels = {
        name: ResultChannel(name, np.full((3, 4), i, dtype=np.float32), "nav", None, axes)
        for i, name in enumerate(("x", "y", "scan_y"))
    }
    path = save_results(tmp_path / f"r{suffix}", channels, {})
    loaded = load_results(path)
    assert [axis.name for axis in loaded.channels["y"].dims] == ["scan_scan_y", "scan_x"]
    for name, channel in channels.items():
        np.testing.assert_array_equal(loaded[name], channel.data)
    same_names = {*channels, "scan_scan_y", "scan_x"}
    assert set(loaded.to_xarray().variables) == set(to_xarray(channels, {}).variables) == same_names
    if suffix == ".zarr":
        with xr.open_zarr(str(path), consolidated=False) as opened:
            assert set(opened.variables) == same_names


def test_an_axis_that_means_two_things_has_no_coordinates(tmp_path: Path) -> None:
    one = ResultChannel("one", np.zeros(3), dims=(ResultAxis("t", 1.0),))
    two = ResultChannel("two", np.zeros(3), dims=(ResultAxis("t", 2.0),))
    save_results(tmp_path / "r.h5", {"one": one, "two": two}, {})
    with h5py.File(tmp_path / "r.h5") as file:
        assert set(file) == {"one", "two"}
    assert not to_xarray({"one": one, "two": two}, {}).coords


def test_titles_are_attributes(tmp_path: Path) -> None:
    """Under the names that xarray and NetCDF have for them."""
    channel = ResultChannel("x", np.zeros(3), title="intensity [lin]", description="sum over a disk")
    for suffix in LOSSLESS:
        same(channel, load_results(save_results(tmp_path / f"r{suffix}", {"x": channel}, {})).channels["x"])
    with h5py.File(tmp_path / "r.h5") as file:
        assert file["x"].attrs["long_name"] == "intensity [lin]"
    with xr.open_zarr(str(tmp_path / "r.zarr"), consolidated=False) as opened:
        assert opened["x"].attrs == to_xarray({"x": channel}, {})["x"].attrs
        assert opened["x"].attrs["description"] == "sum over a disk"


@pytest.mark.parametrize("suffix", ALL)
def test_never_replaces_unasked(tmp_path: Path, suffix: str) -> None:
    """What exists is kept unless overwrite=True, and then replaced as a whole."""
    path = tmp_path / f"r{suffix}"
    first, second = some_channels(), {"other": ResultChannel("other", np.arange(4.0, dtype=np.float32))}
    save_results(path, first, {})
    with pytest.raises(ResultFileError, match=r"exists: choose another name, or pass overwrite=True") as caught:
        save_results(path, second, {})
    assert isinstance(caught.value, OSError)
    assert str(path) in str(caught.value)
    assert set(load_results(path).channels) == set(first)
    save_results(path, second, {}, overwrite=True)
    assert set(load_results(path).channels) == {"other"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_never_replaces_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """A folder that is no Zarr group is not replaced, even with overwrite=True."""
    for name in ("data.zarr", "data.npz"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(ResultFileError, match="folder that tilework did not write"):
            save_results(folder, some_channels(), {}, overwrite=True)
        assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("made", ["array", "group", "results of another kind", "with more in it"])
def test_never_replaces_a_zarr_store_of_somebody_else(tmp_path: Path, made: str) -> None:
    """A store is replaced when results were saved in it, and nothing else is there."""
    store = tmp_path / "scan.zarr"
    said = "folder that tilework did not write"
    if made == "array":
        zarr.create_array(store=str(store), data=np.arange(12.0))
    elif made == "with more in it":
        save_results(store, some_channels(), {})
        zarr.open_group(str(store), mode="a").create_array("thesis", data=np.arange(12.0))
        said = "tilework did not write thesis in it"
    else:
        attributes = {"tilework": {"format": "other"}} if made == "results of another kind" else {}
        zarr.create_group(str(store), attributes=attributes).create_array("thesis", data=np.arange(12.0))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(ResultFileError, match=said):
        save_results(store, some_channels(), {}, overwrite=True)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_never_replaces_what_results_were_computed_from(tmp_path: Path) -> None:
    """Not even with overwrite=True, and under another name of it."""
    scan, link = tmp_path / "scan.npz", tmp_path / "link.npz"
    np.arange(12.0).tofile(scan)
    link.symlink_to(scan)
    before = scan.read_bytes()
    for name in (scan, link):
        with pytest.raises(ResultFileError, match="computed from it"):
            save_results(name, some_channels(), {"dataset": {"path": str(scan)}}, overwrite=True)
    assert scan.read_bytes() == before


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_nothing(tmp_path: Path, suffix: str, overwrite: bool) -> None:
    """An array that cannot be written ends in an error that names the file; no part of it stays, the old file does."""
    path = tmp_path / f"r{suffix}"
    if overwrite:
        save_results(path, some_channels(), {})
    bad: dict[str, ResultChannel] = {**some_channels(), "bad": ResultChannel("bad", np.array([{}, None], dtype=object))}
    with pytest.raises(ResultFileError, match=rf"{path.name}: 'bad' has Python objects .* give it a dtype of numbers"):
        save_results(path, bad, {}, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if overwrite else [])
    if overwrite:
        assert set(load_results(path).channels) == set(some_channels())


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".h5", np.array(["ab", "cde"])),
        (".h5", np.array(["2020-01-01"], "M8[D]")),
        pytest.param(
            ".zarr", np.ones(2, np.longdouble), marks=pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="no long")
        ),
        (".zarr", np.zeros(2, dtype=[("v", "f4", (2,))])),
    ],
)
def test_what_a_library_cannot_store_is_named(tmp_path: Path, suffix: str, data: Any) -> None:
    """Libraries do not say which of the results they cannot store; the message does, and what to do."""
    bad = {**some_channels(), "bad": ResultChannel("bad", data)}
    with pytest.raises(ResultFileError, match=r"'bad' of dtype .* cannot be stored .* or save it as \.npz"):
        save_results(tmp_path / f"r{suffix}", bad, {})
    assert list(tmp_path.iterdir()) == []
    assert load_results(save_results(tmp_path / "r.npz", bad, {}))["bad"].tobytes() == data.tobytes()


_WRITE_BIG = """
import sys, numpy as np
from tilework.exceptions import ResultFileError
from tilework.io.results import ResultChannel, save_results
channels = {"x": ResultChannel("x", np.random.default_rng(0).random((1 << 20,)))}
try:
    save_results(sys.argv[1], channels, {})
except ResultFileError as error:
    print(error)
    sys.exit(7)
"""


def _write_big(path: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def restrict() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-c", _WRITE_BIG, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=restrict,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("suffix", ALL)
def test_file_size_limit(tmp_path: Path, suffix: str) -> None:
    """A file that may not grow further is no half file: clear error, nothing left."""
    done = _write_big(tmp_path / f"x{suffix}", limit=1 << 16)
    assert done.returncode == 7, done.stderr
    assert "no space left" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")
@pytest.mark.parametrize("suffix", ALL)
def test_full_disk(tmp_path: Path, suffix: str) -> None:
    """A full disk: clear error, nothing left, and no crash or noise of a library at exit."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    try:
        done = _write_big(tmp_path / f"x{suffix}")
        assert done.returncode == 7, done.stderr
        assert "no space left" in done.stdout
        assert done.stderr == ""
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    """The message says which suffixes there are."""
    for name in ("r.xyz", "r"):
        with pytest.raises(ResultFileError) as caught:
            save_results(tmp_path / name, some_channels(), {})
        assert all(suffix in str(caught.value) for suffix in suffixes())
        with pytest.raises(ResultFileError):
            load_results(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "library", "extra"), [(".h5", "h5py", "hdf5"), (".zarr", "zarr", "zarr"), (".tif", "tifffile", "tiff")]
)
def test_missing_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, library: str, extra: str
) -> None:
    """Without the library, the error says what to install, and nothing is left."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ResultFileError, match=rf"pip install 'tilework\[{extra}\]'"):
        save_results(tmp_path / f"r{suffix}", some_channels(), {})
    assert list(tmp_path.iterdir()) == []


def test_bad_places(tmp_path: Path) -> None:
    """A folder that is not there, nothing to save, a file that is not there or holds something else."""
    with pytest.raises(ResultFileError, match="there is no folder"):
        save_results(tmp_path / "no" / "r.npz", some_channels(), {})
    with pytest.raises(ResultFileError, match="there are no results"):
        save_results(tmp_path / "r.npz", {}, {})
    with pytest.raises(ResultFileError, match="there is no"):
        load_results(tmp_path / "r.npz")
    np.savez(tmp_path / "mine.npz", x=np.arange(3))
    with pytest.raises(ResultFileError, match=r"cannot read results from .*mine\.npz: it does not hold results"):
        load_results(tmp_path / "mine.npz")
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ResultFileError, match="does not hold results"):
        load_results(tmp_path / "mine.h5")
    tifffile.imwrite(tmp_path / "mine.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(ResultFileError, match="does not hold results"):
        load_results(tmp_path / "mine.tif")
    (tmp_path / "broken.h5").write_bytes(b"junk")
    with pytest.raises(ResultFileError, match="cannot read results"):
        load_results(tmp_path / "broken.h5")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ResultFileError, match="Is a directory"):
        load_results(tmp_path / "folder.npz")
    whole = (tmp_path / "mine.npz").read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(ResultFileError, match=r"broken\.npz: it is no \.npz file, or it was cut off"):
            load_results(tmp_path / "broken.npz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    """A folder that may not be written."""
    tmp_path.chmod(0o500)
    with pytest.raises(ResultFileError, match="no permission"):
        save_results(tmp_path / "r.npz", some_channels(), {})


def test_files_of_a_newer_tilework(tmp_path: Path) -> None:
    """A document of a later version is refused with what to do."""
    path = save_results(tmp_path / "r.h5", some_channels(), {})
    with h5py.File(path, "a") as file:
        document = json.loads(file.attrs["tilework"])
        file.attrs["tilework"] = json.dumps({**document, "format_version": 99})
    with pytest.raises(ResultFileError, match="update tilework"):
        load_results(path)


def test_files_keep_the_umask(tmp_path: Path) -> None:
    """What is saved can be read by whom the umask allows, although it is made in a private folder."""
    old = os.umask(0o022)
    try:
        for suffix in (".npz", ".zarr"):
            mode = save_results(tmp_path / f"r{suffix}", some_channels(), {}).stat().st_mode
            assert mode & 0o044 == 0o044
    finally:
        os.umask(old)


class _Buffer:
    def __init__(self, data: Any, kind: Any, extra_shape: tuple[int, ...], valid: Any = None) -> None:
        self.data, self.kind, self.extra_shape, self._valid = data, kind, extra_shape, valid

    @property
    def valid_mask(self) -> Any:
        if self._valid is None:
            raise RuntimeError("not set")
        return self._valid


def test_channel_from_a_buffer() -> None:
    """Axes of the dataset go to scan and detector results, added axes get own names, full masks are dropped."""
    axes = (*SCAN, *DETECTOR)
    nav = ResultChannel.from_buffer("field", _Buffer(np.zeros((3, 4, 2)), "nav", (2,), np.ones((3, 4, 2), bool)), axes)
    assert [a.name for a in nav.dims] == ["scan_y", "scan_x", "field_0"]
    assert nav.valid is None
    sig = ResultChannel.from_buffer("s", _Buffer(np.zeros((5, 6)), "sig", ()), axes)
    assert sig.dims == DETECTOR
    single = ResultChannel.from_buffer("n", _Buffer(np.zeros((1,)), "single", ()), axes)
    assert [a.name for a in single.dims] == ["n_0"]
    unknown = ResultChannel.from_buffer("n", _Buffer(np.zeros((2, 3, 4)), "nav", ()), ())
    assert [a.name for a in unknown.dims] == ["scan_z", "scan_y", "scan_x"]


@pytest.mark.parametrize("suffix", ALL)
def test_names_in_any_language(tmp_path: Path, suffix: str) -> None:
    """What Python takes for a name can be the name of a result."""
    channels = {name: ResultChannel(name, np.arange(6.0).reshape(2, 3)) for name in ("größe", "Σ", "強度", "__x")}
    loaded = load_results(save_results(tmp_path / f"results{suffix}", channels, {}))
    assert list(loaded) == list(channels)
    for name, channel in channels.items():
        same(channel, loaded.channels[name])


def test_empty_results_are_no_images(tmp_path: Path) -> None:
    """A .tif file cannot hold them, and could not be read; others can."""
    channels = {"x": ResultChannel("x", np.zeros((2, 0))), "y": ResultChannel("y", np.zeros((2, 2)))}
    with pytest.raises(ResultFileError, match=r"'x' of shape \(2, 0\) is empty.*save it as \.npz"):
        save_results(tmp_path / "x.tif", channels, {})
    for suffix in LOSSLESS:
        same(channels["x"], load_results(save_results(tmp_path / f"x{suffix}", channels, {})).channels["x"])


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "x.valid", " b", "b ", "a:b", "a\0b", "a\nb", "\ud800"])
def test_bad_channel_names(name: str) -> None:
    """A name that some format cannot hold is refused at once."""
    with pytest.raises(ValueError, match="cannot be saved under the name"):
        ResultChannel(name, np.zeros(3))


@pytest.mark.parametrize("suffix", ALL)
def test_names_that_any_format_can_hold(tmp_path: Path, suffix: str) -> None:
    """What is refused is what some format, or a folder on some system, cannot hold."""
    names = ("standard deviation", "σ² (rad)", "क्षेत्र", "Länge", "磁場, x-y", "b%", "c[1]='d'", "_e")
    mask = np.eye(3, 4, dtype=bool)
    channels = {name: ResultChannel(name, np.full((3, 4), i), "nav", mask) for i, name in enumerate(names)}
    loaded = load_results(save_results(tmp_path / f"x{suffix}", channels, {}))
    assert list(loaded) == list(names)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(loaded[name], np.full((3, 4), i))
        np.testing.assert_array_equal(loaded.channels[name].valid, mask)


def test_bad_channels() -> None:
    """Axes and masks must fit."""
    with pytest.raises(ValueError, match="do not fit shape"):
        ResultChannel("x", np.zeros((3, 4)), "nav", None, SCAN[:1])
    with pytest.raises(ValueError, match="the mask of shape"):
        ResultChannel("x", np.zeros((3, 4)), "nav", np.ones(3, bool), SCAN)


def test_to_xarray(tmp_path: Path) -> None:
    """Named axes with coordinates in physical units, masks beside their data, attributes that NetCDF can hold."""
    dataset = to_xarray(some_channels(), {"udf": "CoMUDF", "parameters": {"r": 3.5}, "roi": None})
    assert dataset["intensity"].dims == ("scan_y", "scan_x")
    np.testing.assert_allclose(dataset["scan_y"], [1.0, 1.5, 2.0])
    assert dataset["scan_x"].attrs["units"] == "nm"
    assert dataset["field_valid"].dims == ("scan_y", "scan_x", "field_0")
    assert "field_0" not in dataset.coords
    assert json.loads(dataset.attrs["parameters"]) == {"r": 3.5}
    assert dataset.attrs["udf"] == "CoMUDF"
    assert dataset["intensity"].attrs == {"kind": "nav", "units": "counts"}


def test_to_xarray_without_xarray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ResultFileError, match=r"pip install 'tilework\[xarray\]'"):
        to_xarray(some_channels(), {})


def test_a_folder_that_takes_no_files_is_named_with_the_file_that_was_asked_for() -> None:
    """And not with a hidden folder that nobody knows."""
    target = Path("/proc/results.npz")
    with pytest.raises(OSError, match=r"'/proc/results\.npz'$"), appearing(target, overwrite=False):
        pytest.fail("something was made there")


@pytest.mark.parametrize("suffix", suffixes())
def test_a_pipe_is_neither_replaced_nor_read(tmp_path: Path, suffix: str) -> None:
    """Whoever reads from it would wait for ever, and so would we."""
    pipe = tmp_path / f"r{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(ResultFileError, match="neither a file nor a folder, and is not replaced"):
        save_results(pipe, some_channels(), {}, overwrite=True)
    assert pipe.is_fifo()
    with pytest.raises(ResultFileError, match="it is neither a file nor a folder"):
        load_results(pipe)
    assert [p.name for p in tmp_path.iterdir()] == [pipe.name]


def test_names_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300 + ".npz")
    for overwrite in (False, True):
        with pytest.raises(ResultFileError, match=r"cannot write .*File name too long"):
            save_results(path, some_channels(), {}, overwrite=overwrite)
    with pytest.raises(ResultFileError, match=r"cannot read results from .*File name too long"):
        load_results(path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    """It is bytes that are counted."""
    path = tmp_path / ("日" * 83 + ".npz")
    for overwrite in (False, True):
        save_results(path, some_channels(), {}, overwrite=overwrite)
    assert list(load_results(path)) == list(some_channels())
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_place_of_the_target(tmp_path: Path) -> None:
    """Not the hidden one, also where the target itself is in the way, and where there is a suffix."""
    (tmp_path / "a.npz").mkdir()
    with (
        pytest.raises(IsADirectoryError, match=rf"directory: '{tmp_path}/a\.npz'$"),
        appearing(tmp_path / "a.npz", overwrite=True) as made,
    ):
        made.write_text("a")
    with (
        pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/b\.npz\.part'$"),
        appearing(tmp_path / "b.npz", overwrite=True) as made,
    ):
        Path(f"{made}.part").read_text(encoding="ascii")
