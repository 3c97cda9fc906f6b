"""Radial profiles: the mean intensity of every frame as a function of the scattering angle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context


class RadialProfile(UDF):
    """Mean over rings one pixel wide.

    Results: ``profile``, of nav shape with ``bins`` entries; ``spread``, of sig shape: the sum over all frames of the
    squared deviations from the profile, which shows what is not isotropic.

    Parameters
    ----------
    center
        Centre (y, x) in pixels.
    bins
        Number of rings.
    """

    def __init__(self, center: Any, bins: int) -> None:
        super().__init__(center=center, bins=bins)

    def get_result_buffers(self) -> Any:
        return {
            "profile": self.buffer(kind="nav", extra_shape=(self.params.bins,), dtype=np.float64),
            "spread": self.buffer(kind="sig", dtype=np.float64),
        }

    def get_task_data(self) -> Any:
        (cy, cx), (height, width) = self.params.center, self.meta.dataset_shape.sig
        y, x = np.ogrid[:height, :width]
        # Beyond the last ring there is one more, for the corners.
        index = np.minimum(np.rint(np.hypot(y - cy, x - cx)).astype(int), self.params.bins)
        return {"index": index, "count": np.maximum(np.bincount(index.ravel(), minlength=self.params.bins + 1), 1)}

    def process_frame(self, frame: Any) -> None:
        index = self.task_data.index
        total = np.bincount(index.ravel(), weights=frame.ravel(), minlength=len(self.task_data.count))
        mean = total / self.task_data.count
        self.results.profile[:] = mean[:-1]
        self.results.spread[:] += (frame - mean[index]) ** 2

    def merge(self, dest: Any, src: Any) -> None:
        dest.profile[:] = src.profile
        dest.spread[:] += src.spread


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    result = ctx.run_udf(dataset=dataset, udf=RadialProfile(model.center, bins=min(model.detector_shape) // 2))
    return {name: buffer.data for name, buffer in result.items()}


def draw(results: Results, model: ScanModel) -> Any:
    profile = results["profile"]
    figure = new_figure(9.4, 3.4)
    axes = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    angle = np.arange(profile.shape[-1]) * model.pixel
    for name, where, color in (
        ("left grain", model.right_grain < 0.01, "#31688e"),
        ("right grain", model.right_grain > 0.99, "#b5452c"),
    ):
        axes[0].semilogy(angle, profile[where].mean(axis=0), color=color, label=name)
    ring = int(np.rint(model.spacing))
    axes[0].axvspan((ring - 1) * model.pixel, (ring + 1) * model.pixel, color="0.88", zorder=0)
    axes[0].set(xlabel="mrad", ylabel="mean electrons per pixel")
    axes[0].set_title("profiles", loc="left", fontsize=11)
    axes[0].legend(frameon=False)
    picture(axes[1], profile[..., ring - 1 : ring + 2].mean(axis=-1), "at {100}", model, label="electrons per pixel")
    picture(axes[2], results["spread"], "what is not isotropic", model, logarithmic=True, label="electrons²")
    return figure


EXAMPLE = Example(ScanModel(scan_shape=(40, 40), detector_shape=(64, 64), dead=0, hot=0), compute, draw)

if __name__ == "__main__":
    main("radial_profile", EXAMPLE)
