"""Who gets which tickets: decisions, without any worker."""

from __future__ import annotations

import itertools
from typing import Any

from tilework.common.executor import Priority
from tilework.common.scheduler import Worker
from tilework.executor.dask.dispatch import MAX_BATCH, SHARE_SECONDS, Dispatch, Recall, Send
from tilework.executor.dask.lanes import BATCH_SECONDS, FIRST_PATIENCE, PATIENCE, Lane, Need, Sent, Station
from tilework.executor.run import Ticket

CPU = frozenset({("CPU", 1)})


def station(name: str, host: str = "here", slots: int = 1, resources: Any = None) -> Station:
    resources = {"CPU": 1} if resources is None else resources
    return Station(name, Worker(name, host, resources, slots), not resources, slots)


def tickets(n: int, first: int = 0) -> list[Ticket[Any]]:
    return [Ticket(i, i, None) for i in range(first, first + n)]


def make(*stations: Station) -> Dispatch:
    dispatch = Dispatch()
    for each in stations:
        dispatch.join(each)
    return dispatch


def test_what_comes_back_is_before_what_came_later() -> None:
    """Whichever of two batches comes back first: a later one may never end."""
    dispatch = make(station("one"))
    lane = Lane("run", Priority.BATCH, mean_seconds=BATCH_SECONDS / 2)
    dispatch.put(lane, Need(CPU), tickets(8))
    first, second = send_all(dispatch)
    for sent in (first, second):
        dispatch.put_back(sent, list(sent.tickets))
    assert [ticket.number for _, queue in lane.waiting() for ticket in queue] == list(range(8))


def send_all(dispatch: Dispatch, now: float = 0.0) -> list[Sent]:
    """Do everything that is to be done now, as long as that is sending."""
    sent = []
    while isinstance(action := dispatch.next(now), Send):
        sent.append(action.sent)
    return sent


def where(sent: list[Sent]) -> list[tuple[str, list[int]]]:
    return [(each.station.address, list(each.tickets)) for each in sent]


def answer(dispatch: Dispatch, sent: Sent, now: float = 0.0) -> None:
    sent.tickets.clear()
    dispatch.done(sent, now)


def test_one_runs_and_one_waits() -> None:
    """Each worker gets two batches of one ticket, as long as nobody knows how long they take."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(10))
    sent = send_all(dispatch)
    assert where(sent) == [("a", [0]), ("b", [1]), ("a", [2]), ("b", [3])]
    answer(dispatch, sent[1])
    assert where(send_all(dispatch)) == [("b", [4])]


def test_short_tasks_go_in_batches() -> None:
    """A batch is worth a certain time, has at most so many tickets, and leaves work for the others."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE, mean_seconds=BATCH_SECONDS / 5)
    dispatch.put(lane, Need(CPU), tickets(100))
    assert [len(sent.tickets) for sent in send_all(dispatch)] == [5, 5, 5, 5]
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE, mean_seconds=0.0)
    dispatch.put(lane, Need(CPU), tickets(40))
    assert [len(sent.tickets) for sent in send_all(dispatch)] == [20, 10, 5, 3]
    dispatch.put(lane, Need(CPU), tickets(1000))
    dispatch.join(station("c"))
    assert max(len(sent.tickets) for sent in send_all(dispatch)) == MAX_BATCH
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE, mean_seconds=SHARE_SECONDS / 3)
    dispatch.put(lane, Need(CPU), tickets(10))
    assert [len(sent.tickets) for sent in send_all(dispatch)] == [3, 3, 2, 1], "less is not worth a message"


def test_runs_take_turns_and_priority_goes_first() -> None:
    """Equal runs get a batch in turn; a higher priority goes before them."""
    dispatch = make(station("a", slots=3))
    lanes = [Lane(name, Priority.INTERACTIVE) for name in "xy"]
    for lane in lanes:
        dispatch.put(lane, Need(CPU), tickets(5))
    live = Lane("live", Priority.LIVE)
    dispatch.put(live, Need(CPU), tickets(2))
    assert [sent.lane.run for sent in send_all(dispatch)] == ["live", "live", "x", "y", "x", "y"]


