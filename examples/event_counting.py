"""Event counting: single electrons are counted where the detector's signal is above its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.udf.stddev import StdDevUDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context

# The simulated detector: counts per electron, offset and noise, and how evenly electrons deposit their energy.
GAIN, OFFSET, NOISE, SPREAD = 80.0, 40.0, 12.0, 0.25
THRESHOLD = 4 * NOISE


class CountEvents(UDF):
    """Count electrons.

    Results: ``events``, int64 of nav shape; ``pattern``, int64 of sig shape: electrons per pixel in all frames.

    Parameters
    ----------
    dark
        Mean signal of a pixel without electrons.
    gain
        Mean signal of one electron.
    threshold
        Signal above `dark` below which it is noise.
    """

    def __init__(self, dark: float, gain: float, threshold: float) -> None:
        super().__init__(dark=dark, gain=gain, threshold=threshold)

    def get_result_buffers(self) -> Any:
        return {
            "events": self.buffer(kind="nav", dtype=np.int64),
            "pattern": self.buffer(kind="sig", dtype=np.int64),
        }

    def process_tile(self, tile: Any) -> None:
        signal = tile - np.float32(self.params.dark)
        # Where several electrons have hit, their number is the next to the signal's.
        electrons = np.where(signal > self.params.threshold, np.maximum(np.rint(signal / self.params.gain), 1), 0)
        electrons = electrons.astype(np.int64)
        # A tile may be a part of its frames: the parts add up.
        self.results.events[:] += electrons.sum(axis=(1, 2))
        self.results.pattern[:] += electrons.sum(axis=0)

    def merge(self, dest: Any, src: Any) -> None:
        dest.events[:] = src.events
        dest.pattern[:] += src.pattern


def prepare(frames: Any) -> None:
    """Turn electrons into the signal of a detector, with its noise."""
    rng = np.random.default_rng(0)
    for row in frames:
        spread = SPREAD * GAIN * np.sqrt(row)
        signal = row * GAIN + OFFSET + rng.normal(size=row.shape) * np.hypot(spread, NOISE)
        row[:] = np.clip(np.rint(signal), 0, 65535)


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    # Two functions, one pass.
    counting, plain = ctx.run_udf(dataset=dataset, udf=[CountEvents(OFFSET, GAIN, THRESHOLD), StdDevUDF()])
    return {
        "events": counting["events"].data,
        "pattern": counting["pattern"].data,
        "summed": plain["sum"].data / GAIN - plain["num_frames"].data[0] * OFFSET / GAIN,
    }


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.3)
    axes = figure.subplots(1, 3)
    low, high = 3.0, float(results["pattern"].max())
    for place, name, title in ((axes[0], "summed", "signal, summed"), (axes[1], "pattern", "electrons, counted")):
        # The same colours for both.
        picture(place, np.clip(results[name], low, high), title, model, logarithmic=True, label="electrons")
    picture(axes[2], results["events"], "electrons per frame", model, cmap="gray")
    return figure


EXAMPLE = Example(
    ScanModel(scan_shape=(40, 40), detector_shape=(64, 64), electrons=120.0, dead=0, hot=0), compute, draw, prepare
)

if __name__ == "__main__":
    main("event_counting", EXAMPLE)
