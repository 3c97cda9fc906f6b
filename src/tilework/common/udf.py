"""What the runner, the tiling and the executors need to know of a user-defined function, without importing one."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

from tilework.common import array_backends
from tilework.common.scheduler import ResourceDef
from tilework.exceptions import MissingMethodError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ADDED_METHODS",
    "ResourceDef",
    "TileDepthEnum",
    "TileSizeEnum",
    "TilingPreferences",
    "UDFMethod",
    "UDFProtocol",
    "derives_for_frames",
    "get_method",
    "kernel_of",
    "method_of",
]

ADDED_METHODS: Final = {
    "accepts_foreign_order": "says whether tiles may come in foreign byte order",
    "accepts_tile_dtype": "says whether tiles may come in the dtype of the dataset",
    "corrects_results": "says whether the results are corrected here, instead of the frames",
    "end_run": "is called when the run is over",
    "get_frame_kernel": "returns a function of a frame that is compiled",
    "get_tile_kernel": "returns a function of a tile that is compiled",
}
"""Methods that a UDF may have and programs written for LiberTEM do not know, and what each does, for messages."""


class UDFMethod(Enum):
    """Which of the ``process_*`` methods of a UDF the runner calls."""

    TILE = "tile"
    FRAME = "frame"
    PARTITION = "partition"


class TileDepthEnum(Enum):
    """Sentinels for the depth of a tile; they may be parameters of a UDF, so that they are pickled, by value."""

    TILE_DEPTH_DEFAULT = "default"


class TileSizeEnum(Enum):
    """Sentinels for the size of a tile; see `TileDepthEnum`."""

    TILE_SIZE_BEST_FIT = "best fit"


class TilingPreferences(TypedDict):
    """What a UDF would like its tiles to be: depth in frames, total size in bytes, and not only parts of frames.

    `own_bytes` is what it reads for every tile beside that, such as its masks: much of it is for many frames.
    """

    depth: int | float | TileDepthEnum
    total_size: int | float | TileSizeEnum
    whole_frames: NotRequired[bool]
    own_bytes: NotRequired[int]


class UDFProtocol:
    """The part of a UDF that is looked at before it runs, and the constants that a UDF's author uses."""

    USE_NATIVE_DTYPE: Final = bool
    TILE_SIZE_BEST_FIT: Final = TileSizeEnum.TILE_SIZE_BEST_FIT
    TILE_SIZE_MAX: Final = inf
    TILE_DEPTH_DEFAULT: Final = TileDepthEnum.TILE_DEPTH_DEFAULT
    TILE_DEPTH_MAX: Final = inf
    UDF_METHOD: Final = UDFMethod

    BACKEND_NUMPY: Final = array_backends.NUMPY
    BACKEND_CUPY: Final = array_backends.CUPY
    BACKEND_CUDA: Final = array_backends.CUDA
    BACKEND_SPARSE_COO: Final = array_backends.SPARSE_COO
    BACKEND_SPARSE_GCXS: Final = array_backends.SPARSE_GCXS
    BACKEND_SPARSE_DOK: Final = array_backends.SPARSE_DOK
    BACKEND_SCIPY_COO: Final = array_backends.SCIPY_COO
    BACKEND_SCIPY_CSR: Final = array_backends.SCIPY_CSR
    BACKEND_SCIPY_CSC: Final = array_backends.SCIPY_CSC
    BACKEND_SCIPY_COO_ARRAY: Final = array_backends.SCIPY_COO_ARRAY
    BACKEND_SCIPY_CSR_ARRAY: Final = array_backends.SCIPY_CSR_ARRAY
    BACKEND_SCIPY_CSC_ARRAY: Final = array_backends.SCIPY_CSC_ARRAY
    BACKEND_CUPY_SCIPY_COO: Final = array_backends.CUPY_SCIPY_COO
    BACKEND_CUPY_SCIPY_CSR: Final = array_backends.CUPY_SCIPY_CSR
    BACKEND_CUPY_SCIPY_CSC: Final = array_backends.CUPY_SCIPY_CSC
    BACKEND_ALL: Final = array_backends.PRIORITY
    CPU_BACKENDS: Final = array_backends.CPU_BACKENDS
    CUDA_BACKENDS: Final = array_backends.CUDA_BACKENDS
    CUPY_BACKENDS: Final = array_backends.CUPY_BACKENDS
    SPARSE_BACKENDS: Final = array_backends.SPARSE_BACKENDS
    DENSE_BACKENDS: Final = array_backends.DENSE_BACKENDS
    ND_BACKENDS: Final = array_backends.ND_BACKENDS
    D2_BACKENDS: Final = array_backends.D2_BACKENDS

    def get_method(self) -> UDFMethod:
        """Return which of the ``process_*`` methods is used."""
        return get_method(self)

    def get_tiling_preferences(self) -> TilingPreferences | Mapping[str, Any]:
        """Return the most frames and bytes a tile should have."""
        return {"depth": self.TILE_DEPTH_DEFAULT, "total_size": self.TILE_SIZE_MAX}


def derives_for_frames(udf: Any, base: Any) -> bool:
    """Return whether a UDF has a ``process_frame`` of its own, but the ``process_tile`` of the class it derives from.

    What it does with each frame is in the former, which would go unused if `base` prefers the latter.
    """
    own = type(udf)
    return own.process_frame is not base.process_frame and own.process_tile is base.process_tile


def method_of(udf: Any, name: str) -> Any:
    """Return a method that a UDF may have; None: there is none, or None in its place.

    What its ``__getattr__`` makes up does not count. Of `ADDED_METHODS`, whose names may mean something else to those
    who do not know them, those of the class count, but not attributes of the object.
    """
    if name in vars(udf) and name not in ADDED_METHODS:
        return vars(udf)[name]
    cls = type(udf)
    found: Any = next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)
    return found.__get__(udf, cls) if hasattr(found, "__get__") else found


def kernel_of(udf: Any, method: UDFMethod) -> Any:
    """Return the function to be compiled that a UDF gives for a method; None: there is none."""
    hook = None if method is UDFMethod.PARTITION else method_of(udf, f"get_{method.value}_kernel")
    return None if hook is None else hook()


def get_method(udf: Any) -> UDFMethod:
    """Return the method a UDF is run with when it does not say so itself: tile before frame before partition.

    One that has a tile kernel, or else a frame kernel, gets what that works on.

    Raises
    ------
    MissingMethodError
        When it has none of ``process_tile``, ``process_frame`` and ``process_partition``.
    """
    for method in (UDFMethod.TILE, UDFMethod.FRAME):
        if kernel_of(udf, method) is not None:
            return method
    for method in (UDFMethod.TILE, UDFMethod.FRAME, UDFMethod.PARTITION):
        if callable(method_of(udf, f"process_{method.value}")):
            return method
    msg = (
        f"{type(udf).__name__} has none of process_frame, process_tile and process_partition: "
        "implement the one that fits what it computes"
    )
    raise MissingMethodError(msg)
