"""Fixtures that all tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of detector files written by instruments; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("TILEWORK_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "ground_truth.json").exists():
        pytest.skip(f"no detector files at {folder}: set TILEWORK_TEST_DATA to their folder")
    return folder
