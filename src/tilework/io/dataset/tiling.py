"""How a partition is cut into tiles: the scheme itself, and the negotiation that chooses one for a run.

A tile is a block of ``depth`` frames times a rectangle of the detector. The rules, in order:

* a UDF with ``process_partition`` gets the whole partition; one with ``process_frame`` gets whole frames;
* where a single UDF blocks for the caches itself and the data needs no conversion, the tile is the whole partition: a
view,
  nothing is copied and nothing is called twice;
* otherwise a tile is as large as fits the second-level cache, because several functions (or a conversion and a
function)
  go over it one after the other; frames larger than that are cut along their rows.

Bounds that a UDF states (`UDF.get_tiling_preferences`) are kept; the sentinels mean "whatever is fastest".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.common.udf import TileDepthEnum, TileSizeEnum, UDFMethod, UDFProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tilework.io.dataset.base import DataSet, Partition

__all__ = ["Negotiator", "TilingIntent", "TilingScheme"]

TilingIntent = Literal["partition", "frame", "tile"]

# A tile and its conversion are gone over several times, so they should stay in a core's second-level cache.
CACHE_BYTES = 512 * 1024
# Parts of a frame smaller than this cost more in calls than they gain in cache hits.
MIN_SIG_BYTES = 32 * 1024


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

    def adjust_for_partition(self, partition: Partition) -> TilingScheme:
        """Return the scheme for one partition: with intent ``"partition"`` the depth is that of the partition."""
        if self._intent != "partition" or partition.shape[0] == self.depth:
            return self
        tileshape = Shape((partition.shape[0], *self._tileshape.sig), sig_dims=self._tileshape.sig_dims)
        return TilingScheme(self._slices, tileshape, self._dataset_shape, self._intent, self._debug)


class Negotiator:
    """Chooses the tiling scheme of a run."""

    def get_scheme(
        self,
        udfs: Sequence[UDFProtocol],
        dataset: DataSet,
        read_dtype: np.dtype[Any] | type,
        approx_partition_shape: Shape,
        roi: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
        corrections: Any = None,
        *,
        converts: bool = True,
    ) -> TilingScheme:
        """Return one scheme that suits all UDFs of a run.

        Parameters
        ----------
        udfs
            The UDFs that will get the tiles.
        dataset
            What is cut.
        read_dtype
            The widest dtype in which a UDF gets its tiles; sizes are counted in it.
        approx_partition_shape
            Shape of the largest partition, ``(frames, *sig)``.
        roi
            Selected positions; selected frames are gathered, so their tiles are kept small.
        corrections
            Detector corrections of the run, or None.
        converts
            False when every UDF takes the tiles just as the dataset holds them.

        Raises
        ------
        ValueError
            When a UDF's bounds cannot be kept by any tile.
        """
        itemsize = np.dtype(read_dtype).itemsize
        sig = tuple(dataset.shape.sig)
        frames = max(1, int(approx_partition_shape[0]))
        methods = {udf.get_method() for udf in udfs}
        if UDFMethod.PARTITION in methods:
            return self._make((frames, *sig), dataset, "partition")
        preferences = [udf.get_tiling_preferences() for udf in udfs]
        max_bytes, max_depth = self._bounds(preferences)
        takes_all = all(p["depth"] == math.inf and p["total_size"] == math.inf for p in preferences)
        blocks_itself = len(udfs) == 1 and methods == {UDFMethod.TILE} and takes_all
        if blocks_itself and not converts and roi is None and corrections is None and dataset.zero_copy:
            return self._make((frames, *sig), dataset, "tile")
        budget = min(max_bytes, CACHE_BYTES)
        frame_bytes = itemsize * math.prod(sig)
        if UDFMethod.FRAME in methods:
            depth = self._depth(budget, frame_bytes, frames, max_depth)
            return self._make((depth, *sig), dataset, "frame")
        part = (
            sig
            if frame_bytes <= min(4 * CACHE_BYTES, max_bytes)
            else self._part_of_frame(dataset, sig, itemsize, budget, roi)
        )
        depth = self._depth(budget, itemsize * math.prod(part), frames, max_depth)
        depth, *adjusted = dataset.adjust_tileshape((depth, *part), roi)
        part = tuple(adjusted)
        part_bytes = itemsize * math.prod(part)
        if part_bytes > max_bytes:
            wanted = f"at most {int(max_bytes)} bytes, the smallest possible tile of this dataset has {part_bytes}"
            msg = f"no tile fits the tiling preferences of the UDFs: they ask for {wanted}; ask for a larger total_size"
            raise ValueError(msg)
        return self._make((min(depth, frames), *part), dataset, "tile")

    @staticmethod
    def _make(tileshape: tuple[int, ...], dataset: DataSet, intent: TilingIntent) -> TilingScheme:
        return TilingScheme.make_for_shape(Shape(tileshape, sig_dims=dataset.shape.sig_dims), dataset.shape, intent)

    @staticmethod
    def _bounds(preferences: Sequence[Any]) -> tuple[float, float]:
        """Return the most bytes and the most frames that all UDFs agree to; sentinels are no bound."""
        sizes = [float(p["total_size"]) for p in preferences if not isinstance(p["total_size"], TileSizeEnum)]
        depths = [float(p["depth"]) for p in preferences if not isinstance(p["depth"], TileDepthEnum)]
        if min(sizes + depths, default=1) < 1:
            msg = (
                f"tiling preferences must allow at least one frame and one byte, got depth {depths}, total_size {sizes}"
            )
            raise ValueError(msg)
        return min(sizes, default=math.inf), min(depths, default=math.inf)

    @staticmethod
    def _depth(budget: float, part_bytes: int, frames: int, max_depth: float) -> int:
        return int(max(1, min(frames, max_depth, budget // max(1, part_bytes))))

    @staticmethod
    def _part_of_frame(
        dataset: DataSet,
        sig: tuple[int, ...],
        itemsize: int,
        budget: float,
        roi: np.ndarray[Any, np.dtype[np.bool_]] | None,
    ) -> tuple[int, ...]:
        """Return whole rows, a multiple of the base shape, of about an eighth of the budget."""
        base = tuple(dataset.get_base_shape(roi))[1:]
        target = min(budget, max(MIN_SIG_BYTES, budget / 8)) / itemsize
        part = list(sig)
        for axis in range(len(sig)):
            rest = math.prod(sig[axis + 1 :])
            if base[axis] * rest <= target or axis == len(sig) - 1:
                count = max(1, int(target // (base[axis] * rest)))
                part[axis] = min(sig[axis], base[axis] * count)
                break
            part[axis] = base[axis]
        return tuple(part)
