"""Products of tiles of any kind with masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, NUMPY_BACKENDS
from tilework.common.kernels import DenseMasks, SparseMasks
from tilework.udf.linear import PlainMasks

if TYPE_CHECKING:
    from tilework.common.container import MaskContainer
    from tilework.udf.meta import UDFMeta

__all__ = ["ApplyMasksEngine", "compute_dtype"]


class ApplyMasksEngine:
    """Products of tiles and masks, for UDFs of your own.

    Parameters
    ----------
    masks
        The masks.
    meta
        `UDF.meta` of the UDF that gets the tiles: it says which part of the detector they are.
    use_torch
        Accepted for programs that pass it; tilework's own kernels are used in any case.

    Examples
    --------
    >>> from tilework.common.container import MaskContainer
    >>> from tilework.masks import rectangular
    >>> from tilework.udf import UDF
    >>> def halves():
    ...     left = rectangular(0, 0, 15, 31, imageSizeX=32, imageSizeY=32)
    ...     return np.stack([left, ~left])
    >>> class Difference(UDF):
    ...     def get_task_data(self):
    ...         return {"engine": ApplyMasksEngine(MaskContainer(halves), self.meta)}
    ...
    ...     def get_result_buffers(self):
    ...         return {"difference": self.buffer(kind="nav", dtype=np.float64)}
    ...
    ...     def process_tile(self, tile):
    ...         products = self.task_data.engine.process_tile(tile)
    ...         self.results.difference[:] += products[:, 0] - products[:, 1]
    >>> ctx.run_udf(dataset=ds, udf=Difference())["difference"].data.shape
    (6, 8)
    """

    def __init__(self, masks: MaskContainer, meta: UDFMeta, use_torch: bool = False) -> None:  # noqa: ARG002
        self.masks = masks
        self.meta = meta

    def process_tile(self, tile: Any) -> Any:
        """Return the products of a tile's frames with the masks, of shape ``(frames, n_masks)``.

        Their dtype is that to which those of the tile, of the masks, and float32 are promoted.
        """
        return self._products(tile, np.result_type(tile.dtype, self.masks.dtype, np.float32))

    def _products(self, tile: Any, dtype: np.dtype[Any]) -> Any:
        shape = tile.shape[0], len(self.masks)
        if self.meta.array_backend in CUPY_BACKENDS:
            import cupy

            result = cupy.zeros(shape, dtype=dtype)
        else:
            result = np.zeros(shape, dtype=dtype)
        self.add_to(tile, result)
        return result

    def add_to(self, tile: Any, out: Any) -> None:
        """Add the products of a tile's frames with the masks to `out`, of shape ``(frames, n_masks)``."""
        meta = self.meta
        # The masks in this form are kept with them, for all tasks that share them.
        key = (meta.sig_slice, meta.array_backend, tile.dtype, out.dtype, meta.compiled)
        masks = self.masks.kept(key, lambda: self._prepare(tile.dtype, out.dtype))
        masks.apply(tile, out, threads=meta.threads_per_worker or 1)

    def _prepare(self, tile_dtype: np.dtype[Any], dtype: np.dtype[Any]) -> DenseMasks | SparseMasks | PlainMasks:
        """Return the masks for the current part of the detector, for results of this dtype."""
        masks, meta = self.masks, self.meta
        sparse_format: Any = "scipy.sparse" if masks.use_sparse else None
        part = masks.get_for_sig_slice(meta.sig_slice, sparse_backend=sparse_format, transpose=False, backend="numpy")
        if meta.array_backend not in NUMPY_BACKENDS or dtype.kind not in "fc":
            return PlainMasks(part, dtype, meta.array_backend)
        kind = SparseMasks if masks.use_sparse else DenseMasks
        return kind(part, tile_dtype, compute_dtype(dtype), compiled=meta.compiled)


def compute_dtype(result: np.dtype[Any]) -> np.dtype[Any]:
    """Return the precision in which products for a result of this dtype are taken."""
    if result in (np.float32, np.complex64):
        return result
    return np.dtype(np.complex128 if result.kind == "c" else np.float64)
