"""A *step* is the function that takes one UDF over one tile: views of its buffers for this tile, then its method.

It is made once per partition, so that nothing is looked up again for every tile or frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import frames_of
from tilework.common.buffers import AuxBufferWrapper, BufferWrapper
from tilework.common.udf import UDFMethod, kernel_of, method_of
from tilework.exceptions import UDFException
from tilework.udf.kernel_arguments import kernel_label
from tilework.udf.user_kernels import make_kernel_step

if TYPE_CHECKING:
    from tilework.common.executor import Environment
    from tilework.common.slice import Slice
    from tilework.io.dataset.tile import DataTile
    from tilework.udf.base import UDF

__all__ = ["Step", "make_step"]

Array = np.ndarray[Any, np.dtype[Any]]
Step = Callable[["DataTile", Array], None]


def make_step(
    udf: UDF, method: UDFMethod, partition_slice: Slice, *, is_full_sig: bool, env: Environment
) -> tuple[str, Step]:
    """Return what `udf` does with one tile of a partition, and before it the name of what is called, for messages.

    Parameters
    ----------
    udf
        The UDF, prepared for the partition.
    method
        Which of its methods takes the data.
    partition_slice
        The partition, flat, in positions of the run.
    is_full_sig
        Whether tiles have whole frames.
    env
        Of the task.
    """
    origin = partition_slice.origin[0]
    kernel = _kernel_to_use(udf, method)
    if kernel is not None:
        step = make_kernel_step(udf, kernel, method, origin, is_full_sig=is_full_sig, checked=env.debug)
        return kernel_label(kernel, method), step
    nav = _nav_views(udf)
    if method is UDFMethod.FRAME:
        step = _frame_step(udf, nav, origin, env.stop_check())
    elif method is UDFMethod.PARTITION:
        step = _partition_step(udf, partition_slice)
    else:
        step = _tile_step(udf, nav, origin, is_full_sig)
    return f"process_{method.value}", step


def _kernel_to_use(udf: UDF, method: UDFMethod) -> Callable[..., None] | None:
    """Return the function that a UDF gives to be compiled; None where one of its methods is called."""
    kernel: Callable[..., None] | None = kernel_of(udf, method)
    return kernel if udf.meta.compiled or method_of(udf, f"process_{method.value}") is None else None


def _nav_views(udf: UDF) -> list[tuple[dict[str, Any], str, Array]]:
    """Return what changes with the position: where a view is put, its name, and the array of the partition."""
    nav = [
        (udf.results.__dict__, name, buffer.raw_data)
        for name, buffer in udf.results.items()
        if buffer.kind == "nav" and buffer.has_data()
    ]
    nav += [
        (udf.params.__dict__, name, value.raw_data)
        for name, value in udf._kwargs.items()
        if isinstance(value, AuxBufferWrapper) and value.kind == "nav"
    ]
    return nav


def _sig_buffers(udf: UDF) -> list[tuple[dict[str, Any], str, BufferWrapper]]:
    sig = [(udf.results.__dict__, n, b) for n, b in udf.results.items() if b.kind == "sig" and b.has_data()]
    sig += [
        (udf.params.__dict__, n, v)
        for n, v in udf._kwargs.items()
        if isinstance(v, AuxBufferWrapper) and v.kind == "sig"
    ]
    return sig


def _tile_step(udf: UDF, nav: list[tuple[dict[str, Any], str, Array]], origin: int, is_full_sig: bool) -> Step:
    process = udf.process_tile  # type: ignore[attr-defined]
    set_position = udf.meta.set_position
    sig = [] if is_full_sig else _sig_buffers(udf)

    def step(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        stop = start + data.shape[0]
        for views, name, array in nav:
            views[name] = array[start - origin : stop - origin]
        for views, name, buffer in sig:
            views[name] = buffer.get_contiguous_view_for_tile(None, tile)  # type: ignore[arg-type]
        set_position(start, stop, tile.scheme_idx)
        process(data)

    return step


def _partition_step(udf: UDF, partition_slice: Slice) -> Step:
    process = udf.process_partition  # type: ignore[attr-defined]
    length = partition_slice.shape[0]

    def step(tile: DataTile, data: Array) -> None:
        if data.shape[0] != length and tile.tile_slice.shape[0] == data.shape[0]:
            msg = (
                f"{type(udf).__name__} wants whole partitions, but {length - data.shape[0]} of the {length} frames of "
                f"{partition_slice} are absent from the source: use process_frame or process_tile, or select with a roi"
            )
            raise UDFException(msg)
        process(data)

    return step


def _frame_step(
    udf: UDF,
    nav: list[tuple[dict[str, Any], str, Array]],
    origin: int,
    raise_if_stopped: Callable[[], None],
) -> Step:
    process = udf.process_frame  # type: ignore[attr-defined]
    meta = udf.meta
    backend = meta.array_backend or "numpy"
    # Without extra shape the entry of a frame is an array of shape (1,), so that it can be assigned in place.
    rows = [(views, name, array if array.ndim > 1 else array[:, np.newaxis]) for views, name, array in nav]

    def one_nav(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        meta.set_position(start, start + 1)
        for i, (frame, row) in enumerate(zip(frames_of(data, backend), array[start - origin :], strict=False), start):
            # A tile can hold hundreds of frames, and what users do with one can take a second.
            raise_if_stopped()
            views[name] = row
            meta.start = i
            process(frame)

    def any_nav(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        meta.set_position(start, start + 1)
        for i, frame in enumerate(frames_of(data, backend), start):
            raise_if_stopped()
            for views, name, array in rows:
                views[name] = array[i - origin]
            meta.start = i
            process(frame)

    if len(rows) != 1:
        return any_nav
    views, name, array = rows[0]
    return one_nav
