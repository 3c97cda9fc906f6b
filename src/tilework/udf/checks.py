"""What can be wrong with a UDF: looked at before any data is read where that is possible, explained where it is not.

Exceptions of a user's own methods stay what they are; a note says in which method of which UDF, and where in the data,
they happened. Only where the message of a library does not say what is wrong, a UDFException does.
"""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.udf import ADDED_METHODS, TileDepthEnum, TileSizeEnum, UDFMethod, method_of
from tilework.exceptions import MissingMergeError, UDFException, ended_iteration
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.buffers import BufferWrapper

__all__ = [
    "CHANGES_INPUT",
    "check_added_methods",
    "check_own_results",
    "check_results_can_be_made",
    "check_signatures",
    "check_tiling",
    "describe_arrays",
    "explain",
    "merges_by_name",
    "noted",
    "refuses_read_only",
    "too_large",
]

# What each method gets, for messages.
_ARGUMENTS = {
    "process_frame": ("the frame",),
    "process_tile": ("the tile",),
    "process_partition": ("the partition",),
    "merge": ("dest", "src"),
    "merge_all": ("ordered_results",),
    "get_results": (),
    "get_task_data": (),
    "preprocess": (),
    "postprocess": (),
    "cleanup": (),
    "accepts_foreign_order": (),
    "accepts_tile_dtype": ("dtype",),
    "corrects_results": (),
    "end_run": ("is_complete",),
    "get_frame_kernel": (),
    "get_tile_kernel": (),
}
# Looking at signatures takes as long as a small run, so classes that were found right are not looked at again.
_passed: weakref.WeakKeyDictionary[type, set[UDFMethod | None]] = weakref.WeakKeyDictionary()
_merges_by_name: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
CHANGES_INPUT = (
    "changes its input, or what it has from it: frames and tiles are read-only, because other functions see them, too. "
    "Make a copy first, for example frame = frame.copy()"
)
_INSISTS_ON_WRITING = (
    "a compiled function insists on arrays that it may change, and some here are read-only: give it a copy, such as "
    "frame.copy(), or declare its arguments as read-only (const in Cython, readonly=True for numba.types.Array)"
)
_REFUSALS_OF_READ_ONLY = (
    "buffer source array is read-only",  # Cython
    "underlying buffer is not writable",  # ctypes
    "array must have flags ['WRITEABLE'",  # numpy.ctypeslib
    "array is not writeable",  # pybind11
)
_TILE_ATTRIBUTES = {"tile_slice": "self.meta.slice", "scheme_idx": "self.meta.tiling_scheme_idx"}


@contextlib.contextmanager
def noted(where: str) -> Iterator[None]:
    """Add to exceptions from the block where they happened; a StopIteration must not end anybody's iteration."""
    try:
        yield
    except StopIteration as e:
        raise UDFException(ended_iteration(where, e)) from e
    except Exception as e:
        e.add_note(f"in {where}")
        raise


# -- before data is read


def too_large(udf_name: str, name: str, buffer: BufferWrapper, advice: str) -> UDFException:
    """Return what to raise when there is no memory for a result.

    Parameters
    ----------
    udf_name, name
        Names of the UDF and of the result.
    buffer
        The result, whose shape is known.
    advice
        What to do.
    """
    size = np.prod(buffer.shape, dtype=float) * buffer.dtype.itemsize / 2**30
    return UDFException(
        f"{udf_name}: the result {name!r} of shape {buffer.shape} needs {size:.1f} GiB, which is more than there is: "
        f"{advice}"
    )


def check_added_methods(udf: UDF) -> None:
    """Raise UDFException when an attribute has the name of one of `ADDED_METHODS` and cannot be called as that will be.

    They are called before it is known which of the ``process_*`` methods is used.
    """
    passed = _passed.setdefault(type(udf), set())
    if None not in passed:
        for method_name, meaning in ADDED_METHODS.items():
            _check_signature(udf, method_name, f". {method_name} {meaning}: what is something else needs another name")
        passed.add(None)


def check_signatures(udf: UDF, method: UDFMethod) -> None:
    """Raise UDFException when a method cannot be called as it will be, or would not run when it is called."""
    passed = _passed.setdefault(type(udf), set())
    if method in passed:
        return
    used = f"process_{method.value}"
    for method_name in _ARGUMENTS:
        if method_name not in ADDED_METHODS and (method_name == used or not method_name.startswith("process_")):
            _check_signature(udf, method_name, "")
    passed.add(method)


def _check_signature(udf: UDF, method_name: str, meaning: str) -> None:
    function = method_of(udf, method_name)
    if function is None or getattr(UDF, method_name, None) is getattr(type(udf), method_name, None):
        return
    name, arguments = type(udf).__name__, _ARGUMENTS[method_name]
    gets = " and ".join(arguments) or "no argument"
    if not callable(function):
        msg = f"{name}.{method_name} is a {type(function).__name__}: it must be a method, which gets {gets}{meaning}"
        raise UDFException(msg)
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        kind = "contains yield" if inspect.isgeneratorfunction(function) else "is async"
        msg = f"{name}.{method_name} {kind}, so calling it would compute nothing: make it an ordinary method"
        raise UDFException(msg)
    if not _takes(function, len(arguments)) and not (method_name == "merge" and merges_by_name(udf)):
        msg = (
            f"{name}.{method_name}{_signature(function)} cannot be called: beside self it gets {gets}. Write it as "
            f"def {method_name}({', '.join(['self', *(a.removeprefix('the ') for a in arguments)])}){meaning}"
        )
        raise UDFException(msg)


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # compiled functions may not tell
        return True
    return True


