"""Dotted paths that users' programs import lead to ours, or to an error that says what to use instead."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tilework.compat.libertem.table import ABSENT, MOVED

if TYPE_CHECKING:
    from pathlib import Path

# Written down from LiberTEM's documentation; what it has and we do not is left out.
PATHS = """\
libertem: __version__ revision
libertem.api: Context DataSet ResultGenerator ResultAsyncGenerator ExecutorSpecType RoiT RunUDFResultType
libertem.common: Slice Shape SliceUsageError
libertem.common.executor: ResourceDef GPUSpec ExecutorError JobCancelledError WorkerQueueEmpty Environment
    TaskProtocol GenericTaskProtocol JobExecutor AsyncJobExecutor WorkerQueue SimpleWorkerQueue WorkerContext
    TaskCommHandler NoopCommHandler
libertem.common.scheduler: Worker WorkerSet Scheduler
libertem.common.exceptions: UDFException ExecutorSpecException UDFRunCancelled
libertem.exceptions: UDFException ExecutorSpecException UDFRunCancelled
libertem.common.threading: set_num_threads set_fftw_threads set_torch_threads set_numba_threads set_num_threads_env
    mitigations detect_pyfftw detect_pytorch
libertem.common.progress: ProgressState ProgressReporter TQDMProgressReporter ProgressManager
    PartitionProgressTracker PartitionTrackerNoOp get_time CommsDispatcher
libertem.common.snooze: SnoozeMessage SnoozeManager keep_alive keep_alive_context
libertem.common.subscriptions: SubscriptionManager
libertem.common.async_utils: MyStopIteration sync_to_async async_generator async_generator_eager run_agen_get_last
    run_gen_get_last async_to_sync_generator AsyncGenToQueueThread SyncGenToQueueThread adjust_event_loop_policy
libertem.utils.async_utils: sync_to_async async_generator async_generator_eager run_agen_get_last run_gen_get_last
    async_to_sync_generator adjust_event_loop_policy MyStopIteration
libertem.common.shape: Shape ShapeLike
libertem.common.slice: Slice SliceUsageError
libertem.common.buffers: bytes_aligned empty_aligned zeros_aligned BufferPool ManagedBuffer to_numpy reshaped_view
    disjoint ArrayWithMask InvalidMaskError get_inner_slice get_bbox get_bbox_2d get_bbox_slice BufferWrapper
    PlaceholderBufferWrapper PreallocBufferWrapper AuxBufferWrapper BufferKind BufferUse
libertem.common.tracing: maybe_setup_tracing setup_tracing attach_to_parent add_partition_to_span
    TracedThreadPoolExecutor
libertem.common.container: MaskContainer
libertem.common.backend: set_use_cuda set_use_cpu get_use_cuda get_use_cpu get_device_class set_file_limit
libertem.common.math: prod count_nonzero flat_nonzero make_2D_square ndenumerate
libertem.common.sparse: to_dense to_sparse sparse_to_coo is_sparse assert_sparse
libertem.common.analysis: AnalysisResult AnalysisResultSet
libertem.common.viz: encode_image
libertem.common.cupy: use_gpu
libertem.common.numba: cached_njit rmatmul numba_dtypes
libertem.common.udf: UDFProtocol UDFMethod TilingPreferences TileDepthEnum TileSizeEnum
libertem.executor.base: ResourceError make_canonical BaseJobExecutor AsyncAdapter
libertem.executor.inline: InlineJobExecutor
libertem.executor.concurrent: ConcurrentJobExecutor AsyncConcurrentJobExecutor
libertem.executor.dask: DaskJobExecutor AsyncDaskJobExecutor cluster_spec set_worker_log_level
libertem.executor.delayed: DelayedJobExecutor
libertem.executor.integration: get_dask_integration_executor
libertem.executor.pipelined: PipelinedExecutor PipelinedWorkerContext PoolStateError PoolWorkerInfo WorkerPool
    WorkerQueues WorkerSpec pipelined_worker schedule_task set_thread_name worker_loop worker_run_function
    worker_run_task WorkerSelector
libertem.executor.utils:
libertem.executor.utils.dask_buffer: DaskBufferWrapper DaskResultBufferWrapper
libertem.udf: UDF UDFFrameMixin UDFTileMixin UDFPartitionMixin UDFPostprocessMixin UDFPreprocessMixin UDFMeta
    UDFData check_cast AutoUDF UDFRunCancelled
libertem.udf.base: UDF UDFFrameMixin UDFTileMixin UDFPartitionMixin UDFPostprocessMixin UDFPreprocessMixin DataTile
    UDFResultDict UDFMergeAllMixin UDFMeta UDFData check_cast NoOpUDF UDFRunCancelled MergeAttrMapping
    UDFKwargsWrapper UDFParams UDFResults UDFResultsLazy UDFTask GenericTask UDFRunner ResultsForDataSet
    get_resources_for_backends UDFMethod TilingPreferences UDFException TileConverter