def test_a_run_of_higher_priority_makes_room() -> None:
    """What waits behind a running batch of lower priority is recalled, and goes back to the front of its lane."""
    dispatch = make(station("a"))
    low, high = Lane("low", Priority.BATCH), Lane("high", Priority.LIVE)
    dispatch.put(low, Need(CPU), tickets(5))
    first, second = send_all(dispatch)
    dispatch.put(high, Need(CPU), tickets(1))
    action = dispatch.next(0.0)
    assert isinstance(action, Recall)
    assert action.sent is second
    assert dispatch.next(0.0) is None, "one recall at a time"
    dispatch.done(second, 0.0)
    dispatch.put_back(second, list(second.tickets))
    assert [sent.lane.run for sent in send_all(dispatch)] == ["high"]
    answer(dispatch, first)
    assert where(send_all(dispatch)) == [("a", [1])]


def test_an_idle_worker_helps_a_late_one() -> None:
    """When a worker takes longer than expected, what it has not begun is recalled for one that is idle."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(4))
    sent = send_all(dispatch)
    for each in (sent[1], sent[3]):
        answer(dispatch, each)
    assert dispatch.next(PATIENCE / 2) is None
    assert dispatch.is_restless()
    action = dispatch.next(2 * PATIENCE)
    assert isinstance(action, Recall)
    assert action.sent is sent[2]
    dispatch.done(sent[2], 0.0)
    dispatch.put_back(sent[2], list(sent[2].tickets))
    assert where(send_all(dispatch)) == [("b", [2])]


def test_what_runs_is_not_recalled() -> None:
    """One task that is known to run stays where it is, however long it takes; so does the rest of a batch."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE, mean_seconds=0.0)
    dispatch.put(lane, Need(CPU), tickets(1))
    (sent,) = send_all(dispatch)
    assert dispatch.next(FIRST_PATIENCE / 2) is None, "it is the first batch of this worker"
    dispatch.stations["a"].prove()
    assert dispatch.next(PATIENCE / 2) is None
    assert dispatch.next(2 * PATIENCE) == Recall(sent), "it may not have begun"
    assert dispatch.next(9e9) is None, "it is asked once"
    sent.is_being_recalled, sent.was_recalled = False, True
    assert dispatch.next(9e9) is None
    assert not dispatch.is_restless()
    only_a = Need(CPU, addresses=frozenset("a"))
    dispatch.put(lane, only_a, tickets(3, 10))
    send_all(dispatch)
    dispatch.put(lane, Need(CPU), tickets(1, 20))
    for each in lane.sent.values():
        each.was_recalled = True
    send_all(dispatch)
    assert dispatch.next(9e9) is None


def test_tasks_stay_with_their_data() -> None:
    """They wait for a worker on the host with the data, also when it has just lost its last one; then they go on."""
    dispatch = make(station("a", "left"), station("b", "right"))
    lane = Lane("run", Priority.INTERACTIVE)
    need = Need(CPU, hosts=frozenset({"right"}))
    dispatch.put(lane, need, tickets(5))
    assert {sent.station.address for sent in send_all(dispatch)} == {"b"}
    lost = dispatch.leave("b")
    assert [list(sent.tickets) for sent in lost] == [[0], [1]]
    assert dispatch.next(0.0) is None
    assert dispatch.stranded() == [(lane, need)]
    dispatch.give_up_host("right")
    assert {sent.station.address for sent in send_all(dispatch)} == {"a"}
    unknown = Need(CPU, hosts=frozenset({"nowhere"}))
    assert dispatch.fitting(unknown), "a host that nobody knows is not waited for"


def test_functions_do_not_wait_for_long_ones() -> None:
    """Where all services are busy for longer than a moment, they go to workers that are idle, but not to others."""
    dispatch = make(station("s", resources={}), station("a"), station("b"))
    services, functions = Need(is_service=True), Lane("functions", Priority.INTERACTIVE)
    dispatch.put(functions, services, tickets(2))
    assert where(send_all(dispatch)) == [("s", [0]), ("s", [1])]
    assert dispatch.next(PATIENCE) is None
    dispatch.put(Lane("tasks", Priority.INTERACTIVE), Need(CPU), tickets(1))
    assert where(send_all(dispatch)) == [("a", [0])]
    late = 2 * PATIENCE
    action = dispatch.next(late)
    assert isinstance(action, Recall)
    assert list(action.sent.tickets) == [1]
    dispatch.done(action.sent, 0.0)
    dispatch.put_back(action.sent, [1])
    assert where(send_all(dispatch, late)) == [("b", [1])]
    dispatch.put(functions, services, tickets(1, first=2))
    assert where(send_all(dispatch, late)) == [("s", [2])], "nobody is idle"


