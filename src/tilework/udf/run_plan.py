"""What was decided for a run; see `tilework.udf.plan` for how."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tilework.common.array_backends import NUMPY_BACKENDS, resources_for
from tilework.udf.backends import BackendPlan, available_backends, plan_backends

if TYPE_CHECKING:
    import numpy as np

    from tilework.common.scheduler import ResourceDef
    from tilework.common.udf import UDFMethod

__all__ = ["RunPlan", "UDFPlan"]


@dataclass(frozen=True, slots=True)
class UDFPlan:
    """What one UDF of a run gets.

    Attributes
    ----------
    name
        Name of its class.
    method
        Which of its methods is called.
    input_dtype
        What it computes in.
    tile_dtype
        dtype of NumPy tiles; tiles of other kinds have `input_dtype`.
    backends
        Kinds of array it can get, best first; which of them it gets depends on the worker's device.
    compiled
        Whether it uses compiled kernels; None: those with the same bits as NumPy, once they save time.
    corrects_tiles
        Whether its NumPy tiles are corrected for the detector; otherwise it corrects its results, if necessary.
    run_has_corrections
        Whether the run has corrections.
    """

    name: str
    method: UDFMethod
    input_dtype: np.dtype[Any]
    tile_dtype: np.dtype[Any]
    backends: tuple[str, ...]
    compiled: bool | None
    corrects_tiles: bool = False
    run_has_corrections: bool = False

    def dtype_for(self, backend: str) -> np.dtype[Any]:
        """Return the dtype of tiles of this kind."""
        return self.tile_dtype if backend in NUMPY_BACKENDS else self.input_dtype

    def corrected_for(self, backend: str) -> bool:
        """Return whether tiles of this kind are corrected for the detector."""
        return self.corrects_tiles or (self.run_has_corrections and backend not in NUMPY_BACKENDS)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What all UDFs of a run get.

    Attributes
    ----------
    udfs
        What each gets.
    dataset_dtype
        dtype of the dataset, native byte order.
    stored_dtype
        The same, with the byte order of tiles that are views of what the dataset holds.
    offered
        Array backends of the dataset.
    resources
        What a worker must have to run the tasks.
    usual
        The array backends on the CPU, or on a GPU if the UDFs can run on nothing else: what tiles are cut for.
    compiled
        Whether some UDF uses compiled kernels, so that they are loaded anyway; None: some UDF may.
    """

    udfs: tuple[UDFPlan, ...]
    dataset_dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    offered: tuple[str, ...]
    resources: ResourceDef
    usual: BackendPlan
    compiled: bool | None = field(init=False)

    def __post_init__(self) -> None:
        choices = {p.compiled for p in self.udfs}
        compiled = True if True in choices else None if None in choices else False
        object.__setattr__(self, "compiled", compiled)  # asked for by every task

    @classmethod
    def make(
        cls,
        udfs: tuple[UDFPlan, ...],
        dataset_dtype: np.dtype[Any],
        stored_dtype: np.dtype[Any],
        offered: tuple[str, ...],
    ) -> RunPlan:
        """Return the plan for UDFs over a dataset.

        Raises
        ------
        RuntimeError, ValueError
            When no worker could run all of them.
        """
        supported = tuple(p.backends for p in udfs)
        resources, usual = _usual(supported, offered)
        return cls(udfs, dataset_dtype, stored_dtype, offered, dict(resources), usual)

    def on_device(self, device_class: str, has_cupy: bool) -> BackendPlan:
        """Return the array backends on a worker.

        Parameters
        ----------
        device_class
            Kind of device of the worker.
        has_cupy
            Whether CuPy works there; looked at for ``"cuda"`` only.

        Raises
        ------
        RuntimeError
            When the UDFs cannot run there.
        """
        if device_class == "cpu" and "CUDA" not in self.resources:
            return self.usual
        supported = tuple(p.backends for p in self.udfs)
        return plan_backends(supported, self.offered, device_class, available_backends(device_class, has_cupy))

    @property
    def converts(self) -> bool:
        """Whether some UDF needs tiles corrected, or in another dtype, order or kind of array than the dataset has."""
        usual = self.usual
        each = zip(self.udfs, usual.udfs, strict=True)
        return self.corrects or any(n != usual.dataset or p.dtype_for(n) != self.stored_dtype for p, n in each)

    @property
    def corrects(self) -> bool:
        """Whether some UDF needs tiles that are corrected for the detector."""
        return any(p.corrected_for(name) for p, name in zip(self.udfs, self.usual.udfs, strict=True))

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """The widest dtype in which tiles are handed out."""
        dtypes = [p.dtype_for(name) for p, name in zip(self.udfs, self.usual.udfs, strict=True)]
        return max(dtypes, key=lambda d: d.itemsize, default=self.dataset_dtype)


@lru_cache(maxsize=256)
def _usual(supported: tuple[tuple[str, ...], ...], offered: tuple[str, ...]) -> tuple[ResourceDef, BackendPlan]:
    """Return what a worker must have, and the array backends on the usual device; see `RunPlan`."""
    resources = resources_for(supported)
    device = "cuda" if "CUDA" in resources else "cpu"
    return resources, plan_backends(supported, offered, device, available_backends(device, has_cupy=True))
