"""Every format keeps the contract of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detector_files import counts, empad_xml, write_blo, write_empad, write_mib, write_packed_mib
from tilework.io.dataset.registry import get_dataset_cls
from tilework.testing.datasets import DataSetContract

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet


def _open(filetype: str, executor: JobExecutor, **kwargs: Any) -> DataSet:
    cls: Any = get_dataset_cls(filetype)
    dataset: DataSet = cls(**kwargs).initialize(executor)
    return dataset


class _RawContract(DataSetContract):
    """A raw file; `stored` is its dtype."""

    stored = "<u2"
    nav: tuple[int, ...] = (6, 7)
    sig: tuple[int, ...] = (16, 9)

    def expected(self) -> NDArray[Any]:
        """Random pixels."""
        return counts((*self.nav, *self.sig), np.dtype(self.stored).newbyteorder("="))

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        """Write and open it."""
        self.expected().astype(self.stored).tofile(folder / "scan.raw")
        shapes = {"nav_shape": self.nav, "sig_shape": self.sig}
        return _open("raw", executor, path=folder / "scan.raw", dtype=self.stored, **shapes, **kwargs)


class TestRaw(_RawContract):
    pass


class TestRawBigEndian(_RawContract):
    stored = ">i4"
    sig = (17,)


class TestRawComplex(_RawContract):
    stored = "<c8"
    nav = (11,)
    sig = (3, 4, 5)
    convertible = ("c8", "c16")


class TestRawLargeFrames(_RawContract):
    """Frames so large that single ones become views, and parts of them tiles."""

    stored = ">u2"
    nav = (2, 4)
    sig = (520, 512)


class TestNPY(DataSetContract):
    filetype = "npy"
    file_name = "scan.npy"

    def expected(self) -> NDArray[Any]:
        return counts((3, 5, 4, 8, 6), "f4")

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        np.save(folder / "scan.npy", self.expected())
        return _open("npy", executor, path=folder / "scan.npy", **kwargs)


class TestNPYBool(TestNPY):
    """Stored as bool."""

    def expected(self) -> NDArray[Any]:
        return counts((5, 4, 8, 6), "bool")


class _MIBContract(DataSetContract):
    filetype = "mib"
    file_name = "scan.mib"
    nav = (6, 6)
    sig = (16, 9)
    dtype = "u2"

    def expected(self) -> NDArray[Any]:
        return counts((*self.nav, *self.sig), self.dtype)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        write_mib(folder / "scan.mib", self.expected().reshape((-1, *self.sig)))
        return _open("mib", executor, path=folder / "scan.mib", **kwargs)


class TestMIBU16(_MIBContract):
    pass


class TestMIBU08(_MIBContract):
    dtype = "u1"


class TestMIBU32(_MIBContract):
    dtype = "u4"
    convertible = ("f8", "c16")


@pytest.mark.filterwarnings("ignore:.*missing between.*:RuntimeWarning", "ignore:.*without a frame.*:RuntimeWarning")
class TestMIBSeriesWithGaps(_MIBContract):
    """A series of files of different lengths, of which one in the middle of a partition is missing."""

    file_name = "scan_1.mib"
    runs = ((1, 7), (8, 2), (12, 1), (13, 24))  # first sequence number, frames

    def absent(self) -> NDArray[np.bool_]:
        mask = np.zeros(36, dtype=np.bool_)
        mask[9:11] = True
        return mask.reshape(self.nav)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        frames = self.expected().reshape((-1, *self.sig))
        for i, (first, n) in enumerate(self.runs):
            write_mib(folder / f"scan_{i + 1}.mib", frames[first - 1 : first - 1 + n], first=first)
        return _open("mib", executor, path=folder / "scan_1.mib", **kwargs)


class TestMIBPackedQuad(_MIBContract):
    """Packed frames of 12 bits of a quad detector."""

    nav = (3, 3)
    sig = (6, 32)

    def expected(self) -> NDArray[Any]:
        return counts((*self.nav, *self.sig), "u2", high=4095)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        write_packed_mib(folder / "scan.mib", self.expected().reshape((-1, *self.sig)), bits=12, quad=True)
        return _open("mib", executor, path=folder / "scan.mib", **kwargs)


class TestBlo(DataSetContract):
    filetype = "blo"
    file_name = "scan.blo"
    version = 258
    dtype = "u1"
    offset = 4112

    def expected(self) -> NDArray[Any]:
        return counts((5, 6, 12, 12), self.dtype)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        write_blo(folder / "scan.blo", self.expected(), self.version, offset=self.offset)
        return _open("blo", executor, path=folder / "scan.blo", **kwargs)


class TestBlo16BitUnaligned(TestBlo):
    """Pixels of two bytes at odd addresses: gathered, never handed out as unaligned views."""

    version = 259
    dtype = "u2"
    offset = 4113


class TestEMPAD(DataSetContract):
    filetype = "empad"
    file_name = "scan.xml"

    def expected(self) -> NDArray[Any]:
        return counts((3, 4, 128, 128), "f4")

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        write_empad(folder / "scan_x4_y3.raw", self.expected().reshape((-1, 128, 128)))
        (folder / "scan.xml").write_text(empad_xml("scan_x4_y3.raw", (3, 4)))
        return _open("empad", executor, path=folder / "scan.xml", **kwargs)


class TestMemory(DataSetContract):
    partition_bytes = None

    def expected(self) -> NDArray[Any]:
        return counts((6, 7, 8, 9), "i2")

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        return _open("memory", executor, data=self.expected(), **kwargs)


class TestMemoryTransposed(TestMemory):
    """An array whose frames are not in one piece in memory, in foreign byte order."""

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        data = np.asfortranarray(self.expected().astype(">i2"))
        return _open("memory", executor, data=data, **kwargs)


class TestSkippedFrames(_RawContract):
    """sync_offset > 0: the first frames are skipped, the last positions have none."""

    sync_offset = 5

    def absent(self) -> NDArray[np.bool_]:
        mask = np.zeros(42, dtype=np.bool_)
        mask[42 - self.sync_offset :] = True
        return mask.reshape(self.nav)

    def expected(self) -> NDArray[Any]:
        return np.roll(super().expected().reshape((-1, *self.sig)), -self.sync_offset, axis=0).reshape(
            (*self.nav, *self.sig)
        )

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        counts((*self.nav, *self.sig), "u2").astype(self.stored).tofile(folder / "scan.raw")
        return _open(
            "raw",
            executor,
            path=folder / "scan.raw",
            dtype=self.stored,
            nav_shape=self.nav,
            sig_shape=self.sig,
            sync_offset=self.sync_offset,
            **kwargs,
        )


class TestInsertedFrames(TestSkippedFrames):
    """sync_offset < 0: the first positions have no frame, the last frames are left over."""

    sync_offset = -11

    def absent(self) -> NDArray[np.bool_]:
        mask = np.zeros(42, dtype=np.bool_)
        mask[:11] = True
        return mask.reshape(self.nav)


@pytest.mark.filterwarnings("ignore:.*without a frame.*:RuntimeWarning")
class TestScanLargerThanFile(_RawContract):
    """An aborted scan: there are frames for the first part of the positions only."""

    def absent(self) -> NDArray[np.bool_]:
        mask = np.zeros(42, dtype=np.bool_)
        mask[20:] = True
        return mask.reshape(self.nav)

    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        self.expected().reshape((-1, *self.sig))[:20].astype(self.stored).tofile(folder / "scan.raw")
        shapes = {"nav_shape": self.nav, "sig_shape": self.sig}
        return _open("raw", executor, path=folder / "scan.raw", dtype=self.stored, **shapes, **kwargs)
