"""What is computed with tilework and with the peer, LiberTEM, to compare: the same calls of public names in both.

This file runs in two interpreters: pytest imports it, and the peer's Python runs it as a program::

    python peer_cases.py libertem results.npz

It needs nothing but NumPy and the library that it is told to use.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAV, SIG = (6, 5), (12, 10)
DTYPES = ("u1", "u2", "u4", "i2", "f4", "f8", "c8")
ERROR = "raised"


class Library:
    """tilework or the peer: modules by their path within it, and a context."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.context = self("api").Context.make_with("inline")

    def __call__(self, path: str) -> Any:
        return importlib.import_module(f"{self.root}.{path}")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Parameters
    ----------
    name
        Unique name.
    run
        Takes the `Library` and returns arrays by name.
    rtol, atol
        How far values may be apart: relatively, and in parts of the largest value.
    scale
        What values are like at least, where the largest one may happen to be small.
    """

    name: str
    run: Callable[[Library], dict[str, Any]]
    rtol: float = 1e-5
    atol: float = 1e-6
    scale: float = 0.0


def make_data(dtype: str) -> Any:
    """Return a scan of counts; without zero frames, and complex where asked for."""
    rng = np.random.default_rng(1)
    data: Any = rng.poisson(30, size=(*NAV, *SIG))
    if np.dtype(dtype).kind == "c":
        data = data + 1j * rng.normal(size=data.shape)
    if np.dtype(dtype).kind == "i":
        data = data - 20
    return data.astype(dtype)


def roi(which: str) -> Any:
    """Return a selection of positions by its name."""
    if which == "all":
        return None
    if which == "one":
        return (2, 3)
    return np.random.default_rng(2).random(NAV) < 0.5


def corrections(lib: Library, which: str) -> Any:
    """Return a set of corrections by its name."""
    rng = np.random.default_rng(3)
    dark, gain = rng.random(SIG) * 5, rng.random(SIG) + 0.5
    excluded = np.zeros(SIG, dtype=bool)
    excluded[[0, 3, 4, 11], [0, 5, 5, 9]] = True
    chosen = {
        "none": {},
        "dark": {"dark": dark},
        "gain": {"gain": gain},
        "excluded": {"excluded_pixels": excluded},
        "everything": {"dark": dark, "gain": gain, "excluded_pixels": excluded},
    }
    return lib("corrections").CorrectionSet(**chosen[which])


def as_arrays(result: Any) -> dict[str, Any]:
    """Return results as arrays of their declared dtype, with the kind of each, and that dtype, in its name.

    The peer computes some results in float64 and leaves them so, whatever it declares.
    """
    return {
        f"{name} ({buffer.kind}, {buffer.dtype}, {buffer.extra_shape})": np.asarray(buffer.data, dtype=buffer.dtype)
        for name, buffer in result.items()
    }


# -- functions


def stack(count: int, dtype: str = "f4") -> Any:
    """Return a stack of masks with many zeros."""
    rng = np.random.default_rng(count)
    masks: Any = rng.normal(size=(count, *SIG))
    if np.dtype(dtype).kind == "c":
        masks = masks + 1j * rng.normal(size=masks.shape)
    return np.where(rng.random(masks.shape) < 0.4, masks, 0).astype(dtype)


def sparse_stack(count: int) -> Any:
    """Return a sparse stack of masks."""
    import sparse

    return sparse.COO.from_numpy(stack(count))


def masks_udf(lib: Library, **kwargs: Any) -> Any:
    """Return a UDF that applies masks."""
    return lib("udf.masks").ApplyMasksUDF(**kwargs)


def shifted_masks(lib: Library, use_sparse: Any) -> Any:
    """Return a UDF that shifts its masks for each frame."""
    cls = lib("udf.masks").ApplyMasksUDF
    shifts = np.random.default_rng(4).integers(-4, 5, size=(*NAV, 2))
    aux = cls.aux_data(shifts, kind="nav", extra_shape=(2,), dtype=int)
    return cls(mask_factories=partial(stack, 3), shifts=aux, use_sparse=use_sparse)


def com(lib: Library, **kwargs: Any) -> Any:
    """Return a centre of mass."""
    return lib("udf.com").CoMUDF.with_params(**kwargs)


DERIVED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "logsum": ("udf.logsum.LogsumUDF", "logsum", {}),
    "fem": ("udf.FEM.FEMUDF", "intensity", {"center": (5.5, 4), "rad_in": 1, "rad_out": 4}),
    "crystallinity": (
        "udf.crystallinity.CrystallinityUDF",
        "intensity",
        {"rad_in": 1, "rad_out": 4, "real_center": (6, 5), "real_rad": 2},
    ),
    "masks shifted": ("udf.masks.ApplyMasksUDF", "intensity", {"mask_factories": partial(stack, 3), "shifts": (2, -1)}),
}


def derived(lib: Library, name: str) -> Any:
    """Return what derives from a built-in function of frames: it doubles them, and has percents of the result."""
    path, result, kwargs = DERIVED[name]
    module, cls = path.rsplit(".", maxsplit=1)
    base = getattr(lib(module), cls)

    def process_frame(self: Any, frame: Any) -> None:
        base.process_frame(self, frame * 2)

    def postprocess(self: Any) -> None:
        getattr(self.results, result)[:] *= 100

    return type("Derived", (base,), {"process_frame": process_frame, "postprocess": postprocess})(**kwargs)


FUNCTIONS: dict[str, Callable[[Library], Any]] = {
    "sum": lambda lib: lib("udf.sum").SumUDF(),
    "sum f8": lambda lib: lib("udf.sum").SumUDF(dtype="float64"),
    "sumsig": lambda lib: lib("udf.sumsigudf").SumSigUDF(),
    "stddev": lambda lib: lib("udf.stddev").StdDevUDF(),
    "stddev f4": lambda lib: lib("udf.stddev").StdDevUDF(dtype="float32", use_numba=False),
    "logsum": lambda lib: lib("udf.logsum").LogsumUDF(),
    "pick": lambda lib: lib("udf.raw").PickUDF(),
    "auto": lambda lib: lib("udf.auto").AutoUDF(f=np.mean),
    "auto of shape 2": lambda lib: lib("udf.auto").AutoUDF(f=lambda frame: np.array([frame.max(), frame.min()])),
    "auto with monitor": lambda lib: lib("udf.auto").AutoUDF(f=np.sum, monitor=True),
    "noop": lambda lib: lib("udf.base").NoOpUDF(),
    "fem": lambda lib: lib("udf.FEM").FEMUDF(center=(5.5, 4), rad_in=1, rad_out=4),
    "crystallinity": lambda lib: lib("udf.crystallinity").CrystallinityUDF(1, 4, (6, 5), 2),
    "crystallinity, nothing masked": lambda lib: lib("udf.crystallinity").CrystallinityUDF(0, 3, None, None),
    "com": com,
    "com in a ring": lambda lib: com(lib, cy=5.2, cx=4.8, r=4, ri=1.5),
    "com turned": lambda lib: com(lib, cy=5, cx=4, r=4, scan_rotation=33, flip_y=True),
    "com less its mean": lambda lib: com(lib, regression=0),
    "com less a plane": lambda lib: com(lib, scan_rotation=90, regression=1),
    "com less given": lambda lib: com(lib, regression=np.arange(6.0).reshape(3, 2)),
    "1 mask": lambda lib: masks_udf(lib, mask_factories=[lambda: stack(1)[0]]),
    "5 masks": lambda lib: masks_udf(lib, mask_factories=partial(stack, 5), use_torch=False),
    "16 masks": lambda lib: masks_udf(lib, mask_factories=partial(stack, 16), mask_count=16, mask_dtype="float32"),
    "masks f8": lambda lib: masks_udf(lib, mask_factories=partial(stack, 3, "f8")),
    "masks c8": lambda lib: masks_udf(lib, mask_factories=partial(stack, 3, "c8")),
    "masks bool": lambda lib: masks_udf(lib, mask_factories=partial(stack, 3, "b1")),
    "masks, preferred f8": lambda lib: masks_udf(lib, mask_factories=partial(stack, 3), preferred_dtype="float64"),
    "sparse masks": lambda lib: masks_udf(lib, mask_factories=partial(sparse_stack, 4)),
    **{
        f"masks as {kind}": partial(masks_udf, mask_factories=partial(stack, 4), use_sparse=kind)
        for kind in (True, False, "scipy.sparse", "scipy.sparse.csc", "sparse.pydata", "sparse.pydata.GCXS")
    },
    "masks shifted": lambda lib: masks_udf(lib, mask_factories=partial(stack, 4), shifts=(2, -1)),
    "masks shifted away": lambda lib: masks_udf(lib, mask_factories=partial(stack, 4), shifts=(20, 0)),
    "masks shifted, sparse": lambda lib: masks_udf(
        lib, mask_factories=partial(stack, 4), shifts=(-1, 3), use_sparse=True
    ),
    "masks shifted for each frame": partial(shifted_masks, use_sparse=False),
    "sparse masks shifted for each frame": partial(shifted_masks, use_sparse=True),
    **{f"derived {name}": partial(derived, name=name) for name in DERIVED},
}


def run_function(lib: Library, function: str, dtype: str, which_roi: str, corrected: str) -> dict[str, Any]:
    """Run a function over data of a dtype."""
    dataset = lib.context.load("memory", data=make_data(dtype), sig_dims=2, num_partitions=4)
    result = lib.context.run_udf(
        dataset=dataset,
        udf=FUNCTIONS[function](lib),
        roi=roi(which_roi),
        corrections=corrections(lib, corrected),
    )
    return as_arrays(result)


def function_cases() -> Iterator[Case]:
    """Yield all functions, for several dtypes, selections and corrections."""
    for function in FUNCTIONS:
        combinations = [
            *itertools.product(DTYPES, ["all"], ["none"]),
            *itertools.product(["u2", "f4"], ["some", "one"], ["none"]),
            *itertools.product(["u2"], ["all"], ["dark", "gain", "excluded", "everything"]),
            *itertools.product(["u4", "c8"], ["some"], ["everything"]),
        ]
        for dtype, which_roi, corrected in combinations:
            name = f"{function}: {dtype}, {which_roi}, corrections {corrected}"
            run = partial(run_function, function=function, dtype=dtype, which_roi=which_roi, corrected=corrected)
            # Differences of large numbers: centres relative to the reference, and sums with masks of both signs.
            loose = function.startswith("com") or "mask" in function
            pixels = 1.0 if function.startswith("com") else 0.0
            yield Case(name, run, rtol=1e-4 if loose else 1e-5, atol=2e-5 if loose else 1e-6, scale=pixels)


def several_at_once(lib: Library) -> dict[str, Any]:
    """Run several functions in one pass."""
    names = ["sum", "stddev", "com", "5 masks", "sumsig", "logsum"]
    dataset = lib.context.load("memory", data=make_data("u2"), sig_dims=2, num_partitions=4)
    results = lib.context.run_udf(dataset=dataset, udf=[FUNCTIONS[n](lib) for n in names], roi=roi("some"))
    return {
        f"{n} {key}": value
        for n, result in zip(names, results, strict=True)
        for key, value in as_arrays(result).items()
    }


def helpers(lib: Library) -> dict[str, Any]:
    """Call the functions that run one UDF."""
    dataset = lib.context.load("memory", data=make_data("u2"), sig_dims=2, num_partitions=4)
    ctx, some = lib.context, roi("some")
    found = {
        "sumsig": as_arrays(lib("udf.sumsigudf").run_sumsig(ctx, dataset)),
        "logsum": as_arrays(lib("udf.logsum").run_logsum(ctx, dataset, roi=some)),
        "fem": as_arrays(lib("udf.FEM").run_fem(ctx, dataset, center=(5, 5), rad_in=1, rad_out=3, roi=some)),
        "crystallinity": as_arrays(
            lib("udf.crystallinity").run_analysis_crystall(
                ctx, dataset, rad_in=1, rad_out=3, real_center=(6, 5), real_rad=2, roi=some
            )
        ),
        "stddev": {k: np.asarray(v) for k, v in lib("udf.stddev").run_stddev(ctx, dataset, roi=some).items()},
    }
    return {f"{outer} {inner}": value for outer, values in found.items() for inner, value in values.items()}


def stddev_formulas(lib: Library) -> dict[str, Any]:
    """Call the formulas of the standard deviation."""
    stddev = lib("udf.stddev")
    tile = make_data("f4").reshape(-1, SIG[0] * SIG[1])[:7]
    total, varsum = tile.sum(axis=0, dtype=float), tile.var(axis=0, dtype=float) * 7
    n = stddev.process_tile(tile * 3 - 4, 7, total, varsum)
    again = tile * 2 + 5
    total_1, varsum_1 = again.sum(axis=0, dtype=float), again.var(axis=0, dtype=float) * len(again)
    merged = stddev.merge_single(n + 7, n, total, varsum, 7, total_1, varsum_1, total_1 / 7)
    return {"n": np.asarray(n), "total": total, "varsum": varsum, "both": np.stack(merged)}


def com_formulas(lib: Library) -> dict[str, Any]:
    """Call the functions around the centre of mass."""
    module = lib("udf.com")
    y, x = np.mgrid[:12, :14] / 3.0
    potential = np.exp(-((y - 2) ** 2) - (x - 2) ** 2)
    field = -np.gradient(potential, axis=0), -np.gradient(potential, axis=1)
    turned = module.apply_correction(*field, scan_rotation=-37, flip_y=True)
    guess = module.guess_corrections(*turned)
    some = np.ones((12, 14), dtype=bool)
    some[:, 5:] = False
    return {
        "turned": np.stack(turned),
        "back": np.stack(module.apply_correction(*turned, scan_rotation=-37, flip_y=True, forward=False)),
        "divergence": module.divergence(*field),
        "curl": module.curl_2d(*turned),
        "magnitude": module.magnitude(*turned),
        "shifts": np.stack(module.center_shifts(np.array([2.0, 0.0]), np.ones(2), np.ones(2) * 3, 1.0, 2.0)),
        "check": np.stack(module.coordinate_check(*turned)),
        "check of a part": np.stack(module.coordinate_check(*turned, roi=some)),
        "guess": np.array([guess.scan_rotation, guess.flip_y, guess.cy, guess.cx], dtype=float),
        "guess of a part": np.array([*module.guess_corrections(*turned, roi=some)], dtype=float),
        "masks": np.stack([f().astype("f4") for f in module.com_masks_factory(8, 9, 3.5, 4, 3)]),
    }


def record(lib: Library) -> dict[str, Any]:
    """Write and export a dataset."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("u2", "f4", "c8"):
            path = Path(folder) / f"{dtype}.npy"
            dataset = lib.context.load("memory", data=make_data(dtype), sig_dims=2, num_partitions=4)
            result = lib.context.run_udf(dataset=dataset, udf=lib("udf.record").RecordUDF(str(path)))
            assert not list(result)
            found[f"recorded {dtype}"] = np.load(path)
            lib.context.export_dataset(dataset, path=str(path), overwrite=True)
            found[f"exported {dtype}"] = np.load(path)
    return found


