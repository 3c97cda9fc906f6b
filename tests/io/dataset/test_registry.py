"""Finding formats and loading datasets."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, empad_xml, write_blo, write_empad, write_mib
from tilework.exceptions import DataSetException, UnknownFormatError
from tilework.executor.inline import InlineJobExecutor
from tilework.io import dataset as io_dataset
from tilework.io.dataset import detect, filetypes, get_dataset_cls, get_extensions, load
from tilework.io.dataset.npy import NPYDataSet
from tilework.io.dataset.registry import get_search_order
from tilework.testing.datasets import read_all

if TYPE_CHECKING:
    from pathlib import Path


def test_names() -> None:
    """Names are looked up without regard to case; a class stands for itself; what is exported exists."""
    assert get_dataset_cls("NPY") is NPYDataSet
    assert get_dataset_cls(NPYDataSet) is NPYDataSet
    assert all(hasattr(io_dataset, name) for name in io_dataset.__all__)
    for filetype in filetypes:
        assert isinstance(get_dataset_cls(filetype), type)


def test_unknown_name() -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(
        DataSetException, match=r"unknown filetype: 'tif'; known are raw, mib.*can be loaded as an array"
    ):
        load("tif", path="x", executor=InlineJobExecutor())
    with pytest.raises(DataSetException, match=r"to find out the format of a file, load\('auto', path='scan.npy'\)"):
        load("scan.npy", executor=InlineJobExecutor())
    with pytest.raises(DataSetException, match="must be the name of a format, or 'auto', or a class of datasets"):
        load(int, path="x", executor=InlineJobExecutor())  # type: ignore[arg-type]
    wrong_arguments: list[dict[str, Any]] = [{"path": "scan.npy", "navshape": (2, 2)}, {}]
    for arguments in wrong_arguments:
        with pytest.raises(TypeError, match="argument") as wrong:
            load("npy", **arguments, executor=InlineJobExecutor())
        assert wrong.value.__notes__[0].startswith("NPYDataSet takes path, ")
        assert "nav_shape" in wrong.value.__notes__[0]


def test_register(tmp_path: Path) -> None:
    """A format of the user's own is known while it is registered; one that cannot be imported says so."""

    class Mine(NPYDataSet):
        @classmethod
        def get_supported_extensions(cls) -> set[str]:
            return {"mine"}

    np.save(tmp_path / "scan.npy", counts((4, 4, 5, 5)))
    (tmp_path / "scan.npy").rename(tmp_path / "scan.mine")
    io_dataset.register_dataset_cls("Mine", Mine)
    io_dataset.register_dataset_cls("broken", "tilework.io.dataset.no_such_module.Class")
    try:
        assert "mine" in get_extensions()
        assert get_search_order("a/b.MINE")[0] == "mine"
        assert detect(tmp_path / "scan.mine", InlineJobExecutor())["type"] == "mine"
        assert isinstance(load("auto", path=tmp_path / "scan.mine", executor=InlineJobExecutor()), Mine)
        with pytest.raises(DataSetException, match=r"cannot load files of type 'broken'.*install what is missing"):
            get_dataset_cls("broken")
    finally:
        io_dataset.unregister_dataset_cls("mine")
        io_dataset.unregister_dataset_cls("broken")
    with pytest.raises(DataSetException, match="unknown filetype"):
        get_dataset_cls("mine")


def test_extensions() -> None:
    """All formats are asked for their extensions."""
    assert get_extensions() >= {"npy", "mib", "hdr", "blo", "xml", "raw"}


def test_detects_by_content(tmp_path: Path) -> None:
    """Files are detected by what is in them, also with a name of another format."""
    np.save(tmp_path / "a.npy", counts((4, 4, 5, 5)))
    write_mib(tmp_path / "b.mib", counts((4, 5, 5)))
    write_blo(tmp_path / "c.blo", counts((2, 2, 5, 5), "u1"))
    write_empad(tmp_path / "d.raw", counts((4, 128, 128), "f4"))
    (tmp_path / "d.xml").write_text(empad_xml("d.raw", (2, 2)))
    executor = InlineJobExecutor()
    for name, expected in (("a.npy", "npy"), ("b.mib", "mib"), ("c.blo", "blo"), ("d.xml", "empad")):
        found = detect(str(tmp_path / name), executor)
        assert found["type"] == expected
        assert found["info"]["image_count"] in {4, 16}
    for name, expected in (("a.npy", "npy"), ("b.mib", "mib"), ("c.blo", "blo")):
        (tmp_path / name).rename(tmp_path / "x.dat")
        assert detect(tmp_path / "x.dat", executor)["type"] == expected
    (tmp_path / "x.dat").write_bytes(b"nothing known")
    assert detect(tmp_path / "x.dat", executor) == {}
    assert detect(tmp_path / "missing.npy", executor) == {}


