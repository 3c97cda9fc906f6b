"""Files of Medipix detectors with Merlin readout (``.mib``, with or without ``.hdr``)."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tilework.exceptions import DataSetException
from tilework.io.dataset.files import open_file, stat_file
from tilework.io.dataset.fixed_stride import Source
from tilework.io.dataset.fixed_stride_file import FixedStrideFile
from tilework.io.dataset.frame_marks import marked_frames, read_at
from tilework.io.dataset.layout import FileSegment, FrameLayout
from tilework.io.dataset.mib_header import HEADER_MAX, MARK, MIBHeader, parse_frame_header, parse_sequence, read_hdr
from tilework.io.dataset.mib_timing import find_line_length, parse_time
from tilework.io.dataset.params import ONE_LINE, count, guess_nav_shape
from tilework.io.dataset.seen import SeenFile, see

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MIBDataSet"]

MANY_FILES = 16384
# Bytes of a frame's header that hold its sequence number.
_SEQUENCE_BYTES = 32
# Frames whose numbers tell whether all of a file count in the same steps.
_STEPS_SEEN = 8


@dataclass(frozen=True, slots=True)
class _Run:
    """Frames of one file whose sequence numbers follow each other."""

    index: int  # of the first frame in the file
    frames: int
    sequence: int  # of the first frame


@dataclass(frozen=True, slots=True)
class _MIBFile:
    seen: SeenFile
    header: MIBHeader
    runs: tuple[_Run, ...]
    notes: tuple[str, ...]  # what is odd about this file

    @property
    def path(self) -> str:
        return self.seen.path

    @property
    def first(self) -> int:
        return self.runs[0].sequence

    @property
    def end(self) -> int:
        return self.runs[-1].sequence + self.runs[-1].frames


def _probe_file(path: str) -> _MIBFile:
    """Look at one file.

    Raises
    ------
    DataSetException
        When it is no Medipix file, holds no whole frame, or its header lies about the frame size.
    """
    file, facts = open_file(path)
    with file:
        header = parse_frame_header(file.read(HEADER_MAX), path)
        frames, rest = divmod(facts.st_size, header.stride)
        if frames == 0:
            msg = (
                f"{path} has {facts.st_size} bytes, its header promises frames of {header.stride} bytes: not even one "
                "is there; the file is cut off or its header is wrong, get it again"
            )
            raise DataSetException(msg)
        written = marked_frames(file, 0, header.stride, frames, MARK)
        if written == 1:
            _check_second(file, header, path)
        notes = []
        if written < frames:
            notes.append(f"{path} has room for {count(frames, 'frame')}, but only the first {written} were written")
        elif rest:
            notes.append(f"{path} is cut off: {count(frames, 'whole frame')} and {rest} bytes of another")
        runs, note = _runs(file, header, written, path)
    # There may be thousands of files, and each begins with the time of its first frame.
    seen = see(path, facts, 0, written * header.stride, blocks=2)
    return _MIBFile(seen, header, runs, (*notes, *note))


def _check_second(file: BinaryIO, header: MIBHeader, path: str) -> None:
    """Raise when there is something after the first frame that is neither blank nor a second one."""
    after = read_at(file, header.stride, header.stride)
    if after.startswith(MARK[: len(after)]) or not any(after):
        return
    msg = (
        f"{path}: its header promises frames of {header.sig_shape} pixels ({header.stride} bytes with the header), "
        "but no second frame begins after so many bytes: the header lies about the frame size; get the file again"
    )
    raise DataSetException(msg)


def _runs(file: BinaryIO, header: MIBHeader, frames: int, path: str) -> tuple[tuple[_Run, ...], tuple[str, ...]]:
    """Return the runs of consecutive sequence numbers, and a note when there are several or they make no sense."""

    def sequence(i: int) -> int:
        return parse_sequence(read_at(file, i * header.stride, _SEQUENCE_BYTES)) or 0

    first, last = header.sequence, sequence(frames - 1)
    as_they_come = (_Run(0, frames, first),)
    if last - first == frames - 1:
        return as_they_come, ()
    numbers = f"the sequence numbers of {path} go from {first} to {last} in {count(frames, 'frame')}"
    odd = (f"{numbers}: frames are taken as they come",)
    if frames < 2 or last - first < frames - 1 or _is_steady(sequence, first, frames):
        return as_they_come, odd
    known = {0: first, frames - 1: last}
    starts = [0]
    todo = [(0, frames - 1)]
    while todo:  # halves in which no number is missing need no further look
        low, high = todo.pop()
        missing = (known[high] - known[low]) - (high - low)
        if missing < 0:
            return as_they_come, odd
        if missing == 0:
            continue
        if high - low == 1:
            starts.append(high)
            continue
        middle = (low + high) // 2
        known[middle] = sequence(middle)
        todo += [(low, middle), (middle, high)]
    starts.sort()
    runs = tuple(_Run(a, b - a, known[a]) for a, b in zip(starts, [*starts[1:], frames], strict=True))
    lost = last - first + 1 - frames
    return runs, (
        f"{path}: {count(lost, 'frame')} missing according to the sequence numbers, in {len(runs) - 1} places",
    )


def _is_steady(sequence: Callable[[int], int], first: int, frames: int) -> bool:
    """Return whether the numbers of a file count in steps of one size; one step alone may be a frame that was lost."""
    step = sequence(1) - first
    samples = [k * (frames - 1) // _STEPS_SEEN for k in range(1, _STEPS_SEEN + 1)]
    return frames > 2 and all(sequence(i) == first + i * step for i in samples)


def _series(path: str) -> list[str]:
    """Return the paths of all files that are named like parts of a series: the same name up to trailing digits."""
    own = Path(path)
    prefix = re.sub(r"\d+$", "", own.stem)
    pattern = re.compile(re.escape(prefix) + r"\d*\.mib", re.IGNORECASE)
    try:
        names = [entry.name for entry in os.scandir(own.parent) if pattern.fullmatch(entry.name)]
    except OSError:
        return [path]
    # A part of a series has no .hdr of its own; a separate acquisition may have.
    return [str(f) for f in (own.parent / n for n in sorted(names)) if f == own or _beside(f, ".hdr") is None]


def _beside(path: Path, suffix: str) -> Path | None:
    """Return the file of the same name with a suffix, in small letters or in capitals; None when there is none."""
    both = (path.with_suffix(s) for s in (suffix, suffix.upper()))
    return next((file for file in both if file.exists()), None)


def _files_of_hdr(hdr: str) -> tuple[str, bool]:
    """Return the ``.mib`` file that belongs to a ``.hdr`` file, and whether it may be the first of a series.

    Raises
    ------
    DataSetException
        When there is none.
    """
    own = Path(hdr)
    if (same := _beside(own, ".mib")) is not None:
        return str(same), False
    pattern = re.compile(re.escape(own.stem) + r"_?\d+\.mib", re.IGNORECASE)
    parts = sorted(f for f in own.parent.iterdir() if pattern.fullmatch(f.name) and _beside(f, ".hdr") is None)
    if not parts:
        msg = f"{hdr}: there is no {own.with_suffix('.mib').name} beside it; put the .mib file into the same folder"
        raise DataSetException(msg)
    return str(parts[0]), True


class MIBDataSet(FixedStrideFile):
    """A file, or a series of files, of a Medipix detector with Merlin readout.

    Files that have the same name up to trailing digits, frames of the same size and sequence numbers that do not
    overlap are one series. Frames that are missing between them, or blank at the end of a file, are absent.

    Parameters
    ----------
    path
        A ``.mib`` file, any one of its series, or the ``.hdr`` file of the acquisition, which belongs to the ``.mib``
        file of exactly the same name.
    disable_glob
        Take the given ``.mib`` file alone.
    nav_shape
        Shape of the scan; left out, it follows from the ``.hdr`` file, or from the times of the frames (the beam needs
        longer to begin a new line). Where these tell nothing, it is a square if that fits the number of frames, or
        one line for a detector that was not triggered from outside.
    sig_shape, sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`.
    """

    FORMAT = "mib"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        disable_glob: bool = False,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        super().__init__(path, nav_shape, sig_shape, sync_offset, io_backend, num_partitions, **deprecated)
        self._disable_glob = disable_glob

    def _probe(self) -> Source:
        stat_file(self._path)
        mib, may_be_series, entries = self._path, True, {}
        if Path(self._path).suffix.lower() == ".hdr":
            entries = read_hdr(self._path)
            mib, may_be_series = _files_of_hdr(self._path)
        elif (hdr := _beside(Path(self._path), ".hdr")) is not None:
            with suppress(DataSetException):  # some other program's .hdr is no reason not to read the .mib
                entries = read_hdr(str(hdr))
        own = _probe_file(mib)
        files, notes, info = self._choose(own, may_be_series and not self._disable_glob)
        base = files[0].first
        segments = tuple(
            FileSegment(
                seen=file.seen,
                offset=run.index * file.header.stride + file.header.header_bytes,
                stride=file.header.stride,
                frames=run.frames,
                first=run.sequence - base,
            )
            for file in files
            for run in file.runs
        )
        header = files[0].header
        frame_shape = (header.frame_bytes,) if header.packing is not None else header.sig_shape
        layout = FrameLayout(segments, header.dtype, frame_shape, header.packing)
        notes = [note for file in files for note in file.notes] + _gaps(files) + notes
        nav_shape, nav_from = _nav_shape(entries, layout.image_count, files)
        return Source(
            layout=layout,
            dtype=header.stored_dtype,
            nav_shape=nav_shape,
            nav_from=nav_from,
            sig_shape=header.sig_shape,
            warnings=tuple(notes),
            info={**_facts(header, entries), **info},
        )

    @staticmethod
    def _choose(own: _MIBFile, series: bool) -> tuple[list[_MIBFile], list[str], dict[str, str | int | float]]:
        """Return the files of the series by sequence number, with notes for the user and facts for the diagnostics."""
        paths = _series(own.path) if series else [own.path]
        notes: list[str] = []
        if len(paths) > MANY_FILES:
            notes.append(
                f"{own.path} is one of {len(paths)} files: opening so many takes long, let the detector write larger "
                "ones"
            )
        files = [own]
        for path in paths:
            if path == own.path:
                continue
            try:
                other = _probe_file(path)
            except DataSetException as e:
                notes.append(f"left out of the series of {own.path}: {e}")
                continue
            if own.header.same_frames_as(other.header):
                files.append(other)
        files.sort(key=lambda file: file.first)
        if any(a.end > b.first for a, b in pairwise(files)):
            # The numbers of separate acquisitions begin anew: these are no parts of one.
            others = len(files) - 1
            return [own], notes, {"Other acquisitions with a similar name": others}
        begin, end = _bounds(files, own)
        part = files[begin:end]
        if away := [Path(file.path).name for file in (*files[:begin], *files[end:])]:
            names = ", ".join(away[:3]) + (", …" if len(away) > 3 else "")
            notes.append(
                f"{names}: not of the acquisition of {own.path}, for by the sequence numbers more frames would be "
                "missing between them than there are; disable_glob=True takes one file alone, and looks at no other"
            )
        return part, notes, {"Files": len(part)} if len(part) > 1 else {}

    @classmethod
    def _recognize(cls, path: str) -> dict[str, Any] | None:
        file, _ = open_file(path)
        with file:
            head = file.read(_SEQUENCE_BYTES)
        is_hdr = Path(path).suffix.lower() == ".hdr" and head.startswith(b"HDR")
        return {} if is_hdr or parse_sequence(head) is not None else None

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Return the file name extensions of this format."""
        return {"mib", "hdr"}


def _bounds(files: list[_MIBFile], own: _MIBFile) -> tuple[int, int]:
    """Return the first and one-past-last file around one without more frames missing between two than all hold."""
    held = sum(run.frames for file in files for run in file.runs)
    # Where files begin that are far away from those before them.
    begins = [0, *(i for i, (a, b) in enumerate(pairwise(files), 1) if b.first - a.end > held), len(files)]
    after = bisect_right(begins, files.index(own))
    return begins[after - 1], begins[after]


def _gaps(files: list[_MIBFile]) -> list[str]:
    """Return notes about frames that are missing between files."""
    return [
        f"{count(b.first - a.end, 'frame')} missing between {a.path} and {b.path}, numbers {a.end} to {b.first - 1}"
        for a, b in pairwise(files)
        if b.first > a.end
    ]


def _nav_shape(entries: dict[str, str], frames: int, files: list[_MIBFile]) -> tuple[tuple[int, ...], str]:
    """Return the scan shape that the ``.hdr`` file, or the times of the frames tell, otherwise a guess; and which."""

    def number(name: str) -> int:
        value = entries.get(name, "")
        return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else 0

    if number("scanx") and number("scany"):
        return (number("scany"), number("scanx")), "from the .hdr file"
    promised, per_trigger = number("frames in acquisition"), number("frames per trigger")
    promised = max(promised, frames)
    # One trigger for each frame, or one for all of them, tells nothing about the lines of the scan.
    if 1 < per_trigger < promised and promised % per_trigger == 0:
        return (promised // per_trigger, per_trigger), "from the .hdr file: frames per trigger"
    is_complete = len(files) == len(files[0].runs) == 1  # then the numbers of frames are their places in the file
    if promised == frames and is_complete and (line := _line_length(files[0], frames)):
        return (frames // line, line), "from the times of the frames"
    if "internal" in entries.get("trigger start", "").lower():
        # The detector ran by its own clock: a series of frames, no scan that anything is known of.
        return (promised,), ONE_LINE
    return guess_nav_shape(promised)


def _line_length(mib: _MIBFile, frames: int) -> int | None:
    """Return the frames of a line of the scan, from the times in the headers of the frames."""
    opened, _ = open_file(mib.path)
    with opened as file:

        def time_of(frame: int) -> int | None:
            file.seek(frame * mib.header.stride)
            return parse_time(file.read(mib.header.header_bytes))

        return find_line_length(time_of, frames)


def _facts(header: MIBHeader, entries: dict[str, str]) -> dict[str, str | int | float]:
    names = {
        "counter depth": "Counter depth",
        "chip mode": "Chip mode",
        "thresholds": "Thresholds (keV)",
        "sensor bias": "Sensor bias",
        "software version": "Software version",
    }
    return {
        "Chips": header.layout,
        "Acquired": header.timestamp,
        "Exposure time (s)": header.exposure,
        **({"Packed pixels (bits)": header.packing.bits} if header.packing is not None else {}),
        **{title: entries[name] for name, title in names.items() if name in entries},
    }
