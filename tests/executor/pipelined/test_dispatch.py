"""Which ticket goes to which worker: decisions, without a worker."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tilework.common.executor import Priority
from tilework.common.scheduler import Worker
from tilework.executor.pipelined.dispatch import Dispatch, Item, RunLane, Station

CPU = (("CPU", 1),)
CUDA = (("CUDA", 1),)


def station(name: str, kind: str = "CPU") -> Station:
    resources: dict[Any, int] = {kind: 1}
    return Station(Worker(name, "localhost", resources, 1), is_ready=True)


class FakeWorkers:
    """Begins tickets when it is told to; knows what was begun."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.revoked: dict[str, int] = {}

    def revoke(self, station: Station, serial: int) -> int:
        self.revoked[station.worker.name] = serial
        return self.begun.get(station.worker.name, 0)

    def begin_next(self, station: Station) -> Item | None:
        """Begin the next ticket that was not taken back, as a worker would."""
        name = station.worker.name
        for item in station.items:
            if item.serial > max(self.begun.get(name, 0), self.revoked.get(name, 0)):
                self.begun[name] = item.serial
                return item
        return None


def make(*stations: Station) -> tuple[Dispatch, FakeWorkers]:
    workers = FakeWorkers()
    dispatch = Dispatch(workers.revoke)
    for each in stations:
        dispatch.add(each)
    return dispatch, workers


def items(lane: RunLane, n: int, **kwargs: Any) -> list[Item]:
    return [Item(lane, f"{i}", CPU, **kwargs) for i in range(n)]


def where(item: Item) -> str | None:
    return None if item.station is None else item.station.worker.name


def test_tickets_go_to_the_worker_with_fewest() -> None:
    """Two for each worker, alternately; the rest waits until one has room."""
    a, b = station("a"), station("b")
    dispatch, _ = make(a, b)
    tickets = items(RunLane(Priority.INTERACTIVE), 6)
    for ticket in tickets:
        dispatch.put([ticket])
    assert [where(t) for t in tickets] == ["a", "b", "a", "b", None, None]
    assert dispatch.completed(b, tickets[1]) == [tickets[4]]
    assert where(tickets[4]) == "b"


def test_workers_get_the_data_that_they_had_before() -> None:
    """Where there is a choice, and only there: nobody waits for it, and nothing goes to who cannot do it."""
    a, b = station("a"), station("b")
    dispatch, _ = make(a, b)
    lane = RunLane(Priority.INTERACTIVE)
    first = items(lane, 4)
    for ticket, data in zip(first, ("even", "odd", "even", "odd"), strict=True):
        ticket.data = data
        dispatch.put([ticket])
    assert [where(t) for t in first] == ["a", "b", "a", "b"]
    later = items(lane, 3)
    for ticket, data in zip(later, ("odd", "even", "new"), strict=True):
        ticket.data = data
        dispatch.put([ticket])
    assert dispatch.completed(a, first[0]) == [later[1]]  # not the first, which b has read before
    assert dispatch.completed(a, first[2]) == [later[2]]  # what nobody has read, rather than that
    assert dispatch.completed(a, later[1]) == [later[0]]  # b is busy: a does not wait for it
    bound = items(lane, 2)
    bound[0].target, bound[0].data, bound[1].data = "b", "new", "odd"
    for ticket in bound:
        dispatch.put([ticket])
    assert where(bound[0]) is None
    assert dispatch.completed(b, first[1]) == [bound[0]]


def test_more_of_short_tickets() -> None:
    """While a run's tickets are short, a worker has more of them, but never more than 32."""
    a = station("a")
    dispatch, _ = make(a)
    lane = RunLane(Priority.INTERACTIVE)
    lane.note_seconds(1e-6)
    for ticket in items(lane, 100):
        dispatch.put([ticket])
    assert len(a.items) == 32
    lane.note_seconds(10.0)
    dispatch.completed(a, a.items[0])
    assert len(a.items) == 31