def map_function(lib: Library) -> dict[str, Any]:
    """Call ``Context.map``."""
    dataset = lib.context.load("memory", data=make_data("u2"), sig_dims=2, num_partitions=4)
    everything = lib.context.map(dataset=dataset, f=np.sum)
    part = lib.context.map(dataset=dataset, f=lambda frame: frame[:2, 3], roi=roi("some"))
    return {"everything": np.asarray(everything.data), "part": np.asarray(part.data), "raw": np.asarray(part.raw_data)}


# -- analyses


def as_result_set(results: Any) -> dict[str, Any]:
    """Return the results of an analysis as arrays, with the shape of the picture of each in its name."""
    found = {f"{r.key}, {r.include_in_download}": np.asarray(r.raw_data) for r in results}
    for r in results:
        picture = r.visualized() if callable(r.visualized) else r.visualized
        found[f"{r.key}, picture"] = np.array([*picture.shape, picture.dtype.itemsize])
    if results.raw_results is not None:
        found["raw results"] = np.asarray(results.raw_results)
    return found


def by_name(name: str, **parameters: Any) -> Callable[[Library, Any], Any]:
    """Return what makes an analysis by its name."""

    def make(lib: Library, dataset: Any) -> Any:
        return lib("analysis.base").Analysis.get_analysis_by_type(name)(dataset=dataset, parameters=parameters)

    return make


