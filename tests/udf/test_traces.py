"""A run is one trace: its span, and below it the spans of its tasks, in whatever thread or process they ran.

Spans go to files through a stand-in for the exporter, which processes find in a folder, as they would the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("opentelemetry.sdk")

EXPORTER = """
import json, os, threading
from pathlib import Path
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class OTLPSpanExporter(SpanExporter):
    def __init__(self, endpoint):
        self.file = Path(os.environ["SPANS"]) / str(os.getpid())

    def export(self, spans):
        with self.file.open("a") as file:
            for span in spans:
                file.write(json.dumps({**json.loads(span.to_json()), "pid": os.getpid()}) + "\\n")
        return SpanExportResult.SUCCESS
"""
PROGRAM = """
import os, sys, asyncio
import numpy as np
from opentelemetry import trace
from tilework.api import Context
from tilework.common.tracing import setup_tracing
from tilework.udf import UDF, SumSigUDF, SumUDF

class Fail(UDF):
    def get_result_buffers(self):
        return {"a": self.buffer(kind="nav", dtype="f4")}
    def process_frame(self, frame):
        raise ValueError("boom")

np.save("scan.npy", np.ones((4, 4, 8, 8), dtype="u2"))
setup_tracing("program")
tracer = trace.get_tracer("program")
name = sys.argv[1]
with Context.make_with(name, **({} if name == "inline" else {"cpus": 2})) as ctx:
    ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype="u2"), num_partitions=4)
    with tracer.start_as_current_span("file"):
        ctx.run_udf(dataset=ctx.load("npy", path="scan.npy", num_partitions=4), udf=SumUDF())
    with tracer.start_as_current_span("sync"):
        ctx.run_udf(dataset=ds, udf=[SumUDF(), SumSigUDF()])
        assert trace.get_current_span().name == "sync"
    async def wait():
        with tracer.start_as_current_span("async"):
            await ctx.run_udf(dataset=ds, udf=SumUDF(), sync=False)
    asyncio.run(wait())
    with tracer.start_as_current_span("submitted"):
        ctx.submit_udf(dataset=ds, udf=SumUDF()).result()
    with tracer.start_as_current_span("broken off"):
        parts = ctx.run_udf_iter(dataset=ds, udf=SumUDF())
        next(parts)
        assert trace.get_current_span().name == "broken off"
        parts.close()
    with tracer.start_as_current_span("failed"):
        try:
            ctx.run_udf(dataset=ds, udf=Fail())
        except ValueError:
            pass
trace.get_tracer_provider().force_flush()
print(os.getpid())
"""


def _faked(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Return the environment of a program whose spans go to files, and the folder of these."""
    place = tmp_path / "fake" / "opentelemetry" / "exporter" / "otlp" / "proto" / "grpc"
    place.mkdir(parents=True)
    (place / "trace_exporter.py").write_text(EXPORTER)
    spans_in = tmp_path / "spans"
    spans_in.mkdir()
    paths = os.pathsep.join(filter(None, [str(tmp_path / "fake"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OTEL_ENABLE": "1", "SPANS": str(spans_in), "PYTHONPATH": paths}, spans_in


def _spans(spans_in: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in spans_in.iterdir() for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["inline", "threads", "pipelined", "dask"])
def test_a_run_is_one_trace(tmp_path: Path, name: str) -> None:
    """With parents, attributes, errors; each span is there once, and what was broken off is no error."""
    env, spans_in = _faked(tmp_path)
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, str(script), name], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    spans = _spans(spans_in)
    by_id = {span["context"]["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)

    def children(parent: dict[str, Any]) -> list[dict[str, Any]]:
        found = [span for span in spans if span["parent_id"] == parent["context"]["span_id"]]
        assert {span["context"]["trace_id"] for span in found} <= {parent["context"]["trace_id"]}
        return found

    roots = {span["name"]: span for span in spans if span["parent_id"] is None}
    assert "MemoryDataSet" in roots.pop("load")["attributes"]["tilework.dataset"]
    roots.pop("open", None)  # to look at a file is nobody's task on some executors
    assert set(roots) == {"file", "sync", "async", "submitted", "broken off", "failed"}
    for root, udfs in (("sync", ["SumUDF", "SumSigUDF"]), ("async", ["SumUDF"]), ("submitted", ["SumUDF"])):
        (run,) = children(roots[root])
        assert (run["name"], run["status"]["status_code"]) == ("run", "UNSET")
        attributes = run["attributes"]
        assert (attributes["tilework.run.udfs"], attributes["tilework.run.partitions"]) == (udfs, 4)
        assert "MemoryDataSet" in attributes["tilework.dataset"]
        below = children(run)
        assert {span["name"] for span in below} == {"task", "merge"}
        tasks = [span for span in below if span["name"] == "task"]
        merges = [span for span in below if span["name"] == "merge"]
        for each in (tasks, merges):
            origins = sorted(tuple(span["attributes"]["tilework.partition.origin"]) for span in each)
            assert origins == [(first, 0, 0) for first in (0, 4, 8, 12)]
        assert {span["pid"] for span in merges} == {int(done.stdout)}
        if name in {"pipelined", "dask"}:
            assert int(done.stdout) not in {span["pid"] for span in tasks}
    load, run = children(roots["file"])
    assert "NPYDataSet" in load["attributes"]["tilework.dataset"]
    opened = [span for span in spans if span["name"] == "open"]
    for span in opened:
        assert span["attributes"] == {"file.path": str(tmp_path / "scan.npy"), "file.size": 2176}
        assert span["parent_id"] in {None, *(s["context"]["span_id"] for s in (load, *children(run)))}
    # once in each process
    assert 1 <= len(opened) == len({span["pid"] for span in opened})
    (run,) = children(roots["broken off"])
    assert run["attributes"]["tilework.cancelled"] is True
    assert {span["status"]["status_code"] for span in (run, *children(run))} == {"UNSET"}
    (run,) = children(roots["failed"])
    assert (run["status"]["status_code"], run["status"]["description"]) == ("ERROR", "ValueError: boom")
    errors = [span for span in children(run) if span["status"]["status_code"] == "ERROR"]
    assert errors
    for span in (run, *errors):
        assert [event["attributes"]["exception.type"] for event in span["events"]] == ["ValueError"]


SLOW = """
import os, signal
from tilework.udf import UDF

class Interrupts(UDF):
    def get_result_buffers(self):
        return {"a": self.buffer(kind="nav")}
    def process_frame(self, frame):
        os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_command_that_is_interrupted_is_one_trace_as_well(tmp_path: Path) -> None:
    """What there is when the process ends is sent before."""
    env, spans_in = _faked(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    np.save(tmp_path / "scan.npy", np.ones((2, 2, 4, 4), dtype="u2"))
    arguments = ["run", "scan.npy", "--udf", "slow:Interrupts", "--executor", "inline", "--out", "out"]
    call = [sys.executable, "-m", "tilework", *arguments]
    done = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    spans = {span["name"]: span for span in _spans(spans_in)}
    assert spans.keys() == {"load", "open", "run", "task"}
    assert spans["task"]["parent_id"] == spans["run"]["context"]["span_id"]
    assert spans["run"]["attributes"]["tilework.cancelled"] is True
