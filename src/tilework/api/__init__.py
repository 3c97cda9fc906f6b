"""What users' programs import: `Context`, and what its runs return.

Importing it does not import NumPy, nor what runs need. A context whose workers are processes starts the process that
these come from at once, which then loads NumPy and the rest at the same time as this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilework.api.context import Context, ExecutorSpecType
from tilework.common.later import import_later
from tilework.common.run_options import Priority

if TYPE_CHECKING:
    from tilework.api.async_generators import ResultAsyncGenerator
    from tilework.api.generators import ResultGenerator
    from tilework.api.runs import RunProgress, RunUDFResultType, UDFRun
    from tilework.common.roi import RoiT
    from tilework.io.dataset.base import DataSet

__all__ = [
    "Context",
    "DataSet",
    "ExecutorSpecType",
    "Priority",
    "ResultAsyncGenerator",
    "ResultGenerator",
    "RoiT",
    "RunProgress",
    "RunUDFResultType",
    "UDFRun",
]

_LAZY = {
    "DataSet": "io.dataset.base",
    "ResultAsyncGenerator": "api.async_generators",
    "ResultGenerator": "api.generators",
    "RoiT": "common.roi",
    "RunProgress": "api.runs",
    "RunUDFResultType": "api.runs",
    "UDFRun": "api.runs",
}


if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, "tilework", _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