def merges_by_name(udf: UDF) -> bool:
    """Return whether `UDF.merge` can be called with ``dest=`` and ``src=``."""
    cls = type(udf)
    known = _merges_by_name.get(cls)
    if known is None:
        try:
            inspect.signature(udf.merge).bind(dest=None, src=None)
            known = True
        except (TypeError, ValueError):  # other names, or a compiled function that does not tell
            known = False
        _merges_by_name[cls] = known
    return known


def _signature(function: Any) -> str:
    return str(inspect.signature(function))


def check_results_can_be_made(udf: UDF) -> None:
    """Raise UDFException when nobody says how partial results are merged, or makes a ``result_only`` result."""
    name, cls = type(udf).__name__, type(udf)
    declared: Mapping[str, BufferWrapper] = udf.results.as_dict()
    if cls.merge is UDF.merge and not hasattr(udf, "merge_all"):
        unclear = [
            f"{n!r} (kind {b.kind!r})" for n, b in declared.items() if b.kind != "nav" and b.use != "result_only"
        ]
        if unclear:
            msg = (
                f"{name} has the result {', '.join(unclear)}, so tilework cannot know how results of partitions are "
                "put together: implement merge(self, dest, src), for a sum: dest.name[:] += src.name"
            )
            raise MissingMergeError(msg)
    if cls.get_results is UDF.get_results:
        for key, buffer in declared.items():
            if buffer.use == "result_only":
                msg = (
                    f"{name} declares the result {key!r} with use='result_only': implement get_results() and return it "
                    "from there"
                )
                raise UDFException(msg)


def check_tiling(udf: UDF) -> None:
    """Raise UDFException when the tiling preferences are not what they must be."""
    if type(udf).get_tiling_preferences is UDF.get_tiling_preferences:
        return
    with noted(f"get_tiling_preferences of {type(udf).__name__}"):
        wanted: Any = udf.get_tiling_preferences()
    good = isinstance(wanted, Mapping) and all(
        isinstance(wanted.get(key, 1), int | float | np.integer | np.floating | TileDepthEnum | TileSizeEnum)
        for key in ("depth", "total_size")
    )
    if not good:
        msg = (
            f"{type(udf).__name__}.get_tiling_preferences() returned {wanted!r}: return a dict with 'depth' (frames) "
            "and 'total_size' (bytes), numbers or self.TILE_DEPTH_DEFAULT and self.TILE_SIZE_MAX"
        )
        raise UDFException(msg)


# -- on a worker


def check_own_results(udf: UDF) -> None:
    """Raise UDFException when a result is a view of the input, and read-only like that."""
    for name, buffer in udf.results.items():
        data = buffer.raw_data if buffer.has_data() else None
        if isinstance(data, np.ndarray) and not data.flags.writeable:
            msg = (
                f"{type(udf).__name__}: the result {name!r} was replaced by a view of the input, which is "
                f"read-only: assign into it, self.results.{name}[:] = ..., which copies"
            )
            raise UDFException(msg)


def explain(error: BaseException, udf: UDF | None, method: str, where: str) -> BaseException:
    """Return what to raise for an exception of a method of a UDF: itself with a note, or what says what is wrong.

    Parameters
    ----------
    error
        The exception.
    udf
        The UDF; None where several could be meant.
    method
        Name of the method; of a function that it gives, "the frame kernel NAME".
    where
        Where in the data: the partition.
    """
    name = "the UDFs" if udf is None else type(udf).__name__
    clearer: BaseException | None = None
    text = str(error)
    is_kernel = method.startswith("the ")
    refuses = refuses_read_only(error)
    if (
        not refuses
        and isinstance(error, ValueError)
        and "read-only" in text
        and (is_kernel or method.startswith("process_"))
    ):
        clearer = UDFException(f"{name}{': ' if is_kernel else '.'}{method} {CHANGES_INPUT}")
    elif isinstance(error, AttributeError) and error.name in _TILE_ATTRIBUTES:
        clearer = AttributeError(
            f"{name}.{method}: {text}. Tiles are plain arrays: {_TILE_ATTRIBUTES[error.name]} says it"
        )
    elif isinstance(error, StopIteration):
        clearer = UDFException(ended_iteration(f"{name}.{method}", error))
    note = f"in {method} of {name}, {where}"
    shapes = "" if udf is None or not isinstance(error, ValueError | TypeError) else describe_arrays(vars(udf.results))
    result = error if clearer is None else clearer
    result.add_note(note)
    if shapes and method.startswith("process_"):
        result.add_note(f"self.results is there: {shapes}")
    if refuses:
        result.add_note(_INSISTS_ON_WRITING)
    return result


def refuses_read_only(error: BaseException) -> bool:
    """Return whether a compiled function has refused an array that is read-only, before it did anything with it."""
    text = str(error)
    of_numba = text.startswith("No matching definition for argument type(s)") and "readonly array" in text
    return of_numba or any(each in text for each in _REFUSALS_OF_READ_ONLY)


def describe_arrays(arrays: Mapping[str, Any]) -> str:
    """Return names, shapes and dtypes for an error."""
    return ", ".join(
        f"{name} of shape {tuple(array.shape)}, {array.dtype}"
        for name, array in arrays.items()
        if hasattr(array, "shape")
    )
