"""Names on the command line become UDFs."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tilework.cli.values import FromFile, read_array
from tilework.cli.words import free_name
from tilework.exceptions import CommandError

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray

    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

__all__ = ["BUILTIN", "Function", "disk_mask", "find_own_modules", "load_array", "make_functions"]


@dataclass(frozen=True)
class Function:
    """A UDF that was asked for.

    Parameters
    ----------
    label
        Name of its files, unique in the run.
    udf
        The UDF.
    asked
        What it was made of; can be written as JSON.
    """

    label: str
    udf: UDF
    asked: Mapping[str, Any] = field(default_factory=dict)


# Options for some of the functions, and which: one that no chosen function reads is a mistake.
OPTIONS = {
    "center": "disk, ring, com, fem, and crystallinity with --radius",
    "radius": "disk, ring, com, fem and crystallinity",
    "inner": "ring, com and fem",
    "masks": "masks",
}


class _Geometry:
    """The detector, and what the command line says about virtual detectors on it; keeps which of that was read."""

    def __init__(self, sig_shape: tuple[int, ...], given: Mapping[str, Any]) -> None:
        self.sig_shape = sig_shape
        self._given = given
        self._read: set[str] = set()

    def __getitem__(self, option: str) -> Any:
        """Return the value of an option, None where it was not given."""
        self._read.add(option)
        return self._given[option]

    @property
    def middle(self) -> tuple[float, float]:
        """The centre that was given, or that of the detector."""
        return self["center"] or (self.sig_shape[0] // 2, self.sig_shape[1] // 2)

    def replaced(self, parameters: Mapping[str, Any], **options: Callable[[], Any]) -> dict[str, Any]:
        """Return parameters with what options say of those that are not given; only those options are read."""
        return {**{name: read() for name, read in options.items() if name not in parameters}, **parameters}

    def require_read(self) -> None:
        """See that every option that was given had a meaning.

        Raises
        ------
        CommandError
            When no function read it.
        """
        for option, value in self._given.items():
            if value is not None and option not in self._read:
                msg = f"--{option} has no effect here: it is for {OPTIONS[option]}, where no --param says the same"
                raise CommandError(msg)

    def require_2d(self, name: str) -> None:
        """See that the detector has two axes."""
        if len(self.sig_shape) != 2:
            msg = f"--udf {name} needs a detector with two axes, this one has shape {self.sig_shape}: give --sig-shape"
            raise CommandError(msg)


def disk_mask(
    sig_shape: tuple[int, ...], center: tuple[float, float], radius: float, inner: float | None = None
) -> NDArray[np.float32]:
    """Return a mask that is 1 where ``inner < distance <= radius`` from the centre (y, x), float32, else 0."""
    from tilework.masks import circular, ring

    place = (center[1], center[0], sig_shape[1], sig_shape[0], radius)
    mask = circular(*place) if inner is None else ring(*place, inner)
    return mask.astype("float32")


def make_functions(args: argparse.Namespace, dataset: DataSet) -> list[Function]:
    """Return the UDFs that the arguments ask for, in order.

    Raises
    ------
    CommandError
        When there is no such UDF, its parameters do not fit, or an option is for none of them.
    """
    geometry = _Geometry(tuple(dataset.shape.sig), {name: getattr(args, name) for name in OPTIONS})
    functions: list[Function] = []
    for name, parameters in args.udfs:
        values = {key: _value(key, value) for key, value in parameters.items()}
        asked: dict[str, Any] = {}
        try:
            if ":" in name:
                udf = _load_class(name)(**values)
            elif name in BUILTIN:
                udf, asked = BUILTIN[name](geometry, values)
            else:
                msg = f"there is no UDF {name!r}: use one of {', '.join(BUILTIN)}, or module:Class for your own"
                raise CommandError(msg)
        except CommandError:
            raise
        except Exception as error:
            msg = f"--udf {name} does not take these parameters: {type(error).__name__}: {error}"
            raise CommandError(msg) from error
        label = free_name(name.rpartition(":")[2], [f.label for f in functions])
        functions.append(Function(label, udf, {"name": name, **asked, **parameters_for_people(parameters)}))
    geometry.require_read()
    return functions


def parameters_for_people(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as they were written: an array from a file is its path."""
    return {key: f"@{value.path}" if isinstance(value, FromFile) else value for key, value in parameters.items()}