def test_an_idle_worker_takes_over() -> None:
    """What a busy worker has not begun goes to one that has nothing to do."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    tickets = items(RunLane(Priority.INTERACTIVE), 3)
    for ticket in tickets:
        dispatch.put([ticket])
    workers.begin_next(a)
    workers.begin_next(b)
    assert where(tickets[2]) == "a"
    assert dispatch.completed(b, tickets[1]) == [tickets[2]]
    assert where(tickets[2]) == "b"
    assert list(a.items) == [tickets[0]]


def test_what_was_begun_stays() -> None:
    """A ticket that its worker begins at the same moment is not given to another as well."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    tickets = items(RunLane(Priority.INTERACTIVE), 3)
    for ticket in tickets:
        dispatch.put([ticket])
    workers.begun["a"] = tickets[2].serial
    assert dispatch.completed(b, tickets[1]) == []
    assert where(tickets[2]) == "a"


def test_bound_tickets_stay() -> None:
    """A ticket to which data was sent is not taken back."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    tickets = items(RunLane(Priority.INTERACTIVE), 3, is_bound=True)
    for ticket in tickets:
        dispatch.put([ticket])
    workers.begin_next(a)
    assert dispatch.completed(b, tickets[1]) == []
    assert where(tickets[2]) == "a"


def test_bound_tickets_that_were_lost_go_before_those_behind_them() -> None:
    """Data comes in order: who waits for what comes later must not have the worker that an earlier one needs."""
    one, two = station("a"), station("b")
    dispatch, _ = make(one, two)
    lane = RunLane(Priority.BATCH)
    work = [Item(lane, f"{i}", CPU, is_bound=True, place=i) for i in range(7)]
    assert [where(item) for item in dispatch.put(work)] == ["a", "b", "a", "b"]
    assert dispatch.lost(one) == [work[0], work[2]]
    new = station("new")
    dispatch.add(new)
    assert dispatch.ready(new) == []
    assert dispatch.completed(two, work[1]) == []
    again = [Item(lane, f"{i} again", CPU, is_bound=True, place=i) for i in (2, 0)]
    assert dispatch.put(again[:1]) == []
    assert dispatch.put(again[1:]) == [again[1], again[0], work[4]]
    assert lane.lost == set()
    assert dispatch.completed(two, work[3]) == [work[5]]


def test_urgent_tickets_go_first() -> None:
    """A ticket of higher priority takes the place of those that were sent but not begun."""
    a = station("a")
    dispatch, workers = make(a)
    batch, live = RunLane(Priority.BATCH), RunLane(Priority.LIVE)
    slow = items(batch, 3)
    for ticket in slow:
        dispatch.put([ticket])
    workers.begin_next(a)
    (urgent,) = items(live, 1)
    assert dispatch.put([urgent]) == [urgent]
    assert list(a.items) == [slow[0], urgent]
    assert dispatch.completed(a, slow[0]) == [slow[1]]


def test_each_of_several_urgent_tickets_finds_its_place() -> None:
    """Also the first, where its room is taken by the second, whose data that worker had before."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    live = RunLane(Priority.LIVE)
    for i, each in enumerate((b, a)):
        (before,) = dispatch.put([Item(live, None, CPU, target=each.worker.name, data=f"data {i}")])
        dispatch.completed(each, before)
    slow = items(RunLane(Priority.BATCH), 4)
    dispatch.put(slow)
    workers.begin_next(a)
    workers.begin_next(b)
    urgent = [Item(live, None, CPU, data=f"data {i}") for i in range(2)]
    dispatch.put(urgent)
    assert [where(ticket) for ticket in urgent] == ["b", "a"]


