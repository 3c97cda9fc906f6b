"""NumPy's own file format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.numbers import is_whole
from tilework.exceptions import DataSetException
from tilework.io.dataset.files import explain_os_error, open_file
from tilework.io.dataset.fixed_stride import Source
from tilework.io.dataset.fixed_stride_file import FixedStrideFile
from tilework.io.dataset.layout import FileSegment, FrameLayout
from tilework.io.dataset.params import check_dtype, cut_off
from tilework.io.dataset.seen import see

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["NPYDataSet"]

_MAGIC = b"\x93NUMPY"


def _read_header(path: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int, os.stat_result]:
    """Return shape, dtype, whether it is in Fortran order, where the data begins, and the facts about the file."""
    file, facts = open_file(path)
    with file:
        try:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version in {(2, 0), (3, 0)}:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                msg = f"format version {version} is not known"
                raise ValueError(msg)
        except OSError as e:
            raise explain_os_error(e, path) from e
        except Exception as e:  # NumPy reads a header as Python code, which can be broken in many ways
            what = "is no npy file" if not _has_magic(path) else "has a broken npy header"
            msg = f"{path} {what} ({e}): check the path, or write the array anew with numpy.save"
            raise DataSetException(msg) from e
        return shape, dtype, fortran, file.tell(), facts


def _has_magic(path: str) -> bool:
    file, _ = open_file(path)
    with file:
        return file.read(len(_MAGIC)) == _MAGIC


class NPYDataSet(FixedStrideFile):
    """An array in NumPy's file format (``.npy``).

    Parameters
    ----------
    path
        The file. The array must be numeric and in C order. Arrays of bool are delivered as u1.
    sig_dims
        Number of its last axes that are signal axes; None takes as many as `sig_shape` has.
    nav_shape, sig_shape, sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`; left out, they follow from the array's own shape.

    Examples
    --------
    >>> np.save("scan.npy", np.ones((4, 4, 8, 8), dtype="uint16"))
    >>> dataset = ctx.load("npy", path="scan.npy")
    >>> dataset.shape, dataset.dtype
    ((4, 4, 8, 8), dtype('uint16'))
    """

    FORMAT = "npy"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        sig_dims: int | None = 2,
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        super().__init__(path, nav_shape, sig_shape, sync_offset, io_backend, num_partitions, **deprecated)
        if sig_dims is None:
            if self._sig_shape is None:
                msg = f"{self._path}: with sig_dims=None, sig_shape must be given"
                raise DataSetException(msg)
            sig_dims = len(self._sig_shape)
        if not is_whole(sig_dims) or sig_dims < 1:
            msg = f"{self._path}: sig_dims={sig_dims!r} must be a whole number, and at least 1"
            raise DataSetException(msg)
        self._sig_dims = sig_dims

    def _probe(self) -> Source:
        shape, header_dtype, fortran, offset, facts = _read_header(self._path)
        dtype = check_dtype(header_dtype, self._path)
        if fortran and len(shape) > 1:
            msg = (
                f"{self._path} is stored in Fortran order, in which no frame is in one piece: "
                "write it anew with numpy.save(path, numpy.ascontiguousarray(array))"
            )
            raise DataSetException(msg)
        if len(shape) < self._sig_dims:
            msg = f"{self._path} has the shape {shape}, too few axes for sig_dims={self._sig_dims}: give fewer sig_dims"
            raise DataSetException(msg)
        if min(shape) < 1:
            msg = f"{self._path} has the shape {shape}: it holds no data, or its header is broken; write it anew"
            raise DataSetException(msg)
        nav_shape, sig_shape = shape[: -self._sig_dims] or (1,), shape[-self._sig_dims :]
        frame_bytes = math.prod(sig_shape) * dtype.itemsize
        promised = math.prod(nav_shape)
        frames, rest = divmod(facts.st_size - offset, frame_bytes)
        if frames == 0:
            msg = (
                f"{self._path} has {facts.st_size} bytes, but its header promises frames of shape {sig_shape} and "
                f"dtype {dtype} ({frame_bytes} bytes each): no whole frame is there; get the file again"
            )
            raise DataSetException(msg)
        warnings: tuple[str, ...] = ()
        if frames < promised:
            warnings = (cut_off(self._path, promised, frames, rest),)
        frames = min(frames, promised)
        seen = see(self._path, facts, offset, offset + frames * frame_bytes)
        segment = FileSegment(seen, offset, frame_bytes, frames, 0)
        return Source(
            layout=FrameLayout((segment,), dtype, sig_shape),
            dtype=dtype,
            nav_shape=nav_shape,
            sig_shape=sig_shape,
            warnings=warnings,
            info={"Shape in the file": str(shape)},
        )

    @classmethod
    def _recognize(cls, path: str) -> dict[str, Any] | None:
        return {} if _has_magic(path) else None

    @classmethod
    def combine_detected(cls, detected: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments; detected shapes hold for the default of `sig_dims` only."""
        if not given.keys().isdisjoint({"sig_dims", "sig_shape", "detector_size"}):
            detected = {"path": detected["path"]}
        return super().combine_detected(detected, given)

    @classmethod
    def get_supported_extensions(cls) -> set[str]:
        """Return the file name extensions of this format."""
        return {"npy"}
