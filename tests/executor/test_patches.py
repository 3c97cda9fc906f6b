"""Patches of scattered objects: tried on the main side, few at a time."""

from __future__ import annotations

from typing import Any

import pytest

from tilework.executor.patches import Patches


class Numbers:
    """A patch adds a number, and is half done when it raises."""

    def __init__(self) -> None:
        self.numbers: list[Any] = []

    def patch(self, patch: Any) -> None:
        """Add a number."""
        self.numbers.append(patch)
        if not isinstance(patch, (int, bytes)):
            raise TypeError("no number")


def no_base(obj: Any) -> None:
    raise AssertionError("patches are few")


def test_one_that_raises_is_not_kept() -> None:
    """The next one finds what the others made of the object; the base is opened again for that alone."""
    opened = []

    def open_base() -> Numbers:
        opened.append(Numbers())
        return opened[-1]

    patches = Patches(open_base, 0)
    assert not opened
    for i in range(5):
        patches.add(i, no_base)
    assert len(opened) == 1
    with pytest.raises(TypeError, match="no number"):
        patches.add("six", no_base)
    assert len(patches.pickled) == 5
    patches.add(6, no_base)
    assert len(opened) == 2
    assert opened[-1].numbers == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize(("size", "patch", "most"), [(0, 1, 64), (0, bytes(2000), 8), (1 << 20, bytes(20_000), 13)])
def test_a_new_base_when_they_are_many(size: int, patch: Any, most: int) -> None:
    """By number, and by size: of the patches, and of the object. It has all of them."""
    patches = Patches(Numbers, size)
    for _ in range(most):
        assert patches.add(patch, no_base) is None
    base = patches.add(patch, lambda obj: obj.numbers)
    assert base == [patch] * (most + 1)


def test_a_base_that_cannot_be_pickled() -> None:
    """The patch that is one too many is not kept."""
    patches = Patches(Numbers, 0)
    for i in range(64):
        patches.add(i, no_base)
    for _ in range(2):
        with pytest.raises(AssertionError, match="few"):
            patches.add(64, no_base)
    assert patches.add(65, lambda obj: obj.numbers) == [*range(64), 65]
