"""What users' programs import: `Context`, and the iterators that its runs return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.api.context import Context, ExecutorSpecType
from tilework.api.generators import ResultGenerator
from tilework.common.roi import RoiT

if TYPE_CHECKING:
    from tilework.api.async_generators import ResultAsyncGenerator

__all__ = ["Context", "ExecutorSpecType", "ResultAsyncGenerator", "ResultGenerator", "RoiT"]


def __getattr__(name: str) -> Any:
    if name == "ResultAsyncGenerator":
        from tilework.api.async_generators import ResultAsyncGenerator

        return ResultAsyncGenerator
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
