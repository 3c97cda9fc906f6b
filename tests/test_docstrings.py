"""The examples in docstrings run as they stand: `np` is NumPy, `ctx` a context, `ds` a small scan."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import tilework
import tilework.udf
from tests_helpers import counts
from tilework import analysis
from tilework.analysis import Analysis
from tilework.api import Context
from tilework.udf import mixins

ROOT = Path(tilework.__file__).parent
MODULES = sorted(
    ".".join(("tilework", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
BUILT_IN = sorted(tilework.udf._BUILT_IN.items())


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Examples may register analyses.
    monkeypatch.setattr(Analysis, "registry", dict(Analysis.registry))
    module = importlib.import_module(name)
    with Context.make_with("inline") as ctx:
        ds = ctx.load("memory", data=counts((6, 8, 32, 32)), sig_dims=2, num_partitions=3)
        failed, tried = doctest.testmod(module, extraglobs={"np": np, "ctx": ctx, "ds": ds})
    assert (failed, tried > 0) == (0, True)


def test_modules_with_examples_are_found() -> None:
    assert {"tilework.api.context", "tilework.udf.base", "tilework.common.masks"} <= set(MODULES)


def has_example(documented: object) -> bool:
    text = documented.__doc__ or ""
    return "Examples\n" in text and ">>> " in text and "SKIP" not in text


@pytest.mark.parametrize(("function", "module"), BUILT_IN)
def test_every_built_in_function_has_an_example(function: str, module: str) -> None:
    assert has_example(getattr(importlib.import_module(f"tilework.udf.{module}"), function))


@pytest.mark.parametrize("name", sorted({*analysis.__all__} - {"BaseAnalysis"}))
def test_every_analysis_has_an_example(name: str) -> None:
    assert has_example(getattr(analysis, name))


@pytest.mark.parametrize("name", mixins.__all__)
def test_every_mixin_has_an_example(name: str) -> None:
    assert has_example(getattr(mixins, name))
