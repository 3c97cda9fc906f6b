"""Compiled code on disk is used again, and not when anything it was made of has changed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest

import tilework
from tilework.common.kernels.cache import Called, digest_of_kernels, mark

PACKAGE = Path(tilework.__file__).parent


def run(program: str, folder: Path, **environment: str) -> str:
    """Run a program that imports from `folder` first, and keeps what it compiles there."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)]), **environment}
    variables.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_kernel_is_compiled_again_when_one_that_it_calls_has_changed(tmp_path: Path) -> None:
    """In another file; until then it is taken from disk."""
    shutil.copytree(PACKAGE, tmp_path / "tilework", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
        import sys
        import numpy as np
        from tilework.common.kernels import sum_pixels
        total = np.zeros(1)
        sum_pixels(np.ones((1, 8), dtype="u2"), total, compiled=True)
        print(int(total[0]), "compiled" if "numba" in sys.modules else "from disk")
    """
    assert [run(program, tmp_path) for _ in range(2)] == ["8 compiled", "8 from disk"]
    called = tmp_path / "tilework" / "common" / "kernels" / "simd_numba.py"
    source = called.read_text(encoding="utf-8")
    line = "        return _read(context, builder, address, dtype, order, None)\n"
    assert line in source
    value = "        value = _read(context, builder, address, dtype, order, None)\n"
    called.write_text(source.replace(line, value + "        return builder.add(value, value)\n"), encoding="utf-8")
    assert [run(program, tmp_path) for _ in range(2)] == ["16 compiled", "16 from disk"]
    kept = [*(tmp_path / "tilework" / "common" / "kernels" / "__pycache__").glob("sums_numba.add_pixels-*.o")]
    assert len(kept) == 1, "what is old is removed"


def test_kernels_call_kernels_of_the_package_only() -> None:
    """Others, and constants, would not be part of the digest that invalidates what is compiled."""
    found = [*PACKAGE.rglob("*_numba.py")]
    assert len(found) > 5
    for path in found:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tilework"):
                assert str(node.module).startswith("tilework.common.kernels."), path


def test_the_digest_is_that_of_the_files() -> None:
    assert digest_of_kernels() == digest_of_kernels()
    assert len(digest_of_kernels()) == 16


def test_another_kind_of_cache_is_noticed() -> None:
    assert not mark(SimpleNamespace(py_func=len, _cache=None), b"")
    # Nothing is compiled, so nothing is kept.
    assert mark(len, b"")


# -- functions of users


def module(folder: Path, name: str, source: str, **values: Any) -> Any:
    """Return what a module of this source contains, after it was written to a file."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": name, **values}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return SimpleNamespace(**namespace)


KERNEL = """
    def kernel(frame, out):
        def local(x):
            return helper(x) * FACTOR
        out[0] = local(frame[0, 0])
"""


def user_kernel(
    folder: Path, helper: str = "def helper(x): return x + 1", factor: Any = 2, name: str = "helpers"
) -> Any:
    called = module(folder, name, helper)
    return module(folder, "kernels", KERNEL, helper=called.helper, FACTOR=factor).kernel


def test_the_same_functions_have_the_same_digest(tmp_path: Path) -> None:
    first, second = (Called(user_kernel(tmp_path)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.digest() == second.digest() is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"helper": "def helper(x): return x + 2"},
        {"helper": "def helper(x): return x + 1.0"},
        {"helper": "def helper(x): return abs(x)"},
        {"helper": "def helper(x, y=(1, 2)): return x + y[0]"},
        {"factor": 3},
        {"factor": 2.0},
        {"factor": (2, 3)},
        {"factor": np.array([2, 3])},
    ],
    ids=str,
)
def test_what_changes_the_result_changes_the_digest(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = Called(user_kernel(tmp_path))
    digest = before.digest()
    after = Called(user_kernel(tmp_path, **changes))
    assert before.fingerprint != after.fingerprint
    assert digest != after.digest()


def test_what_is_sent_by_value_has_the_same_fingerprint(tmp_path: Path) -> None:
    """The copy knows only the globals that it refers to, and not its file."""
    kernel = module(tmp_path, "a", "def kernel(f): return f.size * FACTOR", FACTOR=2, size=3, other=4).kernel
    kernel.__module__ = "__main__"
    copy = cloudpickle.loads(cloudpickle.dumps(kernel))
    assert copy.__globals__ is not kernel.__globals__
    assert Called(copy).fingerprint == Called(kernel).fingerprint
    kernel.__globals__["FACTOR"] = 3
    assert Called(copy).fingerprint != Called(kernel).fingerprint


def test_the_file_counts_as_well(tmp_path: Path) -> None:
    """A file may say what the code does not, such as options of a decorator."""
    before = Called(user_kernel(tmp_path))
    digest = before.digest()
    after = Called(user_kernel(tmp_path, helper="# other options\ndef helper(x): return x + 1"))
    assert before.fingerprint == after.fingerprint
    assert digest != after.digest()


def test_functions_are_found_through_modules_and_closures(tmp_path: Path) -> None:
    inner = module(tmp_path, "inner", "def add(x): return x + 1")
    package: Any = ModuleType("package")
    package.inner = ModuleType("package.inner")
    package.inner.add = inner.add
    through_module = module(tmp_path, "a", "def kernel(f): return package.inner.add(f)", package=package).kernel
    make = module(tmp_path, "b", "def make(add):\n    def kernel(f): return add(f)\n    return kernel").make
    for kernel in (through_module, make(inner.add)):
        digest = Called(kernel).digest()
        assert digest is not None
        with (tmp_path / "inner.py").open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert Called(kernel).digest() != digest


def test_what_is_in_no_file_has_no_digest(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def helper(x): return x + 1", "<cell 1>", "exec"), namespace)
    kernel = module(tmp_path, "kernels", KERNEL, helper=namespace["helper"], FACTOR=2).kernel
    assert Called(kernel).digest() is None
    before = Called(kernel).fingerprint
    exec(compile("def helper(x): return x + 2", "<cell 2>", "exec"), namespace)
    kernel = module(tmp_path, "kernels", KERNEL, helper=namespace["helper"], FACTOR=2).kernel
    assert Called(kernel).fingerprint != before


def test_digests_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Sets of strings are in another order in each."""
    source = 'def kernel(f, how): return f if how in {"a", "b", "c", "d"} else helper(f)\nfrom helpers import helper\n'
    (tmp_path / "kernels.py").write_text(source, encoding="utf-8")
    (tmp_path / "helpers.py").write_text("def helper(f): return -f\n", encoding="utf-8")
    program = """
        from kernels import kernel
        from tilework.common.kernels.cache import Called
        print(Called(kernel).digest().hex())
    """
    assert len({run(program, tmp_path, PYTHONHASHSEED=seed) for seed in "123"}) == 1
