"""The examples in docstrings run as they stand: `np` is NumPy, `ctx` a context, `ds` a small scan."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tilework
import tilework.udf
from tests_helpers import counts
from tilework import analysis
from tilework.analysis import Analysis
from tilework.api import Context
from tilework.udf import mixins

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


# -- what docstrings say of parameters and errors


def documented(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield a function, or a class and the methods that no class above it has, each with its name."""
    yield f"{obj.__module__}.{obj.__qualname__}", obj
    for name, value in vars(obj).items() if isinstance(obj, type) else ():
        method = getattr(value, "__func__", value)
        is_new = not any(name in vars(base) for base in obj.__mro__[1:])
        if inspect.isfunction(method) and is_new and not name.startswith(("_", "test_")):
            yield f"{obj.__module__}.{obj.__qualname__}.{name}", getattr(obj, name)


def exported(names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", ()):
            obj = getattr(module, attribute)
            is_ours = getattr(obj, "__module__", None) or ""
            if is_ours.startswith("tilework") and (inspect.isfunction(obj) or isinstance(obj, type)):
                found.update(documented(obj))
    return found


def parameters(obj: Any) -> dict[str, inspect.Parameter]:
    """Return what a caller may give; nothing for protocols and exceptions."""
    if isinstance(obj, type) and (getattr(obj, "_is_protocol", False) or issubclass(obj, BaseException)):
        return {}
    try:
        signature = inspect.signature(obj)
    except ValueError:  # a class derived from one of Python's own
        return {}
    return {name: p for name, p in signature.parameters.items() if name != "self"}


def section(doc: str, title: str) -> list[str] | None:
    """Return the names that a section of a docstring explains; None when there is no such section."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", inspect.cleandoc(doc), re.MULTILINE | re.DOTALL)
    if match is None:
        return None
    heads = [line for line in match[1].splitlines() if line and not line[0].isspace()]
    return [name.strip().lstrip("*") for line in heads for name in line.split(":")[0].split(",")]


def test_documented_parameters_are_those_that_there_are() -> None:
    """In every module: who explains parameters explains all of them, and no others."""
    # Programs, and what sets up processes of workers, such as that they ignore Ctrl-C, are not for this process.
    own = {"__main__", "preload", "template_imports"}
    modules = (m.name for m in pkgutil.walk_packages(tilework.__path__, "tilework."))
    wrong = {}
    for name, obj in exported(m for m in modules if m.split(".")[-1] not in own).items():
        explained, given = section(obj.__doc__ or "", "Parameters"), parameters(obj)
        if explained is None or not given:
            continue
        # What takes any arguments explains them where that is of use; an underscore is not for callers.
        needed = {n for n, p in given.items() if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD} and n[0] != "_"}
        if off := (needed - set(explained)) | (set(explained) - set(given)):
            wrong[name] = sorted(off)
    assert wrong == {}


# Modules that users and authors of functions, executors and formats import from.
FOR_USERS = """
analysis analysis.results api common.executor common.scheduler common.tracing contrib.daskadapter corrections
corrections.coordinates corrections.detector exceptions executor.concurrent executor.dask executor.delayed
executor.inline executor.integration executor.pipelined io.dataset io.results masks testing.executors udf udf.auto
udf.base udf.com udf.crystallinity udf.FEM udf.logsum udf.masks udf.mixins udf.monitor udf.raw udf.record udf.stddev
udf.sum udf.sumsigudf utils utils.generate utils.lattice utils.simulate viz viz.bqp viz.figures viz.marks viz.mpl
"""
# "Parameters are those of `run_udf`", "see `merge`".
REFERENCE = re.compile(r"\b(?:as|of|see) `[\w.]+`")


def raised(obj: Any) -> set[str]:
    """Return the names of the errors that a function, or the constructor of a class, raises itself."""
    function: Any = vars(obj).get("__init__") if isinstance(obj, type) else obj
    if not getattr(function, "__module__", "").startswith("tilework"):  # no constructor, or that of all protocols
        return set()
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except OSError:  # the constructor of a dataclass
        return set()
    errors = (node.exc for node in of_itself(tree) if isinstance(node, ast.Raise))
    calls = (error.func for error in errors if isinstance(error, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)} - {"NotImplementedError", "StopAsyncIteration"}


def of_itself(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a function, but not what is in functions within it."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from of_itself(node)


def test_users_find_what_they_must_give_and_what_may_be_raised() -> None:
    """Up to two parameters a sentence may explain, more have a section; errors are named."""
    missing = {}
    for name, obj in exported(f"tilework.{module}" for module in FOR_USERS.split()).items():
        doc = inspect.getdoc(obj) or ""
        if not doc:
            missing[name] = "a docstring"
        elif REFERENCE.search(doc):
            continue
        elif not isinstance(obj, type) and section(doc, "Parameters") is None:
            names = [name for name in parameters(obj) if name[0] != "_"]
            unnamed = [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", doc)]
            if len(names) > 2 and unnamed:
                missing[name] = ", ".join(unnamed)
        if unsaid := sorted(error for error in raised(obj) if error not in doc):
            missing[f"{name}, raises"] = ", ".join(unsaid)
    assert missing == {}
