"""Signals of HyperSpy, and of pyxem, as datasets, and results as signals.

A lazy signal holds a Dask array with the axes that tilework expects, (y, x) of the scan and (y, x) of the detector: its
frames are read while the functions run. Needs ``pip install hyperspy``; with pyxem, signals are of its classes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np

from tilework.api import Context
from tilework.udf import CoMUDF, SumSigUDF


def make_scan(path: Path) -> None:
    """Write a scan as HyperSpy does, with some lines of the scan in each chunk."""
    counts = np.random.default_rng(0).poisson(5, (16, 12, 32, 32)).astype(np.uint16)
    signal = hs.signals.Signal2D(counts)
    for axis in signal.axes_manager.navigation_axes:
        axis.scale, axis.units = 2.0, "nm"
    signal.save(path, overwrite=True, chunks=(4, 12, 32, 32))


def as_image(values: Any, scan: Any) -> Any:
    """Return a result of one value per position as a signal, with the axes of the scan."""
    image = hs.signals.Signal2D(values)
    for axis, of_scan in zip(image.axes_manager.signal_axes, scan.axes_manager.navigation_axes, strict=True):
        axis.name, axis.scale, axis.offset, axis.units = of_scan.name, of_scan.scale, of_scan.offset, of_scan.units
    return image


def main(folder: Path) -> None:
    """Make a scan, sum its frames, find their centres of mass, and save both as signals."""
    make_scan(folder / "scan.hspy")
    scan = hs.load(folder / "scan.hspy", lazy=True)
    # A signal in memory is given as ctx.load("memory", data=signal.data, sig_dims=2).
    with Context.make_with("pipelined") as ctx:
        dataset = ctx.load("dask", scan.data, sig_dims=2)
        sums, center = ctx.run_udf(dataset=dataset, udf=[SumSigUDF(), CoMUDF()])
    as_image(sums["intensity"].data, scan).save(folder / "sums.hspy", overwrite=True)
    deflection = np.stack([center["field_x"].data, center["field_y"].data])
    shifts = hs.signals.Signal2D(deflection)  # for pyxem: shifts.set_signal_type("dpc")
    shifts.save(folder / "shifts.hspy", overwrite=True)
    print(sums["intensity"].data.shape, deflection.shape)  # (16, 12) (2, 16, 12)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
