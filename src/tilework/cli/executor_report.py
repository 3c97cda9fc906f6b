"""What an executor tells of itself, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["report_lines"]

_MIB = 2**20


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the lines for a report.

    Parameters
    ----------
    report
        As from `JobExecutor.report`.
    """
    limits = ", ".join(f"{_words(name)} {_amount(name, value)}" for name, value in report["limits"].items())
    ended = {state: n for state, n in report["runs"].items() if state != "active"}
    runs = ", ".join(f"{n} {state}" for state, n in ended.items()) or "none"
    lines = [
        f"  {report['executor']}: {limits}",
        f"  runs: {runs}; tasks: {report['tasks']}; lost with their worker: {report['losses']}",
    ]
    processes = {process["name"]: process for process in report.get("processes", ())}
    for worker in report["workers"]:
        offers = ", ".join(name for name, amount in worker["resources"].items() if amount)
        line = f"  {worker['name']} on {worker['host']}: {offers or 'service tasks only'}"
        process = processes.get(worker["name"])
        if process is not None:
            line += f"; process {process['pid']}, {process['state']}, CPU {_list(process['cpus'])}"
        lines.append(line)
        lines += [f"    it wrote: {text}" for text in (process or {}).get("stderr", ())]
    for event in report["events"]:
        if event["event"] == "worker_lost":
            lines.append(f"  lost {event['cause']}")
    return lines


def _words(name: str) -> str:
    return name.replace("_bytes", "").replace("_", " ")


def _amount(name: str, value: Any) -> str:
    return f"{value / _MIB:.0f} MiB" if "bytes" in name else str(value)


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "unknown"
