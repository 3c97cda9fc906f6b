"""What users' programs import: `Context`, and what its runs return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.api.context import Context, ExecutorSpecType
from tilework.api.generators import ResultGenerator
from tilework.common.executor import Priority
from tilework.common.roi import RoiT

if TYPE_CHECKING:
    from tilework.api.async_generators import ResultAsyncGenerator
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


def __getattr__(name: str) -> Any:
    if name == "ResultAsyncGenerator":
        from tilework.api.async_generators import ResultAsyncGenerator

        return ResultAsyncGenerator
    if name in {"RunProgress", "UDFRun"}:
        from tilework.api import runs

        return getattr(runs, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
