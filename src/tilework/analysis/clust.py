"""Regions of a scan with similar diffraction patterns."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.analysis.base import BaseAnalysis
from tilework.analysis.parameters import get_parameters, require_sig_2d
from tilework.analysis.results import real_result
from tilework.common.analysis import AnalysisResultSet
from tilework.common.mask_stacks import sparse_circular_multi_stack
from tilework.common.masks import check_radii, ring
from tilework.exceptions import TileworkError
from tilework.udf.masks import ApplyMasksUDF
from tilework.udf.stddev import StdDevUDF

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.analysis.base import RunUDF
    from tilework.analysis.results import Array, Damage

__all__ = ["ClusterAnalysis"]


class ClusterAnalysis(BaseAnalysis, id_="CLUST"):
    """Clusters of neighbouring positions with similar reflections.

    The detector pixels that vary most within a ring are found in the standard deviation over all (selected) frames;
    those that are NaN or infinite in a frame are left out. Their values in every frame (of complex data their sizes),
    each divided by its mean size over the frames, are the features that are clustered hierarchically by Ward's
    criterion (J. H. Ward, "Hierarchical grouping to optimize an objective function", Journal of the American
    Statistical Association 58, 236 (1963)), where only neighbouring positions may be joined.

    Result, int64 of nav shape: ``intensity``, the number of the cluster, from 1; 0 where no position is selected, or
    there is no frame. Needs the extra ``analysis``. Takes two passes over the data.

    Parameters
    ----------
    dataset
        What is evaluated; scan and detector have two axes.
    parameters
        ``cx``, ``cy``: centre of the ring in pixels; ``ri``, ``ro``: its radii in pixels; ``n_peaks``: how many
        peaks to take at most; ``min_dist``: their least distance in pixels, from each other and from the border of the
        detector; ``n_clust``: number of clusters.

    Examples
    --------
    A scan whose right half diffracts to another place:

    >>> data = np.random.default_rng(0).poisson(5, size=(8, 8, 16, 16)).astype("uint16")
    >>> data[:, :4, 8, 3] += 100
    >>> data[:, 4:, 3, 8] += 100
    >>> dataset = ctx.load("memory", data=data)
    >>> labels = ctx.run(ClusterAnalysis(dataset, {"n_peaks": 2, "n_clust": 2})).intensity.raw_data
    >>> [np.unique(half).size for half in (labels[:, :4], labels[:, 4:])], np.unique(labels)
    ([1, 1], array([1, 2]))
    """

    def get_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters."""
        height, width = require_sig_2d("ClusterAnalysis", self.dataset)
        nav = tuple(self.dataset.shape.nav)
        if len(nav) != 2:
            msg = f"incompatible dataset: ClusterAnalysis needs two navigation dimensions, the scan has the shape {nav}"
            raise ValueError(msg)
        radius = min(height, width) / 2
        defaults = {
            "cx": width / 2,
            "cy": height / 2,
            "ri": 0.2 * radius,
            "ro": radius,
            "n_peaks": 42,
            "min_dist": 1.0,
            "n_clust": 7,
        }
        params = get_parameters("ClusterAnalysis", parameters, defaults)
        check_radii(ri=params["ri"], ro=params["ro"])
        return params

    def get_udf(self) -> StdDevUDF:
        """Return the UDF of the first pass."""
        return StdDevUDF()

    def compute(self, run_udf: RunUDF, roi: Any, damage: Damage) -> AnalysisResultSet:
        """Find peaks, take their values in every frame, and cluster."""
        _require_extra()
        self._check_count(int(np.count_nonzero(self._clustered(roi, damage))))
        peaks = self.find_peaks(run_udf(self.get_udf(), roi)["std"].data)
        return self.get_udf_results(run_udf(self.get_feature_udf(peaks), roi), roi, damage)

    def find_peaks(self, std: Array) -> Array:
        """Return the detector pixels that vary most, int64 (n, 2) of (y, x), the strongest first.

        Parameters
        ----------
        std
            Standard deviation of each detector pixel, (y, x).

        Raises
        ------
        ValueError
            When there is no peak within the ring, or nothing in it is finite.
        """
        # Taken by name: the library has no types.
        feature: Any = importlib.import_module("skimage.feature")
        params, (height, width) = self.parameters, std.shape
        selected = ring(params["cx"], params["cy"], width, height, params["ro"], params["ri"])
        usable = selected & np.isfinite(std)
        if selected.any() and not usable.any():
            msg = (
                "every pixel of the ring is NaN or infinite in one or more of the frames: select others with a roi, or"
                " give such pixels as excluded_pixels of the corrections"
            )
            raise ValueError(msg)
        peaks = feature.peak_local_max(
            np.where(usable, std, 0),
            min_distance=int(params["min_dist"]),
            num_peaks=int(params["n_peaks"]),
            exclude_border=True,
        )
        if not len(peaks):
            msg = (
                f"no peak of the standard deviation is within the ring around (y, x) = ({params['cy']}, {params['cx']})"
                f" from {params['ri']} to {params['ro']} pixels: choose another ring"
            )
            raise ValueError(msg)
        return np.asarray(peaks, dtype=np.int64)

    def get_feature_udf(self, peaks: Array) -> ApplyMasksUDF:
        """Return the UDF of the second pass: the value of each peak."""
        height, width = self.dataset.shape.sig
        stack = partial(
            sparse_circular_multi_stack, np.arange(len(peaks)), peaks[:, 1], peaks[:, 0], width, height, radius=0
        )
        return ApplyMasksUDF(
            mask_factories=stack, mask_count=len(peaks), mask_dtype=np.float32, use_sparse="scipy.sparse"
        )

    def get_udf_results(self, udf_results: Mapping[str, Any], roi: Any, damage: Damage) -> AnalysisResultSet:
        """Cluster the features, the results of `get_feature_udf`."""
        features = udf_results["intensity"].raw_data.astype(np.result_type(udf_results["intensity"].dtype, "f8"))
        if features.dtype.kind == "c":
            features = np.abs(features)
        clustered = self._clustered(roi, damage)
        labels = np.zeros(clustered.shape, dtype=np.int64)
        labels[clustered] = self._cluster(features[clustered[self._clustered(roi, True)]], clustered)
        colors: dict[str, Any] = {"colormap": "tab20", "vmin": 0, "vmax": 20}
        result = real_result(labels, "intensity", "Labels for the clustering", "intensity", damage, **colors)
        return AnalysisResultSet([result])

    def _clustered(self, roi: Any, damage: Damage) -> Array:
        """Return which positions are selected and have a frame, bool of the shape of the scan."""
        nav = tuple(self.dataset.shape.nav)
        selected = np.ones(nav, dtype=bool) if roi is None else roi.reshape(nav)
        return np.asarray(selected & damage)

    def _check_count(self, positions: int) -> None:
        clusters = int(self.parameters["n_clust"])
        if positions < 2:
            msg = (
                f"clusters are made of two or more selected positions with a frame, there are {positions}: select more"
            )
            raise ValueError(msg)
        if not 1 <= clusters <= positions:
            msg = f"n_clust={clusters}: between 1 and {positions} clusters can be made of the selected positions"
            raise ValueError(msg)

    def _cluster(self, features: Array, positions: Array) -> Array:
        from sklearn.cluster import AgglomerativeClustering
        from sklearn.feature_extraction.image import grid_to_graph

        size = np.abs(features).mean(axis=0)
        scaled = features / np.where(size > 0, size, 1)
        neighbours = grid_to_graph(*positions.shape, mask=positions)
        made = AgglomerativeClustering(
            n_clusters=int(self.parameters["n_clust"]), linkage="ward", connectivity=neighbours
        )
        return np.asarray(made.fit_predict(scaled) + 1, dtype=np.int64)


def _require_extra() -> None:
    try:
        import skimage.feature  # noqa: F401
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        msg = f"clustering needs libraries that are not installed ({error}): pip install 'tilework[analysis]'"
        raise TileworkError(msg) from error