def created(what: str, *args: Any, **parameters: Any) -> Callable[[Library, Any], Any]:
    """Return what makes an analysis with a context."""

    def make(lib: Library, dataset: Any) -> Any:
        return getattr(lib.context, f"create_{what}_analysis")(*args, dataset=dataset, **parameters)

    return make


DISC = {"real_rad": 2, "real_centerx": 5, "real_centery": 6}
ANALYSES: dict[str, Callable[[Library, Any], Any]] = {
    "disk": created("disk"),
    "disk, given": created("disk", cx=3, cy=7.5, r=2.5),
    "ring": created("ring"),
    "ring, given": created("ring", cx=3.5, cy=7, ri=1, ro=4),
    "ring, outer radius given": created("ring", ro=4),
    "point": created("point"),
    "point, given": created("point", x=2, y=7),
    "masks": created("mask", partial(stack, 3)),
    "masks f8": created("mask", [lambda: stack(2, "f8")[0], lambda: stack(2, "f8")[1]], dtype="f8"),
    "masks c8": created("mask", partial(stack, 2, "c8"), mask_count=2, mask_dtype="complex64"),
    "masks, sparse": created("mask", partial(sparse_stack, 2), use_sparse="scipy.sparse"),
    "com": created("com"),
    "com, given": created("com", cx=4, cy=5, mask_radius=4, flip_y=True, scan_rotation=30.0),
    "com in a ring": created("com", cx=4, cy=5, mask_radius=4, mask_radius_inner=1.5),
    "radial fourier": created("radial_fourier", max_order=4),
    "radial fourier, given": created("radial_fourier", cx=4, cy=6.5, ri=1, ro=5, n_bins=2, max_order=3),
    "radial fourier, sparse": created("radial_fourier", ri=1, n_bins=3, max_order=3, use_sparse="scipy.sparse"),
    "sum": created("sum"),
    "sum of a disk": by_name("SUM_FRAMES", roi={"shape": "disk", "cx": 2, "cy": 3, "r": 1.5}),
    "sum of a rectangle": by_name("SUM_FRAMES", roi={"shape": "rect", "x": 1, "y": 2, "width": 2, "height": 3}),
    "pick": created("pick", x=1, y=2),
    "sum of each": by_name("SUM_SIG"),
    "deviation": by_name("SD_FRAMES"),
    "deviation of a disk": by_name("SD_FRAMES", roi={"shape": "disk", "cx": 2, "cy": 3, "r": 1.5}),
    "fft of the sum": by_name("FFTSUM_FRAMES", **DISC),
    "fft of a frame": by_name("PICK_FFT_FRAME", x=1, y=2, **DISC),
    "fft of a frame, nothing masked": by_name("PICK_FFT_FRAME", x=1, y=2),
    "fft mask": by_name("APPLY_FFT_MASK", rad_in=1, rad_out=4, **DISC),
    "fem": by_name("FEM", cx=5, cy=6, ri=1, ro=4),
}


