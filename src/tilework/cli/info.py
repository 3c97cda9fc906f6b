"""``tilework info``: what a file is."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tilework.cli.contexts import make_context
from tilework.cli.opening import describe_axes, describe_dataset, open_dataset
from tilework.cli.output import as_json
from tilework.cli.printing import print_text
from tilework.cli.words import format_bytes
from tilework.io.results.jsonable import jsonable

if TYPE_CHECKING:
    from tilework.api import Context

__all__ = ["info"]

# Diagnostics that the lines for people say in their own words.
SAID = {"Number of partitions", "Partition shape", "Shape", "Data type"}


def info(args: argparse.Namespace) -> None:
    """Print what a file is, its shape and type of numbers, and how that was found out."""
    how = argparse.Namespace(executor="inline", workers=None)
    with make_context(how) as context:
        dataset = open_dataset(context, args)
        facts: dict[str, Any] = {
            "file": args.file,
            "detected": _detected(context, args),
            **describe_dataset(dataset),
            "partitions": dataset.get_num_partitions(),
            "axes": describe_axes(list(dataset.axes)),
            "diagnostics": {d["name"]: d["value"] for d in dataset.diagnostics},
        }
    if args.json:
        print_text(as_json(jsonable(facts), sys.stdout.encoding))
    else:
        print_text("\n".join(_lines(facts)))


def _detected(context: Context, args: argparse.Namespace) -> dict[str, Any] | None:
    """Return what was found out from the file; None where the command line says what it is."""
    from tilework.io.dataset import detect

    if args.type != "auto" or args.dtype is not None:
        return None
    found = detect(args.file, context.executor)
    return {name: found.get(name) for name in ("type", "parameters", "info")}


def _lines(facts: dict[str, Any]) -> list[str]:
    how = "found out from the file" if facts["detected"] else "as told"
    scan, detector = (" × ".join(map(str, facts[name])) for name in ("nav_shape", "sig_shape"))
    many = "s" * (facts["frames"] != 1)
    rows = [
        ("file", facts["file"]),
        ("format", f"{facts['format']} ({how})"),
        ("scan", f"{scan} position{many}{_scale(facts, 0)}{_origin(facts)}"),
        ("detector", f"{detector} pixels{_scale(facts, -1)}"),
        ("numbers", f"{facts['dtype']} (stored as {facts['raw_dtype']})"),
        (
            "size",
            f"{format_bytes(facts['bytes'])} in {facts['partitions']} partition{'s' * (facts['partitions'] != 1)}",
        ),
    ]
    if facts["absent_frames"]:
        rows.append(("absent", f"{facts['absent_frames']} of {facts['frames']} frames are not in the file"))
    rows += [
        (name, str(value))
        for name, value in facts["diagnostics"].items()
        if name not in SAID and not (name.startswith("Number of ") and value == "0")
    ]
    width = max(len(name) for name, _ in rows) + 2
    return [f"{name:{width}}{value}" for name, value in rows]


def _origin(facts: dict[str, Any]) -> str:
    return f" ({facts['nav_shape_from']})" if "nav_shape_from" in facts else ""


def _scale(facts: dict[str, Any], axis: int) -> str:
    about = facts["axes"][axis]
    return "" if about["scale"] is None else f", {about['scale']:.4g} {about['units'] or ''}".rstrip()