class TestAuto:
    def test_keeps_what_was_detected(self, tmp_path: Path) -> None:
        """Detected parameters are used, those of the caller win, and a path may be positional."""
        write_blo(tmp_path / "scan.blo", counts((2, 6, 5, 5), "u1"), order=">")
        executor = InlineJobExecutor()
        assert load("auto", path=tmp_path / "scan.blo", executor=executor).shape == (2, 6, 5, 5)
        assert load("AUTO", tmp_path / "scan.blo", executor=executor).shape == (2, 6, 5, 5)
        dataset = load("auto", path=str(tmp_path / "scan.blo"), nav_shape=(3, 4), io_backend=None, executor=executor)
        assert dataset.shape == (3, 4, 5, 5)

    def test_paths_of_bytes(self, tmp_path: Path) -> None:
        """As the operating system gives them, whether the format is named or detected."""
        np.save(tmp_path / "ein Bild \N{SNOWMAN}.npy", counts((4, 4, 5, 5)))
        path = os.fsencode(tmp_path / "ein Bild \N{SNOWMAN}.npy")
        executor = InlineJobExecutor()
        assert detect(path, executor)["type"] == "npy"
        for filetype in ("auto", "npy"):
            dataset = load(filetype, path=path, executor=executor)
            assert list(dataset.paths) == [str(tmp_path / "ein Bild \N{SNOWMAN}.npy")]
            assert dataset.shape == (4, 4, 5, 5)

    def test_npy_with_other_sig_dims(self, tmp_path: Path) -> None:
        """Shapes that were detected for two signal axes do not stand in the way of another number."""
        np.save(tmp_path / "scan.npy", counts((4, 4, 5, 5)))
        executor = InlineJobExecutor()
        assert load("auto", path=tmp_path / "scan.npy", sig_dims=1, executor=executor).shape.sig == (5,)
        assert load("auto", path=tmp_path / "scan.npy", sig_shape=(25,), executor=executor).shape == (4, 4, 25)

    def test_one_file_of_a_series(self, tmp_path: Path) -> None:
        """The scan shape that was detected for the whole series does not hold for one file of it."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan2.mib", counts((5, 2, 4)), first=5)
        executor = InlineJobExecutor()
        assert load("auto", path=tmp_path / "scan1.mib", executor=executor).shape.nav == (3, 3)
        assert load("auto", path=tmp_path / "scan1.mib", disable_glob=True, executor=executor).shape.nav == (2, 2)

    def test_array(self) -> None:
        """An array in place of a path is loaded from memory, with a warning."""
        data = counts((3, 3, 4, 4))
        with pytest.warns(RuntimeWarning, match="got an array"):
            dataset = load("auto", path=data, executor=InlineJobExecutor())
        np.testing.assert_array_equal(read_all(dataset)[0].reshape(data.shape), data)

    def test_unknown_format(self, tmp_path: Path) -> None:
        """Nothing fits: the error names the file, the formats, and why the one with this extension refused it."""
        (tmp_path / "scan.bin").write_bytes(b"?" * 100)
        with pytest.raises(DataSetException, match=r"scan\.bin is in no format.*name the format, one of raw, mib"):
            load("auto", path=tmp_path / "scan.bin", executor=InlineJobExecutor())
        np.save(tmp_path / "scan.npy", np.asfortranarray(counts((3, 3, 4, 4))))
        with pytest.raises(DataSetException, match=r"as npy: .*Fortran order"):
            load("auto", path=tmp_path / "scan.npy", executor=InlineJobExecutor())

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("scan.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file: load a dataset of it as a Dask array"),
            ("scan.mib", gzip.compress(b"MQ1,", mtime=0), "is compressed by gzip: unpack it"),
            ("scan.zip", b"PK\x03\x04", "is a ZIP archive: unpack it"),
            ("scan.DM4", b"\0\0\0\4", "is a .dm4 file by its name: load the array that RosettaSciIO gives"),
            ("scan.mrc", b"\0\0\0\4", "RosettaSciIO gives; for the command line, write it by ctx.export_dataset"),
        ],
    )
    def test_what_others_read(self, tmp_path: Path, name: str, content: bytes, said: str) -> None:
        """Of files that are known, but not read, it is said what they are and what to do, instead of our formats."""
        (tmp_path / name).write_bytes(content + bytes(5000))
        with pytest.raises(DataSetException, match=re.escape(said)) as caught:
            load("auto", path=tmp_path / name, executor=InlineJobExecutor())
        assert not isinstance(caught.value, UnknownFormatError)
        assert "dtype" not in str(caught.value)

    def test_broken_files_that_are_known(self, tmp_path: Path) -> None:
        """What is wrong is all that is said of a file that has a format; to name it would change nothing."""
        (tmp_path / "scan.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"?" * 100)
        (tmp_path / "scan.dat").write_bytes((tmp_path / "scan.npy").read_bytes())
        executor = InlineJobExecutor()
        with pytest.raises(DataSetException, match=r"^read as npy: .*scan.npy has a broken npy header") as caught:
            load("auto", path=tmp_path / "scan.npy", executor=executor)
        assert "name the format" not in str(caught.value)
        # The name does not say that this is of that format.
        with pytest.raises(UnknownFormatError, match=r"no format that can be detected \(as npy: .* is 'raw'"):
            load("auto", path=tmp_path / "scan.dat", executor=executor)

    def test_old_names(self, tmp_path: Path) -> None:
        """What was detected gives way to what is given by the name that older programs use."""
        np.save(tmp_path / "scan.npy", counts((4, 4, 6, 6)))
        write_mib(tmp_path / "scan.mib", counts((16, 6, 6)))
        executor = InlineJobExecutor()
        for name in ("scan.npy", "scan.mib"):
            with pytest.warns(FutureWarning, match="use nav_shape"):
                dataset = load("auto", path=tmp_path / name, scan_size=(2, 8), executor=executor)
            assert dataset.shape == (2, 8, 6, 6)
            with pytest.warns(FutureWarning, match="use sig_shape"):
                dataset = load("auto", path=tmp_path / name, detector_size=(9, 4), executor=executor)
            assert dataset.shape == (4, 4, 9, 4)
        with pytest.warns(FutureWarning, match="use sig_shape"):
            dataset = load("auto", path=tmp_path / "scan.npy", detector_size=(36,), executor=executor)
        assert dataset.shape == (4, 4, 36)

    @pytest.mark.parametrize("path", [3, ["a.npy"]])
    def test_what_is_no_path(self, path: Any) -> None:
        """The error says what a path is."""
        with pytest.raises(DataSetException, match=r"must be the path of a file, it is a (int|list)"):
            load("auto", path=path, executor=InlineJobExecutor())

    def test_without_path(self) -> None:
        """Without a path nothing can be detected."""
        with pytest.raises(DataSetException, match="path"):
            load("auto", executor=InlineJobExecutor())

    def test_raw_cannot_be_detected(self, tmp_path: Path) -> None:
        """A raw file is never guessed."""
        counts((4, 4, 5, 5)).tofile(tmp_path / "scan.raw")
        with pytest.raises(UnknownFormatError, match=r"no format that can be detected.*another library") as caught:
            load("auto", path=tmp_path / "scan.raw", executor=InlineJobExecutor())
        assert "is 'raw', and needs dtype, nav_shape and sig_shape" in str(caught.value)
        assert "memory" not in str(caught.value)

    @pytest.mark.parametrize("filetype", ["memory", "dask", get_dataset_cls("memory")])
    def test_an_array_is_no_file(self, filetype: Any) -> None:
        """A path is refused by what takes arrays, with the formats that take one."""
        with pytest.raises(DataSetException, match="is no format of files, it takes no path: use one of raw, mib"):
            load(filetype, path="scan.npy", executor=InlineJobExecutor())


def test_asynchronous(tmp_path: Path) -> None:
    """With enable_async, a coroutine gives the dataset, or its error."""
    np.save(tmp_path / "scan.npy", counts((4, 4, 5, 5)))

    async def run() -> Any:
        executor = InlineJobExecutor().ensure_async()
        dataset = await load("npy", path=tmp_path / "scan.npy", enable_async=True, executor=executor)
        with pytest.raises(DataSetException, match="does not exist"):
            await load("auto", path=tmp_path / "no.npy", enable_async=True, executor=executor)
        return dataset

    assert asyncio.run(run()).shape == (4, 4, 5, 5)


def test_importing_the_registry_is_light() -> None:
    """No format, no numba and no XML parser is imported before it is needed."""
    import subprocess
    import sys

    code = (
        "import sys, tilework.io.dataset\n"
        "heavy = ('asyncio', 'numba', 'scipy', 'sparse', 'defusedxml', 'h5py', 'dask', 'tilework.io.dataset.mib')\n"
        "sys.exit(','.join(m for m in heavy if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