def run_analysis(lib: Library, analysis: str, dtype: str, which_roi: str) -> dict[str, Any]:
    """Run an analysis."""
    dataset = lib.context.load("memory", data=make_data(dtype), sig_dims=2, num_partitions=4)
    return as_result_set(lib.context.run(ANALYSES[analysis](lib, dataset), roi=roi(which_roi)))


def analysis_cases() -> Iterator[Case]:
    """Yield all analyses, for several dtypes and selections."""
    for analysis in ANALYSES:
        for dtype, which_roi in (
            ("u1", "all"),
            ("u2", "all"),
            ("f4", "all"),
            ("f8", "all"),
            ("c8", "all"),
            ("u2", "some"),
        ):
            if which_roi == "some" and analysis in {"pick", "fft of a frame", "fft of a frame, nothing masked"}:
                continue
            run = partial(run_analysis, analysis=analysis, dtype=dtype, which_roi=which_roi)
            pixels = 1.0 if analysis.startswith("com") else 0.0
            yield Case(f"analysis {analysis}: {dtype}, {which_roi}", run, rtol=1e-4, atol=2e-5, scale=pixels)


def rois(lib: Library) -> dict[str, Any]:
    """Make regions of interest from parameters."""
    get_roi = lib("analysis.getroi").get_roi
    shapes: dict[str, dict[str, Any]] = {
        "disk": {"shape": "disk", "cx": 2, "cy": 3, "r": 1.5},
        "rect": {"shape": "rect", "x": 1, "y": 2, "width": 2, "height": 3},
        "rect, backwards": {"shape": "rect", "x": 4, "y": 4, "width": -2, "height": -3},
    }
    return {name: np.asarray(get_roi({"roi": shape}, NAV)) for name, shape in shapes.items()}


