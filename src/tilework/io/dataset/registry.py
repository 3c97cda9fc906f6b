"""Which file formats there are, finding out which one a file has, and loading it.

Formats are named by dotted paths and imported when they are first needed.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tilework.common.callers import outside_level
from tilework.common.interrupts import interrupts_later
from tilework.common.tracing import get_tracer
from tilework.exceptions import DataSetException, UnknownFormatError
from tilework.io.dataset.files import absolute, check_readable
from tilework.io.dataset.foreign import say_foreign

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tilework.common.executor import AsyncJobExecutor, JobExecutor
    from tilework.io.dataset.base import DataSet

__all__ = [
    "build_extension_map",
    "detect",
    "filetypes",
    "get_dataset_cls",
    "get_extensions",
    "get_search_order",
    "load",
    "register_dataset_cls",
    "unregister_dataset_cls",
]

_tracer = get_tracer(__name__)

filetypes: dict[str, str | type[DataSet]] = {
    "raw": "tilework.io.dataset.raw.RawFileDataSet",
    "mib": "tilework.io.dataset.mib.MIBDataSet",
    "blo": "tilework.io.dataset.blo.BloDataSet",
    "empad": "tilework.io.dataset.empad.EMPADDataSet",
    "npy": "tilework.io.dataset.npy.NPYDataSet",
    "memory": "tilework.io.dataset.memory.MemoryDataSet",
    "dask": "tilework.io.dataset.dask.DaskDataSet",
}

# What to do with a file that cannot be read.
_OTHERS = "what another library reads can be loaded as an array"


def register_dataset_cls(filetype: str, cls: str | type[DataSet]) -> None:
    """Make a format known: its class, or the dotted path of the class."""
    filetypes[filetype.lower()] = cls


def unregister_dataset_cls(filetype: str) -> None:
    """Forget a format.

    Raises
    ------
    KeyError
        When there is none of that name.
    """
    del filetypes[filetype.lower()]


def get_dataset_cls(filetype: str | type[DataSet]) -> type[DataSet]:
    """Return the class of a format; a class is returned as it is.

    Raises
    ------
    DataSetException
        When there is no such format, or something that it needs cannot be imported.
    """
    given: Any = filetype
    if isinstance(filetype, type) and hasattr(given, "initialize"):
        return filetype
    if isinstance(filetype, type) or not isinstance(given, str):
        from tilework.common.arrays import short_repr  # with NumPy, which must not be interrupted when it is imported

        msg = f"the filetype must be the name of a format, or 'auto', or a class of datasets, not {short_repr(given)}"
        if hasattr(given, "__array__") or isinstance(given, list):
            msg += "; an array is loaded with load('memory', data=array)"
        elif isinstance(given, os.PathLike):
            msg += f"; to find out the format of a file, load('auto', path={os.fspath(given)!r})"
        raise DataSetException(msg)
    target = filetypes.get(filetype.lower())
    if target is None:
        msg = f"unknown filetype: {filetype!r}; known are {', '.join(filetypes)}, and 'auto'"
        is_file = Path(filetype).suffix
        msg += f"; to find out the format of a file, load('auto', path={filetype!r})" if is_file else f"; {_OTHERS}"
        raise DataSetException(msg)
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    try:
        with interrupts_later():  # for this imports NumPy, which cannot be begun anew
            cls: type[DataSet] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        msg = f"cannot load files of type {filetype!r}: {e}; install what is missing"
        raise DataSetException(msg) from e
    return cls


def build_extension_map() -> dict[str, list[str]]:
    """Return for each file name extension the formats that claim it."""
    found: dict[str, list[str]] = {}
    for filetype in list(filetypes):
        try:
            extensions = get_dataset_cls(filetype).get_supported_extensions()
        except DataSetException:
            continue  # what cannot be imported cannot be detected either
        for extension in sorted(extensions):
            found.setdefault(extension.lower(), []).append(filetype)
    return found


def get_extensions() -> set[str]:
    """Return all file name extensions that some format claims, in lower case, without dot."""
    return set(build_extension_map())


def get_search_order(path: Any) -> list[str]:
    """Return in which order formats are tried: first those that claim the extension of `path`."""
    if hasattr(path, "shape"):
        return ["memory", *(t for t in filetypes if t != "memory")]
    claimed = build_extension_map().get(Path(os.fsdecode(path)).suffix.lower().lstrip("."), [])
    return [*claimed, *(t for t in filetypes if t not in claimed)]


def detect(path: Any, executor: JobExecutor) -> dict[str, Any]:
    """Find out which format a file has.

    Parameters
    ----------
    path
        The file; or an array, which is loaded as ``"memory"``.
    executor
        Its workers look at the file.

    Returns
    -------
    dict
        ``{"type": name of the format, "parameters": arguments for `load`, "info": facts}``; empty when no format fits.

    Examples
    --------
    >>> np.save("scan.npy", np.ones((4, 4, 8, 8), dtype="uint16"))
    >>> found = detect("scan.npy", ctx.executor)
    >>> found["type"], found["parameters"]["nav_shape"]
    ('npy', (4, 4))
    """
    return _detect(path, executor)[0]


def _detect(path: Any, executor: JobExecutor) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was detected, and why formats refused the file."""
    if hasattr(path, "shape"):
        warnings.warn(
            f"got an array ({type(path).__name__}) instead of a path: loading it as 'memory'",
            RuntimeWarning,
            stacklevel=outside_level(),
        )
        return {"type": "memory", "parameters": {"data": path}, "info": {}}, {}
    refused: dict[str, str] = {}
    for filetype in get_search_order(path):
        try:
            found = get_dataset_cls(filetype).detect_params(path, executor)
        except NotImplementedError:
            continue
        except DataSetException as e:
            refused[filetype] = str(e)
            continue
        if isinstance(found, dict):
            parameters = found.get("parameters", {"path": path})
            return {"type": filetype, "parameters": parameters, "info": found.get("info", {})}, refused
    return {}, refused