def test_services_are_kept_free() -> None:
    """Functions go to service workers where there are any, tasks never do; without any, functions go anywhere."""
    dispatch = make(station("a"), station("s", resources={}))
    assert [s.address for s in dispatch.fitting(Need(is_service=True))] == ["s"]
    assert [s.address for s in dispatch.fitting(Need())] == ["a"]
    assert dispatch.concurrency() == 1
    dispatch.leave("s")
    assert [s.address for s in dispatch.fitting(Need(is_service=True))] == ["a"]
    dispatch.leave("a")
    dispatch.join(station("s", resources={}))
    assert [s.address for s in dispatch.fitting(Need())] == ["s"]
    assert dispatch.fitting(Need(CPU)) == []


def test_suspects_have_a_worker_for_themselves() -> None:
    """A task that was lost goes alone, to a worker that has shown that it works, while the others go on elsewhere."""
    dispatch = make(station("old"), station("new"))
    lane = Lane("run", Priority.INTERACTIVE, mean_seconds=0.0)
    dispatch.stations["old"].is_proven = True
    lane.suspects = {0, 1}
    dispatch.put(lane, Need(CPU), tickets(10))
    sent = send_all(dispatch)
    assert ("old", [0]) in where(sent)
    assert all(each.station.address == "new" for each in sent if 0 not in each.tickets)
    assert all(1 not in each.tickets for each in sent), "only one worker has shown that it works"
    answer(dispatch, next(each for each in sent if 0 in each.tickets))
    assert where(send_all(dispatch)) == [("old", [1])]


