"""Medipix files: packed pixels, series, gaps, blank ends, .hdr files, and headers that lie."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, hdr_text, mib_header, write_mib, write_packed_mib
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.testing.datasets import read_all

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType


def _load(path: Path, **kwargs: Any) -> Any:
    return load("mib", path=path, executor=InlineJobExecutor(), **kwargs)


@pytest.mark.parametrize("quad", [False, True])
@pytest.mark.parametrize("bits", [1, 6, 12, 24])
def test_packed_frames(tmp_path: Path, bits: int, quad: bool) -> None:
    """Packed frames, written pixel by pixel from the description, are decoded, in whole frames and in parts."""
    sig = (8, 128) if quad else (5, 128)
    images = counts((9, *sig), "u4", high=2**bits - 1)
    write_packed_mib(tmp_path / "scan.mib", images, bits, quad)
    dataset = _load(tmp_path / "scan.mib")
    assert dataset.shape == (3, 3, *sig)
    assert dataset.dtype == {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[bits]
    assert not dataset.zero_copy
    np.testing.assert_array_equal(read_all(dataset)[0], images)
    roi = dataset.roi[1:, ::2]
    np.testing.assert_array_equal(read_all(dataset, dest_dtype="f8", roi=roi)[0], images[roi.reshape(-1)])


def test_packed_and_plain_agree(tmp_path: Path) -> None:
    """The same images give the same pixels whether they were written packed or not."""
    images = counts((4, 6, 256), "u2", high=4095)
    write_mib(tmp_path / "plain.mib", images)
    write_packed_mib(tmp_path / "packed.mib", images, 12, quad=True)
    plain, packed = _load(tmp_path / "plain.mib"), _load(tmp_path / "packed.mib")
    assert plain.raw_dtype == ">u2"
    np.testing.assert_array_equal(read_all(plain)[0], read_all(packed)[0])


def test_roi_readout(tmp_path: Path) -> None:
    """Width and height are those of the header, also when only some rows were read out."""
    images = counts((6, 3, 256), "u1")
    write_mib(tmp_path / "scan.mib", images, bits=6)
    assert _load(tmp_path / "scan.mib").shape == (6, 3, 256)


def test_other_header_size(tmp_path: Path) -> None:
    """The size of the header is what the header says."""
    images = counts((4, 5, 6), "u2")
    write_mib(tmp_path / "scan.mib", images, header_bytes=1027)
    dataset = _load(tmp_path / "scan.mib")
    np.testing.assert_array_equal(read_all(dataset)[0], images)
    assert not dataset.zero_copy  # pixels of two bytes at odd addresses


class TestScanShape:
    def test_square(self, tmp_path: Path) -> None:
        """Without further knowledge a square number of frames is a square scan, made of Python integers."""
        write_mib(tmp_path / "scan.mib", counts((16, 2, 4)))
        nav = _load(tmp_path / "scan.mib").shape.nav
        assert nav == (4, 4)
        assert all(type(n) is int for n in nav)

    def test_a_square_that_is_guessed_is_told(self, tmp_path: Path) -> None:
        """A guess that may be wrong warns, however the format was found, and is in the description."""
        write_mib(tmp_path / "scan.mib", counts((36, 2, 4)))
        for kind in ("mib", "auto"):
            with pytest.warns(
                RuntimeWarning, match=r"scan shape \(6, 6\) of .*scan\.mib is guessed.*give nav_shape"
            ) as told:
                dataset = load(kind, path=tmp_path / "scan.mib", executor=InlineJobExecutor())
            assert dataset.describe()["nav_shape_from"] == "guessed from the number of frames"
            assert told[0].filename == __file__  # of whoever loads, so that it is shown each time

    @pytest.mark.parametrize("nav_shape", [(4, 9), (6, 6)])
    @pytest.mark.parametrize("kind", ["mib", "auto"])
    def test_what_is_given_is_no_guess(self, tmp_path: Path, kind: str, nav_shape: tuple[int, ...]) -> None:
        """Who gives the scan shape gets no warning."""
        write_mib(tmp_path / "scan.mib", counts((36, 2, 4)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = load(kind, path=tmp_path / "scan.mib", nav_shape=nav_shape, executor=InlineJobExecutor())
        assert dataset.describe()["nav_shape_from"] == "as given"

    def test_line(self, tmp_path: Path) -> None:
        """Another number of frames is a line."""
        write_mib(tmp_path / "scan.mib", counts((10, 2, 4)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = _load(tmp_path / "scan.mib")
        assert dataset.shape.nav == (10,)
        assert dataset.describe()["nav_shape_from"] == "nothing tells its lines"

    def test_of_hdr(self, tmp_path: Path) -> None:
        """ScanX and ScanY of the .hdr file count, given as path or lying beside the .mib file."""
        write_mib(tmp_path / "scan.mib", counts((12, 2, 4)))
        (tmp_path / "scan.hdr").write_text(hdr_text(12, 6, scan=(3, 4)))
        assert _load(tmp_path / "scan.hdr").shape.nav == (3, 4)
        assert _load(tmp_path / "scan.mib").shape.nav == (3, 4)

    @pytest.mark.parametrize(("mib", "hdr"), [(".MIB", ".HDR"), (".mib", ".HDR"), (".MIB", ".hdr")])
    def test_of_hdr_in_capitals(self, tmp_path: Path, mib: str, hdr: str) -> None:
        """The .hdr file is found, and the .mib file from it, also where names are in capitals."""
        write_mib(tmp_path / f"scan{mib}", counts((12, 2, 4)))
        (tmp_path / f"scan{hdr}").write_text(hdr_text(12, 6, scan=(3, 4)))
        assert _load(tmp_path / f"scan{hdr}").shape.nav == (3, 4)
        assert _load(tmp_path / f"scan{mib}").shape.nav == (3, 4)

    def test_by_triggers(self, tmp_path: Path) -> None:
        """Without ScanX and ScanY, a trigger for each line tells the scan."""
        write_mib(tmp_path / "scan.mib", counts((12, 2, 4)))
        (tmp_path / "scan.hdr").write_text(hdr_text(12, 6))
        assert _load(tmp_path / "scan.hdr").shape.nav == (2, 6)

    @pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-4", "4.0"])
    def test_numbers_that_are_none(self, tmp_path: Path, number: str) -> None:
        """What is no number in a .hdr file is as if it was not said."""
        write_mib(tmp_path / "scan.mib", counts((12, 2, 4)))
        text = hdr_text(12, 6, scan=(3, 4)).replace("ScanX:\t4", f"ScanX:\t{number}")
        (tmp_path / "scan.hdr").write_text(text, encoding="latin-1")
        assert _load(tmp_path / "scan.hdr").shape.nav == (2, 6)

    def test_times_are_not_looked_at_where_frames_are_missing(self, tmp_path: Path) -> None:
        """Sequence numbers that lie make no scan of which all possible lines are looked for."""
        write_mib(tmp_path / "scan.mib", counts((3, 2, 4)), sequence=[1, 2, 10**18])
        with pytest.raises(DataSetException, match=r"1000000000000000000 positions.*check nav_shape"):
            _load(tmp_path / "scan.mib")

    @pytest.mark.parametrize("per_trigger", [1, 9])
    def test_triggers_that_tell_nothing(self, tmp_path: Path, per_trigger: int) -> None:
        """A trigger for each frame, or one for all of them, tells nothing about lines."""
        write_mib(tmp_path / "scan.mib", counts((9, 2, 4)))
        (tmp_path / "scan.hdr").write_text(hdr_text(9, per_trigger))
        assert _load(tmp_path / "scan.hdr").shape.nav == (3, 3)

    def test_aborted(self, tmp_path: Path) -> None:
        """A scan of which only the beginning was acquired keeps its shape; the user is told."""
        write_mib(tmp_path / "scan.mib", counts((7, 2, 4)))
        (tmp_path / "scan.hdr").write_text(hdr_text(12, 6, scan=(3, 4)))
        with pytest.warns(RuntimeWarning, match="5 positions without a frame"):
            dataset = _load(tmp_path / "scan.hdr")
        assert dataset.shape.nav == (3, 4)
        assert dataset.absent_frames.reshape(-1).tolist() == [False] * 7 + [True] * 5
        assert any(entry["value"] == "5" for entry in dataset.diagnostics)


class TestHdr:
    def test_never_takes_a_sibling(self, tmp_path: Path) -> None:
        """Only the .mib of exactly the same name belongs to a .hdr file."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan1RAW.mib", counts((5, 2, 4)), first=5)
        write_mib(tmp_path / "scan10.mib", counts((6, 2, 4)), first=10)
        (tmp_path / "scan1.hdr").write_text(hdr_text(4, 1))
        assert _load(tmp_path / "scan1.hdr").shape.nav == (2, 2)

    def test_series(self, tmp_path: Path) -> None:
        """Where there is no .mib of the same name, the numbered ones are its series."""
        images = counts((9, 2, 4))
        write_mib(tmp_path / "scan_1.mib", images[:5])
        write_mib(tmp_path / "scan_2.mib", images[5:], first=6)
        (tmp_path / "scan.hdr").write_text(hdr_text(9, 3))
        dataset = _load(tmp_path / "scan.hdr")
        assert dataset.shape.nav == (3, 3)
        np.testing.assert_array_equal(read_all(dataset)[0], images)

    def test_without_mib(self, tmp_path: Path) -> None:
        """A .hdr file alone is an error that says what is missing."""
        (tmp_path / "scan.hdr").write_text(hdr_text(9, 3))
        with pytest.raises(DataSetException, match=r"scan\.hdr: there is no scan\.mib beside it"):
            _load(tmp_path / "scan.hdr")

    def test_of_something_else(self, tmp_path: Path) -> None:
        """Another program's .hdr file is refused, and ignored beside a .mib file."""
        (tmp_path / "scan.hdr").write_text("ENVI\n")
        write_mib(tmp_path / "scan.mib", counts((4, 2, 4)))
        with pytest.raises(DataSetException, match="does not begin with HDR"):
            _load(tmp_path / "scan.hdr")
        assert _load(tmp_path / "scan.mib").shape.nav == (2, 2)


