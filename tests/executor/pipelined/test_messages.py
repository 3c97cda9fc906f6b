"""What is said arrives as it was said."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tilework.executor.pipelined import messages as say
from tilework.executor.pipelined.arena import Block
from tilework.executor.pipelined.parcel import Parcel

PARCELS = [Parcel(b"pickled", (), None, 0), Parcel(b"", ((0, 9000), (9024, 1 << 40)), Block(3, 4096, 1 << 41), 77)]


@pytest.mark.parametrize(
    "message",
    [
        *(say.RunTask(3, 1 << 40, parcel, streamed) for parcel in PARCELS for streamed in (False, True)),
        *(say.Done(5, 0.1, parcel) for parcel in PARCELS),
        say.StreamItem(6, b"header", Block(0, 0, 1)),
        say.StreamItem(6, b"b", Block(3, 0, 5)),
        say.StreamEnd(7, True),
        say.StreamEnd(7, False),
        say.OpenRun(8, None, PARCELS[0], 12.5, {"trace": "x"}),
        say.CloseRun(9),
        say.Skipped(10),
        say.Signal(11, b"header"),
        say.Shutdown(),
        say.Delete("key"),
    ],
)
def test_there_and_back(message: Any) -> None:
    """Type, fields, and the types of what is in the fields."""
    back = say.decode(say.encode(message))
    assert type(back) is type(message)
    assert back == message
    if isinstance(message, say.RunTask | say.Done):
        assert type(back.parcel) is Parcel
        assert type(back.parcel.block) is type(message.parcel.block)


def test_what_is_frequent_is_not_pickled() -> None:
    for message in (say.RunTask(1, 2, PARCELS[0], False), say.Done(1, 0.1, PARCELS[1]), say.StreamEnd(1, True)):
        assert not say.encode(message).startswith(pickle.PROTO)
