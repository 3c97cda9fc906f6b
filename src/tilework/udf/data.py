"""What a UDF sees of its buffers and parameters while it runs.

`UDFData` keeps the *current view* of every buffer in its instance dictionary: `self.results.x` inside `process_frame`
is an ordinary attribute look-up, and the runner changes the view of a frame with one dictionary store. Assignment
goes into the array: ``self.results.x = value`` means ``self.results.x[:] = value``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilework.common.arrays import short_repr
from tilework.common.buffers import AuxBufferWrapper, BufferWrapper, PlaceholderBufferWrapper
from tilework.exceptions import UDFException

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView

    from tilework.common.shape import Shape

__all__ = [
    "MergeAttrMapping",
    "UDFData",
    "UDFKwargsWrapper",
    "UseDiscouragedWarning",
    "clear_views",
    "prepare_aux",
    "show",
]

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class UseDiscouragedWarning(FutureWarning):
    """Something works, but there is a better way."""


def _discourage(name: str) -> None:
    message = f"use attribute access, .{name}, instead of ['{name}']"
    warnings.warn(message, UseDiscouragedWarning, stacklevel=3)


class UDFData:
    """The buffers of a UDF by name; attributes are the views that belong to what is processed now.

    Parameters
    ----------
    data
        Buffers, or plain values, by name.
    """

    __slots__ = ("__dict__", "_buffers")
    _buffers: dict[str, Any]

    def __init__(self, data: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_buffers", dict(data))
        self.clear_views()

    def clear_views(self) -> None:
        """Make every attribute the whole stored array again."""
        views = self.__dict__
        for name, value in self._buffers.items():
            # a call less for those of this very class, which nearly all are
            views[name] = value.raw_data if type(value) is BufferWrapper else whole_view(value)

    def __repr__(self) -> str:
        return _repr_of(self, {name: self.__dict__.get(name) for name in self._buffers})

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not there.
        if name.startswith("__"):
            raise AttributeError(name)
        known = ", ".join(sorted(self._buffers)) or "none"
        msg = f"no buffer or parameter named {name!r}; there are: {known}"
        raise AttributeError(msg)

    def __setattr__(self, name: str, value: Any) -> None:
        target = getattr(self, name)
        if target is None or not hasattr(target, "__setitem__"):
            msg = f"cannot assign to {name!r}: it is not a buffer that exists while frames are processed"
            raise AttributeError(msg)
        target[:] = value

    def __getitem__(self, name: str) -> Any:
        message = f"['{name}'] gives the buffer, not an array: say .{name} for the array, get_buffer('{name}') for it"
        warnings.warn(message, UseDiscouragedWarning, stacklevel=2)
        return self.get_buffer(name)

    def __contains__(self, name: object) -> bool:
        return name in self._buffers

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    def __getstate__(self) -> dict[str, Any]:
        return self._buffers

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "_buffers", state)
        self.clear_views()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the current view, or `default` when there is no such buffer."""
        return self.__dict__.get(name, default)

    def get_buffer(self, name: str) -> Any:
        """Return the buffer itself."""
        return self._buffers[name]

    def set_buffer(self, name: str, buffer: Any) -> None:
        """Put a buffer in place."""
        self._buffers[name] = buffer
        self.__dict__[name] = whole_view(buffer)

    def keys(self) -> KeysView[str]:
        """Names of the buffers."""
        return self._buffers.keys()

    def values(self) -> ValuesView[Any]:
        """The buffers."""
        return self._buffers.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and buffers."""
        return self._buffers.items()

    def as_dict(self) -> dict[str, Any]:
        """Return names and buffers."""
        return self._buffers

    def get_proxy(self) -> MergeAttrMapping:
        """Return the current views of all buffers that hold data, as `UDF.merge` gets them."""
        views = self.__dict__
        return MergeAttrMapping({name: views[name] for name, b in self._buffers.items() if b.has_data()})

    def export(self) -> None:
        """Bring all data into main memory."""
        for buffer in self._buffers.values():
            if buffer.has_data():
                buffer.export()
        self.clear_views()

    def flush(self) -> None:
        """Write contiguous copies of parts back into the buffers."""
        for buffer in self._buffers.values():
            buffer.flush()


class UDFKwargsWrapper(UDFData):
    """The parameters of a UDF: plain values as they are, auxiliary data as the view that belongs to what is processed.

    Parameters
    ----------
    data
        Keyword arguments of the UDF.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        msg = (
            f"parameters cannot be changed by the function itself: {name!r} is set where it is made, or during a run "
            "with update_parameters_experimental"
        )
        raise AttributeError(msg)


def show(data: UDFData, views: Mapping[str, Array]) -> None:
    """Let attributes of `data` be these arrays, until `clear_views`."""
    data.__dict__.update(views)


def clear_views(data: UDFData) -> None:
    """Make every attribute of `data` the whole stored array again, whatever the attributes are called."""
    UDFData.clear_views(data)


def whole_view(value: Any) -> Any:
    """Return what an attribute shows while nothing is processed: the stored array of a buffer, a plain value itself."""
    if isinstance(value, PlaceholderBufferWrapper):
        return None
    if isinstance(value, AuxBufferWrapper):
        return value.get_view_for_dataset() if value.has_data() else None
    return value.raw_data if isinstance(value, BufferWrapper) else value


class MergeAttrMapping:
    """Arrays by name, as `UDF.merge` gets them: reading gives the array, assigning writes into it.

    Parameters
    ----------
    arrays
        The arrays.
    """

    __slots__ = ("__dict__",)

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.__dict__.update(arrays)

    def __repr__(self) -> str:
        return _repr_of(self, self.__dict__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = ", ".join(sorted(self.__dict__)) or "none"
        msg = f"no buffer named {name!r} to merge; there are: {known} (result_only buffers exist in get_results only)"
        raise AttributeError(msg)

    def __setattr__(self, name: str, value: Any) -> None:
        getattr(self, name)[:] = value

    def __getitem__(self, name: str) -> Any:
        _discourage(name)
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        _discourage(name)
        getattr(self, name)[:] = value

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)


def _repr_of(data: Any, values: Mapping[str, Any]) -> str:
    return f"<{type(data).__name__}: {', '.join(f'{name}={short_repr(value)}' for name, value in values.items())}>"


def prepare_aux(kwargs: Mapping[str, Any], dataset_shape: Shape, roi: BoolArray | None, udf_name: str) -> None:
    """Tell auxiliary data among the parameters which dataset and positions it is used with.

    Raises
    ------
    UDFException
        When it does not fit the dataset.
    """
    for name, value in kwargs.items():
        if isinstance(value, AuxBufferWrapper):
            try:
                value.set_roi(dataset_shape, roi)
            except ValueError as e:
                msg = f"{udf_name}: parameter {name!r}: {e}"
                raise UDFException(msg) from e
