"""Files written by instruments give the numbers that independent readers got from them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.testing.datasets import read_all

_FOLDER = Path(os.environ.get("TILEWORK_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
_TRUTH = _FOLDER / "ground_truth.json"
_MINE = ("mib/", "blo/", "nordif_raw/")
_RECORDS = [r for r in json.loads(_TRUTH.read_text()) if r["file"].startswith(_MINE)] if _TRUTH.exists() else []


def _unpack(shared_data: Path, name: str, folder: Path) -> Path:
    """Return the path of a file; of one in an archive, with all others of the archive beside it."""
    if "!/" not in name:
        return shared_data / name
    archive, member = name.split("!/")
    with zipfile.ZipFile(shared_data / archive) as z:
        z.extractall(folder)
    return folder / member


def _load(path: Path, record: dict[str, Any]) -> Any:
    executor = InlineJobExecutor()
    if path.suffix == ".dat":
        return load("raw", path=path, dtype="u1", nav_shape=(3, 3), sig_shape=(60, 60), executor=executor)
    return load("auto", path=path, executor=executor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detector")


def test_there_are_records(shared_data: Path) -> None:
    """The records were found when the tests were collected."""
    assert len(_RECORDS) >= 26


@pytest.mark.parametrize("record", _RECORDS, ids=lambda r: f"{r['file'].split('/')[-1]}-{r['reader'][:6]}")
def test_ground_truth(record: dict[str, Any], shared_data: Path, folder: Path) -> None:
    """Shape, dtype, sums, extrema and, where that reader keeps the order of the file, every pixel."""
    dataset = _load(_unpack(shared_data, record["file"], folder), record)
    data, count = read_all(dataset)
    assert (count == 1).all()
    shape = tuple(record["shape"])
    assert dataset.shape.sig == shape[-2:]
    assert dataset.shape.nav.size == int(np.prod(shape[:-2], dtype=int))
    assert dataset.raw_dtype == np.dtype(record["dtype"])
    sums = data.sum(axis=(1, 2), dtype=np.float64)
    assert sums.sum() == record["sum"]
    assert sums[0] == record["first"]
    assert sums[-1] == record["last"]
    assert data.min() == record["min"]
    assert data.max() == record["max"]
    if record["reader"] == "rsciio.quantumdetector":
        data = data[:, ::-1]  # that reader turns images upside down
    digest = hashlib.sha256(np.ascontiguousarray(data.astype(data.dtype.newbyteorder("<"))).tobytes()).hexdigest()
    assert digest == record["sha256_le_c"]


@pytest.mark.parametrize(
    "stem", sorted({r["file"].split("!/")[1][:-4] for r in _RECORDS if "!/" in r["file"]}), ids=lambda s: s[:40]
)
def test_hdr_takes_its_own_mib(stem: str, shared_data: Path, folder: Path) -> None:
    """A .hdr gives the .mib of exactly its own name, also where a sibling <stem>RAW.mib lies beside it."""
    record = next(r for r in _RECORDS if r["file"].endswith(f"!/{stem}.mib"))
    mib = _unpack(shared_data, record["file"], folder)
    dataset = load("mib", path=mib.with_suffix(".hdr"), executor=InlineJobExecutor())
    assert dataset.source.layout.paths == [str(mib)]  # type: ignore[attr-defined]
    assert read_all(dataset)[0].sum(dtype=np.float64) == record["sum"]


def test_blo_knows_its_units(shared_data: Path) -> None:
    """Steps of the scan and the pixel of the detector are those in the header."""
    dataset = load("blo", path=shared_data / "blo" / "test1.blo", executor=InlineJobExecutor())
    y, x, ky, kx = dataset.axes
    assert (y.scale, x.scale, y.units, x.units) == (12.8, 12.8, "nm", "nm")
    assert ky.units == kx.units == "mm"
    assert ky.scale == kx.scale == pytest.approx(10 / 62.26)


@pytest.mark.parametrize(
    ("name", "raw", "nav_shape"),
    [
        ("map4x4.xml", "scan_x4_y4.raw", (4, 4)),
        ("stack_images.xml", "series_x10.raw", (10,)),
        ("EMPAD_v1.2.2_x32_y64_size0.8.xml", "scan_x32_y64.raw", (64, 32)),
    ],
)
def test_empad_sidecars(name: str, raw: str, nav_shape: tuple[int, ...], shared_data: Path, tmp_path: Path) -> None:
    """XML files of real acquisitions tell the scan shape; the raw file is a sparse one of the right size."""
    (tmp_path / name).write_bytes((shared_data / "empad" / name).read_bytes())
    with (tmp_path / raw).open("wb") as f:
        f.truncate(130 * 128 * 4 * int(np.prod(nav_shape)))
    dataset = load("auto", path=tmp_path / name, executor=InlineJobExecutor())
    assert dataset.shape.nav == nav_shape
    assert dataset.shape.sig == (128, 128)
    if name == "map4x4.xml":
        assert dataset.axes[-1].scale == pytest.approx(0.42906574)
        assert dataset.axes[-1].units == "mrad"


def test_merlin_frame_from_a_socket(shared_data: Path, tmp_path: Path) -> None:
    """A frame captured from the detector's data socket, put behind a MIB header, gives the expected image."""
    captured = (shared_data / "merlin_tcp" / "merlin_raw_dataframe.bin").read_bytes()
    start = captured.index(b"MQ1")
    (tmp_path / "frame.mib").write_bytes(captured[start:])
    dataset = load("mib", path=tmp_path / "frame.mib", executor=InlineJobExecutor())
    expected = np.load(shared_data / "merlin_tcp" / "merlin_expected_data.npy")
    np.testing.assert_array_equal(read_all(dataset)[0][0], expected[::-1])
