"""LiberTEM's ways to read files, as what `Context.load` takes for ``io_backend``: their names.

tilework maps files into memory. It says so itself when it is asked for something else.
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = ["BufferedBackend", "DirectBackend", "MMapBackend"]


class MMapBackend(str):
    """``"mmap"``, which is what tilework does anyway.

    Parameters
    ----------
    enable_readahead_hints
        Not needed: the system is told what will be read.
    """

    __slots__ = ()

    def __new__(cls, enable_readahead_hints: bool = False) -> Self:  # noqa: ARG004, D102
        return super().__new__(cls, "mmap")


class _OtherBackend(str):
    """One that tilework does not have.

    Parameters
    ----------
    max_buffer_size
        Bytes.
    """

    __slots__ = ()
    _NAME: ClassVar[str]

    def __new__(cls, max_buffer_size: int = 1 << 24) -> Self:  # noqa: ARG004
        return super().__new__(cls, cls._NAME)


class BufferedBackend(_OtherBackend):
    """``"buffered"``; loading a dataset with it raises `DataSetException`."""

    __slots__ = ()
    _NAME = "buffered"


class DirectBackend(_OtherBackend):
    """``"direct"``; loading a dataset with it raises `DataSetException`."""

    __slots__ = ()
    _NAME = "direct"
