"""What is decided once per run, before any task: dtypes, methods, array backends, and which kernels are used.

Everything here is a function of the UDFs, the dataset and the region of interest, never of the executor or of how
much is already loaded in a process. So every task of a run does the same, wherever it runs, and results have the same
bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import (
    BACKENDS,
    CPU_BACKENDS,
    CUDA_BACKENDS,
    NUMPY,
    NUMPY_BACKENDS,
    as_names,
    can_hold,
    holding_dtype,
)
from tilework.common.kernels.kernel import compiles_nothing
from tilework.common.kernels.rows import computable
from tilework.common.udf import UDFMethod, kernel_of, method_of
from tilework.exceptions import NoBackendError, UDFException
from tilework.io.dataset.base import DataSet
from tilework.udf.checks import check_added_methods, check_signatures, noted
from tilework.udf.meta import UDFMeta
from tilework.udf.run_plan import RunPlan, UDFPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.common.shape import Shape
    from tilework.udf.base import UDF

__all__ = ["corrects_results", "make_plan", "use_compiled"]

KERNELS_VARIABLE = "TILEWORK_KERNELS"
# A user's compiled function mostly loops over pixels, which the interpreter does a hundred times slower.
USER_KERNEL_FROM_PIXELS = 2**18


def use_compiled(udf: UDF, dataset_pixels: int, run_pixels: int) -> bool | None:
    """Return whether `udf` uses compiled kernels in a run over `run_pixels` pixels of a dataset of `dataset_pixels`.

    None stands for those with the same bits as NumPy, which each process uses once they save time.

    The size of the dataset decides, for a large one is probably read more than once; but a small selection of it stays
    with NumPy.

    Raises
    ------
    ValueError
        When the environment variable ``TILEWORK_KERNELS`` is set to something other than numpy, numba or auto.
    """
    choice = os.environ.get(KERNELS_VARIABLE, "auto")
    if choice not in {"numpy", "numba", "auto"}:
        msg = f"the environment variable {KERNELS_VARIABLE} must be numpy, numba or auto, it is {choice!r}"
        raise ValueError(msg)
    if compiles_nothing():
        return False
    enough = udf.COMPILED_FROM_PIXELS
    if _has_kernel(udf):
        enough = min(enough, USER_KERNEL_FROM_PIXELS)
    if choice == "auto":
        return (dataset_pixels >= enough and run_pixels >= enough // 4) or None
    return choice == "numba"


def _allowed(backends: Any) -> frozenset[str] | None:
    """Return the array backends that a run allows; None: all."""
    if backends is None:
        return None
    names = as_names(backends) if isinstance(backends, str | Iterable) else (backends,)
    if not all(isinstance(name, str) for name in names):
        msg = f"backends must be the name of an array backend, such as 'numpy', or several of them, not {backends!r}"
        raise TypeError(msg)
    return frozenset(names)


def make_plan(
    udfs: Sequence[UDF],
    dataset: DataSet,
    roi: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    corrections: Any = None,
    backends: str | Iterable[str] | None = None,
) -> RunPlan:
    """Decide what each UDF gets, and tell it the facts of the run, which it may need to say what it wants.

    Parameters
    ----------
    udfs
        The UDFs of the run.
    dataset
        What they will process.
    roi
        Selected positions, or None.
    corrections
        Detector corrections, or None; they need float data.
    backends
        Array backends that may be used; None: all.

    Raises
    ------
    UDFException
        When a UDF implements no method, or supports no array backend that can be used here.
    TypeError
        When `backends` are no names.
    """
    allowed = _allowed(backends)
    n_frames = dataset.shape.nav.size if roi is None else int(np.count_nonzero(roi))
    pixels = dataset.shape.size, n_frames * dataset.shape.sig.size
    dtypes = dataset.dtype, _stored_dtype(dataset)
    facts = dataset.shape, roi, *dtypes, corrections, allowed
    for udf in udfs:
        check_added_methods(udf)
    plans = [_plan_one(udf, *facts, compiled=use_compiled(udf, *pixels)) for udf in udfs]
    offered = _offered(dataset, corrections)
    try:
        return RunPlan.make(tuple(plans), *dtypes, offered)
    except (RuntimeError, ValueError) as e:
        each = "; ".join(f"{p.name} can use {', '.join(p.backends)}" for p in plans)
        msg = f"{e}. {each}; the dataset offers {', '.join(offered)}"
        raise NoBackendError(msg) from e


def _offered(dataset: DataSet, corrections: Any) -> tuple[str, ...]:
    """Return the array backends in which the dataset delivers tiles; what is corrected is not sparse any more."""
    # A dataset that makes the meta of its partitions itself may say it there alone.
    only_in_meta = getattr(type(dataset), "array_backends", None) is DataSet.array_backends
    offered = tuple((dataset.meta if only_in_meta else dataset).array_backends)
    if corrections is None:
        return offered
    dense = tuple(name for name in offered if name in NUMPY_BACKENDS)
    if not dense:
        msg = (
            f"{type(dataset).__name__} delivers its tiles as {', '.join(offered)} only, which cannot be corrected for "
            "the detector: run without corrections"
        )
        raise UDFException(msg)
    return dense


def _stored_dtype(dataset: DataSet) -> np.dtype[Any]:
    """Return the dtype, with its byte order, of tiles that are views of what the dataset holds."""
    foreign = dataset.dtype.newbyteorder()
    is_foreign = not dataset.need_decode(foreign, None, None) and dataset.need_decode(dataset.dtype, None, None)
    return foreign if is_foreign else dataset.dtype


def _plan_one(
    udf: UDF,
    shape: Shape,
    roi: np.ndarray[Any, np.dtype[np.bool_]] | None,
    dataset_dtype: np.dtype[Any],
    stored_dtype: np.dtype[Any],
    corrections: Any,
    allowed: frozenset[str] | None,
    *,
    compiled: bool | None,
) -> UDFPlan:
    name = type(udf).__name__
    data_dtype = dataset_dtype if corrections is None else np.result_type(np.float32, dataset_dtype)
    with noted(f"get_preferred_input_dtype of {name}"):
        preferred: Any = udf.get_preferred_input_dtype()
    try:
        input_dtype = np.result_type(preferred, data_dtype)
    except TypeError:
        input_dtype = np.dtype(object)
    if input_dtype.kind not in "biufc":
        msg = (
            f"{name}: the preferred input dtype {preferred!r} does not go with the dataset's {data_dtype}: return a "
            "numeric dtype from get_preferred_input_dtype"
        )
        raise UDFException(msg)
    has_kernel = _has_kernel(udf)
    if has_kernel:  # which numba cannot compile for all dtypes, and for dense arrays only
        input_dtype = computable(input_dtype)
        allowed = frozenset({NUMPY}) if allowed is None else allowed & {NUMPY}
    input_dtype, backends = _backends(udf, input_dtype, allowed)
    # The method may depend on the dataset.
    udf.set_meta(UDFMeta(None, shape, roi, dataset_dtype, input_dtype, corrections=corrections, compiled=compiled))
    method = checked_method(udf)
    check_signatures(udf, method)
    raw = corrections is None or corrects_results(udf)
    process = f"process_{method.value}"
    native = (
        raw
        and method is not UDFMethod.PARTITION
        and _speaks_for(udf, "accepts_tile_dtype", process)
        and _speaks_for(udf, "accepts_tile_dtype", f"get_{method.value}_kernel")
        and not (has_kernel and computable(dataset_dtype) != dataset_dtype)
        and _says_yes(udf, "accepts_tile_dtype", dataset_dtype)
    )
    any_order = (
        bool(compiled)
        and not has_kernel
        and _speaks_for(udf, "accepts_foreign_order", process)
        and _says_yes(udf, "accepts_foreign_order")
    )
    own_dtype = stored_dtype if any_order else dataset_dtype
    tile_dtype = own_dtype if native else input_dtype
    has_corrections = corrections is not None
    return UDFPlan(
        name,
        method,
        input_dtype,
        tile_dtype,
        backends,
        compiled,
        corrects_tiles=has_corrections and not native,
        run_has_corrections=has_corrections,
    )


def _has_kernel(udf: UDF) -> bool:
    """Return whether `udf` gives a function to be compiled."""
    with noted(f"get_frame_kernel or get_tile_kernel of {type(udf).__name__}"):
        return any(kernel_of(udf, method) is not None for method in UDFMethod)


def corrects_results(udf: UDF) -> bool:
    """Return whether `udf` takes raw frames in a run with corrections, where it takes their dtype."""
    methods = (
        "process_tile", "process_frame", "get_tile_kernel", "get_frame_kernel", "postprocess", "get_task_data",
    )  # fmt: skip
    return all(_speaks_for(udf, "corrects_results", name) for name in methods) and _says_yes(udf, "corrects_results")


def _says_yes(udf: UDF, promise: str, *arguments: Any) -> bool:
    method = method_of(udf, promise)
    return method is not None and bool(method(*arguments))


def _speaks_for(udf: UDF, promise: str, method: str) -> bool:
    """Return whether the class that makes a promise knew the method that has to keep it.

    A subclass that replaces the method of a built-in function gets what every function gets, unless it says more
    itself: its author need not know what the original can work with.
    """
    order = type(udf).__mro__
    made = next(i for i, cls in enumerate(order) if promise in vars(cls))
    return all(i >= made for i, cls in enumerate(order) if method in vars(cls))


def checked_method(udf: UDF) -> UDFMethod:
    """Return the method of `udf` after checking that it implements it.

    Raises
    ------
    UDFException
        When it does not.
    """
    name = type(udf).__name__
    with noted(f"get_method of {name}"):
        method: Any = udf.get_method()
    if not isinstance(method, UDFMethod):
        msg = f"{name}.get_method() returned {method!r}: return UDF.UDF_METHOD.FRAME, .TILE or .PARTITION"
        raise UDFException(msg)
    if kernel_of(udf, method) is None and not callable(method_of(udf, f"process_{method.value}")):
        msg = f"{name}.get_method() says {method.value!r}, but there is no process_{method.value}: implement it"
        raise UDFException(msg)
    return method


def _backends(udf: UDF, dtype: np.dtype[Any], allowed: frozenset[str] | None) -> tuple[np.dtype[Any], tuple[str, ...]]:
    """Return the dtype in which a UDF computes, and the array backends it can get, best first.

    The dtype is the same on every worker: backends that cannot hold it are left out, and it is promoted only where all
    backends for a kind of device need that.
    """
    name = type(udf).__name__
    with noted(f"get_backends of {name}"):
        offered: Any = udf.get_backends()
    if not isinstance(offered, str | Iterable):
        msg = f"{name}.get_backends() returned {offered!r}: return the name of an array backend, or several of them"
        raise UDFException(msg)
    supported = as_names(offered)
    unknown = [backend for backend in supported if backend not in BACKENDS]
    if unknown:  # what there may be elsewhere, or later, does no harm beside what there is here
        supported = tuple(backend for backend in supported if backend in BACKENDS)
    if unknown and not supported:
        known = ", ".join(sorted(BACKENDS))
        msg = f"{name}.get_backends() returned {', '.join(map(repr, unknown))}: not a known array backend, only {known}"
        raise NoBackendError(msg)
    usable = supported if allowed is None else tuple(b for b in supported if b in allowed)
    if not usable:
        asked = "" if allowed is None else f", and the run allows {', '.join(sorted(allowed))}"
        msg = (
            f"{name} supports {', '.join(supported) or 'no array backend'}{asked}: return one that can be used from "
            "get_backends, or allow it in the run with backends=..."
        )
        raise NoBackendError(msg)
    return _holding(usable, dtype)


@lru_cache(maxsize=256)
def _holding(usable: tuple[str, ...], dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[str, ...]]:
    for kind in (CPU_BACKENDS, CUDA_BACKENDS):
        members = [b for b in usable if b in kind]
        if members and not any(can_hold(b, dtype) for b in members):
            dtype = holding_dtype(dtype, members)
    return dtype, tuple(b for b in usable if can_hold(b, dtype))
