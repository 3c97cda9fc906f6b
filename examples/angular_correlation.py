"""Angular correlation: how a ring of every pattern agrees with itself, turned by all angles.

P. Wochner et al., "X-ray cross correlation analysis uncovers hidden local symmetries in disordered matter", PNAS 106,
11511 (2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context

STEPS = 180


class AngularCorrelation(UDF):
    """Correlation of a ring with itself over the angle.

    Results of nav shape: ``correlation``, ``STEPS`` values for a turn, relative to the square of the mean; ``strength``
    of the fourfold symmetry, the share of the variation along the ring that it makes; ``angle`` of its maxima in
    degrees, 0 to 90, clockwise from the right.

    Parameters
    ----------
    center
        Centre (y, x) in pixels.
    radii
        Of the ring in pixels, each one sample.
    """

    def __init__(self, center: Any, radii: Any) -> None:
        super().__init__(center=center, radii=radii)

    def get_result_buffers(self) -> Any:
        return {
            "correlation": self.buffer(kind="nav", extra_shape=(STEPS,), dtype=np.float64),
            "strength": self.buffer(kind="nav", dtype=np.float64),
            "angle": self.buffer(kind="nav", dtype=np.float64),
        }

    def get_task_data(self) -> Any:
        angle = np.arange(STEPS) * 2 * np.pi / STEPS
        y = self.params.center[0] + np.multiply.outer(self.params.radii, np.sin(angle))
        x = self.params.center[1] + np.multiply.outer(self.params.radii, np.cos(angle))
        # Bilinear interpolation: four neighbours, and their weights.
        y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
        fy, fx = y - y0, x - x0
        corners = ((0, 0, (1 - fy) * (1 - fx)), (0, 1, (1 - fy) * fx), (1, 0, fy * (1 - fx)), (1, 1, fy * fx))
        return {"corners": [(y0 + dy, x0 + dx, weight) for dy, dx, weight in corners]}

    def process_frame(self, frame: Any) -> None:
        samples = sum(frame[y, x] * weight for y, x, weight in self.task_data.corners)
        along = np.sum(samples, axis=0)
        spectrum = np.fft.rfft(along)
        power = np.abs(spectrum) ** 2
        correlation = np.fft.irfft(power, n=STEPS) / STEPS
        self.results.correlation[:] = correlation / along.mean() ** 2 - 1
        self.results.strength[:] = power[4:61:4].sum() / power[1:].sum()
        self.results.angle[:] = np.rad2deg(-np.angle(spectrum[4])) / 4 % 90


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    # All of the discs of {100}.
    radii = model.spacing + np.arange(-model.disc_radius, model.disc_radius + 1)
    result = ctx.run_udf(dataset=dataset, udf=AngularCorrelation(model.center, radii))
    return {name: buffer.data for name, buffer in result.items()}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.4)
    axes = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    lag = np.arange(STEPS) * 360 / STEPS
    for name, where, color in (
        ("in the grains", np.abs(model.right_grain - 0.5) > 0.49, "#31688e"),
        ("at the boundary", np.abs(model.right_grain - 0.5) < 0.3, "#b5452c"),
    ):
        axes[0].plot(lag, results["correlation"][where].mean(axis=0), color=color, label=name)
    axes[0].set(xlabel="turned by (degrees)", xticks=range(0, 361, 90), xlim=(0, 360))
    axes[0].set_title("correlation", loc="left", fontsize=11)
    axes[0].margins(y=0.3)
    axes[0].legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    axes[0].grid(visible=True, color="0.9")
    picture(axes[1], results["strength"], "fourfold share", model, cmap="magma")
    picture(axes[2], results["angle"], "angle of {100}", model, label="degrees")
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(40, 40), detector_shape=(80, 80), dead=0, hot=0), compute, draw)

if __name__ == "__main__":
    main("angular_correlation", EXAMPLE)
