"""Datasets: one module per format, and the registry that knows them all."""

from __future__ import annotations

from tilework.exceptions import DataSetException
from tilework.io.dataset.registry import (
    detect,
    filetypes,
    get_dataset_cls,
    get_extensions,
    get_search_order,
    load,
    register_dataset_cls,
    unregister_dataset_cls,
)

__all__ = [
    "DataSetException",
    "detect",
    "filetypes",
    "get_dataset_cls",
    "get_extensions",
    "get_search_order",
    "load",
    "register_dataset_cls",
    "unregister_dataset_cls",
]
