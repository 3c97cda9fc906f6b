"""Frames into a NumPy file, as they come."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tilework.udf.base import UDF
from tilework.udf.instance import update_kwargs

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
        When the file cannot be written, another run is recording it, or something is there that is no file.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=RecordUDF("scan.npy"))
    >>> np.load("scan.npy").shape
    (6, 8, 32, 32)
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        _inode: int | None = None,
        _offset: int = 0,
        _is_kept: bool = True,
    ) -> None:
        # The run says which file it made, as one of that name may be another, and where its frames begin.
        super().__init__(filename=str(Path(filename).absolute()), _inode=_inode, _offset=_offset, _is_kept=_is_kept)
        self._made: BinaryIO | None = None  # on the main side, which has it locked

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
        """Make the file; once, on the main side. What it may raise is said of `RecordUDF`."""
        if self.meta.array_backend is not None:
            return
        if self.meta.roi is not None:
            msg = "RecordUDF writes all frames of a dataset, it cannot be run with a roi: leave the roi out"
            raise RuntimeError(msg)
        shape = tuple(self.meta.dataset_shape)
        target = Path(self.params.filename)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if target.exists() and not target.is_file():
            raise FileExistsError(errno.EEXIST, "it is no regular file, and not replaced", str(target))
        self._made = _open_locked(self._unfinished, str(target))
        array = np.lib.format.open_memmap(self._unfinished, mode="w+", dtype=self.meta.input_dtype, shape=shape)
        update_kwargs(self, {"_inode": os.fstat(self._made.fileno()).st_ino, "_offset": array.offset})

    @property
    def _unfinished(self) -> str:
        return f"{self.params.filename}.part"

    def end_run(self, is_complete: bool) -> None:
        """Give the file its name, or say where it is when frames are missing."""
        made, self._made = self._made, None
        if made is None:  # it was not begun
            return
        with made:
            try:
                self._end(is_complete)
            finally:
                _unlock(made)

    def _end(self, is_complete: bool) -> None:
        if is_complete:
            import shutil  # with all that it can pack and unpack, which few programs need

            # A link stays one: what it leads to is replaced, which may be on another disk.
            shutil.move(self._unfinished, os.path.realpath(self.params.filename))
            return
        merged = self.meta.get_valid_nav_mask()
        if merged is None or not self.params._is_kept:  # nothing is in it, or nobody wants it
            Path(self._unfinished).unlink(missing_ok=True)
        elif Path(self._unfinished).exists():
            n, of = int(merged.sum()), merged.size
            logger.warning("the run ended early: %s has %d of %d frames, and zeros", self._unfinished, n, of)

    def get_task_data(self) -> dict[str, Any]:
        """Open the file."""
        path = name = self.params.filename
        if Path(self._unfinished).exists():
            path = self._unfinished
        # When results are computed later, the run is over on the main side before tasks write. Else this is the file
        # of before.
        elif not Path(name).exists() or Path(name).stat().st_ino != self.params._inode:
            msg = (
                "what is recorded is not there: a task that could not write it, as on a full disk, has removed it, or "
                "this worker does not see the file system of the main process"
            )
            raise FileNotFoundError(errno.ENOENT, msg, name)
        sig_shape = self.meta.dataset_shape.sig.to_tuple()
        return {"file": _RecordFile(path, name, self.params._offset, sig_shape, self.meta.input_dtype)}

    def process_tile(self, tile: NDArray[Any]) -> None:
        """Write a tile."""
        meta = self.meta
        start = meta.slice.origin[0]
        if meta.tiling_scheme is None or meta.tiling_scheme.is_full_sig:
            self.task_data.file.write(tile, start)
        else:
            self.task_data.file.write_part(tile, start, meta.sig_slice.get())

    def cleanup(self) -> None:
        """Close the file."""
        if "file" in self.task_data:
            self.task_data.file.close()


def _open_locked(path: str, name: str) -> BinaryIO:
    """Open a file, which is made when it is not there, and keep others from recording it.

    The lock is gone with the process that has it, however it ends; some file systems have none.
    """
    folder = Path(path).parent
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: create it first", str(folder))
    while True:
        file = Path(path).open("ab")  # noqa: SIM115  (it stays open for as long as the run goes on)
        try:
            with contextlib.suppress(ImportError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FileExistsError(errno.EEXIST, "another run is recording it", name) from None
        except OSError as error:
            logger.debug("%s cannot be locked: %s", path, error)
        # The run that had it may have ended just now, and given it its name.
        with contextlib.suppress(FileNotFoundError):
            if Path(path).stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def _unlock(file: BinaryIO) -> None:
    """Let go of a file also where a fork of this process has it open."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


class _RecordFile:
    """A ``.npy`` file that one task writes its frames into.

    It is not mapped: the file has its full size from the start, and who stores to a place in a map for which a full
    disk has no room is killed (SIGBUS).

    Parameters
    ----------
    path
        Where it is.
    name
        What it is called in errors.
    offset
        Where its frames begin, in bytes.
    sig_shape
        Shape of a frame.
    dtype
        Of the pixels.
    """

    def __init__(self, path: str, name: str, offset: int, sig_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._offset = offset
        self._dtype = dtype
        self._sig_shape = sig_shape
        self._path = path
        self._name = name
        self._fd = os.open(path, os.O_WRONLY)

    def write(self, frames: NDArray[Any], start: int) -> None:
        """Write whole frames; system calls are several times as fast as page faults."""
        self._put(frames, start * math.prod(self._sig_shape))

    def write_part(self, frames: NDArray[Any], start: int, part: tuple[slice, ...]) -> None:
        """Write the same part of several frames."""
        sig = self._sig_shape
        # All axes after this one are complete: a piece of as many pixels lies in one run.
        axis = next(k for k in range(len(sig)) if frames.shape[k + 2 :] == sig[k + 1 :])
        pixels = math.prod(frames.shape[axis + 1 :])
        places = np.arange(math.prod(sig)).reshape(sig)[part].reshape(-1, pixels)[:, 0]
        for position, frame in enumerate(frames.reshape(len(frames), -1, pixels), start):
            for place, piece in zip(places.tolist(), frame, strict=True):
                self._put(piece, position * math.prod(sig) + place)

    def _put(self, pixels: NDArray[Any], first: int) -> None:
        """Write pixels that follow each other; `first` is the number of the first in the file."""
        data = np.ascontiguousarray(pixels, dtype=self._dtype).reshape(-1).view(np.uint8)
        place = self._offset + first * self._dtype.itemsize
        try:
            while data.size:
                done = os.pwrite(self._fd, data.data, place)
                data, place = data[done:], place + done
        except OSError as error:
            # The file has its full size from the start: nobody could see that something is missing.
            Path(self._path).unlink(missing_ok=True)
            error.filename = self._name
            raise

    def close(self) -> None:
        """Close the file; what was written is there for everybody who opens it from now on."""
        os.close(self._fd)
