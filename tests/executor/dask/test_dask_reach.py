"""Which workers can be reached straight, without any worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from distributed.comm import listen

from tilework.common.scheduler import Worker
from tilework.executor.dask import reach as module
from tilework.executor.dask.lanes import Station
from tilework.executor.dask.reach import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CLIENT = SimpleNamespace(connection_args={})


def station(name: str, host: str = "here") -> Station:
    return Station(name, Worker(name, host, {}, 1), is_service=False, slots=1)


class Answers(Reach):
    """Tells what the test says, in turn."""

    def __init__(self, *answers: bool) -> None:
        super().__init__(CLIENT)
        self.answers = list(answers)
        self.tried: list[str] = []

    async def _try(self, address: str, seconds: float) -> bool:
        await asyncio.sleep(0)
        self.tried.append(address)
        return self.answers.pop(0)


def in_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 20)

    asyncio.run(bounded())


def test_each_host_is_tried_once() -> None:
    """Whoever asks, at the same time or later, gets the same answer; hosts differ."""

    async def main() -> None:
        reach = Answers(True, False)
        asked = [reach.is_direct(station(name)) for name in ("one", "two", "three")]
        assert await asyncio.gather(*asked) == [True] * 3
        assert await reach.is_direct(station("far", "elsewhere")) is False
        assert reach.tried == ["one", "far"]
        reach.close()

    in_loop(main)


def test_a_worker_that_answers_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again, and what comes after its answer goes straight to it; nobody waits for that."""
    monkeypatch.setattr(module, "LATER_SECONDS", (0.0,) * 5)

    async def main() -> None:
        reach = Answers(False, False, True)
        assert await reach.is_direct(station("one")) is False
        while not await reach.is_direct(station("one")):  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0)
        assert reach.tried == ["one"] * 3
        await asyncio.sleep(0.01)
        assert reach.tried == ["one"] * 3
        reach.close()

    in_loop(main)


def test_a_worker_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, until something changes on its host."""
    monkeypatch.setattr(module, "LATER_SECONDS", (0.0, 0.0))

    async def main() -> None:
        reach = Answers(False, False, False, True)
        assert await reach.is_direct(station("one")) is False
        await reach._later["here"]
        assert await reach.is_direct(station("one")) is False
        assert len(reach.tried) == 3
        reach.forget("here")
        assert await reach.is_direct(station("two")) is True
        assert reach.tried == ["one", "one", "one", "two"]
        reach.close()

    in_loop(main)


@pytest.mark.parametrize("how", ["forget", "close"])
def test_nothing_goes_on(how: str) -> None:
    """What is being found out is broken off when it is not wanted any more."""

    async def main() -> None:
        reach = Answers(False)
        assert await reach.is_direct(station("one")) is False
        if how == "forget":
            reach.forget("here")
        else:
            reach.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= {asyncio.current_task(), *_waiters()}

    def _waiters() -> set[Any]:
        return {task for task in asyncio.all_tasks() if "bounded" in repr(task.get_coro())}

    in_loop(main)


def test_what_listens_is_reached() -> None:
    """A listener of Dask is, a port that nobody listens at is not, nor one where nobody speaks."""

    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hang_up.wait()
            writer.close()
            await writer.wait_closed()

        hang_up = asyncio.Event()
        reach = Reach(CLIENT)
        async with listen("tcp://127.0.0.1:0", lambda comm: None) as listener:
            assert await reach._try(listener.contact_address, 10.0) is True
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert await reach._try(f"tcp://127.0.0.1:{port}", 0.2) is False
        (greeting,) = reach._greetings
        hang_up.set()
        assert await greeting is False
        server.close()
        await server.wait_closed()
        assert await reach._try(f"tcp://127.0.0.1:{port}", 0.2) is False

    in_loop(main)
