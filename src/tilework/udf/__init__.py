"""User-defined functions: the base class, the built-in ones, and the runner.

Built-in functions are imported when they are asked for, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tilework.common.whole_numpy  # noqa: F401  (before all others)
from tilework.common.later import import_later
from tilework.udf.base import (
    UDF,
    NoOpUDF,
    UDFFrameMixin,
    UDFMergeAllMixin,
    UDFPartitionMixin,
    UDFPostprocessMixin,
    UDFPreprocessMixin,
    UDFRunCancelled,
    UDFRunEndMixin,
    UDFTileMixin,
    check_cast,
)
from tilework.udf.data import UDFData, UseDiscouragedWarning
from tilework.udf.meta import UDFMeta

if TYPE_CHECKING:
    from tilework.udf.auto import AutoUDF
    from tilework.udf.com import CoMUDF
    from tilework.udf.crystallinity import CrystallinityUDF
    from tilework.udf.FEM import FEMUDF
    from tilework.udf.logsum import LogsumUDF
    from tilework.udf.masks import ApplyMasksUDF
    from tilework.udf.monitor import PartitionMonitorUDF, SignalMonitorUDF
    from tilework.udf.raw import PickUDF
    from tilework.udf.record import RecordUDF
    from tilework.udf.stddev import StdDevUDF
    from tilework.udf.sum import SumUDF
    from tilework.udf.sumsigudf import SumSigUDF

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

__all__ = [
    "FEMUDF",
    "UDF",
    "ApplyMasksUDF",
    "AutoUDF",
    "CoMUDF",
    "CrystallinityUDF",
    "LogsumUDF",
    "NoOpUDF",
    "PartitionMonitorUDF",
    "PickUDF",
    "RecordUDF",
    "SignalMonitorUDF",
    "StdDevUDF",
    "SumSigUDF",
    "SumUDF",
    "UDFData",
    "UDFFrameMixin",
    "UDFMergeAllMixin",
    "UDFMeta",
    "UDFPartitionMixin",
    "UDFPostprocessMixin",
    "UDFPreprocessMixin",
    "UDFRunCancelled",
    "UDFRunEndMixin",
    "UDFTileMixin",
    "UseDiscouragedWarning",
    "check_cast",
]


if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, __name__, _BUILT_IN)


def __dir__() -> list[str]:
    return sorted(__all__)
