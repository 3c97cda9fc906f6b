"""Rectangular regions in the axes of a dataset: where a partition, tile or frame lies."""

from __future__ import annotations

from itertools import product
from operator import add, index, sub
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tilework.common.shape import Shape, ShapeLike
from tilework.exceptions import SliceUsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["Slice", "SliceUsageError", "disjoint"]


class Slice:
    """A rectangular region: the position of its first element and its shape.

    Immutable and hashable; equal when origin and shape (with its number of signal axes) are equal.

    Parameters
    ----------
    origin
        Index of the first element, one number for each axis. May be negative in the result of a shift.
    shape
        Extent of the region; says also which axes are signal axes.

    Attributes
    ----------
    origin : tuple of int
    shape : Shape
    nav, sig : Slice
        The region in the navigation axes alone, and in the signal axes alone.

    Raises
    ------
    SliceUsageError
        When `shape` is not a `Shape` or has another number of axes than `origin`.

    Examples
    --------
    >>> frames = Slice((8, 0, 0), Shape((4, 32, 32), sig_dims=2))
    >>> frames.get(nav_only=True), frames.sig.shape.size
    ((slice(8, 12, None),), 1024)
    >>> left = Slice((0, 0, 0), Shape((10, 32, 16), sig_dims=2))
    >>> frames.intersection_with(left)
    <Slice origin=(8, 0, 0) shape=(2, 32, 16)>
    """

    __slots__ = ("nav", "origin", "shape", "sig")

    origin: tuple[int, ...]
    shape: Shape
    nav: Slice
    sig: Slice

    def __init__(self, origin: Iterable[int], shape: Shape) -> None:
        self.origin = origin = tuple(map(index, origin))
        try:
            dims = shape.dims
        except AttributeError:
            msg = f"the shape {shape!r} of a slice must be a tilework.common.Shape, it is a {type(shape).__name__}"
            raise SliceUsageError(msg) from None
        if len(origin) != dims:
            msg = f"origin {origin} and shape {shape} of a slice must have the same number of axes"
            raise SliceUsageError(msg)
        self.shape = shape

    @classmethod
    def from_shape(cls, shape: ShapeLike, sig_dims: int) -> Slice:
        """Return the slice of everything: origin zero, and the given shape."""
        full = Shape(shape, sig_dims)
        return cls((0,) * full.dims, full)

    # Runs only while the slot of `nav` or `sig` is still empty; see Shape.
    if not TYPE_CHECKING:  # or any misspelt attribute would pass the type check

        def __getattr__(self, name: str) -> Slice:
            shape = self.shape
            if name == "nav":
                if shape.sig_dims == 0:
                    return self
                self.nav = nav = Slice(self.origin[: shape.nav_dims], shape.nav)
                return nav
            if name == "sig":
                if shape.nav_dims == 0:
                    return self
                self.sig = sig = Slice(self.origin[shape.nav_dims :], shape.sig)
                return sig
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)

    def _check_same_axes(self, other: Slice, what: str) -> None:
        if self.shape.dims != other.shape.dims or self.shape.sig_dims != other.shape.sig_dims:
            msg = (
                f"cannot {what} slices with different axes: {self} has {self.shape.nav_dims} navigation and "
                f"{self.shape.sig_dims} signal axes, {other} has {other.shape.nav_dims} and {other.shape.sig_dims}"
            )
            raise SliceUsageError(msg)

    def intersection_with(self, other: Slice) -> Slice:
        """Return the region that lies in both slices; where they are disjoint along an axis, its extent is zero.

        Raises
        ------
        SliceUsageError
            When the slices have different axes.
        """
        self._check_same_axes(other, "intersect")
        origin = tuple(map(max, self.origin, other.origin))
        ends = map(min, map(add, self.origin, self.shape), map(add, other.origin, other.shape))
        sizes = [max(0, end - start) for start, end in zip(origin, ends, strict=True)]
        return Slice(origin, Shape(sizes, self.shape.sig_dims))

    def is_null(self) -> bool:
        """Return whether the region holds no element."""
        return self.shape.size == 0

    def shift(self, other: Slice) -> Slice:
        """Return the slice in coordinates that count from the origin of `other`.

        Raises
        ------
        SliceUsageError
            When the slices have a different number of axes.
        """
        if len(self.origin) != len(other.origin):
            self._check_same_axes(other, "shift")
        return Slice(map(sub, self.origin, other.origin), self.shape)

    def shift_by(self, offset: tuple[int, ...]) -> Slice:
        """Return the slice moved by `offset`, one number for each axis.

        Raises
        ------
        SliceUsageError
            When `offset` has another length than the slice has axes.
        """
        if len(offset) != len(self.origin):
            msg = f"cannot shift {self} by {offset}: the offset needs one number for each of {len(self.origin)} axes"
            raise SliceUsageError(msg)
        return Slice(map(add, self.origin, offset), self.shape)

    def clip_to(self, shape: ShapeLike) -> Slice:
        """Return the part of the slice that lies below the upper borders of `shape`; the origin stays.

        Raises
        ------
        SliceUsageError
            When `shape` has another number of axes.
        """
        if len(shape) != len(self.origin):
            msg = f"cannot clip {self} to a shape with another number of axes: {tuple(shape)}"
            raise SliceUsageError(msg)
        sizes = (max(0, min(n, end - o)) for o, n, end in zip(self.origin, self.shape, shape, strict=True))
        return Slice(self.origin, Shape(sizes, self.shape.sig_dims))

    @overload
    def get(self, arr: None = None, sig_only: bool = False, nav_only: bool = False) -> tuple[slice, ...]: ...
    @overload
    def get(self, arr: NDArray[Any], sig_only: bool = False, nav_only: bool = False) -> NDArray[Any]: ...
    @overload
    def get(self, arr: object, sig_only: bool = False, nav_only: bool = False) -> Any: ...
    def get(self, arr: Any = None, sig_only: bool = False, nav_only: bool = False) -> Any:
        """Return the region as an index, or the region of `arr`.

        Parameters
        ----------
        arr
            Anything that can be indexed like an array; ``None`` for the index alone.
        sig_only
            Use the signal axes only: they are the last axes of `arr`, whatever stands before them.
        nav_only
            Use the navigation axes only: they are the first axes of `arr`.

        Returns
        -------
        tuple of slice, or array
            For an array, what its indexing gives: a view for NumPy arrays.

        Raises
        ------
        SliceUsageError
            When both `sig_only` and `nav_only` are asked for.
        """
        origin, sizes = self.origin, self.shape.to_tuple()
        if sig_only or nav_only:
            if sig_only and nav_only:
                msg = "sig_only and nav_only exclude each other; leave both out for all axes"
                raise SliceUsageError(msg)
            axes = slice(self.shape.nav_dims, None) if sig_only else slice(0, self.shape.nav_dims)
            origin, sizes = origin[axes], sizes[axes]
        selection = tuple([slice(o, o + n) for o, n in zip(origin, sizes, strict=True)])
        if arr is None:
            return selection
        return arr[(..., *selection)] if sig_only else arr[selection]

    def discard_nav(self) -> Slice:
        """Return the slice with origin and extent zero in all navigation axes: a key for what only depends on sig."""
        zeros = (0,) * self.shape.nav_dims
        sig = self.sig
        return Slice(zeros + sig.origin, Shape(zeros + sig.shape.to_tuple(), self.shape.sig_dims))

    def subslices(self, shape: ShapeLike) -> Iterator[Slice]:
        """Tile the region with pieces of the given shape, in C order; pieces at the upper borders are smaller.

        Every element of the region lies in exactly one piece.

        Raises
        ------
        SliceUsageError
            When `shape` has another number of axes, or a piece would be empty.
        """
        step = tuple(map(index, shape))
        if len(step) != self.shape.dims:
            msg = f"cannot tile {self} with pieces of shape {step}: the number of axes differs"
            raise SliceUsageError(msg)
        if step and min(step) < 1:
            msg = f"cannot tile {self} with pieces of shape {step}: every size must be at least 1"
            raise SliceUsageError(msg)
        return self._subslices(step)

    def _subslices(self, step: tuple[int, ...]) -> Iterator[Slice]:
        sig_dims = self.shape.sig_dims
        axes = [
            [(start, min(n, o + size - start)) for start in range(o, o + size, n)]
            for o, size, n in zip(self.origin, self.shape, step, strict=True)
        ]
        shapes: dict[tuple[int, ...], Shape] = {}  # at most two sizes along each axis: few shapes, many pieces
        for piece in product(*axes):
            sizes = tuple([size for _, size in piece])
            shape = shapes.get(sizes)
            if shape is None:
                shape = shapes[sizes] = Shape(sizes, sig_dims)
            yield Slice([start for start, _ in piece], shape)

    def flatten_nav(self, containing_shape: ShapeLike) -> Slice:
        """Return the slice in the flattened navigation axis of a dataset.

        Parameters
        ----------
        containing_shape
            Shape of the dataset, with or without its signal axes.

        Raises
        ------
        SliceUsageError
            When `containing_shape` has another number of axes, when the slice reaches beyond it in any axis but the
            first, or when the region is no contiguous run of frames.
        """
        nav_dims = self.shape.nav_dims
        whole = tuple(map(index, containing_shape))
        if len(whole) not in {nav_dims, self.shape.dims}:
            msg = f"cannot flatten {self} in a dataset of shape {whole}: the number of axes differs"
            raise SliceUsageError(msg)
        axes = list(zip(self.origin, self.shape, whole[:nav_dims], strict=False))
        # Contiguous: one index in the leading axes, then any run along one axis, then complete axes.
        run = next((axis for axis, (_, n, _) in enumerate(axes) if n != 1), nav_dims)
        if any(o < 0 or o + n > m for o, n, m in axes[1:]) or any(n != m for _, n, m in axes[run + 1 :]):
            msg = f"{self} is no contiguous run of frames in navigation axes of shape {whole[:nav_dims]}"
            raise SliceUsageError(msg)
        start = 0
        for o, _, m in axes:
            start = start * m + o
        return Slice((start, *self.origin[nav_dims:]), self.shape.flatten_nav())

    def adjust_for_roi(self, roi: NDArray[np.bool_] | None) -> Slice:
        """Return the slice in the compressed navigation axis that holds only the frames selected by `roi`.

        Parameters
        ----------
        roi
            Selection over all frames of the dataset, of any shape with that many elements in C order;
            ``None`` selects all.

        Returns
        -------
        Slice
            Its origin counts the selected frames before this slice, its length those inside.

        Raises
        ------
        SliceUsageError
            When the slice has not exactly one (flat) navigation axis.
        """
        if roi is None:
            return self
        if self.shape.nav_dims != 1:
            msg = f"{self} has {self.shape.nav_dims} navigation axes: only a slice with one can be adjusted for a ROI"
            raise SliceUsageError(msg)
        start = self.origin[0]
        selected = np.ravel(roi)
        before = int(np.count_nonzero(selected[:start]))
        inside = int(np.count_nonzero(selected[start : start + self.shape[0]]))
        return Slice((before, *self.origin[1:]), Shape((inside, *self.shape[1:]), self.shape.sig_dims))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Slice):
            return self.origin == other.origin and (self.shape is other.shape or self.shape == other.shape)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.origin, self.shape.to_tuple()))

    def __repr__(self) -> str:
        return f"<Slice origin={self.origin} shape={self.shape}>"

    def __reduce__(self) -> tuple[type[Slice], tuple[tuple[int, ...], Shape]]:
        return type(self), (self.origin, self.shape)


def disjoint(part: Slice, others: Iterable[Slice]) -> bool:
    """Return whether `part` overlaps none of `others`.

    Examples
    --------
    >>> whole = Slice.from_shape((4, 8, 8), sig_dims=2)
    >>> first, second, third, fourth = whole.subslices((1, 8, 8))
    >>> disjoint(first, [second, third]), disjoint(first, [whole])
    (True, False)
    """
    return all(part.intersection_with(other).is_null() for other in others)
