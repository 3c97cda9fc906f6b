"""Block files of NanoMEGAS scanning diffraction (``.blo``)."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import DataSetException
from tilework.io.dataset.files import open_file
from tilework.io.dataset.fixed_stride import Source
from tilework.io.dataset.fixed_stride_file import FixedStrideFile
from tilework.io.dataset.frame_marks import marked_frames
from tilework.io.dataset.layout import FileSegment, FrameLayout
from tilework.io.dataset.params import cut_off
from tilework.io.dataset.seen import see

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["BloDataSet"]

# Identification, version, offsets of the virtual image and of the patterns, an unknown field, pattern size, its
# rotation, scan size x and y, scan rotation, steps x and y in nm, beam energy in V, pattern pixels per cm (times 100),
# camera length in mm (times 10), time of the acquisition.
_HEADER = "6sHIIIHHHHHddIHId"
_VERSION_8_BIT, _VERSION_TEXT = 258, 259
_TEXT_OFFSET, _TEXT_BYTES = 240, 3856
_FRAME_HEADER = 6


@dataclass(frozen=True)
class _BloHeader:
    version: int
    offset: int
    pattern: int
    nav_shape: tuple[int, int]
    step: tuple[float, float]
    scan_rotation: float
    beam_energy: int
    pixels_per_cm: float
    camera_length: float
    bits: int


def _parse(head: bytes, order: str) -> _BloHeader | None:
    """Return what a header in this byte order says; None when it is no header of a block file."""
    if len(head) < struct.calcsize(order + _HEADER):
        return None
    (_, version, _, offset, _, pattern, _, nx, ny, rotation, sx, sy, energy, per_cm, camera, _) = struct.unpack_from(
        order + _HEADER, head
    )
    if version not in {_VERSION_8_BIT, _VERSION_TEXT}:
        return None
    bits = 8
    if version == _VERSION_TEXT:
        text = head[_TEXT_OFFSET:].split(b"\0")[0].decode("latin-1")
        if found := re.search(r"Blo Bit Depth\s*:\s*(\d+)\s*bits", text):
            bits = int(found.group(1))
    return _BloHeader(
        version, offset, pattern, (ny, nx), (sy, sx), rotation / 100, energy, per_cm / 100, camera / 10, bits
    )  # fmt: skip


class BloDataSet(FixedStrideFile):
    """A block file of NanoMEGAS scanning diffraction.

    Parameters
    ----------
    path
        The file.
    tileshape
        Has no effect any more.
    endianess
        Byte order of the file: ``"<"`` (as the instrument writes) or ``">"``.
    nav_shape, sig_shape, sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`.
    """

    FORMAT = "blo"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        tileshape: Sequence[int] | None = None,
        endianess: str = "<",
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        if tileshape is not None:
            deprecated["tileshape"] = tileshape
        super().__init__(path, nav_shape, sig_shape, sync_offset, io_backend, num_partitions, **deprecated)
        if endianess not in {"<", ">"}:
            msg = f"{self._path}: endianess={endianess!r} must be '<' or '>'"
            raise DataSetException(msg)
        self._order = endianess

    def _probe(self) -> Source:
        file, facts = open_file(self._path)
        with file:
            header = _parse(file.read(_TEXT_OFFSET + _TEXT_BYTES), self._order)
            if header is None:
                msg = (
                    f"{self._path} is no block file: its version is neither 258 nor 259 in byte order {self._order!r}; "
                    "check the path, or try the other endianess"
                )
                raise DataSetException(msg)
            dtype = self._pixel_dtype(header)
            frame_bytes = header.pattern**2 * dtype.itemsize
            stride, promised = _FRAME_HEADER + frame_bytes, math.prod(header.nav_shape)
            if frame_bytes == 0 or promised == 0:
                msg = (
                    f"{self._path}: its header promises a scan of shape {header.nav_shape} with patterns of "
                    f"{header.pattern} x {header.pattern} pixels, which holds no data: the header is broken, get the "
                    "file again"
                )
                raise DataSetException(msg)
            if header.offset < struct.calcsize(self._order + _HEADER):
                msg = (
                    f"{self._path}: its header promises the first pattern at byte {header.offset}, within the header: "
                    "it is broken, get the file again"
                )
                raise DataSetException(msg)
            there, rest = divmod(max(0, facts.st_size - header.offset), stride)
            if there == 0:
                msg = (
                    f"{self._path} has {facts.st_size} bytes, its header promises the first pattern ({stride} bytes) "
                    f"at byte {header.offset}: not even that is there; get the file again"
                )
                raise DataSetException(msg)
            there = min(there, promised)
            marks = marked_frames(
                file, header.offset, stride, there, b"\xaa\x55" if self._order == "<" else b"\x55\xaa"
            )
        if marks == 1 and there > 1:
            marks = self._check_second(header, stride)
        frames = marks or there
        warnings: tuple[str, ...] = ()
        if not marks:
            message = (
                f"{self._path}: no pattern begins at byte {header.offset}, where its header promises the first one: "
                "if they look shifted, the header is broken, get the file again"
            )
            warnings = (message,)
        if frames < promised:
            warnings += (cut_off(self._path, promised, frames, rest if there == frames else 0),)
        offset = header.offset + _FRAME_HEADER
        seen = see(self._path, facts, header.offset, header.offset + frames * stride)
        segment = FileSegment(seen, offset, stride, frames, 0)
        scale = 10 / header.pixels_per_cm if header.pixels_per_cm else None
        return Source(
            layout=FrameLayout((segment,), dtype, (header.pattern, header.pattern)),
            dtype=dtype,
            nav_shape=header.nav_shape,
            sig_shape=(header.pattern, header.pattern),
            nav_scale=header.step,
            nav_units="nm",
            sig_scale=(scale, scale),
            sig_units="mm",
            warnings=warnings,
            info={
                "Version": header.version,
                "Scan rotation (deg)": header.scan_rotation,
                "Beam energy (V)": header.beam_energy,
                "Camera length (mm)": header.camera_length,
            },
        )

    def _pixel_dtype(self, header: _BloHeader) -> np.dtype[Any]:
        if header.bits not in {8, 16}:
            msg = f"{self._path}: pixels of {header.bits} bits are not known in block files, only of 8 and 16"
            raise DataSetException(msg)
        return np.dtype(f"{self._order}u{header.bits // 8}")

    def _check_second(self, header: _BloHeader, stride: int) -> int:
        """Return 1 when the second frame is blank; otherwise the header's pattern size cannot be right."""
        file, _ = open_file(self._path)
        with file:
            file.seek(header.offset + stride)
            if not any(file.read(stride)):
                return 1
        msg = (
            f"{self._path}: its header promises patterns of {header.pattern} x {header.pattern} pixels, but no second "
            "frame begins after so many bytes: the header lies about the frame size; get the file again"
        )
        raise DataSetException(msg)

    @classmethod
    def _recognize(cls, path: str) -> dict[str, Any] | None:
        file, _ = open_file(path)
        with file:
            head = file.read(_TEXT_OFFSET + _TEXT_BYTES)
        is_block_file = head.startswith(b"IMGBLO")
        return next(({"endianess": order} for order in "<>" if is_block_file and _parse(head, order)), None)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Return the file name extensions of this format."""
        return {"blo"}
