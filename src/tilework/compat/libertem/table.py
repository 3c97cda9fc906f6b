"""What LiberTEM's dotted paths are with us, as far as they differ: the only place that says so."""

from __future__ import annotations

from typing import Final

__all__ = ["ABSENT", "FORMATS", "MOVED", "VERSIONS"]

VERSIONS: Final = {"libertem": "0.16.0", "libertem_live": "0.3.0"}
"""The packages, and the version whose names are followed: what their ``__version__`` says."""


def _from(module: str, *names: str) -> dict[str, str]:
    return {name: f"tilework.{module}:{name}" for name in names}


_UDF_EXCEPTIONS: Final = _from("exceptions", "ExecutorSpecException", "UDFException", "UDFRunCancelled")
_CYCLIC: Final = {"libertem_cyclic": "tilework.viz.colors:cyclic_colormap()"}
_CORRECTION_ERRORS: Final = _from("exceptions", "CorrectError", "RepairValueError")
_ASYNC: Final = _from(
    "common.async_utils",
    "AsyncGenToQueueThread",
    "MyStopIteration",
    "SyncGenToQueueThread",
    "adjust_event_loop_policy",
    "async_generator",
    "async_generator_eager",
    "async_to_sync_generator",
    "run_agen_get_last",
    "run_gen_get_last",
    "sync_to_async",
)
_TILING: Final = _from("io.dataset.tiling_scheme", "TilingScheme") | _from("io.dataset.tiling", "Negotiator")
_BACKENDS: Final = _from("compat.libertem.backends", "BufferedBackend", "DirectBackend", "MMapBackend")
_COORDINATES: Final = _from("compat.libertem.coordinates", "get_coordinates")
_PARTITION: Final = {"BasePartition": "tilework.io.dataset.partition:Partition"}

MOVED: Final[dict[str, dict[str, str]]] = {
    "libertem.analysis.helper": {},  # whose names write notebooks, which we do not
    "libertem.common.exceptions": _UDF_EXCEPTIONS,
    "libertem.common.numba": _from("compat.libertem.compiled", "cached_njit", "numba_dtypes", "rmatmul"),
    "libertem.corrections.corrset": _from("io.corrections.corrset", "CorrectionSet"),
    "libertem.executor.base": _from("exceptions", "ResourceError"),
    "libertem.executor.pipelined": _from("executor.pipelined.selection", "WorkerSelector"),
    "libertem.executor.utils.dask_buffer": (
        _from("common.dask_buffers", "DaskBufferWrapper") | _from("udf.delayed_results", "DaskResultBufferWrapper")
    ),
    "libertem.io.corrections.detector": _CORRECTION_ERRORS,
    "libertem.io.dataset": _from("io.dataset.registry", "build_extension_map"),
    "libertem.io.dataset.base": _TILING | _BACKENDS | _PARTITION | _COORDINATES,
    "libertem.io.dataset.base.backend_buffered": _from("compat.libertem.backends", "BufferedBackend"),
    "libertem.io.dataset.base.backend_direct": _from("compat.libertem.backends", "DirectBackend"),
    "libertem.io.dataset.base.backend_mmap": _from("compat.libertem.backends", "MMapBackend"),
    "libertem.io.dataset.base.coordinates": _COORDINATES,
    "libertem.io.dataset.base.dataset": _from("io.dataset.base", "DataSet"),
    "libertem.io.dataset.base.exceptions": _from("exceptions", "DataSetException"),
    "libertem.io.dataset.base.meta": _from("io.dataset.meta", "DataSetMeta"),
    "libertem.io.dataset.base.partition": _PARTITION | _from("io.dataset.partition", "Partition"),
    "libertem.io.dataset.base.tiling": _from("io.dataset.tile", "DataTile"),
    "libertem.io.dataset.base.tiling_scheme": _TILING,
    "libertem.preload": {},  # workers load what tasks need by themselves
    "libertem.udf.base": (
        _from("common.udf", "TilingPreferences", "UDFMethod")
        | _from("io.dataset.tile", "DataTile")
        | _from("udf.runner", "ResultsForDataSet")
        | _from("udf.tile_forms", "TileConverter")
        | {"UDFResultDict": "tilework.udf.results:RunResult"}
    ),
    "libertem.utils.async_utils": _ASYNC,
    "libertem.viz": _CYCLIC,
    "libertem.viz.base": (
        _from("viz.live", "Dummy2DPlot", "Live2DPlot", "get_plottable_2D_channels")
        | _from("viz.pixels", "encode_image", "rgb_from_2dvector", "visualize_simple")
        | _CYCLIC
    ),
    "libertem.warnings": _from("udf.data", "UseDiscouragedWarning"),
    "libertem_live.udf.monitor": _from("udf.monitor", "PartitionMonitorUDF", "SignalMonitorUDF"),
    "libertem_live.udf.record": _from("udf.record", "RecordUDF"),
}
"""Old path: where its names are with us. ``module:name()`` is called for the value.

A path that is here and exists with us, too, has the names of both.
"""

ABSENT: Final[dict[str, str]] = {
    "libertem.cli_tweaks": "the command is `tilework`",
    "libertem.common.messageconverter": "it belongs to the web interface, which tilework does not have",
    "libertem.contrib.convert_transposed": "tilework does not read DM files; the package RosettaSciIO does",
    "libertem.executor.cli": "start workers with `tilework worker`",
    "libertem.executor.utils": "its parts were for the inside of LiberTEM's executors",
    "libertem.io.dataset.base": "a format is described by DataSet and Partition of libertem.io.dataset.base alone",
    "libertem.io.direct": "files are mapped into memory",
    "libertem.io.fs": "use pathlib",
    "libertem.io.utils": "partitions follow from the size of the data; num_partitions says otherwise",
    "libertem.io.writers": "use result.save(path) or tilework.io.results, and Context.export_dataset for datasets",
    "libertem.udf.holography": "LiberTEM does not have it any more either; it is in the package LiberTEM-holo",
    "libertem.versioning": "libertem.revision says which tilework it is",
    "libertem.viz.gms": "derive from tilework.viz.Live2DPlot, and write self.data into an image in its update()",
    "libertem.web": "there is no web interface; use Context in a notebook, or the command `tilework`",
    "libertem_live": "alone it cannot connect to detectors; install libertem-live, which works with tilework",
}
"""Old path: what to use instead; it holds for all below, too."""

FORMATS: Final = (
    "it does not read {} files; another library may give what is in them as an array, "
    'for ctx.load("memory", data=…), or as a Dask array, for ctx.load("dask", …)'
)
"""The same for file formats, all of which are modules of one package."""
