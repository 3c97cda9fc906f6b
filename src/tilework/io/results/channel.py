"""One result as it is saved: an array and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AxisLike", "BufferLike", "ResultAxis", "ResultChannel", "ResultKind"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
ResultKind = Literal["nav", "sig", "single"]

# Zarr has files of these names, on any system; HDF5 has paths with "/".
_NAME = re.compile(r"""\w[^/\\<>:"|?*]*(?<! )""")
# What .npz and Zarr files call their own document.
_TAKEN = frozenset({"tilework.json", "zarr.json"})


class AxisLike(Protocol):
    """What is taken from the axis of a dataset."""

    @property
    def name(self) -> str:
        """Name, unique in its dataset."""
        ...

    @property
    def scale(self) -> float | None:
        """Distance between neighbours in `units`."""
        ...

    @property
    def units(self) -> str | None:
        """Unit of scale and offset."""
        ...

    @property
    def offset(self) -> float:
        """Coordinate of the first element."""
        ...


class BufferLike(Protocol):
    """What is taken from the result buffer of a run."""

    @property
    def data(self) -> Array:
        """Values in the shape of the dataset."""
        ...

    @property
    def kind(self) -> ResultKind:
        """What the leading axes are."""
        ...

    @property
    def extra_shape(self) -> tuple[int, ...]:
        """Axes that the UDF added."""
        ...

    @property
    def valid_mask(self) -> BoolArray:
        """Where there is a result."""
        ...


