"""Files of EMPAD detectors: a raw file, with or without the XML file of the acquisition."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import DataSetException, MissingFileError
from tilework.io.dataset.files import open_file, stat_file
from tilework.io.dataset.fixed_stride import Source
from tilework.io.dataset.fixed_stride_file import FixedStrideFile
from tilework.io.dataset.layout import FileSegment, FrameLayout
from tilework.io.dataset.params import count
from tilework.io.dataset.seen import see

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["EMPADDataSet"]

SIG_SHAPE = (128, 128)
STORED_ROWS = 130  # the last two rows hold no pixels
DTYPE = np.dtype("<f4")
_MOST = 1e9  # positions in a direction of a scan, or in a series; a number beyond is none
STRIDE = STORED_ROWS * SIG_SHAPE[1] * DTYPE.itemsize


class _Acquisition:
    """What the XML file says.

    Parameters
    ----------
    path
        The XML file.

    Raises
    ------
    DataSetException
        When it cannot be read, or is none of an EMPAD.
    """

    def __init__(self, path: str) -> None:
        from defusedxml import ElementTree

        file, _ = open_file(path)
        with file:
            try:
                self._root = ElementTree.parse(file).getroot()
            except (ElementTree.ParseError, ValueError, LookupError) as e:  # the last: of an unknown encoding
                msg = f"{path} is no XML file: {e}; check the path, or get the file again"
                raise DataSetException(msg) from e
        self._path = path
        element = self._root.find("raw_file")
        # The name may be the whole path on the acquisition computer.
        name = re.split(r"[/\\]", element.get("filename", ""))[-1] if element is not None else ""
        if name in {"", ".", ".."}:
            msg = f"{path} is no XML file of an EMPAD acquisition: it names no raw_file; check the path"
            raise DataSetException(msg)
        self.raw_path = str(Path(path).with_name(name))

    def _number(self, where: str) -> float | None:
        return _positive(self._root.findtext(where) or "")

    def _count(self, where: str) -> int:
        number = self._number(where) or 0
        return int(number) if number <= _MOST else 0

    def _scan(self, mode: str) -> tuple[int, int] | None:
        return self._pair(f"scan_parameters[@mode='{mode}']/scan_resolution_")

    def _pair(self, prefix: str) -> tuple[int, int] | None:
        y, x = self._count(prefix + "y"), self._count(prefix + "x")
        return (y, x) if y and x else None

    def nav_shape(self, frames: int) -> tuple[int, ...]:
        """Return the scan shape: the one that fits the number of frames, or that of the acquisition when none does.

        Raises
        ------
        DataSetException
            When there is no scan shape, or all are too small.
        """
        shapes: list[tuple[int, ...]]
        if self._root.findtext("type") == "series" and (series := self._count("count")):
            shapes = [(series,)]
        else:
            shapes = [s for s in (self._scan("acquire"), self._pair("pix_"), self._scan("search")) if s is not None]
        for shape in shapes:
            if math.prod(shape) == frames:
                return shape
        for shape in shapes:
            if math.prod(shape) > frames:
                return shape
        what = f"tells scans of shape {shapes}" if shapes else "tells no scan shape"
        msg = f"{self._path} {what}, but {self.raw_path} holds {count(frames, 'frame')}: give nav_shape"
        raise DataSetException(msg)

    def nav_scale(self, nav_shape: tuple[int, ...]) -> float | None:
        """Return the distance of positions in nm; known only for square scans, whose two directions are alike."""
        if len(nav_shape) != 2 or nav_shape[0] != nav_shape[1]:
            return None
        field = self._number("iom_measurements/full_scan_field_of_view/x")
        if field is None:
            old = self._root.findtext("iom_measurements/optics.get_full_scan_field_of_view") or ""
            if found := re.match(r"\[\s*([-+.\deE]+)", old):
                field = _positive(found.group(1))
        mode = next((m for m in ("acquire", "search") if self._scan(m) == nav_shape), None)
        part = self._number(f"scan_parameters[@mode='{mode}']/scan_size") if mode else None
        return field * part / nav_shape[0] * 1e9 if field and part else None

    def sig_scale(self) -> float | None:
        """Return the angle of a pixel in mrad."""
        angle = self._number("iom_measurements/calibrated_diffraction_angle")
        return angle * 1e3 if angle else None

    def facts(self) -> dict[str, str | int | float]:
        """Return facts for people."""
        names = {
            "software_version": "Software version",
            "exposure_time": "Exposure time",
            "iom_measurements/high_voltage": "High voltage (V)",
            "iom_measurements/source.get_voltage": "High voltage (V)",
            "iom_measurements/nominal_camera_length": "Camera length (m)",
            "iom_measurements/optics.get_cameralength": "Camera length (m)",
        }
        found = {title: self._root.findtext(where) for where, title in names.items()}
        return {title: text for title, text in found.items() if text}


def _positive(text: str) -> float | None:
    """Return the positive, finite number that a text is; None for others."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _scan_in_name(path: str) -> tuple[int, int] | None:
    """Return the scan shape in a file name such as ``scan_x64_y32.raw``, if it fits the size of the file."""
    found = re.search(r"x(\d+)_y(\d+)", Path(path).stem)
    if found is None:
        return None
    shape = int(found.group(2)), int(found.group(1))
    return shape if stat_file(path).st_size == math.prod(shape) * STRIDE else None


