"""Frames into a NumPy file, as they come."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.udf.base import UDF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper
    from tilework.common.udf import TilingPreferences

__all__ = ["RecordUDF"]

logger = logging.getLogger(__name__)


class RecordUDF(UDF):
    """Write all frames into a ``.npy`` file, of the shape and dtype of the dataset.

    In a run with corrections, frames are written corrected, and so as floats. Every worker writes its own part of the
    file, so they must all see the same file system. While the run goes on, it is called ``scan.npy.part``; it gets its
    name, and replaces one that is there, when it is complete. After a run that ended early, ``scan.npy.part`` stays,
    with zeros for what is missing; when it cannot be written to the end, as on a full disk, it is removed. Positions
    for which the source has no frame stay 0. `Context.export_dataset` does the same, and never leaves anything half
    written behind.

    It has no results. An executor that computes only what is asked for, ``"delayed"``, therefore writes nothing.

    Parameters
    ----------
    filename
        The file; a relative path is meant from the current folder of the main process.

    Raises
    ------
    RuntimeError
        In a run with a region of interest: the file has a place for every frame.
    UDFException
        When the run reads that file.
    OSError
        When the file cannot be written.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=RecordUDF("scan.npy"))
    >>> np.load("scan.npy").shape
    (6, 8, 32, 32)
    """

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        super().__init__(filename=str(Path(filename).absolute()))

    def get_preferred_input_dtype(self) -> Any:
        """Take the dataset's own."""
        return self.USE_NATIVE_DTYPE

    def get_tiling_preferences(self) -> TilingPreferences:
        """Take tiles of any size."""
        return {"depth": self.TILE_DEPTH_MAX, "total_size": self.TILE_SIZE_MAX}

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare nothing."""
        return {}

    def preprocess(self) -> None:
        """Make the file; once, on the main side."""
        if self.meta.array_backend is not None:
            return
        if self.meta.roi is not None:
            msg = "RecordUDF writes all frames of a dataset, it cannot be run with a roi: leave the roi out"
            raise RuntimeError(msg)
        shape = tuple(self.meta.dataset_shape)
        if Path(self.params.filename).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.params.filename)
        np.lib.format.open_memmap(self._unfinished, mode="w+", dtype=self.meta.input_dtype, shape=shape)

    @property
    def _unfinished(self) -> str:
        return f"{self.params.filename}.part"

    def end_run(self, is_complete: bool) -> None:
        """Give the file its name, or say where it is when frames are missing."""
        if is_complete:
            import shutil  # with all that it can pack and unpack, which few programs need

            # A link stays one: what it leads to is replaced, which may be on another disk.
            shutil.move(self._unfinished, os.path.realpath(self.params.filename))
            return
        merged = self.meta.get_valid_nav_mask()
        if merged is None:  # nothing is in it
            Path(self._unfinished).unlink(missing_ok=True)
        elif Path(self._unfinished).exists():
            n, of = int(merged.sum()), merged.size
            logger.warning("the run ended early: %s has %d of %d frames, and zeros", self._unfinished, n, of)

    def get_task_data(self) -> dict[str, Any]:
        """Open the file."""
        unfinished = self._unfinished
        # When results are computed later, the run is over on the main side before tasks write.
        path = unfinished if Path(unfinished).exists() else self.params.filename
        return {"file": _RecordFile(path, self.meta.dataset_shape.sig.size)}

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Write a tile."""
        meta = self.meta
        start = meta.slice.origin[0]
        if meta.tiling_scheme is None or meta.tiling_scheme.is_full_sig:
            self.task_data.file.write(tile, start)
        else:
            self.task_data.file.write_part(tile, start, meta.sig_slice.get(), meta.dataset_shape.sig.to_tuple())

    def cleanup(self) -> None:
        """Close the file."""
        if "file" in self.task_data:
            self.task_data.file.close()


class _RecordFile:
    """A ``.npy`` file that one task writes its frames into."""

    def __init__(self, path: str, frame_pixels: int) -> None:
        array = np.load(path, mmap_mode="r+")
        self._offset = int(array.offset)
        self._frame_bytes = frame_pixels * array.dtype.itemsize
        self._array = array
        self._path = path
        self._fd = os.open(path, os.O_WRONLY)

    def write(self, frames: NDArray[Any], start: int) -> None:
        """Write whole frames; system calls are several times as fast as page faults."""
        data = np.ascontiguousarray(frames).reshape(-1).view(np.uint8)
        place = self._offset + start * self._frame_bytes
        try:
            while data.size:
                done = os.pwrite(self._fd, data.data, place)
                data, place = data[done:], place + done
        except OSError:
            # The file has its full size from the start: nobody could see that something is missing.
            Path(self._path).unlink(missing_ok=True)
            raise

    def write_part(self, frames: NDArray[Any], start: int, part: tuple[slice, ...], sig_shape: tuple[int, ...]) -> None:
        """Write the same part of several frames."""
        flat = self._array.reshape((-1, *sig_shape))
        flat[(slice(start, start + len(frames)), *part)] = frames

    def close(self) -> None:
        """Close the file; what was written is there for everybody who opens it from now on."""
        os.close(self._fd)
        del self._array
