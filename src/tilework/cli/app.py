"""From arguments to exit code: the one place where errors become messages and signals become ends."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from tilework.cli.parser import make_parser
from tilework.exceptions import TileworkError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

__all__ = ["run_command"]

INTERRUPTED, TERMINATED = 130, 143
# How long after the first Ctrl-C further ones are ignored, while what is half-written is removed (s).
GRACE = 2.0


class _Terminated(BaseException):
    """SIGTERM arrived; like `KeyboardInterrupt` not an `Exception`, so that nothing swallows it."""


def run_command(argv: Sequence[str] | None) -> int:
    """Run the command and return its exit code; for a real command line, Ctrl-C ends the process at once."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        with _signals(), _short_warnings():
            code = _dispatch(args, parser)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        _complain("interrupted; nothing was left half-written")
        code = INTERRUPTED
    except _Terminated:
        _complain("terminated; nothing was left half-written")
        code = TERMINATED
    if argv is None:
        # Threads may still be within a tile, or in a compiler; everything that matters is cleaned up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _dispatch(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        # Each command is imported when it is called for: --help must be instant.
        module = importlib.import_module(f"tilework.cli.{args.command}")
        getattr(module, args.command)(args)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        _complain(_describe(error))
        return 1
    return 0


def _describe(error: Exception) -> str:
    """Return one line for an error; errors that are not ours are named, for they may come from the user's own UDF."""
    text = " ".join(str(error).split())
    if isinstance(error, TileworkError):
        cause = error.__cause__
        known = cause is None or isinstance(cause, OSError | TileworkError | ImportError) or str(cause) in text
        return text if known else f"{text} ({type(cause).__name__}: {cause}); --debug shows the traceback"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; check path, permission and space"
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' + text if text else ''}; select fewer positions with --roi"
    return f"{type(error).__name__}: {text or 'no message'}; --debug shows the traceback"


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"tilework: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """While the command runs: the first SIGINT or SIGTERM ends it in order, a second one after a while at once."""
    first: list[float] = []

    def handle(number: int, _frame: Any) -> None:
        if not first:
            first.append(time.monotonic())
            _raise_for(number)
        if time.monotonic() - first[0] > GRACE:
            os._exit(128 + number)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Not in the main thread: whoever called us has the signals.
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_for(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _Terminated


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Print warnings in one line, without the place in the source."""

    def show(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        _complain(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