# -- corrections and coordinates


def correct(lib: Library) -> dict[str, Any]:
    """Correct arrays."""
    detector = lib("corrections.detector")
    rng = np.random.default_rng(3)
    dark, gain = rng.random(SIG), rng.random(SIG) + 0.5
    places = np.array([[0, 3, 4, 11], [0, 5, 5, 9]])
    found = {}
    for dtype in (*DTYPES, ">u2", "i8"):
        data = make_data(dtype)
        found[f"{dtype}"] = detector.correct(data, dark, gain, places)
        found[f"{dtype} dark"] = detector.correct(data, dark_image=dark)
        found[f"{dtype} gain"] = detector.correct(data, gain_map=gain)
        found[f"{dtype} places"] = detector.correct(data, excluded_pixels=places, sig_shape=SIG)
    for dtype in ("f4", "f8", "c8"):
        data = make_data(dtype).copy()
        detector.correct(data, dark, gain, places, inplace=True)
        found[f"{dtype} in place"] = data
    masks = stack(3, "f8")
    found["masks"] = detector.correct_dot_masks(masks, gain, places)
    found["masks f4"] = detector.correct_dot_masks(masks.astype("f4"), gain.astype("f4"), places)
    found["sparse masks"] = detector.correct_dot_masks(sparse_stack(3), gain, places).todense()
    return found


