"""Pickling by value what workers cannot import: cloudpickle, and what that leaves out.

cloudpickle sends functions and classes of ``__main__`` and of notebooks as they are, but refers to a function with a
cache (`functools.lru_cache`, `functools.cache`) by its name, as `pickle` does. On the other side there is nothing of
that name, since workers do not run the program again. Nor can it send a class with a `functools.cached_property`, which
holds a lock before Python 3.12. And it takes ``__mp_main__``, as `multiprocessing` calls the program's own module in
processes that it started anew, for one that can be imported.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import cloudpickle

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ByValuePickler"]


# cloudpickle has no types.
class ByValuePickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """That of cloudpickle; functions with a cache arrive with an empty one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        main = sys.modules.get("__mp_main__")
        if main is not None:
            cloudpickle.register_pickle_by_value(main)
        super().__init__(*args, **kwargs)

    def reducer_override(self, obj: Any) -> Any:
        """Return how to make an object on the other side; NotImplemented: as its class says."""
        if isinstance(obj, functools._lru_cache_wrapper) and not _is_importable(obj):
            parameters = obj.cache_parameters()
            return _with_cache, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
        if type(obj) is functools.cached_property:
            return _property, (obj.func, obj.attrname)
        return super().reducer_override(obj)


def _with_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    made.attrname = name  # classes that are made again do not tell it
    return made


def _is_importable(function: Any) -> bool:
    """Return whether workers find it by its name, as cloudpickle decides it for functions."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    by_value = {"__main__", *cloudpickle.list_registry_pickle_by_value()}
    if module not in sys.modules or any(module == name or module.startswith(f"{name}.") for name in by_value):
        return False
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is function
