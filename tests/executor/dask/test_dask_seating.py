"""The seats of runs as the main side sees them, without Dask: which are claimed, what a batch brings, and the end."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.dask.seat import close_seats, end_run, feed, sit
from tilework.executor.dask.seating import HEIR_SECONDS, Claim, Seating
from tilework.executor.dask.worker import Batch, BatchReport
from tilework.executor.remote import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tilework.executor.dask.table import Feed

PARAMS: SharedSealed = seal("parameters", SharedSealed)
CLAIM = Claim("run", "tcp://one", 1, "name", {"priority": 10, "resources": None})
WITH_PARAMS = replace(CLAIM, content="p", params=PARAMS)


@dataclass(eq=False)
class Future:
    """A seat, as Dask has it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    status: str = "pending"
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._state = self
        self.seat: str = self.args[0]

    async def wait(self) -> None:
        await self.ended.wait()

    def end(self, status: str = "finished") -> None:
        self.status = status
        self.ended.set()


@dataclass(eq=False)
class Call:
    """A message to a worker, which waits for its answer."""

    address: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    answer: asyncio.Future[Any]

    @property
    def order(self) -> Feed:
        assert self.fn is feed
        order: Feed = self.args[0]
        return order


class Client:
    """Takes down what is asked of Dask and of the workers; the test answers."""

    def __init__(self) -> None:
        self.seats: list[Future] = []
        self.calls: list[Call] = []

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Future:
        assert fn is sit
        self.seats.append(Future(args, kwargs))
        return self.seats[-1]

    def rpc(self, address: str) -> Any:
        client = self

        class Rpc:
            async def run(self, *, function: bytes, args: bytes, kwargs: bytes, wait: bool) -> Any:
                assert (loads(kwargs), wait) == ({}, True)
                call = Call(address, loads(function), loads(args), asyncio.get_running_loop().create_future())
                client.calls.append(call)
                return {"status": "OK", "result": await call.answer}

        return Rpc()


