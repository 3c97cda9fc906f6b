"""Runs the programs of ``peer_programs.py`` with tilework or with the peer, LiberTEM: the same calls of public names.

This file runs in two interpreters: pytest imports it, and the peer's Python runs it as a program, which answers one
program after the other::

    python peer_runs.py libertem

It needs NumPy, Dask, pydata sparse, and the library that it is told to use.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peer_cases import Library
from peer_programs import OF_A_FRAME

FACTS = ("partition_shape", "dataset_shape", "roi", "dataset_dtype", "input_dtype", "device_class", "array_backend")


# -- what a program names


def make_array(shape: Any, dtype: str, values: str, seed: int) -> Any:
    """Return frames of counts."""
    rng, target = np.random.default_rng(seed), np.dtype(dtype)
    array: Any = rng.poisson(20, size=shape) - (15 if target.kind == "i" else 0)
    if target.kind == "b":
        array = array > 20
    if target.kind == "f":
        array = array + rng.random(shape)
    if target.kind == "c":
        array = array + 1j * rng.normal(size=shape) * 5
    if values == "few":
        array = np.where(rng.random(shape) < 0.2, array, 0)
    return (array * 0 if values == "zeros" else array).astype(target)


def make_dataset(context: Any, spec: dict[str, Any], folder: str) -> Any:
    """Load the dataset."""
    nav, sig = tuple(spec["nav"]), tuple(spec["sig"])
    data = make_array((*nav, *sig), spec["dtype"], spec["values"], spec["seed"])
    parts = {"num_partitions": spec["num_partitions"]}
    match spec["kind"]:
        case "memory":
            return context.load("memory", data=data, sig_dims=len(sig), **parts)
        case "raw":
            path = Path(folder) / "frames.raw"
            data.tofile(path)
            return context.load("raw", path=str(path), dtype=spec["dtype"], nav_shape=nav, sig_shape=sig, **parts)
        case "npy":
            path = Path(folder) / "frames.npy"
            np.save(path, data)
            return context.load("npy", path=str(path), sig_dims=len(sig), **parts)
    import dask.array as da

    chunks = (*(max(1, n // 2) for n in nav), *sig)
    return context.load("dask", da.from_array(data, chunks=chunks), sig_dims=len(sig))


def make_roi(which: str | None, dataset: Any, seed: int) -> Any:
    """Return the selection."""
    nav = tuple(dataset.shape.nav)
    rng = np.random.default_rng(seed)
    mask = rng.random(nav) < 0.5
    position = tuple(int(rng.integers(n)) for n in nav)
    match which:
        case None:
            return None
        case "none" | "all":
            return np.full(nav, which == "all")
        case "one":
            mask[:] = False
            mask[position] = True
        case "numbers":
            return mask.astype(int) * 2
        case "sparse":
            import sparse

            return sparse.COO.from_numpy(mask)
        case "position":
            return position
        case "helper":
            return dataset.roi[tuple(slice(p, None) for p in position)]
        case "wrong":
            return np.ones([n + 1 for n in nav], dtype=bool)
    return mask


def make_corrections(lib: Library, which: list[str], sig: tuple[int, ...], seed: int) -> Any:
    """Return a set of corrections, or None."""
    if not which:
        return None
    rng = np.random.default_rng(seed)
    excluded = np.zeros(sig, dtype=bool)
    excluded[tuple(int(rng.integers(n)) for n in sig)] = True
    all_of_them = {"dark": rng.random(sig) * 5, "gain": (rng.random(sig) + 0.5).astype("f4")}
    return lib("corrections").CorrectionSet(
        **{name: all_of_them[name] for name in which if name in all_of_them},
        excluded_pixels=excluded if "excluded" in which and excluded.size > 1 else None,
    )


def make_masks(count: int, dtype: str, seed: int, sig: tuple[int, ...]) -> Any:
    """Return a stack of masks."""
    rng, target = np.random.default_rng(seed), np.dtype(dtype)
    masks: Any = rng.normal(size=(count, *sig))
    if target.kind == "c":
        masks = masks + 1j * rng.normal(size=masks.shape)
    if target.kind in "iu":
        masks = abs(masks * 3)
    return np.where(rng.random(masks.shape) < 0.5, masks, 0).astype(target)


def as_factories(form: str, make: Any, count: int) -> Any:
    """Return factories of one of the forms that there are."""

    def sparse_one(i: int | slice) -> Any:
        import sparse

        return sparse.COO.from_numpy(make()[i])

    match form:
        case "coo":
            return partial(sparse_one, slice(None))
        case "listed":
            return [lambda i=i: make()[i] for i in range(count)]
        case "listed coo":
            return [partial(sparse_one, i) for i in range(count)]
        case "listed stacks":
            return [lambda i=i: make()[i : i + 1] for i in range(count)]
    return make


def make_function(lib: Library, spec: dict[str, Any], dataset: Any) -> Any:
    """Return a UDF."""
    parameters = {key: value for key, value in spec.items() if key != "name"}
    nav, sig = tuple(dataset.shape.nav), tuple(dataset.shape.sig)
    match spec["name"]:
        case "auto":
            return lib("udf.auto").AutoUDF(**{**parameters, "f": OF_A_FRAME[spec["f"]]})
        case "com":
            if isinstance(spec.get("regression"), list):
                parameters["regression"] = np.array(spec["regression"])
            return lib("udf.com").CoMUDF.with_params(**parameters)
        case "masks":
            cls = lib("udf.masks").ApplyMasksUDF
            stack = parameters.pop("stack")
            factories = as_factories(parameters.pop("form"), partial(make_masks, sig=sig, **stack), stack["count"])
            if str(spec.get("shifts")).startswith("each"):
                each = np.random.default_rng(1).integers(-4, 5, size=(*nav, 2))
                each = each.reshape(-1) if "flat" in spec["shifts"] else each
                parameters["shifts"] = cls.aux_data(each, kind="nav", extra_shape=(2,), dtype=int)
            return cls(mask_factories=factories, **parameters)
        case "own":
            base = lib("udf").UDF
            cls = type("Own", (OWN[spec["method"]], base), {})
            rng = np.random.default_rng(5)
            aux = {
                a["name"]: base.aux_data(
                    rng.integers(1, 4, size=(*nav, *a["extra_shape"])).astype(a["dtype"]), kind="nav", **without_name(a)
                )
                for a in spec["aux"]
            }
            return cls(spec=spec, **aux)
    modules = {
        "sum": ("sum", "SumUDF"),
        "sumsig": ("sumsigudf", "SumSigUDF"),
        "stddev": ("stddev", "StdDevUDF"),
        "logsum": ("logsum", "LogsumUDF"),
        "pick": ("raw", "PickUDF"),
        "fem": ("FEM", "FEMUDF"),
        "crystallinity": ("crystallinity", "CrystallinityUDF"),
    }
    module, cls = modules[spec["name"]]
    return getattr(lib(f"udf.{module}"), cls)(**parameters)


def without_name(spec: dict[str, Any]) -> dict[str, Any]:
    """Return everything but the name."""
    return {key: value for key, value in spec.items() if key != "name"}


def make_analysis(lib: Library, context: Any, spec: dict[str, Any], dataset: Any) -> Any:
    """Return an analysis."""
    name, parameters = spec["name"], without_name(spec)
    if name.isupper():
        return lib("analysis.base").Analysis.get_analysis_by_type(name)(dataset=dataset, parameters=parameters)
    if name == "mask":
        return context.create_mask_analysis(partial(make_masks, sig=tuple(dataset.shape.sig), **parameters), dataset)
    return getattr(context, f"create_{name}_analysis")(dataset=dataset, **parameters)


# -- functions of one's own

# What `Own` saw of facts and shapes, from any thread.
SEEN: set[str] = set()


class Own:
    """What a function of one's own does; a subclass has the method, and LiberTEM's or tilework's UDF as second base."""

    def __init__(self: Any, spec: dict[str, Any], **aux: Any) -> None:
        super().__init__(spec=spec, **aux)  # type: ignore[call-arg]

    def see(self: Any, place: str, *what: Any) -> None:
        """Note what is known here."""
        facts = {}
        for name in FACTS:
            try:
                fact = getattr(self.meta, name)
            except ValueError as error:
                fact = type(error).__name__
            if name == "roi" and fact is not None:
                fact = np.asarray(fact.todense() if hasattr(fact, "todense") else fact).tolist()
            if name.endswith("dtype"):
                fact = np.dtype(fact).newbyteorder("=")
            facts[name] = tuple(fact) if name.endswith("shape") and not isinstance(fact, str) else str(fact)
        SEEN.add(repr((place, facts, what)))

    def get_result_buffers(self: Any) -> Any:
        """Declare what the specification says."""
        self.see("get_result_buffers")
        spec = self.params.spec
        buffers = {}
        for result in spec["results"]:
            dtype = self.meta.input_dtype if result["dtype"] == "input" else result["dtype"]
            buffers[result["name"]] = self.buffer(
                kind=result["kind"], extra_shape=result["extra_shape"], dtype=dtype, use=result["use"]
            )
        if spec["derived"]:
            result = spec["derived"]["of"]
            dtype = self.meta.input_dtype if result["dtype"] == "input" else result["dtype"]
            buffers["derived"] = self.buffer(
                kind=result["kind"], extra_shape=result["extra_shape"], dtype=dtype, use="result_only"
            )
        return buffers

    def get_preferred_input_dtype(self: Any) -> Any:
        """Return the dtype that is asked for."""
        preferred = self.params.spec["preferred"]
        if preferred is None:
            return super().get_preferred_input_dtype()  # type: ignore[misc]
        return self.USE_NATIVE_DTYPE if preferred == "native" else np.dtype(preferred)

    def get_tiling_preferences(self: Any) -> Any:
        """Return the tiling that is asked for."""
        return self.params.spec["tiling"] or super().get_tiling_preferences()  # type: ignore[misc]

    def get_task_data(self: Any) -> Any:
        """Return a factor."""
        self.see("get_task_data")
        factor = self.params.spec["factor"]
        return {} if factor is None else {"factor": np.float32(factor)}

    def preprocess(self: Any) -> None:
        """Begin with a number."""
        self.see("preprocess")
        for result in self.params.spec["results"]:
            getattr(self.results, result["name"])[:] = result["begin"]

    def add(self: Any, tile: Any, *, whole: bool) -> None:
        """Add frames, each with its weight."""
        spec = self.params.spec
        values = tile if spec["factor"] is None else tile * self.task_data.factor
        for aux in spec["aux"]:
            weights = np.asarray(getattr(self.params, aux["name"]))
            if not whole:
                self.see("aux of a frame", weights.shape, weights.dtype.str)
            weights = weights.reshape((len(tile), -1)).sum(axis=1)
            values = values * weights.reshape((-1, *(1,) * (tile.ndim - 1)))
        for result in spec["results"]:
            target = getattr(self.results, result["name"])
            extra = (1,) * len(result["extra_shape"])
            axes = {"nav": tuple(range(1, values.ndim)), "sig": (0,), "single": None}[result["kind"]]
            found = np.asarray(values.real.max(axis=axes) if result["largest"] else values.sum(axis=axes))
            found = found.reshape((*found.shape, *extra))
            if result["kind"] == "nav" and not whole:
                found = found[0]
            # Complex numbers have no larger ones, and enter other results as real numbers.
            found = found if target.dtype.kind == "c" else found.real
            target[:] = np.maximum(target, found) if result["largest"] else target + found

    def postprocess(self: Any) -> None:
        """Scale what is a result of frames."""
        self.see("postprocess")
        for result in self.params.spec["results"]:
            if self.params.spec["scaled"] and result["kind"] == "nav":
                getattr(self.results, result["name"])[:] *= 2

    def put_together(self: Any, dest: Any, src: Any) -> None:
        """Merge in one of the ways that there are."""
        self.see("merge", sorted(dest), sorted(src))
        for result in self.params.spec["results"]:
            name = result["name"]
            old, new = getattr(dest, name), getattr(src, name)
            SEEN.add(f"merge {name} {old.shape} {new.shape} {old.dtype.newbyteorder('=')}")
            if result["kind"] != "nav":
                new = np.maximum(old, new) if result["largest"] else old + new
            if self.params.spec["merge"] == "assigned":
                setattr(dest, name, new)
            else:
                old[:] = new

    def merge(self: Any, dest: Any, src: Any) -> None:
        """Merge a partition."""
        self.put_together(dest, src)

    def get_results(self: Any) -> Any:
        """Return results, and one that is made of another."""
        self.see("get_results")
        spec = self.params.spec
        found = {r["name"]: getattr(self.results, r["name"]) for r in spec["results"] if r["use"] != "private"}
        if spec["derived"]:
            of = np.asarray(getattr(self.results, spec["derived"]["of"]["name"]))
            match spec["derived"]["how"]:
                case "double":
                    found["derived"] = of * of.dtype.type(2)
                case "some":
                    found["derived"] = self.with_mask(of, mask=of.real > 50)
                case "hidden":
                    found["derived"] = self.with_mask(of, mask=False)
        return found


