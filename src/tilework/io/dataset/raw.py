"""Files without a header that hold frame after frame, in C order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tilework.exceptions import DataSetException
from tilework.io.dataset.files import open_file, stat_file
from tilework.io.dataset.fixed_stride import Source
from tilework.io.dataset.fixed_stride_file import FixedStrideFile
from tilework.io.dataset.layout import FileSegment, FrameLayout
from tilework.io.dataset.params import check_dtype, count, take_uncropped
from tilework.io.dataset.seen import see

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from tilework.common.executor import JobExecutor

__all__ = ["RawFileDataSet", "kind_of_header"]


# How files begin that could be taken for others.
_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
}
_WITH_HEADER = {
    b"\x93NUMPY": "npy",
    b"MQ1,": "MIB",
    b"IMGBLO": "BLO",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}


def _beginning(path: str, marks: Mapping[bytes, str]) -> str | None:
    file, _ = open_file(path)
    with file:
        head = file.read(max(map(len, marks)))
    return next((kind for mark, kind in marks.items() if head.startswith(mark)), None)


def kind_of_header(path: str) -> str | None:
    """Return the name of the format that a file begins as, whose header would be read as pixels; None: of none."""
    return _beginning(path, _WITH_HEADER)


class RawFileDataSet(FixedStrideFile):
    """A file without header that holds frame after frame, in C order.

    Parameters
    ----------
    path
        The file.
    dtype
        Dtype of a pixel, with its byte order.
    nav_shape, sig_shape
        Shape of the scan and of a frame; required.
    sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`.

    Raises
    ------
    TypeError
        When `nav_shape` or `sig_shape` is missing.

    Examples
    --------
    >>> np.ones((8, 8, 16, 16), dtype="uint16").tofile("scan.raw")
    >>> dataset = ctx.load("raw", path="scan.raw", dtype="uint16", nav_shape=(8, 8), sig_shape=(16, 16))
    >>> dataset.shape
    (8, 8, 16, 16)
    """

    FORMAT = "raw"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        dtype: DTypeLike,
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        kept = take_uncropped(deprecated, sig_shape)
        super().__init__(path, nav_shape, sig_shape, sync_offset, io_backend, num_partitions, **kept)
        shapes = {"nav_shape": self._nav_shape, "sig_shape": self._sig_shape}
        if missing := [name for name, shape in shapes.items() if shape is None]:
            msg = f"a raw file does not tell its shape: missing {' and '.join(missing)}"
            raise TypeError(msg)
        self._dtype = check_dtype(dtype, self._path)

    @classmethod
    def detect_params(cls, path: Any, executor: JobExecutor) -> dict[str, Any] | bool:  # noqa: ARG003
        """Return False: nothing in a file tells that it is one of these."""
        return False

    def _probe(self) -> Source:
        facts = stat_file(self._path)
        assert self._nav_shape is not None
        assert self._sig_shape is not None
        dtype = self._dtype
        frame_bytes = math.prod(self._sig_shape) * dtype.itemsize
        frames, rest = divmod(facts.st_size, frame_bytes)
        if frames == 0:
            msg = (
                f"{self._path} has {facts.st_size} bytes, less than one frame of sig_shape {self._sig_shape} and dtype "
                f"{dtype} ({frame_bytes} bytes): check sig_shape and dtype"
            )
            raise DataSetException(msg)
        warnings: tuple[str, ...] = ()
        if rest:
            message = (
                f"{self._path} ends with {rest} bytes that are no whole frame of sig_shape {self._sig_shape} and dtype "
                f"{dtype}, after {count(frames, 'whole frame')}: it is cut off, sig_shape or dtype are wrong, "
                "or it is no raw file"
            )
            warnings = (message,)
        if (kind := _beginning(self._path, _COMPRESSED)) is not None:
            warnings += (f"{self._path} begins as a {kind} file does: if it is one, unpack it first",)
        if (kind := kind_of_header(self._path)) is not None:
            message = (
                f"{self._path} begins as a file of the format {kind} does: if it is one, its header is read as pixels; "
                "load it with 'auto' instead"
            )
            warnings += (message,)
        segment = FileSegment(see(self._path, facts, 0, frames * frame_bytes), 0, frame_bytes, frames, 0)
        return Source(
            layout=FrameLayout((segment,), dtype, self._sig_shape),
            dtype=dtype,
            nav_shape=self._nav_shape,
            sig_shape=self._sig_shape,
            warnings=warnings,
        )
