"""Numbers and names for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["format_bytes", "format_rate", "free_name"]


def format_bytes(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def format_rate(done: dict[str, Any]) -> str:
    """Return how fast data was read, for people; of less than a MiB that says nothing."""
    return f", {done['gb_per_s']:.2g} GB/s" if done["bytes"] >= 1 << 20 else ""


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return a name, with a number where it is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name
