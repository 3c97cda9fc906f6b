"""What is needed to start processes is looked at first."""

from __future__ import annotations

import shlex
import sys

import pytest

from mount_namespace import in_mount_namespace

MAKE = {
    "processes": "from tilework.executor.concurrent import ConcurrentJobExecutor as E; E.make_processes(1)",
    "dask": "from tilework.executor.dask import DaskJobExecutor as E; E.make_local()",
}


@pytest.mark.parametrize("kind", MAKE)
def test_no_room_for_semaphores(kind: str) -> None:
    """The error says where there is no room, and what to do."""
    if kind == "dask":
        pytest.importorskip("distributed")
    program = f"from tilework.exceptions import ExecutorError\ntry: {MAKE[kind]}\nexcept ExecutorError as e: print(e)"
    done = in_mount_namespace(
        "mount -t tmpfs -o size=64k tmpfs /dev/shm; head -c 64k /dev/zero > /dev/shm/full; "
        f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    )
    assert "no semaphore can be made: [Errno 28]" in done.stdout
    assert "make room" in done.stdout
    assert "--shm-size" in done.stdout
