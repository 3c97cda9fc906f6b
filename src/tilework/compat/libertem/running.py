"""Runs a program as Python itself would, after ``libertem`` has been made to mean tilework."""

from __future__ import annotations

import builtins
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from tilework.compat.libertem import install

__all__ = ["main"]

_USAGE: Final = """\
usage: python -m tilework.compat.libertem program.py [argument ...]
       python -m tilework.compat.libertem -m module [argument ...]
       python -m tilework.compat.libertem -c code [argument ...]
       python -m tilework.compat.libertem - [argument ...]      the program comes from standard input

Runs a program that was written for LiberTEM, unchanged, on tilework.
"""


def main(arguments: list[str]) -> None:
    """Run what the arguments say; ends with `SystemExit` when they say nothing."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        (sys.stdout if arguments else sys.stderr).write(_USAGE)
        sys.exit(0 if arguments else 2)
    what, *rest = arguments
    if what in {"-m", "-c"} and not rest:
        sys.exit(f"{_USAGE}\n{what} needs an argument")
    install()
    if what == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        _be_first_on_path("")
        _run(rest[0].encode(), "<string>", None)
    elif what == "-":
        sys.argv[:] = arguments
        _be_first_on_path("")
        _run(sys.stdin.buffer.read(), "<stdin>", None)
    elif what.startswith("-"):
        sys.exit(f"{_USAGE}\nthere is no option {what}")
    else:
        path = Path(what)
        sys.argv[:] = arguments
        try:
            source = path.read_bytes()
        except OSError as error:
            sys.exit(f"cannot read {what}: {error.strerror}")
        _be_first_on_path(str(path.resolve().parent))
        _run(source, what, str(path.absolute()))


def _be_first_on_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _run(source: bytes, name: str, file: str | None) -> None:
    """Run it in a main module of its own, which stays when it has ended, for threads and what is called at exit."""
    module = ModuleType("__main__")
    vars(module).update(__builtins__=builtins, __spec__=None)
    if file is not None:
        module.__file__ = file
    sys.modules["__main__"] = module
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))  # noqa: S102  (that is what it is for)
