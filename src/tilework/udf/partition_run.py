"""One partition goes through all UDFs of a run, in one pass over its tiles.

::

    PartitionRun(partition, classes, params, env, absent)
        fresh UDF instances
    run(progress)
        buffers of the size of the partition, preprocess
        for every tile of the partition:                  of selected frames, where they lie if every UDF allows that
            has the run been cancelled?                   Environment.raise_if_stopped
            for every form (dtype, backend) wanted:       converted and corrected once, for all UDFs that want it
                for every UDF that wants it:              its step: views for this tile, then process_*
        postprocess, cleanup
        the buffers, in the order of the UDFs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.allocator import keep_freed_memory
from tilework.common.array_backends import NUMPY_BACKENDS
from tilework.common.buffers import AuxBufferWrapper
from tilework.common.kernels.turns import Turn
from tilework.common.udf import UDFMethod, method_of
from tilework.exceptions import JobCancelledError
from tilework.io.dataset.partition import HasPickedTiles
from tilework.io.dataset.scratch import give_back, take_scratch
from tilework.udf.checks import check_own_results, explain, too_large
from tilework.udf.data import clear_views
from tilework.udf.instance import set_cache
from tilework.udf.meta import UDFMeta
from tilework.udf.own_copies import on_own_copies, with_own_arrays
from tilework.udf.picked_frames import reads_in_place
from tilework.udf.steps import make_step
from tilework.udf.tile_forms import TileConverter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tilework.common.executor import Environment
    from tilework.common.progress import PartitionProgressTracker
    from tilework.common.slice import Slice
    from tilework.io.dataset.partition import Partition
    from tilework.io.dataset.tile import DataTile
    from tilework.udf.backends import BackendPlan
    from tilework.udf.base import UDF
    from tilework.udf.data import UDFData
    from tilework.udf.params import UDFParams
    from tilework.udf.run_plan import UDFPlan
    from tilework.udf.steps import Step

__all__ = ["PartitionRun"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class PartitionRun:
    """All UDFs of a run over one partition; used once.

    Parameters
    ----------
    partition
        The partition.
    classes
        Classes of the UDFs.
    params
        What they have in common.
    env
        Of the task.
    absent
        Which frames are not there; None: all are.
    own_copies
        Whether functions get copies of frames and parameters that they may write to, see `tilework.udf.own_copies`.
    """

    def __init__(
        self,
        partition: Partition,
        classes: Sequence[type[UDF]],
        params: UDFParams,
        env: Environment,
        absent: BoolArray | None,
        *,
        own_copies: bool = False,
    ) -> None:
        self._partition = partition
        self._own_copies = own_copies
        self._absent = absent
        self._params = params
        self._env = env
        # What is done now, and by which UDF. In the loop over tiles it is None: there, loop variables say it.
        self._at: tuple[UDF | None, str] | None = None, "preparation"
        self._to_clean_up: list[UDF] = []
        self._scheme = params.tiling_scheme.adjust_for_partition(partition)
        roi = params.roi
        self._slice: Slice = partition.slice if roi is None else partition.slice.adjust_for_roi(roi.reshape(-1))
        self._udfs: list[UDF] = []
        each, self._cache = params.current()
        for cls, kwargs in zip(classes, each, strict=True):
            try:
                if own_copies:
                    kwargs = with_own_arrays(kwargs)  # noqa: PLW2901
                self._udfs.append(cls.new_for_partition(kwargs, partition, roi))
            except Exception as e:
                e.add_note(f"in the constructor of {cls.__name__}, {self._where()}")
                raise

    def run(self, progress: PartitionProgressTracker) -> tuple[UDFData, ...]:
        """Process the partition; return the buffers."""
        keep_freed_memory()  # of the arrays that functions make for each frame
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
                # Functions of tiles are mostly in NumPy, without the lock: they gain nothing by turns.
                by_frames = any(each.method is UDFMethod.FRAME for each in plans)
                turn = Turn.make(threaded=env.threaded_executor and by_frames)
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
                        turn=turn,
                    )
                    groups = self._group_steps(backends, converter)
                    progress.signal_start()
                    self._at, udf, doing = None, None, "reading data"
                    for tile in self._tiles(backends):
                        env.raise_if_stopped()
                        for form, steps in groups:
                            data = form(tile)
                            for udf, doing, step in steps:
                                step(tile, data)
                            del data
                            udf, doing = None, "reading data"
                        progress.signal_tile_complete(tile)
                        # Memory that somebody sees is not used again, see `tilework.io.dataset.scratch`.
                        del tile
                        converter.forget()
                    return tuple([self._finish(udf) for udf in self._udfs])
                finally:
                    if turn is not None:
                        turn.leave()
                    give_back(scratch)
                    self._clean_up()
        except (JobCancelledError, KeyboardInterrupt):  # neither is of the UDF
            raise
        except BaseException as e:  # also what would end the interpreter: elsewhere it arrives as an error
            if self._at is not None:
                udf, doing = self._at
            clearer = explain(e, udf, doing, self._where())
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
            self._at = udf, "cleanup"
            raise
        finally:
            self._clean_up()

    def _where(self) -> str:
        start, count = self._slice.origin[0], self._slice.shape[0]
        of = "scan" if self._params.roi is None else "selected positions"
        return f"partition {self._partition.get_ident()}, frames {start} to {start + count - 1} of the {of}"

    def _tiles(self, backends: BackendPlan) -> Iterator[DataTile]:
        partition = self._partition
        context = self._env.worker_context
        if context is not None:
            partition.set_worker_context(context)
        tiles = self._picked_tiles(backends)
        if tiles is not None:
            return tiles
        return partition.get_tiles(self._scheme, dest_dtype=None, roi=self._params.roi, array_backend=backends.dataset)

    def _picked_tiles(self, backends: BackendPlan) -> Iterator[DataTile] | None:
        """Return tiles of selected frames where they lie; None where all are read, or copied together."""
        partition, roi, plan = self._partition, self._params.roi, self._params.plan
        if roi is None or self._own_copies or not reads_in_place(self._udfs, plan, backends.udfs):
            return None
        if not isinstance(partition, HasPickedTiles):
            return None
        # The kernels work in blocks; what is converted for a function should stay in the cache, and somebody's function
        # of a frame may take long, so that there should be a look between whether the run goes on.
        for_kernels = not plan.converts and all(each.method is UDFMethod.TILE for each in plan.udfs)
        return partition.get_picked_tiles(self._scheme, roi, for_kernels=for_kernels)

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
        set_cache(udf, self._cache, position)
        self._at = udf, "get_result_buffers"
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
        self._at = udf, "get_task_data"
        udf.init_task_data()
        self._at = udf, "preprocess"
        if (preprocess := method_of(udf, "preprocess")) is not None:
            preprocess()

    def _group_steps(
        self, backends: BackendPlan, converter: TileConverter
    ) -> list[tuple[Callable[[DataTile], Any], list[tuple[UDF, str, Step]]]]:
        """Return the steps by the form of tile that they want, each with its UDF and the name of its method."""
        groups: dict[tuple[str, np.dtype[Any], bool], list[tuple[UDF, str, Step]]] = {}
        for udf, plan, backend in zip(self._udfs, self._params.plan.udfs, backends.udfs, strict=True):
            self._at = udf, f"get_{plan.method.value}_kernel"
            label, step = make_step(udf, plan.method, self._slice, is_full_sig=self._scheme.is_full_sig, env=self._env)
            if self._own_copies and backend in NUMPY_BACKENDS:
                step = on_own_copies(step, f"{type(udf).__name__}.{label}")
            form = backend, plan.dtype_for(backend), plan.corrected_for(backend)
            groups.setdefault(form, []).append((udf, label, step))
        return [(converter.form(*key), steps) for key, steps in groups.items()]

    def _finish(self, udf: UDF) -> UDFData:
        self._at = udf, "postprocess"
        check_own_results(udf)
        udf.results.flush()
        udf.results.clear_views()
        for value in udf._kwargs.values():
            if isinstance(value, AuxBufferWrapper):
                value.flush()
        clear_views(udf.params)
        udf.meta.set_partition()
        if (postprocess := method_of(udf, "postprocess")) is not None:
            postprocess()
        udf.results.export()
        results: UDFData = udf.results
        return results
