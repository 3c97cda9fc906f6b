"""Results as tables in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.html import html_table, html_title

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.udf.results import Provenance, ResultBuffer

__all__ = ["as_html"]

_HEADER: Final = ("name", "kind", "shape", "dtype", "valid", "min", "max")
# Up to so many entries, looking at all of them takes some milliseconds.
_LOOKED_AT: Final = 1 << 20


def as_html(buffers: Mapping[str, ResultBuffer], provenance: Provenance | None) -> str:
    """Return a table of results of one UDF, with what they contain.

    Of large results, and of those that are yet to be computed, no values are looked at.

    Parameters
    ----------
    buffers
        The results by name.
    provenance
        Where they come from, or None.
    """
    facts = "" if provenance is None else html_table([("contains", provenance.say_merged())])
    title = "results" if provenance is None else provenance.udf
    return html_title(title) + facts + html_table([_row(name, b) for name, b in buffers.items()], _HEADER)


def _row(name: str, buffer: ResultBuffer) -> tuple[str, ...]:
    shape = tuple(map(int, buffer.data_shape))
    return (name, buffer.kind, str(shape), str(buffer.dtype), *_values(buffer, int(np.prod(shape))))


def _values(buffer: ResultBuffer, size: int) -> tuple[str, str, str]:
    """Return how much is valid, and the lowest and the highest value of that which is a number."""
    if not buffer.is_computed:
        return "not computed yet", "", ""
    if size > _LOOKED_AT:
        return "", "", ""
    valid = buffer.valid_mask
    n_valid = int(np.count_nonzero(valid))
    values = np.asarray(buffer.data)[valid]
    said = "all" if n_valid == size else f"{n_valid} of {size}"
    if values.dtype.kind == "f":
        values = values[~np.isnan(values)]
    if not values.size or values.dtype.kind not in "buif":
        return said, "", ""
    return said, _number(values.min()), _number(values.max())


def _number(value: Any) -> str:
    return f"{value:.6g}" if np.asarray(value).dtype.kind == "f" else str(value)
