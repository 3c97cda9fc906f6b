"""A warning is about the line of the program that called the package, however deep it is given."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.callers import outside_level
from tilework.io.dataset.memory import MemoryDataSet
from tilework.io.dataset.raw import RawFileDataSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def context() -> Iterator[Context]:
    with Context.make_with("inline") as made:
        yield made


def _files(first: Callable[[], Any], second: Callable[[], Any]) -> list[str]:
    """Return whose lines the warnings are about that Python shows by default of two calls."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        first()
        second()
    return [warning.filename for warning in shown]


def test_outside_of_the_package_it_is_the_caller() -> None:
    assert outside_level() == 1


def test_every_load_of_a_cut_off_file_is_warned_about(tmp_path: Path, context: Context) -> None:
    path = tmp_path / "scan.raw"
    path.write_bytes(bytes(4 * 8 - 1))
    shapes: dict[str, Any] = {"dtype": "u1", "nav_shape": (2, 2), "sig_shape": (8,)}
    files = _files(
        lambda: context.load("raw", path=path, **shapes),
        lambda: RawFileDataSet(path, **shapes).initialize(context.executor),
    )
    assert files == [__file__, __file__]


def test_of_arrays(context: Context) -> None:
    """Those of a constructor, and of the search for a format."""
    data = np.zeros((2, 2, 3, 2))
    files = _files(lambda: context.load("memory", data=data, sig_shape=(2, 2)), lambda: context.load("auto", path=data))
    files += _files(lambda: MemoryDataSet(data=data, sig_shape=(2, 2)), lambda: None)
    assert files == [__file__] * 3


def test_of_old_names(tmp_path: Path, context: Context) -> None:
    path = tmp_path / "scan.raw"
    path.write_bytes(bytes(4 * 8))
    old: dict[str, Any] = {"dtype": "u1", "scan_size": (2, 2), "sig_shape": (8,)}
    files = _files(
        lambda: context.load("raw", path=path, **old),
        lambda: RawFileDataSet(path, **old),
    )
    assert files == [__file__, __file__]
