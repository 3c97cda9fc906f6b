"""Random programs for tilework and for the peer, LiberTEM: made from seeds.

A program is data: which array or file, which selection, corrections and functions or analysis. ``peer_runs.py`` runs
it. To see one::

    python peer_programs.py 17

Programs stay clear of what differs on purpose, see docs/libertem.md, and of known defects of the peer.
"""

from __future__ import annotations

import pprint
import random
import sys
from typing import Any

import numpy as np

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
# Functions of one frame, for `AutoUDF`.
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


if __name__ == "__main__":
    sys.stdout.write(pprint.pformat(program(int(sys.argv[1])), sort_dicts=False) + "\n")
