"""Analyses: common evaluations with sensible parameters, whose results come with titles and pictures.

::

    base.py              Analysis: parameters, one pass or several, results; the registry of analyses by name
    results.py           results from arrays, with their pictures
    getroi.py            regions of interest; parameters.py: parameters with defaults
    masks.py             any masks; disk.py, ring.py, point.py: virtual detectors
    com.py               centre of mass as a vector field
    radialfourier.py     symmetries of rings
    sum.py, sd.py, raw.py, sumsig.py       sum, deviation, single frames, sum of each frame
    sumfft.py, rawfft.py, apply_fft_mask.py, fem.py, clust.py    for finding order; fourier.py: transforms of frames
    saving.py            results in files

An analysis is run with `tilework.api.Context.run`. All are imported with this package, so that all are in the registry.
"""

from tilework.analysis.apply_fft_mask import ApplyFFTMask
from tilework.analysis.base import Analysis, BaseAnalysis
from tilework.analysis.clust import ClusterAnalysis
from tilework.analysis.com import COMAnalysis, COMResultSet
from tilework.analysis.disk import DiskMaskAnalysis
from tilework.analysis.fem import FEMAnalysis
from tilework.analysis.getroi import get_roi
from tilework.analysis.masks import MasksAnalysis, MasksResultSet, SingleMaskResultSet
from tilework.analysis.point import PointMaskAnalysis
from tilework.analysis.radialfourier import RadialFourierAnalysis, RadialFourierResultSet
from tilework.analysis.raw import PickFrameAnalysis
from tilework.analysis.rawfft import PickFFTFrameAnalysis
from tilework.analysis.ring import RingMaskAnalysis
from tilework.analysis.sd import SDAnalysis
from tilework.analysis.sum import SumAnalysis, SumResultSet
from tilework.analysis.sumfft import SumfftAnalysis
from tilework.analysis.sumsig import SumSigAnalysis
from tilework.common.analysis import AnalysisResult, AnalysisResultSet

__all__ = [
    "Analysis",
    "AnalysisResult",
    "AnalysisResultSet",
    "ApplyFFTMask",
    "BaseAnalysis",
    "COMAnalysis",
    "COMResultSet",
    "ClusterAnalysis",
    "DiskMaskAnalysis",
    "FEMAnalysis",
    "MasksAnalysis",
    "MasksResultSet",
    "PickFFTFrameAnalysis",
    "PickFrameAnalysis",
    "PointMaskAnalysis",
    "RadialFourierAnalysis",
    "RadialFourierResultSet",
    "RingMaskAnalysis",
    "SDAnalysis",
    "SingleMaskResultSet",
    "SumAnalysis",
    "SumResultSet",
    "SumSigAnalysis",
    "SumfftAnalysis",
    "get_roi",
]
