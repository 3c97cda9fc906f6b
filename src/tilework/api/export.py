"""Datasets into files that everything can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilework.common.executor import LazyExecutor
from tilework.io.results.atomic import appearing
from tilework.udf.record import RecordUDF
from tilework.udf.runner import UDFRunner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.api.context import Context
    from tilework.common.progress import ProgressReporter
    from tilework.io.dataset.base import DataSet

__all__ = ["export_dataset"]


def export_dataset(
    ctx: Context,
    dataset: DataSet,
    path: str | bytes | os.PathLike[str],
    *,
    progress: bool | ProgressReporter = False,
    overwrite: bool = False,
) -> None:
    """Write a dataset into a ``.npy`` file; see `Context.export_dataset`."""
    target = Path(os.fsdecode(path)).absolute()
    if target.suffix.lower() != ".npy":
        msg = f"cannot export to {target}: only .npy files can be written, so the name must end in .npy"
        raise ValueError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already: give overwrite=True to replace it, or another name"
        raise FileExistsError(msg)
    if target.is_dir():
        msg = f"{target} is a folder, and is not replaced: choose another name"
        raise IsADirectoryError(msg)
    with appearing(target, overwrite=overwrite) as partial:
        _write(ctx, dataset, partial, progress)


def _write(ctx: Context, dataset: DataSet, path: Path, progress: bool | ProgressReporter) -> None:
    if isinstance(ctx.executor, LazyExecutor):
        # It computes what is asked for, and there is no result to ask for: the file would stay empty.
        from tilework.executor.inline import InlineJobExecutor

        corrections = dataset.get_correction_data()
        runner = UDFRunner([RecordUDF(path, _is_kept=False)])
        runner.run_for_dataset(dataset, InlineJobExecutor(), progress=progress, corrections=corrections)
    else:
        ctx.run_udf(dataset=dataset, udf=RecordUDF(path, _is_kept=False), progress=progress)
    absent = dataset.absent_frames
    if absent is not None:
        _blank(path, absent)


def _blank(path: Path, positions: NDArray[np.bool_]) -> None:
    """Fill frames with NaN, in a file of numbers that have it."""
    array = np.load(path, mmap_mode="r")
    if array.dtype.kind not in "fc":
        return
    blank = np.full(array.shape[positions.ndim :], np.nan, array.dtype).tobytes()
    try:
        # Not through a map: who stores there on a full disk is killed (SIGBUS).
        with path.open("r+b") as file:
            for position in np.flatnonzero(positions).tolist():
                file.seek(array.offset + position * len(blank))
                file.write(blank)
    except OSError as error:
        error.filename = str(path)
        raise
