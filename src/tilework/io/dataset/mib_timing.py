"""The lines of a scan, found from the times at which its frames were taken.

A beam that has reached the end of a line needs time to fly back, so the interval before the first frame of a line is
longer than those within a line. Only the intervals around possible line ends, and some all over the scan, are looked
at: a few dozen headers however long the scan is.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["find_line_length", "parse_time"]

# Line ends that must all be longer than the intervals beside them, where there are as many.
_LINE_ENDS = 4
# Where there are fewer, one long interval may be chance: that many others, all over the scan, tell how much they vary.
_OTHERS = 16
# Clocks tick in microseconds: differences of a tick or two say nothing.
_SMALLEST_FLYBACK_NS = 5_000


def parse_time(header: bytes) -> int | None:
    """Return when a frame was taken, in nanoseconds, from its header; None where it does not say so."""
    fields = header.split(b",")
    if len(fields) < 10:
        return None
    stamp = fields[9]
    # Newer software repeats the time, in nanoseconds, behind this mark.
    for i, field in enumerate(fields[:-1]):
        if field.startswith(b"MQ1A"):
            stamp = fields[i + 1]
    text = stamp.decode("latin-1").strip().rstrip("Z").replace("T", " ")
    whole, _, fraction = text.partition(".")
    try:
        seconds = int(datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
        return seconds * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    except ValueError:
        return None


def find_line_length(time_of: Callable[[int], int | None], frames: int) -> int | None:
    """Return the number of frames in a line of the scan; None where the times tell no lines.

    Parameters
    ----------
    time_of
        Returns when a frame was taken, in nanoseconds, or None.
    frames
        Number of frames.
    """
    known: dict[int, int | None] = {}

    def interval(i: int) -> int | None:
        """Return the time from frame `i` to the next."""
        for k in (i, i + 1):
            if k not in known:
                known[k] = time_of(k)
        first, second = known[i], known[i + 1]
        return None if first is None or second is None else second - first

    all_over = {k * (frames - 1) // _OTHERS for k in range(_OTHERS)}
    for length in _divisors(frames):
        ends = range(length - 1, min(frames - 1, _LINE_ENDS * length), length)
        others = {i for end in ends for i in (end - 1, end + 1) if i < frames - 1}
        if len(ends) < _LINE_ENDS:
            others |= all_over
        flyback, within = [interval(i) for i in ends], [interval(i) for i in others.difference(ends)]
        if None in flyback or None in within:
            return None
        shortest = min(f for f in flyback if f is not None)
        usual = [w for w in within if w is not None]
        if shortest - max(usual) >= max(_SMALLEST_FLYBACK_NS, 3 * (max(usual) - min(usual))):
            return length
    return None


def _divisors(frames: int) -> list[int]:
    """Return the numbers of frames that a line can have, shortest first: lines of one frame, or one line, are none."""
    small = [n for n in range(2, math.isqrt(frames) + 1) if frames % n == 0]
    return sorted({*small, *(frames // n for n in small)})