def test_a_run_that_is_over() -> None:
    """Nothing of it is sent, or taken back, any more."""
    dispatch = make(station("a"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(10))
    sent = send_all(dispatch)
    assert dispatch.drop(lane) == sent
    dispatch.put_back(sent[0], list(sent[0].tickets))
    dispatch.done(sent[0], 0.0)
    assert dispatch.next(0.0) is None
    assert dispatch.drop(lane) == sent[1:]


def give_back(dispatch: Dispatch, sent: Sent, now: float) -> None:
    """The worker of a batch that was recalled had begun nothing of it."""
    dispatch.note_unbegun(sent, now)
    dispatch.done(sent, now)
    dispatch.put_back(sent, list(sent.tickets))


def move(dispatch: Dispatch, now: float) -> list[tuple[str, list[int]]]:
    """Let the only batch be recalled at this time, and sent again."""
    action = dispatch.next(now)
    assert isinstance(action, Recall)
    give_back(dispatch, action.sent, now)
    return where(send_all(dispatch, now))


def test_a_worker_that_somebody_else_has() -> None:
    """What it has not begun goes to another one, and what comes later as well, until it has worked again."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(1))
    assert where(send_all(dispatch)) == [("a", [0])]
    assert dispatch.next(0.1) is None, "nobody knows how fast it is"
    assert move(dispatch, 0.6) == [("b", [0])]
    dispatch.put(lane, Need(CPU), tickets(2, 1))
    first, second = send_all(dispatch, now=0.6)
    assert where([first, second]) == [("b", [1]), ("a", [2])], "when the others have enough"
    dispatch.stations["a"].prove()
    for sent in (*dispatch.stations["b"].sent.values(), second):
        answer(dispatch, sent, 0.6)
    dispatch.put(lane, Need(CPU), tickets(1, 3))
    assert where(send_all(dispatch, now=0.6)) == [("a", [3])]


def test_a_new_worker_is_given_time_once() -> None:
    """What comes after the batch that it did not begin is recalled as soon as from any other."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(1))
    send_all(dispatch)
    move(dispatch, 0.6)
    dispatch.put(lane, Need(CPU), tickets(2, 1))
    assert where(send_all(dispatch, now=0.6)) == [("b", [1]), ("a", [2])]
    for sent in list(dispatch.stations["b"].sent.values()):
        answer(dispatch, sent, 0.6)
    assert move(dispatch, 0.7) == [("b", [2])]


def test_a_suspect_avoids_a_worker_that_somebody_else_has() -> None:
    """Also when both have shown that they work."""
    dispatch = make(station("a"), station("b"))
    for each in dispatch.stations.values():
        each.prove()
    lane = Lane("run", Priority.INTERACTIVE, suspects={0})
    dispatch.put(lane, Need(CPU), tickets(1))
    assert where(send_all(dispatch)) == [("a", [0])]
    assert move(dispatch, 0.1) == [("b", [0])]


def test_all_workers_are_somebody_elses() -> None:
    """A ticket goes from one to the other ever more rarely, so that each has it at last when a thread becomes free."""
    dispatch = make(station("a"), station("b"))
    lane = Lane("run", Priority.INTERACTIVE)
    dispatch.put(lane, Need(CPU), tickets(1))
    send_all(dispatch)
    moves, now = [0.0], 0.0
    while now < 600:
        now += 0.1
        if (action := dispatch.next(now)) is not None:
            assert isinstance(action, Recall)
            give_back(dispatch, action.sent, now)
            assert [each.station is not action.sent.station for each in send_all(dispatch, now)] == [True]
            moves.append(now)
        assert dispatch.is_restless()
    stays = [b - a for a, b in itertools.pairwise(moves)]
    assert 8 < len(stays) < 30
    assert all(later >= earlier - 0.7 for earlier, later in itertools.pairwise(stays)), stays
    assert stays[0] < 0.7
    assert 20 < stays[-1] < 70


def test_threads_of_a_worker_that_are_somebody_elses() -> None:
    """A worker with several threads, none of which begins anything, has room for more, and is late all the same."""
    dispatch = make(station("a", slots=3), station("b", slots=3))
    dispatch.put(Lane("run", Priority.INTERACTIVE), Need(CPU), tickets(2))
    assert where(send_all(dispatch)) == [("a", [0]), ("b", [1])]
    (second,) = dispatch.stations["b"].sent.values()
    answer(dispatch, second)
    assert move(dispatch, 0.6) == [("b", [0])]


def test_what_is_recalled_before_it_could_begin() -> None:
    """It says nothing about the worker."""
    dispatch = make(station("a"), station("b"))
    dispatch.put(Lane("run", Priority.INTERACTIVE), Need(CPU), tickets(1))
    (sent,) = send_all(dispatch)
    give_back(dispatch, sent, PATIENCE / 2)
    assert where(send_all(dispatch, PATIENCE / 2)) == [("a", [0])]


def test_nothing_overtakes_what_waits_behind_others() -> None:
    """A worker that becomes idle gets what waits elsewhere with a higher priority, before anything of a lower one."""
    dispatch = make(station("a"), station("b"))
    lane, low = Lane("run", Priority.INTERACTIVE), Lane("low", Priority.BATCH)
    dispatch.put(lane, Need(CPU), tickets(4))
    sent = send_all(dispatch)
    assert where(sent) == [("a", [0]), ("b", [1]), ("a", [2]), ("b", [3])]
    dispatch.put(low, Need(CPU), tickets(4))
    answer(dispatch, sent[1])
    answer(dispatch, sent[3])
    action = dispatch.next(1.0)
    assert isinstance(action, Recall)
    assert action.sent is sent[2]
    assert dispatch.next(1.0) is None, "what comes back goes first"
    assert dispatch.is_restless()
    dispatch.put_back(sent[2], [2])
    dispatch.done(sent[2], 1.0)
    assert where(send_all(dispatch, now=1.0)) == [("b", [2]), ("a", [0]), ("b", [1])]


def test_a_recall_that_is_not_answered_holds_nobody_for_long() -> None:
    """A worker that does not answer delays runs of lower priority by a moment only."""
    dispatch = make(station("a"), station("b"))
    lane, low = Lane("run", Priority.INTERACTIVE), Lane("low", Priority.BATCH)
    dispatch.put(lane, Need(CPU), tickets(3))
    sent = send_all(dispatch)
    assert where(sent) == [("a", [0]), ("b", [1]), ("a", [2])]
    dispatch.put(low, Need(CPU), tickets(1))
    dispatch.done(sent[1], 1.0)
    assert isinstance(dispatch.next(1.0), Recall)
    assert dispatch.next(1.0) is None
    assert where(send_all(dispatch, now=1.0 + 2 * PATIENCE)) == [("b", [0])]
