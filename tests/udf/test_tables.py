"""Results in notebooks: a table that says what they are and what they contain, without work for large ones."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter

from tests_helpers import counts
from tilework.api import Context
from tilework.udf import UDF
from tilework.udf.sumsigudf import SumSigUDF

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


def shown(result: Any) -> str:
    """Return what a notebook shows."""
    formatter: Any = DisplayFormatter()
    html: str = formatter.format(result)[0]["text/html"]
    return html


def cells(html: str) -> list[list[str]]:
    rows = re.findall("<tr>(.*?)</tr>", html)
    return [[unescape(cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


class Various(UDF):
    """Results of several kinds, one of which has no good name."""

    def __init__(self, size: int = 1) -> None:
        super().__init__(size=size)

    def get_result_buffers(self) -> Any:
        return {
            "<b>&": self.buffer(kind="nav", dtype=np.float32),
            "flags": self.buffer(kind="nav", dtype=bool),
            "phase": self.buffer(kind="nav", dtype=np.complex64),
            "wide": self.buffer(kind="nav", extra_shape=(self.params.size,), dtype=np.uint8),
            "hidden": self.buffer(kind="nav", use="private"),
        }

    def process_frame(self, frame: Any) -> None:
        position = self.meta.slice.origin[0]
        getattr(self.results, "<b>&")[:] = np.nan if position == 0 else position / 3
        self.results.flags[:] = position > 0


HEADER = ["name", "kind", "shape", "dtype", "valid", "min", "max"]


def test_a_table(ctx: Context) -> None:
    """Values are those of numbers; names are text, whatever is in them."""
    result = ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=Various())
    html = shown(result)
    assert "<b>" not in html
    assert "<h3>Various</h3>" in html
    assert cells(html) == [
        ["contains", "all 30 positions"],
        HEADER,
        ["<b>&", "nav", "(6, 5)", "float32", "all", "0.333333", "9.66667"],
        ["flags", "nav", "(6, 5)", "bool", "all", "False", "True"],
        ["phase", "nav", "(6, 5)", "complex64", "all", "", ""],
        ["wide", "nav", "(6, 5, 1)", "uint8", "all", "0", "0"],
    ]
    assert cells(shown(result["flags"])) == [cells(html)[0], HEADER, cells(html)[3]]


def test_what_is_partial_says_so(ctx: Context) -> None:
    dataset = ctx.load("memory", data=counts(), num_partitions=3)
    total = counts().sum(axis=(2, 3)).reshape(-1)
    steps = ctx.run_udf_iter(dataset=dataset, udf=SumSigUDF(), roi=dataset.roi[:4])
    next(steps)
    merged = f"{total[:10].min():.6g}", f"{total[:10].max():.6g}"
    assert cells(shown(steps.run.partial())) == [
        ["contains", "10 of 20 selected positions: not complete"],
        HEADER,
        ["intensity", "nav", "(6, 5)", "float32", "10 of 30", *merged],
    ]
    steps.close()
    whole = ctx.run_udf(dataset=dataset, udf=SumSigUDF(), roi=dataset.roi[:4])
    assert cells(shown(whole))[0] == ["contains", "all 20 selected positions"]


def test_large_results_are_not_looked_at(ctx: Context) -> None:
    result = ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=Various(size=1 << 17))
    assert cells(shown(result))[-1] == ["wide", "nav", f"(6, 5, {1 << 17})", "uint8", "", "", ""]


def test_nothing_is_computed_to_be_shown() -> None:
    with Context.make_with("delayed") as ctx:
        result = ctx.run_udf(dataset=ctx.load("memory", data=counts()), udf=SumSigUDF())
        row = ["intensity", "nav", "(6, 5)", "float32"]
        assert cells(shown(result))[-1] == [*row, "not computed yet", "", ""]
        assert not result["intensity"].is_computed
        total = np.asarray(result["intensity"])
        assert cells(shown(result))[-1] == [*row, "all", f"{total.min():.6g}", f"{total.max():.6g}"]
