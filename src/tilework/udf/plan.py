"""What is decided once per run, before any task: dtypes, methods, array backends, and which kernels are used.

Everything here is a function of the UDFs, the dataset and the region of interest, never of the executor or of how
much is already loaded in a process. So every task of a run does the same, wherever it runs, and results have the same
bits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.udf import UDFMethod
from tilework.exceptions import UDFException
from tilework.udf.run_plan import RunPlan, UDFPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

__all__ = ["corrects_results", "make_plan", "use_compiled"]

KERNELS_VARIABLE = "TILEWORK_KERNELS"


def use_compiled(udf: UDF, dataset_pixels: int, run_pixels: int) -> bool:
    """Return whether `udf` uses compiled kernels in a run over `run_pixels` pixels of a dataset of `dataset_pixels`.

    A large dataset is probably looked at more than once, but a small selection of it is still done at once.

    Raises
    ------
    ValueError
        When the environment variable ``TILEWORK_KERNELS`` is set to something other than numpy, numba or auto.
    """
    choice = os.environ.get(KERNELS_VARIABLE, "auto")
    if choice not in {"numpy", "numba", "auto"}:
        msg = f"the environment variable {KERNELS_VARIABLE} must be numpy, numba or auto, it is {choice!r}"
        raise ValueError(msg)
    large = dataset_pixels > udf.COMPILED_FROM_PIXELS and run_pixels > udf.COMPILED_FROM_PIXELS // 4
    return choice == "numba" or (choice == "auto" and large)


def make_plan(
    udfs: Sequence[UDF],
    dataset: DataSet,
    roi: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    corrections: Any = None,
    backends: str | Iterable[str] | None = None,
) -> RunPlan:
    """Decide what each UDF gets.

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
    """
    allowed = None if backends is None else {backends} if isinstance(backends, str) else set(backends)
    n_frames = dataset.shape.nav.size if roi is None else int(np.count_nonzero(roi))
    pixels = dataset.shape.size, n_frames * dataset.shape.sig.size
    plans = [_plan_one(udf, dataset.dtype, corrections, allowed, compiled=use_compiled(udf, *pixels)) for udf in udfs]
    return RunPlan(tuple(plans), dataset.dtype)


def _plan_one(
    udf: UDF, dataset_dtype: np.dtype[Any], corrections: Any, allowed: set[str] | None, *, compiled: bool
) -> UDFPlan:
    name = type(udf).__name__
    method = checked_method(udf)
    data_dtype = dataset_dtype if corrections is None else np.result_type(np.float32, dataset_dtype)
    try:
        input_dtype = np.result_type(udf.get_preferred_input_dtype(), data_dtype)
    except TypeError as e:
        msg = (
            f"{name}: the preferred input dtype {udf.get_preferred_input_dtype()!r} does not go with the dataset's "
            f"{data_dtype}: return a numeric dtype from get_preferred_input_dtype"
        )
        raise UDFException(msg) from e
    raw = corrections is None or corrects_results(udf)
    process = f"process_{method.value}"
    knows = method is not UDFMethod.PARTITION and _speaks_for(udf, "accepts_tile_dtype", process)
    native = raw and knows and udf.accepts_tile_dtype(dataset_dtype)
    tile_dtype = dataset_dtype if native else input_dtype
    corrected = corrections is not None and not native
    return UDFPlan(name, method, input_dtype, tile_dtype, _backend(udf, allowed), compiled, corrected)


def corrects_results(udf: UDF) -> bool:
    """Return whether `udf` takes raw frames in a run with corrections, where it takes their dtype."""
    methods = ("process_tile", "process_frame", "postprocess", "get_task_data")
    return all(_speaks_for(udf, "corrects_results", name) for name in methods) and udf.corrects_results()


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
    try:
        method: Any = udf.get_method()
    except TypeError as e:
        raise UDFException(str(e)) from e
    if not isinstance(method, UDFMethod):
        msg = f"{name}.get_method() returned {method!r}: return UDF.UDF_METHOD.FRAME, .TILE or .PARTITION"
        raise UDFException(msg)
    if not callable(getattr(udf, f"process_{method.value}", None)):
        msg = f"{name}.get_method() says {method.value!r}, but there is no process_{method.value}: implement it"
        raise UDFException(msg)
    return method


def _backend(udf: UDF, allowed: set[str] | None) -> str:
    supported = udf.get_backends()
    supported = (supported,) if isinstance(supported, str) else tuple(supported)
    unknown = sorted(set(supported) - set(udf.BACKEND_ALL) - {"cuda", udf.BACKEND_SPARSE_DOK, "numpy.matrix"})
    if unknown:
        msg = f"{type(udf).__name__}.get_backends() returned {', '.join(map(repr, unknown))}: not a known array backend"
        raise UDFException(msg)
    if "numpy" in supported and (allowed is None or "numpy" in allowed):
        return "numpy"
    asked = "" if allowed is None else f", and the run allows {', '.join(sorted(allowed))}"
    have = f"{type(udf).__name__} supports {', '.join(supported)}{asked}"
    msg = f"{have}; tiles are NumPy arrays here: support and allow 'numpy'"
    raise UDFException(msg)