def apply_corrections(lib: Library) -> dict[str, Any]:
    """Correct a tile in place, and find tiles whose borders no excluded pixel touches."""
    shape, slices = lib("common.shape").Shape, lib("common.slice").Slice
    everything = corrections(lib, "everything")
    found = {}
    for dtype in ("f4", "f8", "c8"):
        tile = make_data(dtype)[0, :, 2:8, 1:9].copy()
        part = slices(origin=(3, 2, 1), shape=shape((5, 6, 8), sig_dims=2))
        everything.apply(tile, part)
        found[dtype] = tile
    return found


def coordinates(lib: Library) -> dict[str, Any]:
    """Combine and take apart transformations."""
    c = lib("corrections.coordinates")
    combined = {
        "turned, scaled, flipped": c.rotate_deg(30) @ c.scale(2) @ c.flip_y(),
        "flip_x": c.flip_x(),
        "negative": c.scale(-2),
        "radians": c.scale(3) @ c.rotate(-2.0) @ c.flip_y(),
        "identity": c.identity(),
    }
    apart = {f"{name}, apart": np.array(c.scale_rotate_flip_y(m), dtype=float) for name, m in combined.items()}
    # Half a turn is pi or -pi.
    for values in apart.values():
        values[1] = abs(values[1]) if np.isclose(abs(values[1]), np.pi) else values[1]
    return {**combined, **apart}


def lattice(lib: Library) -> dict[str, Any]:
    """Use coordinates of lattices."""
    u = lib("utils")
    grid = np.mgrid[-3:4, -3:4]
    orders, peaks = u.frame_peaks(16, 18, np.array([8.0, 9.0]), np.array([4.0, 0.5]), np.array([-0.5, 4.0]), 2, grid)
    points = np.array([(1.0, 2.0), (0.0, -1.0), (-1.0, 0.0), (3.0, 0.0)])
    whole = np.array([8, 9]), np.array([4, 0]), np.array([1, 4])
    return {
        "orders": orders,
        "peaks": peaks,
        "whole peaks": u.frame_peaks(16, 18, *whole, 2, grid)[1],
        "whole points": u.calc_coords(*whole, np.array([(0, 1), (1, 2)])),
        "polar": u.make_polar(points),
        "cartesian": u.make_cartesian(points),
        "turned": np.stack(u.rotate_deg(points[:, 0], points[:, 1], 33)),
        "turned in rad": np.stack(u.rotate_rad(points[:, 0], points[:, 1], 0.3)),
        "precalculated": np.stack(u.rotate_precalc(points[:, 0], points[:, 1], 0.6, 0.8)),
        "regular": u.regularize_indices(grid),
        "within": u.within_frame(np.array([(2.0, 3), (1, 3), (13, 13), (14, 14), (13.9, 2)]), 2, 16, 16),
    }


