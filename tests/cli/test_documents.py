"""README and docs say what is true: their code runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tilework.cli.functions import BUILTIN
from tilework.cli.parser import make_parser
from tilework.io.results import load_results, suffixes
from tilework.utils.simulate import simulate_scan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_readme_code_runs(tmp_path: Path) -> None:
    """The lines of the README, on the scan that the demo makes."""
    (tmp_path / "tilework-demo").mkdir()
    simulate_scan(tmp_path / "tilework-demo" / "scan.npy")
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    electrons, pixels = (float(line.split()[0]) for line in done.stdout.splitlines())
    assert electrons == pytest.approx(32 * 32 * 60_000, rel=0.02)
    assert 0.1 < pixels < 0.3
    assert np.isfinite(load_results(tmp_path / "deflection.npz")["magnitude"]).sum() == 32 * 32


# Each program has names of its own, and finds those of no other.
ONE_BY_ONE = """
import sys
for number, code in enumerate(sys.argv[1:], 1):
    exec(compile(code, f"example {number}", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
"""


def test_code_of_the_docs_runs(tmp_path: Path) -> None:
    """Complete examples run, one after the other in one folder; parts of classes are at least Python.

    Those of one document run in one process: what takes longest is to start it, and to import.
    """
    for path in DOCUMENTS[1:]:
        programs = []
        for code in blocks(path, "python"):
            if code.startswith(" "):
                compile(f"class Part:\n{code}", str(path), "exec")
            else:
                programs.append(code)
        if programs:
            command = [sys.executable, "-c", ONE_BY_ONE, *programs]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
            assert done.returncode == 0, f"{path}:\n{done.stderr}"


def test_commands_of_the_docs_parse() -> None:
    """Every ``tilework`` command in the documents is one that the parser takes, with functions that exist."""
    commands = [
        shlex.split(line.split("#")[0])[1:]
        for path in DOCUMENTS
        for block in blocks(path, "shell")
        for line in block.splitlines()
        if line.startswith("tilework ")
    ]
    assert len(commands) > 8
    for command in commands:
        arguments = make_parser().parse_args(command)
        for name, _ in getattr(arguments, "udfs", None) or ():
            if ":" not in name:
                assert name in BUILTIN


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Links to files of the repository, and to headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert heading in [h.lower().replace(" ", "-") for h in headings], f"{path}: {target}"


def test_suffixes_are_documented() -> None:
    """Every kind of result file is in the documentation."""
    text = (ROOT / "docs" / "formats.md").read_text()
    assert all(f"`{suffix}`" in text for suffix in suffixes() if suffix not in {".hdf5", ".tiff"})


def test_picture_of_the_readme() -> None:
    """It is there, and not too large."""
    assert 50_000 < (ROOT / "docs" / "images" / "demo.png").stat().st_size < 400_000
