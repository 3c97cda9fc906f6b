"""What there is to see to when worker processes are forks of one that has loaded what they need."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final, NoReturn

__all__ = ["end_fork", "modules_to_preload", "reseed"]

_NOT_FOR_WORKERS: Final = (["__main__"], ["api"], ["cli"], ["executor"], ["testing"], ["viz"])


def modules_to_preload() -> list[str]:
    """Return the modules that tasks will need: those of numpy and tilework that this process has loaded.

    Without executors: a worker loads its own, and to load all that a program uses would take it seconds. Nor with what
    only programs use: tasks that refer to a module which imports that load it once in each worker, in a few hundredths
    of a second.
    """
    ours = (name.split(".") for name in list(sys.modules))
    return ["numpy", *(".".join(n) for n in ours if n[0] == "tilework" and n[1:2] not in _NOT_FOR_WORKERS)]


def reseed() -> None:
    """Let this process draw random numbers of its own, and not those of its siblings."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    generators = sys.modules.get("numpy.random")
    if generators is not None:
        generators.seed()


def end_fork(error: BaseException) -> NoReturn:
    """End this process, which users' code forked and let come back to ours, as Python would end it.

    Only its parent has what that goes on with: threads, and lines to other processes.

    Parameters
    ----------
    error
        What the users' code raised; SystemExit when it returned.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    try:
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif code is not None and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))