def _value(key: str, value: Any) -> Any:
    if not isinstance(value, FromFile):
        return value
    return load_array(f"--param {key}=@", value.path)


def load_array(what: str, path: str) -> NDArray[Any]:
    """Return the array in a .npy file; `what` names the argument in messages.

    Raises
    ------
    CommandError
        When there is no such file, or no array in it.
    """
    try:
        return read_array(path)
    except OSError as error:
        msg = f"{what}{path}: {error.strerror or error}"
        raise CommandError(msg) from error
    except ValueError as error:
        msg = f"{what}{error}"
        raise CommandError(msg) from error


# -- built-in UDFs: each takes the geometry and the parameters

Made = tuple[Any, dict[str, Any]]
Maker = Callable[[_Geometry, dict[str, Any]], Made]


def _plain(name: str, where: str) -> Maker:
    """Return what makes a UDF that has nothing to do with the geometry."""

    def make(_geometry: _Geometry, parameters: dict[str, Any]) -> Made:
        udf_class = _load_class(where)
        _require_known(name, udf_class, parameters)
        return udf_class(**parameters), {}

    return make


def _require_known(
    name: str,
    maker: Callable[..., Any],
    parameters: Mapping[str, Any],
    options: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """See that a UDF has these parameters; further ones that it takes for the sake of subclasses do not count.

    `options` says which options mean what these parameters do for other UDFs.
    """
    of_subclasses = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    known = [key for key, p in inspect.signature(maker).parameters.items() if p.kind not in of_subclasses]
    for key in parameters:
        if key not in known:
            there_are = f"there are {', '.join(known)}" if known else "it has none"
            option = key if key in OPTIONS else options.get(key)
            msg = f"--udf {name} has no parameter {key}: {there_are if option is None else f'write --{option}'}"
            raise CommandError(msg)


def _com(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    from tilework.udf.com import CoMUDF

    geometry.require_2d("com")
    _require_known("com", CoMUDF.with_params, parameters)
    asked = geometry.replaced(
        parameters,
        cy=lambda: geometry.middle[0],
        cx=lambda: geometry.middle[1],
        r=lambda: math.inf if geometry["radius"] is None else geometry["radius"],
        ri=lambda: geometry["inner"] or 0.0,
    )
    return CoMUDF.with_params(**asked), asked


def _disk(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    geometry.require_2d("disk")
    radius = min(geometry.sig_shape) / 2 * 0.3 if geometry["radius"] is None else geometry["radius"]
    mask = disk_mask(geometry.sig_shape, geometry.middle, radius)
    return _virtual_detector("disk", mask, {"center": geometry.middle, "radius": radius}, parameters)


def _ring(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    geometry.require_2d("ring")
    radius = min(geometry.sig_shape) / 2 if geometry["radius"] is None else geometry["radius"]
    inner = 0.8 * radius if geometry["inner"] is None else geometry["inner"]
    if inner >= radius:
        msg = f"--udf ring: --inner {inner} must be smaller than --radius {radius}"
        raise CommandError(msg)
    mask = disk_mask(geometry.sig_shape, geometry.middle, radius, inner)
    return _virtual_detector("ring", mask, {"center": geometry.middle, "radius": radius, "inner": inner}, parameters)


def _virtual_detector(name: str, mask: NDArray[np.float32], asked: dict[str, Any], parameters: dict[str, Any]) -> Made:
    from tilework.udf.masks import ApplyMasksUDF

    _require_known(name, ApplyMasksUDF, parameters, {"cy": "center", "cx": "center", "r": "radius", "ri": "inner"})
    if not mask.any():
        msg = f"--udf {name} selects no pixel of a detector of {mask.shape}: see --center, --radius and --inner"
        raise CommandError(msg)
    how = {"mask_factories": [lambda: mask], "mask_count": 1, "mask_dtype": "float32"}
    return ApplyMasksUDF(**{**how, **parameters}), asked


def _masks(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    from tilework.udf.masks import ApplyMasksUDF

    _require_known("masks", ApplyMasksUDF, parameters)
    path = geometry["masks"]
    if path is None:
        msg = "--udf masks needs --masks FILE.npy with a stack of masks (n, detector y, detector x)"
        raise CommandError(msg)
    stack = load_array("--masks ", path)
    if stack.shape == geometry.sig_shape:
        stack = stack[None]
    if stack.shape[1:] != geometry.sig_shape:
        msg = (
            f"--masks {path} has shape {stack.shape}, the detector {geometry.sig_shape}: the last axes must be the same"
        )
        raise CommandError(msg)
    if not len(stack):
        msg = f"--masks {path} holds no mask, its shape is {stack.shape}: give at least one"
        raise CommandError(msg)
    if stack.dtype.kind not in "buifc":
        msg = f"--masks {path} is of dtype {stack.dtype}, which are no numbers: save masks of numbers or bools"
        raise CommandError(msg)
    if stack.dtype.kind == "b":
        stack = stack.astype("float32")
    udf = ApplyMasksUDF(
        **{"mask_factories": lambda: stack, "mask_count": len(stack), "mask_dtype": stack.dtype, **parameters}
    )
    return udf, {"masks": path, "count": len(stack)}


def _fem(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    from tilework.udf.FEM import FEMUDF

    geometry.require_2d("fem")
    _require_known("fem", FEMUDF, parameters)
    asked = geometry.replaced(
        parameters,
        center=lambda: geometry.middle,
        rad_in=lambda: geometry["inner"],
        rad_out=lambda: geometry["radius"],
    )
    if asked["rad_in"] is None or asked["rad_out"] is None:
        msg = "--udf fem needs the ring whose pixels are compared: give --inner R and --radius R"
        raise CommandError(msg)
    return FEMUDF(**asked), asked


def _crystallinity(geometry: _Geometry, parameters: dict[str, Any]) -> Made:
    from tilework.udf.crystallinity import CrystallinityUDF

    geometry.require_2d("crystallinity")
    _require_known("crystallinity", CrystallinityUDF, parameters)
    if not {"rad_in", "rad_out"} <= set(parameters):
        msg = (
            "--udf crystallinity needs a range of frequencies, in periods per frame: --param rad_in=A --param rad_out=B"
        )
        raise CommandError(msg)
    asked = parameters
    if "real_rad" in parameters or geometry["radius"] is not None:
        asked = geometry.replaced(parameters, real_center=lambda: geometry.middle, real_rad=lambda: geometry["radius"])
    return CrystallinityUDF(**asked), asked


BUILTIN: dict[str, Maker] = {
    "sum": _plain("sum", "tilework.udf.sum:SumUDF"),
    "sumsig": _plain("sumsig", "tilework.udf.sumsigudf:SumSigUDF"),
    "stddev": _plain("stddev", "tilework.udf.stddev:StdDevUDF"),
    "com": _com,
    "disk": _disk,
    "ring": _ring,
    "masks": _masks,
    "logsum": _plain("logsum", "tilework.udf.logsum:LogsumUDF"),
    "fem": _fem,
    "crystallinity": _crystallinity,
}


# -- users' own UDFs


def find_own_modules(names: Iterable[str]) -> None:
    """Have modules of the current folder found, where one of the names is ``module:Class``.

    Here, and in workers that are started from now on.
    """
    if any(":" in name for name in names) and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


def _load_class(name: str) -> Any:
    """Return the class ``module:Class``."""
    from tilework.udf.base import UDF

    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            msg = f"--udf {name}: there is no module {error.name!r} in {Path.cwd()} or installed; write module:Class"
            raise CommandError(msg) from error
        msg = f"--udf {name}: {module_name} needs a module that is not installed: {error.name}"
        raise CommandError(msg) from error
    except Exception as error:
        msg = f"--udf {name}: importing {module_name} failed: {type(error).__name__}: {error}"
        raise CommandError(msg) from error
    except SystemExit as error:
        what = "put what it does as a program under if __name__ == '__main__'"
        msg = f"--udf {name}: importing {module_name} ended the program: {what}"
        raise CommandError(msg) from error
    found: Any = module
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, UDF)):
        known = sorted(
            n
            for n, c in vars(module).items()
            if isinstance(c, type) and issubclass(c, UDF) and c.__module__ == module.__name__
        )
        what = "is not a UDF" if found is not None else "does not exist"
        msg = f"--udf {name}: {class_name!r} {what}; {module_name} has {', '.join(known) or 'no UDF'}"
        raise CommandError(msg)
    return found
