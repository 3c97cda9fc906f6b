"""What the runner, the tiling and the executors need to know of a user-defined function, without importing one."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Any, Final, Literal, TypedDict

__all__ = [
    "ResourceDef",
    "TileDepthEnum",
    "TileSizeEnum",
    "TilingPreferences",
    "UDFMethod",
    "UDFProtocol",
    "get_method",
]

ResourceDef = dict[Literal["CPU", "compute", "ndarray", "CUDA"], int]


class UDFMethod(Enum):
    """Which of the ``process_*`` methods of a UDF the runner calls."""

    TILE = "tile"
    FRAME = "frame"
    PARTITION = "partition"


class TileDepthEnum(Enum):
    """Sentinels for the depth of a tile."""

    TILE_DEPTH_DEFAULT = object()


class TileSizeEnum(Enum):
    """Sentinels for the size of a tile."""

    TILE_SIZE_BEST_FIT = object()


class TilingPreferences(TypedDict):
    """What a UDF would like its tiles to be: depth in frames, total size in bytes."""

    depth: int | float | TileDepthEnum
    total_size: int | float | TileSizeEnum


class UDFProtocol:
    """The part of a UDF that is looked at before it runs, and the constants that a UDF's author uses."""

    USE_NATIVE_DTYPE: Final = bool
    TILE_SIZE_BEST_FIT: Final = TileSizeEnum.TILE_SIZE_BEST_FIT
    TILE_SIZE_MAX: Final = inf
    TILE_DEPTH_DEFAULT: Final = TileDepthEnum.TILE_DEPTH_DEFAULT
    TILE_DEPTH_MAX: Final = inf
    UDF_METHOD: Final = UDFMethod

    BACKEND_NUMPY: Final = "numpy"
    BACKEND_CUPY: Final = "cupy"
    BACKEND_CUDA: Final = "cuda"
    BACKEND_SPARSE_COO: Final = "sparse.COO"
    BACKEND_SPARSE_GCXS: Final = "sparse.GCXS"
    BACKEND_SPARSE_DOK: Final = "sparse.DOK"
    BACKEND_SCIPY_COO: Final = "scipy.sparse.coo_matrix"
    BACKEND_SCIPY_CSR: Final = "scipy.sparse.csr_matrix"
    BACKEND_SCIPY_CSC: Final = "scipy.sparse.csc_matrix"
    BACKEND_SCIPY_COO_ARRAY: Final = "scipy.sparse.coo_array"
    BACKEND_SCIPY_CSR_ARRAY: Final = "scipy.sparse.csr_array"
    BACKEND_SCIPY_CSC_ARRAY: Final = "scipy.sparse.csc_array"
    BACKEND_CUPY_SCIPY_COO: Final = "cupyx.scipy.sparse.coo_matrix"
    BACKEND_CUPY_SCIPY_CSR: Final = "cupyx.scipy.sparse.csr_matrix"
    BACKEND_CUPY_SCIPY_CSC: Final = "cupyx.scipy.sparse.csc_matrix"
    BACKEND_ALL: Final = (
        BACKEND_CUPY_SCIPY_CSR,
        BACKEND_CUPY_SCIPY_CSC,
        BACKEND_CUPY_SCIPY_COO,
        BACKEND_SCIPY_COO_ARRAY,
        BACKEND_SCIPY_CSC_ARRAY,
        BACKEND_SCIPY_CSR_ARRAY,
        BACKEND_SCIPY_CSR,
        BACKEND_SCIPY_CSC,
        BACKEND_SCIPY_COO,
        BACKEND_CUPY,
        BACKEND_NUMPY,
        BACKEND_SPARSE_COO,
        BACKEND_SPARSE_GCXS,
    )

    def get_method(self) -> UDFMethod:
        """Return which of the ``process_*`` methods is used."""
        return get_method(self)

    def get_tiling_preferences(self) -> TilingPreferences:
        """Return the most frames and bytes a tile should have."""
        return {"depth": self.TILE_DEPTH_DEFAULT, "total_size": self.TILE_SIZE_MAX}


def get_method(udf: Any) -> UDFMethod:
    """Return the method a UDF is run with when it does not say so itself: tile before frame before partition.

    One that has a frame kernel gets frames.

    Raises
    ------
    TypeError
        When it has none of ``process_tile``, ``process_frame`` and ``process_partition``.
    """
    if getattr(udf, "get_frame_kernel", lambda: None)() is not None:
        return UDFMethod.FRAME
    for method in (UDFMethod.TILE, UDFMethod.FRAME, UDFMethod.PARTITION):
        if callable(getattr(udf, f"process_{method.value}", None)):
            return method
    msg = (
        f"{type(udf).__name__} has none of process_frame, process_tile and process_partition: "
        "implement the one that fits what it computes"
    )
    raise TypeError(msg)
