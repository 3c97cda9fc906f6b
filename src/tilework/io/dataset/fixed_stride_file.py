"""Formats of files whose frames lie at a fixed distance: what they have in common beyond the frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tilework.io.dataset.files import absolute
from tilework.io.dataset.fixed_stride import FixedStrideDataSet
from tilework.io.dataset.params import take_deprecated

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from tilework.common.executor import JobExecutor

__all__ = ["FixedStrideFile"]


class FixedStrideFile(FixedStrideDataSet):
    """Base of formats of files whose frames lie at a fixed distance.

    Parameters
    ----------
    path
        The file, or one of several.
    nav_shape, sig_shape, sync_offset, io_backend, num_partitions
        As of `FixedStrideDataSet`.
    **deprecated
        Arguments of older programs; see `take_deprecated`.
    """

    FORMAT: ClassVar[str]
    """Name of the format."""

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        nav_shape: Sequence[int] | None = None,
        sig_shape: Sequence[int] | None = None,
        sync_offset: int = 0,
        io_backend: str | None = None,
        num_partitions: int | None = None,
        **deprecated: Any,
    ) -> None:
        shapes = take_deprecated({"nav_shape": nav_shape, "sig_shape": sig_shape}, deprecated)
        super().__init__(**shapes, sync_offset=sync_offset, io_backend=io_backend, num_partitions=num_partitions)
        self._path = absolute(path)

    @classmethod
    def _recognize(cls, path: str) -> dict[str, Any] | None:
        """Return the arguments, besides the path, for a file of this format; None for others. Runs on a worker.

        Raises
        ------
        DataSetException
            When the file cannot be read, or is only nearly one of this format.
        """
        raise NotImplementedError

    @classmethod
    def detect_params(cls, path: Any, executor: JobExecutor) -> dict[str, Any] | bool:
        """Look whether `path` is a file of this format; see `DataSet.detect_params`."""
        name = absolute(path)
        arguments = executor.run_function(cls._recognize, name)
        if arguments is None:
            return False
        source = executor.run_function(cls(name, **arguments)._probe)
        return {
            "parameters": {"path": path, **arguments, "nav_shape": source.nav_shape, "sig_shape": source.sig_shape},
            "info": {"image_count": source.layout.image_count, "native_sig_shape": source.sig_shape},
        }

    @classmethod
    def combine_detected(cls, detected: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments; the scan shape is found again, unless given, with what tells it."""
        return super().combine_detected({key: v for key, v in detected.items() if key != "nav_shape"}, given)

    def _name(self) -> str:
        return self._path

    def describe(self) -> dict[str, Any]:
        """Return where the data comes from and how it was understood; can be written as JSON."""
        nav_from = self.source.nav_from if self._nav_shape is None else "as given"
        return {**super().describe(), "format": self.FORMAT, "nav_shape_from": nav_from}
