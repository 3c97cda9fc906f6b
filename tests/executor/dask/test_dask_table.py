"""Which batch is whose on a worker: decisions, without any worker."""

from __future__ import annotations

from typing import Any

import pytest

from tilework.executor.dask import table as module
from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.dask.table import FIRST_SECONDS, LATE_SECONDS, LINGER_SECONDS, Fed, Feed, GivenUp, Table
from tilework.executor.dask.worker import Batch

PRIORITY = 10


def fed(ident: str, *seats: str, run: str = "run", priority: int = PRIORITY, **kwargs: Any) -> Fed:
    """Return a batch for any of these seats."""
    batch = Batch(ident, run, (0,), None, None, (), None, "topic")
    return Fed(Feed(batch, frozenset(seats), priority, kwargs.pop("content", None), **kwargs), None, lambda _: None)


def params() -> SharedSealed:
    sealed: SharedSealed = seal("parameters", SharedSealed)
    return sealed


def sit_down(table: Table, *seats: str, run: str = "run") -> None:
    for seat in seats:
        assert table.sit_down(seat, run, None, None)


def accept(table: Table, *batches: Fed) -> None:
    for each in batches:
        assert table.accept(each, others_wait=False)


def look(table: Table, seat: str = "s0", **kwargs: Any) -> Fed | GivenUp | None:
    given = {"priority": PRIORITY, "waited": 0.0, "patience": 0.0, "is_over": False, "others_wait": False}
    return table.look(seat, **{**given, **kwargs})


# ---- batches ----


def test_batches_are_done_in_order_and_once() -> None:
    """A seat gets what came first, and each batch is gone when it was taken."""
    table = Table()
    sit_down(table, "s0", "s1")
    first, second = fed("a", "s0", "s1"), fed("b", "s0", "s1")
    accept(table, first, second)
    assert look(table, "s1") is first
    assert look(table, "s0") is second
    assert look(table) is None
    assert table.waiting == {}


def test_a_batch_is_for_its_seats_only() -> None:
    """One that names other seats is passed over."""
    table = Table()
    sit_down(table, "s0")
    mine = fed("mine", "s0", "s1")
    accept(table, fed("for a successor", "s1"), mine)
    assert look(table) is mine
    assert look(table) is None


def test_a_seat_does_the_batches_of_the_next_run() -> None:
    """In the order in which they were sent; one whose predecessor is on its way holds up its own run only."""
    table = Table()
    sit_down(table, "s0")
    last, missing = fed("last", "s0", run="b", number=5), fed("after", "s0", run="a", number=2, after="on its way")
    first = fed("first", "s0", run="c", number=3)
    accept(table, last, missing, first)
    assert [look(table), look(table), look(table)] == [first, last, None]
    assert table.taken == {"s0": {"run", "b", "c"}}
    table.forget("b")
    assert table.taken == {"s0": {"run", "c"}}


def test_what_was_sent_first_begins_first() -> None:
    """Batches that overtake each other on their way are put in order; one that is missing is waited for."""
    table = Table()
    sit_down(table, "s0")
    first, second = fed("a", "s0", number=1), fed("b", "s0", number=2, after="a")
    third = fed("c", "s0", number=3, after="b")
    accept(table, third, second)
    assert look(table) is None, "it may be the end of the run that it is done first"
    accept(table, first)
    assert [look(table), look(table), look(table)] == [first, second, third]


def test_a_batch_that_never_comes_is_not_waited_for() -> None:
    """Because the main side says so, or it would have been here long ago; one that was refused counts as come."""
    table = Table()
    sit_down(table, "s0")
    second = fed("b", "s0", number=2, after="a")
    accept(table, second)
    assert look(table, waited=0.9 * LATE_SECONDS) is None
    assert look(table, waited=LATE_SECONDS) is second
    third = fed("d", "s0", number=4, after="c")
    accept(table, third)
    assert look(table) is None
    table.expect_no_more("c")
    assert look(table) is third
    assert not table.accept(fed("e", "s0", number=5, after="d"), others_wait=True)
    fourth = fed("f", "s0", number=6, after="e")
    accept(table, fourth)
    assert look(table) is fourth


def test_a_batch_may_come_before_its_seat() -> None:
    """It waits, also while other tasks do: nobody sits who would be given up for them."""
    table = Table()
    early = fed("a", "s0")
    assert table.accept(early, others_wait=True)
    sit_down(table, "s0")
    assert look(table) is early


def test_no_batch_for_a_seat_that_is_about_to_go() -> None:
    """While others wait for the thread, what comes needs a new seat, behind them."""
    table = Table()
    sit_down(table, "s0")
    first = fed("a", "s0")
    assert table.accept(first, others_wait=True), "it is what the seat has come for, and waits for"
    assert look(table, others_wait=True) is first
    assert not table.accept(fed("b", "s0"), others_wait=True)
    assert table.accept(fed("c", "s0"), others_wait=False)


def test_no_batch_for_seats_that_are_no_more() -> None:
    """It is refused when all of its seats were given up, and no earlier; one without any seat is, too."""
    table = Table()
    table.give_up(["s0"])
    assert not table.accept(fed("a", "s0"), others_wait=False)
    assert not table.accept(fed("b"), others_wait=False)
    assert table.accept(fed("c", "s0", "s1"), others_wait=False)
    assert not table.sit_down("s0", "run", None, None), "nobody expects it any more"


def test_take_back() -> None:
    """What waits can be taken back, once; what a seat has taken cannot."""
    table = Table()
    sit_down(table, "s0")
    first, second = fed("a", "s0"), fed("b", "s0")
    accept(table, first, second)
    assert look(table) is first
    assert table.take_back("a") is None
    assert table.take_back("b") is second
    assert table.take_back("b") is None
    assert table.waiting == {}


