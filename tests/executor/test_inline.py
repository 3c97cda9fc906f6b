"""InlineJobExecutor keeps the contract, also when everything it moves goes through cloudpickle."""

from __future__ import annotations

from tilework.executor.inline import InlineJobExecutor
from tilework.testing.executors import ExecutorContract
from tilework.utils.devices import available_cpu_count


class TestInline(ExecutorContract):
    make_code = "from tilework.executor.inline import InlineJobExecutor; executor = InlineJobExecutor()"
    worker_names = ("inline",)
    threads_per_worker = available_cpu_count()
    prioritises = False  # each run has its own thread: that of its consumer

    def make_executor(self) -> InlineJobExecutor:
        return InlineJobExecutor()


class TestInlineDebug(ExecutorContract):
    make_code = "from tilework.executor.inline import InlineJobExecutor; executor = InlineJobExecutor(debug=True)"
    worker_names = ("inline",)
    threads_per_worker = 3
    prioritises = False
    shares_memory = False

    def make_executor(self) -> InlineJobExecutor:
        return InlineJobExecutor(debug=True, inline_threads=3)
