"""What executors see of the work that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tilework.common.environment import Environment
    from tilework.common.scheduler import ResourceDef, WorkerSet

__all__ = ["GenericTaskProtocol", "PartitionLike", "TaskProtocol"]


class PartitionLike(Protocol):
    """What an executor sees of the partition that a task works on."""

    def get_ident(self) -> str:
        """Return the name that stands in messages about this partition."""
        ...

    def get_locations(self) -> WorkerSet | None:
        """Return the workers that have the data close by; None when all are equal."""
        ...


class TaskProtocol(Protocol):
    """One piece of a run. It may run again when its worker is lost: pure, or an idempotent write to its own region."""

    def __call__(self, params: Any, env: Environment) -> Any:
        """Do the work, inside ``with env.enter()``, and call ``env.raise_if_stopped()`` between tiles.

        Parameters
        ----------
        params
            What was scattered for this run, as it is when the task starts.
        env
            Where the task runs.
        """
        ...

    def get_partition(self) -> PartitionLike:
        """Return the partition that the task works on."""
        ...

    def get_resources(self) -> ResourceDef:
        """Return what a worker must offer."""
        ...

    def get_locations(self) -> WorkerSet | None:
        """Return the workers that should run it rather than others; None for no preference."""
        ...

    def get_tracing_span_context(self) -> Any:
        """Return the OpenTelemetry span context under which the task is traced; None for none."""
        ...


class GenericTaskProtocol(Protocol):
    """A function to run in a given environment."""

    def __call__(self, args: Iterable[Any], kwargs: Mapping[str, Any], environment: Environment) -> Any:
        """Do the work."""
        ...

    def get_tracing_span_context(self) -> Any:
        """Return the OpenTelemetry span context under which the task is traced; None for none."""
        ...
