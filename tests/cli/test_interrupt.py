"""Ctrl-C and other signals in the middle of a run: the right exit code, at once, and nothing left."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["command_fixtures"]

SLOW = """
import pathlib, time
import numpy as np
from tilework.udf import UDF


class Slow(UDF):
    def get_result_buffers(self):
        return {"x": self.buffer(kind="nav")}

    def process_frame(self, frame):
        pathlib.Path(self.params.started).touch()
        time.sleep(0.05)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with a UDF that would take minutes, and a file for it."""
    (tmp_path / "slow.py").write_text(SLOW)
    np.save(tmp_path / "scan.npy", np.zeros((64, 64, 4, 4), np.uint8))
    return tmp_path


def wait_until_started(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, "it ended before it began"
        time.sleep(0.02)


@pytest.mark.parametrize("executor", ["threads", "inline"])
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_interrupted_run(command: list[str], slow: Path, executor: str, number: signal.Signals, code: int) -> None:
    """The run is cancelled, no result folder and no hidden rest of one is left, there is one line and no traceback."""
    arguments = ["run", "scan.npy", "--udf", "slow:Slow", "--param", "started=begun", "--out", "new/out"]
    # Who started the tests may have them ignored, as a shell does for what it runs in the background.
    process = subprocess.Popen(
        [*command, *arguments, "--executor", executor],
        cwd=slow,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509  (no thread is there to mind)
    )
    try:
        wait_until_started(slow / "begun", process)
        assert (slow / "new").exists(), "where it is written is tried before the run"
        process.send_signal(number)
        # The whole run takes 100 s and more.
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, stderr
    assert stdout == ""
    assert "nothing was left half-written" in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert {p.name for p in slow.iterdir()} - {"__pycache__"} == {"slow.py", "scan.npy", "begun"}


def test_a_closed_terminal_can_be_ignored(command: list[str], slow: Path) -> None:
    """With nohup, the run goes on."""
    np.save(slow / "scan.npy", np.zeros((5, 8, 4, 4), np.uint8))
    arguments = ["run", "scan.npy", "--udf", "slow:Slow", "--param", "started=begun", "--out", "out"]
    process = subprocess.Popen(
        ["nohup", *command, *arguments], cwd=slow, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_started(slow / "begun", process)
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert (slow / "out" / "summary.json").exists()


def test_interrupted_demo(command: list[str], tmp_path: Path) -> None:
    """The same in the middle of the simulation, whose file is already there in part."""
    process = subprocess.Popen(
        [*command, "demo", "--out", "out", "--shape", "512,512,128,128"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list(tmp_path.rglob("*.npy.part")):
            assert process.poll() is None, "it ended before it began"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, stderr
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_does_not_disturb_cleaning_up(command: list[str], slow: Path) -> None:
    """An impatient user presses Ctrl-C several times: still nothing is left."""
    arguments = ["run", "scan.npy", "--udf", "slow:Slow", "--param", "started=begun", "--out", "out"]
    process = subprocess.Popen([*command, *arguments], cwd=slow, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_started(slow / "begun", process)
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert {p.name for p in slow.iterdir()} - {"__pycache__"} == {"slow.py", "scan.npy", "begun"}
