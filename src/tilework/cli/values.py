"""What the arguments say: shapes, points, lengths, scan positions, parameters."""

from __future__ import annotations

import argparse
import ast
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "FromFile",
    "Length",
    "RoiText",
    "parse_length",
    "parse_parameter",
    "parse_point",
    "parse_radius",
    "parse_roi",
    "parse_shape",
    "read_array",
]

# What is meant by them is no text; with quotes inside, ``mode='on'``, it is.
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None}
ROI_FORMS = "disk:cy,cx,r or rect:y,x,h,w or y0:y1,x0:x1 or the path of a .npy file with a bool mask"


def parse_shape(text: str) -> tuple[int, ...]:
    """Return a shape such as ``64,64`` or ``64x64``."""
    try:
        shape = tuple(int(part) for part in re.split("[,x]", text.strip("() ")) if part.strip())
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        msg = f"{text!r} is not a shape: write positive numbers with commas, such as 64,64"
        raise argparse.ArgumentTypeError(msg)
    return shape


def parse_point(text: str) -> tuple[float, float]:
    """Return a point ``y,x`` in pixels."""
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        y = math.nan
        x = math.nan
    if not (math.isfinite(y) and math.isfinite(x)):
        msg = f"{text!r} is not a point: write y,x in pixels, such as 63.5,64"
        raise argparse.ArgumentTypeError(msg)
    return y, x


def parse_radius(text: str) -> float:
    """Return a number of pixels; ``inf`` is one."""
    try:
        radius = float(text)
    except ValueError:
        radius = math.nan
    if math.isnan(radius):
        msg = f"{text!r} is not a radius: write a number of pixels, such as 12.5"
        raise argparse.ArgumentTypeError(msg)
    return radius


def read_array(path: str) -> NDArray[Any]:
    """Return the array in a .npy file.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When it holds something else.
    """
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except EOFError as error:
        msg = f"{path} is empty (0 bytes): write it anew with numpy.save"
        raise ValueError(msg) from error
    except Exception as error:  # a broken header makes errors of many kinds
        msg = f"{path} is not an array in a .npy file: {error}"
        raise ValueError(msg) from error
    if not isinstance(found, np.ndarray):
        found.close()
        msg = f"{path} holds several arrays (.npz), not one: save the one that is meant with numpy.save"
        raise ValueError(msg)
    return found


@dataclass(frozen=True, slots=True)
class Length:
    """A number with a unit."""

    value: float
    units: str


def parse_length(text: str) -> Length:
    """Return a length such as ``0.5nm``, ``0.3 mrad`` or ``0.2 1/nm``."""
    # Digits are no part of a unit but in its power: in 0.5x0.6nm there are two lengths.
    unit = r"(?:(?<=\s)1/)?[^\s0-9,;.]+(?:[0-9]\b)?"
    found = re.fullmatch(rf"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*({unit})\s*", text)
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf or not found:
        msg = f"{text!r} is not a length: write one positive number with its unit, such as 0.5nm or 0.3mrad"
        raise argparse.ArgumentTypeError(msg)
    return Length(value, {"um": "µm", "A": "Å"}.get(found[2], found[2]))


@dataclass(frozen=True, slots=True)
class FromFile:
    """The value of a parameter is the array in a .npy file."""

    path: str


def parse_parameter(text: str) -> tuple[str, Any]:
    """Return name and value of ``k=v``; values are Python literals, ``inf``, ``yes``, ``@array.npy``, or else text."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key.isidentifier():
        msg = f"{text!r} is not a parameter: write name=value"
        raise argparse.ArgumentTypeError(msg)
    if value.startswith("@"):
        return key, FromFile(value[1:])
    if value.lower() in {"inf", "-inf", "nan"}:
        return key, float(value)
    try:
        return key, ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return key, WORDS.get(value.strip().lower(), value)


@dataclass(frozen=True, slots=True)
class RoiText:
    """Selected scan positions, as they were asked for."""

    kind: Literal["disk", "rect", "slices", "file"]
    text: str
    numbers: tuple[float, ...] = ()
    index: tuple[slice | int, ...] = ()

    def mask(self, nav_shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return the mask of the selected positions, bool, of the shape of the scan.

        Raises
        ------
        ValueError
            When it does not fit the scan, or selects nothing.
        OSError
            When its file cannot be read.
        """
        import numpy as np

        mask = _load_mask(self.text) if self.kind == "file" else self._draw(nav_shape)
        if mask.shape != nav_shape:
            msg = f"--roi {self.text}: the mask has shape {mask.shape}, the scan {nav_shape}; give one of that shape"
            raise ValueError(msg)
        if not np.any(mask):
            msg = f"--roi {self.text} selects nothing of a scan of shape {nav_shape}"
            raise ValueError(msg)
        return mask

    def _draw(self, nav_shape: tuple[int, ...]) -> NDArray[np.bool_]:
        import numpy as np

        mask = np.zeros(nav_shape, dtype=bool)
        if self.kind == "slices":
            if len(self.index) > len(nav_shape):
                msg = f"--roi {self.text} has {len(self.index)} axes, the scan {nav_shape} has {len(nav_shape)}"
                raise ValueError(msg)
            try:
                mask[self.index] = True
            except IndexError as error:
                msg = f"--roi {self.text} is outside of a scan of shape {nav_shape}: {error}"
                raise ValueError(msg) from error
            return mask
        if len(nav_shape) != 2:
            msg = f"--roi {self.kind}: needs a scan with two axes, this one has shape {nav_shape}; use slices or a mask"
            raise ValueError(msg)
        if self.kind == "disk":
            cy, cx, radius = self.numbers
            y, x = np.ogrid[: nav_shape[0], : nav_shape[1]]
            mask |= (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        else:
            top, left, height, width = (int(n) for n in self.numbers)
            mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
        return mask


def parse_roi(text: str) -> RoiText:
    """Return the selection that a text describes."""
    kind, colon, rest = text.partition(":")
    try:
        if text.endswith(".npy"):
            return RoiText("file", text)
        if colon and kind == "disk":
            cy, cx, radius = (float(part) for part in rest.split(","))
            if math.isfinite(cy + cx) and radius >= 0:
                return RoiText("disk", text, (cy, cx, radius))
        elif colon and kind == "rect":
            numbers = tuple(int(part) for part in rest.split(","))
            if len(numbers) == 4 and min(numbers[2:]) > 0:
                return RoiText("rect", text, numbers)
        else:
            return RoiText("slices", text, (), tuple(_parse_slice(part) for part in text.split(",")))
    except ValueError:
        pass
    msg = f"{text!r} is not a region: write {ROI_FORMS}"
    raise argparse.ArgumentTypeError(msg)


def _parse_slice(text: str) -> slice | int:
    if ":" not in text:
        return int(text)
    parts = [int(part) if part.strip() else None for part in text.split(":")]
    if len(parts) > 3 or (len(parts) == 3 and parts[2] == 0):
        raise ValueError(text)
    return slice(*parts)


def _load_mask(path: str) -> NDArray[np.bool_]:
    import numpy as np

    try:
        mask = read_array(path)
    except ValueError as error:
        msg = f"--roi {error}"
        raise ValueError(msg) from error
    if mask.dtype != np.bool_ and not (mask.dtype.kind in "ui" and np.isin(mask, (0, 1)).all()):
        msg = f"--roi {path} holds {mask.dtype}, not bool: save it as (array > 0)"
        raise ValueError(msg)
    return np.asarray(mask, dtype=bool)
