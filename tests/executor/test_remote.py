"""Errors on their way between processes: what they say is never lost."""

from __future__ import annotations

import copyreg
from typing import Any

import pytest
from tblib.pickling_support import pickle_exception  # type: ignore[import-untyped]

from tilework.exceptions import RemoteError
from tilework.executor.remote import pack_error, unpack_error


class _UndecodedError(UnicodeDecodeError):
    """An exception whose text is made of what only its constructor, which wants something else, can set."""

    def __init__(self, where: str) -> None:
        super().__init__("utf-8", b"\xff", 0, 1, f"no text in {where}")
        self.where = where


class _ParticularError(Exception):
    """An exception that wants more than it keeps, and says itself how its state is set."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.where = where

    def __setstate__(self, state: Any) -> None:
        self.where = state["where"].upper()


class _SecretiveError(Exception):
    """An exception of which Python cannot print anything."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        msg = "no notes"
        raise LookupError(msg)


@pytest.mark.parametrize("is_for_dask", [False, True])
def test_error_that_would_lose_its_text_arrives_with_it_as_a_remote_error(
    is_for_dask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tblib has taken charge of all errors, as it does when distributed is imported."""
    monkeypatch.setitem(copyreg.dispatch_table, _UndecodedError, pickle_exception)
    if not is_for_dask:
        monkeypatch.delitem(copyreg.dispatch_table, _UndecodedError)
    arrived = unpack_error(pack_error(_UndecodedError("the header")))
    assert isinstance(arrived, RemoteError)
    assert "_UndecodedError" in str(arrived)
    assert "no text in the header" in str(arrived)


def test_error_without_its_constructor_sets_its_state_itself() -> None:
    arrived = unpack_error(pack_error(_ParticularError("caught", "noon")))
    assert isinstance(arrived, _ParticularError)
    assert str(arrived) == "caught at noon"
    assert arrived.where == "NOON"


def test_a_very_long_error_is_sent_once() -> None:
    """What it says is part of it; the traceback beside it has where it came from, and how it ends."""

    def fail() -> None:
        error = ValueError("n" * 5_000_000)
        error.add_note("the end")
        raise error

    with pytest.raises(ValueError, match=r"^n{100}") as caught:
        fail()
    packed = pack_error(caught.value)
    assert len(packed.summary) + len(packed.traceback) < 3_000_000
    assert "in fail" in packed.traceback
    assert packed.traceback.endswith("the end\n")
    assert "characters left out" in packed.traceback
    arrived = unpack_error(packed)
    assert str(arrived) == "n" * 5_000_000
    assert arrived.__notes__ == ["the end"]


def test_an_error_that_cannot_be_printed() -> None:
    """It arrives all the same, with its traceback; it must not end the worker."""

    def fail() -> None:
        msg = "secret"
        raise _SecretiveError(msg)

    with pytest.raises(_SecretiveError) as caught:
        fail()
    packed = pack_error(caught.value)
    assert packed.summary == "_SecretiveError, whose text cannot be had: LookupError"
    assert "in fail" in packed.traceback
    arrived = unpack_error(packed)
    assert isinstance(arrived, _SecretiveError)
    assert arrived.args == ("secret",)
