"""The example of a format keeps the contract of datasets, and runs as a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from image_folder import ImageFolder
from tilework.api import Context
from tilework.exceptions import DataSetException
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.datasets import DataSetContract

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "image_folder.py"


class TestImageFolder(DataSetContract):
    def make_dataset(self, folder: Path, executor: JobExecutor, **kwargs: Any) -> DataSet:
        for i, frame in enumerate(self.expected().reshape((-1, 8, 9))):
            Image.fromarray(frame).save(folder / f"{i:03}.tif")
        return ImageFolder(folder, nav_shape=(5, 7), **kwargs).initialize(executor)

    def expected(self) -> NDArray[Any]:
        return np.arange(5 * 7 * 8 * 9, dtype="u2").reshape((5, 7, 8, 9))


@pytest.mark.parametrize(
    ("nav_shape", "message"), [(None, "holds no .tif files"), ((3, 3), r"holds 1 images, .* has 9 positions")]
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, nav_shape: Any, message: str) -> None:
    if nav_shape is not None:
        Image.fromarray(np.ones((4, 4), dtype="u2")).save(tmp_path / "0.tif")
    with InlineJobExecutor() as executor, pytest.raises(DataSetException, match=message):
        ImageFolder(tmp_path, nav_shape=nav_shape).initialize(executor)


@pytest.mark.parametrize("name", ["images", ImageFolder])
def test_a_context_loads_it(name: Any, tmp_path: Path) -> None:
    """By the name that it is registered under, or by its class; it needs no parameters beside its own."""
    Image.fromarray(np.ones((4, 4), dtype="u2")).save(tmp_path / "0.tif")
    with Context.make_with("inline") as ctx:
        assert ctx.load(name, path=tmp_path).shape == (1, 4, 4)
        assert ctx.load(name, tmp_path, io_backend=None, nav_shape=(1, 1)).shape == (1, 1, 4, 4)


def test_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("<ImageFolder of uint16 shape=(8, 8, 32, 32)>")