class TestSeries:
    def test_sorted_by_sequence_number(self, tmp_path: Path) -> None:
        """Files are put together by sequence numbers, whatever their names and whichever of them is given."""
        images = counts((16, 2, 4))
        for name, start, stop in (("scan2", 0, 5), ("scan10", 5, 11), ("scan1", 11, 16)):
            write_mib(tmp_path / f"{name}.mib", images[start:stop], first=start + 1)
        for name in ("scan1", "scan2", "scan10"):
            dataset = _load(tmp_path / f"{name}.mib")
            assert dataset.shape.nav == (4, 4)
            np.testing.assert_array_equal(read_all(dataset)[0], images)

    def test_of_many_single_frames(self, tmp_path: Path) -> None:
        """Files of one frame each are read across partitions and tiles."""
        images = counts((49, 3, 4))
        for i, image in enumerate(images):
            write_mib(tmp_path / f"f{i:03d}.mib", image[None], first=i + 1)
        np.testing.assert_array_equal(read_all(_load(tmp_path / "f007.mib", num_partitions=3))[0], images)

    def test_disable_glob(self, tmp_path: Path) -> None:
        """With disable_glob, only the given file is taken."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan2.mib", counts((5, 2, 4)), first=5)
        assert _load(tmp_path / "scan1.mib").shape.nav == (3, 3)
        assert _load(tmp_path / "scan2.mib", disable_glob=True).shape.nav == (5,)

    def test_gap_between_files_is_absent(self, tmp_path: Path) -> None:
        """Frames between two files that no file holds are absent, and the user is told which."""
        images = counts((16, 2, 4))
        write_mib(tmp_path / "scan1.mib", images[:6])
        write_mib(tmp_path / "scan2.mib", images[9:], first=10)
        with pytest.warns(RuntimeWarning, match="3 frames missing between .* numbers 7 to 9"):
            dataset = _load(tmp_path / "scan2.mib")
        assert dataset.shape.nav == (4, 4)
        assert np.flatnonzero(dataset.absent_frames).tolist() == [6, 7, 8]
        data, count = read_all(dataset)
        assert (count[6:9] == 0).all()
        np.testing.assert_array_equal(np.delete(data, [6, 7, 8], axis=0), np.delete(images, [6, 7, 8], axis=0))

    def test_one_that_is_far_away(self, tmp_path: Path) -> None:
        """A gap that is larger than all there is means another acquisition, which is named."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan2.mib", counts((5, 2, 4)), first=5)
        write_mib(tmp_path / "scan3.mib", counts((9, 2, 4)), first=3_000_000)
        for name in ("scan1", "scan2"):
            with pytest.warns(RuntimeWarning, match=r"scan3\.mib: not of the acquisition of .*disable_glob=True"):
                assert _load(tmp_path / f"{name}.mib").shape.nav == (3, 3)
        with pytest.warns(RuntimeWarning, match=r"scan1\.mib, scan2\.mib: not of the acquisition of .*scan3"):
            assert _load(tmp_path / "scan3.mib").shape.nav == (3, 3)

    def test_separate_acquisitions(self, tmp_path: Path) -> None:
        """Files whose numbers begin anew are separate acquisitions: each is loaded alone."""
        for i, n in ((1, 4), (2, 9), (3, 16)):
            write_mib(tmp_path / f"scan{i}.mib", counts((n, 2, 4)))
        assert _load(tmp_path / "scan2.mib").shape.nav == (3, 3)

    @pytest.mark.parametrize("suffix", [".hdr", ".HDR"])
    def test_with_a_hdr_of_its_own(self, tmp_path: Path, suffix: str) -> None:
        """A file with a .hdr file of its own is no part of another's series, even where numbers would fit."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan2.mib", counts((5, 2, 4)), first=5)
        (tmp_path / f"scan2{suffix}").write_text(hdr_text(5, 1))
        assert _load(tmp_path / "scan1.mib").shape.nav == (2, 2)

    def test_with_other_frames(self, tmp_path: Path) -> None:
        """A file with frames of another size is no part of the series."""
        write_mib(tmp_path / "scan1.mib", counts((4, 2, 4)))
        write_mib(tmp_path / "scan2.mib", counts((5, 2, 5)), first=5)
        assert _load(tmp_path / "scan1.mib").shape.nav == (2, 2)

    def test_effort_grows_with_the_number_of_files(self, tmp_path: Path) -> None:
        """Files of a long series are looked at one by one, and not compared with each other."""

        def calls(files: int) -> int:
            folder = tmp_path / str(files)
            folder.mkdir()
            for i in range(files):
                write_mib(folder / f"scan{i:04d}.mib", counts((1, 2, 4)), first=i + 1)
            found = 0

            def count(frame: FrameType, event: str, arg: Any) -> None:
                nonlocal found
                found += event == "call"

            sys.setprofile(count)
            try:
                _load(folder / "scan0000.mib", nav_shape=(files,))
            finally:
                sys.setprofile(None)
            return found

        assert calls(400) < 5 * calls(100)

    def test_broken_part(self, tmp_path: Path) -> None:
        """A part that cannot be read is left out, and the user is told."""
        images = counts((4, 2, 4))
        write_mib(tmp_path / "scan1.mib", images)
        (tmp_path / "scan2.mib").write_bytes(b"")
        with pytest.warns(RuntimeWarning, match=r"scan2\.mib is empty"):
            dataset = _load(tmp_path / "scan1.mib")
        np.testing.assert_array_equal(read_all(dataset)[0], images)


class TestBlankAndMissingFrames:
    @pytest.mark.parametrize("written", [1, 2, 7, 24])
    def test_blank_end(self, tmp_path: Path, written: int) -> None:
        """Frames that were never written into a file of the final size are absent."""
        images = counts((25, 2, 4))
        path = tmp_path / "scan.mib"
        write_mib(path, images)
        with path.open("r+b") as f:
            f.truncate((384 + 16) * written)
            f.truncate((384 + 16) * 25)
        with pytest.warns(RuntimeWarning, match=f"only the first {written} were written"):
            dataset = _load(path, nav_shape=(5, 5))
        assert np.count_nonzero(dataset.absent_frames) == 25 - written
        np.testing.assert_array_equal(read_all(dataset)[0][:written], images[:written])

    def test_truncated(self, tmp_path: Path) -> None:
        """The incomplete last frame of a file that was cut off is not taken for a frame."""
        images = counts((9, 2, 4))
        path = tmp_path / "scan.mib"
        write_mib(path, images)
        with path.open("r+b") as f:
            f.truncate((384 + 16) * 9 - 1)
        with pytest.warns(RuntimeWarning, match="cut off: 8 whole frames and 399 bytes"):
            dataset = _load(path, nav_shape=(3, 3))
        assert np.flatnonzero(dataset.absent_frames).tolist() == [8]
        np.testing.assert_array_equal(read_all(dataset)[0][:8], images[:8])

    def test_lost_frames_in_a_file(self, tmp_path: Path) -> None:
        """Frames that a file skips by its sequence numbers are absent, and the others stay at their positions."""
        numbers = [n for n in range(1, 37) if n not in {5, 6, 20, 33}]
        images = counts((36, 2, 4))
        held = [n - 1 for n in numbers]
        write_mib(tmp_path / "scan.mib", images[held], sequence=numbers)
        with pytest.warns(RuntimeWarning, match="4 frames missing according to the sequence numbers, in 3 places"):
            dataset = _load(tmp_path / "scan.mib", nav_shape=(6, 6))
        assert np.flatnonzero(dataset.absent_frames).tolist() == [4, 5, 19, 32]
        np.testing.assert_array_equal(read_all(dataset)[0][held], images[held])

    @pytest.mark.parametrize("lost", [{2}, {2, 3, 7}, {2, 4, 5}])
    def test_a_lost_second_frame(self, tmp_path: Path, lost: set[int]) -> None:
        """One step that is not 1 is a lost frame, not another way to count: also of a part of a series."""
        images = counts((9, 2, 4))
        numbers = [n for n in range(1, 10) if n not in lost]
        held = [n - 1 for n in numbers]
        write_mib(tmp_path / "scan.mib", images[held], sequence=numbers)
        write_mib(tmp_path / "part1.mib", images)
        write_mib(tmp_path / "part2.mib", images[held], sequence=[n + 9 for n in numbers])
        for name, before in (("scan", 0), ("part1", 9)):
            with pytest.warns(RuntimeWarning, match=f"{len(lost)} frames? missing according to the sequence numbers"):
                dataset = _load(tmp_path / f"{name}.mib", nav_shape=(9 + before,))
            assert np.flatnonzero(dataset.absent_frames).tolist() == [n - 1 + before for n in sorted(lost)]
            np.testing.assert_array_equal(read_all(dataset)[0][before:][held], images[held])

    def test_a_lost_frame_of_three(self, tmp_path: Path) -> None:
        """Two frames tell no way to count: between them one is missing."""
        images = counts((2, 2, 4))
        write_mib(tmp_path / "scan.mib", images, sequence=[1, 3])
        with pytest.warns(RuntimeWarning, match="1 frame missing according to the sequence numbers"):
            dataset = _load(tmp_path / "scan.mib")
        assert np.flatnonzero(dataset.absent_frames).tolist() == [1]

    @pytest.mark.parametrize("numbers", [[1] * 9, [9, 8, 7, 6, 5, 4, 3, 2, 1], [1, 3, 5, 7, 9, 11, 13, 15, 17]])
    def test_numbers_that_do_not_count(self, tmp_path: Path, numbers: list[int]) -> None:
        """Frames whose numbers are all the same, fall, or count in other steps are taken as they come."""
        images = counts((9, 2, 4))
        write_mib(tmp_path / "scan.mib", images, sequence=numbers)
        with pytest.warns(RuntimeWarning, match="taken as they come"):
            dataset = _load(tmp_path / "scan.mib")
        assert dataset.absent_frames is None
        np.testing.assert_array_equal(read_all(dataset)[0], images)


class TestBadHeaders:
    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"MQ2,000001", "does not begin with MQ1"),
            (b"MQ1,abc,def", "cannot be understood"),
            (mib_header(1, 0, 256, "U16"), "cannot be right"),
            (mib_header(1, 256, 256, "F32"), "pixels of type F32 are not known"),
            (mib_header(1, 256, 256, "U12"), "pixels of type U12 are not known"),
            (mib_header(1, 256, 256, "R64", layout="Nx1"), "not supported"),
            (mib_header(1, 256, 256, "R64", bits=7), "bit depth of '7'"),
            (mib_header(1, 100, 256, "R64", bits=1), "multiple of 64 pixels"),
        ],
    )
    def test_refused(self, tmp_path: Path, header: bytes, message: str) -> None:
        """A header that is none, or says what cannot be, is an error that names the file."""
        path = tmp_path / "scan.mib"
        path.write_bytes(header.ljust(400_000, b"\0"))
        with pytest.raises(DataSetException, match=message) as error:
            _load(path)
        assert str(path) in str(error.value)

    @pytest.mark.parametrize("claim", [(4, 3), (3, 2), (40, 20)])
    def test_lies_about_its_size(self, tmp_path: Path, claim: tuple[int, int]) -> None:
        """A header that promises frames of a size that they do not have is an error, not a shifted dataset."""
        images = counts((9, 2, 4))
        path = tmp_path / "scan.mib"
        write_mib(path, images)
        content = bytearray(path.read_bytes())
        content[:384] = mib_header(1, claim[0], claim[1], "U16")
        path.write_bytes(content)
        with pytest.raises(DataSetException, match="lies about the frame size"):
            _load(path)

    def test_not_one_frame(self, tmp_path: Path) -> None:
        """A file without a whole frame is an error."""
        path = tmp_path / "scan.mib"
        path.write_bytes(mib_header(1, 256, 256, "U16") + bytes(1000))
        with pytest.raises(DataSetException, match="not even one is there"):
            _load(path)


def test_describes_the_detector(tmp_path: Path) -> None:
    """Facts from the headers are in the diagnostics and the description."""
    write_mib(tmp_path / "scan.mib", counts((4, 2, 4)))
    (tmp_path / "scan.hdr").write_text(hdr_text(4, 1))
    dataset = _load(tmp_path / "scan.mib")
    assert {"name": "Counter depth", "value": "12"} in dataset.diagnostics
    assert dataset.describe()["source"]["Exposure time (s)"] == "0.000555"
    assert dataset.describe()["format"] == "mib"
