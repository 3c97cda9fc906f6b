"""Spans are looked at as OpenTelemetry exports them, in fresh interpreters since a provider cannot be replaced."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

needs_sdk = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None,
    reason="the SDK of OpenTelemetry is not installed",
)
SDK = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


def run_python(*code: str, enable: str | None = None) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if enable is not None:
        env["OTEL_ENABLE"] = enable
    program = "\n".join(textwrap.dedent(part) for part in code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("enable", [None, "", "0"])
def test_nothing_is_imported_while_nobody_looks(enable: str | None) -> None:
    run_python(
        """
        import sys
        from tilework.common.tracing import *
        tracer = get_tracer("test")
        maybe_setup_tracing("service")
        with tracer.start_as_current_span("a", attributes={"n": 1}) as span, attach_to_parent(current_span_context()):
            span.set_attribute("x", 1)
            span.set_attributes({})
            span.add_event("e", {"n": 1})
            span.record_exception(ValueError())
            assert not span.is_recording() and span.get_span_context() is None
            add_partition_to_span(None)
        with TracedThreadPoolExecutor(tracer, max_workers=1) as pool:
            assert pool.submit(divmod, 7, 2).result() == (3, 1)
        assert not is_tracing() and current_span_context() is None
        assert not any(name.startswith("opentelemetry") for name in sys.modules)
        """,
        enable=enable,
    )


def test_enabled_by_the_environment() -> None:
    run_python(
        """
        from tilework.common.tracing import *
        assert not is_tracing()
        get_tracer("test")
        assert is_tracing()
        """,
        enable="1",
    )


@needs_sdk
def test_a_tracer_made_before_tracing_was_set_up_gives_real_spans_after() -> None:
    run_python(
        """
        from tilework.common.tracing import *
        tracer = get_tracer("test")
        with tracer.start_as_current_span("lost"):
            pass
        """,
        SDK,
        """
        with tracer.start_as_current_span("run", attributes={"tasks": 3}) as span:
            span.set_attribute("executor", "inline")
        run, = exporter.get_finished_spans()
        assert (run.name, dict(run.attributes)) == ("run", {"tasks": 3, "executor": "inline"})
        assert run.instrumentation_scope.name == "test"
        """,
    )


@needs_sdk
def test_spans_of_pool_threads_are_children_of_the_span_of_the_submitter() -> None:
    run_python(
        SDK,
        """
        from tilework.common.tracing import *
        tracer = get_tracer("test")
        def work(n):
            with tracer.start_as_current_span("inner"):
                return n
        with TracedThreadPoolExecutor(tracer, max_workers=2) as pool:
            with tracer.start_as_current_span("outer"):
                futures = [pool.submit(work, n) for n in range(2)]
            assert [f.result() for f in futures] == [0, 1]
        spans = exporter.get_finished_spans()
        outer, = [s for s in spans if s.name == "outer"]
        works = [s for s in spans if s.name == "work"]
        assert [s.parent.span_id for s in works] == [outer.context.span_id] * 2
        inner = [s for s in spans if s.name == "inner"]
        assert {s.parent.span_id for s in inner} == {s.context.span_id for s in works}
        """,
    )


@needs_sdk
def test_a_span_context_travels_by_pickle_and_the_partition_is_written_down() -> None:
    run_python(
        SDK,
        """
        import pickle
        from tilework.common import Shape, Slice
        from tilework.common.tracing import *
        class Partition:
            slice = Slice((8, 0, 0), Shape((4, 2, 3), 2))
            shape = slice.shape
            def get_ident(self):
                return "part-2"
        tracer = get_tracer("test")
        with tracer.start_as_current_span("outer"):
            sent = pickle.dumps(current_span_context())
        assert current_span_context() is None
        with attach_to_parent(pickle.loads(sent)):
            with tracer.start_as_current_span("task"):
                add_partition_to_span(Partition())
        assert current_span_context() is None
        add_partition_to_span(Partition())
        outer, task = exporter.get_finished_spans()
        assert task.parent.span_id == outer.context.span_id
        assert dict(task.attributes) == {
            "tilework.partition.ident": "part-2",
            "tilework.partition.origin": (8, 0, 0),
            "tilework.partition.shape": (4, 2, 3),
        }
        """,
    )


def test_setup_without_an_exporter_warns_and_goes_on() -> None:
    run_python(
        """
        import sys, warnings
        sys.modules["opentelemetry.exporter"] = None  # as if it were not installed
        from tilework.common.tracing import *
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            maybe_setup_tracing("service", "1")
        assert [w.category for w in caught] == [RuntimeWarning], caught
        assert "pip install 'tilework[tracing]'" in str(caught[0].message)
        with get_tracer("test").start_as_current_span("a") as span:
            assert not span.is_recording()
        """,
        enable="1",
    )


def test_tasks_of_a_run_that_nobody_records_have_no_parent() -> None:
    """Without a provider there is nothing to send along, by which workers would import OpenTelemetry."""
    run_python(
        """
        import opentelemetry.trace
        from tilework.common.tracing import *
        with RunSpan(get_tracer("test"), "run").recording(dict) as span_context:
            assert span_context is None
        """
    )


@needs_sdk
def test_what_somebody_wanted_to_end_is_no_error() -> None:
    """But a run that had no more time has failed."""
    run_python(
        SDK,
        """
        from tilework.common.tracing import *
        from tilework.exceptions import *
        tracer = get_tracer("test")
        cancelled = JobCancelledError(), UDFRunCancelled(), KeyboardInterrupt(), GeneratorExit()
        for error in (*cancelled, DeadlineExceededError(), ValueError()):
            try:
                with RunSpan(tracer, "run").recording(dict):
                    raise error
            except BaseException as raised:
                assert raised is error
        spans = exporter.get_finished_spans()
        assert [span.status.is_ok for span in spans] == [True] * 4 + [False] * 2
        assert [span.attributes.get("tilework.cancelled", False) for span in spans] == [True] * 4 + [False] * 2
        assert [len(span.events) for span in spans] == [0] * 4 + [1] * 2
        """,
    )


@needs_sdk
def test_spans_go_one_way_only() -> None:
    """Where a process has a provider, its own or that of an earlier call, the environment makes no second one."""
    run_python(
        SDK,
        """
        import sys, threading, types
        exporters = types.ModuleType("exporters")
        exporters.OTLPSpanExporter = lambda endpoint: InMemorySpanExporter()
        sys.modules["opentelemetry.exporter.otlp.proto.grpc.trace_exporter"] = exporters
        from tilework.common.tracing import *
        before = threading.active_count()
        maybe_setup_tracing("service")
        assert trace.get_tracer_provider() is provider
        assert threading.active_count() == before
        """,
        enable="1",
    )


@needs_sdk
def test_spans_that_wait_are_sent() -> None:
    """And nobody waits long for somebody who takes none."""
    run_python(
        SDK,
        """
        import threading
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from tilework.common.tracing import *
        send_spans()
        batched = InMemorySpanExporter()
        provider.add_span_processor(BatchSpanProcessor(batched, schedule_delay_millis=100_000))
        with get_tracer("test").start_as_current_span("a"):
            pass
        assert not batched.get_finished_spans()
        send_spans(60)
        assert [span.name for span in batched.get_finished_spans()] == ["a"]
        listens = threading.Event()
        batched.export = lambda spans: listens.wait()
        with get_tracer("test").start_as_current_span("b"):
            pass
        send_spans(0.01)
        assert not listens.is_set()
        listens.set()
        """,
    )
