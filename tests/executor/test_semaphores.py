"""What is needed to start processes is looked at first."""

from __future__ import annotations

import shlex
import sys

import pytest

from mount_namespace import in_mount_namespace

NO_ROOM = "mount -t tmpfs -o size=64k tmpfs /dev/shm; head -c 64k /dev/zero > /dev/shm/full; "


def run_without_room(program: str) -> str:
    return in_mount_namespace(f"{NO_ROOM}{shlex.quote(sys.executable)} -c {shlex.quote(program)}").stdout


def test_no_room_for_semaphores() -> None:
    """The error says where there is no room, and what to do."""
    said = run_without_room(
        """
from tilework.exceptions import ExecutorError
from tilework.executor.concurrent import ConcurrentJobExecutor
try: ConcurrentJobExecutor.make_processes(1)
except ExecutorError as e: print(e)
"""
    )
    assert "no semaphore can be made: [Errno 28]" in said
    assert "make room" in said
    assert "--shm-size" in said


def test_dask_needs_none() -> None:
    """A local cluster works where there is no room for semaphores."""
    pytest.importorskip("distributed")
    said = run_without_room(
        """
from tilework.executor.dask import DaskJobExecutor, cluster_spec
with DaskJobExecutor.make_local(cluster_spec(2, 0, has_cupy=False, num_service=0)) as executor:
    print(sorted(executor.run_each_worker(abs, -1)))
"""
    )
    assert said == "['default-cpu-0', 'default-cpu-1']\n"