# -- masks

SIZES = ((16, 16), (17, 12), (5, 9))
CENTERS = ((8, 8), (3.5, 4.25), (0, 0), (-3, 20), (7.49, 2.51))


def densified(masks: Any) -> dict[str, Any]:
    """Return masks as arrays; whether they are sparse is part of the name."""
    if isinstance(masks, tuple):
        return {f"{i}": np.asarray(m) for i, m in enumerate(masks)}
    sparse = hasattr(masks, "todense")
    return {"sparse" if sparse else "dense": np.asarray(masks.todense() if sparse else masks)}


def circles(lib: Library) -> dict[str, Any]:
    """Make discs and rings."""
    m = lib("masks")
    found = {}
    for (sx, sy), (cx, cy), r in itertools.product(SIZES, CENTERS, (0, 1, 3, 4.7, 50, 0.4)):
        where = f"{sx}x{sy} at {cx}, {cy}, r {r}"
        for smooth in (False, True):
            found[f"circular {where} {smooth}"] = m.circular(cx, cy, sx, sy, r, antialiased=smooth)
            for ri in (0, 1, 2.5):
                found[f"ring {where} {ri} {smooth}"] = m.ring(cx, cy, sx, sy, r, ri, antialiased=smooth)
        if r:
            found[f"radial_gradient {where}"] = m.radial_gradient(cx, cy, sx, sy, r)
        found[f"bounding_radius {where}"] = np.asarray(m.bounding_radius(cx, cy, sx, sy))
        found[f"known under another name {where}"] = m._make_circular_mask(cx, cy, sx, sy, r)
    return found


def backgrounds(lib: Library) -> dict[str, Any]:
    """Make templates with a background."""
    m = lib("masks")
    found = {}
    for (sx, sy), smooth in itertools.product(SIZES, (False, True)):
        found[f"background {sx} {sy} {smooth}"] = m.background_subtraction(2, 3, sx, sy, 4, 2, antialiased=smooth)
    r, _ = m.polar_map(8, 8, 20, 17)
    for r0, outer, delta in (
        (4, 6, 1),
        (4, 6, 2),
        (3.3, 9, 0.5),
        (4, 6, 0),
        (5, 5, 1),
        (5, 3, 1),
        (4, 6, 8),
        (4, 6, 5),
    ):
        found[f"profile {r0} {outer} {delta}"] = m.radial_gradient_background_subtraction(r, r0, outer, delta)
    template = np.random.default_rng(0).normal(size=(7, 8))
    for name, t in (("f8", template), ("f4", template.astype("f4")), ("positive", np.abs(template))):
        found[f"balance {name}"] = m.balance(t)
    return found


def maps(lib: Library) -> dict[str, Any]:
    """Make polar maps, gradients and rectangles."""
    m = lib("masks")
    found: dict[str, Any] = {}
    for (sx, sy), (cx, cy) in itertools.product(SIZES, CENTERS):
        where = f"{sx}x{sy} at {cx}, {cy}"
        for stretch, angle in ((1.0, 0.0), (2.0, 0.3), (0.5, -1.2)):
            for i, part in enumerate(m.polar_map(cx, cy, sx, sy, stretch, angle)):
                found[f"polar_map {where} {stretch} {angle} {i}"] = part
        if cx >= 0:
            for w, h in ((3, 4), (-3, 4), (3, -4), (-2.5, -1), (0, 3), (3, 0), (2.5, 1.5), (100, 100)):
                found[f"rectangular {where} {w} {h}"] = m.rectangular(cx, cy, w, h, sx, sy)
    for (sx, sy), dtype in itertools.product(SIZES, ("f4", "f8", "i4", "c8")):
        found[f"gradient_x {sx} {sy} {dtype}"] = m.gradient_x(sx, sy, dtype=dtype)
        found[f"gradient_y {sx} {sy} {dtype}"] = m.gradient_y(sx, sy, dtype=dtype)
    return found