libertem.udf.auto: AutoUDF
libertem.udf.sum: SumUDF
libertem.udf.sumsigudf: SumSigUDF run_sumsig
libertem.udf.stddev: StdDevUDF run_stddev merge merge_single process_tile merge_ndarray process_tile_ndarray
    consolidate_result
libertem.udf.masks: ApplyMasksUDF ApplyMasksEngine
libertem.udf.com: CoMUDF CoMParams RegressionOptions com_masks_factory com_masks_generic center_shifts
    apply_correction divergence curl_2d magnitude coordinate_check guess_corrections GuessResult
libertem.udf.raw: PickUDF
libertem.udf.record: RecordUDF
libertem.udf.logsum: LogsumUDF run_logsum
libertem.udf.FEM: FEMUDF run_fem
libertem.udf.crystallinity: CrystallinityUDF run_analysis_crystall
libertem.masks: circular ring radial_gradient radial_gradient_background_subtraction polar_map balance
    bounding_radius radial_bins background_subtraction rectangular gradient_x gradient_y sparse_template_multi_stack
    sparse_circular_multi_stack to_dense to_sparse is_sparse _make_circular_mask
libertem.analysis:
libertem.analysis.base: Analysis BaseAnalysis AnalysisResult AnalysisResultSet
libertem.analysis.helper:
libertem.analysis.getroi: get_roi
libertem.analysis.masks: MasksAnalysis MasksResultSet SingleMaskResultSet BaseMasksAnalysis
libertem.analysis.com: COMAnalysis COMResultSet
libertem.analysis.disk: DiskMaskAnalysis
libertem.analysis.ring: RingMaskAnalysis
libertem.analysis.point: PointMaskAnalysis
libertem.analysis.radialfourier: RadialFourierAnalysis RadialFourierResultSet
libertem.analysis.raw: PickFrameAnalysis
libertem.analysis.rawfft: PickFFTFrameAnalysis
libertem.analysis.sum: SumAnalysis SumResultSet
libertem.analysis.sumfft: SumfftAnalysis
libertem.analysis.sumsig: SumSigAnalysis
libertem.analysis.sd: SDAnalysis
libertem.analysis.fem: FEMAnalysis
libertem.analysis.clust: ClusterAnalysis
libertem.analysis.apply_fft_mask: ApplyFFTMask
libertem.corrections: CorrectionSet
libertem.corrections.corrset: CorrectionSet
libertem.corrections.coordinates: scale rotate rotate_deg flip_y flip_x identity scale_rotate_flip_y
libertem.corrections.detector: correct RepairDescriptor correct_dot_masks RepairValueError
libertem.io.corrections: CorrectionSet
libertem.io.corrections.corrset: CorrectionSet
libertem.io.corrections.detector: correct RepairDescriptor correct_dot_masks RepairValueError CorrectError
libertem.io.dataset: load detect filetypes get_dataset_cls register_dataset_cls unregister_dataset_cls
    get_extensions build_extension_map get_search_order
libertem.io.dataset.base: DataSet DataSetException DataSetMeta Partition BasePartition DataTile TilingScheme Negotiator
    MMapBackend BufferedBackend DirectBackend get_coordinates
libertem.io.dataset.base.backend_buffered: BufferedBackend
libertem.io.dataset.base.backend_direct: DirectBackend
libertem.io.dataset.base.backend_mmap: MMapBackend
libertem.io.dataset.base.coordinates: get_coordinates
libertem.io.dataset.base.dataset: DataSet
libertem.io.dataset.base.exceptions: DataSetException
libertem.io.dataset.base.meta: DataSetMeta
libertem.io.dataset.base.partition: BasePartition Partition
libertem.io.dataset.base.tiling: DataTile
libertem.io.dataset.base.tiling_scheme: TilingScheme
libertem.io.dataset.raw: RawFileDataSet
libertem.io.dataset.npy: NPYDataSet
libertem.io.dataset.mib: MIBDataSet
libertem.io.dataset.blo: BloDataSet
libertem.io.dataset.empad: EMPADDataSet
libertem.io.dataset.memory: MemoryDataSet
libertem.io.dataset.dask: DaskDataSet
libertem.viz: visualize_simple rgb_from_2dvector encode_image libertem_cyclic get_plottable_2D_channels
libertem.viz.base: Live2DPlot Dummy2DPlot get_plottable_2D_channels visualize_simple rgb_from_2dvector encode_image
    libertem_cyclic
libertem.viz.mpl: MPLLive2DPlot
libertem.viz.bqp: BQLive2DPlot
libertem.utils: make_cartesian make_polar rotate_rad rotate_deg rotate_precalc frame_peaks calc_coords within_frame
    regularize_indices
