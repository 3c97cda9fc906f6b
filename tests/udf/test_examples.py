"""The examples in the documentation of the built-in functions run: `ctx` is a context, `ds` a small scan."""

from __future__ import annotations

import doctest
import importlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tilework.udf
from tests_helpers import counts
from tilework.api import Context

if TYPE_CHECKING:
    from pathlib import Path

BUILT_IN = sorted(tilework.udf._BUILT_IN.items())
OTHERS = [
    "tilework.api.analyses",
    "tilework.common.mask_stacks",
    "tilework.common.masks",
    "tilework.corrections.coordinates",
    "tilework.io.corrections.corrset",
    "tilework.io.corrections.detector",
    "tilework.udf.base",
    "tilework.udf.com_field",
    "tilework.utils.lattice",
]


@pytest.mark.parametrize("name", sorted({f"tilework.udf.{module}" for _, module in BUILT_IN} | set(OTHERS)))
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=counts((6, 8, 32, 32)), sig_dims=2, num_partitions=3)
        failed, tried = doctest.testmod(module, extraglobs={"np": np, "ctx": ctx, "ds": ds})
    assert (failed, tried > 0) == (0, True)


@pytest.mark.parametrize(("function", "module"), BUILT_IN)
def test_every_built_in_function_has_an_example(function: str, module: str) -> None:
    documentation = getattr(importlib.import_module(f"tilework.udf.{module}"), function).__doc__
    assert "Examples\n" in documentation
    assert "SKIP" not in documentation
