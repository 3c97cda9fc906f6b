"""What is seen of worker processes: what they write to stderr, what is logged of them, spans."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipelined_harness import PipelinedHarness
from tilework.exceptions import WorkerLostError

if TYPE_CHECKING:
    from pathlib import Path

    from tilework.executor.pipelined import PipelinedExecutor


class TestOutput(PipelinedHarness):
    def test_what_workers_write_to_stderr(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """It goes to the log, with the worker's name, and its end into the report."""
        with caplog.at_level(logging.INFO, logger="tilework"):
            executor.run_each_worker(lambda: os.write(2, b"first\nsecond\n"))
            until = time.monotonic() + 10
            while caplog.text.count("second") < 2 and time.monotonic() < until:
                time.sleep(0.01)
        assert "cpu-0: first" in caplog.text
        assert "cpu-1: second" in caplog.text
        assert [process["stderr"] for process in executor.report()["processes"]] == [["first", "second"]] * 2

    def test_warnings_are_seen(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """What Python warns of in a worker is logged as a warning, also when the executor is closed right after it."""
        executor.run_function(lambda: np.array([1.0]) / 0)
        executor.close()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.message.startswith("cpu-")
        assert "RuntimeWarning: divide by zero" in record.message

    def test_last_words_are_logged_once(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """The traceback of a crash is told with the loss of the worker, and not before it as well."""
        with pytest.raises(WorkerLostError):
            executor.run_function(ctypes.string_at, 8)
        self.assert_usable(executor)
        told = [record.message for record in caplog.records if "Segmentation fault" in record.message]
        assert len(told) == 3
        assert all(text.startswith("lost worker") for text in told)

    def test_progress_bars_are_logged_once(self, executor: PipelinedExecutor, caplog: pytest.LogCaptureFixture) -> None:
        """They write a line again and again, of which the end counts."""
        executor.run_function(lambda: os.write(2, b"10%\r20%\r100%\nafter\n"))
        executor.close()
        (record,) = caplog.records
        assert [line.partition(": ")[2] for line in record.message.splitlines()] == ["100%", "after"]

    def test_stderr_without_ends_of_lines(self, executor: PipelinedExecutor) -> None:
        """Dots and progress bars neither fill memory nor hold up what others do; the end of them is kept."""

        def dots() -> None:
            for _ in range(300):
                os.write(2, b"." * 65536)

        executor.run_function(dots)
        members = executor._hub.pool.members
        assert max(len(member.output.rest) for member in members) <= 1 << 14
        executor.run_each_worker(lambda: os.write(2, "\n10%\r20%\r\n30% ä".encode()))
        until = time.monotonic() + 20
        while not all(member.output.rest == "30% ä".encode() for member in members):
            assert time.monotonic() < until
            time.sleep(0.01)
        for process in executor.report()["processes"]:
            assert process["stderr"][-2:] == ["10%", "20%"]
            assert all(len(line) <= 1 << 14 for line in process["stderr"])

    def test_spans_of_tasks(self, nothing_left: None, tmp_path: Path) -> None:
        """With OpenTelemetry, each task has a span, in the process where it ran and in the trace of its run."""
        pytest.importorskip("opentelemetry.sdk")
        script = tmp_path / "traced.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import json
                from opentelemetry import trace
                from tilework.common.executor import NoopCommHandler
                from tilework.executor.pipelined import PipelinedExecutor
                from tilework.testing.faults import FakeTask

                def set_up():
                    import os
                    from opentelemetry import trace
                    from opentelemetry.sdk.trace import TracerProvider
                    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
                    out = open(f"{tmp_path}/spans-{{os.getpid()}}", "w")
                    provider = TracerProvider()
                    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
                    trace.set_tracer_provider(provider)

                set_up()
                executor = PipelinedExecutor(PipelinedExecutor.make_spec(2, []), early_setup=set_up)
                with trace.get_tracer("test").start_as_current_span("root") as root, executor.scatter(1) as handle:
                    list(executor.run_tasks([FakeTask(i) for i in range(20)], handle, 0, NoopCommHandler()))
                    print(format(root.get_span_context().trace_id, "032x"))
                executor.close()
                """
            )
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        text = "".join(path.read_text() for path in tmp_path.glob("spans-*"))
        assert text.count('"name": "task"') == 20
        assert text.count(f'"trace_id": "0x{done.stdout.strip()}"') >= 20
        assert '"tilework.partition.ident": "part-7"' in text