libertem.utils.devices: detect has_cupy
libertem.utils.generate: cbed_frame hologram_frame gradient_data exclude_pixels
libertem.contrib.daskadapter: make_dask_array
libertem.preload:
libertem.warnings: UseDiscouragedWarning
libertem_live.udf.monitor: SignalMonitorUDF PartitionMonitorUDF
libertem_live.udf.record: RecordUDF
libertem_live.udf:
"""

RESOLVE = """\
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
bad = []
for path, names in json.load(sys.stdin).items():
    try:
        module = importlib.import_module(path)
        bad += [f"{path}.{name}" for name in names if not hasattr(module, name)]
        exec(f"import {path}; {path}", {})
    except Exception as error:
        bad.append(f"{path}: {error!r}")
print(json.dumps(bad))
"""

ABSENT_MODULES = {
    "libertem.web": "there is no web interface",
    "libertem.web.cli": "there is no web interface",
    "libertem.viz.gms": "tilework.viz.Live2DPlot",
    "libertem.udf.holography": "LiberTEM-holo",
    "libertem.io.dataset.k2is": "does not read k2is files",
    "libertem.io.dataset.base.fileset": "DataSet and Partition",
    "libertem.io.direct": "mapped into memory",
    "libertem.io.fs": "pathlib",
    "libertem.io.utils": "num_partitions",
    "libertem.io.writers.results.base": "result.save(path)",
    "libertem.contrib.convert_transposed": "RosettaSciIO",
    "libertem.common.messageconverter": "web interface",
    "libertem.executor.cli": "tilework worker",
    "libertem.executor.utils.shmqueue": "inside of LiberTEM's executors",
    "libertem_live.api": "cannot connect to detectors",
    "libertem.cli": "tilework has no libertem.cli",
    "libertem.compat": "tilework has no libertem.compat",
    "libertem.nonsense": "tilework has no libertem.nonsense",
    "libertem.viz.nonsense.more": "tilework has no libertem.viz.nonsense",
}


def paths() -> dict[str, list[str]]:
    lines = PATHS.replace("\n    ", " ").splitlines()
    return {path: names.split() for path, names in (line.split(":") for line in lines)}


def python(code: str, *, said: str = "", executable: str = sys.executable) -> str:
    """Run code in a process of its own: what is imported as libertem must not stay in the one of the tests."""
    done = subprocess.run(
        [executable, "-c", code], input=said, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INSTALL = "from tilework.compat.libertem import install; install()\n"


def test_paths_resolve() -> None:
    assert json.loads(python(INSTALL + RESOLVE, said=json.dumps(paths()))) == []


def test_paths_are_those_of_libertem(peer_python: str) -> None:
    """The tests ask for nothing that LiberTEM does not have."""
    asked = {path: names for path, names in paths().items() if not path.startswith("libertem_live")}
    assert json.loads(python(RESOLVE, said=json.dumps(asked), executable=peer_python)) == []


def test_what_has_moved_is_asked_for() -> None:
    """Each entry of the table is in these tests, and each of its names is what its module says it has."""
    asked = paths()
    for path, names in MOVED.items():
        assert path in asked, path
        for name, place in names.items():
            module, _, there = place.partition(":")
            assert hasattr(importlib.import_module(module), there.removesuffix("()")), (path, name)


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_absent_has_no_module(path: str) -> None:
    """Else its advice would be out of date."""
    assert path not in MOVED or path == "libertem.io.dataset.base"  # below which there is more
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(path.replace("libertem", "tilework", 1) + ("._" * (path == "libertem.io.dataset.base")))


def test_absent_modules_say_what_to_use() -> None:
    code = """\
import importlib, json, sys
said = {}
for path in json.load(sys.stdin):
    try:
        importlib.import_module(path)
    except ModuleNotFoundError as error:
        said[path] = str(error)
print(json.dumps(said))
"""
    said = json.loads(python(INSTALL + code, said=json.dumps(list(ABSENT_MODULES))))
    assert said.keys() == ABSENT_MODULES.keys()
    for path, text in ABSENT_MODULES.items():
        assert said[path].startswith("tilework has no libertem"), said[path]
        assert text in said[path], path


def test_same_path_is_the_same_module() -> None:
    python(
        INSTALL
        + """\
import pickle, sys
import libertem.udf.sum, libertem.io.dataset.memory, libertem.api as lt
import tilework.api, tilework.udf.sum
assert lt is tilework.api and libertem.udf.sum is tilework.udf.sum
for name in "tilework.api", "tilework.udf", "tilework.udf.sum":
    assert sys.modules[name].__spec__.name == name, sys.modules[name].__spec__
    assert sys.modules[name.replace("tilework", "libertem")] is sys.modules[name]