def test_who_loses_urgent_tickets_gets_other_work_at_once() -> None:
    """A worker that is idle takes over urgent ones that another was sent and has not begun; then both have work."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    urgent, slow = items(RunLane(Priority.LIVE), 4), items(RunLane(Priority.BATCH), 3)
    dispatch.put(urgent)
    dispatch.put(slow)
    assert [where(t) for t in urgent + slow] == ["a", "b", "a", "b", None, None, None]
    workers.begin_next(b)
    assert dispatch.completed(b, urgent[1]) == []  # it has one more, which is as urgent as what it could take over
    workers.begin_next(b)
    assert dispatch.completed(b, urgent[3]) == [urgent[0], urgent[2], slow[0], slow[1]]
    assert [where(t) for t in (urgent[0], urgent[2], slow[0], slow[1])] == ["b", "a", "a", "b"]
    assert where(slow[2]) is None


def test_resources_and_targets() -> None:
    """A ticket goes only where it fits, and does not hold up those behind it for others."""
    cpu, cuda = station("cpu"), station("cuda", "CUDA")
    dispatch, _ = make(cpu, cuda)
    lane = RunLane(Priority.INTERACTIVE)
    gpu_work = [Item(lane, str(i), CUDA) for i in range(3)]
    for each in gpu_work:
        dispatch.put([each])
    assert [where(i) for i in gpu_work] == ["cuda", "cuda", None]
    targeted = [Item(RunLane(Priority.INTERACTIVE), name, (), name) for name in ("cuda", "cpu")]
    for each in targeted:
        dispatch.put([each])
    assert where(targeted[1]) == "cpu"
    assert where(targeted[0]) is None


def test_ended_and_lost() -> None:
    """What waits is dropped with its run; what was sent is reported when its worker is lost."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    tickets = items(RunLane(Priority.INTERACTIVE), 6)
    for ticket in tickets:
        dispatch.put([ticket])
    workers.begin_next(a)
    assert dispatch.drop(tickets[0].lane) == tickets[4:]
    begun = workers.begun
    assert dispatch.at_work(tickets[0].lane, lambda s: begun.get(s.worker.name, 0)) == [a]
    assert dispatch.lost(a) == [tickets[0], tickets[2]]
    assert dispatch.at_work(tickets[0].lane, lambda s: begun.get(s.worker.name, 0)) == []
    assert dispatch.take_out(lambda _: False) == []


def test_what_is_behind_others_can_wait() -> None:
    """Only while a ticket of the same kind waits is it certain that nobody is idle who could do it."""
    dispatch, _ = make(station("a"), station("b"))
    lane = RunLane(Priority.INTERACTIVE)
    late, for_b = Item(lane, "late", CPU), Item(lane, "b", CPU, "b")
    assert not late.is_behind_others()
    dispatch.put(items(lane, 4))
    assert not late.is_behind_others()
    dispatch.put(items(lane, 1))
    assert late.is_behind_others()
    assert not for_b.is_behind_others()
    assert not Item(lane, "cuda", CUDA).is_behind_others()
    assert not Item(RunLane(Priority.INTERACTIVE), "other run", CPU).is_behind_others()


def test_stock() -> None:
    """There is stock when no worker will ask for more soon: many short tickets at each of them."""
    a, b = station("a"), station("b")
    dispatch, _ = make(a, b)
    assert not dispatch.has_stock()
    lane = RunLane(Priority.INTERACTIVE)
    dispatch.put(items(lane, 8))
    assert not dispatch.has_stock()  # two for each
    lane.note_seconds(1e-5)
    dispatch.put(items(lane, 1))
    assert dispatch.has_stock()
    for _ in range(3):
        dispatch.completed(b, b.items[0])
    assert not dispatch.has_stock()
    assert not make()[0].has_stock()


