"""A kernel works wherever it is installed: also where its machine code cannot be kept."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from tilework.common.kernels import jit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = """
def double(x):
    return 2 * x
"""


def function_of(file: str) -> Callable[..., Any]:
    """Return a function whose code is in a file of this name."""
    namespace: dict[str, Any] = {}
    exec(compile(SOURCE, file, "exec"), namespace)
    found: Callable[..., Any] = namespace["double"]
    return found


@pytest.fixture(autouse=True)
def said_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said in another test is said again."""
    monkeypatch.setattr(jit, "_not_kept", [])


def test_without_a_folder_for_machine_code(caplog: pytest.LogCaptureFixture) -> None:
    """As where neither the installation nor the home folder can be written: numba refuses to cache, we go on."""
    assert jit.why_not_kept() is None
    for _ in range(2):
        compiled = jit.jit_cached(function_of("<nowhere>"), digest=b"")
        assert compiled(np.int64(21)) == 42
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NUMBA_CACHE_DIR" in caplog.text
    assert "no folder" in str(jit.why_not_kept())


def test_machine_code_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a home folder that is full: the result is there, and it is said once that nothing was kept."""
    path = tmp_path / "module.py"
    path.write_text(SOURCE)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    compiled = jit.jit_cached(function_of(str(path)), digest=b"")
    assert (compiled(np.int64(21)), compiled(np.float64(1.5))) == (42, 3.0)
    assert len(caplog.records) == 1
    assert f"cannot be kept in {tmp_path}" in caplog.text
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    for hits in (0, 1):  # where it can be written, it is
        compiled = jit.jit_cached(function_of(str(path)), digest=b"")
        assert compiled(np.int64(4)) == 8
        assert sum(compiled.stats.cache_hits.values()) == hits  # type: ignore[attr-defined]
