"""Functions for certain workers: which worker a call is for travels with its item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.dask.lanes import Need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tilework.executor.dask.lanes import Station
    from tilework.executor.run import Ticket

__all__ = [
    "SERVICE",
    "Placed",
    "PlacedCall",
    "at_stations",
    "call_need",
    "function_label",
    "one_for_each_host",
    "task_label",
    "task_need",
]

ANY: Final = Need()
SERVICE: Final = Need(is_service=True)


@dataclass(frozen=True, slots=True)
class Placed:
    """An item, and who is to get it."""

    item: Any
    need: Need
    name: str = ""
    """What the result is called: a worker or a host."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Placed, (self.item, ANY)  # where it goes does not matter any more when it goes


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A function of placed items: calls ``fn(item, *args, **kwargs)``, or without the item when that is None."""

    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def __call__(self, placed: Placed) -> Any:
        """Call it."""
        first = () if placed.item is None else (placed.item,)
        return self.fn(*first, *self.args, **(self.kwargs or {}))


def at_stations(stations: Iterable[Station], item: Any = None) -> list[Placed]:
    """Return the item for each of these workers, named after it."""
    return [Placed(item, Need(addresses=frozenset({s.address})), s.worker.name) for s in stations]


def one_for_each_host(stations: Iterable[Station], item: Any = None) -> list[Placed]:
    """Return the item for one worker of each host, named after the host; for a service worker, where there is one."""
    chosen: dict[str, Station] = {}
    for station in stations:
        host = station.worker.host
        if host not in chosen or (station.is_service and not chosen[host].is_service):
            chosen[host] = station
    return [Placed(item, Need(addresses=frozenset({s.address})), host) for host, s in sorted(chosen.items())]


def call_need(ticket: Ticket[Any]) -> Need:
    """Return who is to get a call."""
    return ticket.task.need if isinstance(ticket.task, Placed) else ANY


def task_need(ticket: Ticket[Any]) -> Need:
    """Return who is to get a task; ValueError when it names its places, and there is none."""
    task = ticket.task
    locations = task.get_locations()
    if locations is not None and len(locations) == 0:
        msg = f"no workers found for the task of {task.get_partition().get_ident()}: its set of locations is empty"
        raise ValueError(msg)
    hosts = frozenset[str]() if locations is None else frozenset(locations.hosts())
    return Need(frozenset(task.get_resources().items()), hosts)


def task_label(task: Any) -> str:
    """Return the name of a task on the dashboard: the names of its functions, if it has such, else of its class."""
    get_classes = getattr(task, "get_udf_classes", None)
    if get_classes is None:
        return type(task).__name__
    return "+".join(dict.fromkeys(cls.__name__ for cls in get_classes()))


def function_label(fn: Any) -> str:
    """Return the name of a function on the dashboard."""
    while isinstance(fn, PlacedCall):
        fn = fn.fn
    return str(getattr(fn, "__name__", type(fn).__name__)).replace("<lambda>", "lambda")
