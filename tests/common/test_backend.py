from __future__ import annotations

import subprocess
import sys

import pytest

from tilework.common import backend

pytestmark = pytest.mark.usefixtures("no_device_is_set")


def test_the_cpu_is_used_when_nothing_is_said() -> None:
    assert (backend.get_device_class(), backend.get_use_cpu(), backend.get_use_cuda()) == ("cpu", 0, None)


def test_the_last_choice_counts() -> None:
    backend.set_use_cuda(3)
    assert (backend.get_device_class(), backend.get_use_cpu(), backend.get_use_cuda()) == ("cuda", None, 3)
    backend.set_use_cpu(7)
    assert (backend.get_device_class(), backend.get_use_cpu(), backend.get_use_cuda()) == ("cpu", 7, None)
    backend.set_use_cuda(0)
    assert (backend.get_device_class(), backend.get_use_cuda()) == ("cuda", 0)


def test_contradictions_and_nonsense_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWORK_USE_CUDA", "first")
    with pytest.raises(RuntimeError, match="'first'"):
        backend.get_use_cuda()
    monkeypatch.setenv("TILEWORK_USE_CPU", "0")
    for function in (backend.get_device_class, backend.get_use_cpu, backend.get_use_cuda):
        with pytest.raises(RuntimeError, match="both"):
            function()


def test_the_variables_of_libertem(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count where ours are not set, as in programs that were written for it."""
    monkeypatch.setenv("LIBERTEM_USE_CUDA", "2")
    assert (backend.get_device_class(), backend.get_use_cpu(), backend.get_use_cuda()) == ("cuda", None, 2)
    backend.set_use_cpu(0)
    assert (backend.get_device_class(), backend.get_use_cuda()) == ("cpu", None)
    monkeypatch.delenv("TILEWORK_USE_CPU")
    monkeypatch.setenv("LIBERTEM_USE_CPU", "0")
    with pytest.raises(RuntimeError, match="both LIBERTEM_USE_CUDA and LIBERTEM_USE_CPU"):
        backend.get_device_class()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_file_limit_is_raised_to_what_the_system_lets_us() -> None:
    code = """
import resource
from tilework.common.backend import set_file_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
set_file_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_limit_that_may_not_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system's own limit is below that of the process."""
    import resource

    asked = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        msg = "not allowed to raise maximum limit"
        raise ValueError(msg)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    backend.set_file_limit()
    assert asked == [(4096, 4096)]