class EMPADDataSet(FixedStrideFile):
    """A scan of an EMPAD detector: frames of 128 x 128 pixels, f4.

    Parameters
    ----------
    path
        The XML file of the acquisition, which names the raw file beside it, or the raw file itself.
    scan_size
        Old name of `nav_shape`.
    nav_shape
        Shape of the scan; required for a raw file, unless its name tells it (``scan_x64_y64.raw``).
    sig_shape, sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`.
    """

    FORMAT = "empad"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        scan_size: Sequence[int] | None = None,
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        if scan_size is not None:
            deprecated["scan_size"] = scan_size
        super().__init__(path, nav_shape, sig_shape, sync_offset, io_backend, num_partitions, **deprecated)

    def _probe(self) -> Source:
        acquisition, raw_path = None, self._path
        if Path(self._path).suffix.lower() == ".xml":
            acquisition = _Acquisition(self._path)
            raw_path = acquisition.raw_path
        try:
            facts = stat_file(raw_path)
        except MissingFileError as e:
            if acquisition is None:
                raise
            name = Path(raw_path).name
            msg = f"{self._path} names the raw file {name}, which is not beside it: put both into one folder"
            raise DataSetException(msg) from e
        frames, rest = divmod(facts.st_size, STRIDE)
        if frames == 0:
            msg = f"{raw_path} has {facts.st_size} bytes, one frame of an EMPAD has {STRIDE}: check the path"
            raise DataSetException(msg)
        warnings: tuple[str, ...] = ()
        if rest:
            warnings = (f"{raw_path} is cut off: {count(frames, 'whole frame')} and {rest} bytes of another",)
        nav_shape = self._find_nav_shape(acquisition, raw_path, frames)
        nav_scale = acquisition.nav_scale(nav_shape) if acquisition else None
        sig_scale = acquisition.sig_scale() if acquisition else None
        segment = FileSegment(see(raw_path, facts, 0, frames * STRIDE), 0, STRIDE, frames, 0)
        return Source(
            layout=FrameLayout((segment,), DTYPE, SIG_SHAPE),
            dtype=DTYPE,
            nav_shape=nav_shape,
            nav_from="from the XML file" if acquisition else "from the name of the file",
            sig_shape=SIG_SHAPE,
            nav_scale=(nav_scale, nav_scale),
            nav_units="nm",
            sig_scale=(sig_scale, sig_scale),
            sig_units="mrad",
            warnings=warnings,
            info=acquisition.facts() if acquisition else {},
        )

    def _find_nav_shape(self, acquisition: _Acquisition | None, raw_path: str, frames: int) -> tuple[int, ...]:
        if acquisition is not None:
            try:
                return acquisition.nav_shape(frames)
            except DataSetException:
                if self._nav_shape is None:
                    raise
        shape = self._nav_shape or _scan_in_name(raw_path)
        if shape is None:
            held = count(frames, "frame")
            msg = f"{raw_path} ({held}) does not tell the shape of the scan: give nav_shape, or the XML file as path"
            raise DataSetException(msg)
        return shape

    @classmethod
    def _recognize(cls, path: str) -> dict[str, Any] | None:
        suffix = Path(path).suffix.lower()
        if suffix == ".xml":
            _Acquisition(path)
            return {}
        return {} if suffix == ".raw" and _scan_in_name(path) is not None else None

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Return the file name extensions of this format."""
        return {"xml", "raw"}
