"""Parameters of analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import short_repr
from tilework.common.math import is_real_scalar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["get_parameters", "require_sig_2d", "whole_number"]

# What every analysis takes: a region of the scan, and what a program with a screen calls the thing it drew.
_ALWAYS = ("roi", "shape")


def get_parameters(
    name: str, given: Mapping[str, Any], defaults: Mapping[str, Any], required: Collection[str] = ()
) -> dict[str, Any]:
    """Return parameters, with defaults for those that are not given, or None.

    Parameters
    ----------
    name
        Of the analysis, for messages.
    given
        What is given.
    defaults
        Parameters with their defaults. Where that is a float, or an integer, the parameter is one as well.
    required
        Names of those for which there is no default.

    Raises
    ------
    ValueError
        When one is missing, not known, or not the number that it is to be.
    """
    known = [*required, *defaults]
    unknown = [key for key in given if key not in known and key not in _ALWAYS]
    missing = [key for key in required if given.get(key) is None]
    if unknown or missing:
        what = f"does not know {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        msg = f"{name} {what}: its parameters are {', '.join(known) or 'none but roi'}"
        raise ValueError(msg)
    parameters = {**defaults, **{key: value for key, value in given.items() if value is not None}}
    for key, default in defaults.items():
        value = parameters[key]
        if isinstance(default, float) and (not is_real_scalar(value) or np.isnan(value)):
            msg = f"{key} must be a number, it is {short_repr(value)}"
            raise ValueError(msg)
        if type(default) is int:
            parameters[key] = whole_number(key, value)
    return parameters


def whole_number(name: str, value: Any) -> int:
    """Return a parameter that is a whole number, as an integer; unlike `tilework.common.numbers.is_whole`, 3.0 is one.

    Raises
    ------
    ValueError
        When it is something else.
    """
    if not is_real_scalar(value) or value % 1:
        msg = f"{name} must be a whole number, it is {short_repr(value)}"
        raise ValueError(msg)
    return int(value)


def require_sig_2d(name: str, dataset: Any) -> tuple[int, int]:
    """Return the shape (y, x) of the detector.

    Raises
    ------
    ValueError
        When it has not two axes.
    """
    shape = tuple(dataset.shape.sig)
    if len(shape) != 2:
        msg = f"incompatible dataset: {name} needs two signal dimensions, the detector has the shape {shape}"
        raise ValueError(msg)
    return shape[0], shape[1]
