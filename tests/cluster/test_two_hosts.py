"""Two hosts, made of network and mount namespaces: a scheduler on the left one, workers on both, data on the right one.

Needs Linux, root, and iproute2. Run it by itself with ``sudo python -m pytest tests/cluster -rs``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dask_clusters import scheduler_process, worker_process

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).with_name("two_hosts_program.py")
LEFT, RIGHT = "10.77.5.1", "10.77.5.2"
NETWORK_SECONDS = 11
"""How long Dask lets a connection be dead (30 s by default, 11 s at least)."""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


class TwoHosts:
    """Two network namespaces with one link; the left one does not see the folder of the data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = uuid.uuid4().hex[:6]
        self.left, self.right = f"tw-{name}-l", f"tw-{name}-r"
        for namespace in (self.left, self.right):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        ends = f"v{name}l", f"v{name}r"
        ip("-n", self.left, "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.right)
        for namespace, end, address in ((self.left, ends[0], LEFT), (self.right, ends[1], RIGHT)):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", namespace, "link", "set", end, "up")
        self.cut = ("ip", "-n", self.left, "link", "set", ends[0], "down")
        self.mend = ("ip", "-n", self.left, "link", "set", ends[0], "up")

    def on_left(self) -> tuple[str, ...]:
        hide = 'mount -t tmpfs none "$0" && exec "$@"'
        return ("ip", "netns", "exec", self.left, "unshare", "-m", "sh", "-c", hide, str(self.folder))

    def on_right(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.right)

    def close(self) -> None:
        for namespace in (self.left, self.right):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("two hosts are made of namespaces, for which one must be root on Linux")
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"two hosts are made of namespaces, for which {missing} must be installed (iproute2, util-linux)")
    folder = tmp_path_factory.mktemp("data")
    (folder / "scan.raw").write_bytes(bytes(range(256)))
    try:
        made = TwoHosts(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"namespaces cannot be made here, although we are root: {error.stderr.strip()}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def scheduler(hosts: TwoHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and one worker on the left."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TCP", "CONNECT"):
            patch.setenv(f"DASK_DISTRIBUTED__COMM__TIMEOUTS__{name}", f"{NETWORK_SECONDS}s")
        with (
            scheduler_process(folder, *hosts.on_left(), host=LEFT) as address,
            worker_process(folder, address, "left", *hosts.on_left()),
        ):
            yield address


@pytest.fixture
def address(hosts: TwoHosts, scheduler: str, tmp_path: Path) -> Iterator[str]:
    """And one worker on the right, for each test anew."""
    with worker_process(tmp_path, scheduler, "right", *hosts.on_right()):
        waiting = f"from dask_clusters import wait_for_workers; wait_for_workers({scheduler!r}, 2)"
        paths = os.pathsep.join([str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths}
        subprocess.run([*hosts.on_left(), sys.executable, "-c", waiting], check=True, env=environment)
        yield scheduler
        subprocess.run(hosts.mend, check=True)


def run(hosts: TwoHosts, address: str, what: str) -> dict[str, Any]:
    path = str(hosts.folder / "scan.raw")
    command = [*hosts.on_left(), sys.executable, str(PROGRAM), address, path, what, *hosts.cut]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_tasks_go_where_their_data_is(hosts: TwoHosts, address: str) -> None:
    """Those with data on the right run there, although the left worker has nothing to do; the others run on both."""
    answer = run(hosts, address, "data")
    assert answer["error"] == ""
    assert answer["hosts"] == {"left-cpu-0": LEFT, "right-cpu-0": RIGHT}
    assert [(i, content) for i, content, _ in answer["results"]] == [(i, i) for i in range(1, 100, 2)]
    assert {name for _, _, name in answer["results"]} == {"right-cpu-0"}
    answer = run(hosts, address, "no data")
    assert {name for _, _, name in answer["results"]} == {"left-cpu-0", "right-cpu-0"}


def test_the_link_is_cut_in_a_run(hosts: TwoHosts, address: str) -> None:
    """What needs no data is done by those who are left, after the time that Dask gives a dead connection."""
    answer = run(hosts, address, "cut")
    assert answer["error"] == ""
    assert [i for i, _, _ in answer["results"]] == list(range(100))
    assert answer["results"][-1][2] == "left-cpu-0"
    assert answer["seconds"] < 5 * NETWORK_SECONDS


def test_the_link_to_the_data_is_cut_in_a_run(hosts: TwoHosts, address: str) -> None:
    """The run ends with an error that names the file that cannot be read any more."""
    answer = run(hosts, address, "data and cut")
    assert 20 <= len(answer["results"]) < 50
    assert "FileNotFoundError" in answer["error"]
    assert str(hosts.folder) in answer["error"]
    assert answer["seconds"] < 5 * NETWORK_SECONDS
