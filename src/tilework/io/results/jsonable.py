"""Anything as something that JSON can say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

__all__ = ["jsonable"]


def jsonable(value: Any) -> Any:
    """Return a value as strict JSON: numbers that JSON does not have become text, unknown objects their description.

    Parameters
    ----------
    value
        Numbers, text, sequences, mappings, named tuples (as mappings), NumPy scalars and arrays, paths; anything else
        is described by `repr`.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case complex():
            return {"real": jsonable(value.real), "imag": jsonable(value.imag)}
        case np.generic():
            item = value.item()
            # Python has no long doubles: they stay what they are.
            return str(item) if isinstance(item, np.generic) else jsonable(item)
        case np.ndarray():
            return jsonable(value.tolist()) if value.size <= 256 else f"array of shape {value.shape}, {value.dtype}"
        case Mapping():
            return {str(key): jsonable(item) for key, item in value.items()}
        case tuple() if hasattr(value, "_asdict"):  # a named one
            return jsonable(value._asdict())
        case list() | tuple():
            return [jsonable(item) for item in value]
        case set() | frozenset():
            return sorted((jsonable(item) for item in value), key=str)
        case PurePath():
            return str(value)
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case _:
            return repr(value)[:200]
