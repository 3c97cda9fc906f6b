"""Names, scales and units of the axes of a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.shape import Shape

__all__ = ["AxisInfo", "default_axes"]


@dataclass(frozen=True, slots=True)
class AxisInfo:
    """What is known of one axis of a dataset.

    Parameters
    ----------
    name
        Name of the axis, unique in its dataset.
    size
        Number of positions or pixels.
    scale
        Distance between neighbours in `units`; None where it is not known.
    units
        Unit of `scale` and `offset`, for instance ``"nm"``.
    offset
        Coordinate of the first position.
    """

    name: str
    size: int
    scale: float | None = None
    units: str | None = None
    offset: float = 0.0


def default_axes(
    shape: Shape,
    nav_scale: tuple[float | None, ...] = (),
    nav_units: str | None = None,
    sig_scale: tuple[float | None, ...] = (),
    sig_units: str | None = None,
) -> list[AxisInfo]:
    """Return the axes of a dataset, named ``y, x`` and ``ky, kx`` where there are two of a kind.

    Parameters
    ----------
    shape
        Of the dataset.
    nav_scale, sig_scale
        Distances of neighbours along the axes of scan and detector, counted from the last axis; those that are missing,
        zero or not finite are not known.
    nav_units, sig_units
        Units of these, for instance ``"nm"`` and ``"mrad"``.

    Examples
    --------
    >>> from tilework.common.shape import Shape
    >>> axes = default_axes(Shape((64, 64, 128, 128), sig_dims=2), nav_scale=(0.5, 0.5), nav_units="nm")
    >>> [axis.name for axis in axes], axes[0].scale, axes[0].units, axes[2].scale
    (['y', 'x', 'ky', 'kx'], 0.5, 'nm', None)
    """

    def named(
        sizes: tuple[int, ...], names: str, prefix: str, scales: tuple[float | None, ...], units: str | None
    ) -> Iterator[AxisInfo]:
        known = len(sizes) <= len(names)
        for i, size in enumerate(sizes):
            from_last = len(sizes) - i
            name = (("" if prefix == "nav" else "k") + names[-from_last]) if known else f"{prefix}{i}"
            scale = scales[-from_last] if from_last <= len(scales) else None
            usable = scale is not None and math.isfinite(scale) and scale != 0
            yield AxisInfo(name, size, scale if usable else None, units if usable else None)

    nav, sig = shape.nav.to_tuple(), shape.sig.to_tuple()
    return [
        *named(nav, "zyx", "nav", nav_scale, nav_units),
        *named(sig, "zyx", "sig", sig_scale, sig_units),
    ]
