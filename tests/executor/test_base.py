"""What all executors share: which GPU the main process uses, events, and spans of tasks."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace

from tilework.common.executor import NoopCommHandler
from tilework.exceptions import ExecutorSpecException
from tilework.executor import base
from tilework.executor.base import make_canonical
from tilework.executor.inline import InlineJobExecutor
from tilework.testing.faults import CallTask


def pretend(monkeypatch: pytest.MonkeyPatch, cudas: list[int], *, has_cupy: bool) -> None:
    """Let the machine have these devices."""
    monkeypatch.setattr(base, "detect", lambda: {"cpus": [0], "cudas": cudas, "has_cupy": has_cupy})
    monkeypatch.setattr(base, "has_cupy", lambda: has_cupy)


@pytest.mark.parametrize(("given", "expected"), [(False, None), (True, 2), (None, 2), (2, 2), (3, 3)], ids=repr)
def test_make_canonical_with_gpus(monkeypatch: pytest.MonkeyPatch, given: Any, expected: int | None) -> None:
    """The first device, the given one, or none."""
    pretend(monkeypatch, [2, 3], has_cupy=True)
    assert make_canonical(given) == expected


def test_make_canonical_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """None means none without CuPy or device; what was asked for and cannot be is an error that says what to do."""
    pretend(monkeypatch, [2, 3], has_cupy=False)
    assert make_canonical(None) is None
    assert make_canonical(True) == 2
    with pytest.raises(ExecutorSpecException, match="needs CuPy"):
        make_canonical(2)
    with pytest.raises(ExecutorSpecException, match=r"found: \[2, 3\]"):
        make_canonical(7)
    pretend(monkeypatch, [], has_cupy=False)
    assert make_canonical(None) is None
    assert make_canonical(False) is None
    for asked in (True, 0):
        with pytest.raises(ExecutorSpecException, match="no CUDA device"):
            make_canonical(asked)
    with pytest.raises(ValueError, match="'first'"):
        make_canonical("first")  # type: ignore[arg-type]


def test_local_environment_uses_the_main_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are looked for when they are needed first, and the answer is kept."""
    pretend(monkeypatch, [2, 3], has_cupy=True)
    with InlineJobExecutor() as automatic, InlineJobExecutor(main_process_gpu=3) as given:
        assert automatic._get_local_env().gpu_id == 2
        assert given._get_local_env().gpu_id == 3
        pretend(monkeypatch, [], has_cupy=False)
        assert automatic._get_local_env().gpu_id == 2


def test_tasks_are_traced_under_their_parent() -> None:
    """A task runs in a span whose parent is the one that the task names, once OpenTelemetry is in use."""
    parent = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))

    class TracedTask(CallTask):
        def get_tracing_span_context(self) -> trace.SpanContext:
            return parent

    task = TracedTask(0, fn=lambda params, env: trace.get_current_span().get_span_context().trace_id)
    with InlineJobExecutor() as executor, executor.scatter(None) as handle:
        assert [r for r, _ in executor.run_tasks([task], handle, 0, NoopCommHandler())] == [0xABC]
    assert trace.get_current_span().get_span_context().trace_id == 0
