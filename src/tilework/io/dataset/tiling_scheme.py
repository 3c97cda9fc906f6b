"""The cut of every partition of a run into tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from tilework.common.shape import Shape
from tilework.common.slice import Slice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TilingIntent", "TilingScheme"]

TilingIntent = Literal["partition", "frame", "tile"]


class HasShape(Protocol):
    """What is asked of a partition."""

    @property
    def shape(self) -> Shape:
        """Frames and sig shape."""
        ...


class TilingScheme:
    """The cut of every partition of a run: sig slices, and how many frames a tile has at most.

    Parameters
    ----------
    slices
        The parts of the detector, in C order, without navigation dimensions.
    tileshape
        Depth and sig shape of a full tile, ``(depth, *sig)``.
    dataset_shape
        Shape of the dataset that is cut.
    intent
        What the tiles are for; ``"partition"`` promises one tile per sig slice and partition.
    debug
        Whatever helps to understand the choice; not interpreted.
    """

    __slots__ = ("_dataset_shape", "_debug", "_intent", "_slices", "_tileshape")

    def __init__(
        self,
        slices: Sequence[Slice],
        tileshape: Shape,
        dataset_shape: Shape,
        intent: TilingIntent | None = None,
        debug: Any = None,
    ) -> None:
        if tileshape.nav_dims != 1:
            msg = f"a tile has one navigation dimension, its depth: the tile shape {tileshape} has {tileshape.nav_dims}"
            raise ValueError(msg)
        self._slices = tuple(slices)
        self._tileshape = tileshape
        self._dataset_shape = dataset_shape
        self._intent = intent
        self._debug = debug

    @classmethod
    def make_for_shape(
        cls,
        tileshape: Shape,
        dataset_shape: Shape,
        intent: TilingIntent | None = None,
        debug: Any = None,
    ) -> TilingScheme:
        """Cut the detector into parts of the sig shape of `tileshape`, in C order, smaller ones at the far borders."""
        sig = tuple(dataset_shape.sig)
        whole = Slice(origin=(0,) * len(sig), shape=Shape(sig, sig_dims=len(sig)))
        part = Shape(tuple(tileshape.sig), sig_dims=len(sig))
        slices = (whole,) if tuple(part) == sig else tuple(whole.subslices(part))
        return cls(slices=slices, tileshape=tileshape, dataset_shape=dataset_shape, intent=intent, debug=debug)

    def __getitem__(self, idx: int) -> Slice:
        return self._slices[idx]

    def __len__(self) -> int:
        return len(self._slices)

    def __repr__(self) -> str:
        return f"<TilingScheme depth={self.depth} sig={tuple(self.shape.sig)} x{len(self)} intent={self._intent}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TilingScheme):
            return NotImplemented
        return (
            self._slices == other._slices
            and self._tileshape == other._tileshape
            and self._dataset_shape == other._dataset_shape
            and self._intent == other._intent
        )

    def __hash__(self) -> int:
        return hash((self._slices, self._tileshape, self._dataset_shape, self._intent))

    @property
    def slices(self) -> Iterator[tuple[int, Slice]]:
        """The sig slices with their index."""
        return enumerate(self._slices)

    @property
    def slices_array(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Origins and shapes of the sig slices, int64 of shape (number of slices, 2, sig dims)."""
        return np.array([(s.origin, tuple(s.shape)) for s in self._slices], dtype=np.int64)

    @property
    def is_full_sig(self) -> bool:
        """Whether every tile covers the whole detector."""
        return len(self._slices) == 1

    @property
    def shape(self) -> Shape:
        """Depth and sig shape of a full tile."""
        return self._tileshape

    @property
    def depth(self) -> int:
        """The most frames a tile has."""
        return int(self._tileshape[0])

    @property
    def dataset_shape(self) -> Shape:
        """Shape of the dataset that is cut."""
        return self._dataset_shape

    @property
    def intent(self) -> TilingIntent | None:
        """What the tiles are for."""
        return self._intent

    def adjust_for_partition(self, partition: HasShape) -> TilingScheme:
        """Return the scheme for one partition: with intent ``"partition"`` the depth is that of the partition."""
        if self._intent != "partition" or partition.shape[0] == self.depth:
            return self
        tileshape = Shape((partition.shape[0], *self._tileshape.sig), sig_dims=self._tileshape.sig_dims)
        return TilingScheme(self._slices, tileshape, self._dataset_shape, self._intent, self._debug)
