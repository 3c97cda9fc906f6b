"""Names of a module that are imported when they are first asked for, so that importing the module stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["import_later"]


def import_later(module: str, package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module.

    Assign it under ``if not TYPE_CHECKING``, beside imports of the same names for type checkers: to these, a module
    with ``__getattr__`` has every name.

    Parameters
    ----------
    module
        Its name, for error messages.
    package
        Where the names come from.
    places
        The submodule of the package, for each name.
    """

    def get(name: str) -> Any:
        if name not in places:
            msg = f"module {module!r} has no attribute {name!r}"
            raise AttributeError(msg)
        # Not above: this is imported within the package of that module, which other threads may import directly.
        from tilework.common.interrupts import interrupts_later

        place = f"{package}.{places[name]}"
        try:
            with interrupts_later():
                found = import_module(place)
            return getattr(found, name)
        except AttributeError as error:  # which would be taken for one of this module
            msg = f"{name} cannot be imported from {place}: {error}"
            raise ImportError(msg, name=place) from error

    return get
