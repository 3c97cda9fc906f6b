"""The pipelined executor fulfils the contract of all executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from tilework.executor.pipelined import PipelinedExecutor
from tilework.testing.executor_endings import EndingContract
from tilework.testing.executor_errors import ErrorContract
from tilework.testing.executor_losses import LossContract
from tilework.testing.executor_runs import RunContract
from tilework.testing.executor_services import AsyncContract, ServiceContract
from tilework.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.common.executor import JobExecutor

CODE = """
from tilework.executor.pipelined import PipelinedExecutor
executor = PipelinedExecutor(PipelinedExecutor.make_spec({}, []))
"""


@pytest.fixture(scope="module", autouse=True)
def others() -> Iterator[None]:
    """There are other pipelined executors, as there may be in a program; those of the tests start quickly then."""
    with PipelinedExecutor(PipelinedExecutor.make_spec(1, [])):
        yield


class TestOneWorker(ExecutorContract):
    """All of it, with an executor for each test."""

    make_code = CODE.format(1)
    worker_names: ClassVar[tuple[str, ...]] = ("cpu-0",)
    parallelism = 1
    shares_memory = False
    can_lose_workers = True
    settle_seconds = 0.2

    def make_executor(self) -> PipelinedExecutor:
        return PipelinedExecutor(PipelinedExecutor.make_spec(self.parallelism, []))


class TestTwoWorkers(EndingContract, LossContract, AsyncContract):
    """What ends an executor or its workers, or counts all that it did."""

    test_report = ServiceContract.test_report

    make_code = CODE.format(2)
    worker_names: ClassVar[tuple[str, ...]] = ("cpu-0", "cpu-1")
    parallelism = 2
    shares_memory = False
    can_lose_workers = True
    settle_seconds = 0.2
    make_executor = TestOneWorker.make_executor


class TestOneForMany(RunContract, ErrorContract, ServiceContract):
    """The rest, with one executor for all: no run leaves anything in it that another would find."""

    make_code = CODE.format(2)
    worker_names: ClassVar[tuple[str, ...]] = ("cpu-0", "cpu-1")
    parallelism = 2
    shares_memory = False
    settle_seconds = 0.2
    shared: ClassVar[PipelinedExecutor]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def shared_executor(cls) -> Iterator[None]:
        with PipelinedExecutor(PipelinedExecutor.make_spec(cls.parallelism, [])) as cls.shared:
            cls.shared.run_function(abs, -1)
            yield

    @pytest.fixture
    def executor(self, request: pytest.FixtureRequest, nothing_left: None) -> JobExecutor:
        if request.function.__name__ == ServiceContract.test_report.__name__:
            pytest.skip("counts all that its executor did: see TestTwoWorkers")
        return self.shared