class OwnOfFrames(Own):
    """Works on frames."""

    def process_frame(self, frame: Any) -> None:
        """Add the frame."""
        self.see("process_frame", frame.shape, frame.dtype.str, self.meta.coordinates.tolist())  # type: ignore[attr-defined]
        self.add(frame[np.newaxis], whole=False)


class OwnOfTiles(Own):
    """Works on tiles."""

    def process_tile(self, tile: Any) -> None:
        """Add the tile."""
        self.see("process_tile", tile.ndim, tile.dtype.str)
        self.add(tile, whole=True)


class OwnOfPartitions(Own):
    """Works on partitions."""

    def process_partition(self, partition: Any) -> None:
        """Add the partition."""
        self.see("process_partition", partition.shape, partition.dtype.str)
        self.add(partition, whole=True)


OWN = {"frame": OwnOfFrames, "tile": OwnOfTiles, "partition": OwnOfPartitions}


# -- results


def of_a_buffer(name: str, buffer: Any) -> dict[str, Any]:
    """Return what a result is, by name."""
    dtype = np.dtype(buffer.dtype).newbyteorder("=")
    found = {
        f"{name}: kind": (buffer.kind, tuple(buffer.extra_shape), dtype.str),
        # The peer computes some results in float64 and leaves them so, whatever it declares.
        f"{name}: data": np.asarray(buffer.data, dtype=dtype),
        f"{name}: raw_data": np.asarray(buffer.raw_data, dtype=dtype),
    }
    if buffer.kind == "nav":
        found[f"{name}: valid_mask"] = np.asarray(buffer.valid_mask)
    return found


