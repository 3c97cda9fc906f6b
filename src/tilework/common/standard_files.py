"""Standard input, output and error of a process, which whoever started it may have closed."""

from __future__ import annotations

import os

__all__ = ["have_standard_files"]


def have_standard_files() -> None:
    """Let standard input, output and error be there, if need be as files that take and give nothing.

    Otherwise what is opened next has their numbers, and what anything prints goes there, here and in worker processes.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(fd, True)