assert libertem.udf.sum.SumUDF.__module__ == "tilework.udf.sum"
assert pickle.loads(b"clibertem.udf.sum\\nSumUDF\\n.") is tilework.udf.sum.SumUDF
import importlib
assert importlib.reload(libertem.udf.sum) is tilework.udf.sum
assert "0.16.0" == libertem.__version__ and "tilework" in libertem.revision and "tilework" in libertem.__file__
"""
    )


def test_modules_with_more_names_show_what_ours_has() -> None:
    python(
        INSTALL
        + """\
import libertem.viz, libertem.udf.base
import tilework.viz, tilework.udf.base
from libertem.udf.base import *
assert UDF is tilework.udf.base.UDF and "UDFMethod" in libertem.udf.base.__all__
tilework.udf.base.check_cast = None
assert libertem.udf.base.check_cast is None
assert {"libertem_cyclic", "visualize_simple"} <= set(dir(libertem.viz))
try:
    from libertem.viz.base import nonsense
except ImportError as error:
    assert "nonsense" in str(error) and "libertem.viz.base" in str(error)
assert not hasattr(libertem.viz.base, "nonsense")
for module in libertem.viz, libertem.viz.base, libertem.udf.base:
    assert all(hasattr(module, name) for name in dir(module))
"""
    )


def test_importing_starts_nothing_heavy() -> None:
    """Neither install() nor what is only named loads what it leads to."""
    heavy = python(
        INSTALL
        + """\
import libertem, libertem.viz.base, libertem.common.exceptions, libertem.preload, sys
print([name for name in ("numba", "matplotlib", "dask", "tilework.api") if name in sys.modules])
"""
    )
    assert heavy == "[]\n"


def test_threads_that_import_at_a_time() -> None:
    python(
        INSTALL
        + """\
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
sys.setswitchinterval(1e-6)
names = ["libertem.api", "libertem.udf.sum", "libertem.viz.base", "libertem.udf.base"] * 4
barrier = Barrier(16)
def load(name):
    barrier.wait()
    scope = {}
    exec(f"import {name} as m; from {name} import __name__ as n; bool(dir(m))", scope)
    return scope["m"]
with ThreadPoolExecutor(16) as pool:
    found = list(pool.map(load, names))
assert all(module is sys.modules[name] for module, name in zip(found, names))
assert all(hasattr(m, "Context") for m in found[::4])
"""
    )


@pytest.mark.parametrize("name", ["libertem", "libertem_live"])
def test_not_with_libertem_in_the_same_process(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    said = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {name}\n"
        "try:\n    from tilework.compat.libertem import install; install()\nexcept ImportError as error: print(error)\n"
        "assert not any('tilework' in type(finder).__module__ for finder in sys.meta_path)"
    )
    assert f"{name} has been imported from {tmp_path}" in said
    assert "before the first import of libertem" in said


PACKAGE = """\
import libertem.api as lt
from libertem.common import Shape
assert lt.__name__ == "tilework.api"
class LiveContext(lt.Context):
    pass
"""


def test_an_installed_libertem_live_is_used(tmp_path: Path) -> None:
    """With tilework in the place of LiberTEM, in workers, too; without it there is what we have of it."""
    package = tmp_path / "libertem_live"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'theirs'\n")
    (package / "api.py").write_text(PACKAGE)
    said = python(
        INSTALL
        + f"""\
import sys
sys.path.append({str(tmp_path)!r})
import libertem_live.api as live, libertem_live
from libertem.executor.pipelined import PipelinedExecutor
install()
def where():
    import libertem_live.api as live
    return live.__file__, live.LiveContext.__mro__[1].__module__
with PipelinedExecutor(PipelinedExecutor.make_spec(1, [])) as executor:
    print(libertem_live.__version__, where() == executor.run_function(where) == (live.__file__, "tilework.api.context"))
try:
    import libertem_live.udf.record
except ModuleNotFoundError as error:
    print(error)
"""
    )
    assert said == "theirs True\nNo module named 'libertem_live.udf'\n"
    assert python(INSTALL + "from libertem_live.udf.record import RecordUDF as R; print(R.__module__)") == (
        "tilework.udf.record\n"
    )


def test_installing_twice_does_nothing() -> None:
    python(
        INSTALL
        + """\
import sys, libertem
before = list(sys.path), list(sys.meta_path), libertem
install()
assert before == (sys.path, sys.meta_path, libertem)
"""
    )


def test_without_installing_there_is_no_libertem() -> None:
    """Importing the module alone changes nothing."""
    python(
        "import sys\nbefore = list(sys.path), list(sys.meta_path)\nimport tilework.compat.libertem\n"
        "assert before == (sys.path, sys.meta_path)"
    )
