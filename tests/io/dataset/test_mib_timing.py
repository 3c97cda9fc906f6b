"""Lines of a scan are found from flyback times, and never from the jitter of a clock."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset import load
from tilework.io.dataset.mib_timing import find_line_length, parse_time

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000


def times(lines: int, length: int, dwell: int, flyback: int, jitter: int = 0, seed: int = 0) -> list[int]:
    """Return when each frame of a scan was taken, in nanoseconds."""
    rng = np.random.default_rng(seed)
    at, now = [], 1_600_000_000 * 10**9
    for i in range(lines * length):
        at.append(now)
        now += dwell + (flyback if (i + 1) % length == 0 else 0) + int(rng.integers(0, jitter + 1))
    return at


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([10_000, MS, 100 * MS]), st.integers(0, 2**16))
def test_the_line_length_is_found_behind_jitter(lines: int, length: int, dwell: int, seed: int) -> None:
    at = times(lines, length, dwell, flyback=20_000, jitter=2_000, seed=seed)
    assert find_line_length(at.__getitem__, len(at)) == length


@given(st.integers(1, 400), st.integers(0, 2**16))
def test_even_frames_have_no_lines(frames: int, seed: int) -> None:
    at = times(1, frames, MS, flyback=0, jitter=1_000, seed=seed)
    assert find_line_length(at.__getitem__, frames) is None


@pytest.mark.parametrize("frames", [16, 100, 1024])
def test_one_long_interval_is_no_line_end(frames: int) -> None:
    """In a clock that jitters by more than a flyback takes, some interval is always the longest of its neighbours."""
    rng = np.random.default_rng(0)
    for i in range(200):
        at = np.cumsum(MS + rng.normal(0, 20_000, frames)).astype(int).tolist()
        assert find_line_length(at.__getitem__, frames) is None, i


def test_few_headers_are_read_of_a_long_scan() -> None:
    at = times(512, 256, MS, flyback=5 * MS)
    asked: set[int] = set()

    def time_of(frame: int) -> int:
        asked.add(frame)
        return at[frame]

    assert find_line_length(time_of, len(at)) == 256
    assert len(asked) < 200


def test_frames_without_a_time_tell_nothing() -> None:
    assert find_line_length(lambda frame: None, 16) is None


def test_the_finer_of_two_times_is_taken() -> None:
    coarse = b"MQ1,000001,00384,01,0256,0256,U16,   1x1,01,2020-05-18 16:51:49.971626,0.000555"
    first = parse_time(coarse)
    second = parse_time(coarse + b",MQ1A,2020-05-18T16:51:49.971626178Z,555000ns,12,")
    assert first is not None
    assert second is not None
    assert second - first == 178
    assert parse_time(b"MQ1,000001,00384") is None
    assert parse_time(coarse.replace(b"2020-05-18", b"yesterday")) is None


def test_a_real_scan_of_two_lines(shared_data: Path, tmp_path: Path) -> None:
    archive = "mib/Merlin_navigation4x2_ROI.zip"
    with zipfile.ZipFile(shared_data / archive) as z:
        z.extractall(tmp_path)
    for record in json.loads((shared_data / "ground_truth.json").read_text()):
        if record["file"].startswith(archive):
            path = tmp_path / record["file"].split("!/")[1]
            for name in (path, path.with_suffix(".hdr")):
                assert list(load("auto", path=name, executor=InlineJobExecutor()).shape) == record["shape"]


@pytest.mark.parametrize("name", ["Single_9_Frame_CounterDepth_12_Rows_256", "Quad_9_Frame_CounterDepth_6_Rows_256"])
def test_a_real_series_is_no_scan(shared_data: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(shared_data / "mib/Merlin_Single_Quad.zip") as z:
        z.extractall(tmp_path)
    assert tuple(load("auto", path=tmp_path / f"{name}.mib", executor=InlineJobExecutor()).shape.nav) == (9,)
