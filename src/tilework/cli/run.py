"""``tilework run``: functions over a file; arrays, pictures and a summary in a folder."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework import __version__
from tilework.cli.contexts import count_workers, describe_executor, open_context
from tilework.cli.detector import corrections_for_people, make_corrections
from tilework.cli.executor_report import report_lines
from tilework.cli.functions import Function, find_own_modules, make_functions
from tilework.cli.opening import describe_axes, describe_dataset, open_dataset, scaled_axes
from tilework.cli.output import as_json, check_output, output_folder, output_path, write_summary
from tilework.cli.printing import print_text, printed_to_stderr
from tilework.cli.values import FromFile
from tilework.cli.words import format_bytes, format_rate
from tilework.exceptions import CommandError, TileworkError
from tilework.io.results import ResultChannel, require_format, save_results
from tilework.udf.runner import UDFRunner
from tilework.viz.colors import require_matplotlib

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tilework.api import Context
    from tilework.common.buffers import BufferWrapper
    from tilework.io.corrections import CorrectionSet
    from tilework.io.dataset.base import AxisInfo, DataSet

__all__ = ["Measured", "execute", "report_document", "run", "save_function"]


class Measured:
    """What a run gave, and how fast it was.

    Parameters
    ----------
    results
        One mapping of results per function.
    seconds
        Wall time of the pass over the data.
    read
        Bytes of the frames that were selected.
    """

    def __init__(self, results: Sequence[Mapping[str, Any]], seconds: float, read: int) -> None:
        self.results = results
        self.seconds = seconds
        self.read = read

    def describe(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "seconds": round(self.seconds, 6),
            "bytes": self.read,
            "gb_per_s": round(self.read / self.seconds / 1e9, 3),
        }


def run(args: argparse.Namespace) -> None:
    """Run functions over a file and write their results to a folder."""
    target = output_path(args.out)
    with printed_to_stderr() if args.json else nullcontext():  # functions may print, and the document is one
        document = _run(args, target)
    report_document(args, document, _lines(document, target))


def _run(args: argparse.Namespace, target: Path) -> dict[str, Any]:
    """Run functions over a file and write their results to a folder; return what was done."""
    check_output(target, overwrite=args.overwrite, inputs=_inputs(args))
    require_format(f".{args.format}")
    if not args.no_pictures:
        _require_pictures()
    find_own_modules(name for name, _ in args.udfs)  # before there are workers
    with open_context(args) as context:
        dataset = open_dataset(context, args)
        roi = _selected(args, dataset)
        functions = make_functions(args, dataset)
        corrections = make_corrections(args, tuple(dataset.shape.sig))
        axes = scaled_axes(dataset, args.scan_step, args.detector_pixel)
        # The folder is begun before the run: where nothing can be written, that shows at once.
        with output_folder(target, overwrite=args.overwrite) as folder:
            for function in functions:
                declared = UDFRunner.inspect_udf(function.udf, dataset, roi, corrections)
                _check_storable(folder, function.label, declared, args.format)
            measured = execute(context, dataset, functions, roi, args, corrections)
            written = [
                save_function(folder, function, results, axes, args.format, pictures=not args.no_pictures)
                for function, results in zip(functions, measured.results, strict=True)
            ]
            summary = {
                "tilework_version": __version__,
                "file": args.file,
                "dataset": describe_dataset(dataset),
                "axes": describe_axes(axes),
                "roi": None
                if roi is None
                else {"asked": args.roi.text, "selected": int(roi.sum()), "of": int(roi.size)},
                "corrections": corrections_for_people(args),
                "executor": {"name": args.executor, "workers": count_workers(context)},
                "run": measured.describe(),
                "functions": written,
            }
            if args.report:
                summary["report"] = context.executor.report()
            document = write_summary(folder, summary)
    return document


def execute(
    context: Context,
    dataset: DataSet,
    functions: Sequence[Function],
    roi: NDArray[np.bool_] | None,
    args: argparse.Namespace,
    corrections: CorrectionSet | None = None,
) -> Measured:
    """Run functions in one pass over a dataset."""
    progress = args.progress or (sys.stderr.isatty() and not args.quiet)
    start = time.perf_counter()
    udfs = [f.udf for f in functions]
    results = context.run_udf(dataset=dataset, udf=udfs, roi=roi, corrections=corrections, progress=progress)
    seconds = time.perf_counter() - start
    frames = int(dataset.present_positions(roi).sum())
    frame = int(np.prod(tuple(dataset.shape.sig))) * np.dtype(dataset.raw_dtype).itemsize
    return Measured(results, seconds, frames * frame)


def _check_storable(folder: Path, label: str, declared: Mapping[str, BufferWrapper], suffix: str) -> None:
    """See that results can be saved, before hours are spent on them: one value of each, in a file that is removed.

    Raises
    ------
    ResultFileError, ValueError
        When they cannot.
    """
    channels = {
        name: ResultChannel(name, np.zeros(1, buffer.dtype))
        for name, buffer in declared.items()
        if buffer.use != "private"
    }
    if channels:
        written = save_results(folder / f"{label}.{suffix}", channels, {})
        shutil.rmtree(written) if written.is_dir() else written.unlink()


def save_function(
    folder: Path,
    function: Function,
    results: Mapping[str, Any],
    axes: Sequence[AxisInfo],
    suffix: str,
    *,
    pictures: bool,
    path: str | None = None,
) -> dict[str, Any]:
    """Write the results of one function, and pictures of them; return what was written as plain values.

    `path` replaces that of the dataset in the provenance, for a file that is yet to get its final place.
    """
    channels = {name: ResultChannel.from_buffer(name, buffer, axes) for name, buffer in results.items()}
    provenance = {**_provenance(results), "asked": dict(function.asked)}
    if path is not None:
        provenance["dataset"] = {**provenance.get("dataset", {}), "path": path}
    entry: dict[str, Any] = {
        "label": function.label,
        "udf": type(function.udf).__qualname__,
        "asked": dict(function.asked),
    }
    if channels:
        entry["file"] = save_results(folder / f"{function.label}.{suffix}", channels, provenance).name
    entry["results"] = {name: _describe(channel) for name, channel in channels.items()}
    entry["pictures"] = []
    if pictures:
        from tilework.cli.pictures import write_pictures

        entry["pictures"] = write_pictures(folder, function.label, type(function.udf).__name__, channels)
    return entry


def report_document(args: argparse.Namespace, document: dict[str, Any], lines: Sequence[str]) -> None:
    """Say what was done: the document with --json, or lines for people, or nothing with --quiet.

    Raises
    ------
    CommandError
        When standard output takes nothing, such as a file on a full disk.
    """
    if args.quiet and not args.json:
        return
    try:
        print_text(as_json(document, sys.stdout.encoding) if args.json else "\n".join(lines))
    except OSError as error:
        msg = f"the results are complete in {args.out}, but standard output cannot be written: {error.strerror}"
        raise CommandError(msg) from error


def _require_pictures() -> None:
    try:
        require_matplotlib()
    except TileworkError as error:
        msg = f"{error}; or leave the pictures out: --no-pictures"
        raise CommandError(msg) from error


def _inputs(args: argparse.Namespace) -> list[str | None]:
    """Return the files that are read; None for those that are not given."""
    roi = None if args.roi is None or args.roi.kind != "file" else args.roi.text
    parameters = [value for _, given in args.udfs for value in given.values()]
    arrays = [value.path for value in parameters if isinstance(value, FromFile)]
    return [args.file, args.masks, args.dark, args.gain, args.excluded, roi, *arrays]


def _selected(args: argparse.Namespace, dataset: DataSet) -> NDArray[np.bool_] | None:
    if args.roi is None:
        return None
    try:
        mask: NDArray[np.bool_] = args.roi.mask(tuple(dataset.shape.nav))
    except (ValueError, OSError) as error:
        reason = f"--roi {args.roi.text}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise CommandError(reason) from error
    return mask


def _provenance(results: Mapping[str, Any]) -> dict[str, Any]:
    provenance = getattr(results, "provenance", None)
    return {} if provenance is None else dict(provenance.as_dict())


def _describe(channel: ResultChannel) -> dict[str, Any]:
    data = channel.data
    about: dict[str, Any] = {"kind": channel.kind, "shape": list(data.shape), "dtype": str(data.dtype)}
    there = np.ones(data.shape, dtype=bool) if channel.valid is None else channel.valid
    if data.dtype.kind in "fc":
        there = there & ~np.isnan(data)
    values = data[there]
    if data.dtype.kind in "buif":
        values = values[np.isfinite(values)].astype(np.float64)
        if values.size:
            with np.errstate(over="ignore"):  # the sum may be infinite
                about |= {"min": float(values.min()), "max": float(values.max()), "sum": float(values.sum())}
    if not there.all():
        about["valid"] = int(there.sum())
    return about


def _lines(document: dict[str, Any], target: Path) -> list[str]:
    dataset, roi, done = document["dataset"], document["roi"], document["run"]
    shape = " × ".join(map(str, dataset["shape"]))
    selected = "" if roi is None else f", {roi['selected']} of {roi['of']} positions"
    lines = [f"{document['file']}: {shape} {dataset['dtype']}, {format_bytes(dataset['bytes'])}{selected}"]
    if dataset["absent_frames"]:
        absent = dataset["absent_frames"]
        one, more = "1 frame is not in the file; its position holds", "frames are not in the file; their positions hold"
        lines.append(f"  {one if absent == 1 else f'{absent} {more}'} no result")
    if ignored := dataset["ignored_frames"]:
        unused = "1 frame at the end of the file is" if ignored == 1 else f"{ignored} frames at the end of the file are"
        lines.append(
            f"  {unused} not used: the scan of {' × '.join(map(str, dataset['nav_shape']))} has no more positions"
        )
    for entry in document["functions"]:
        names = ", ".join(entry["results"])
        lines.append(f"  {entry['label']}: {names or 'no results'}{' → ' + entry['file'] if 'file' in entry else ''}")
        empty = ", ".join(name for name, about in entry["results"].items() if about.get("valid") == 0)
        if empty:
            lines.append(f"    no number in {empty}, so no picture of it")
    lines += [
        f"  {done['seconds']:.2f} s{format_rate(done)}, {describe_executor(document['executor'])}",
        *(report_lines(document["report"]) if "report" in document else ()),
        f"results{' and pictures' if any(entry['pictures'] for entry in document['functions']) else ''} in {target}/",
    ]
    return lines
