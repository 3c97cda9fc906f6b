"""Maps of files: one per file, bounded in number, never under a reader's feet, and never of a file that shrank."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, write_mib
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load, mapping
from tilework.io.dataset.seen import SeenFile, see
from tilework.testing.datasets import make_scheme, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    mapping.close_all()
    yield
    mapping.close_all()


def _seen(path: Path) -> SeenFile:
    facts = path.stat()
    return see(str(path), facts, 0, facts.st_size)


def _scan(path: Path) -> Any:
    counts((6, 6, 8, 8)).tofile(path)
    return load("raw", path=path, dtype="u2", nav_shape=(6, 6), sig_shape=(8, 8), executor=InlineJobExecutor())


def _mapped(path: Path) -> bool:
    return f"{path}\n" in Path("/proc/self/maps").read_text()


def test_one_map_per_file(tmp_path: Path) -> None:
    """A file is mapped once, and can only be read through the map."""
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 1000)
    first = mapping.get_map(_seen(path))
    assert mapping.get_map(_seen(path)) is first
    assert first[:3] == b"abc"
    with pytest.raises(TypeError):
        first[:3] = b"xyz"


def test_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used map is let go when there are too many, and its memory and descriptor with it."""
    monkeypatch.setattr(mapping, "map_limit", lambda: 16)
    paths = [tmp_path / f"f{i}" for i in range(40)]
    for path in paths:
        path.write_bytes(b"x" * 5000)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in paths:
        mapping.get_map(_seen(path))
        mapping.get_map(_seen(paths[0]))  # stays in use
    assert [_mapped(path) for path in paths] == [True] + [False] * 24 + [True] * 15
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 16


@pytest.mark.parametrize("step", [None, 2], ids=["all", "selected"])
def test_a_block_of_many_files_holds_few_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None
) -> None:
    """Frames from more files than can be mapped are gathered into one block: each is let go once it is copied."""
    monkeypatch.setattr(mapping, "map_limit", lambda: 16)
    images = counts((64, 4, 4))
    paths = [tmp_path / f"scan{i:02d}.mib" for i in range(64)]
    for i, path in enumerate(paths):
        write_mib(path, images[i : i + 1], first=i + 1)
    dataset = load("mib", path=paths[0], nav_shape=(64,), num_partitions=1, executor=InlineJobExecutor())
    roi = None if step is None else np.arange(64) % step == 0
    (partition,) = dataset.get_partitions()
    frames = 0
    for tile in partition.get_tiles(make_scheme(dataset, "partitions"), "u2", roi=roi):
        np.testing.assert_array_equal(tile.data, images[::step])
        assert sum(map(_mapped, paths)) <= 17
        frames += len(tile.data)
    assert frames == len(images[::step])


def test_limit_leaves_room() -> None:
    """The limit fits the number of files that the process may open."""
    assert 16 <= mapping.map_limit() <= 4096


def test_reader_keeps_its_map(tmp_path: Path) -> None:
    """An array stays valid after its map was let go, and then lets the memory go."""
    dataset = _scan(tmp_path / "scan.raw")
    tile = next(dataset.get_partitions()).get_macrotile(None)
    mapping.close_all()
    assert _mapped(tmp_path / "scan.raw")
    np.testing.assert_array_equal(tile.data, counts((6, 6, 8, 8)).reshape(36, 8, 8)[: len(tile.data)])
    del tile
    assert not _mapped(tmp_path / "scan.raw")


@pytest.mark.parametrize("when", ["before the first partition", "between partitions"])
def test_file_that_shrank(tmp_path: Path, when: str) -> None:
    """A file that is cut off after it was opened is an error, not a crash."""
    dataset = _scan(tmp_path / "scan.raw")
    dataset._num_partitions = 4
    scheme, partitions = make_scheme(dataset, "partitions"), list(dataset.get_partitions())
    if when == "between partitions":
        assert next(partitions[0].get_tiles(scheme, dest_dtype=None)).data.sum() > 0
    os.truncate(tmp_path / "scan.raw", 100)
    with pytest.raises(DataSetException, match=r"has shrunk from 4608 to 100 bytes.*load it again"):
        list(partitions[1].get_tiles(scheme, dest_dtype=None))
    with pytest.raises(DataSetException, match="has shrunk"):
        dataset.check_valid()


def test_file_that_was_written_to(tmp_path: Path) -> None:
    """A file with new contents of the same size has to be loaded again."""
    dataset = _scan(tmp_path / "scan.raw")
    counts((6, 6, 8, 8), seed=1).tofile(tmp_path / "scan.raw")
    facts = (tmp_path / "scan.raw").stat()
    os.utime(tmp_path / "scan.raw", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    with pytest.raises(DataSetException, match="was written to since it was opened; load it again"):
        read_all(dataset)


def test_file_that_grows(tmp_path: Path) -> None:
    """Frames that are appended do not disturb those that were there; the file is mapped anew when it is loaded "
    "again."""
    dataset = _scan(tmp_path / "scan.raw")
    expected = read_all(dataset)[0]
    with (tmp_path / "scan.raw").open("ab") as f:
        f.write(counts((6, 6, 8, 8), seed=1).tobytes())
    np.testing.assert_array_equal(read_all(dataset)[0], expected)
    larger = load(
        "raw", path=tmp_path / "scan.raw", dtype="u2", nav_shape=(12, 6), sig_shape=(8, 8), executor=InlineJobExecutor()
    )
    np.testing.assert_array_equal(read_all(larger)[0][36:].reshape(6, 6, 8, 8), counts((6, 6, 8, 8), seed=1))


def test_file_that_is_gone(tmp_path: Path) -> None:
    """A file that was removed is an error that names it."""
    dataset = _scan(tmp_path / "scan.raw")
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(DataSetException, match=r"scan\.raw does not exist"):
        read_all(dataset)


def test_threads_share_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads that open and drop maps at the same time read the right bytes."""
    monkeypatch.setattr(mapping, "map_limit", lambda: 4)
    paths = [tmp_path / f"f{i}" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 4096)
    seen = [_seen(path) for path in paths]

    def read(start: int) -> bool:
        return all(mapping.get_map(seen[(start + k) % 12])[17] == (start + k) % 12 for k in range(500))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_other_processes_open_for_themselves(tmp_path: Path) -> None:
    """A partition that is unpickled in a fresh process reads the same frames; one that is forked goes on with the "
    "map."""
    dataset = _scan(tmp_path / "scan.raw")
    total = int(read_all(dataset)[0].sum(dtype="i8"))
    (tmp_path / "partitions").write_bytes(pickle.dumps(list(dataset.get_partitions())))
    code = (
        "import os, pickle, sys\n"
        f"partitions = pickle.loads(open({str(tmp_path / 'partitions')!r}, 'rb').read())\n"
        f"total = lambda: sum(int(p.get_macrotile(None).data.sum(dtype='i8')) for p in partitions)\n"
        f"assert total() == {total}\n"
        "pid = os.fork()\n"
        f"if pid == 0: os._exit(0 if total() == {total} else 1)\n"
        "sys.exit(os.waitpid(pid, 0)[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
