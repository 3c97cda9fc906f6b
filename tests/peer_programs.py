"""Random programs for tilework and for the peer, LiberTEM: made from seeds, the same calls of public names in both.

A program is data: which array or file, which selection, corrections and functions or analysis. This file runs in two
interpreters: pytest imports it, and the peer's Python runs it as a program, which answers one program after the other::

    python peer_programs.py libertem

To see one::

    python peer_programs.py show 17

Programs stay clear of what differs on purpose, see docs/libertem.md, and of known defects of the peer. They need NumPy,
Dask, pydata sparse, and the library that they are told to use.
"""

from __future__ import annotations

import os
import pickle
import pprint
import random
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peer_cases import Library

# The peer takes integers of foreign byte order in files for unsigned, and refuses floats.
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "c8", "c16", "b1", ">u2", ">u4")
DTYPES_IN_MEMORY = (*DTYPES, ">i2", ">i4", ">f4", ">f8")
ROIS = (
    None,
    None,
    None,
    "mask",
    "mask",
    "mask",
    "none",
    "all",
    "one",
    "numbers",
    "sparse",
    "position",
    "helper",
    "wrong",
)
# Selections that the peer keeps sparse, where not all of its functions can do with that.
SPARSE_ROIS = {"sparse", "position"}
FACTS = ("partition_shape", "dataset_shape", "roi", "dataset_dtype", "input_dtype", "device_class", "array_backend")


# -- what is run


def program(seed: int) -> dict[str, Any]:
    """Return a program: the same for the same seed, on all machines."""
    rng = random.Random(seed)
    what = rng.choice(["function", "masks", "com", "own", "own", "own", "analysis", "analysis"])
    flat = what == "com" or (what == "analysis" and rng.random() < 0.8)
    nav_dims = 2 if flat else rng.choice([1, 2, 2, 3])
    sig_dims = 2 if flat or what == "analysis" else rng.choice([1, 2, 2, 2, 3])
    nav = [rng.randint(2 if flat else 1, 6 if nav_dims < 3 else 3) for _ in range(nav_dims)]
    # The peer's transforms of frames with an odd number of pixels are off by half a pixel.
    sig = [2 * rng.randint(2, 5) if sig_dims == 2 else rng.randint(1, 5) for _ in range(sig_dims)]
    kind = rng.choice(["memory", "memory", "raw", "npy", "dask"])
    made: dict[str, Any] = {
        "kind": kind,
        "nav": nav,
        "sig": sig,
        "dtype": rng.choice(DTYPES_IN_MEMORY if kind == "memory" else DTYPES),
        "values": rng.choice(["many", "many", "few", "zeros"]),
        "seed": rng.randint(0, 99),
        "num_partitions": rng.randint(1, 5),
    }
    corrections = rng.sample(["dark", "gain", "excluded"], rng.randint(1, 3)) if rng.random() < 0.2 else []
    if what == "com" and "dark" in corrections:
        corrections.remove("dark")  # a sum may be next to nothing, and its centre anywhere
    if sig_dims == 3 and kind != "memory" and "excluded" in corrections:
        corrections.remove("excluded")  # the peer changes other pixels, too
    whole: dict[str, Any] = {
        "data": made,
        "roi": rng.choice(ROIS),
        "corrections": corrections,
        "executor": rng.choice(["inline", "threads"]),
    }
    if what == "analysis":
        return {**whole, "analysis": an_analysis(rng, whole)}
    make = {"function": a_function, "masks": some_masks, "com": a_com, "own": an_own_function}[what]
    functions = [make(rng, whole)]
    if rng.random() < 0.3:
        functions.append(a_function(rng, whole))
    return {**whole, "functions": functions}


