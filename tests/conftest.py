"""Fixtures that all tests may use."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says something about the machine, not about the code.
settings.register_profile("tilework", deadline=None, print_blob=True)
settings.load_profile("tilework")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would everything that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The files that take longest. Where several processes take one file at a time, nobody should begin with these last.
LONGEST = [
    "testing/test_soak.py",
    "executor/test_pool.py",
    "executor/pipelined/test_pipelined.py",
    "executor/pipelined/test_starting.py",
    "executor/pipelined/test_lost_workers.py",
    "executor/dask/test_dask_contract.py",
    "examples/test_example_programs.py",
    "executor/test_integration.py",
    "executor/pipelined/test_results.py",
    "test_same_bits.py",
    "udf/test_builtin_masks.py",
    "cli/test_documents.py",
    "udf/test_delayed_run.py",
    "common/kernels/test_masks_products.py",
    "cli/test_demo.py",
    "udf/test_array_kinds.py",
    "common/kernels/test_byte_order.py",
    "udf/test_tile_kernels.py",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the files that take longest first, and the others in their order."""
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Let the garbage collector never again look at what all tests and modules are: many a test is quicker."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--peer",
        metavar="PYTHON",
        default=os.environ.get("TILEWORK_PEER"),
        help="Python that has LiberTEM, for tests/peer (default: the environment variable TILEWORK_PEER)",
    )


@pytest.fixture(scope="session")
def peer_python(request: pytest.FixtureRequest) -> str:
    """The Python that has LiberTEM; a test that needs it is skipped where none was named."""
    python: str | None = request.config.getoption("--peer")
    if python is None:
        pytest.skip("nothing to compare with: name a Python that has LiberTEM with --peer PYTHON or TILEWORK_PEER")
    found = subprocess.run(
        [python, "-W", "ignore", "-c", "import libertem.api"], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, f"{python} has no LiberTEM: {found.stderr.strip().splitlines()[-1:]}"
    return python


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of detector files written by instruments; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("TILEWORK_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "ground_truth.json").exists():
        pytest.skip(f"no detector files at {folder}: set TILEWORK_TEST_DATA to their folder")
    return folder


@pytest.fixture
def no_device_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says which device this process computes on; what the test sets is gone after it."""
    for name in ("TILEWORK_USE_CUDA", "TILEWORK_USE_CPU", "LIBERTEM_USE_CUDA", "LIBERTEM_USE_CPU"):
        monkeypatch.setenv(name, "0")  # first, so that the removal is undone although nothing was there
        monkeypatch.delenv(name)