def _auto(path: Any, given: dict[str, Any], executor: JobExecutor) -> tuple[type[DataSet], dict[str, Any]]:
    """Return the class for a file of unknown format, and the arguments for it."""
    found, refused = _detect(path, executor)
    if found:
        cls = get_dataset_cls(found["type"])
        return cls, cls.combine_detected(found["parameters"], given)
    name = absolute(path)
    executor.run_function(check_readable, name)  # a missing or unreadable file has its own message
    claimed = build_extension_map().get(Path(name).suffix.lower().lstrip("."), [])
    if broken := [t for t in claimed if t in refused]:
        if given:  # which may be what it misses
            return get_dataset_cls(broken[0]), {"path": path, **given}
        raise DataSetException("; ".join(f"read as {t}: {refused[t]}" for t in broken))
    foreign = executor.run_function(say_foreign, name)
    if foreign:
        msg = f"{name} is {foreign}; tilework does not read it by itself"
        raise DataSetException(msg)
    reasons = "; ".join(f"as {t}: {reason}" for t, reason in refused.items())
    why = f" ({reasons})" if refused else ""
    msg = (
        f"{name} is in no format that can be detected{why}: name the format, one of {', '.join(file_formats())}; a "
        f"file without a header is 'raw', and needs dtype, nav_shape and sig_shape; {_OTHERS}"
    )
    raise UnknownFormatError(msg)


def _takes_path(cls: type[DataSet]) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    return any(p.name == "path" or p.kind is p.VAR_KEYWORD for p in parameters)


def file_formats() -> list[str]:
    """Return the formats of files, without those of arrays."""
    found = []
    for filetype in list(filetypes):
        try:
            if _takes_path(get_dataset_cls(filetype)):
                found.append(filetype)
        except DataSetException:
            continue  # what cannot be imported cannot be loaded either
    return found


@overload
def load(
    filetype: str | type[DataSet],
    *args: Any,
    enable_async: Literal[False] = ...,
    executor: JobExecutor,
    **kwargs: Any,
) -> DataSet: ...


@overload
def load(
    filetype: str | type[DataSet],
    *args: Any,
    enable_async: Literal[True],
    executor: AsyncJobExecutor,
    **kwargs: Any,
) -> Coroutine[Any, Any, DataSet]: ...


def load(
    filetype: str | type[DataSet],
    *args: Any,
    enable_async: bool = False,
    executor: Any,
    **kwargs: Any,
) -> DataSet | Coroutine[Any, Any, DataSet]:
    """Load a dataset.

    Parameters
    ----------
    filetype
        Name of the format, its class, or ``"auto"`` to detect it from the file given as ``path``.
    *args, **kwargs
        Arguments of the format's class. With ``"auto"``, they win over what was detected.
    enable_async
        Return a coroutine; `executor` must then be asynchronous.
    executor
        Its workers look at the file.

    Raises
    ------
    DataSetException
        When the format is unknown, takes no ``path``, or the file cannot be used; the message says why and what to do.
        `UnknownFormatError` where it cannot be detected.
    """
    if enable_async:
        import asyncio

        return asyncio.to_thread(_traced_load, filetype, args, kwargs, executor.ensure_sync())
    return _traced_load(filetype, args, kwargs, executor)


def _traced_load(
    filetype: str | type[DataSet], args: tuple[Any, ...], kwargs: dict[str, Any], executor: JobExecutor
) -> DataSet:
    with _tracer.start_as_current_span("load") as span:
        dataset = _load(filetype, args, kwargs, executor)
        if span.is_recording():
            span.set_attribute("tilework.dataset", repr(dataset))
    return dataset


def _load(
    filetype: str | type[DataSet], args: tuple[Any, ...], kwargs: dict[str, Any], executor: JobExecutor
) -> DataSet:
    if isinstance(filetype, str) and filetype.lower() == "auto":
        given = dict(kwargs)
        if args and "path" not in given:
            given["path"], *rest = args
            args = tuple(rest)
        path = given.pop("path", None)
        if path is None or args:
            msg = "the format can be detected for a file only: load('auto', path=…), with further arguments by name"
            raise DataSetException(msg)
        cls, kwargs = _auto(path if hasattr(path, "shape") else absolute(path), given, executor)
    else:
        cls = get_dataset_cls(filetype)
        if "path" in kwargs and not _takes_path(cls):
            what = repr(filetype) if isinstance(filetype, str) else cls.__name__
            msg = f"{what} is no format of files, it takes no path: use one of {', '.join(file_formats())}, or 'auto'"
            raise DataSetException(msg)
    try:
        dataset = cls(*args, **kwargs)
    except TypeError as error:
        if "argument" in str(error):
            names = [name for name, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD]
            error.add_note(f"{cls.__name__} takes {', '.join(names)}")
        raise
    dataset = dataset.initialize(executor)
    if dataset.IN_PROCESS:
        dataset.check_valid()
    else:
        executor.run_function(dataset.check_valid)
    return dataset
