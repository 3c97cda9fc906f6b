"""User-defined functions: the base class, the built-in ones, and the runner.

Built-in functions are imported when they are asked for, so that importing this package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

from tilework.udf.base import (
    UDF,
    NoOpUDF,
    UDFFrameMixin,
    UDFMergeAllMixin,
    UDFPartitionMixin,
    UDFPostprocessMixin,
    UDFPreprocessMixin,
    UDFRunCancelled,
    UDFTileMixin,
    check_cast,
)
from tilework.udf.data import UDFData, UseDiscouragedWarning
from tilework.udf.meta import UDFMeta

_BUILT_IN = {
    "ApplyMasksUDF": "masks",
    "AutoUDF": "auto",
    "CoMUDF": "com",
    "CrystallinityUDF": "crystallinity",
    "FEMUDF": "FEM",
    "LogsumUDF": "logsum",
    "PartitionMonitorUDF": "monitor",
    "PickUDF": "raw",
    "RecordUDF": "record",
    "SignalMonitorUDF": "monitor",
    "StdDevUDF": "stddev",
    "SumSigUDF": "sumsigudf",
    "SumUDF": "sum",
}

__all__ = [  # noqa: PLE0604  (the built-in ones are resolved by __getattr__)
    "UDF",
    "NoOpUDF",
    "UDFData",
    "UDFFrameMixin",
    "UDFMergeAllMixin",
    "UDFMeta",
    "UDFPartitionMixin",
    "UDFPostprocessMixin",
    "UDFPreprocessMixin",
    "UDFRunCancelled",
    "UDFTileMixin",
    "UseDiscouragedWarning",
    "check_cast",
    *_BUILT_IN,
]


def __getattr__(name: str) -> Any:
    if name in _BUILT_IN:
        return getattr(importlib.import_module(f"{__name__}.{_BUILT_IN[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
