"""Which workers a Dask cluster for tilework has."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import dask
import pytest
from distributed import Nanny

from tilework.exceptions import ExecutorSpecException
from tilework.executor.dask import DaskJobExecutor, cluster_spec, set_worker_log_level
from tilework.executor.dask.spec import worker_setup
from tilework.utils import devices

LEVEL = "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED"


def test_names_and_resources() -> None:
    """CPU workers first, then those for services, then GPUs, each with its resources."""
    spec = cluster_spec(cpus=[0, 3], cudas=[1], has_cupy=True, name="lab", num_service=2)
    assert {name: entry["options"]["resources"] for name, entry in spec.items()} == {
        "lab-cpu-0": {"CPU": 1, "compute": 1, "ndarray": 1},
        "lab-cpu-3": {"CPU": 1, "compute": 1, "ndarray": 1},
        "lab-service-0": {},
        "lab-service-1": {},
        "lab-cuda-1": {"CUDA": 1, "compute": 1, "ndarray": 1},
    }
    assert list(spec) == ["lab-cpu-0", "lab-cpu-3", "lab-service-0", "lab-service-1", "lab-cuda-1"]
    assert {entry["cls"] for entry in spec.values()} == {Nanny}
    spec = cluster_spec(cpus=2, cudas=[], has_cupy=False)
    assert list(spec) == ["default-cpu-0", "default-cpu-1", "default-service-0"]


def test_a_device_that_is_named_several_times() -> None:
    """Each of its workers has a name of its own, wherever the device stands in the list."""
    spec = cluster_spec(cpus=0, cudas=[1, 1, 0, 1], has_cupy=False, num_service=0)
    assert list(spec) == ["default-cuda-1-0", "default-cuda-1-1", "default-cuda-0", "default-cuda-1-2"]
    assert spec["default-cuda-0"]["options"]["resources"] == {"CUDA": 1, "compute": 1}


def test_a_number_of_gpu_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are spread over the devices that are there; without any, a warning says so, and they are numbered."""
    monkeypatch.setattr(devices, "_cuda_devices", lambda: [2, 5])
    spec = cluster_spec(cpus=0, cudas=3, has_cupy=False, num_service=0)
    assert list(spec) == ["default-cuda-2-0", "default-cuda-5", "default-cuda-2-1"]
    monkeypatch.setattr(devices, "_cuda_devices", list)
    with pytest.warns(RuntimeWarning, match="no visible CUDA devices"):
        spec = cluster_spec(cpus=0, cudas=2, has_cupy=False, num_service=0)
    assert list(spec) == ["default-cuda-0", "default-cuda-1"]


def test_options_and_preload() -> None:
    """Options of the caller win; what is to be loaded first comes before ours."""
    spec = cluster_spec(1, [], has_cupy=False, options={"nthreads": 3, "memory_limit": "1GB"}, preload=("mine", "x=1"))
    options = spec["default-cpu-0"]["options"]
    assert (options["nthreads"], options["memory_limit"], options["silence_logs"]) == (3, "1GB", logging.WARNING)
    assert options["preload"][:2] == ("mine", "x=1")
    assert len(options["preload"]) > len(spec["default-service-0"]["options"]["preload"])
    assert cluster_spec(1, [], has_cupy=False)["default-cpu-0"]["options"]["nthreads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpus": -1}, "cpus"),
        ({"cpus": [1, 1]}, "number of its own"),
        ({"cudas": -1}, "cudas"),
        ({"num_service": -1}, "num_service"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], message: str) -> None:
    """Numbers that make no sense are refused."""
    with pytest.raises(ExecutorSpecException, match=message):
        cluster_spec(**{"cpus": 1, "cudas": 0, "has_cupy": False, **arguments})


@pytest.mark.usefixtures("no_device_is_set")
def test_worker_setup() -> None:
    """It selects the device; anything but a CPU or a GPU is refused."""
    worker_setup("CUDA", 3)
    assert os.environ["TILEWORK_USE_CUDA"] == "3"
    worker_setup("CPU", 1)
    assert "TILEWORK_USE_CUDA" not in os.environ
    with pytest.raises(ValueError, match="'TPU'"):
        worker_setup("TPU", 0)


