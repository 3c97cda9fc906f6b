"""A kernel and the tile that it is called for: all of it, or parts in several threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.common.kernels.parallel import run_parts
from tilework.common.kernels.payoff import EXACT_SUMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilework.common.kernels.kernel import Kernel
    from tilework.common.kernels.rows import Rows

__all__ = ["KernelCall"]


class KernelCall:
    """A kernel with a tile.

    Parameters
    ----------
    kernel
        The kernel.
    rows
        The tile as rows.
    arguments
        Called with the first and the end of the frames, or pixels, to compute: returns what the kernel is called with.
    """

    __slots__ = ("_arguments", "_kernel", "_rows")

    def __init__(self, kernel: Kernel, rows: Rows, arguments: Callable[[int, int], tuple[Any, ...]]) -> None:
        self._kernel = kernel
        self._rows = rows
        self._arguments = arguments

    def __call__(self, start: int, stop: int) -> None:
        """Call the kernel for some of the frames, or pixels."""
        self._kernel(*self._arguments(start, stop))

    def is_due(self) -> bool:
        """Return whether it pays to call it where NumPy gives the same bits; the pixels are counted already."""
        return EXACT_SUMS.is_due(self._kernel, self._arguments(0, 0))

    def run(self, size: int, threads: int, grain: int = 1, *, work: int | None = None) -> None:
        """Call it for parts of ``range(size)``; see `tilework.common.kernels.parallel.run_parts`.

        Parameters
        ----------
        size, threads, grain
            As of `run_parts`.
        work
            The same; None: the bytes of the tile.
        """
        run_parts(self, size, threads, grain, work=self._rows.nbytes if work is None else work)
