"""How worker processes ended, in words."""

from __future__ import annotations

import pytest

from tilework.executor.exits import describe_exit, describe_last_words


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, "nobody knows"), (0, "exit code 0"), (-9, "SIGKILL"), (-11, "compiled code"), (-63, "signal 63")],
)
def test_describe_exit(code: int | None, words: str) -> None:
    assert words in describe_exit(code)


def test_describe_last_words() -> None:
    """Each line stands for itself; nothing is said of a process that wrote nothing."""
    assert describe_last_words([]) == ""
    assert describe_last_words(["one", "two"]).endswith(":\n  one\n  two")