def bins(lib: Library) -> dict[str, Any]:
    """Make radial bins."""
    m = lib("masks")
    found = {}
    for (sx, sy), (cx, cy), r, ri, n in itertools.product(SIZES, CENTERS, (None, 5, 3.3), (0, 1.5), (None, 1, 3)):
        for sparse, dtype, normalize in itertools.product((None, True, False), (None, np.float32), (False, True)):
            if normalize and ri == 0:
                continue  # the peer's first bin is not normalised then, see test_against_peer.py
            made = m.radial_bins(cx, cy, sx, sy, r, ri, n, normalize, sparse, dtype)
            name = f"{sx}x{sy} at {cx}, {cy} {r} {ri} {n} {normalize} {sparse} {dtype}"
            found.update({f"{name} {kind}": value for kind, value in densified(made).items()})
    return found


def stacks(lib: Library) -> dict[str, Any]:
    """Make stacks of templates."""
    m = lib("masks")
    template = np.random.default_rng(0).random((3, 4)).astype("f4")
    template[0, 0] = 0
    found = densified(m.sparse_template_multi_stack([0, 1, 1, 3], [0, -1, 5, 14], [0, 8, 2, -2], template, 16, 12))
    found["overlapping"] = m.sparse_template_multi_stack([0, 0], [0, 1], [0, 0], template, 16, 12).todense()
    for r in (0, 1, 2, 3.5):
        whole = m.sparse_circular_multi_stack([0, 1, 1, 2], [3, 5, 9, 15], [2, 5, 5, 11], 16, 12, r)
        between = m.sparse_circular_multi_stack([0, 0], np.array([3.4, 9.9]), np.array([2.0, 6.5]), 16, 12, r)
        found |= {f"discs {r}": whole.todense(), f"discs between {r}": between.todense()}
    return found


def container(lib: Library) -> dict[str, Any]:
    """Cut masks with a container."""
    cls = lib("common.container").MaskContainer
    shape, slices = lib("common.shape").Shape, lib("common.slice").Slice
    part = slices(origin=(0, 2, 1), shape=shape((1, 4, 6), sig_dims=2))
    found = {}
    for name, factories in (("dense", partial(stack, 3)), ("sparse", partial(sparse_stack, 3))):
        for kind in (None, True, False, "scipy.sparse.csc", "sparse.pydata"):
            made = cls(factories, use_sparse=kind)
            cut = made.get(part, transpose=False)
            found[f"{name} {kind} {made.use_sparse}"] = np.asarray(cut.todense() if hasattr(cut, "todense") else cut)
            cut = made.get(part, dtype=np.float64)
            found[f"{name} {kind} transposed"] = np.asarray(cut.todense() if hasattr(cut, "todense") else cut)
            found[f"{name} {kind} count"] = np.asarray(len(made))
    return found


CALLS = {
    "several at once": several_at_once,
    "helpers": helpers,
    "formulas of stddev": stddev_formulas,
    "formulas of com": com_formulas,
    "record": record,
    "map": map_function,
    "correct": correct,
    "apply corrections": apply_corrections,
    "coordinates": coordinates,
    "lattice": lattice,
    "circles": circles,
    "backgrounds": backgrounds,
    "maps": maps,
    "bins": bins,
    "stacks": stacks,
    "container": container,
    "rois": rois,
}
CASES = [
    *function_cases(),
    *analysis_cases(),
    *(Case(name, call, rtol=1e-4 if name in {"several at once", "helpers"} else 1e-5) for name, call in CALLS.items()),
]


def main(root: str, target: str) -> None:
    """Compute everything and save it, errors by their type and text."""
    warnings.simplefilter("ignore")
    lib = Library(root)
    found: dict[str, Any] = {}
    for case in CASES:
        try:
            results = case.run(lib)
        except Exception as error:
            results = {ERROR: np.array(f"{type(error).__name__}: {error}")}
        found.update({f"{case.name}|{name}": value for name, value in results.items()})
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
