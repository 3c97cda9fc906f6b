"""Objects that are pickled once, and exist once in each process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cloudpickle
import numpy as np

from tilework.common.pickled_once import PickledOnce
from tilework.common.shape import Shape
from tilework.io.dataset.base import DataSetMeta
from tilework.io.dataset.blocks import FrameFormat
from tilework.io.dataset.layout import FileSegment
from tilework.io.dataset.seen import SeenFile


class Point(PickledOnce):
    """Counts how often it is made."""

    made = 0

    def __init__(self, x: int, extra: Any = None) -> None:
        type(self).made += 1
        self.x, self.extra = x, extra

    def _recipe(self) -> tuple[Any, ...] | None:
        return (self.x,) if self.extra is None else None


def test_one_for_all() -> None:
    """However often it is pickled, alone or in others, there is one on the other side."""
    point = Point(90125)
    before = Point.made
    once = pickle.loads(pickle.dumps(point))
    again, in_list = pickle.loads(cloudpickle.dumps((point, [Point(90125)])))
    assert once.x == 90125
    assert again is in_list[0] is once
    assert Point.made == before + 2  # the second that is made here, and one that is unpickled
    assert copy.copy(point).x == 90125


def test_what_has_something_of_its_own_is_pickled_as_usual() -> None:
    point = Point(3, extra=[1])
    one, two = (pickle.loads(pickle.dumps(point)) for _ in range(2))
    assert one is not two
    assert (one.x, one.extra) == (3, [1])
    point.extra.append(2)
    assert pickle.loads(pickle.dumps(point)).extra == [1, 2]


class FormatMeta(DataSetMeta):
    """A format's own."""


def test_of_datasets() -> None:
    """Equal in all fields; a format's own facts, which may change, are not shared."""
    meta = DataSetMeta(Shape((2, 3, 4, 5), 2), ("numpy",), 6, ">u2", "u2", None, -1)
    back = pickle.loads(pickle.dumps(meta))
    for name in ("shape", "array_backends", "image_count", "raw_dtype", "dtype", "metadata", "sync_offset"):
        assert getattr(back, name) == getattr(meta, name)
    assert pickle.loads(pickle.dumps(meta)) is back
    own = DataSetMeta(Shape((2, 3), 1), raw_dtype="u2", metadata={"gain": 2})
    assert pickle.loads(pickle.dumps(own)).metadata == {"gain": 2}
    assert pickle.loads(pickle.dumps(own)) is not pickle.loads(pickle.dumps(own))
    derived = pickle.loads(pickle.dumps(FormatMeta(Shape((2, 3), 1), raw_dtype="f4")))
    assert type(derived) is FormatMeta
    assert derived.dtype == np.float32


def test_formats_and_segments() -> None:
    frames = FrameFormat(np.dtype(">u2"), (4, 5), None, aligned=True)
    back = pickle.loads(pickle.dumps(frames))
    assert all(getattr(back, name) == getattr(frames, name) for name in FrameFormat.__slots__)
    segment = FileSegment(
        SeenFile("/data/scan.raw", 1 << 40, 1 << 60, 1 << 50, 256, 1 << 39, 8, bytes(8)), 256, 512, 7, 8
    )
    assert pickle.loads(pickle.dumps(segment)) == segment
