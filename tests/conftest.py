"""Fixtures that all tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says something about the machine, not about the code.
settings.register_profile("tilework", deadline=None, print_blob=True)
settings.load_profile("tilework")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of detector files written by instruments; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("TILEWORK_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "ground_truth.json").exists():
        pytest.skip(f"no detector files at {folder}: set TILEWORK_TEST_DATA to their folder")
    return folder
