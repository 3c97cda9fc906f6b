"""Finds ``libertem`` and all below it, with us or nowhere.

For each dotted path there is one of five answers:

- the same path exists with us: the same module;
- it is LiberTEM-live, and that is installed: what is installed, which imports ``libertem`` from here;
- it is in the table of what has moved: a module with these names, each of which is looked up when it is first asked
  for. Where there is also a module of the same path with us, all that it has is there, too;
- something below it is in the table: an empty package;
- else a `ModuleNotFoundError` that says what to use instead. LiberTEM itself is never found.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tilework.compat.libertem.table import ABSENT, FORMATS, MOVED, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

__all__ = ["LibertemFinder", "is_ours"]

SHADOW: Final = str(Path(__file__).with_name("shadow"))
"""The folder through which worker processes find us."""

_EXTENSIONS: Final = frozenset({"libertem_live"})
"""Packages that are taken from where they are installed, if they are: they build on ``libertem``."""

# Parts of tilework that are not LiberTEM's under that name.
_NOT_PEERS: Final = frozenset({"__main__", "cli", "compat", "testing"})


class LibertemFinder(MetaPathFinder):
    """Answers for ``libertem`` and ``libertem_live``, and for nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where a module is; None when it is none of these packages.

        Raises
        ------
        ModuleNotFoundError
            When tilework has nothing of that path.
        """
        top, _, rest = fullname.partition(".")
        if top not in VERSIONS:
            return None
        if top in _EXTENSIONS:
            installed = _installed(top)
            if installed is not None:
                return installed if not rest else None
        if not rest:
            return ModuleSpec(fullname, _PackageLoader(VERSIONS[top]), origin=__file__, is_package=True)
        ours = _same_path(rest) if top == "libertem" else None
        names = MOVED.get(fullname)
        if names is None:
            if ours is not None:
                return ModuleSpec(fullname, _AliasLoader(ours))
            if not any(moved.startswith(f"{fullname}.") for moved in MOVED):
                raise ModuleNotFoundError(_absent(fullname), name=fullname)
            names = {}
        return ModuleSpec(fullname, _NamesLoader(names, ours), origin=__file__, is_package=True)


class _AliasLoader(Loader):
    """Gives one of our modules under another name, too."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        # Not an empty one that is replaced in sys.modules later: another thread could get hold of that.
        module = importlib.import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put that of the other name there


class _NamesLoader(Loader):
    """Makes a module with names from elsewhere."""

    def __init__(self, names: Mapping[str, str], ours: str | None) -> None:
        self._names = names
        self._ours = ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        ours = importlib.import_module(self._ours) if self._ours is not None else None
        names = self._names

        def get(name: str) -> Any:
            if name in names:
                value = _look_up(names[name])
                setattr(module, name, value)
                return value
            if ours is not None and not name.startswith("__"):
                return getattr(ours, name)  # each time: it may be patched there
            msg = f"tilework has no {module.__name__}.{name}"
            raise AttributeError(msg, name=name, obj=module)

        module.__doc__ = f"What tilework has of {module.__name__}."
        vars(module).update(
            __getattr__=get,
            __all__=sorted({*names, *getattr(ours, "__all__", ())}),
            __dir__=lambda: sorted({*vars(module), *names, *(n for n in dir(ours) if not n.startswith("__"))}),
        )


class _PackageLoader(Loader):
    """Makes the package at the top."""

    def __init__(self, version: str) -> None:
        self._version = version

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        import tilework

        module.__doc__ = f"tilework under the name {module.__name__}: the names of its version {self._version}."
        module.__file__ = str(Path(__file__).with_name("__init__.py"))
        vars(module).update(__version__=self._version, revision=f"tilework-{tilework.__version__}")


def _installed(name: str) -> ModuleSpec | None:
    """Return where a package is that is installed under that name; None when there is only ours."""
    return PathFinder.find_spec(name, [folder for folder in sys.path if folder != SHADOW])


def is_ours(module: ModuleType) -> bool:
    """Return whether what is known as ``libertem`` comes from here."""
    return isinstance(getattr(module.__spec__, "loader", None), _PackageLoader)


def _same_path(rest: str) -> str | None:
    """Return the name of our module of that path below the package; None when there is none."""
    if rest.partition(".")[0] in _NOT_PEERS:
        return None
    ours = f"tilework.{rest}"
    try:
        found = ours in sys.modules or importlib.util.find_spec(ours) is not None
    except ModuleNotFoundError:  # what it is in is not a package with us
        found = False
    return ours if found else None


def _look_up(place: str) -> Any:
    module, _, name = place.partition(":")
    value = getattr(importlib.import_module(module), name.removesuffix("()"))
    return value() if name.endswith("()") else value


def _absent(fullname: str) -> str:
    name, advice = fullname, None
    while advice is None and name:
        advice = ABSENT.get(name)
        name = name.rpartition(".")[0]
    folder, _, last = fullname.rpartition(".")
    if advice is None and folder == "libertem.io.dataset":
        advice = FORMATS.format(last)
    return f"tilework has no {fullname}{f': {advice}' if advice is not None else ''}"
