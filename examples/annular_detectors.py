"""Virtual detectors: bright field, two annular dark fields, and a ring in four quadrants, in one pass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture, vectors
from tilework.masks import circular, polar_map, ring
from tilework.udf.masks import ApplyMasksUDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context

NAMES = ("bright field", "dark field, {100}", "dark field, high angles", "right", "down", "left", "up")


def make_detectors(model: ScanModel) -> Any:
    """Return the detectors as a stack (n, y, x)."""
    (cy, cx), (height, width) = model.center, model.detector_shape
    disc, spacing = model.disc_radius, model.spacing
    _, phi = polar_map(cx, cy, width, height)
    # Quadrants around right, down, left and up.
    quadrant = np.floor((phi + np.pi / 4) / (np.pi / 2)).astype(int) % 4
    # They hold the rim of the disc: what leaves one enters the other.
    rim = ring(cx, cy, width, height, disc + 1.5, disc - 2.5)
    return np.stack(
        [
            circular(cx, cy, width, height, disc + 1),
            ring(cx, cy, width, height, spacing + disc, spacing - disc),
            ring(cx, cy, width, height, height / 2 - 1, 1.7 * spacing),
            *(rim & (quadrant == q) for q in range(4)),
        ]
    ).astype(np.float32)


class AnnularDetectors(ApplyMasksUDF):
    """All detectors, and the difference of opposite quadrants relative to their sum.

    Further result: ``difference`` (y, x), of nav shape, dimensionless.
    """

    def get_result_buffers(self) -> Any:
        difference = self.buffer(kind="nav", extra_shape=(2,), dtype=np.float64, use="result_only")
        return {**super().get_result_buffers(), "difference": difference}

    def get_results(self) -> Any:
        intensity = self.results.intensity
        right, down, left, up = np.moveaxis(intensity[:, 3:].astype(np.float64), -1, 0)
        total = np.maximum(right + down + left + up, 1e-9)
        return {"intensity": intensity, "difference": np.stack([down - up, right - left], axis=-1) / total[:, None]}


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    udf = AnnularDetectors(mask_factories=partial(make_detectors, model), mask_count=len(NAMES), mask_dtype=np.float32)
    result = ctx.run_udf(dataset=dataset, udf=udf)
    return {name: buffer.data for name, buffer in result.items()}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.0)
    axes = figure.subplots(1, 4)
    for i, name in enumerate(NAMES[:3]):
        picture(axes[i], results["intensity"][..., i], name, model, cmap="gray", bar=False)
    y, x = np.moveaxis(results["difference"] - results["difference"].mean(axis=(0, 1)), -1, 0)
    vectors(axes[3], y, x, "difference of quadrants", model)
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(48, 48), detector_shape=(96, 96), electrons=3e5, dead=0, hot=0), compute, draw)

if __name__ == "__main__":
    main("annular_detectors", EXAMPLE)
