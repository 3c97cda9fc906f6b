"""From arguments to exit code: the one place where errors become messages and signals become ends."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from tilework.cli.parser import make_parser, parse
from tilework.cli.printing import ReaderGoneError, flush_text
from tilework.common.standard_files import have_standard_files
from tilework.exceptions import TileworkError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

__all__ = ["run_command"]

# Ctrl-C, what schedulers send, a terminal that is closed, Ctrl-\.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
# How long after Ctrl-C a run may take to stop in order, while further ones are ignored (s). Then the process ends: a
# function that computes for minutes on one frame must not keep anybody waiting.
GRACE = 1.5


class _Terminated(KeyboardInterrupt):
    """A signal other than that of Ctrl-C arrived. It interrupts this process as that does, whatever it is doing.

    So it is a `KeyboardInterrupt`, which executors tell from errors of tasks, and let through.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run_command(argv: Sequence[str] | None) -> int:
    """Run the command and return its exit code; for a real command line, Ctrl-C ends the process at once."""
    if argv is None:
        _open_standard_files()
    _say_all_characters()
    parser = make_parser()
    args = parse(parser, sys.argv[1:] if argv is None else argv)
    try:
        with _signals(impatient=argv is None), _short_warnings():
            return _dispatch(args, parser)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Terminated) else signal.SIGINT
    if argv is None:
        # Threads may still be within a tile, or in a compiler; everything that matters is cleaned up.
        _end_now(number)
    return _say_end(number)


def _say_end(number: int) -> int:
    """Say which kind of signal ended the command, and return its exit code."""
    _complain(f"{'interrupted' if number == signal.SIGINT else 'terminated'}; nothing was left half-written")
    return 128 + number


def _open_standard_files() -> None:
    """Have the three standard files of a process, and what Python prints to."""
    have_standard_files()
    # Of what was closed, Python has none.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _say_all_characters() -> None:
    """Print with escapes what a terminal has no characters for, such as × where it is no UTF-8, instead of failing."""
    codecs.register_error("tilework.escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tilework.escape")


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that cannot be encoded; the names of files that are no text go as they are."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _end_now(number: int) -> NoReturn:
    """End the process because of a signal, without what Python does at its end, which would wait for threads."""
    from tilework.common.tracing import send_spans

    send_spans()
    code = _say_end(number)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _dispatch(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        # Each command is imported when it is called for: --help must be instant.
        module = importlib.import_module(f"tilework.cli.{args.command}")
        getattr(module, args.command)(args)
        flush_text()
    except ReaderGoneError:
        return 1
    except Exception as error:
        if args.debug:
            raise
        _complain(_describe(error))
        return 1
    return 0


def _describe(error: Exception) -> str:
    """Return one line for an error; errors that are not ours are named, for they may come from the user's own UDF."""
    # Notes say in which method of which UDF, and where in the data, something happened.
    text = "; ".join(" ".join(part.split()) for part in (str(error), *getattr(error, "__notes__", ())) if part)
    if isinstance(error, TileworkError):
        from tilework.executor.remote import RemoteTraceback

        cause = error.__cause__
        told = OSError | TileworkError | ImportError | RemoteTraceback
        known = cause is None or isinstance(cause, told) or str(cause) in text
        return text if known else f"{text} ({type(cause).__name__}: {cause}); --debug shows the traceback"
    if isinstance(error, OSError) and error.strerror and not hasattr(error, "__notes__"):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; check path, permission and space"
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' + text if text else ''}; select fewer positions with --roi"
    if isinstance(error, ValueError | TypeError) and text and _is_ours(error):
        return text
    return f"{type(error).__name__}: {text or 'no message'}; --debug shows the traceback"


def _is_ours(error: Exception) -> bool:
    """Return whether tilework raised an error on purpose: its message is for people."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("tilework.")


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"tilework: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals(*, impatient: bool) -> Iterator[None]:
    """Let signals end the command in order; or at once, if we are impatient and that takes too long.

    ``nohup`` has a closed terminal ignored, which stays so.
    """
    first: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        if first:
            return
        first.append(number)
        if impatient:
            threading.Thread(target=_end_after_grace, args=(number,), daemon=True).start()
        _raise_for(number)

    try:
        heeded = [n for n in ENDING if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in heeded}
    except ValueError:
        # Not in the main thread: whoever called us has the signals.
        yield
        return
    try:
        yield
    finally:
        # After a signal, when the process is about to end, the next ones stay without effect.
        for number, handler in () if first and impatient else before.items():
            signal.signal(number, handler)


def _end_after_grace(number: int) -> None:
    """End the process although it is still busy, and leave nothing half-written. Runs in a thread of its own."""
    time.sleep(GRACE)
    from tilework.cli.output import remove_unfinished

    remove_unfinished()
    _end_now(number)


def _raise_for(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _Terminated(number)


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Print warnings that concern users in one line, without the place in the source."""

    def show(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        _complain(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        if not sys.warnoptions:
            warnings.simplefilter("once")
            for about_code in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", about_code)
        yield