def a_function(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Return one of the built-in functions, with any parameters."""
    dtype, sig = np.dtype(whole["data"]["dtype"]), whole["data"]["sig"]
    names = ["sum", "sumsig", "stddev", "pick", "auto", "auto"]
    names += ["logsum"] if dtype.kind != "c" else []
    names += ["fem", "crystallinity"] if dtype.kind != "c" and len(sig) == 2 else []
    name = rng.choice(names)
    parameters: dict[str, Any] = {}
    match name:
        case "sum":
            parameters = rng.choice([{}, {"dtype": rng.choice(["float64", "uint16", "int64", "complex64"])}])
        case "stddev":
            parameters = rng.choice([{}, {"dtype": rng.choice(["float32", "complex64"])}, {"use_numba": False}])
        case "auto":
            parameters = {"f": rng.choice(sorted(OF_A_FRAME)), "monitor": rng.random() < 0.3}
        case "fem":
            parameters = {"center": (rng.uniform(0, 4), rng.randint(0, 4)), "rad_in": rng.uniform(0, 1), "rad_out": 5}
        case "crystallinity":
            disc = {"real_center": (rng.uniform(0, 4), rng.uniform(0, 4)), "real_rad": rng.uniform(0, 3)}
            disc = rng.choice([disc, {"real_center": None, "real_rad": None}])
            parameters = {"rad_in": rng.uniform(0, 2), "rad_out": rng.uniform(2.5, 6), **disc}
    return {"name": name, **parameters}


def some_masks(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Return a function that applies masks."""
    sig, count = whole["data"]["sig"], rng.randint(1, 4)
    parameters: dict[str, Any] = {"mask_count": count} if rng.random() < 0.3 else {}
    shifts = rng.choice([None, None, (rng.randint(-3, 3), rng.uniform(-3, 3)), "each", "each, flat"])
    if len(sig) == 2 and shifts is not None:
        parameters["shifts"] = shifts
    formats = [None, True, False, "sparse.pydata", "sparse.pydata.GCXS"]
    parameters["use_sparse"] = rng.choice([*formats, *([] if "shifts" in parameters else ["scipy.sparse.csc"])])
    if rng.random() < 0.3:
        parameters["mask_dtype"] = rng.choice(["float32", "float64", "complex64"])
    if rng.random() < 0.3:
        parameters["preferred_dtype"] = rng.choice(["float64", "complex64", "uint16"])
    stack = {"count": count, "dtype": rng.choice(["f4", "f8", "c8", "b1", "u1", "i4"]), "seed": rng.randint(0, 9)}
    form = rng.choice(["dense", "dense", "coo", "listed", "listed coo", "listed stacks"])
    return {"name": "masks", "stack": stack, "form": form, **parameters}


def a_com(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Return a centre of mass."""
    del whole
    parameters: dict[str, Any] = {}
    if rng.random() < 0.6:
        parameters |= {"cy": rng.uniform(0, 5), "cx": rng.randint(0, 5)}
    if rng.random() < 0.5:
        parameters |= {"r": rng.uniform(3, 8), "ri": rng.choice([0, rng.uniform(0, 2)])}
    if rng.random() < 0.5:
        parameters |= {"scan_rotation": rng.uniform(-200, 200), "flip_y": rng.random() < 0.5}
    if rng.random() < 0.5:
        parameters["regression"] = rng.choice([-1, 0, 1, [[1.0, 2.0], [0.1, 0.2], [0.3, 0.4]]])
    return {"name": "com", **parameters}


def an_own_function(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Return what an `Own` function does."""
    results = []
    for i in range(rng.randint(1, 3)):
        result: dict[str, Any] = {
            "name": f"r{i}",
            "kind": rng.choice(["nav", "nav", "sig", "single"]),
            "extra_shape": rng.choice([(), (), (2,), (1,), (2, 3)]),
            "dtype": rng.choice(["f4", "f8", "c16", "input", ">f4"]),
            "use": rng.choice([None, None, None, "private"]),
            "largest": rng.random() < 0.3,
            "begin": rng.choice([0, 0, 1, -1000]),
        }
        results.append(result)
    derived = rng.choice([None, None, {"of": rng.choice(results), "how": rng.choice(["double", "some", "hidden"])}])
    aux = [
        {"name": f"a{i}", "extra_shape": rng.choice([(), (2,)]), "dtype": rng.choice(["f4", "i4", "c8"])}
        for i in range(rng.choice([0, 0, 1, 2]))
    ]
    return {
        "name": "own",
        "method": rng.choice(["frame", "tile", "partition"]),
        "results": results,
        "derived": derived,
        # The peer looks for auxiliary data at places of the whole scan, where the selection is a sparse one.
        "aux": [] if whole["roi"] in SPARSE_ROIS else aux,
        "factor": rng.choice([None, 2, 0.5]),
        "preferred": rng.choice([None, None, "native", "f8", "c8", "u2"]),
        "tiling": rng.choice([None, None, {"depth": 1, "total_size": 64}, {"depth": 3, "total_size": 2**14}]),
        "scaled": rng.random() < 0.3,
        "merge": rng.choice(["attributes", "assigned", "own names"]),
    }


def an_analysis(rng: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Return an analysis, by what makes it and its parameters."""
    nav, sig = whole["data"]["nav"], whole["data"]["sig"]
    y, x = rng.uniform(0, sig[0] - 1), rng.uniform(0, sig[1] - 1)
    center = rng.choice([{}, {"cy": y, "cx": x}])
    disc = rng.choice([{}, {"real_rad": rng.uniform(0, 3), "real_centery": y, "real_centerx": x}])
    names = ["disk", "ring", "mask", "sum", "SUM_SIG", "SD_FRAMES", "FFTSUM_FRAMES", "FEM", "pick", "PICK_FFT_FRAME"]
    if np.dtype(whole["data"]["dtype"]).kind != "c":
        names.append("APPLY_FFT_MASK")
    if len(nav) <= 2:
        names.append("point")
    if len(nav) == 2:
        names += ["com", "com", "radial_fourier", "radial_fourier"]
    name = rng.choice(names)
    position = {axis: rng.randrange(n) for axis, n in zip("xyz", nav[::-1], strict=False)}
    of_each: dict[str, dict[str, Any]] = {
        "disk": {**center, "r": rng.uniform(1, 6)},
        "ring": {**center, "ri": rng.uniform(0, 2), "ro": rng.uniform(2.5, 6)},
        "mask": {"count": rng.randint(1, 3), "dtype": rng.choice(["f4", "c8", "u1"]), "seed": rng.randint(0, 9)},
        "radial_fourier": {
            **center,
            "ri": rng.choice([0, rng.uniform(0, 2)]),
            "ro": rng.uniform(3, 7),
            "n_bins": rng.randint(1, 3),
            "max_order": rng.randint(0, 5),
        },
        "com": {**center, "mask_radius": rng.uniform(2, 6), "flip_y": rng.random() < 0.5, "scan_rotation": y * 20},
        "point": {"x": rng.randrange(sig[1]), "y": rng.randrange(sig[0])},
        "pick": position,
        "PICK_FFT_FRAME": {**position, **disc},
        # Without these, the peer has no transforms of sums.
        "FFTSUM_FRAMES": {"real_rad": 1, "real_centery": y, "real_centerx": x},
        "APPLY_FFT_MASK": {"rad_in": 1.2, "rad_out": 3.4, "real_rad": 1, "real_centery": y, "real_centerx": x},
        "FEM": {"cy": y, "cx": x, "ri": 0, "ro": rng.uniform(2, 6)},
    }
    parameters = of_each.get(name, {})
    if name == "SD_FRAMES" and len(nav) == 2:
        parameters = rng.choice([{}, {"roi": {"shape": "disk", "cx": 1, "cy": 1.0, "r": rng.uniform(0.5, 4)}}])
    return {"name": name, **parameters}


# -- how it is run


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


OF_A_FRAME: dict[str, Any] = {
    "sum": np.sum,
    "extremes": lambda frame: np.array([abs(frame).max(), abs(frame).min()]),
    "tuple": lambda frame: (frame.sum(), abs(frame).max()),
    "row": lambda frame: frame[0],
    "frame": lambda frame: frame * 2,
    "place": np.argmax,
    "decision": lambda frame: bool(abs(frame).sum() > 100),
    "wave": lambda frame: frame.sum() * 1j,
    "text": lambda frame: "ab" if abs(frame).sum() > 100 else "cd",
    "list": lambda frame: [1.0, 2.0, 3.0],
}


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
    if sys.argv[1] == "show":
        sys.stdout.write(pprint.pformat(program(int(sys.argv[2])), sort_dicts=False) + "\n")
    else:
        serve(sys.argv[1])
