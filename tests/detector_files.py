"""Writers of detector files, byte by byte from the descriptions of the formats; they share no code with the readers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def counts(shape: tuple[int, ...], dtype: Any = "u2", high: int | None = None, seed: int = 0) -> NDArray[Any]:
    """Return random pixels that use the whole range of a dtype."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(0, 1000, shape).astype(kind)
    if kind.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(kind)
    upper = info.max if high is None else high
    low = info.min if high is None else 0
    return rng.integers(low, upper, shape, dtype=kind.newbyteorder("="), endpoint=True).astype(kind)


# -- Medipix


def mib_header(
    sequence: int, width: int, height: int, dtype: str, layout: str = "1x1", bits: int = 12, header_bytes: int = 384
) -> bytes:
    """Return the header of one frame."""
    chips = 4 if layout.startswith("2x2") else 1
    text = (
        f"MQ1,{sequence:06d},{header_bytes:05d},{chips:02d},{width:04d},{height:04d},{dtype},   {layout},01,"
        "2020-05-18 16:51:49.971626,0.000555,0,0,0,1.200000E+2,5.110000E+2,0.000000E+0,0.000000E+0,0.000000E+0,"
        f"0.000000E+0,0.000000E+0,0.000000E+0,3RX,175,511,000,MQ1A,2020-05-18T14:51:49.971626178Z,555000ns,{bits},"
    )
    return text.encode().ljust(header_bytes, b"\0")


def write_mib(
    path: Path, frames: NDArray[Any], first: int = 1, sequence: list[int] | None = None, **header: Any
) -> None:
    """Write frames of u1, u2 or u4, big-endian, one header each.

    `frames` has the shape (n, height, width); `sequence` gives the numbers instead of counting from `first`.
    """
    n, height, width = frames.shape
    size = frames.dtype.itemsize
    with path.open("wb") as f:
        for i in range(n):
            number = sequence[i] if sequence is not None else first + i
            f.write(mib_header(number, width, height, f"U{8 * size:02d}", **header))
            f.write(frames[i].astype(f">u{size}").tobytes())


def _groups(row: list[int], bits: int) -> bytes:
    """Return one row of a chip as it is stored: groups of 64 bits, in reversed order."""
    out = bytearray()
    if bits == 1:
        for start in range(0, len(row), 64):
            group = bytearray()
            for byte in range(8):
                value = 0
                for bit in range(8):  # least significant bit first
                    value |= row[start + 8 * byte + bit] << bit
                group.append(value)
            out += bytes(reversed(group))
    elif bits == 6:
        for start in range(0, len(row), 8):
            out += bytes(reversed(row[start : start + 8]))
    else:
        for start in range(0, len(row), 4):
            for value in reversed(row[start : start + 4]):
                out += struct.pack(">H", value)
    return bytes(out)


def _packed(image: list[list[int]], bits: int, quad: bool) -> bytes:
    """Return an image of up to 12 bits as it is stored."""
    if not quad:
        return b"".join(_groups(row, bits) for row in image)
    rows, half = len(image) // 2, len(image[0]) // 2
    out = b""
    for y in range(rows):
        top, bottom = image[y], image[2 * rows - 1 - y]
        # The row of a file: quadrants 4, 3, 2, 1; those of the lower half are turned by 180 degrees.
        fourth, third = bottom[half:][::-1], bottom[:half][::-1]
        second, first = top[half:], top[:half]
        out += b"".join(_groups(quadrant, bits) for quadrant in (fourth, third, second, first))
    return out


def packed_frame(image: NDArray[Any], bits: int, quad: bool) -> bytes:
    """Return an image as a detector stores it "raw": packed, pixel by pixel."""
    pixels = [[int(v) for v in row] for row in image]
    if bits == 24:
        high = [[v >> 12 for v in row] for row in pixels]
        low = [[v & 4095 for v in row] for row in pixels]
        return _packed(high, 12, quad) + _packed(low, 12, quad)
    return _packed(pixels, bits, quad)


def write_packed_mib(path: Path, frames: NDArray[Any], bits: int, quad: bool, first: int = 1) -> None:
    """Write packed ("R64") frames; `frames` has the shape (n, height, width)."""
    n, height, width = frames.shape
    stored_height, stored_width = (height // 2, 2 * width) if quad else (height, width)
    if bits == 24:
        stored_width *= 2
    layout = "2x2" if quad else "1x1"
    header_bytes = 768 if quad else 384
    with path.open("wb") as f:
        for i in range(n):
            f.write(mib_header(first + i, stored_width, stored_height, "R64", layout, bits, header_bytes))
            f.write(packed_frame(frames[i], bits, quad))


def hdr_text(frames: int, per_trigger: int, scan: tuple[int, int] | None = None) -> str:
    """Return a ``.hdr`` file; `scan` is (y, x)."""
    lines = [
        "HDR,\t",
        "Time and Date Stamp (day, mnth, yr, hr, min, s):\t07/05/2021 18:56:38",
        "Counter Depth (number):\t12",
        f"Frames in Acquisition (Number):\t{frames}",
        f"Frames per Trigger (Number):\t{per_trigger}",
    ]
    if scan is not None:
        lines += [f"ScanX:\t{scan[1]}", f"ScanY:\t{scan[0]}"]
    return "\r\n".join([*lines, "End\t"]) + " " * 100


# -- NanoMEGAS


def write_blo(
    path: Path, data: NDArray[Any], version: int = 258, order: str = "<", offset: int = 4112, nx_ny: Any = None
) -> None:
    """Write a block file; `data` has the shape (ny, nx, n, n) and dtype u1 or u2."""
    ny, nx, n, _ = data.shape
    promised_x, promised_y = nx_ny or (nx, ny)
    head = bytearray(offset)
    struct.pack_into(
        order + "6sHIIIHHHHHddIHId", head, 0, b"IMGBLO", version, 4096, offset, 131135, n, 0, promised_x, promised_y,
        2500, 12.5, 25.0, 200000, 6226, 2000, 42330.0,
    )  # fmt: skip
    if version == 259:
        text = f"Precession angle : 1\r\nBlo Bit Depth: {8 * data.dtype.itemsize} bits\r\n".encode()
        head[240 : 240 + len(text)] = text
    with path.open("wb") as f:
        f.write(head)
        for i, frame in enumerate(data.reshape((-1, n, n))):
            f.write(struct.pack(order + "HI", 0x55AA, i))
            f.write(frame.astype(order + frame.dtype.str[1:]).tobytes())


# -- EMPAD


def write_empad(path: Path, frames: NDArray[Any]) -> None:
    """Write a raw file; `frames` has the shape (n, 128, 128). The two rows after each frame hold what is no pixel."""
    with path.open("wb") as f:
        for i, frame in enumerate(frames):
            f.write(frame.astype("<f4").tobytes())
            f.write(np.full((2, 128), 1e9 + i, dtype="<f4").tobytes())


def empad_xml(raw: str, acquire: tuple[int, int], search: tuple[int, int] = (64, 64), extra: str = "") -> str:
    """Return an XML file; scans are (y, x)."""
    scans = "".join(
        f'<scan_parameters mode="{mode}"><scan_size>0.5</scan_size><scan_resolution_y>{y}</scan_resolution_y>'
        f"<scan_resolution_x>{x}</scan_resolution_x></scan_parameters>"
        for mode, (y, x) in (("search", search), ("acquire", acquire))
    )
    return (
        '<root name="1"><software_version>1.2.0</software_version>'
        f'<raw_file filename="{raw}"/><exposure_time>1</exposure_time>{scans}{extra}</root>'
    )