# ---- seats that are given up ----


def test_a_seat_lingers() -> None:
    """Without work it keeps its thread for a while, as long as nobody wants that; then it takes its run for over."""
    table = Table()
    assert table.sit_down("s0", "run", "p", params())
    assert look(table, waited=0.99 * LINGER_SECONDS) is None
    assert look(table, waited=LINGER_SECONDS) == GivenUp([])
    assert table.taken == {}
    assert table.contents == {}, "nobody may have told of the end of the run"


def test_a_seat_gives_way_to_others() -> None:
    """At once when it has done something, after a moment when its first batch may be on its way."""
    table = Table()
    sit_down(table, "s0", "s1")
    assert look(table, "s0", others_wait=True, patience=FIRST_SECONDS, waited=0.9 * FIRST_SECONDS) is None
    assert look(table, "s0", others_wait=True, patience=FIRST_SECONDS, waited=FIRST_SECONDS) == GivenUp([])
    assert look(table, "s1", others_wait=True) == GivenUp([])


def test_a_seat_does_what_it_has_before_it_gives_way() -> None:
    """Others wait for the batches that are there, not for those that would come."""
    table = Table()
    sit_down(table, "s0")
    mine = fed("a", "s0")
    accept(table, mine)
    assert look(table, others_wait=True) is mine
    assert look(table, others_wait=True) == GivenUp([])


def test_a_seat_gives_way_to_what_goes_before_it() -> None:
    """A batch of higher priority whose seat is still to come goes before the batches of those that sit."""
    table = Table()
    sit_down(table, "s0", "s1")
    mine, urgent = fed("mine", "s0", "s1"), fed("urgent", "u0", run="urgent", priority=PRIORITY + 1)
    accept(table, mine, urgent)
    assert look(table, "s0") == GivenUp([]), "the other seat will do its batch"
    sit_down(table, "u0", run="urgent")
    assert look(table, "s1") is mine, "what is urgent has its seat now"


@pytest.mark.parametrize("priority", [PRIORITY - 1, PRIORITY])
def test_a_seat_does_not_give_way_to_what_does_not_go_before_it(priority: int) -> None:
    """Of equal or lower priority: that waits for its turn."""
    table = Table()
    sit_down(table, "s0")
    accept(table, fed("other", "o0", run="other", priority=priority))
    assert look(table) is None


def test_what_waits_for_a_seat_that_goes_is_refused() -> None:
    """Unless it may also wait for another one."""
    table = Table()
    sit_down(table, "s0", "s1", "u0")
    only, either, other = fed("a", "s0"), fed("b", "s0", "s1"), fed("c", "u0", run="other")
    accept(table, only, either, other)
    assert table.give_up(["s0"]) == [only]
    assert look(table, "s0") == GivenUp([]), "the seat finds that it is no more"
    assert look(table, "s1") is either
    assert table.give_up(["u0"]) == [other]
    assert table.waiting == {}


def test_the_end_of_a_run() -> None:
    """Its seat goes, the batches of its runs are refused, their parameters forgotten; other runs are left alone."""
    table = Table()
    sit_down(table, "s0", "s1")
    theirs = fed("b", "o0", run="other", content="p", params=params())
    mine = fed("a", "s0", "s1", content="p", params=params())
    accept(table, mine, theirs)
    assert look(table, is_over=True) == GivenUp([mine])
    assert list(table.waiting) == list(table.contents) == ["other"]
    assert table.forget("other") == [theirs]
    assert table.forget("other") == []
    assert table.contents == {}


def test_seats_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that were given up only the latest are: what names an older one comes too late by far."""
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    table = Table()
    table.give_up(f"s{i}" for i in range(5))
    assert list(table.given_up) == ["s2", "s3", "s4"]


# ---- parameters ----


def test_parameters_come_once() -> None:
    """With a batch or with a seat; those that come again do not replace the first, of which something was made."""
    table = Table()
    first, again, large = params(), params(), params()
    accept(table, fed("a", "s0", content="p", params=first), fed("b", "s0", content="p", params=again))
    assert table.sit_down("s0", "run", "large", large)
    assert table.params_of(fed("c", "s0", content="p").order) is first
    assert table.params_of(fed("d", "s0", content="large").order) is large
    assert table.params_of(fed("e", "s0").order) is None
    assert table.params_of(fed("f", "s0", content="unknown").order) is None
    assert table.params_of(fed("g", "s0", content="p", run="other").order) is None


def test_parameters_of_refused_batches_are_not_kept() -> None:
    """The sender does not count on it that they are here."""
    table = Table()
    table.give_up(["s0"])
    assert not table.accept(fed("a", "s0", content="p", params=params()), others_wait=False)
    assert table.contents == {}


def test_parameters_of_runs_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the runs that were heard of last are kept."""
    monkeypatch.setattr(module, "_KEPT_RUNS", 2)
    table = Table()
    sit_down(table, "s0")
    for run in ("a", "b", "a", "c"):
        mine = fed("x", "s0", run=run, content="p", params=params())
        accept(table, mine)
        assert look(table) is mine
    assert list(table.contents) == ["a", "c"]


def test_parameters_of_waiting_batches_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are: else their batches would be refused, and sent again, for ever."""
    monkeypatch.setattr(module, "_KEPT_RUNS", 2)
    table = Table()
    sit_down(table, "s0")
    batches = [fed("x", "s0", run=str(i), number=i, content="p", params=params()) for i in range(5)]
    accept(table, *batches)
    assert [look(table) for _ in batches] == batches
    assert all(table.params_of(each.order) is each.order.params for each in batches)
    accept(table, fed("y", "s0", run="last", content="p", params=params()))
    assert list(table.contents) == ["4", "last"], "they are forgotten when nothing waits any more"