def test_worker_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set for the block; what the user's environment says stays, unless it is forced."""
    monkeypatch.delenv(LEVEL, raising=False)
    with set_worker_log_level("ERROR"):
        assert os.environ[LEVEL] == "ERROR"
        with set_worker_log_level("INFO"):
            assert os.environ[LEVEL] == "ERROR"
        with set_worker_log_level(logging.INFO, force=True):
            assert os.environ[LEVEL] == "20"
        assert os.environ[LEVEL] == "ERROR"
    assert LEVEL not in os.environ


def dask_level() -> int:
    return logging.getLogger("distributed").getEffectiveLevel()


def level_and_profiling() -> tuple[int, bool]:
    return dask_level(), dask.config.get("distributed.worker.profile.enabled")


@pytest.mark.parametrize("how", ["variable", "configuration"])
def test_workers_have_the_log_level(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are started now, and in their place later, though what they are forks of is older; ours stays."""
    monkeypatch.delenv(LEVEL, raising=False)
    before = dask_level()
    setting = (
        set_worker_log_level(logging.ERROR)
        if how == "variable"
        else dask.config.set({"distributed.logging.distributed": "error"})
    )
    spec = cluster_spec(1, 0, has_cupy=False, num_service=0)
    with DaskJobExecutor.make_local(spec):  # with it comes what the others are forks of
        with setting:
            executor = DaskJobExecutor.make_local(spec)
        with executor:
            seen = [executor.run_function(level_and_profiling)]
            for pid in executor.run_each_worker(os.getpid).values():
                os.kill(pid, signal.SIGKILL)
            seen.append(executor.run_function(level_and_profiling))
    assert seen == [(logging.ERROR, False)] * 2
    assert before == dask_level() != logging.ERROR


def cannot_start(**options: Any) -> Any:
    msg = f"none can be started with {options}"
    raise OSError(msg)


def test_a_scheduler_that_cannot_be_started() -> None:
    """Nothing of the cluster is left, such as its event loop, which has a thread."""
    before = set(threading.enumerate())
    kwargs = {"scheduler": {"cls": cannot_start, "options": {"port": 1}}}
    with pytest.raises(RuntimeError, match="none can be started"):
        DaskJobExecutor.make_local(cluster_spec(1, 0, has_cupy=False), cluster_kwargs=kwargs)
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


def test_without_dask() -> None:
    """Where Dask is not installed, whatever needs it says which extra to install; the rest works."""
    code = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None  # as if they were not there
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("dask", "distributed") else find(name, *a)
from tilework.api import Context
from tilework.exceptions import ExecutorSpecException
from tilework.executor.integration import get_dask_integration_executor
from tilework.executor.dask import DaskJobExecutor, cluster_spec
for make in (Context, Context.make_with, lambda: Context.make_with("dask-integration"), DaskJobExecutor.make_local,
             get_dask_integration_executor, lambda: cluster_spec(1, 0, False), lambda: DaskJobExecutor.connect("x")):
    try:
        make()
    except ExecutorSpecException as error:
        assert "tilework[dask]" in str(error), error
    else:
        raise AssertionError(make)
with Context.make_with("inline") as context:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_configuration_is_read_in_c() -> None:
    """It is the same, and the program has its own reader again, also when two threads import Dask."""
    code = """
import json
import yaml
from tilework.executor.dask.extra import configuration_read_in_c
in_python = yaml.SafeLoader
with configuration_read_in_c():
    with configuration_read_in_c():
        pass
    assert yaml.SafeLoader is yaml.CSafeLoader
    import dask.config, distributed
assert yaml.SafeLoader is in_python
print(json.dumps(dask.config.config, default=str))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    plain = "import json, dask.config, distributed; print(json.dumps(dask.config.config, default=str))"
    expected = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == expected.stdout
