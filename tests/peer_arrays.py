"""Array backends with tilework and with the peer, LiberTEM: the same calls of public names in both.

This file runs in two interpreters: pytest imports it, and the peer's Python runs it as a program::

    python peer_arrays.py libertem results.npz

It needs nothing but NumPy, SciPy, pydata sparse, and the library that it is told to use.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import numpy as np
import sparse

NAV, SIG = (4, 5), (8, 7)
KINDS = ("numpy", "sparse.COO", "sparse.GCXS")
OFFERED = ("scipy.sparse.csr_matrix", "scipy.sparse.csc_matrix", "scipy.sparse.coo_matrix", "sparse.COO", "numpy")
DTYPES = ("u1", "u2", "f4", "f8", "c8")
FUNCTIONS = ("sum", "sumsig", "masks", "sparse masks", "com", "logsum")
METHODS = ("tile", "frame", "partition")


def counts(dtype: str) -> np.ndarray[Any, Any]:
    """Return frames with few counts."""
    rng = np.random.default_rng(11)
    values: Any = rng.integers(1, 200, size=(*NAV, *SIG))
    if dtype == "c8":
        values = values + 1j * rng.integers(1, 9, size=values.shape)
    return np.asarray(np.where(rng.random(values.shape) < 0.2, values, 0)).astype(dtype)


def as_kind(data: np.ndarray[Any, Any], kind: str) -> Any:
    """Return the same as another kind of array."""
    return data if kind == "numpy" else getattr(sparse, kind.partition(".")[2]).from_numpy(data)


def make(root: str, name: str) -> Any:
    """Make one of the built-in functions."""

    def module(path: str) -> Any:
        return importlib.import_module(f"{root}.udf.{path}")

    masks = np.random.default_rng(3).random((3, *SIG)).astype("f4")
    match name:
        case "sum":
            return module("sum").SumUDF()
        case "sumsig":
            return module("sumsigudf").SumSigUDF()
        case "masks":
            return module("masks").ApplyMasksUDF(mask_factories=lambda: masks)
        case "sparse masks":
            few = sparse.COO.from_numpy(np.where(masks > 0.8, masks, 0))
            return module("masks").ApplyMasksUDF(mask_factories=lambda: few, use_sparse="scipy.sparse")
        case "com":
            return module("com").CoMUDF.with_params(cy=4, cx=3, r=3)
    return module("logsum").LogsumUDF()


def seen_by(root: str) -> Any:
    """Return a function that notes what it gets."""
    base = importlib.import_module(f"{root}.udf").UDF

    class Seen(base):  # type: ignore[misc, valid-type]
        def __init__(self, backend: str, method: str) -> None:
            super().__init__(backend=backend, method=method)

        def get_backends(self) -> Any:
            return self.params.backend

        def get_method(self) -> Any:
            return self.UDF_METHOD(self.params.method)

        def get_result_buffers(self) -> Any:
            return {"shape": self.buffer(kind="nav", extra_shape=(3,), dtype=np.int64)}

        def note(self, data: Any) -> None:
            self.results.shape[:] = [len(data.shape), data.shape[-1], np.dtype(data.dtype).itemsize]

        def process_tile(self, tile: Any) -> None:
            self.note(tile)

        def process_frame(self, frame: Any) -> None:
            self.note(frame)

        def process_partition(self, partition: Any) -> None:
            self.note(partition)

    return Seen


def results(root: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return all results by ``case|name``."""
    api = importlib.import_module(f"{root}.api")
    found: dict[str, np.ndarray[Any, Any]] = {}
    with api.Context.make_with("inline") as context:
        for dtype in DTYPES:
            for kind in KINDS:
                ds = context.load("memory", data=as_kind(counts(dtype), kind), num_partitions=3, sig_dims=2)
                for name in FUNCTIONS:
                    if name == "logsum" and dtype == "c8":
                        continue  # what the minimum of complex numbers is differs on purpose
                    for key, value in context.run_udf(dataset=ds, udf=make(root, name)).items():
                        found[f"{name} of {dtype} {kind}|{key}"] = np.asarray(value.data)
        Seen = seen_by(root)
        for offered in OFFERED:
            ds = context.load("memory", data=counts("u2"), num_partitions=3, sig_dims=2, array_backends=(offered,))
            for backend in OFFERED:
                for method in METHODS:
                    if method == "frame" and backend == "scipy.sparse.coo_matrix":
                        continue  # the peer cannot cut these
                    result = context.run_udf(dataset=ds, udf=Seen(backend, method))
                    found[f"{backend} {method} from {offered}|shape"] = np.asarray(result["shape"].data)
    return found


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(sys.argv[2], **results(sys.argv[1]))  # type: ignore[arg-type]
