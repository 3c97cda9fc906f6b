"""``tilework demo``: simulate a scan, run the whole path on it, compare with what was simulated."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework import __version__
from tilework.cli.contexts import count_workers, describe_executor, open_context
from tilework.cli.executor_report import report_lines
from tilework.cli.functions import Function, disk_mask
from tilework.cli.opening import describe_axes, describe_dataset
from tilework.cli.output import output_folder, output_path, write_summary
from tilework.cli.run import Measured, execute, report_document, save_function
from tilework.cli.words import format_bytes, format_rate
from tilework.exceptions import CommandError
from tilework.io.dataset.base import AxisInfo
from tilework.utils.simulate import ScanModel, simulate_scan
from tilework.viz.colors import require_matplotlib

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["compare", "demo", "demo_functions"]

NOT_MEASURABLE = "not measurable"
# The reflection (h, k) of each grain whose dark-field image is taken: a strong one.
SPOT = (-2, 0)

Results = dict[str, "NDArray[Any]"]

# Of the outlines of the virtual detectors; seen on the dark pattern and on the white page.
BRIGHT, RING, APERTURE = "#1fa8ff", "#19c37d", "#ff5ad2"


def demo(args: argparse.Namespace) -> None:
    """Simulate a scan, analyse it in one pass, compare with the truth, write everything to a folder."""
    if len(args.shape) != 4:
        msg = f"--shape has {len(args.shape)} numbers: give scan and detector, such as 64,64,128,128"
        raise CommandError(msg)
    model = ScanModel(scan_shape=args.shape[:2], detector_shape=args.shape[2:], seed=args.seed)
    target = output_path(args.out)
    require_matplotlib()
    with output_folder(target, overwrite=args.overwrite) as folder:
        with _progress(args) as progress:
            scan = simulate_scan(folder / "scan.npy", model, progress=progress)
        with open_context(args) as context:
            dataset = context.load("npy", path=str(scan.path))
            axes = [AxisInfo(size=size, **a) for a, size in zip(model.axes(), dataset.shape, strict=True)]
            functions = demo_functions(model)
            # A part first: kernels are loaded, or the first time on a machine compiled, before the pass is timed. A
            # quarter of the scan, since what uses kernels for the whole uses them from there on.
            part = np.zeros(tuple(dataset.shape.nav), dtype=bool)
            part[: -(-len(part) // 4)] = True
            loading = execute(context, dataset, functions, part, args).seconds
            measured = execute(context, dataset, functions, None, args)
            document = {
                "tilework_version": __version__,
                # Nothing in the folder may name the place where it was made before it got its name.
                "file": scan.path.name,
                "dataset": {**describe_dataset(dataset), "path": scan.path.name},
                "axes": describe_axes(axes),
                "roi": None,
                "executor": {"name": args.executor, "workers": count_workers(context)},
                "kernels": {"seconds": round(loading, 3)},
                "run": measured.describe(),
                "functions": [
                    save_function(folder, function, results, axes, "npz", pictures=True, path=scan.path.name)
                    for function, results in zip(functions, measured.results, strict=True)
                ],
            }
            if args.report:
                document["report"] = context.executor.report()
        results = _arrays(functions, measured)
        document["agreement"] = compare(results, model)
        _write_overview(folder / "overview.png", results, model, axes)
        document = write_summary(folder, document)
    report_document(args, document, _lines(document, target))


def demo_functions(model: ScanModel) -> list[Function]:
    """Return what the demo computes: pattern, virtual images, centre of mass."""
    from tilework.udf.com import CoMUDF
    from tilework.udf.masks import ApplyMasksUDF
    from tilework.udf.stddev import StdDevUDF
    from tilework.udf.sum import SumUDF

    def images(*masks: NDArray[np.float32]) -> Any:
        stack = np.stack(masks)
        return ApplyMasksUDF(mask_factories=lambda: stack, mask_count=len(stack), mask_dtype="float32")

    shape, center = model.detector_shape, model.center
    bright = 1.25 * model.disc_radius
    inner, outer = _ring_radii(model)
    spots = [model.reflection(grain, *SPOT) for grain in (0, 1)]
    apertures = [disk_mask(shape, spot, model.disc_radius) for spot in spots]
    cy, cx = center
    radius = _com_radius(model)
    return [
        Function("sum", SumUDF()),
        Function("stddev", StdDevUDF()),
        Function("bright_field", images(disk_mask(shape, center, bright)), {"center": center, "radius": bright}),
        Function(
            "dark_field_ring",
            images(disk_mask(shape, center, outer, inner)),
            {"center": center, "radius": outer, "inner": inner},
        ),
        Function("dark_field_spots", images(*apertures), {"centers": spots, "radius": model.disc_radius}),
        Function("com", CoMUDF.with_params(cy=cy, cx=cx, r=radius), {"center": center, "radius": radius}),
    ]


def _ring_radii(model: ScanModel) -> tuple[float, float]:
    return 1.7 * model.spacing, 2.4 * model.spacing


def _com_radius(model: ScanModel) -> float:
    """Return a radius that holds the central disc wherever it is deflected, and no other one."""
    return min(1.6 * model.disc_radius, model.spacing - model.disc_radius - 1)


def _arrays(functions: Sequence[Function], measured: Measured) -> Results:
    by_label = {f.label: r for f, r in zip(functions, measured.results, strict=True)}
    spots = by_label["dark_field_spots"]["intensity"].data
    return {
        "sum": by_label["sum"]["intensity"].data,
        "std": by_label["stddev"]["std"].data,
        "bright": np.squeeze(by_label["bright_field"]["intensity"].data, axis=-1),
        "ring": np.squeeze(by_label["dark_field_ring"]["intensity"].data, axis=-1),
        "left": spots[..., 0],
        "right": spots[..., 1],
        "field": by_label["com"]["field"].data,
    }


def compare(results: Results, model: ScanModel) -> dict[str, float]:
    """Return how well results agree with what was simulated.

    Parameters
    ----------
    results
        ``field`` (scan y, scan x, 2), ``left`` and ``right`` (scan y, scan x).
    model
        What was simulated.

    Returns
    -------
    dict
        Angle between measured and simulated deflection in degrees (median, root mean square) where it is more than a
        third of the largest; how long it is compared to the simulated one; share of the scan positions that the
        dark-field images give to the right grain, where the beam is in one grain; correlation of these images'
        difference with the simulated grains. NaN for what cannot be measured: on a small detector the central disc
        may cover no pixel, and a small scan may have no position that is in one grain.
    """
    measured = results["field"][..., 1] + 1j * results["field"][..., 0]
    simulated = model.shift[..., 1] + 1j * model.shift[..., 0]
    # A field of 0, which points nowhere, is that of frames in which nothing was found.
    found = np.isfinite(measured) & (measured != 0)
    strong = found & (np.abs(simulated) > np.abs(simulated).max() / 3)
    angle = np.degrees(np.angle(measured[strong] * np.conj(simulated[strong])))
    measured, simulated = measured[found], simulated[found]
    left, right = (np.asarray(results[side], dtype=np.float64) for side in ("left", "right"))
    balance = (right - left) / np.maximum(right + left, 1)
    pure = np.abs(model.right_grain - 0.5) > 0.45
    correct = balance > 0
    return {
        "field_angle_median_deg": float(np.median(np.abs(angle))) if angle.size else math.nan,
        "field_angle_rms_deg": float(np.sqrt(np.mean(angle**2))) if angle.size else math.nan,
        # The slope of a regression: mean lengths would count the noise as well.
        "field_length_ratio": (
            float(np.vdot(simulated, measured).real / np.vdot(simulated, simulated).real) if angle.size else math.nan
        ),
        "grain_correct": float(np.mean(correct[pure] == (model.right_grain[pure] > 0.5))) if pure.any() else math.nan,
        "grain_correlation": (
            float(np.corrcoef(balance.ravel(), model.right_grain.ravel())[0, 1]) if np.ptp(balance) else math.nan
        ),
    }


def _write_overview(path: Path, results: Results, model: ScanModel, axes: Sequence[AxisInfo]) -> None:
    from tilework.viz import figures
    from tilework.viz.marks import add_circle

    scan, detector = (axes[0], axes[1]), (axes[2], axes[3])
    figure = figures.new_figure(12.0, 7.3)
    panels = figure.subplots(2, 3)
    pattern, bright, ring, spot, std, field = panels.flat
    figures.draw_image(
        pattern,
        results["sum"],
        title="Sum of all patterns",
        scales=detector,
        cmap="inferno",
        logarithmic=True,
        label="electrons",
    )
    inner, outer = _ring_radii(model)
    add_circle(pattern, model.center, 1.25 * model.disc_radius, BRIGHT)
    add_circle(pattern, model.center, inner, RING)
    add_circle(pattern, model.center, outer, RING)
    add_circle(pattern, model.reflection(1, *SPOT), model.disc_radius + 1, APERTURE)
    for panel, image, title, color in (
        (bright, results["bright"], "Bright field", BRIGHT),
        (ring, results["ring"], "Dark field: ring", RING),
        (spot, results["right"], "Dark field: a spot of the right grain", APERTURE),
    ):
        figures.draw_image(panel, image, title=title, scales=scan, label="electrons")
        panel.set_title("\N{LARGE CIRCLE}", loc="right", color=color, fontsize=12, fontweight="bold")
    figures.draw_image(
        std,
        results["std"],
        title="Standard deviation",
        scales=detector,
        cmap="inferno",
        logarithmic=True,
        label="electrons",
    )
    micro = model.pixel * 1e3
    figures.draw_vectors(
        field,
        results["field"][..., 0] * micro,
        results["field"][..., 1] * micro,
        title="Deflection by the magnetic field",
        scales=scan,
        units="µrad",
        arrows=True,
    )
    figures.save_figure(figure, path, dpi=120)


def _lines(document: dict[str, Any], target: Path) -> list[str]:
    shape = " × ".join(map(str, document["dataset"]["shape"]))
    done, agreement = document["run"], document["agreement"]
    count = len(document["functions"])
    speed = f"{done['seconds']:.2f} s{format_rate(done)}, {describe_executor(document['executor'])}"
    # The document may go into JSON, where NaN is a text.
    angle, length, right, correlation = (
        float(agreement[name])
        for name in ("field_angle_median_deg", "field_length_ratio", "grain_correct", "grain_correlation")
    )
    deflection = f"{angle:.1f}° median angle to the simulated one, {length:.3f} of its length"
    share = NOT_MEASURABLE if math.isnan(right) else f"{100 * right:.1f} % of the positions right"
    agrees = NOT_MEASURABLE if math.isnan(correlation) else f"{correlation:.2f}"
    return [
        f"simulated   {shape} {document['dataset']['dtype']}, {format_bytes(document['dataset']['bytes'])}",
        f"kernels     ready after {document['kernels']['seconds']:.1f} s (compiled once per machine)",
        f"analysed    {count} functions in one pass: {speed}",
        f"deflection  {NOT_MEASURABLE if math.isnan(angle) else deflection}",
        f"grains      {share}, correlation {agrees}",
        *(report_lines(document["report"]) if "report" in document else ()),
        f"pictures    {target / 'overview.png'}, and more in {target}/",
    ]


@contextmanager
def _progress(args: argparse.Namespace) -> Iterator[Callable[[int, int], None] | None]:
    if not (args.progress or (sys.stderr.isatty() and not args.quiet)):
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="Simulating frames", unit="frame", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
