"""Which workers a Dask cluster has.

The end of a worker is an event that the scheduler publishes at once, under the worker's address. (It publishes the
beginning of one as well, but under a topic with messages that some versions cannot send.) Who is new is found out by
asking.

Who owns what: one `Roster` for each executor, which lives in the event loop of the Dask client. Dask keeps one handler
for each topic of a client; several executors may share a client, and its owner may listen as well: `_Topic` tells all.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from tilework.common.scheduler import Worker, WorkerSet
from tilework.executor.dask.lanes import Station

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tilework.executor.dask.courier import Courier

Handler: TypeAlias = "Callable[[tuple[float, Any]], Any]"

__all__ = ["PID", "Roster", "has_tags", "identity", "make_workers"]

log = logging.getLogger(__name__)

_SOON_SECONDS: Final = 0.1
_SHORT_SECONDS: Final = 0.5
_LONG_SECONDS: Final = 2.0
"""How often the scheduler is asked for new workers: since one was lost; when that was longer ago; and otherwise."""

_RETURN_SECONDS: Final = 5.0
"""How long the return of a worker is expected at any moment."""

_GONE_SECONDS: Final = 1.0
"""How long a worker that left is not taken for a new one with the same address."""

_EXPECT_SECONDS: Final = 60.0

PID: Final = "tilework_pid"
"""Under which name workers that this process has started tell the scheduler the number of theirs."""

_VANILLA: Final[dict[Any, int]] = {"CPU": 1, "compute": 1, "ndarray": 1}


async def identity(client: Any) -> Mapping[str, Mapping[str, Any]]:
    """Ask the scheduler for its workers: what Dask knows of each, by address."""
    try:
        answer = await client.scheduler.identity(n_workers=-1)
    except TypeError:  # versions that always tell of all workers
        answer = await client.scheduler.identity()
    workers: Mapping[str, Mapping[str, Any]] = answer["workers"]
    return workers


def has_tags(infos: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether any worker has the resources of workers that were made for tilework."""
    resources = [info["resources"] for info in infos.values()]
    return any("compute" in r and (("CPU" in r and "ndarray" in r) or "CUDA" in r) for r in resources)


