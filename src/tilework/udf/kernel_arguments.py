"""Functions that a UDF gives to be compiled, `UDF.get_frame_kernel` and `get_tile_kernel`: whether they can be called.

What their parameters stand for is found here, on the main side before any data is read, and again on the workers.
Nothing here depends on whether the function is compiled in the end, so a function that is wrong is wrong in small runs
as well.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.buffers import BufferWrapper
from tilework.common.kernels.kernel import loaded
from tilework.common.kernels.rows import takes_dtype
from tilework.exceptions import UDFException
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from tilework.common.udf import UDFMethod

__all__ = ["check_kernel", "find_arguments", "kernel_label", "plain_function"]

_PLAIN: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_INTEGERS: Final = range(-(2**63), 2**64)


def plain_function(kernel: Any) -> Any:
    """Return the Python function of a kernel, which may be one that numba.njit returned."""
    return getattr(kernel, "py_func", kernel)


def kernel_label(kernel: Any, method: UDFMethod) -> str:
    """Return what a kernel is called in messages."""
    return f"the {method.value} kernel {getattr(plain_function(kernel), '__name__', repr(kernel))}"


def check_kernel(udf: UDF, kernel: Any, method: UDFMethod) -> None:
    """Raise UDFException when a kernel cannot be called as it will be; on the main side.

    Parameters
    ----------
    udf
        Its results are declared.
    kernel
        What its `get_frame_kernel` or `get_tile_kernel` returned.
    method
        Which of them.
    """
    function = plain_function(kernel)
    kind = method.value
    if not isinstance(function, FunctionType) or not (kernel is function or hasattr(kernel, "nopython_signatures")):
        msg = (
            f"{type(udf).__name__}.get_{kind}_kernel() returned {kernel!r}: return a plain function, as it is or "
            "decorated with numba.njit; a method has self, which compiled code cannot use"
        )
        raise UDFException(msg)
    label = f"{type(udf).__name__}: {kernel_label(kernel, method)}"
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        msg = f"{label} contains yield or is async, so calling it would compute nothing: make it an ordinary function"
        raise UDFException(msg)
    parameters = [*inspect.signature(function).parameters.values()]
    odd = [_described(p) for p in parameters if p.kind not in _PLAIN]
    if odd or not parameters:
        wrong = f"takes {', '.join(odd)}" if odd else "takes no argument"
        msg = (
            f"{label} {wrong}: write it as def {function.__name__}({kind}, ...), with one ordinary parameter for each "
            "result and parameter of the UDF that it uses"
        )
        raise UDFException(msg)
    makes_task_data = type(udf).get_task_data is not UDF.get_task_data
    for parameter in parameters[1:]:
        # Task data is made on the workers only.
        if not makes_task_data or _is_known(udf, parameter):
            _find(udf, label, parameter)


def find_arguments(udf: UDF, kernel: Any, method: UDFMethod) -> list[Any]:
    """Return what the parameters after the first stand for; on a worker.

    Returns
    -------
    list
        `BufferWrapper` for results and auxiliary data, values for all else.

    Raises
    ------
    UDFException
        When there is no such thing, or numba has no type for it.
    """
    label = f"{type(udf).__name__}: {kernel_label(kernel, method)}"
    parameters = [*inspect.signature(plain_function(kernel)).parameters.values()]
    return [_find(udf, label, parameter) for parameter in parameters[1:]]


def _described(parameter: inspect.Parameter) -> str:
    return f"{parameter.name} by keyword only" if parameter.kind is parameter.KEYWORD_ONLY else str(parameter)


def _is_known(udf: UDF, parameter: inspect.Parameter) -> bool:
    return parameter.name in udf.results or parameter.name in udf.params


def _find(udf: UDF, label: str, parameter: inspect.Parameter) -> Any:
    name = parameter.name
    results, params, task_data = udf.results.as_dict(), udf._kwargs, udf.task_data.as_dict()
    usable = {n: b for n, b in results.items() if b.use != "result_only"}
    for what, known in (("result", usable), ("parameter", params), ("task data", task_data)):
        if name in known:
            _check_type(f"{label}: the {what} {name!r}", known[name])
            return known[name]
    if parameter.default is not parameter.empty:
        _check_type(f"{label}: the default of {name!r}", parameter.default)
        return parameter.default
    if name in results:
        msg = f"{label} has a parameter {name!r}, a result with use='result_only', which only get_results makes"
        raise UDFException(msg)
    have = [
        *(f"result {n}" for n in usable),
        *(f"parameter {n}" for n in params),
        *(f"task data {n}" for n in task_data),
    ]
    msg = (
        f"{label} has a parameter {name!r}, which is no result, no parameter and no task data of the UDF; there are: "
        f"{', '.join(have) or 'none'}. The first parameter is the data, others are found by their names"
    )
    raise UDFException(msg)


# -- what numba has a type for


def _check_type(what: str, value: Any) -> None:
    """Raise UDFException when numba has no type for a value."""
    if isinstance(value, BufferWrapper | np.ndarray | np.generic) and not _has_type(value.dtype):
        msg = f"{what} is of {value.dtype}, for which numba has no type: use another dtype, in native byte order"
        raise UDFException(msg)
    if isinstance(value, BufferWrapper) or _is_plain(value):
        return
    if isinstance(value, list | set):
        msg = f"{what} is a {type(value).__name__}, which numba takes in rare cases only: give a tuple or an array"
        raise UDFException(msg)
    numba = loaded("tilework.udf.user_kernels_numba")
    try:
        numba.type_of(value)
    except (ValueError, numba.NumbaError) as e:
        msg = f"{what} is {value!r}, for which numba has no type ({e}): give numbers, arrays or tuples of these"
        raise UDFException(msg) from e


def _has_type(dtype: np.dtype[Any]) -> bool:
    return takes_dtype(dtype) or (dtype.kind in "mMSUV" and dtype.isnative)


def _is_plain(value: Any) -> bool:
    """Return whether numba has a type for a value, without asking it: importing it takes longer than a small run."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    if type(value) is list:  # known to numba when its items are numbers of one type
        return len(value) > 0 and len(types := set(map(type, value))) == 1 and types <= {int, float, complex, bool}
    if type(value) is int:
        return value in _INTEGERS
    return (
        value is None or type(value) in {bool, float, complex, str, bytes, np.ndarray} or isinstance(value, np.generic)
    )
