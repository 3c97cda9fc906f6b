"""Headers of Medipix (Merlin) files: the ASCII header of every frame, and the ``.hdr`` file of an acquisition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilework.exceptions import DataSetException
from tilework.io.dataset.files import explain_os_error, stat_file
from tilework.io.decode import Packing

__all__ = ["HEADER_MAX", "MARK", "MIBHeader", "parse_frame_header", "parse_sequence", "read_hdr"]

MARK = b"MQ1"
# More than any header has, and the smallest that can hold the fields that are needed.
HEADER_MAX = 16 * 1024
_HEADER_MIN = 48


@dataclass(frozen=True, slots=True)
class MIBHeader:
    """What the header of a frame says.

    Parameters
    ----------
    sequence
        Sequence number of the frame, from 1.
    header_bytes
        Size of the header.
    width, height
        Stored pixels in a row, and stored rows.
    dtype
        Dtype of stored pixels, with byte order; bytes (u1) for packed frames.
    packing
        How packed frames are packed; None for others.
    layout
        Arrangement of the chips, such as ``"2x2"``.
    timestamp
        When the frame was taken, as written.
    exposure
        Exposure time in seconds, as written.
    """

    sequence: int
    header_bytes: int
    width: int
    height: int
    dtype: np.dtype[Any]
    packing: Packing | None
    layout: str
    timestamp: str
    exposure: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame without its header."""
        if self.packing is not None:
            return self.packing.frame_bytes
        return self.width * self.height * self.dtype.itemsize

    @property
    def stride(self) -> int:
        """Bytes from frame to frame."""
        return self.header_bytes + self.frame_bytes

    @property
    def sig_shape(self) -> tuple[int, int]:
        """Shape of a delivered frame."""
        return self.packing.sig_shape if self.packing is not None else (self.height, self.width)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Dtype for the user: of the file for plain frames, of the decoded pixels for packed ones."""
        return self.packing.dtype if self.packing is not None else self.dtype

    def same_frames_as(self, other: MIBHeader) -> bool:
        """Return whether frames of both have the same size and layout."""
        mine = (self.header_bytes, self.width, self.height, self.dtype, self.packing)
        return mine == (other.header_bytes, other.width, other.height, other.dtype, other.packing)


def parse_sequence(head: bytes) -> int | None:
    """Return the sequence number in the first bytes of a frame's header; None when there is none."""
    fields = head.split(b",", 2)
    if len(fields) < 3 or fields[0] != MARK or not fields[1].strip().isdigit():
        return None
    return int(fields[1])


def parse_frame_header(head: bytes, path: str) -> MIBHeader:
    """Return what the header of the first frame of a file says.

    Parameters
    ----------
    head
        The first bytes of the file, at least the header.
    path
        The file, for messages.

    Raises
    ------
    DataSetException
        When this is no header of a frame, or what it says cannot be right or is not supported.
    """
    if head[:3] != MARK:
        msg = f"{path} is no Medipix (MIB) file: it does not begin with {MARK.decode()}; check the path"
        raise DataSetException(msg)
    start = head[:512].decode("latin-1").split(",")
    try:
        header_bytes = int(start[2])
        fields = head[:header_bytes].rstrip(b"\0 \r\n").decode("latin-1").split(",")
        sequence, width, height = int(fields[1]), int(fields[4]), int(fields[5])
        kind, layout = fields[6].strip().upper(), fields[7].strip()
        letter, number = kind[:1], int(kind[1:])
        timestamp, exposure = (fields[9].strip(), fields[10].strip()) if len(fields) > 10 else ("", "")
    except (ValueError, IndexError) as e:
        msg = f"{path}: the header of its first frame cannot be understood ({e}): it is broken, get the file again"
        raise DataSetException(msg) from e
    if not _HEADER_MIN <= header_bytes <= HEADER_MAX or width < 1 or height < 1:
        msg = (
            f"{path}: its header promises frames of {height} x {width} pixels after a header of {header_bytes} bytes, "
            "which cannot be right: it is broken, get the file again"
        )
        raise DataSetException(msg)
    dtype, packing = _pixels(path, letter, number, layout, width, height, fields)
    return MIBHeader(sequence, header_bytes, width, height, dtype, packing, layout, timestamp, exposure)


def _pixels(
    path: str,
    letter: str,
    number: int,
    layout: str,
    width: int,
    height: int,
    fields: list[str],
) -> tuple[np.dtype[Any], Packing | None]:
    if letter == "U" and number in {8, 16, 32, 64}:
        return np.dtype(f">u{number // 8}"), None
    if letter != "R":
        msg = f"{path}: pixels of type {letter}{number:02d} are not known, only U08 to U64 and packed ones (R64)"
        raise DataSetException(msg)
    if layout not in {"1x1", "2x2"}:
        msg = (
            f"{path}: packed frames of chips arranged as {layout!r} are not supported, only 1x1 and 2x2: let the "
            "detector's software write U08, U16 or U32"
        )
        raise DataSetException(msg)
    last = next((field.strip() for field in reversed(fields) if field.strip()), "")
    try:
        bits = int(last)
        # A 24-bit frame is stored as two, and its header counts the pixels of both.
        packing = Packing(bits, height, width // 2 if bits == 24 else width, layout == "2x2")
    except ValueError as e:
        msg = f"{path}: packed frames of {height} x {width} pixels with a bit depth of {last!r} cannot be right: {e}"
        raise DataSetException(msg) from e
    return np.dtype(np.uint8), packing


def read_hdr(path: str) -> dict[str, str]:
    """Return the entries of a ``.hdr`` file by name, in lower case and without what is in brackets.

    Raises
    ------
    DataSetException
        When it cannot be read, or is no such file.
    """
    stat_file(path)
    try:
        text = Path(path).read_text(encoding="latin-1")
    except OSError as e:
        raise explain_os_error(e, path) from e
    lines = text.splitlines()
    if not text.startswith("HDR"):
        msg = f"{path} is no .hdr file of a Medipix detector: it does not begin with HDR; check the path"
        raise DataSetException(msg)
    entries = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator:
            entries[name.split("(")[0].strip().lower()] = value.strip()
    return entries
