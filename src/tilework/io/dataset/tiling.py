"""How partitions are cut into tiles: the negotiation that chooses a scheme for a run.

A tile is a block of ``depth`` frames times a rectangle of the detector. The rules, in order:

* a UDF with ``process_partition`` gets the whole partition; one with ``process_frame``, or that prefers
  ``whole_frames``, gets whole frames;
* where all UDFs block for the caches themselves and the data needs no conversion, a tile is the whole partition: a
  view, nothing is copied, and what a kernel sets up is set up once;
* otherwise a tile is as large as a core's share of the last-level cache, because several functions (or a conversion and
  a function) go over it one after the other, and has several frames: large ones are cut along their rows, where no
  excluded pixel that is to be repaired touches a border.

Bounds that a UDF states (`UDF.get_tiling_preferences`) are kept where the dataset has a tile that is small enough, and
otherwise its smallest is used; the sentinels mean "whatever is fastest".
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.shape import Shape
from tilework.common.udf import TileDepthEnum, TileSizeEnum, UDFMethod, UDFProtocol
from tilework.io.dataset.tiling_scheme import TilingIntent, TilingScheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet

__all__ = ["Negotiator"]

# A tile and its conversion are gone over several times, so they should stay in the share of the last-level cache that a
# core has. Much smaller tiles cost more in calls, and in sums that are read and written for few frames, than they gain.
CACHE_BYTES = 2 * 2**20
# Corrections of the detector pass through the caches with every tile, so they are shared by more frames.
CORRECTED_BYTES = 2 * CACHE_BYTES
# Where a function reads more than the caches hold for every tile, its own data is what takes time, not the tile.
OWN_SHARE = 1 / 4
MOST_BYTES = 8 * CACHE_BYTES
# Parts of a frame smaller than this cost more in calls than they gain in cache hits.
MIN_SIG_BYTES = 32 * 1024


@functools.cache
def frames_bytes(l2_size: Path = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")) -> int:
    """Return how large tiles are of whole frames that are converted for a user's function, which goes over them again.

    Half of a core's L2 is best, where that has 2 MiB. A smaller one is of no use to tiles, and larger tiles cost less
    in calls.

    Parameters
    ----------
    l2_size
        File in which Linux says it, such as ``512K``.
    """
    try:
        is_large = int(l2_size.read_text().rstrip("K\n")) * 1024 >= CACHE_BYTES
    except (OSError, ValueError):
        is_large = False
    return CACHE_BYTES // 2 if is_large else CACHE_BYTES


_NO_PREFERENCE: Final = {"depth": TileDepthEnum.TILE_DEPTH_DEFAULT, "total_size": math.inf}


class Negotiator:
    """Chooses the tiling scheme of a run."""

    def get_scheme(
        self,
        udfs: Sequence[UDFProtocol],
        dataset: DataSet,
        read_dtype: np.dtype[Any] | type,
        approx_partition_shape: Shape,
        roi: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
        corrections: CorrectionSet | None = None,
        *,
        converts: bool = True,
        sparse: bool = False,
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
        sparse
            Whether tiles stay sparse for all UDFs: then what is stored counts for the cache, not the size of frames.

        Raises
        ------
        ValueError
            When a UDF wants less than a frame or a byte, or an excluded pixel cannot be repaired within any tile.
        """
        itemsize = np.dtype(read_dtype).itemsize
        sig = tuple(dataset.shape.sig)
        frames = max(1, int(approx_partition_shape[0]))
        methods = {udf.get_method() for udf in udfs}
        if UDFMethod.PARTITION in methods:
            return self._make((frames, *sig), dataset, "partition")
        preferences: list[dict[str, Any]] = [{**_NO_PREFERENCE, **udf.get_tiling_preferences()} for udf in udfs]
        max_bytes, max_depth = self._bounds(preferences)
        takes_all = all(p["depth"] == math.inf and p["total_size"] == math.inf for p in preferences)
        frame_bytes = itemsize * math.prod(sig)
        stored = max(dataset.density, 1e-9) if sparse else 1.0
        as_stored = not converts and roi is None and corrections is None
        views = dataset.zero_copy and (as_stored or stored < 1)
        if views and takes_all and methods == {UDFMethod.TILE}:
            return self._make((frames, *sig), dataset, "tile")
        if UDFMethod.FRAME in methods or any(p.get("whole_frames") for p in preferences):
            cache = frames_bytes() if corrections is None else CORRECTED_BYTES
            depth = self._depth(min(max_bytes, cache / stored), frame_bytes, frames, max_depth)
            return self._make((depth, *sig), dataset, "frame")
        cache = CACHE_BYTES if corrections is None else CORRECTED_BYTES
        budget = min(max_bytes, cache)
        # What is added up over frames, such as a sum, is read and written for each tile, so a tile has several frames.
        # Selected frames are gathered, which takes longer for parts of them.
        whole = CACHE_BYTES // 4 if roi is None else 4 * CACHE_BYTES
        part = (
            sig
            if frame_bytes * stored <= whole and frame_bytes <= max_bytes
            else self._part_of_frame(dataset, sig, itemsize, budget, roi)
        )
        if corrections is not None:
            part = corrections.adjust_tileshape(part, sig, tuple(dataset.get_base_shape(roi))[1:])
        if converts and roi is None and corrections is None and part == sig:
            cache = frames_bytes()
        own_bytes = max(p.get("own_bytes", 0) for p in preferences)
        cache = max(cache, min(int(own_bytes * OWN_SHARE), MOST_BYTES))
        depth = self._depth(min(max_bytes, cache / stored), itemsize * math.prod(part), frames, max_depth)
        depth, *adjusted = dataset.adjust_tileshape((depth, *part), roi)
        part = tuple(adjusted)
        if corrections is not None and corrections.touches_border(part, sig):
            msg = (
                f"{type(dataset).__name__} is cut into tiles of {part} detector pixels, and an excluded pixel touches "
                "their border, so it cannot be repaired from all its neighbours: use another tile shape"
            )
            raise ValueError(msg)
        # Where the dataset has no tile as small as is asked for, this is its smallest.
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
