"""Which batch of a Dask worker is whose: the decisions of `seat`, without any I/O.

A batch that was fed waits here for a seat of its run. It is answered exactly once, by whoever takes it from here: the
seat that does it, or whoever refuses it because no seat will.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tilework.executor.dask.latest_names import LatestNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilework.executor.dask.sealed import Sealed, SharedSealed
    from tilework.executor.dask.worker import Batch, BatchReport

__all__ = ["FIRST_SECONDS", "LINGER_SECONDS", "Fed", "Feed", "GivenUp", "Table"]

LINGER_SECONDS: Final = 1.0
"""How long a seat without work keeps its thread, when nobody else wants it: there may be another run at once."""

FIRST_SECONDS: Final = 0.02
"""How long it waits for its first batch, which is on its way: else two runs could chase each other away."""

LATE_SECONDS: Final = 0.5
"""How long it waits for a batch that was sent earlier than those that are here: it may be lost."""

_REMEMBERED: Final = 4096
"""How many seats that were given up, and batches that have come, are remembered."""

_KEPT_RUNS: Final = 16
"""Of how many runs without waiting batches parameters are kept: they are dropped with the end of a run, unless nobody
tells of that."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A batch, and what it needs: what the main side sends."""

    batch: Batch
    seats: frozenset[str]
    """The seats of the run at this worker: which are there, or on their way."""
    priority: int
    """As of Dask: the higher number goes first."""
    content: str | None
    """Names the parameters of the tasks; None: there are none."""
    number: int = 0
    """In the order in which the main side sends them; they may overtake each other on their way."""
    after: str | None = None
    """The batch of this run that was sent before this one, and was not answered yet."""
    params: SharedSealed | None = None
    """The parameters, unless they have been here before, or come with the seats."""
    items_key: str | None = None
    """Where Dask holds the items, if they do not come along."""
    gone: frozenset[str] = frozenset()
    """Seats of earlier runs, which have nothing to do and would be in the way."""


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """A batch that waits."""

    order: Feed
    items: Sealed | None
    tell: Callable[[BatchReport | None], None]
    """Answers it; None: nobody does it."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A seat is no more."""

    refused: list[Fed]
    """What waited for nobody else."""


