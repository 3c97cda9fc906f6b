"""Symmetry STEM: how well every pattern agrees with itself after a rotation or a reflection.

M. Krajnak and J. Etheridge, "A symmetry-derived mechanism for atomic resolution imaging", PNAS 117, 27805 (2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context


class Symmetry(UDF):
    """Correlation of each frame with its rotated and mirrored copies.

    Results of nav shape, Pearson's coefficients from -1 to 1: ``half_turn``, ``quarter_turn``, ``mirror`` (left and
    right exchanged).

    Parameters
    ----------
    center
        The pixel (y, x) to rotate about.
    radius
        Half the size of the square that is used, in pixels.
    inner
        Radius of the central disc, in pixels, which is left out: it agrees with itself always.
    """

    def __init__(self, center: tuple[int, int], radius: int, inner: float) -> None:
        super().__init__(center=center, radius=radius, inner=inner)

    def get_result_buffers(self) -> Any:
        return {name: self.buffer(kind="nav", dtype=np.float64) for name in ("half_turn", "quarter_turn", "mirror")}

    def get_task_data(self) -> Any:
        (cy, cx), radius = self.params.center, self.params.radius
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        distance = np.hypot(y, x)
        return {
            "square": (slice(cy - radius, cy + radius + 1), slice(cx - radius, cx + radius + 1)),
            "selected": (distance > self.params.inner) & (distance <= radius),
        }

    def process_frame(self, frame: Any) -> None:
        # Square roots: counts have the same noise then, whether there are few or many.
        pattern = np.sqrt(frame[self.task_data.square])
        selected = self.task_data.selected
        pattern = np.where(selected, pattern - pattern[selected].mean(), 0)
        norm = np.sum(pattern**2)
        self.results.half_turn[:] = np.sum(pattern * pattern[::-1, ::-1]) / norm
        self.results.quarter_turn[:] = np.sum(pattern * np.rot90(pattern)) / norm
        self.results.mirror[:] = np.sum(pattern * pattern[:, ::-1]) / norm


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    center = (int(model.center[0]), int(model.center[1]))
    udf = Symmetry(center, radius=center[0] - 1, inner=model.disc_radius + 2)
    return {name: buffer.data for name, buffer in ctx.run_udf(dataset=dataset, udf=udf).items()}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.3)
    for axes, (name, values) in zip(figure.subplots(1, 3), results.items(), strict=True):
        picture(axes, values, name.replace("_", " "), model, cmap="magma")
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(40, 40), detector_shape=(64, 64), dead=0, hot=0), compute, draw)

if __name__ == "__main__":
    main("symmetry", EXAMPLE)
