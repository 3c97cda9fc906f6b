"""Fixtures of the tests of the command: as it is installed, and files for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.cli import main

COMMAND = Path(sys.executable).with_name("tilework")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How the command is called: as it is installed, or as a module where no script was installed."""
    return [str(COMMAND)] if COMMAND.exists() else [sys.executable, "-m", "tilework"]


@pytest.fixture
def tilework(command: list[str], tmp_path: Path) -> Run:
    """Run the command in a process of its own, in an empty folder; stdout and stderr are text."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        settings: dict[str, Any] = {"cwd": tmp_path, "timeout": 100, **options}
        called = [*command, *map(str, arguments)]
        return subprocess.run(called, capture_output=True, text=True, check=False, **settings)

    return run


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Call the command as `tilework` does, but in this process, where the libraries that it needs are loaded.

    For what the same code says to other arguments, once a test has seen it as a program of its own.
    """
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def counts() -> np.ndarray:
    """Poisson counts (6, 5, 16, 12), uint16."""
    return np.random.default_rng(4).poisson(20, (6, 5, 16, 12)).astype(np.uint16)


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory, counts: np.ndarray) -> Path:
    """`counts` in a .npy file."""
    path = tmp_path_factory.mktemp("scan") / "scan.npy"
    np.save(path, counts)
    return path