def _are_paused(infos: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(infos) and all(info.get("status") == "paused" for info in infos.values())


def make_station(address: str, info: Mapping[str, Any], *, is_tagged: bool) -> Station:
    """Return what we know of a worker.

    Parameters
    ----------
    address
        Of the worker, for Dask.
    info
        What Dask knows of it.
    is_tagged
        Whether its resources say what it is for; else it is for everything that needs no GPU.
    """
    resources: dict[Any, int] = {k: int(v) for k, v in info["resources"].items()} if is_tagged else dict(_VANILLA)
    nthreads = int(info["nthreads"])
    amounts = [resources[key] for key in ("compute", "CPU", "CUDA") if key in resources] if is_tagged else []
    worker = Worker(str(info["name"]), str(info["host"]), resources, nthreads)
    slots = max(1, min([nthreads, *amounts]))
    return Station(address, worker, is_tagged and not resources, slots, info.get(PID), is_tagged)


def make_workers(stations: Mapping[str, Station]) -> WorkerSet:
    """Return the workers, sorted by name."""
    return WorkerSet([s.worker for s in sorted(stations.values(), key=lambda s: _by_number(s.worker.name))])


def _by_number(name: str) -> tuple[Any, ...]:
    """Sort cpu-2 before cpu-10, and services last, as `cluster_spec` does."""
    head, _, tail = name.rpartition("-")
    return ("service" in name, head, int(tail) if tail.isdecimal() else -1, name)


class Roster:
    """Tells a courier of workers that come and go.

    Parameters
    ----------
    courier
        Is told, in the event loop.
    is_tagged
        Whether the workers have the resources of `cluster_spec`; None: when one comes that has.
    on_change
        Called in the event loop with ``"worker_joined"``, ``"worker_described"`` (anew) or ``"worker_lost"``, and the
        worker.
    on_shortage
        Called in the event loop now and then while there are fewer workers than there were.
    """

    def __init__(
        self,
        courier: Courier,
        is_tagged: bool | None,
        on_change: Callable[[str, Worker], None],
        on_shortage: Callable[[], None],
    ) -> None:
        self.is_tagged = bool(is_tagged)
        """Whether the workers that there are, or were, have the resources of `cluster_spec`."""
        self._can_find_tags = is_tagged is None
        self._courier = courier
        self._on_shortage = on_shortage
        self._client = courier.client
        self._on_change = on_change
        self._handlers: dict[str, Handler] = {}  # by topic
        self._gone: dict[str, float] = {}
        self._most = 0  # how many workers there have been at a time
        self._are_paused = False
        self._is_closed = False
        self._lost = asyncio.Event()
        self._lost_time = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def open(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin to listen, with the workers that are there now."""
        self._subscribe(self._courier.topic, lambda event: self._courier.on_message(event[1]))
        self._join_all(infos)
        self._asking = asyncio.ensure_future(self._ask_again_and_again())

    # ---- those who come ----

    def _join_all(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        known = self._courier.dispatch.stations
        if self._can_find_tags and not self.is_tagged and has_tags(infos):
            # Those who came before it may be for services, which nothing but this tells.
            self.is_tagged = True
            for address in known.keys() & infos.keys():
                station = make_station(address, infos[address], is_tagged=True)
                self._courier.dispatch.describe(station)
                self._on_change("worker_described", station.worker)
        for address, info in infos.items():
            # What the scheduler said a moment before must not bring back one that has left meanwhile.
            if address not in known and address not in self._gone:
                station = make_station(address, info, is_tagged=self.is_tagged)
                self._subscribe(address, partial(self._on_event, address))
                self._courier.join(station)
                self._on_change("worker_joined", station.worker)
        self._most = max(self._most, len(infos))
        for address in [a for a in known if a not in infos]:
            self._leave(address)

    async def _ask_again_and_again(self) -> None:
        """Find out who is new: often while somebody is missing, now and then otherwise."""
        while not self._is_closed:
            is_short = len(self._courier.dispatch.stations) < self._most or not self._courier.dispatch.stations
            self._lost.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), self._pause() if is_short else _LONG_SECONDS)
            if is_short:
                self._on_shortage()
            now = asyncio.get_running_loop().time()
            self._gone = {address: t for address, t in self._gone.items() if now - t < _GONE_SECONDS}
            try:
                infos = await identity(self._client)
                self._join_all(infos)
                self._note_paused(infos)
            except Exception as error:  # noqa: BLE001  (the scheduler is gone; runs find out by themselves)
                log.debug("could not ask the scheduler for its workers: %r", error)

    def _note_paused(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Say so when all workers have stopped taking tasks: a run may wait for ever."""
        was, self._are_paused = self._are_paused, _are_paused(infos)
        if self._are_paused and not was:
            log.warning(
                "all workers of the Dask cluster are paused, as their memory is nearly full, and runs wait until "
                "some is free: give them more (memory_limit), free what they hold (Client.restart), or use a timeout"
            )

    def _pause(self) -> float:
        since = asyncio.get_running_loop().time() - self._lost_time
        return _SOON_SECONDS if since < _RETURN_SECONDS else _SHORT_SECONDS

    async def expect(self, n: int) -> None:
        """Wait until there are `n` workers, which is from now on how many there should be."""
        self._most = n
        loop = asyncio.get_running_loop()
        until = loop.time() + _EXPECT_SECONDS
        while len(self._courier.dispatch.stations) != n and loop.time() < until:
            self._join_all(await identity(self._client))
            await asyncio.sleep(0.02)

    # ---- those who leave ----

    def _on_event(self, address: str, event: tuple[float, Any]) -> None:
        message = event[1]
        if not self._is_closed and isinstance(message, dict) and message.get("action") == "remove-worker":
            self._leave(address, is_expected=bool(message.get("expected")))

    def _leave(self, address: str, *, is_expected: bool = False) -> None:
        self._unsubscribe(address)
        self._gone[address] = self._lost_time = asyncio.get_running_loop().time()
        self._lost.set()
        station = self._courier.dispatch.stations.get(address)
        self._courier.leave(address, is_expected=is_expected)
        if station is not None:
            self._on_change("worker_lost", station.worker)

    # ---- topics ----

    def _subscribe(self, topic: str, handler: Handler) -> None:
        _Topic.of(self._client, topic).add(handler)
        self._handlers[topic] = handler

    def _unsubscribe(self, topic: str) -> None:
        handler = self._handlers.pop(topic, None)
        if handler is not None:
            _Topic.of(self._client, topic).remove(handler)

    def close(self) -> None:
        """Stop listening."""
        self._is_closed = True
        if self._asking is not None:
            self._asking.cancel()
        for topic in list(self._handlers):
            self._unsubscribe(topic)


class _Topic:
    """Those who listen to one topic of one client, of which Dask knows one only."""

    _known: ClassVar[weakref.WeakKeyDictionary[Any, dict[str, _Topic]]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, client: Any, topic: str) -> _Topic:
        """Return the topic of this client."""
        topics = cls._known.setdefault(client, {})
        if topic not in topics:
            topics[topic] = cls(client, topic)
        return topics[topic]

    def __init__(self, client: Any, topic: str) -> None:
        self._client = weakref.ref(client)
        self._name = topic
        self._handlers: list[Handler] = []
        self._owners: Any = None  # the handler of whoever owns the client

    def add(self, handler: Handler) -> None:
        """Let one more listen."""
        client = self._client()
        if client is not None and not self._handlers:
            owners = getattr(client, "_event_handlers", {}).get(self._name)
            self._owners = None if owners is _ignore else owners
            client.subscribe_topic(self._name, self._on_event)
        self._handlers.append(handler)

    def remove(self, handler: Handler) -> None:
        """Let one less listen; the last one leaves everything as it was."""
        self._handlers.remove(handler)
        client = self._client()
        if client is None or self._handlers or client.status != "running":
            return
        del self._known[client][self._name]
        if self._owners is not None:
            client.subscribe_topic(self._name, self._owners)
        else:
            client.unsubscribe_topic(self._name)
            # Events may be on their way, for which Dask wants a handler: without one it logs an error with a traceback.
            getattr(client, "_event_handlers", {})[self._name] = _ignore

    async def _on_event(self, event: tuple[float, Any]) -> None:
        for handler in list(self._handlers):
            handler(event)
        if self._owners is not None:
            result = self._owners(event)
            if inspect.isawaitable(result):
                await result


def _ignore(event: tuple[float, Any]) -> None:
    """Do nothing: nobody listens any more."""