class Desk:
    """A seating with its client."""

    def __init__(self) -> None:
        self.client = Client()
        self.failures: list[str] = []
        self.seating = Seating(self.client, self.failures.append)

    async def carry(self, claim: Claim = CLAIM, ident: str = "a", **kwargs: Any) -> asyncio.Task[BatchReport | None]:
        """Send a batch, as far as to its worker."""
        batch = Batch(ident, claim.run, (0,), None, None, (), None, "topic")
        task = asyncio.create_task(self.seating.carry(claim, batch, **kwargs))
        await settle()
        return task

    async def carry_out(self, claim: Claim = CLAIM, ident: str = "a", *, refused: bool = False) -> Feed:
        """Send a batch, and answer it; returns what the worker got."""
        task = await self.carry(claim, ident)
        call = self.client.calls[-1]
        call.answer.set_result(None if refused else BatchReport((), ()))
        assert (await task is None) == refused
        return call.order


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def in_loop(main: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def with_desk() -> None:
        desk = Desk()
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await main(desk)
        await desk.seating.close(0.0)
        for call in desk.client.calls:
            call.answer.cancel()
        await settle()
        assert len(asyncio.all_tasks()) == 1, "something goes on"
        gc.collect()
        assert unheard == []

    asyncio.run(with_desk())


# ---- seats ----


def test_the_first_batch_claims_a_seat() -> None:
    """Which Dask knows under the name of the run, with its options; the batch names it, and those after it do."""

    async def main(desk: Desk) -> None:
        first = await desk.carry_out()
        (seat,) = desk.client.seats
        assert seat.args == (seat.seat, "run", 10, None, None)
        assert seat.kwargs == {
            "key": f"name-{seat.seat}",
            "workers": ["tcp://one"],
            "pure": False,
            "priority": 10,
            "resources": None,
        }
        assert first.seats == {seat.seat}
        assert (first.priority, first.content) == (10, None)
        assert desk.client.calls[0].address == "tcp://one"
        assert (await desk.carry_out(ident="b")).seats == {seat.seat}
        assert len(desk.client.seats) == 1

    in_loop(main)


def test_a_seat_for_each_batch_up_to_the_slots() -> None:
    """Another one is claimed only when all are busy, and never more than the worker has threads."""

    async def main(desk: Desk) -> None:
        claim = replace(CLAIM, slots=2)
        await desk.carry_out(claim)
        tasks = [await desk.carry(claim, "b")]
        assert len(desk.client.seats) == 1, "it had nothing to do"
        tasks.append(await desk.carry(claim, "c"))
        assert len(desk.client.seats) == 2
        tasks.append(await desk.carry(claim, "d"))
        assert len(desk.client.seats) == 2
        assert desk.client.calls[-1].order.seats == {seat.seat for seat in desk.client.seats}
        for call in desk.client.calls[1:]:
            call.answer.set_result(BatchReport((), ()))
        await asyncio.gather(*tasks)

    in_loop(main)


def test_every_run_has_seats_of_its_own_at_each_worker() -> None:
    """No seat is shared between workers, or runs of the same time."""

    async def main(desk: Desk) -> None:
        claims = [CLAIM, replace(CLAIM, run="other"), replace(CLAIM, address="tcp://two")]
        orders = [await desk.carry_out(claim) for claim in claims]
        assert [seat.kwargs["workers"] for seat in desk.client.seats] == [["tcp://one"], ["tcp://one"], ["tcp://two"]]
        assert len(frozenset().union(*(order.seats for order in orders))) == 3

    in_loop(main)


@pytest.mark.parametrize("how", ["refused", "ended"])
def test_a_seat_that_is_gone_is_replaced(how: str) -> None:
    """Whether the worker says so, or Dask: the next batch gets a new one."""

    async def main(desk: Desk) -> None:
        old = await desk.carry_out(refused=how == "refused")
        if how == "ended":
            desk.client.seats[0].end()
            await settle()
        new = await desk.carry_out(ident="b")
        assert len(desk.client.seats) == 2
        assert new.seats.isdisjoint(old.seats)
        assert desk.failures == []

    in_loop(main)


def test_a_refused_batch_gives_up_no_younger_seat() -> None:
    """It says nothing of a seat that it did not know of."""

    async def main(desk: Desk) -> None:
        claim = replace(CLAIM, slots=2)
        first = await desk.carry(claim, "a")
        second = await desk.carry(claim, "b")
        one, two = (seat.seat for seat in desk.client.seats)
        calls = list(desk.client.calls)
        assert [call.order.seats for call in calls] == [{one}, {one, two}]
        calls[0].answer.set_result(None)
        assert await first is None
        assert (await desk.carry_out(claim, "c")).seats > {two}
        calls[1].answer.set_result(BatchReport((), ()))
        await second

    in_loop(main)


@pytest.mark.parametrize("status", ["cancelled", "error", "lost"])
def test_a_seat_that_dask_has_given_up(status: str) -> None:
    """The run is told, and the worker: what waits for that seat must not wait for ever."""

    async def main(desk: Desk) -> None:
        waiting = await desk.carry()
        desk.client.seats[0].end(status)
        await settle()
        assert desk.failures == ["run"]
        told = desk.client.calls[-1]
        assert (told.address, told.fn, told.args) == ("tcp://one", close_seats, (frozenset({"run-s0"}),))
        told.answer.set_result(None)
        desk.client.calls[0].answer.set_result(None)
        assert await waiting is None

    in_loop(main)


def test_a_batch_says_which_one_is_before_it() -> None:
    """The one that was sent last to the same worker, as long as that is not answered; their numbers rise."""

    async def main(desk: Desk) -> None:
        tasks = [await desk.carry(ident=ident) for ident in "abc"]
        tasks.append(await desk.carry(replace(CLAIM, address="tcp://two"), "d"))
        orders = [call.order for call in desk.client.calls]
        assert [order.after for order in orders] == [None, "a", "b", None]
        assert orders[0].number < orders[1].number < orders[2].number
        for call in reversed(desk.client.calls):
            call.answer.set_result(BatchReport((), ()))
        await asyncio.gather(*tasks)
        assert (await desk.carry_out(ident="e")).after is None

    in_loop(main)


# ---- parameters ----


def test_parameters_travel_with_a_batch_until_they_are_there() -> None:
    """That is known when a batch that brought them was done."""

    async def main(desk: Desk) -> None:
        claim = replace(WITH_PARAMS, slots=2)
        tasks = [await desk.carry(claim, "a"), await desk.carry(claim, "b")]
        for call in desk.client.calls:
            assert call.order.params is not None, "the first may still be on its way"
            assert call.order.params.open() == "parameters"
            call.answer.set_result(BatchReport((), ()))
        await asyncio.gather(*tasks)
        known = await desk.carry_out(claim, "c")
        assert (known.content, known.params) == ("p", None)
        assert (await desk.carry_out(replace(claim, content="q"), "d")).params is not None

    in_loop(main)


@pytest.mark.parametrize("how", ["refused", "ended"])
def test_parameters_travel_again(how: str) -> None:
    """A seat that goes may take them with it."""

    async def main(desk: Desk) -> None:
        await desk.carry_out(WITH_PARAMS)
        if how == "refused":
            await desk.carry_out(WITH_PARAMS, "b", refused=True)
        else:
            desk.client.seats[0].end()
            await settle()
        assert (await desk.carry_out(WITH_PARAMS, "c")).params is not None

    in_loop(main)


def test_large_parameters_come_with_the_seat() -> None:
    """Dask brings them to the worker, once; other ones need another seat."""

    async def main(desk: Desk) -> None:
        large = replace(WITH_PARAMS, params_future="future of p")
        first = await desk.carry_out(large)
        assert desk.client.seats[0].args[3:] == ("p", "future of p")
        assert (first.content, first.params) == ("p", None)
        assert (await desk.carry_out(large, "b")).seats == first.seats
        other = await desk.carry_out(replace(large, content="q", params_future="future of q"), "c")
        assert desk.client.seats[1].args[3:] == ("q", "future of q")
        assert other.seats == {desk.client.seats[1].seat}
        assert other.seats.isdisjoint(first.seats), "that one has other parameters"

    in_loop(main)


def test_where_dask_holds_the_items() -> None:
    """The key of large items travels in their place."""

    async def main(desk: Desk) -> None:
        task = await desk.carry(items_key="key")
        assert desk.client.calls[0].order.items_key == "key"
        desk.client.calls[0].answer.set_result(BatchReport((), ()))
        await task

    in_loop(main)


# ---- the end ----


def test_the_end_of_a_run() -> None:
    """Its workers are told, and those of other runs are not; a seat that does something is not wanted any more."""

    async def main(desk: Desk) -> None:
        claim = replace(CLAIM, content="p", params_future="which no other run can use")
        await desk.carry_out(claim)
        await desk.carry_out(replace(CLAIM, run="other", address="tcp://two"))
        busy = await desk.carry(replace(CLAIM, address="tcp://two"))
        gone = frozenset({desk.client.seats[0].seat, desk.client.seats[2].seat})
        n_watches = len(asyncio.all_tasks()) - 2
        assert desk.seating.end("run") == ({"tcp://one", "tcp://two"}, gone)
        await settle()
        assert len(asyncio.all_tasks()) - 2 == n_watches - 2, "their futures are let go of"
        assert desk.seating.end("run") == (set(), frozenset())
        desk.client.calls[-1].answer.set_result(None)
        await busy
        desk.seating.tell_end("run", {"tcp://one"}, gone)
        await settle()
        told = desk.client.calls[-1]
        assert (told.address, told.fn, told.args) == ("tcp://one", end_run, ("run", gone))
        told.answer.set_exception(OSError("it is gone"))  # which is no error: then nothing is left there
        await settle()

    in_loop(main)


def test_the_next_run_inherits_seats() -> None:
    """One of the same name and options, at the same worker; each seat has one heir."""

    async def main(desk: Desk) -> None:
        first = await desk.carry_out(WITH_PARAMS)
        assert desk.seating.end("run") == ({"tcp://one"}, frozenset())
        second = await desk.carry_out(replace(WITH_PARAMS, run="second"))
        assert (second.seats, second.gone) == (first.seats, frozenset())
        assert second.params is not None, "those of another run are not its own"
        third = await desk.carry_out(replace(WITH_PARAMS, run="third"))
        assert third.seats.isdisjoint(first.seats)
        assert len(desk.client.seats) == 2
        desk.client.seats[0].end()
        await settle()
        assert (await desk.carry_out(replace(WITH_PARAMS, run="second"), "b")).seats.isdisjoint(first.seats)
        assert desk.failures == []

    in_loop(main)


@pytest.mark.parametrize("change", [{"name": "b"}, {"options": {"priority": 20, "resources": None}}])
def test_seats_that_the_next_run_cannot_use(change: dict[str, Any]) -> None:
    """They make way for it, at that worker; Dask knows a seat by the name of what it does."""

    async def main(desk: Desk) -> None:
        first = await desk.carry_out()
        elsewhere = await desk.carry_out(replace(CLAIM, address="tcp://two"))
        desk.seating.end("run")
        n_tasks = len(asyncio.all_tasks())
        other = await desk.carry_out(replace(CLAIM, run="other", **change))
        assert other.gone == first.seats
        assert other.seats.isdisjoint(first.seats)
        assert len(asyncio.all_tasks()) == n_tasks, "one seat for the other"
        assert (await desk.carry_out(replace(CLAIM, run="third", address="tcp://two"))).seats == elsewhere.seats

    in_loop(main)


@pytest.mark.parametrize("status", ["finished", "cancelled"])
def test_a_seat_that_ends_without_an_heir(status: str) -> None:
    """It is forgotten, and nobody needs to be told; so is one that has waited too long."""

    async def main(desk: Desk) -> None:
        await desk.carry_out()
        desk.seating.end("run")
        desk.client.seats[0].end(status)
        await settle()
        assert len(asyncio.all_tasks()) == 1
        await desk.carry_out(replace(CLAIM, run="second"))
        assert len(desk.client.seats) == 2
        desk.seating.end("second")
        await asyncio.sleep(1.1 * HEIR_SECONDS)
        third = await desk.carry_out(replace(CLAIM, run="third"))
        assert third.gone == {desk.client.seats[1].seat}
        assert third.seats == {desk.client.seats[2].seat}
        assert desk.failures == []

    in_loop(main)


def test_a_worker_is_lost() -> None:
    """Its seats are forgotten with it: one that comes back under its address knows nothing of them."""

    async def main(desk: Desk) -> None:
        await desk.carry_out(WITH_PARAMS)
        desk.seating.lose("tcp://elsewhere")
        desk.seating.lose("tcp://one")
        await settle()
        assert len(asyncio.all_tasks()) == 1
        await desk.carry_out(replace(WITH_PARAMS, run="other"))
        desk.seating.end("other")
        desk.seating.lose("tcp://one")
        await settle()
        assert len(asyncio.all_tasks()) == 1
        desk.client.seats.pop()
        new = await desk.carry_out(WITH_PARAMS, "b")
        assert len(desk.client.seats) == 2
        assert new.seats == {desk.client.seats[1].seat}
        assert new.params is not None

    in_loop(main)


def test_a_batch_that_fails_leaves_the_seat_free() -> None:
    """The error is the caller's; the seat counts as having nothing to do again."""

    async def main(desk: Desk) -> None:
        claim = replace(CLAIM, slots=2)
        task = await desk.carry(claim)
        desk.client.calls[0].answer.set_exception(OSError("broken"))
        with pytest.raises(OSError, match="broken"):
            await task
        await desk.carry_out(claim, "b")
        assert len(desk.client.seats) == 1

    in_loop(main)


def test_close() -> None:
    """Everything is given up, and what is being told goes on."""

    async def main(desk: Desk) -> None:
        await desk.carry_out()
        desk.seating.tell_end("run", {"tcp://one"}, frozenset())
        await settle()
        closing = asyncio.create_task(desk.seating.close(10.0))
        await settle()
        assert not closing.done(), "messages are on their way"
        told = [call for call in desk.client.calls if not call.answer.done()]
        assert [call.fn for call in told] == [end_run, close_seats]
        for call in told:
            call.answer.set_result(None)
        desk.client.seats[0].end()
        await closing

    in_loop(main)


def test_a_call_is_not_broken_off() -> None:
    """Dask would lose a connection that is being made: who gives a batch up lets its message go on."""

    async def main(desk: Desk) -> None:
        task = await desk.carry()
        task.cancel()
        await settle()
        assert task.cancelled()
        assert not desk.client.calls[0].answer.cancelled()
        desk.client.calls[0].answer.set_exception(OSError("nobody is there to hear of it"))

    in_loop(main)


def test_close_gives_up_what_takes_too_long() -> None:
    """A worker that does not answer is not waited for for ever."""

    async def main(desk: Desk) -> None:
        await desk.carry_out()
        desk.seating.tell_end("run", {"tcp://one"}, frozenset())
        await settle()
        await desk.seating.close(0.01)
        assert [call.fn for call in desk.client.calls if not call.answer.done()] == [end_run, close_seats]

    in_loop(main)
