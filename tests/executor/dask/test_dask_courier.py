"""What becomes of a batch that is recalled while its own answer is on its way, without Dask."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tilework.common.executor import Priority
from tilework.common.scheduler import Worker
from tilework.exceptions import ExecutorError
from tilework.executor.dask import scattered
from tilework.executor.dask.courier import Courier
from tilework.executor.dask.lanes import BATCH_SECONDS, Lane, Need, Sent, Station
from tilework.executor.dask.scattered import Scattered
from tilework.executor.dask.sealed import seal
from tilework.executor.dask.shipment import MAX_RETURNS, Shipment
from tilework.executor.dask.worker import BatchReport, Outcome
from tilework.executor.run import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def outcomes(*numbers: int) -> tuple[Outcome, ...]:
    return tuple(Outcome(number, 0.01, seal(number)) for number in numbers)


class Bench:
    """A courier with one worker, whose answers are the test's: to batches, and to what is recalled."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.answers: list[asyncio.Future[BatchReport]] = []
        self.recalled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client = SimpleNamespace(id="client", status="running", run=self._run)
        self.courier = Courier(client, None)  # type: ignore[arg-type]
        self.courier.carriage.run_batch = self._run_batch  # type: ignore[method-assign]
        self.courier.join(Station("one", Worker("one", "here", {}, 1), is_service=False, slots=1))
        self.got: list[int] = []
        self.lane = Lane("run", Priority.BATCH)
        self.shipment = Shipment(self.lane, lambda _: Need(), self._post, str)

    def _post(self, event: Any) -> None:
        if isinstance(event, Outcome):
            self.got.append(event.number)

    async def _run_batch(self, sent: Sent, shipment: Any) -> BatchReport:
        self.sent.append(sent)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def _run(self, *_: Any, **__: Any) -> Any:
        return {"one": await self.recalled}

    async def send(self, n: int) -> Sent:
        """Send a batch of so many tickets, and ask for it back."""
        self.courier._shipments["run"] = self.shipment
        self.lane.mean_seconds = BATCH_SECONDS / n
        self.courier.dispatch.put(self.lane, Need(), [Ticket(i, i, None) for i in range(2 * n)])
        self.courier._pump()
        await settle()
        first = self.sent[0]
        assert list(first.tickets) == list(range(n))
        self.courier._recalls[first.ident] = self.courier._spawn(self.courier._recall(first))
        await settle()
        return first


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def in_loop(main: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        worker = Bench()
        await asyncio.wait_for(main(worker), 10)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(bounded())


def test_the_batch_answers_first() -> None:
    """What was done before the recall is in the answer to that alone: it is waited for, and nothing is done twice."""

    async def main(worker: Bench) -> None:
        first = await worker.send(4)
        worker.answers[0].set_result(BatchReport(outcomes(2)))
        await settle()
        assert worker.got == [2]
        assert set(first.tickets) == {0, 1, 3}
        worker.recalled.set_result(BatchReport(outcomes(0, 1), (3,)))
        await settle()
        assert sorted(worker.got) == [0, 1, 2]
        assert first.tickets == {}
        again = [number for sent in worker.sent[2:] for number in sent.tickets]
        assert again[0] == 3
        assert not {0, 1, 2} & {*again, *(ticket.number for _, queue in worker.lane.waiting() for ticket in queue)}

    in_loop(main)


def test_the_recall_answers_first() -> None:
    """What had not begun goes to others, the rest is in the batch's own answer."""

    async def main(worker: Bench) -> None:
        first = await worker.send(4)
        worker.recalled.set_result(BatchReport(outcomes(0, 1), (3,)))
        await settle()
        assert worker.got == [0, 1]
        assert set(first.tickets) == {2}
        worker.answers[0].set_result(BatchReport(outcomes(2)))
        await settle()
        assert worker.got == [0, 1, 2]

    in_loop(main)


def test_nothing_was_left_to_recall() -> None:
    """The batch is done, and its answer is on its way, which may take long: it is waited for, not done again."""

    async def main(worker: Bench) -> None:
        first = await worker.send(4)
        worker.recalled.set_result(BatchReport(()))
        await settle()
        assert set(first.tickets) == {0, 1, 2, 3}
        worker.answers[0].set_result(BatchReport(outcomes(0, 1, 2, 3)))
        await settle()
        assert worker.got == [0, 1, 2, 3]

    in_loop(main)


def test_results_of_a_recall_wait_for_their_messages() -> None:
    """The run may be over with them, and messages come before that."""

    async def main(worker: Bench) -> None:
        first = await worker.send(2)
        worker.recalled.set_result(BatchReport(outcomes(0, 1), (), n_messages=1))
        await settle()
        assert worker.got == []
        first.n_messages = 1
        while not worker.got:  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0.001)
        assert worker.got == [0, 1]

    in_loop(main)


