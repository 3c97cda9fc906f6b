"""The example of "Writing an executor" keeps the contract, and is what the documentation shows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from tilework.common.executor import JobExecutor

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "thread_each.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("thread_each", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["thread_each"] = module
    spec.loader.exec_module(module)
    return module


ThreadEachExecutor = load_example().ThreadEachExecutor


class TestThreadEach(ExecutorContract):
    make_code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE.parent)!r})\n"
        "from thread_each import ThreadEachExecutor; executor = ThreadEachExecutor(2)"
    )
    worker_names = ("threads",)
    parallelism = 2
    threaded = True
    prioritises = False  # each run has threads of its own

    def make_executor(self) -> JobExecutor:
        executor: JobExecutor = ThreadEachExecutor(2)
        return executor


def test_the_documentation_shows_it() -> None:
    """All of it, and it is short."""
    code = EXAMPLE.read_text(encoding="utf-8")
    assert code in (ROOT / "docs" / "executors" / "writing.md").read_text(encoding="utf-8")
    assert len(code.splitlines()) < 100
