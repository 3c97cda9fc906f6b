"""What packages import only when it is asked for: type checkers know it, and it is there."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import tilework.api
import tilework.api.async_generators
import tilework.api.generators
import tilework.api.runs
import tilework.common
import tilework.executor.dask
import tilework.executor.pipelined
import tilework.executor.pipelined.executor
import tilework.udf
import tilework.udf.base
import tilework.udf.com
import tilework.udf.noop
import tilework.udf.results
import tilework.udf.runner
import tilework.udf.sum
import tilework.utils
from tilework.common.later import import_later

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

# With what they import when it is asked for.
LAZY: dict[ModuleType, Collection[str]] = {
    tilework.api: tilework.api._LAZY,
    tilework.common: tilework.common._PLACES,
    tilework.executor.dask: tilework.executor.dask._PLACES,
    tilework.executor.pipelined: tilework.executor.pipelined._PLACES,
    tilework.udf: tilework.udf._BUILT_IN,
    tilework.udf.base: tilework.udf.base._ELSEWHERE,
    tilework.utils: tilework.utils.__all__,
}


def test_type_checkers_know_them() -> None:
    """The test is the type checker, to which a name that comes from ``__getattr__`` alone is `Any`."""

    def check(
        total: tilework.udf.SumUDF,
        com: tilework.udf.CoMUDF,
        noop: tilework.udf.base.NoOpUDF,
        results: tilework.udf.base.UDFResults,
        runner: tilework.udf.base.UDFRunner,
        run: tilework.api.UDFRun,
        parts: tilework.api.ResultGenerator,
        later: tilework.api.ResultAsyncGenerator,
        executor: tilework.executor.pipelined.PipelinedExecutor,
    ) -> None:
        assert_type(total, tilework.udf.sum.SumUDF)
        assert_type(com, tilework.udf.com.CoMUDF)
        assert_type(noop, tilework.udf.noop.NoOpUDF)
        assert_type(results, tilework.udf.results.UDFResults)
        assert_type(runner, tilework.udf.runner.UDFRunner)
        assert_type(run, tilework.api.runs.UDFRun)
        assert_type(parts, tilework.api.generators.ResultGenerator)
        assert_type(later, tilework.api.async_generators.ResultAsyncGenerator)
        assert_type(executor, tilework.executor.pipelined.executor.PipelinedExecutor)
        assert_type(tilework.utils.rotate_deg(0, 1, 90), tuple[Any, Any])
        _ = tilework.udf.NoSuchUDF  # type: ignore[attr-defined]
        _ = tilework.api.NoSuchRun  # type: ignore[attr-defined]

    assert callable(check)


def for_type_checkers(module: ModuleType) -> dict[str, str]:
    """Return what a module imports from tilework for type checkers only, if it is public, with where it comes from."""
    tree = ast.parse(inspect.getsource(module))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        name.name: str(node.module) for node in imports for name in node.names if name.name in vars(module)["__all__"]
    }


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.__name__)
def test_they_are_there_under_the_same_names(module: Any) -> None:
    """What type checkers see is what programs get, no more and no less."""
    names = for_type_checkers(module)
    assert set(names) == set(LAZY[module])
    assert set(names) <= set(module.__all__)
    for name, origin in names.items():
        assert getattr(module, name) is getattr(import_module(origin), name)
    code = f"import {module.__name__} as m; print([n for n in m.__all__ if n not in vars(m)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(ast.literal_eval(done.stdout)) <= set(names)
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = module.NoSuchName
    if hasattr(module, "__path__"):  # what people look into for its names
        assert set(names) <= set(dir(module))


def test_what_is_wrong_in_there_is_not_hidden() -> None:
    """``from … import`` takes an AttributeError for a name that there is not, and says nothing of its cause."""
    with pytest.raises(ImportError, match=r"loads cannot be imported from json.decoder") as raised:
        import_later("json", "json", {"loads": "decoder"})("loads")
    assert isinstance(raised.value.__cause__, AttributeError)


def test_pipelined_can_be_imported_on_other_systems() -> None:
    """Then it can say what it needs."""
    code = (
        "import socket; del socket.MSG_CMSG_CLOEXEC, socket.MSG_NOSIGNAL\n"
        "from tilework.executor.pipelined import PipelinedExecutor"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
