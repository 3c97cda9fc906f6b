"""What a command prints to standard output, and nothing else of what is printed there."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ReaderGoneError", "flush_text", "print_text", "printed_to_stderr"]


class ReaderGoneError(Exception):
    """Whoever read standard output has seen enough of it."""


def print_text(text: str) -> None:
    """Print to standard output, now.

    Raises
    ------
    ReaderGoneError
        When nobody reads it any more.
    OSError
        When it takes nothing for another reason.
    """
    with _readers_seen():
        print(text, flush=True)


def flush_text() -> None:
    """Have everything out that was printed to standard output, by whomever; raises what `print_text` does."""
    with _readers_seen():
        sys.stdout.flush()


@contextlib.contextmanager
def _readers_seen() -> Iterator[None]:
    """Tell the end of a pipe that is our output from that of any other, which is an error."""
    try:
        yield
    except BrokenPipeError as error:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGoneError from error


@contextlib.contextmanager
def printed_to_stderr() -> Iterator[None]:
    """Let what is printed in the block go to stderr: by functions and libraries, here and in processes begun in it."""
    with _file_as_stderr(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _file_as_stderr() -> Iterator[None]:
    """Let the file of standard output be that of stderr; but not where something else stands for it in Python."""
    try:
        number, other = sys.stdout.fileno(), sys.stderr.fileno()
    except io.UnsupportedOperation:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        if os.name == "posix":
            import ctypes

            ctypes.CDLL(None).fflush(None)  # compiled code prints through a buffer of its own
        os.dup2(kept, number)
        os.close(kept)
