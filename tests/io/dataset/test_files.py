"""Raw, npy, block and EMPAD files: what they tell, what the caller may change, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from detector_files import counts, empad_xml, write_blo, write_empad, write_mib
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.testing.datasets import read_all

if TYPE_CHECKING:
    from pathlib import Path


def _load(filetype: str, path: Path, **kwargs: Any) -> Any:
    return load(filetype, path=path, executor=InlineJobExecutor(), **kwargs)


class TestRaw:
    def test_shapes_are_required(self, tmp_path: Path) -> None:
        """A raw file tells nothing: both shapes must be given."""
        np.zeros(16, "u1").tofile(tmp_path / "scan.raw")
        with pytest.raises(TypeError, match="missing nav_shape and sig_shape"):
            _load("raw", tmp_path / "scan.raw", dtype="u1")

    @pytest.mark.parametrize(
        "dtype", ["u1", "i1", "<u2", ">u2", ">i2", "<u4", ">i8", "<f2", ">f4", "<f8", ">c8", "<c16", "bool"]
    )
    def test_dtypes(self, tmp_path: Path, dtype: str) -> None:
        """Every numeric dtype in both byte orders is delivered in native byte order."""
        data = counts((3, 4, 5, 6), dtype)
        data.tofile(tmp_path / "scan.raw")
        dataset = _load("raw", tmp_path / "scan.raw", dtype=dtype, nav_shape=(3, 4), sig_shape=(5, 6))
        assert dataset.raw_dtype == np.dtype(dtype)
        assert dataset.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(read_all(dataset)[0].reshape(data.shape), data)

    @pytest.mark.parametrize("dtype", ["S4", "U2", "O", "M8[s]", "i4,f4", "V8", "(2,)u2", "nonsense"])
    def test_what_is_no_number(self, tmp_path: Path, dtype: str) -> None:
        """Pixels must be numbers."""
        np.zeros(64, "u1").tofile(tmp_path / "scan.raw")
        with pytest.raises(DataSetException, match="dtype"):
            _load("raw", tmp_path / "scan.raw", dtype=dtype, nav_shape=(2, 2), sig_shape=(2, 2))

    def test_dtype_that_does_not_divide_the_file(self, tmp_path: Path) -> None:
        """Half a pixel at the end is left out as half a frame is; the user is told that it may be another dtype."""
        data = counts((4, 4, 2), "u2")
        (tmp_path / "scan.raw").write_bytes(data.tobytes() + b"\0")
        with pytest.warns(RuntimeWarning, match=r"ends with 1 bytes .* dtype uint16.*sig_shape or dtype are wrong"):
            dataset = _load("raw", tmp_path / "scan.raw", dtype="u2", nav_shape=(2, 2), sig_shape=(4, 2))
        np.testing.assert_array_equal(read_all(dataset)[0], data)

    def test_truncated(self, tmp_path: Path) -> None:
        """Whole frames of a file that was cut off are used; the incomplete one is absent and the user is told."""
        data = counts((16, 4, 5), "u2")
        (tmp_path / "scan.raw").write_bytes(data.tobytes()[:-6])
        with pytest.warns(RuntimeWarning, match=r"34 bytes that are no whole frame.*1 position without a frame"):
            dataset = _load("raw", tmp_path / "scan.raw", dtype="u2", nav_shape=(4, 4), sig_shape=(4, 5))
        assert np.flatnonzero(dataset.absent_frames).tolist() == [15]
        assert dataset.describe()["absent_frames"] == 1
        np.testing.assert_array_equal(read_all(dataset)[0][:15], data[:15])

    def test_compressed(self, tmp_path: Path) -> None:
        """Its bytes could be pixels, so it can only be warned of."""
        packed = gzip.compress(np.random.default_rng(0).bytes(1000))
        (tmp_path / "scan.raw").write_bytes(packed)
        with pytest.warns(RuntimeWarning, match=r"scan\.raw begins as a gzip file does: if it is one, unpack it first"):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(len(packed),), sig_shape=(1, 1))

    @pytest.mark.parametrize(
        ("beginning", "name"),
        [(b"\x93NUMPY", "npy"), (b"MQ1,", "MIB"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"II*\0", "TIFF")],
    )
    def test_with_a_header(self, tmp_path: Path, beginning: bytes, name: str) -> None:
        """As above: the header would be pixels."""
        (tmp_path / "scan.raw").write_bytes(beginning.ljust(64, b"\0"))
        with pytest.warns(RuntimeWarning, match=rf"scan\.raw begins as a file of the format {name} does: if it is one"):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(64,), sig_shape=(1, 1))

    def test_less_than_a_frame(self, tmp_path: Path) -> None:
        """A file without a whole frame is an error; sizes beyond 64 bits are no problem."""
        np.zeros(16, "u1").tofile(tmp_path / "scan.raw")
        for sig_shape in ((5, 5), (2**40, 2**40)):
            with pytest.raises(DataSetException, match="less than one frame"):
                _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(1,), sig_shape=sig_shape)

    def test_smaller_scan(self, tmp_path: Path) -> None:
        """A scan with fewer positions than there are frames leaves the last frames out, and says so on request."""
        data = counts((16, 3, 3), "u2")
        data.tofile(tmp_path / "scan.raw")
        dataset = _load("raw", tmp_path / "scan.raw", dtype="u2", nav_shape=(3, 3), sig_shape=(3, 3), sync_offset=2)
        assert dataset.absent_frames is None
        np.testing.assert_array_equal(read_all(dataset)[0], data[2:11])
        assert dataset.get_sync_offset_info() == {
            "frames_skipped_start": 2,
            "frames_ignored_end": 5,
            "frames_inserted_start": 0,
            "frames_inserted_end": 0,
        }
        facts = {entry["name"]: entry["value"] for entry in dataset.diagnostics}
        assert facts["Number of frames skipped at the beginning"] == "2"
        assert facts["Number of frames ignored at the end"] == "5"
        assert facts["Number of blank frames inserted at the beginning"] == "0"
        assert facts["Number of blank frames inserted at the end"] == "0"
        assert facts["Partition shape"] == "(9, 3, 3)"

    def test_old_names(self, tmp_path: Path) -> None:
        """Old names of arguments work, with a warning; unknown ones do not."""
        np.zeros(64, "u1").tofile(tmp_path / "scan.raw")
        with pytest.warns(FutureWarning, match="use nav_shape"):
            dataset = _load("raw", tmp_path / "scan.raw", dtype="u1", scan_size=(2, 2), sig_shape=(4, 4))
        assert dataset.shape == (2, 2, 4, 4)
        kwargs = {"detector_size_raw": (4, 4), "crop_detector_to": (4, 4)}
        with pytest.warns(FutureWarning, match="use sig_shape"):
            dataset = _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), **kwargs)
        assert dataset.shape == (2, 2, 4, 4)
        with pytest.raises(ValueError, match=r"crop_detector_to=\(4, 2\): nothing is cut off from frames of \(4, 4\)"):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), **kwargs | {"crop_detector_to": (4, 2)})
        left: dict[str, Any] = {"sig_shape": [4, 2], "detector_size_raw": (4, 4)}
        with pytest.raises(ValueError, match=r"sig_shape=\(4, 2\): nothing is cut off from frames of \(4, 4\)"):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), **left)
        left["sig_shape"] = [4, 4]
        assert tuple(_load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), **left).shape) == (2, 2, 4, 4)
        with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), sig_shape=(4, 4), color=1)
        with pytest.raises(ValueError, match="old name"), pytest.warns(FutureWarning):
            _load("raw", tmp_path / "scan.raw", dtype="u1", nav_shape=(2, 2), scan_size=(2, 2), sig_shape=(4, 4))


class TestParameters:
    """What all formats refuse."""

    @pytest.fixture
    def scan(self, tmp_path: Path) -> Path:
        counts((16, 3, 4), "u2").tofile(tmp_path / "scan.raw")
        return tmp_path / "scan.raw"

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"nav_shape": (0, 4)}, "nav_shape=.*at least 1"),
            ({"nav_shape": (-1, 4)}, "nav_shape=.*at least 1"),
            ({"nav_shape": ()}, "nav_shape=.*at least one axis"),
            ({"nav_shape": (2.5, 4)}, "nav_shape=.*must be integers"),
            ({"nav_shape": "44"}, "nav_shape=.*must be integers"),
            ({"nav_shape": (2**40, 2**40)}, "check nav_shape"),
            ({"sig_shape": (3, 0)}, "sig_shape=.*at least 1"),
            ({"sync_offset": 16}, r"sync_offset should be in \(-16, 16\)"),
            ({"sync_offset": -16}, r"sync_offset should be in \(-16, 16\)"),
            ({"sync_offset": 1.5}, "sync_offset=1.5: must be an integer"),
            ({"sync_offset": -10, "nav_shape": (3, 3)}, "no frame of .* lies in the scan"),
            ({"num_partitions": 0}, "num_partitions=0: must be an integer of at least 1"),
            ({"num_partitions": "3"}, "num_partitions='3': must be an integer of at least 1"),
            ({"io_backend": "direct"}, "io_backend='direct'"),
            ({"dtype": None}, "dtype=None is no dtype; give one that NumPy knows"),
        ],
    )
    def test_refused(self, scan: Path, kwargs: dict[str, Any], message: str) -> None:
        """Each is an error that names the argument."""
        arguments = {"dtype": "u2", "nav_shape": (4, 4), "sig_shape": (3, 4), **kwargs}
        with pytest.raises(DataSetException, match=message):
            _load("raw", scan, **arguments)

    def test_numpy_integers(self, scan: Path) -> None:
        """NumPy's integers are integers; the shapes become Python's."""
        nav_shape = np.array([4, 4])
        dataset = _load("raw", scan, dtype="u2", nav_shape=nav_shape, sig_shape=np.int64(12), sync_offset=np.int32(1))
        assert dataset.shape == (4, 4, 12)
        assert all(type(n) is int for n in dataset.shape)

    def test_more_partitions_than_positions(self, scan: Path) -> None:
        """There is one partition for each position at most."""
        with pytest.warns(RuntimeWarning, match="num_partitions=99 is more than the 16 positions"):
            dataset = _load("raw", scan, dtype="u2", nav_shape=(4, 4), sig_shape=(3, 4), num_partitions=99)
        assert dataset.get_num_partitions() == len(list(dataset.get_partitions())) == 16

    def test_before_initialize(self, scan: Path) -> None:
        """A dataset that was not initialized says so."""
        from tilework.io.dataset.raw import RawFileDataSet

        with pytest.raises(DataSetException, match="not initialized"):
            _ = RawFileDataSet(scan, "u2", (4, 4), (3, 4)).shape


class TestUnreadable:
    """What is wrong with a path, for every format."""

    KWARGS: ClassVar[dict[str, dict[str, Any]]] = {
        "raw": {"dtype": "u2", "nav_shape": (4, 4), "sig_shape": (3, 4)},
        "npy": {},
        "mib": {},
        "blo": {},
        "empad": {"nav_shape": (4, 4)},
        "auto": {},
    }

    @pytest.mark.parametrize("filetype", KWARGS)
    def test_missing(self, tmp_path: Path, filetype: str) -> None:
        """A path where nothing is."""
        path = tmp_path / f"scan.{filetype}"
        with pytest.raises(DataSetException, match=f"{path} does not exist") as raised:
            _load(filetype, path, **self.KWARGS[filetype])
        assert isinstance(raised.value, FileNotFoundError)

    @pytest.mark.parametrize("filetype", KWARGS)
    def test_folder(self, tmp_path: Path, filetype: str) -> None:
        """A folder."""
        with pytest.raises(DataSetException, match=f"{tmp_path} is a folder"):
            _load(filetype, tmp_path, **self.KWARGS[filetype])

    @pytest.mark.parametrize("filetype", KWARGS)
    def test_empty(self, tmp_path: Path, filetype: str) -> None:
        """A file of 0 bytes."""
        path = tmp_path / f"scan.{filetype}"
        path.touch()
        with pytest.raises(DataSetException, match=f"{path} is empty"):
            _load(filetype, path, **self.KWARGS[filetype])

    @pytest.mark.parametrize("filetype", KWARGS)
    def test_pipe(self, tmp_path: Path, filetype: str) -> None:
        """What is no regular file is refused, not waited for."""
        path = tmp_path / f"scan.{filetype}"
        os.mkfifo(path)
        with pytest.raises(DataSetException, match=f"{path} is no regular file"):
            _load(filetype, path, **self.KWARGS[filetype])

    @pytest.mark.parametrize("path", [None, 3, ["a", "b"]])
    def test_no_path(self, path: Any) -> None:
        """What is no path."""
        with pytest.raises(DataSetException, match="must be the path of a file"):
            _load("npy", path)

    @pytest.mark.parametrize("filetype", KWARGS)
    def test_path_with_a_null_byte(self, tmp_path: Path, filetype: str) -> None:
        """A path that no system has."""
        with pytest.raises(DataSetException, match=r"cannot be read: .*embedded null"):
            _load(filetype, tmp_path / "a\0b", **self.KWARGS[filetype])

    @pytest.mark.parametrize("filetype", ["raw", "npy", "mib", "blo"])
    def test_no_permission(self, tmp_path: Path, filetype: str) -> None:
        """A file that may not be read; as root the test gives up its rights in a process of its own."""
        path = tmp_path / f"scan.{filetype}"
        path.write_bytes(bytes(1000))
        path.chmod(0)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            if folder.stat().st_uid == os.geteuid():
                folder.chmod(0o755)
        kwargs = self.KWARGS[filetype]
        code = (
            "import os, sys\n"
            "from tilework.executor.inline import InlineJobExecutor\n"
            "from tilework.io.dataset import load, get_dataset_cls\n"
            "from tilework.exceptions import DataSetException\n"
            f"get_dataset_cls({filetype!r})\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "try:\n"
            f"    load({filetype!r}, path={str(path)!r}, executor=InlineJobExecutor(), **{kwargs!r})\n"
            "except DataSetException as e:\n"
            "    sys.stdout.write(str(e))\n"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert f"{path} cannot be read, permission is missing" in result.stdout

    @pytest.mark.parametrize("filetype", ["npy", "mib", "blo", "auto"])
    def test_something_else(self, tmp_path: Path, filetype: str) -> None:
        """A file of another kind is refused by name."""
        path = tmp_path / "scan.txt"
        path.write_text("This is no diffraction pattern. " * 200)
        with pytest.raises(DataSetException, match=str(path)):
            _load(filetype, path)


class TestNPY:
    def test_shape_of_the_array(self, tmp_path: Path) -> None:
        """The last axes are those of the detector; an array of one frame is a scan of one position."""
        for shape, sig_dims, nav, sig in (
            ((2, 3, 4, 5), 2, (2, 3), (4, 5)),
            ((2, 3, 4, 5), 1, (2, 3, 4), (5,)),
            ((2, 3, 4, 5), 3, (2,), (3, 4, 5)),
            ((4, 5), 2, (1,), (4, 5)),
        ):
            np.save(tmp_path / "scan.npy", np.zeros(shape))
            dataset = _load("npy", tmp_path / "scan.npy", sig_dims=sig_dims)
            assert dataset.shape.nav == nav
            assert dataset.shape.sig == sig

    def test_other_shapes(self, tmp_path: Path) -> None:
        """Other shapes may be given, as long as frames keep their pixels."""
        data = counts((4, 4, 6, 6), "u2")
        np.save(tmp_path / "scan.npy", data)
        dataset = _load("npy", tmp_path / "scan.npy", nav_shape=(2, 8), sig_shape=(36,))
        np.testing.assert_array_equal(read_all(dataset)[0].reshape(data.shape), data)
        dataset = _load("npy", tmp_path / "scan.npy", sig_dims=None, nav_shape=(16,), sig_shape=(4, 9))
        assert dataset.shape == (16, 4, 9)
        with pytest.raises(DataSetException, match=r"sig_shape must be of size: 36"):
            _load("npy", tmp_path / "scan.npy", sig_shape=(6, 7))
        with pytest.raises(DataSetException, match="sig_shape must be given"):
            _load("npy", tmp_path / "scan.npy", sig_dims=None)
        for sig_dims in 0, 2.5, "2":
            with pytest.raises(DataSetException, match=r"sig_dims=.* must be a whole number, and at least 1"):
                _load("npy", tmp_path / "scan.npy", sig_dims=sig_dims)

    def test_format_versions(self, tmp_path: Path) -> None:
        """All versions of the format are read."""
        data = counts((3, 3, 4, 5), ">u2")
        for version in ((1, 0), (2, 0), (3, 0)):
            with (tmp_path / "scan.npy").open("wb") as f, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # NumPy's, about who can read the newer versions
                np.lib.format.write_array(f, data, version=version)
            np.testing.assert_array_equal(read_all(_load("npy", tmp_path / "scan.npy"))[0].reshape(data.shape), data)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.asfortranarray(counts((3, 3, 4, 5))), "Fortran order.*ascontiguousarray"),
            (np.zeros((3, 3, 4, 5), dtype="u2,f4"), "no numbers"),
            (np.zeros((3, 3, 4, 5), dtype="S3"), "no numbers"),
            (np.zeros((3, 3, 4, 5), dtype="M8[s]"), "no numbers"),
            (np.empty((3, 3, 4, 5), dtype=object), "no numbers"),
            (np.zeros((3, 0, 4, 5)), "holds no data"),
            (np.zeros(5), "too few axes"),
            (np.zeros(()), "too few axes"),
        ],
    )
    def test_refused(self, tmp_path: Path, array: np.ndarray[Any, Any], message: str) -> None:
        """Arrays that are no scans are refused with the reason."""
        np.save(tmp_path / "scan.npy", array)
        with pytest.raises(DataSetException, match=message) as error:
            _load("npy", tmp_path / "scan.npy")
        assert str(tmp_path / "scan.npy") in str(error.value)

    def test_truncated(self, tmp_path: Path) -> None:
        """Whole frames of an array that was cut off are used, the user is told what the header promised."""
        data = counts((4, 4, 6, 6), "u2")
        np.save(tmp_path / "scan.npy", data)
        content = (tmp_path / "scan.npy").read_bytes()
        (tmp_path / "scan.npy").write_bytes(content[: 128 + 72 * 9 + 71])
        with pytest.warns(RuntimeWarning, match="promises 16 frames, there are 9 and 71 bytes of another"):
            dataset = _load("npy", tmp_path / "scan.npy")
        assert np.count_nonzero(dataset.absent_frames) == 7
        np.testing.assert_array_equal(read_all(dataset)[0][:9], data.reshape(16, 6, 6)[:9])
        (tmp_path / "scan.npy").write_bytes(content[:150])
        with pytest.raises(DataSetException, match="no whole frame is there"):
            _load("npy", tmp_path / "scan.npy")

    def test_more_than_the_array(self, tmp_path: Path) -> None:
        """What follows the array in the file is none of its frames."""
        data = counts((4, 4, 6, 6), "u2")
        with (tmp_path / "scan.npy").open("wb") as f:
            np.save(f, data)
            np.save(f, data)
        dataset = _load("npy", tmp_path / "scan.npy")
        assert dataset.meta.image_count == 16
        with pytest.warns(RuntimeWarning, match="4 positions without a frame"):
            _load("npy", tmp_path / "scan.npy", nav_shape=(20,))

    @pytest.mark.parametrize("size", [5, 9, 60])
    def test_broken_header(self, tmp_path: Path, size: int) -> None:
        """A header that ends early is an error that names the file."""
        np.save(tmp_path / "scan.npy", counts((4, 4, 6, 6)))
        (tmp_path / "scan.npy").write_bytes((tmp_path / "scan.npy").read_bytes()[:size])
        with pytest.raises(DataSetException, match=r"scan\.npy .*npy"):
            _load("npy", tmp_path / "scan.npy")

    @pytest.mark.parametrize(
        ("was", "now", "message"),
        [
            (b"(4, 4", b"((4,4", "has a broken npy header"),
            (b"}", b" ", "has a broken npy header"),
            (b"(4, 4, 6, 6), }", b"(-4,-4, 6,6), }", "or its header is broken"),
            (b"(4, 4, 6, 6), }", b"(4, 4,-6,-6), }", "or its header is broken"),
            (b"(4, 4, 6, 6), }", b"(-4, 4, 6,6), }", "or its header is broken"),
        ],
    )
    def test_wrong_header(self, tmp_path: Path, was: bytes, now: bytes, message: str) -> None:
        """A header that is no dict, or tells negative sizes, is an error that names the file."""
        np.save(tmp_path / "scan.npy", counts((4, 4, 6, 6)))
        content = (tmp_path / "scan.npy").read_bytes()
        assert was in content
        (tmp_path / "scan.npy").write_bytes(content.replace(was, now, 1))
        for filetype in ("npy", "auto"):
            with pytest.raises(DataSetException, match=rf"scan\.npy .*{message}"):
                _load(filetype, tmp_path / "scan.npy")


class TestBlo:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize(("version", "dtype"), [(258, "u1"), (259, "u1"), (259, "u2")])
    def test_versions(self, tmp_path: Path, order: str, version: int, dtype: str) -> None:
        """Both versions, depths and byte orders are read, and detected."""
        data = counts((3, 4, 6, 6), dtype)
        write_blo(tmp_path / "scan.blo", data, version, order)
        for dataset in (_load("auto", tmp_path / "scan.blo"), _load("blo", tmp_path / "scan.blo", endianess=order)):
            assert dataset.shape == data.shape
            np.testing.assert_array_equal(read_all(dataset)[0].reshape(data.shape), data)
            y, x, _, kx = dataset.axes
            assert (y.scale, x.scale) == (25.0, 12.5)
            assert kx.scale == pytest.approx(10 / 62.26)

    def test_truncated(self, tmp_path: Path) -> None:
        """Frames that are missing at the end are absent; the user is told."""
        data = counts((3, 4, 6, 6), "u1")
        write_blo(tmp_path / "scan.blo", data[:2], nx_ny=(4, 3))
        with pytest.warns(RuntimeWarning, match="promises 12 frames, there are 8"):
            dataset = _load("blo", tmp_path / "scan.blo")
        assert dataset.absent_frames[2].all()
        np.testing.assert_array_equal(read_all(dataset)[0][:8].reshape(2, 4, 6, 6), data[:2])

    @pytest.mark.parametrize("written", [1, 5])
    def test_blank_end(self, tmp_path: Path, written: int) -> None:
        """Frames that were never written into a file of the final size are absent."""
        data = counts((3, 4, 6, 6), "u1")
        write_blo(tmp_path / "scan.blo", data)
        size = (tmp_path / "scan.blo").stat().st_size
        os.truncate(tmp_path / "scan.blo", 4112 + 42 * written)
        os.truncate(tmp_path / "scan.blo", size)
        with pytest.warns(RuntimeWarning, match="without a frame"):
            dataset = _load("blo", tmp_path / "scan.blo")
        assert np.count_nonzero(dataset.absent_frames) == 12 - written

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_no_mark_where_frames_should_begin(self, tmp_path: Path, order: str) -> None:
        """An offset that cannot be trusted is told: what is read there may be shifted."""
        path = tmp_path / "scan.blo"
        write_blo(path, counts((3, 4, 6, 6), "u1"), order=order)
        content = bytearray(path.read_bytes())
        struct.pack_into(order + "I", content, 12, 4000)
        path.write_bytes(content)
        with pytest.warns(RuntimeWarning, match="no pattern begins at byte 4000"):
            _load("blo", path, endianess=order)

    @pytest.mark.parametrize("offset", [0, 63])
    def test_offset_within_the_header(self, tmp_path: Path, offset: int) -> None:
        """Patterns that lie in the header that promises them are an error."""
        path = tmp_path / "scan.blo"
        write_blo(path, counts((3, 4, 6, 6), "u1"))
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, 12, offset)
        path.write_bytes(content)
        with pytest.raises(DataSetException, match=f"at byte {offset}, within the header"):
            _load("blo", path)

    def test_bad_headers(self, tmp_path: Path) -> None:
        """Headers that cannot be right are errors that say why."""
        path = tmp_path / "scan.blo"
        write_blo(path, counts((3, 4, 6, 6), "u1"), nx_ny=(0, 4))
        with pytest.raises(DataSetException, match="holds no data"):
            _load("blo", path)
        write_blo(path, counts((3, 4, 6, 6), "u1"))
        with pytest.raises(DataSetException, match="neither 258 nor 259 in byte order '>'"):
            _load("blo", path, endianess=">")
        with pytest.raises(DataSetException, match="endianess='x'"):
            _load("blo", path, endianess="x")
        content = bytearray(path.read_bytes())
        content[20] = 7  # patterns of 7 x 7 pixels
        path.write_bytes(content)
        with pytest.raises(DataSetException, match="lies about the frame size"):
            _load("blo", path)
        path.write_bytes(content[:4150])
        with pytest.raises(DataSetException, match="not even that is there"):
            _load("blo", path)


class TestEMPAD:
    def test_raw_file(self, tmp_path: Path) -> None:
        """A raw file needs a scan shape, unless its name tells one that fits; rows that are no pixels are left out."""
        frames = counts((6, 128, 128), "f4")
        write_empad(tmp_path / "frames.raw", frames)
        with pytest.raises(DataSetException, match=r"\(6 frames\) does not tell the shape of the scan"):
            _load("empad", tmp_path / "frames.raw")
        np.testing.assert_array_equal(read_all(_load("empad", tmp_path / "frames.raw", nav_shape=(2, 3)))[0], frames)
        write_empad(tmp_path / "scan_x3_y2.raw", frames)
        dataset = _load("auto", tmp_path / "scan_x3_y2.raw")
        assert dataset.shape == (2, 3, 128, 128)
        assert dataset.describe()["format"] == "empad"

    def test_scan_shape_of_the_xml(self, tmp_path: Path) -> None:
        """The shape of the acquisition counts; that of the search where only it fits the file."""
        write_empad(tmp_path / "a.raw", counts((6, 128, 128), "f4"))
        for acquire, search in (((2, 3), (64, 64)), ((64, 64), (2, 3))):
            (tmp_path / "a.xml").write_text(empad_xml("/home/empad/somewhere/a.raw", acquire, search))
            assert _load("empad", tmp_path / "a.xml").shape.nav == (2, 3)
        (tmp_path / "a.xml").write_text(empad_xml("a.raw", (1, 2), (2, 2)))
        with pytest.raises(DataSetException, match="holds 6 frames: give nav_shape"):
            _load("empad", tmp_path / "a.xml")
        assert _load("empad", tmp_path / "a.xml", nav_shape=(3, 2)).shape.nav == (3, 2)

    def test_aborted(self, tmp_path: Path) -> None:
        """A scan that was aborted in the middle of a frame keeps its shape; the user is told."""
        frames = counts((9, 128, 128), "f4")
        write_empad(tmp_path / "a.raw", frames)
        os.truncate(tmp_path / "a.raw", 130 * 128 * 4 * 5 - 100)
        (tmp_path / "a.xml").write_text(empad_xml("a.raw", (3, 3)))
        with pytest.warns(RuntimeWarning, match=r"4 whole frames and .*5 positions without a frame"):
            dataset = _load("empad", tmp_path / "a.xml")
        np.testing.assert_array_equal(read_all(dataset)[0][:4], frames[:4])

    def test_scales(self, tmp_path: Path) -> None:
        """Field of view and calibrated angle give scales."""
        extra = (
            "<iom_measurements><full_scan_field_of_view><x>4e-8</x><y>4e-8</y></full_scan_field_of_view>"
            "<calibrated_diffraction_angle>0.0005</calibrated_diffraction_angle></iom_measurements>"
        )
        write_empad(tmp_path / "a.raw", counts((4, 128, 128), "f4"))
        (tmp_path / "a.xml").write_text(empad_xml("a.raw", (2, 2), extra=extra))
        y, _, ky, _ = _load("empad", tmp_path / "a.xml").axes
        assert (y.scale, y.units) == (pytest.approx(10.0), "nm")
        assert (ky.scale, ky.units) == (pytest.approx(0.5), "mrad")

    def test_series(self, tmp_path: Path) -> None:
        """A series that is too short for the file is refused as a scan is; one that is too long has absent frames."""
        write_empad(tmp_path / "a.raw", counts((6, 128, 128), "f4"))
        for number in (5, 6, 7):
            series = empad_xml("a.raw", (2, 2), extra=f"<type>series</type><count>{number}</count>")
            (tmp_path / f"{number}.xml").write_text(series)
        assert _load("empad", tmp_path / "6.xml").shape.nav == (6,)
        with pytest.warns(RuntimeWarning, match="1 position without a frame"):
            assert _load("empad", tmp_path / "7.xml").shape.nav == (7,)
        for filetype in ("empad", "auto"):
            with pytest.raises(
                DataSetException, match=r"tells scans of shape \[\(5,\)\].*holds 6 frames: give nav_shape"
            ):
                _load(filetype, tmp_path / "5.xml")
            assert _load(filetype, tmp_path / "5.xml", nav_shape=(2, 3)).shape.nav == (2, 3)

    def test_bad_xml(self, tmp_path: Path) -> None:
        """XML files that are broken, of something else, or without their raw file."""
        (tmp_path / "a.xml").write_text("<root><raw")
        with pytest.raises(DataSetException, match="no XML file"):
            _load("empad", tmp_path / "a.xml")
        (tmp_path / "a.xml").write_text("<root/>")
        with pytest.raises(DataSetException, match="names no raw_file"):
            _load("empad", tmp_path / "a.xml")
        (tmp_path / "a.xml").write_text(empad_xml("gone.raw", (2, 2)))
        with pytest.raises(DataSetException, match=r"names the raw file gone\.raw, which is not beside it"):
            _load("empad", tmp_path / "a.xml")
        (tmp_path / "gone.raw").write_bytes(bytes(1000))
        with pytest.raises(DataSetException, match="one frame of an EMPAD has 66560"):
            _load("empad", tmp_path / "a.xml")

    @pytest.mark.parametrize("name", ["folder/", "D:\\data\\", ".", ".."])
    def test_xml_that_names_no_file(self, tmp_path: Path, name: str) -> None:
        """A folder is no raw file."""
        (tmp_path / "a.xml").write_text(empad_xml(name, (2, 2)))
        with pytest.raises(DataSetException, match=r"a\.xml .*names no raw_file"):
            _load("empad", tmp_path / "a.xml")

    def test_xml_with_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        (tmp_path / "a.xml").write_text(empad_xml("a" * 300, (2, 2)))
        with pytest.raises(DataSetException, match="File name too long"):
            _load("empad", tmp_path / "a.xml")

    @pytest.mark.parametrize(
        "extra",
        [
            "<type>series</type><count>0.5</count>",
            "<type>series</type><count>1e300</count>",
            "<optics.get_full_scan_field_of_view>[1.2.3]</optics.get_full_scan_field_of_view>",
        ],
    )
    def test_xml_with_numbers_that_are_none(self, tmp_path: Path, extra: str) -> None:
        """What makes no sense is as if it was not said."""
        extra = f"{extra}<iom_measurements>{extra}</iom_measurements>"
        write_empad(tmp_path / "a.raw", counts((4, 128, 128), "f4"))
        (tmp_path / "a.xml").write_text(empad_xml("a.raw", (2, 2), search=(2, 2), extra=extra))
        dataset = _load("empad", tmp_path / "a.xml")
        assert dataset.shape.nav == (2, 2)
        assert dataset.axes[0].scale is None

    def test_xml_in_an_unknown_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "a.xml").write_text("<?xml version='1.0' encoding='none'?><root/>")
        for filetype in ("empad", "auto"):
            with pytest.raises(DataSetException, match=r"a\.xml is no XML file: unknown encoding"):
                _load(filetype, tmp_path / "a.xml")

    def test_xml_bombs_are_refused(self, tmp_path: Path) -> None:
        """Entities are not expanded."""
        bomb = '<!DOCTYPE r [<!ENTITY a "b">]><root><raw_file filename="&a;"/></root>'
        (tmp_path / "a.xml").write_text(bomb)
        with pytest.raises(DataSetException, match="no XML file"):
            _load("empad", tmp_path / "a.xml")


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of the folder where the dataset was made, also when somebody reads it elsewhere."""
    write_mib(tmp_path / "scan.mib", counts((4, 2, 4)))
    monkeypatch.chdir(tmp_path)
    dataset = load("mib", path="scan.mib", executor=InlineJobExecutor())
    monkeypatch.chdir("/")
    assert read_all(dataset)[1].all()


def test_relative_paths_where_the_current_folder_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(DataSetException, match=r"'scan.mib'.*the current folder was removed; give an absolute path"):
        load("mib", path="scan.mib", executor=InlineJobExecutor())
