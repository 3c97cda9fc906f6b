"""What happens on a worker: one partition goes through all UDFs of a run, in one pass over its tiles.

::

    UDFTask(params, env)
        fresh UDF instances, buffers of the size of the partition, preprocess
        for every tile of the partition:
            has the run been cancelled?                   Environment.raise_if_stopped
            for every form (dtype, backend) wanted:       converted and corrected once, for all UDFs that want it
                for every UDF that wants it:              its step: views for this tile, then process_*
        postprocess, cleanup
        the buffers, in the order of the UDFs

A *step* is the function that takes one UDF over one tile. It is made once per partition, so that nothing is looked up
again for every tile or frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.allocator import keep_freed_memory
from tilework.common.array_backends import frames_of
from tilework.common.buffers import AuxBufferWrapper, BufferWrapper
from tilework.common.progress import PartitionProgressTracker, PartitionTrackerNoOp
from tilework.common.tracing import add_partition_to_span
from tilework.common.udf import ResourceDef, UDFMethod, kernel_of
from tilework.exceptions import JobCancelledError, UDFException
from tilework.io.dataset.scratch import give_back, take_scratch
from tilework.udf.checks import check_own_results, explain, too_large
from tilework.udf.kernel_arguments import kernel_label
from tilework.udf.meta import UDFMeta
from tilework.udf.tile_forms import TileConverter
from tilework.udf.user_kernels import make_kernel_step

if TYPE_CHECKING:
    from tilework.common.executor import Environment
    from tilework.common.slice import Slice
    from tilework.io.dataset.partition import Partition
    from tilework.io.dataset.tile import DataTile
    from tilework.udf.backends import BackendPlan
    from tilework.udf.base import UDF
    from tilework.udf.data import UDFData, UDFParams
    from tilework.udf.run_plan import UDFPlan

__all__ = ["GenericTask", "UDFTask"]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Step = Callable[["DataTile", Array], None]


_NO_PROGRESS: Final = PartitionTrackerNoOp()


class UDFTask:
    """One partition through all UDFs of a run.

    Parameters
    ----------
    partition
        What is processed.
    idx
        Position of the task in the run.
    udf_classes
        Classes of the UDFs. A task that arrives in another process has none: there they come, like their parameters,
        with the scattered `UDFParams`.
    resources
        What a worker must have.
    span_context
        Trace that the task belongs to, or None.
    task_frames
        Number of selected frames of the partition.
    absent
        Which of them the source has no frame for, bool of shape ``(task_frames,)``; None: it has all.
    """

    __slots__ = ("_absent", "_frames", "_idx", "_partition", "_report", "_resources", "_span_context", "_udf_classes")

    def __init__(
        self,
        partition: Partition,
        idx: int,
        udf_classes: Sequence[type[UDF]],
        resources: ResourceDef,
        span_context: Any = None,
        task_frames: int = 0,
        absent: BoolArray | None = None,
    ) -> None:
        self._partition = partition
        self._idx = idx
        self._udf_classes = tuple(udf_classes)
        self._resources = resources
        self._span_context = span_context
        self._frames = task_frames
        self._absent = absent
        self._report = False

    def __getstate__(self) -> tuple[Any, ...]:
        return (
            self._partition,
            self._idx,
            self._resources,
            self._span_context,
            self._frames,
            self._absent,
            self._report,
        )

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._udf_classes = ()
        (
            self._partition,
            self._idx,
            self._resources,
            self._span_context,
            self._frames,
            self._absent,
            self._report,
        ) = state

    def __repr__(self) -> str:
        names = "+".join(cls.__name__ for cls in self._udf_classes)
        return f"<UDFTask {self._idx} {names} on {self._partition.slice}>"

    @property
    def idx(self) -> int:
        """Position in the run."""
        return self._idx

    @property
    def partition(self) -> Partition:
        """What is processed."""
        return self._partition

    @property
    def task_frames(self) -> int:
        """Number of selected frames."""
        return self._frames

    def get_partition(self) -> Partition:
        """Return what is processed."""
        return self._partition

    def get_locations(self) -> Any:
        """Return the workers that have the data; None: any."""
        return self._partition.get_locations()

    def get_resources(self) -> ResourceDef:
        """Return what a worker must have."""
        return self._resources

    def get_tracing_span_context(self) -> Any:
        """Return the trace that the task belongs to."""
        return self._span_context

    def get_udf_classes(self) -> tuple[type[UDF], ...]:
        """Return the classes of the UDFs."""
        return self._udf_classes

    def belong_to(self, span_context: Any) -> None:
        """Make the spans of the task children of this one."""
        self._span_context = span_context

    def report_progress(self) -> None:
        """Make the worker send messages of its progress within the partition."""
        self._report = True

    def __call__(self, params: UDFParams, env: Environment) -> tuple[UDFData, ...]:
        """Process the partition; return the buffers of the UDFs in their order."""
        add_partition_to_span(self._partition)
        run = PartitionRun(self._partition, self._udf_classes or params.classes, params, env, self._absent)
        return run(PartitionProgressTracker(self._partition) if self._report else _NO_PROGRESS)


class GenericTask:
    """A function that is run in an environment.

    Parameters
    ----------
    fn
        Called as ``fn(*args, **kwargs, environment=env)``.
    span_context
        Trace that the task belongs to, or None.
    """

    def __init__(self, fn: Callable[..., Any], span_context: Any = None) -> None:
        self._fn = fn
        self._span_context = span_context

    def get_tracing_span_context(self) -> Any:
        """Return the trace that the task belongs to."""
        return self._span_context

    def __call__(self, args: Iterable[Any], kwargs: Mapping[str, Any], environment: Environment) -> Any:
        """Call the function."""
        return self._fn(*args, **kwargs, environment=environment)


class PartitionRun:
    """All UDFs of a run over one partition; used once."""

    def __init__(
        self,
        partition: Partition,
        classes: Sequence[type[UDF]],
        params: UDFParams,
        env: Environment,
        absent: BoolArray | None,
    ) -> None:
        self._partition = partition
        self._absent = absent
        self._params = params
        self._env = env
        self._doing = ""
        self._failed_cleanup: UDF | None = None
        self._to_clean_up: list[UDF] = []
        self._scheme = params.tiling_scheme.adjust_for_partition(partition)
        roi = params.roi
        self._slice: Slice = partition.slice if roi is None else partition.slice.adjust_for_roi(roi.reshape(-1))
        self._udfs: list[UDF] = []
        for cls, kwargs in zip(classes, params.kwargs, strict=True):
            try:
                self._udfs.append(cls.new_for_partition(kwargs, partition, roi))
            except Exception as e:
                e.add_note(f"in the constructor of {cls.__name__}, {self._where()}")
                raise

    def __call__(self, progress: PartitionProgressTracker | PartitionTrackerNoOp) -> tuple[UDFData, ...]:
        """Process the partition; return the buffers."""
        env = self._env
        plan = self._params.plan
        plans = plan.udfs
        backends = plan.on_device(env.device_class, env.device_class == "cuda" and env.has_cupy)
        # Nobody else says where in the data something went wrong, and in which method of which UDF.
        udf: UDF | None = None
        doing = ""
        try:
            with env.enter(enable_gpu=backends.uses_cupy):
                scratch = take_scratch()
                try:
                    for position, (udf, one, backend) in enumerate(zip(self._udfs, plans, backends.udfs, strict=True)):
                        self._prepare(udf, one, position, backend)
                        self._to_clean_up.append(udf)
                    converter = TileConverter(
                        backends,
                        scratch,
                        self._params.corrections,
                        compiled=plan.compiled,
                        threads=env.threads_per_worker or 1,
                    )
                    groups = self._group_steps(backends, converter)
                    progress.signal_start()
                    udf, doing = None, "reading data"
                    for tile in self._tiles(backends.dataset):
                        env.raise_if_stopped()
                        for form, steps in groups:
                            data = form(tile)
                            for udf, doing, step in steps:
                                step(tile, data)
                        udf, doing = None, "reading data"
                        progress.signal_tile_complete(tile)
                    doing = "postprocess"
                    results = []
                    for udf in self._udfs:
                        results.append(self._finish(udf))  # noqa: PERF401  (the loop variable says whose error it is)
                    return tuple(results)
                finally:
                    give_back(scratch)
                    self._clean_up()
        except JobCancelledError:
            raise
        except Exception as e:
            if self._failed_cleanup is not None:
                udf, doing = self._failed_cleanup, "cleanup"
            clearer = explain(e, udf, doing or self._doing, self._where())
            try:
                if clearer is not e:
                    raise clearer from e
            finally:
                del clearer  # whose traceback holds this frame
            raise

    def _clean_up(self) -> None:
        """Call the cleanup of all UDFs that were prepared, the last one first, whichever of them fails."""
        if not self._to_clean_up:
            return
        udf = self._to_clean_up.pop()
        try:
            udf.cleanup()
        except Exception:
            self._failed_cleanup = udf
            raise
        finally:
            self._clean_up()

    def _where(self) -> str:
        start, count = self._slice.origin[0], self._slice.shape[0]
        of = "scan" if self._params.roi is None else "selected positions"
        return f"partition {self._partition.get_ident()}, frames {start} to {start + count - 1} of the {of}"

    def _tiles(self, backend: str) -> Iterator[DataTile]:
        partition = self._partition
        context = self._env.worker_context
        if context is not None:
            partition.set_worker_context(context)
        return partition.get_tiles(self._scheme, dest_dtype=None, roi=self._params.roi, array_backend=backend)

    def _prepare(self, udf: UDF, plan: UDFPlan, position: int, backend: str) -> None:
        params = self._params
        meta = UDFMeta(
            self._slice,
            self._partition.meta.shape,
            params.roi,
            params.plan.dataset_dtype,
            plan.input_dtype,
            tiling_scheme=self._scheme,
            corrections=params.corrections,
            device_class=self._env.device_class,
            threads_per_worker=self._env.threads_per_worker,
            array_backend=backend,
            compiled=plan.compiled,
        )
        udf.set_meta(meta)
        udf.set_cache(params.cache, position)
        self._doing = "get_result_buffers"
        udf.init_result_buffers()
        origin, shape, lib = self._slice.origin[0], self._slice.shape.to_tuple(), udf.xp
        for name, buffer in udf.results.items():
            buffer.set_span(origin, shape[0], shape[1:])
            try:
                buffer.allocate(lib=lib)
            except MemoryError as e:
                advice = "use more partitions, with the num_partitions of the dataset, or select positions with a roi"
                raise too_large(type(udf).__name__, name, buffer, advice) from e
            if self._absent is not None:
                buffer.mark_absent(self._absent)
        udf.results.clear_views()
        self._doing = "get_task_data"
        udf.init_task_data()
        self._doing = "preprocess"
        if hasattr(udf, "preprocess"):
            udf.preprocess()

    def _group_steps(
        self, backends: BackendPlan, converter: TileConverter
    ) -> list[tuple[Callable[[DataTile], Any], list[tuple[UDF, str, Step]]]]:
        """Return the steps by the form of tile that they want, each with its UDF and the name of its method."""
        keep_freed_memory()
        groups: dict[tuple[str, np.dtype[Any], bool], list[tuple[UDF, str, Step]]] = {}
        for udf, plan, backend in zip(self._udfs, self._params.plan.udfs, backends.udfs, strict=True):
            self._doing = f"get_{plan.method.value}_kernel"
            kernel = _kernel_to_use(udf, plan.method)
            steps = groups.setdefault((backend, plan.dtype_for(backend), plan.corrected_for(backend)), [])
            if kernel is None:
                step = make_step(udf, plan.method, self._slice, self._scheme.is_full_sig, self._env.raise_if_stopped)
                steps.append((udf, f"process_{plan.method.value}", step))
            else:
                step = make_kernel_step(
                    udf,
                    kernel,
                    plan.method,
                    self._slice.origin[0],
                    is_full_sig=self._scheme.is_full_sig,
                    checked=self._env.debug,
                )
                steps.append((udf, kernel_label(kernel, plan.method), step))
        return [(converter.form(*key), steps) for key, steps in groups.items()]

    def _finish(self, udf: UDF) -> UDFData:
        check_own_results(udf)
        udf.results.flush()
        udf.results.clear_views()
        for value in udf.params.values():
            if isinstance(value, AuxBufferWrapper):
                value.flush()
        udf.params.clear_views()
        udf.meta.set_partition()
        if hasattr(udf, "postprocess"):
            udf.postprocess()
        udf.results.export()
        results: UDFData = udf.results
        return results


# -- steps


def _kernel_to_use(udf: UDF, method: UDFMethod) -> Callable[..., None] | None:
    """Return the function that a UDF gives to be compiled; None where one of its methods is called."""
    kernel: Callable[..., None] | None = kernel_of(udf, method)
    return kernel if udf.meta.compiled or not hasattr(udf, f"process_{method.value}") else None


def make_step(
    udf: UDF, method: UDFMethod, partition_slice: Slice, is_full_sig: bool, raise_if_stopped: Callable[[], None]
) -> Step:
    """Return the function that takes a method of `udf` over one tile of a partition."""
    origin = partition_slice.origin[0]
    nav = _nav_views(udf)
    if method is UDFMethod.FRAME:
        return _frame_step(udf, nav, origin, raise_if_stopped)
    if method is UDFMethod.PARTITION:
        return _partition_step(udf, partition_slice)
    return _tile_step(udf, nav, origin, is_full_sig)


def _nav_views(udf: UDF) -> list[tuple[dict[str, Any], str, Array]]:
    """Return what changes with the position: where a view is put, its name, and the array of the partition."""
    nav = [
        (udf.results.__dict__, name, buffer.raw_data)
        for name, buffer in udf.results.items()
        if buffer.kind == "nav" and buffer.has_data()
    ]
    nav += [
        (udf.params.__dict__, name, value.raw_data)
        for name, value in udf.params.items()
        if isinstance(value, AuxBufferWrapper) and value.kind == "nav"
    ]
    return nav


def _sig_buffers(udf: UDF) -> list[tuple[dict[str, Any], str, BufferWrapper]]:
    sig = [(udf.results.__dict__, n, b) for n, b in udf.results.items() if b.kind == "sig" and b.has_data()]
    sig += [
        (udf.params.__dict__, n, v)
        for n, v in udf.params.items()
        if isinstance(v, AuxBufferWrapper) and v.kind == "sig"
    ]
    return sig


def _tile_step(udf: UDF, nav: list[tuple[dict[str, Any], str, Array]], origin: int, is_full_sig: bool) -> Step:
    process = udf.process_tile  # type: ignore[attr-defined]
    set_position = udf.meta.set_position
    sig = [] if is_full_sig else _sig_buffers(udf)

    def step(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        stop = start + data.shape[0]
        for views, name, array in nav:
            views[name] = array[start - origin : stop - origin]
        for views, name, buffer in sig:
            views[name] = buffer.get_contiguous_view_for_tile(None, tile)  # type: ignore[arg-type]
        set_position(start, stop, tile.scheme_idx)
        process(data)

    return step


def _partition_step(udf: UDF, partition_slice: Slice) -> Step:
    process = udf.process_partition  # type: ignore[attr-defined]
    length = partition_slice.shape[0]

    def step(tile: DataTile, data: Array) -> None:
        if data.shape[0] != length and tile.tile_slice.shape[0] == data.shape[0]:
            msg = (
                f"{type(udf).__name__} wants whole partitions, but {length - data.shape[0]} of the {length} frames of "
                f"{partition_slice} are absent from the source: use process_frame or process_tile, or select with a roi"
            )
            raise UDFException(msg)
        process(data)

    return step


def _frame_step(
    udf: UDF,
    nav: list[tuple[dict[str, Any], str, Array]],
    origin: int,
    raise_if_stopped: Callable[[], None],
) -> Step:
    process = udf.process_frame  # type: ignore[attr-defined]
    meta = udf.meta
    backend = meta.array_backend or "numpy"
    # Without extra shape the entry of a frame is an array of shape (1,), so that it can be assigned in place.
    rows = [(views, name, array if array.ndim > 1 else array[:, np.newaxis]) for views, name, array in nav]

    def one_nav(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        for i, (frame, row) in enumerate(zip(frames_of(data, backend), array[start - origin :], strict=False), start):
            # A tile can hold hundreds of frames, and what users do with one can take a second.
            raise_if_stopped()
            views[name] = row
            meta.set_position(i, i + 1)
            process(frame)

    def any_nav(tile: DataTile, data: Array) -> None:
        start = tile.tile_slice.origin[0]
        for i, frame in enumerate(frames_of(data, backend), start):
            raise_if_stopped()
            for views, name, array in rows:
                views[name] = array[i - origin]
            meta.set_position(i, i + 1)
            process(frame)

    if len(rows) != 1:
        return any_nav
    views, name, array = rows[0]
    return one_nav
