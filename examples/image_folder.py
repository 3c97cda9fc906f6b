"""A format of your own: a folder of images, one for each position of the scan, in the order of their names.

``python examples/image_folder.py`` writes such a folder, and sums it up on worker processes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tilework.api import Context
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.exceptions import DataSetException
from tilework.io.dataset import register_dataset_cls
from tilework.io.dataset.base import DataSet, DataTile
from tilework.io.dataset.partition import Partition
from tilework.udf import SumUDF

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import DTypeLike, NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.tiling_scheme import TilingScheme


def read_image(path: str) -> NDArray[Any]:
    """Return one frame (y, x)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError as e:
        msg = f"{path} cannot be read as an image: {e}"
        raise DataSetException(msg) from e


class ImageFolder(DataSet):
    """A folder of images of equal shape and dtype.

    Parameters
    ----------
    path
        The folder.
    nav_shape
        Shape of the scan; None: all images in a row.
    num_partitions
        As of `DataSet`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        nav_shape: Sequence[int] | None = None,
        num_partitions: int | None = None,
    ) -> None:
        super().__init__(num_partitions=num_partitions)
        self._folder = str(Path(path).absolute())
        self._nav_shape = nav_shape

    def initialize(self, executor: JobExecutor) -> DataSet:
        """Look at the folder, where the workers are: it need not exist on the main side."""
        self._files, first = executor.run_function(self._look)
        nav = (len(self._files),) if self._nav_shape is None else tuple(self._nav_shape)
        if np.prod(nav) != len(self._files):
            msg = f"{self._folder} holds {len(self._files)} images, a scan of shape {nav} has {np.prod(nav)} positions"
            raise DataSetException(msg)
        self._shape, self._dtype = Shape((*nav, *first.shape), sig_dims=2), first.dtype
        return self

    def _look(self) -> tuple[list[str], NDArray[Any]]:
        files = sorted(str(path) for path in Path(self._folder).glob("*.tif"))
        if not files:
            msg = f"{self._folder} holds no .tif files"
            raise DataSetException(msg)
        return files, read_image(files[0])

    @property
    def shape(self) -> Shape:
        """Scan, then detector."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the first image."""
        return self._dtype

    def check_valid(self) -> bool:
        """Read the last image; called on a worker."""
        read_image(self._files[-1])
        return True

    def get_base_shape(self, roi: NDArray[np.bool_] | None) -> tuple[int, ...]:
        """Ask for tiles of whole frames: an image is decoded once, and not for each part of it."""
        return (1, *self.shape.sig)

    def get_partitions(self) -> Iterator[Partition]:
        """Yield the parts of the scan, each with its files."""
        for i, (where, start, stop) in enumerate(self.get_slices()):
            partition = ImagePartition(self.meta, where)
            partition.files = self._files[start:stop]
            partition.set_idx(i)
            yield partition


class ImagePartition(Partition):
    """Some consecutive images; pickled, and read by a worker."""

    files: list[str]

    def get_tiles(
        self,
        tiling_scheme: TilingScheme,
        dest_dtype: DTypeLike | None = "float32",
        roi: NDArray[np.bool_] | None = None,
        array_backend: str | None = None,
    ) -> Iterator[DataTile]:
        """Yield the frames in tiles: first all parts of some frames, then those of the next."""
        self.validate_tiling_scheme(tiling_scheme)
        self._checked_backend(array_backend)
        selected = self._flat_roi(roi)
        first = self.slice.origin[0]
        files = self.files
        if selected is not None:
            files = [file for file, wanted in zip(files, selected[first : first + len(files)], strict=True) if wanted]
            first = int(np.count_nonzero(selected[:first]))  # tiles count selected positions only
        depth = len(files) if tiling_scheme.intent == "partition" else tiling_scheme.depth
        for start in range(0, len(files), max(depth, 1)):
            frames = np.stack([read_image(file) for file in files[start : start + depth]])
            frames = frames.astype(self._dest_dtype(dest_dtype), copy=False)
            for index, part in tiling_scheme.slices:
                tile = np.ascontiguousarray(frames[(slice(None), *part.get())])
                tile.flags.writeable = False
                where = Slice((first + start, *part.origin), Shape(tile.shape, sig_dims=2))
                yield DataTile(tile, where, index)


register_dataset_cls("images", ImageFolder)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Context.make_with("pipelined") as ctx:
        frames = np.random.default_rng(0).poisson(5, (8 * 8, 32, 32)).astype(np.uint16)
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(Path(folder) / f"{i:04}.tif")
        scan = ctx.load("images", path=folder, nav_shape=(8, 8))
        result = ctx.run_udf(dataset=scan, udf=SumUDF())["intensity"].data
        assert np.array_equal(result, frames.sum(axis=0))
        print(scan, result.sum())
