"""Programs that say ``import libertem`` run on tilework: unchanged, in this process and in its workers.

::

    __init__.py   install(): from then on ``import libertem.api`` gives `tilework.api`
    __main__.py   ``python -m tilework.compat.libertem program.py``: install, then run a program
    finder.py     answers every import of ``libertem`` and what is below it
    table.py      what is under another path with us, and what we do not have
    backends.py, compiled.py
                  the few things that only such programs want
    shadow/       a folder with a package ``libertem``, which calls install(); see there

Who does what: in this process, `finder` comes before everything else that could find a module of that name. Worker
processes begin without it, but they take over ``sys.path``, to which install() has added `shadow`: so the first import
of ``libertem`` in a worker installs the finder there. That holds for all processes that `multiprocessing` or loky
starts, and for workers of tilework and of local Dask clusters. Nothing is set in the environment, so that programs
which a program starts are left alone.

Where the dotted path is the same with us, the very same module is found under both names: classes are the same ones,
are pickled under tilework's names, and what is patched in one is patched in the other.
"""

from __future__ import annotations

import sys
from typing import Any

from tilework.compat.libertem.finder import SHADOW, LibertemFinder, is_ours
from tilework.compat.libertem.table import VERSIONS

__all__ = ["dask_setup", "install"]


def install() -> None:
    """Let ``import libertem`` give tilework, also where LiberTEM is installed.

    LiberTEM-live, where it is installed, is found as before, and uses tilework then.

    Call it before the first import of ``libertem``, and before executors are made: workers that are there already
    do not get to know. Calling it again does nothing.

    Raises
    ------
    ImportError
        When LiberTEM itself has been imported in this process.
    """
    if any(isinstance(finder, LibertemFinder) for finder in sys.meta_path):
        return
    for name in VERSIONS:
        module = sys.modules.get(name)
        if module is not None and not is_ours(module):
            where = getattr(module, "__file__", None) or "unknown place"
            msg = (
                f"{name} has been imported from {where} already, and parts of both cannot be mixed: call "
                "tilework.compat.libertem.install() before the first import of libertem, or run the program "
                "with python -m tilework.compat.libertem"
            )
            raise ImportError(msg, name=name)
    sys.meta_path.insert(0, LibertemFinder())
    if SHADOW not in sys.path:
        # Before installed packages; but programs expect their own folder to be the first entry.
        sys.path.insert(0 if sys.flags.safe_path else 1, SHADOW)


def dask_setup(worker: Any) -> None:  # noqa: ARG001  (the name and the argument are Dask's)
    """Install it in a Dask worker: ``--preload tilework.compat.libertem``, for workers that others started."""
    install()