@dataclass(frozen=True, slots=True)
class ResultAxis:
    """One axis of a result.

    Parameters
    ----------
    name
        Name of the axis.
    scale
        Distance between neighbours in `units`; None where it is not known.
    units
        Unit of `scale` and `offset`.
    offset
        Coordinate of the first element.
    """

    name: str
    scale: float | None = None
    units: str | None = None
    offset: float = 0.0

    @classmethod
    def of(cls, axis: AxisLike) -> ResultAxis:
        """Return what is needed of the axis of a dataset."""
        return cls(axis.name, axis.scale, axis.units, axis.offset)

    def coordinates(self, size: int) -> Array | None:
        """Return the coordinates of `size` elements, float64, or None where the scale is not known."""
        return None if self.scale is None else self.offset + self.scale * np.arange(size, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ResultChannel:
    r"""One result with its meaning.

    Parameters
    ----------
    name
        Text that can be the name of a file on any system: it begins with a letter (of any language), a digit or
        ``_``, does not end with a space or ``.valid``, and has none of ``/ \ < > : " | ? *`` and nothing that cannot
        be printed. Not ``tilework.json`` or ``zarr.json``.
    data
        The array, in the shape of the dataset: scan axes, or detector axes, then those that the UDF added. What a
        masked array masks is no result.
    kind
        ``"nav"``: one value (or more) per scan position; ``"sig"``: per detector pixel; ``"single"``: neither.
    valid
        bool, shape of `data`: where it holds a result; None: everywhere.
    dims
        The axes of `data`; empty: unnamed.
    extra_ndim
        How many of the last axes the UDF added.
    units
        Unit of the values; None where it is not known.
    title, description
        For people: a few words, and a sentence; None where there are none.

    Raises
    ------
    ValueError
        When name, mask or axes do not fit.
    """

    name: str
    data: Array
    kind: ResultKind = "single"
    valid: BoolArray | None = None
    dims: tuple[ResultAxis, ...] = ()
    extra_ndim: int = 0
    units: str | None = None
    title: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not self.name.isprintable() or self.name.endswith(".valid"):
            msg = (
                f"a result cannot be saved under the name {self.name!r}: begin with a letter, a digit or '_', use none "
                "of / \\ < > : \" | ? *, and do not end with a space or '.valid'"
            )
            raise ValueError(msg)
        if self.name in _TAKEN:
            msg = f"a result cannot be saved under the name {self.name!r}, which files have for themselves: use another"
            raise ValueError(msg)
        if not self.dims:
            object.__setattr__(self, "dims", tuple(ResultAxis(f"{self.name}_{i}") for i in range(self.data.ndim)))
        if len(self.dims) != self.data.ndim or self.extra_ndim > self.data.ndim:
            msg = f"{self.name}: {len(self.dims)} axes ({self.extra_ndim} added) do not fit shape {self.data.shape}"
            raise ValueError(msg)
        if self.valid is not None and (self.valid.shape != self.data.shape or self.valid.dtype != np.bool_):
            mask = f"{self.valid.shape}, {self.valid.dtype}"
            msg = f"{self.name}: the mask of shape {mask} does not fit data of shape {self.data.shape}"
            raise ValueError(msg)
        if isinstance(self.data, np.ma.MaskedArray):
            there = ~np.ma.getmaskarray(self.data)
            object.__setattr__(self, "valid", there if self.valid is None else there & self.valid)
            object.__setattr__(self, "data", self.data.data)

    @classmethod
    def from_buffer(
        cls, name: str, buffer: BufferLike, axes: Sequence[AxisLike] = (), units: str | None = None
    ) -> ResultChannel:
        """Make a channel from the result buffer of a run.

        Parameters
        ----------
        name
            Name of the channel.
        buffer
            The result: its data, kind, extra shape and mask are taken.
        axes
            Axes of the dataset, those of the scan first; empty: not known.
        units
            Unit of the values.
        """
        data = np.asarray(buffer.data)
        extra = 0 if buffer.kind == "single" else len(buffer.extra_shape)
        own = data.ndim - extra
        match buffer.kind:
            case "nav":
                named = tuple(axes)[:own]
            case "sig":
                named = tuple(axes)[len(axes) - own :] if own else ()
            case _:
                named, own = (), 0
        base = (
            tuple(map(ResultAxis.of, named))
            if len(named) == own
            else tuple(map(ResultAxis, _default_names(buffer.kind, own)))
        )
        added = tuple(ResultAxis(f"{name}_{i}") for i in range(data.ndim - own))
        return cls(name, data, buffer.kind, _incomplete_mask(buffer, data), (*base, *added), data.ndim - own, units)

    def attributes(self) -> dict[str, str]:
        """Return what is known of the values, by the names that xarray and NetCDF have for it."""
        meaning = {"units": self.units, "long_name": self.title, "description": self.description}
        return {"kind": self.kind, **{key: value for key, value in meaning.items() if value is not None}}

    def describe(self) -> dict[str, Any]:
        """Return everything but the arrays; can be written as JSON."""
        return {
            "kind": self.kind,
            "dtype": self.data.dtype.str,
            "shape": list(self.data.shape),
            "units": self.units,
            "extra_ndim": self.extra_ndim,
            "masked": self.valid is not None,
            "dims": [{"name": a.name, "scale": a.scale, "units": a.units, "offset": a.offset} for a in self.dims],
            "title": self.title,
            "description": self.description,
        }

    @classmethod
    def from_description(
        cls, name: str, description: dict[str, Any], data: Array, valid: BoolArray | None
    ) -> ResultChannel:
        """Make the channel `name` from arrays, `data` and `valid`, and the `description` that `describe` returned."""
        return cls(
            name,
            data,
            description["kind"],
            valid,
            tuple(ResultAxis(**axis) for axis in description["dims"]),
            description["extra_ndim"],
            description["units"],
            description.get("title"),
            description.get("description"),
        )


def _default_names(kind: str, count: int) -> tuple[str, ...]:
    prefix = "scan" if kind == "nav" else "sig"
    return (
        tuple(f"{prefix}_{axis}" for axis in ("zyx"[-count:] if count <= 3 else map(str, range(count))))
        if count
        else ()
    )


def _incomplete_mask(buffer: BufferLike, data: Array) -> BoolArray | None:
    """Return the mask of a buffer, or None where everything is valid or nothing is said about it."""
    try:
        mask = np.asarray(buffer.valid_mask, dtype=bool)
    except RuntimeError:
        return None
    return None if mask.all() else np.broadcast_to(mask, data.shape)