def of_an_analysis(results: Any) -> dict[str, Any]:
    """Return results of an analysis by name; of pictures, the shape."""
    found: dict[str, Any] = {"order": [r.key for r in results]}
    for r in results:
        picture = r.visualized() if callable(r.visualized) else r.visualized
        found[f"{r.key}: raw_data"] = np.asarray(r.raw_data)
        found[f"{r.key}: rest"] = (r.include_in_download, picture.shape, str(picture.dtype))
    if results.raw_results is not None:
        found["raw_results"] = np.asarray(results.raw_results)
    return found


def run(lib: Library, whole: dict[str, Any], *, together: bool = True) -> dict[str, Any]:
    """Run a program and return its results by name, or how it failed.

    Parameters
    ----------
    lib
        tilework or the peer.
    whole
        The program.
    together
        Whether several functions share a run, where the peer's get a dtype that depends on all of them.
    """
    SEEN.clear()
    data = whole["data"]
    context = lib.context if lib.root == "libertem" else contexts(lib)[whole["executor"]]
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load = partial(make_dataset, context, data, folder)
            dataset = load()
            roi = make_roi(whole["roi"], dataset, data["seed"])
            corrections = make_corrections(lib, whole["corrections"], tuple(data["sig"]), data["seed"])
            arguments = {"roi": roi, "corrections": corrections}
            if "analysis" in whole:
                analysis = make_analysis(lib, context, whole["analysis"], dataset)
                picks = "pick" in whole["analysis"]["name"].lower()
                return of_an_analysis(context.run(analysis, **{**arguments, "roi": None if picks else roi}))
            udfs = [make_function(lib, spec, dataset) for spec in whole["functions"]]
            if together:
                results = context.run_udf(dataset=dataset, udf=udfs, **arguments)
            else:
                # Each has data of its own: the peer corrects arrays in place.
                results = [context.run_udf(dataset=load(), udf=udf, **arguments) for udf in udfs]
            found: dict[str, Any] = {}
            for i, result in enumerate(results):
                for key, buffer in result.items():
                    found |= of_a_buffer(f"{i} {key}", buffer)
            return {**found, "seen": sorted(SEEN)}
    except Exception as error:
        return {
            "raised": type(error).__name__,
            "message": str(error),
            "is a": [c.__name__ for c in type(error).__mro__],
        }


def contexts(lib: Library) -> dict[str, Any]:
    """Return the contexts of tilework by name, made once."""
    made: dict[str, Any] = lib.__dict__.setdefault("contexts", {"inline": lib.context})
    if "threads" not in made:
        made["threads"] = lib("api").Context.make_with("threads", cpus=2)
    return made


def serve(root: str) -> None:
    """Answer programs from stdin with results on stdout, until there are no more."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lib = Library(root)
    while True:
        try:
            whole = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        pickle.dump(run(lib, whole, together=False), answers)
        answers.flush()
    lib.context.close()


if __name__ == "__main__":
    serve(sys.argv[1])
