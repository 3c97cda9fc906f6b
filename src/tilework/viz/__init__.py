"""Pictures of results: pixels for any front end, figures for files, live plots of a run.

::

    colors.py      directions as colours, values as colours; needs matplotlib only for its colour maps
    pixels.py      visualize_simple, rgb_from_2dvector, encode_image: arrays in, pixels out
    live.py        Live2DPlot: what every live plot does; Dummy2DPlot does nothing
    mpl.py         MPLLive2DPlot: with matplotlib
    bqp.py         BQLive2DPlot: with bqplot, in notebooks
    marks.py       scale bar and colour wheel
    figures.py     figures with titles, colour bars, scale bars and colour wheels

matplotlib is imported when it is needed. Figures are made without pyplot, so no global state is touched.
"""

from tilework.viz.colors import cyclic_colormap
from tilework.viz.live import Dummy2DPlot, Live2DPlot, get_plottable_2D_channels
from tilework.viz.pixels import auto_range, encode_image, rgb_from_2dvector, visualize_simple

__all__ = [
    "Dummy2DPlot",
    "Live2DPlot",
    "auto_range",
    "cyclic_colormap",
    "encode_image",
    "get_plottable_2D_channels",
    "rgb_from_2dvector",
    "visualize_simple",
]
