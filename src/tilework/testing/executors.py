"""The contract of every executor, as tests: subclass `ExecutorContract`, say how to make the executor, run pytest.

::

    class TestMyExecutor(ExecutorContract):
        make_code = "from my.executor import MyExecutor; executor = MyExecutor()"
        worker_names = ("mine-0", "mine-1")
        parallelism = 2

        def make_executor(self):
            return MyExecutor()

Every test ends by proving that nothing is left: no thread, no file, no process, no shared memory. What an executor
cannot do is declared as a class attribute (see `ExecutorHarness`), and appears as skipped with that reason; nothing is
left out silently.
"""

from __future__ import annotations

from tilework.testing.executor_endings import EndingContract
from tilework.testing.executor_errors import ErrorContract
from tilework.testing.executor_harness import ExecutorHarness
from tilework.testing.executor_losses import LossContract
from tilework.testing.executor_runs import RunContract
from tilework.testing.executor_services import AsyncContract, ServiceContract

__all__ = ["ExecutorContract", "ExecutorHarness"]


class ExecutorContract(RunContract, ErrorContract, EndingContract, LossContract, ServiceContract, AsyncContract):
    """All of it."""
