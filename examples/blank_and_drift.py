"""Is the data good? Frames without beam are found, and the drift of the pattern during the scan is followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context


class WatchBeam(UDF):
    """Where the beam is, and whether there is one.

    Results: ``total`` and ``position`` (y, x in pixels) of the beam, of nav shape; ``blank``, bool of nav shape: the
    total is far below what is usual; ``drift``, one entry (y, x) per row of the scan: the median position relative to
    that of the first row. Positions of blank frames are not valid.

    Parameters
    ----------
    share
        Frames with less than this share of the median total are blank.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(share=share)

    def get_result_buffers(self) -> Any:
        rows = self.meta.dataset_shape.nav[0]
        return {
            "total": self.buffer(kind="nav", dtype=np.float64),
            "position": self.buffer(kind="nav", extra_shape=(2,), dtype=np.float64),
            "blank": self.buffer(kind="nav", dtype=bool, use="result_only"),
            "drift": self.buffer(kind="single", extra_shape=(rows, 2), dtype=np.float64, use="result_only"),
        }

    def process_frame(self, frame: Any) -> None:
        total = frame.sum(dtype=np.float64)
        self.results.total[:] = total
        # Only the beam itself, not what is scattered: pixels of at least a third of the brightest.
        bright = np.where(frame > frame.max() / 3, frame, 0).astype(np.float64)
        norm = max(bright.sum(), 1.0)
        y, x = np.arange(frame.shape[0]), np.arange(frame.shape[1])
        self.results.position[:] = (bright.sum(axis=1) @ y / norm, bright.sum(axis=0) @ x / norm)

    def get_results(self) -> Any:
        total, position = self.results.total, self.results.position
        nav = tuple(self.meta.dataset_shape.nav)
        done = self.meta.get_valid_nav_mask(full_nav=True)
        merged = np.ones(nav, dtype=bool) if done is None else done.reshape(nav)
        usual = np.median(total[merged.reshape(-1)]) if merged.any() else 0.0
        blank = total < self.params.share * usual
        good = merged & ~blank.reshape(nav)
        drift = np.full((nav[0], 2), np.nan)
        for row in np.flatnonzero(good.any(axis=1)):
            drift[row] = np.median(position.reshape((*nav, 2))[row][good[row]], axis=0)
        valid = np.broadcast_to(good.reshape(-1, 1), position.shape)
        return {
            "total": total,
            "position": self.with_mask(position, mask=valid),
            "blank": blank,
            "drift": drift - drift[0],
        }


def prepare(frames: Any) -> None:
    """Close the beam blanker for a while, and let the pattern drift."""
    rows = len(frames)
    for row in range(rows):
        shift = int(np.rint(3 * (row / rows) ** 2)), int(np.rint(-4 * row / rows))
        frames[row] = np.roll(frames[row], shift, axis=(1, 2))
    rng = np.random.default_rng(0)
    frames[13, 9:31] = rng.poisson(0.02, frames[13, 9:31].shape)
    frames[27, 22:] = rng.poisson(0.02, frames[27, 22:].shape)
    frames[28, :6] = rng.poisson(0.02, frames[28, :6].shape)


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    result = ctx.run_udf(dataset=dataset, udf=WatchBeam())
    position = np.where(result["position"].valid_mask, result["position"].data, np.nan)
    return {**{name: buffer.data for name, buffer in result.items()}, "position": position}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.4)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    picture(axes[0], results["total"] / 1e3, "electrons per frame (thousands)", model)
    picture(axes[1], results["position"][..., 1], "x of the beam; grey: blank", model, label="px")
    rows = np.arange(model.scan_shape[0])
    for i, (name, color) in enumerate((("y", "#31688e"), ("x", "#b5452c"))):
        axes[2].plot(rows, results["drift"][:, i], color=color, label=name)
    axes[2].set(xlabel="row of the scan", ylabel="px")
    axes[2].set_title("drift of the pattern", loc="left", fontsize=11)
    axes[2].legend(frameon=False)
    axes[2].grid(visible=True, color="0.9")
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(40, 40), detector_shape=(64, 64), dead=0, hot=0), compute, draw, prepare)

if __name__ == "__main__":
    main("blank_and_drift", EXAMPLE)