@dataclass(eq=False)
class Table:
    """The seats and batches of one process. Not locked: whoever calls has the lock."""

    waiting: dict[str, deque[Fed]] = field(default_factory=dict)
    """Batches, by run."""
    taken: dict[str, set[str]] = field(default_factory=dict)
    """Seats that sit, with the runs that they had batches or parameters of."""
    fresh: set[str] = field(default_factory=set)
    """Those of them that have had no batch yet."""
    given_up: LatestNames = field(default_factory=lambda: LatestNames(_REMEMBERED))
    """Seats that are no more."""
    contents: OrderedDict[str, dict[str, SharedSealed]] = field(default_factory=OrderedDict)
    """Parameters, by run and name."""
    come: LatestNames = field(default_factory=lambda: LatestNames(_REMEMBERED))
    """Batches that are not to be expected any more."""

    # ---- batches ----

    def expect_no_more(self, ident: str) -> None:
        """Take note that a batch has come, or that it does not matter any more when it comes."""
        self.come.add(ident)

    def accept(self, fed: Fed, *, others_wait: bool) -> bool:
        """Let a batch wait for a seat; False: it needs a new one.

        Parameters
        ----------
        fed
            The batch.
        others_wait
            Whether a Dask task is ready here: a seat that sits is about to be given up then, unless this is what it
            has come for.
        """
        order, run = fed.order, fed.order.batch.run
        self.expect_no_more(order.batch.ident)
        sitting = order.seats & self.taken.keys()
        is_leaving = others_wait and bool(sitting) and self.fresh.isdisjoint(sitting)
        if self._is_hopeless(order.seats) or is_leaving:
            return False
        if order.content is not None and order.params is not None:
            self._keep(run, order.content, order.params)
        queue = self.waiting.setdefault(run, deque())
        queue.insert(sum(other.order.number <= order.number for other in queue), fed)
        return True

    def take_back(self, ident: str) -> Fed | None:
        """Take a batch away that waits; None when it does not."""
        every = (fed for queue in self.waiting.values() for fed in queue)
        found = next((fed for fed in every if fed.order.batch.ident == ident), None)
        if found is not None:
            self._remove(found)
        return found

    def forget(self, run: str) -> list[Fed]:
        """Forget a run; returns what waited."""
        for runs in self.taken.values():
            runs.discard(run)
        self.contents.pop(run, None)
        return list(self.waiting.pop(run, ()))

    def params_of(self, order: Feed) -> SharedSealed | None:
        """Return the parameters of a batch; None when it has none, or they are not here."""
        return None if order.content is None else self.contents.get(order.batch.run, {}).get(order.content)

    # ---- seats ----

    def sit_down(self, seat: str, run: str, content: str | None, params: SharedSealed | None) -> bool:
        """Take a seat, with the parameters that came with it; False when nobody expects it any more."""
        if seat in self.given_up:
            return False
        self.taken[seat] = {run}
        self.fresh.add(seat)
        if content is not None and params is not None:
            self._keep(run, content, params)
        return True

    def look(
        self, seat: str, priority: int, waited: float, patience: float, *, is_over: bool, others_wait: bool
    ) -> Fed | GivenUp | None:
        """Return the next batch of a seat, or that it is given up; None: it goes on waiting.

        Parameters
        ----------
        seat, priority
            Who asks.
        waited
            How long the seat has had nothing to do, in seconds.
        patience
            How long it waits even while others want its thread, in seconds.
        is_over
            Whether nobody wants it any more, because the program that it belongs to is gone.
        others_wait
            Whether a Dask task is ready here.
        """
        if seat not in self.taken:
            return GivenUp([])
        is_outranked = self._is_outranked(priority)
        fed = None if is_over or is_outranked else self._take(seat, is_late=waited >= LATE_SECONDS)
        if fed is not None:
            return fed
        is_late = waited >= LINGER_SECONDS
        if not (is_over or is_outranked or is_late or (waited >= patience and others_wait)):
            return None
        runs = list(self.taken[seat]) if is_over or is_late else []
        refused = self.give_up((seat,))
        for run in runs:
            refused += self.forget(run)
        return GivenUp(refused)

    def give_up(self, seats: Iterable[str]) -> list[Fed]:
        """Take note that these seats are no more; returns what waited for nobody else."""
        for seat in seats:
            self.taken.pop(seat, None)
            self.fresh.discard(seat)
            self.given_up.add(seat)
        every = (fed for queue in self.waiting.values() for fed in queue)
        refused = [fed for fed in every if self._is_hopeless(fed.order.seats)]
        for fed in refused:
            self._remove(fed)
        return refused

    def _take(self, seat: str, *, is_late: bool) -> Fed | None:
        """Take the next batch that is for this seat; one that came later may be for its successor only.

        What was sent first begins first: a later batch may be one that never ends.
        """
        firsts = [next((fed for fed in queue if seat in fed.order.seats), None) for queue in self.waiting.values()]
        ready = [
            fed
            for fed in firsts
            if fed is not None and (is_late or fed.order.after is None or fed.order.after in self.come)
        ]
        if not ready:
            return None
        fed = min(ready, key=lambda fed: fed.order.number)
        self.taken[seat].add(fed.order.batch.run)
        self.fresh.discard(seat)
        self._remove(fed)
        return fed

    def _is_outranked(self, priority: int) -> bool:
        """Return whether something waits that goes before this, and for a seat that is about to come."""
        return any(
            fed.order.priority > priority and self.taken.keys().isdisjoint(fed.order.seats)
            for queue in self.waiting.values()
            for fed in queue
        )

    def _is_hopeless(self, seats: frozenset[str]) -> bool:
        """Return whether none of these seats will ever sit."""
        return all(seat in self.given_up for seat in seats)

    def _remove(self, fed: Fed) -> None:
        run = fed.order.batch.run
        self.waiting[run].remove(fed)
        if not self.waiting[run]:
            del self.waiting[run]

    def _keep(self, run: str, content: str, params: SharedSealed) -> None:
        """Keep parameters; the first that come are those that stay, with what was made of them."""
        self.contents.setdefault(run, {}).setdefault(content, params)
        self.contents.move_to_end(run)
        # Without its parameters a batch that waits would be refused, and come again with them, behind all others.
        idle = [each for each in self.contents if each != run and each not in self.waiting]
        for each in idle[: max(0, len(idle) + 1 - _KEPT_RUNS)]:
            del self.contents[each]
