"""Shapes that know which of their axes are the scan (navigation) and which are the detector (signal)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index
from typing import TYPE_CHECKING, Final, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Shape", "ShapeLike"]


class Shape(Sequence[int]):
    """Shape of a dataset, partition or tile: navigation axes first, signal axes last.

    It behaves like the tuple of its sizes (length, iteration, indexing, unpacking, equality with a tuple), and
    can be given to NumPy where a shape is expected. It is immutable and hashable; its hash is that of the tuple.

    Parameters
    ----------
    shape
        Sizes of all axes. Anything that is an integer is taken and kept as a Python ``int``.
    sig_dims
        How many of the last axes are signal axes.

    Attributes
    ----------
    nav, sig : Shape
        The navigation axes alone (with ``sig_dims == 0``), and the signal axes alone.
    size : int
        Product of all sizes, as a Python ``int``. The size of a shape without axes is 1.
    dims, nav_dims, sig_dims : int
        Number of all axes, of navigation axes, and of signal axes.

    Raises
    ------
    TypeError
        When a size is not an integer.
    ValueError
        When a size is negative, or `sig_dims` does not lie between 0 and the number of axes.

    Examples
    --------
    >>> shape = Shape((16, 32, 128, 256), sig_dims=2)
    >>> shape.nav, shape.sig, shape.nav.size
    ((16, 32), (128, 256), 512)
    >>> shape.flatten_nav()
    (512, 128, 256)
    """

    __slots__ = ("_shape", "dims", "nav", "nav_dims", "sig", "sig_dims", "size")

    _shape: tuple[int, ...]
    dims: Final[int]
    nav_dims: Final[int]
    sig_dims: Final[int]
    size: Final[int]
    nav: Shape
    sig: Shape

    def __init__(self, shape: Iterable[int], sig_dims: int) -> None:
        sizes = tuple(map(index, shape))
        dims = len(sizes)
        sig_dims = index(sig_dims)
        if not 0 <= sig_dims <= dims:
            msg = f"sig_dims={sig_dims} does not fit the shape {sizes}: it must lie between 0 and {dims}"
            raise ValueError(msg)
        if dims and min(sizes) < 0:
            msg = f"negative size in the shape {sizes}: every axis needs a size of 0 or more"
            raise ValueError(msg)
        self._shape = sizes
        self.dims = dims
        self.sig_dims = sig_dims
        self.nav_dims = dims - sig_dims
        self.size = prod(sizes)

    # Runs only while the slot of `nav` or `sig` is still empty, so that a shape costs nothing more than its sizes
    # until a part is asked for, and every later look at the part is a plain slot access.
    if not TYPE_CHECKING:  # or any misspelt attribute would pass the type check

        def __getattr__(self, name: str) -> Shape:
            if name == "nav":
                if self.sig_dims == 0:
                    return self  # not stored: a shape that refers to itself would need the garbage collector
                self.nav = nav = Shape(self._shape[: self.nav_dims], 0)
                return nav
            if name == "sig":
                if self.nav_dims == 0:
                    return self
                self.sig = sig = Shape(self._shape[self.nav_dims :], self.sig_dims)
                return sig
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)

    def to_tuple(self) -> tuple[int, ...]:
        """Return the sizes of all axes as a plain tuple."""
        return self._shape

    def flatten_nav(self) -> Shape:
        """Return the shape with all navigation axes joined to one; without any, that one has size 1."""
        return Shape((self.nav.size, *self._shape[self.nav_dims :]), self.sig_dims)

    def flatten_sig(self) -> Shape:
        """Return the shape with all signal axes joined to one; without any, that one has size 1."""
        return Shape((*self._shape[: self.nav_dims], self.sig.size), 1)

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __len__(self) -> int:
        return self.dims

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[int, ...]: ...
    def __getitem__(self, key: int | slice) -> int | tuple[int, ...]:
        return self._shape[key]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Shape):
            return self._shape == other._shape and self.sig_dims == other.sig_dims
        if isinstance(other, tuple):
            return self._shape == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._shape)

    def __add__(self, other: tuple[int, ...]) -> Shape:
        """Append axes to the signal axes."""
        if not isinstance(other, tuple):
            return NotImplemented
        return Shape(self._shape + other, self.sig_dims + len(other))

    def __radd__(self, other: tuple[int, ...]) -> Shape:
        """Insert axes between the navigation and the signal axes, as further navigation axes."""
        if not isinstance(other, tuple):
            return NotImplemented
        return Shape(self._shape[: self.nav_dims] + other + self._shape[self.nav_dims :], self.sig_dims)

    def __repr__(self) -> str:
        return repr(self._shape)

    def __reduce__(self) -> tuple[type[Shape], tuple[tuple[int, ...], int]]:
        return type(self), (self._shape, self.sig_dims)


ShapeLike: TypeAlias = Shape | Sequence[int]
