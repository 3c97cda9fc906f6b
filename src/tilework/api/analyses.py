"""The analyses of a `Context`: made with sensible parameters, and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from tilework.analysis import (
        Analysis,
        AnalysisResultSet,
        COMAnalysis,
        DiskMaskAnalysis,
        MasksAnalysis,
        PickFrameAnalysis,
        PointMaskAnalysis,
        RadialFourierAnalysis,
        RingMaskAnalysis,
        SumAnalysis,
    )
    from tilework.common.container import MaskFactories, SparseFormat
    from tilework.common.progress import ProgressReporter
    from tilework.common.roi import RoiT
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

__all__ = ["Analyses"]


class Analyses:
    """What `tilework.api.Context` does with analyses.

    The analyses themselves are in `tilework.analysis`, with all their parameters and results. They are imported when
    one is made.
    """

    # What `Context` has.
    run_udf: Any

    def run(
        self,
        job: Analysis,
        roi: RoiT = None,
        progress: bool | ProgressReporter = False,
        corrections: CorrectionSet | None = None,
    ) -> AnalysisResultSet:
        """Run an analysis and return its results.

        Parameters
        ----------
        job
            The analysis, made with one of the ``create_…_analysis``, or one of `tilework.analysis`.
        roi
            Selected scan positions, as of `run_udf`; None: those that the analysis says, usually all.
        progress, corrections
            As of `run_udf`.

        Raises
        ------
        TypeError
            When `job` is no analysis.

        Examples
        --------
        >>> import numpy as np
        >>> from tilework.api import Context
        >>> with Context.make_with("inline") as ctx:
        ...     ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype=np.uint16))
        ...     result = ctx.run(ctx.create_disk_analysis(dataset=ds, r=2))
        >>> result.intensity.raw_data[0, 0]
        np.float32(13.0)
        >>> result.intensity.visualized.shape
        (4, 4, 4)
        """
        from tilework.analysis.results import positions_with_values
        from tilework.common.roi import normalize_roi

        _check_analysis(job)
        if roi is None:
            roi = job.get_roi()
        dataset = job.dataset
        selected = None if roi is None else normalize_roi(roi, tuple(dataset.shape.nav))

        def run_udf(udf: UDF, chosen: Any) -> Mapping[str, Any]:
            results: Mapping[str, Any] = self.run_udf(
                dataset=dataset, udf=udf, roi=chosen, progress=progress, corrections=corrections
            )
            return results

        return job.evaluate(run_udf, selected, positions_with_values(dataset, selected))

    def create_mask_analysis(
        self,
        factories: MaskFactories,
        dataset: DataSet,
        use_sparse: bool | SparseFormat | None = None,
        mask_count: int | None = None,
        mask_dtype: DTypeLike | None = None,
        dtype: DTypeLike | None = None,
    ) -> MasksAnalysis:
        """Make an analysis with any masks: `MasksAnalysis`.

        Parameters
        ----------
        factories
            A function that returns all masks as a stack, or a list of functions that return one each.
        dataset
            What is evaluated.
        use_sparse, mask_count, mask_dtype
            See `tilework.udf.masks.ApplyMasksUDF`.
        dtype
            dtype to compute in; None: float32, or more where the data needs it.

        Examples
        --------
        >>> analysis = ctx.create_mask_analysis(factories=[lambda: np.ones((32, 32))], dataset=ds)
        >>> ctx.run(analysis).mask_0.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import MasksAnalysis

        params = {
            "factories": factories,
            "use_sparse": use_sparse,
            "mask_count": mask_count,
            "mask_dtype": mask_dtype,
            "dtype": dtype,
        }
        return MasksAnalysis(dataset=dataset, parameters=params)

    def create_com_analysis(
        self,
        dataset: DataSet,
        cx: float | None = None,
        cy: float | None = None,
        mask_radius: float | None = None,
        flip_y: bool = False,
        mask_radius_inner: float | None = None,
        scan_rotation: float = 0.0,
    ) -> COMAnalysis:
        """Make an analysis of the centre of mass: `COMAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; scan and detector have two axes.
        cx, cy
            Centre in pixels; None: that of the detector.
        mask_radius, mask_radius_inner
            Radii in pixels between which pixels count; None: all.
        flip_y
            Whether y of the detector is flipped.
        scan_rotation
            Angle in degrees by which shifts are rotated to be in scan coordinates.

        Raises
        ------
        ValueError
            When scan or detector do not have two axes, an inner radius comes without an outer one or is not smaller, or
            a parameter is not of its kind.

        Examples
        --------
        >>> result = ctx.run(ctx.create_com_analysis(dataset=ds, cx=16, cy=16, mask_radius=12))
        >>> result.magnitude.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import COMAnalysis

        if mask_radius_inner is not None and mask_radius is None:
            msg = "incompatible parameters: mask_radius_inner needs mask_radius, the outer radius of the ring, as well"
            raise ValueError(msg)
        params = {
            "cx": cx,
            "cy": cy,
            "r": mask_radius,
            "ri": mask_radius_inner,
            "flip_y": flip_y,
            "scan_rotation": scan_rotation,
        }
        return COMAnalysis(dataset=dataset, parameters=params)

    def create_radial_fourier_analysis(
        self,
        dataset: DataSet,
        cx: float | None = None,
        cy: float | None = None,
        ri: float | None = None,
        ro: float | None = None,
        n_bins: int | None = None,
        max_order: int | None = None,
        use_sparse: bool | SparseFormat | None = None,
    ) -> RadialFourierAnalysis:
        """Make an analysis of the symmetries of rings: `RadialFourierAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; its detector has two axes.
        cx, cy
            Centre in pixels; None: that of the detector.
        ri, ro
            Radii in pixels; None: 0, and the whole detector.
        n_bins
            Number of rings between them; None: 1.
        max_order
            Highest order; None: 24.
        use_sparse
            Whether to use sparse masks; None: where that is faster.

        Raises
        ------
        ValueError
            When the detector has not two axes, or `ri` is larger than `ro`.

        Examples
        --------
        >>> analysis = ctx.create_radial_fourier_analysis(dataset=ds, cx=16, cy=16, ri=4, ro=12, n_bins=1, max_order=6)
        >>> ctx.run(analysis).complex_0_6.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import RadialFourierAnalysis

        params = {
            "cx": cx, "cy": cy, "ri": ri, "ro": ro, "n_bins": n_bins, "max_order": max_order, "use_sparse": use_sparse,
        }  # fmt: skip
        return RadialFourierAnalysis(dataset=dataset, parameters=params)

    def create_disk_analysis(
        self, dataset: DataSet, cx: float | None = None, cy: float | None = None, r: float | None = None
    ) -> DiskMaskAnalysis:
        """Make a virtual detector that is a disk: `DiskMaskAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; its detector has two axes.
        cx, cy
            Centre in pixels; None: that of the detector.
        r
            Radius in pixels; None: 0.3 times half the smaller size of the detector.

        Raises
        ------
        ValueError
            When the detector has not two axes, or `r` is not a number, or negative.

        Examples
        --------
        >>> ctx.run(ctx.create_disk_analysis(dataset=ds, cx=16, cy=16, r=5)).intensity.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import DiskMaskAnalysis

        return DiskMaskAnalysis(dataset=dataset, parameters={"cx": cx, "cy": cy, "r": r})

    def create_ring_analysis(
        self,
        dataset: DataSet,
        cx: float | None = None,
        cy: float | None = None,
        ri: float | None = None,
        ro: float | None = None,
    ) -> RingMaskAnalysis:
        """Make a virtual detector that is a ring: `RingMaskAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; its detector has two axes.
        cx, cy
            Centre in pixels; None: that of the detector.
        ri, ro
            Radii in pixels; None: 0.8 times the outer one, and half the smaller size of the detector.

        Raises
        ------
        ValueError
            When the detector has not two axes, or `ri` is not smaller than `ro`.

        Examples
        --------
        >>> ctx.run(ctx.create_ring_analysis(dataset=ds, cx=16, cy=16, ri=5, ro=12)).intensity.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import RingMaskAnalysis

        return RingMaskAnalysis(dataset=dataset, parameters={"cx": cx, "cy": cy, "ri": ri, "ro": ro})

    def create_point_analysis(
        self, dataset: DataSet, x: float | None = None, y: float | None = None
    ) -> PointMaskAnalysis:
        """Make a virtual detector that is one pixel: `PointMaskAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; its scan has at most two axes, its detector two.
        x, y
            The pixel; None: the centre of the detector.

        Raises
        ------
        ValueError
            When the axes are others, or the pixel is not on the detector.

        Examples
        --------
        >>> ctx.run(ctx.create_point_analysis(dataset=ds, x=16, y=16)).intensity.raw_data.shape
        (6, 8)
        """
        from tilework.analysis import PointMaskAnalysis

        return PointMaskAnalysis(dataset=dataset, parameters={"cx": x, "cy": y})

    def create_sum_analysis(self, dataset: DataSet) -> SumAnalysis:
        """Make an analysis that sums all frames: `SumAnalysis`.

        Examples
        --------
        >>> ctx.run(ctx.create_sum_analysis(dataset=ds)).intensity.raw_data.shape
        (32, 32)
        """
        from tilework.analysis import SumAnalysis

        return SumAnalysis(dataset=dataset, parameters={})

    def create_pick_analysis(
        self, dataset: DataSet, x: int, y: int | None = None, z: int | None = None
    ) -> PickFrameAnalysis:
        """Make an analysis that loads one frame: `PickFrameAnalysis`.

        Parameters
        ----------
        dataset
            What is evaluated; its scan has one to three axes.
        x, y, z
            Position in the scan, as many as it has axes; x is the last axis.

        Raises
        ------
        ValueError
            When there are too many or too few of them, or they are not within the scan.

        Examples
        --------
        >>> ctx.run(ctx.create_pick_analysis(dataset=ds, x=3, y=2)).intensity.raw_data.shape
        (32, 32)
        """
        from tilework.analysis import PickFrameAnalysis

        return PickFrameAnalysis(dataset=dataset, parameters={"x": x, "y": y, "z": z})


def _check_analysis(job: Any) -> None:
    """Raise TypeError when it is something else than an analysis."""
    from tilework.analysis.base import Analysis

    if not isinstance(job, Analysis):
        msg = (
            f"run() takes an analysis, as create_sum_analysis() makes one, not {job!r}: "
            "functions (UDFs) are run with run_udf()"
        )
        raise TypeError(msg)