def test_a_worker_that_begins_nothing_loses_what_it_has() -> None:
    """After two looks, to an idle one that can do it; it gets nothing until it answers."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    lane = RunLane(Priority.INTERACTIVE)

    def look() -> list[Item]:
        return dispatch.relieve(lambda s: workers.begun.get(s.worker.name, 0))

    only_a = Item(lane, "only a", CPU, target="a")
    first, second, third = items(lane, 3)
    dispatch.put([first])
    assert (where(first), dispatch.is_uneven()) == ("a", True)
    assert look() == []
    assert look() == [first]
    assert (where(first), dispatch.is_uneven()) == ("b", True)
    dispatch.put([second, third, only_a])
    assert [where(t) for t in (second, third, only_a)] == ["b", None, None]
    workers.begin_next(b)
    assert look() == look() == []
    assert dispatch.answered(a) == [third, only_a]
    assert not dispatch.is_uneven()
    workers.begun["b"] = second.serial
    dispatch.completed(b, first)
    dispatch.completed(b, second)
    assert [where(t) for t in (third, only_a)] == ["a", "a"]
    look()
    assert look() == [third]
    assert (where(third), where(only_a)) == ("b", None)


def test_a_worker_that_is_at_work_keeps_what_it_has_begun() -> None:
    """Also what has data on its way to it, and what it begins between two looks."""
    a, b = station("a"), station("b")
    dispatch, workers = make(a, b)
    slow, bound = RunLane(Priority.INTERACTIVE), RunLane(Priority.INTERACTIVE)

    def look() -> list[Item]:
        return dispatch.relieve(lambda s: workers.begun.get(s.worker.name, 0))

    (first,) = dispatch.put(items(slow, 1))
    look()
    workers.begin_next(a)
    assert look() == look() == []
    dispatch.completed(a, first)
    (second,) = dispatch.put(items(bound, 1, is_bound=True))
    assert look() == look() == []
    assert where(second) == "a"


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no ticket is lost, none is with two workers, and none idles needlessly."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatch, self.workers = make(station("a"), station("b"), station("c"))
        self.lanes = [RunLane(priority) for priority in Priority]
        self.open: list[Item] = []
        self.n = 0

    @rule(
        lane=st.integers(0, 2), bound=st.booleans(), only=st.sampled_from([None, None, "a"]), together=st.integers(1, 3)
    )
    def put(self, lane: int, bound: bool, only: str | None, together: int) -> None:
        new = [Item(self.lanes[lane], self.n + i, CPU, only, is_bound=bound) for i in range(together)]
        self.n += together
        self.open += new
        self.dispatch.put(new)

    @rule(which=st.integers(0, 2))
    def begin(self, which: int) -> None:
        at = self.dispatch.stations[which]
        if at.items and at.items[0].serial > self.workers.begun.get(at.worker.name, 0):
            self.workers.begin_next(at)

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([1e-6, 1.0]))
    def complete(self, which: int, seconds: float) -> None:
        at = self.dispatch.stations[which]
        if at.items and at.items[0].serial <= self.workers.begun.get(at.worker.name, 0):
            item = at.items[0]
            item.lane.note_seconds(seconds)
            self.open.remove(item)
            self.dispatch.completed(at, item)

    @rule()
    def look(self) -> None:
        self.dispatch.relieve(lambda s: self.workers.begun.get(s.worker.name, 0))

    @rule(which=st.integers(0, 2))
    def answer(self, which: int) -> None:
        at = self.dispatch.stations[which]
        if at.is_stalled:
            self.dispatch.answered(at)

    @rule(which=st.integers(0, 2))
    def lose(self, which: int) -> None:
        old = self.dispatch.stations[which]
        for item in self.dispatch.lost(old):
            self.open.remove(item)
        self.workers.begun.pop(old.worker.name, None)
        self.workers.revoked.pop(old.worker.name, None)
        new = Station(old.worker)
        self.dispatch.add(new)
        self.dispatch.stations.sort(key=lambda s: s.worker.name)
        self.dispatch.ready(new)

    @invariant()
    def every_ticket_is_in_one_place(self) -> None:
        waiting = [id(item) for lane in self.lanes for item in lane.items]
        sent = [id(item) for s in self.dispatch.stations for item in s.items]
        assert sorted(waiting + sent) == sorted(map(id, self.open))

    @invariant()
    def nobody_idles(self) -> None:
        for each in self.dispatch.stations:
            if not each.items and not each.is_stalled:
                assert not any(each.fits(item) for lane in self.lanes for item in list(lane.items)[:1])


TestAnyOrder = AnyOrder.TestCase


def test_a_bound_ticket_is_not_behind_others() -> None:
    """Those that wait may wait for it, which has lost its worker: whoever gives tickets out must hear of it."""
    one = station("one")
    dispatch, _ = make(one)
    bound, free = RunLane(Priority.INTERACTIVE), RunLane(Priority.INTERACTIVE)
    dispatch.put([Item(bound, place, CPU, is_bound=True, place=place) for place in range(3)])
    dispatch.put(items(free, 3))
    assert items(free, 1)[0].is_behind_others()
    assert not Item(bound, 0, CPU, is_bound=True, place=0).is_behind_others()


def test_what_was_to_be_taken_over_has_begun() -> None:
    """What came back instead fits its worker alone, and does not stop those behind it."""
    holder, idle = station("holder"), station("idle")
    idle.is_ready = False
    dispatch, workers = make(holder, idle)
    urgent, other = RunLane(min(Priority)), RunLane(max(Priority))
    urgent.mean_seconds = other.mean_seconds = 1e-5  # short ones: more than two may be at a worker
    first, second = items(urgent, 2)
    targeted, last = Item(other, "targeted", CPU, target="holder"), Item(other, "last", CPU)
    dispatch.put([first, second, targeted])
    workers.begun["holder"] = second.serial  # the first is done, but that is not known here yet
    other.mean_seconds = 1.0
    assert dispatch.put([last]) == []
    assert dispatch.ready(idle) == [targeted, last]
    assert (where(second), where(targeted), where(last)) == ("holder", "holder", "idle")
