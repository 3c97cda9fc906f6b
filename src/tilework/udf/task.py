"""What is sent to a worker: a partition for all UDFs of a run, or a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tilework.common.progress import PartitionProgressTracker, PartitionTrackerNoOp
from tilework.udf.checks import refuses_read_only
from tilework.udf.partition_run import PartitionRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np

    from tilework.common.executor import Environment
    from tilework.common.scheduler import ResourceDef
    from tilework.io.dataset.partition import Partition
    from tilework.udf.base import UDF
    from tilework.udf.data import UDFData
    from tilework.udf.params import UDFParams

__all__ = ["GenericTask", "UDFTask"]

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
        absent: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
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
        try:
            return self._process(params, env)
        except Exception as error:
            is_streamed = env.worker_context is not None and env.worker_context.is_streamed
            if is_streamed or not refuses_read_only(error):
                raise
        return self._process(params, env, own_copies=True)

    def _process(self, params: UDFParams, env: Environment, *, own_copies: bool = False) -> tuple[UDFData, ...]:
        classes = self._udf_classes or params.classes
        partition_run = PartitionRun(self._partition, classes, params, env, self._absent, own_copies=own_copies)
        return partition_run.run(PartitionProgressTracker(self._partition) if self._report else _NO_PROGRESS)


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
