"""Lattice rotation and strain: the reflections of every frame are tracked, and a lattice is fitted to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulated import Example, Results, main, new_figure, picture
from tilework.udf import UDF
from tilework.utils.simulate import ScanModel

if TYPE_CHECKING:
    from tilework.api import Context

# The reflections that are tracked.
ORDERS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)])


class TrackLattice(UDF):
    """Fit a lattice to each frame, relative to the best of some candidates.

    Results of nav shape: ``rotation`` of the lattice in degrees, ``dilation`` and ``shear``, parts of the strain
    (dimensionless), ``candidate``, the lattice with the strongest reflections.

    Parameters
    ----------
    center
        Of the pattern (y, x), in pixels.
    lattices
        Candidates (n, 2, 2): the vectors of the reflections (1, 0) and (0, 1), each (y, x), in pixels.
    radius
        Of the window around each reflection, in pixels.
    """

    def __init__(self, center: Any, lattices: Any, radius: int) -> None:
        super().__init__(center=center, lattices=lattices, radius=radius)

    def get_result_buffers(self) -> Any:
        return {
            "rotation": self.buffer(kind="nav", dtype=np.float64),
            "dilation": self.buffer(kind="nav", dtype=np.float64),
            "shear": self.buffer(kind="nav", dtype=np.float64),
            "candidate": self.buffer(kind="nav", dtype=np.int64),
        }

    def get_task_data(self) -> Any:
        radius = self.params.radius
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        return {"offsets": np.stack([y, x], axis=-1), "disc": np.hypot(y, x) <= radius}

    def track(self, frame: Any, lattice: Any) -> tuple[Any, Any]:
        """Return the centres (n, 2) of the reflections relative to that of the pattern, and their intensities (n,)."""
        offsets, disc = self.task_data.offsets, self.task_data.disc
        corners = np.rint(self.params.center + ORDERS @ lattice).astype(int)
        y, x = np.moveaxis(corners[:, None, None, :] + offsets, -1, 0)
        windows = frame[y, x] * disc
        # What is between the reflections does not belong to them.
        windows = np.maximum(windows - np.median(frame), 0) * disc
        total = windows.sum(axis=(1, 2))
        # The shape of a disc says where it is; its intensity changes from one side to the other with the tilt.
        shapes = windows > 0.15 * windows.max(axis=(1, 2), keepdims=True)
        centers = np.einsum("nij,ijc->nc", shapes, offsets) / np.maximum(shapes.sum(axis=(1, 2)), 1)[:, None]
        return centers + corners - self.params.center, total

    def process_frame(self, frame: Any) -> None:
        tracked = [self.track(frame, lattice) for lattice in self.params.lattices]
        best = int(np.argmax([total.sum() for _, total in tracked]))
        positions, weights = tracked[best]
        weight = np.sqrt(weights)[:, None]
        # Positions are the orders times the lattice, and a common shift.
        known = np.concatenate([ORDERS @ self.params.lattices[best], np.ones((len(ORDERS), 1))], axis=1)
        deformation = np.linalg.lstsq(known * weight, positions * weight, rcond=None)[0][:2]
        # The polar decomposition: first a rotation, then a stretch.
        u, s, vt = np.linalg.svd(deformation)
        rotation, stretch = u @ vt, vt.T @ np.diag(s) @ vt
        base = self.params.lattices[best][0] @ rotation
        self.results.rotation[:] = np.rad2deg(np.arctan2(base[0], base[1]))
        # In reciprocal space, a larger lattice has smaller vectors.
        self.results.dilation[:] = 1 - (stretch[0, 0] + stretch[1, 1]) / 2
        self.results.shear[:] = -stretch[0, 1]
        self.results.candidate[:] = best


def compute(ctx: Context, dataset: Any, model: ScanModel) -> Results:
    center = np.array(model.center)
    lattices = np.array([[np.subtract(model.reflection(g, *hk), center) for hk in ((1, 0), (0, 1))] for g in (0, 1)])
    result = ctx.run_udf(dataset=dataset, udf=TrackLattice(center, lattices, radius=5))
    return {name: buffer.data for name, buffer in result.items()}


def draw(results: Results, model: ScanModel) -> Any:
    figure = new_figure(9.4, 3.5)
    axes = figure.subplots(1, 3)
    picture(axes[0], results["rotation"], "rotation of the lattice", model, label="degrees")
    picture(axes[1], results["dilation"] * 100, "dilation", model, label="%", symmetric=True)
    picture(axes[2], results["shear"] * 100, "shear", model, label="%", symmetric=True)
    return figure


# A thin specimen: in a thick one, only a part of each disc is bright, and the lattice seems to be strained.
MODEL = ScanModel(scan_shape=(40, 40), detector_shape=(96, 96), thickness=12.0, electrons=1e6, dead=0, hot=0)
EXAMPLE = Example(MODEL, compute, draw)

if __name__ == "__main__":
    main("strain", EXAMPLE)
