"""What is loaded while the process starts that workers come from, which takes as long as to load all of this."""

from __future__ import annotations

from importlib import import_module
from typing import Final

__all__ = ["OF_TASKS", "load_what_runs_need"]

OF_TASKS: Final = ("tilework.udf.runner", "tilework.io.dataset.fixed_stride")
"""Modules that tasks need; with fixed frames, as most formats have them."""

_OF_RUNS: Final = ("tilework.api.requests", "tilework.api.generators")


def load_what_runs_need() -> None:
    """Load what the first run would load otherwise, when nothing else is done at the same time."""
    for name in (*OF_TASKS, *_OF_RUNS):
        import_module(name)
