"""What the examples share: a simulated scan, a context, and how their pictures look.

Each example is a program: ``python examples/NAME.py [EXECUTOR]`` simulates a small scan in a temporary folder, runs its
function, and writes ``NAME.png`` into the current folder.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilework.api import Context
from tilework.utils.simulate import ScanModel, simulate_scan
from tilework.viz.figures import draw_image, draw_vectors, new_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Example", "Results", "main", "new_figure", "picture", "vectors"]

Array = np.ndarray[Any, np.dtype[Any]]
# Arrays by name: what an example computes, and draws.
Results = dict[str, Array]


class Scale(NamedTuple):
    """Distance of neighbouring positions, and its unit."""

    scale: float
    units: str


@dataclass(frozen=True)
class Example:
    """One example.

    Parameters
    ----------
    model
        The scan to simulate.
    compute
        Takes a context, the dataset and the model, and returns arrays by name.
    draw
        Takes these and the model, and returns a figure.
    prepare
        Changes the simulated frames (scan y, scan x, detector y, detector x) in place, before they are computed.
    """

    model: ScanModel
    compute: Callable[[Context, Any, ScanModel], Results]
    draw: Callable[[Results, ScanModel], Any]
    prepare: Callable[[Array], None] | None = None

    def simulate(self, path: Path) -> Path:
        """Write the scan to a file."""
        simulate_scan(path, self.model)
        if self.prepare is not None:
            frames = np.load(path, mmap_mode="r+")
            self.prepare(frames)
            frames.flush()
        return path

    def run(self, ctx: Context, path: Path) -> Results:
        """Compute the results from a simulated scan."""
        return self.compute(ctx, ctx.load("npy", path=path, num_partitions=6), self.model)


def picture(axes: Any, image: Any, title: str, model: ScanModel, **kwargs: Any) -> None:
    """Draw an image of the scan or of the detector, with a scale bar."""
    scale = Scale(model.scan_step, "nm") if np.shape(image) == model.scan_shape else Scale(model.pixel, "mrad")
    draw_image(axes, image, title=title, scales=(scale, scale), **kwargs)


def vectors(axes: Any, y: Any, x: Any, title: str, model: ScanModel, **kwargs: Any) -> None:
    """Draw vectors of the scan of `model` as colours."""
    scales = Scale(model.scan_step, "nm"), Scale(model.scan_step, "nm")
    draw_vectors(axes, y, x, title=title, scales=scales, **kwargs)


def main(name: str, example: Example) -> None:
    """Simulate, compute on the executor that the command line names (default: threads), and draw."""
    executor: Any = sys.argv[1] if len(sys.argv) > 1 else "threads"
    with tempfile.TemporaryDirectory() as folder, Context.make_with(executor) as ctx:
        results = example.run(ctx, example.simulate(Path(folder) / "scan.npy"))
        save_figure(example.draw(results, example.model), f"{name}.png", dpi=90)
    print(f"wrote {name}.png")
