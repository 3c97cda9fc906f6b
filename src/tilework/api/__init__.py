"""What users' programs import: `Context`, and what its runs return."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilework.api.context import Context, ExecutorSpecType
from tilework.common.executor import Priority
from tilework.common.roi import RoiT

if TYPE_CHECKING:
    from tilework.api.async_generators import ResultAsyncGenerator
    from tilework.api.generators import ResultGenerator
    from tilework.api.runs import RunProgress, UDFRun

__all__ = [
    "Context",
    "ExecutorSpecType",
    "Priority",
    "ResultAsyncGenerator",
    "ResultGenerator",
    "RoiT",
    "RunProgress",
    "UDFRun",
]

_LAZY = {
    "ResultAsyncGenerator": "tilework.api.async_generators",
    "ResultGenerator": "tilework.api.generators",
    "RunProgress": "tilework.api.runs",
    "UDFRun": "tilework.api.runs",
}


if not TYPE_CHECKING:  # for type checkers, only what is imported above exists

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(_LAZY[name]), name)
