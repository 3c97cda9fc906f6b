"""What was decided for a run; see `tilework.udf.plan` for how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tilework.common.udf import ResourceDef, UDFMethod

__all__ = ["RunPlan", "UDFPlan"]


@dataclass(frozen=True, slots=True)
class UDFPlan:
    """What one UDF of a run gets."""

    name: str
    method: UDFMethod
    input_dtype: np.dtype[Any]
    tile_dtype: np.dtype[Any]
    array_backend: str
    compiled: bool
    corrected: bool = False  # whether its tiles are corrected for the detector


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What all UDFs of a run get."""

    udfs: tuple[UDFPlan, ...]
    dataset_dtype: np.dtype[Any]

    @property
    def converts(self) -> bool:
        """Whether some UDF needs tiles in another dtype than the dataset's own, or corrected."""
        return any(p.corrected or p.tile_dtype != self.dataset_dtype for p in self.udfs)

    @property
    def corrects(self) -> bool:
        """Whether some UDF needs tiles that are corrected for the detector."""
        return any(p.corrected for p in self.udfs)

    @property
    def compiled(self) -> bool:
        """Whether some UDF uses compiled kernels, so that they are loaded anyway."""
        return any(p.compiled for p in self.udfs)

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """The widest dtype in which tiles are handed out."""
        return max((p.tile_dtype for p in self.udfs), key=lambda d: d.itemsize, default=self.dataset_dtype)

    @property
    def resources(self) -> ResourceDef:
        """What a worker must have to run the tasks."""
        return {"compute": 1, "CPU": 1, "ndarray": 1}
