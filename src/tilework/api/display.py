"""What a UDF would compute, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilework.common.html import html_table, html_title

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.common.buffers import BufferWrapper
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

__all__ = ["UDFDisplay"]

HEADER = ("name", "kind", "extra shape", "shape", "dtype")


class UDFDisplay:
    """Describes a UDF on a dataset: text in a terminal, a table in a notebook.

    Parameters
    ----------
    dataset
        What would be processed.
    udf
        The UDF.
    buffers
        Its declared results, with shapes.
    """

    def __init__(self, dataset: DataSet, udf: UDF, buffers: Mapping[str, BufferWrapper]) -> None:
        self.title = type(udf).__name__
        backends = udf.get_backends()
        preferred = udf.get_preferred_input_dtype()
        native = preferred is udf.USE_NATIVE_DTYPE
        self.facts = {
            "processing method": udf.get_method().value,
            "array backends": backends if isinstance(backends, str) else ", ".join(backends),
            "preferred dtype": f"that of the dataset ({dataset.dtype})" if native else str(np.dtype(preferred)),
        }
        nav = tuple(dataset.shape.nav)
        self.rows = [
            (
                name,
                b.kind,
                str(b.extra_shape),
                str((*nav, *b.extra_shape) if b.kind == "nav" else b.shape),
                str(b.dtype),
            )
            for name, b in buffers.items()
            if b.use != "private"
        ]

    def __repr__(self) -> str:
        facts = [f"{name}: {value}" for name, value in self.facts.items()]
        rows = ["  ".join(row) for row in (HEADER, *self.rows)]
        return "\n".join([self.title, *facts, *rows])

    def _repr_html_(self) -> str:
        return html_title(self.title) + html_table(self.facts.items()) + html_table(self.rows, HEADER)
