"""Where the beam is: the central disc of every frame is found by cross-correlation, to a fraction of a pixel.

This is what ptychography needs of each frame before it can start, and a measure of fields that reflections do not bend.
The correlation is evaluated between the pixels as described in M. Guizar-Sicairos et al., "Efficient subpixel image
registration algorithms", Optics Letters 33, 156 (2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture, vectors
from tilework.masks import circular
from tilework.udf import UDF
from tilework.udf.sum import SumUDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context


class FindDisc(UDF):
    """Shift of the frame against a template.

    Results of nav shape: ``shift`` (y, x) in pixels; ``quality``, the height of the peak of the correlation, in units
    of that of the template with itself.

    Parameters
    ----------
    template
        What to look for, float of sig shape.
    reach
        The largest shift, in pixels.
    """

    def __init__(self, template: Any, reach: int) -> None:
        super().__init__(template=template, reach=reach)

    def get_result_buffers(self) -> Any:
        return {
            "shift": self.buffer(kind="nav", extra_shape=(2,), dtype=np.float64),
            "quality": self.buffer(kind="nav", dtype=np.float64),
        }

    def get_task_data(self) -> Any:
        template = self.params.template
        height, width = template.shape
        return {
            "spectrum": np.conj(np.fft.fft2(template)),
            "norm": np.sum(template**2),
            "frequencies": (np.fft.fftfreq(height), np.fft.fftfreq(width)),
        }

    def correlate(self, spectrum: Any, y: Any, x: Any) -> Any:
        """Return the correlation at all shifts `y` times all shifts `x`, in pixels, whole or not."""
        fy, fx = self.task_data.frequencies
        along_y = np.exp(2j * np.pi * np.multiply.outer(y, fy))
        along_x = np.exp(2j * np.pi * np.multiply.outer(fx, x))
        return (along_y @ spectrum @ along_x).real / spectrum.size

    def process_frame(self, frame: Any) -> None:
        spectrum = np.fft.fft2(frame) * self.task_data.spectrum
        y = x = np.arange(-self.params.reach, self.params.reach + 1.0)
        # First to whole pixels, then to a twentieth, then to the vertex of a parabola.
        for fine in (np.arange(-20, 21) / 20, None):
            correlation = self.correlate(spectrum, y, x)
            row, col = np.unravel_index(correlation.argmax(), correlation.shape)
            if fine is not None:
                y, x = y[row] + fine, x[col] + fine
        row, col = (min(max(int(i), 1), len(y) - 2) for i in (row, col))
        step = y[1] - y[0]
        self.results.shift[:] = (
            y[row] + step * vertex(correlation[row - 1 : row + 2, col]),
            x[col] + step * vertex(correlation[row, col - 1 : col + 2]),
        )
        self.results.quality[:] = correlation[row, col] / self.task_data.norm


def vertex(values: Any) -> float:
    """Return where the parabola through three equidistant values has its vertex, relative to the middle one."""
    low, middle, high = (float(v) for v in values)
    curvature = low - 2 * middle + high
    return 0.0 if curvature == 0 else (low - high) / (2 * curvature)


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    (cy, cx), (height, width) = model.center, model.detector_shape
    mean = ctx.run_udf(dataset=dataset, udf=SumUDF(dtype="float64"))["intensity"].data / np.prod(model.scan_shape)
    # The mean frame, around the central disc, is what the disc looks like.
    template = mean * circular(cx, cy, width, height, model.disc_radius + 1)
    result = ctx.run_udf(dataset=dataset, udf=FindDisc(template, reach=3))
    return {name: buffer.data for name, buffer in result.items()}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.3)
    axes = figure.subplots(1, 3)
    shift = results["shift"] - results["shift"].mean(axis=(0, 1))
    vmax = float(np.hypot(*np.moveaxis(model.shift, -1, 0)).max())
    vectors(axes[0], shift[..., 0], shift[..., 1], "shift of the disc", model, units="px", vmax=vmax)
    vectors(axes[1], model.shift[..., 0], model.shift[..., 1], "what was simulated", model, units="px", vmax=vmax)
    picture(axes[2], results["quality"], "height of the peak", model, cmap="magma")
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(40, 40), detector_shape=(96, 96), electrons=3e5, dead=0, hot=0), compute, draw)

if __name__ == "__main__":
    main("cross_correlation", EXAMPLE)