def test_the_run_ends_before_the_recall_begins() -> None:
    """Then there is nothing to ask for, and nothing is left of it."""

    async def main(worker: Bench) -> None:
        first = await worker.send(4)
        worker.recalled.set_result(BatchReport((), (3,)))
        await settle()
        recall = worker.courier._recalls[first.ident] = worker.courier._spawn(worker.courier._recall(first))
        del worker.courier._shipments["run"]
        await settle()
        assert recall.done()
        assert recall.exception() is None
        assert worker.courier._recalls == {}

    in_loop(main)


def shipment_with(params: Scattered) -> Shipment:
    return Shipment(Lane("run", Priority.BATCH), lambda _: Need(), lambda _: None, str, params=params)


def test_what_dask_gives_up_again_and_again_ends_the_run() -> None:
    """Also with parameters that are too small to be scattered, and so cannot be why."""
    shipment = shipment_with(Scattered("small"))
    for _ in range(MAX_RETURNS):
        shipment.count_return()
    shipment.check_returns("a reason")
    shipment.count_return()
    with pytest.raises(ExecutorError, match=r"again and again.* a reason"):
        shipment.check_returns("a reason")


def test_what_dask_gives_up_now_and_then_does_not_end_the_run() -> None:
    """Batches of a worker that is lost may come back before that is told: a long run may see that many times."""

    async def main(worker: Bench) -> None:
        worker.courier._shipments["run"] = worker.shipment
        for _ in range(2 * MAX_RETURNS):
            worker.shipment.count_return()
            worker.shipment.check_returns("a reason")
            worker.courier.dispatch.put(worker.lane, Need(), [Ticket(0, 0, None)])
            worker.courier._pump()
            await settle()
            worker.answers[-1].set_result(BatchReport(outcomes(0)))
            await settle()
        assert worker.got == [0] * 2 * MAX_RETURNS

    in_loop(main)


def test_lost_parameters_are_no_fault_of_the_run() -> None:
    """However many batches are given up because of that, until they are scattered again."""

    async def lose() -> None:
        params = Scattered("large")
        lost = SimpleNamespace(status="lost")

        async def scatter(*_: Any, **__: Any) -> Any:
            return lost

        client, content = SimpleNamespace(scatter=scatter), params.state[0]
        assert await content.future(client, "tcp://one", direct=False) is lost
        shipment = shipment_with(params)
        for _ in range(2 * MAX_RETURNS):
            shipment.count_return()
        assert shipment.returns == 0
        lost.status = "finished"
        await content.future(client, "tcp://one", direct=False)
        shipment.count_return()
        assert shipment.returns == 1

    asyncio.run(lose())


def test_parameters_do_not_wait_for_a_worker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is sent them instead, once; whoever waits gets them from there."""
    monkeypatch.setattr(scattered, "STUCK_SECONDS", 0.01)

    async def main() -> None:
        asked: list[str] = []

        async def scatter(obj: Any, workers: list[str], **_: Any) -> str:
            asked.extend(workers)
            if workers == ["stuck"]:
                await asyncio.Event().wait()
            return f"future at {workers[0]}"

        client, content = SimpleNamespace(scatter=scatter), Scattered("large").state[0]
        asking = [content.future(client, address, direct=True) for address in ("stuck", "stuck", "well", "other")]
        assert await asyncio.wait_for(asyncio.gather(*asking), 10) == ["future at well"] * 4
        assert asked == ["stuck", "well"]

    asyncio.run(main())
