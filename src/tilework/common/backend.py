"""Which device this process computes on, as its environment variables say.

``TILEWORK_USE_CUDA`` holds the number of a CUDA device, ``TILEWORK_USE_CPU`` any number: at most one of them is set, by
whoever starts a worker. Where neither is, LiberTEM's variables are looked at, ``LIBERTEM_USE_CUDA`` and
``LIBERTEM_USE_CPU``. Without any, it is the CPU.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Literal

__all__ = ["get_device_class", "get_use_cpu", "get_use_cuda", "set_file_limit", "set_use_cpu", "set_use_cuda"]

_CUDA = "TILEWORK_USE_CUDA"
_CPU = "TILEWORK_USE_CPU"
_OF_LIBERTEM = {_CUDA: "LIBERTEM_USE_CUDA", _CPU: "LIBERTEM_USE_CPU"}


def set_use_cuda(device_id: int) -> None:
    """Let this process, and those it starts, compute on the CUDA device with this number."""
    os.environ[_CUDA] = str(device_id)
    os.environ.pop(_CPU, None)


def set_use_cpu(device_id: int = 0) -> None:
    """Let this process, and those it starts, compute on the CPU; the number has no meaning."""
    os.environ[_CPU] = str(device_id)
    os.environ.pop(_CUDA, None)


def get_use_cuda() -> int | None:
    """Return the number of the CUDA device to compute on, or None.

    Raises
    ------
    RuntimeError
        When both variables are set, or the value is not a number.
    """
    return _get(_CUDA)


def get_use_cpu() -> int | None:
    """Return None when a CUDA device is to be used, otherwise the value that was set, by default 0.

    Raises
    ------
    RuntimeError
        When both variables are set, or the value is not a number.
    """
    value = _get(_CPU)
    return 0 if value is None and _get(_CUDA) is None else value


def get_device_class() -> Literal["cpu", "cuda"]:
    """Return the kind of device to compute on."""
    return "cpu" if get_use_cuda() is None else "cuda"


def _get(name: str) -> int | None:
    cuda, cpu = _CUDA, _CPU
    if cuda not in os.environ and cpu not in os.environ:
        cuda, cpu, name = _OF_LIBERTEM[cuda], _OF_LIBERTEM[cpu], _OF_LIBERTEM[name]
    if cuda in os.environ and cpu in os.environ:
        msg = f"both {cuda} and {cpu} are set in the environment: unset the one that does not apply"
        raise RuntimeError(msg)
    value = os.environ.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError as e:
        msg = f"{name} in the environment must be the number of a device, it is {value!r}"
        raise RuntimeError(msg) from e


def set_file_limit() -> None:
    """Allow this process as many open files as the system lets it; nothing where there is no such limit."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # The limit of this process may be above that of the system, and a sandbox may forbid to change it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
