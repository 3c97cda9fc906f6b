"""Where the work of a command is done, and how that is said."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilework.exceptions import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tilework.api import Context

__all__ = ["count_workers", "describe_executor", "make_context", "open_context"]


def make_context(args: argparse.Namespace) -> Context:
    """Return the context that the arguments ask for."""
    from tilework.api import Context
    from tilework.common.tracing import maybe_setup_tracing

    maybe_setup_tracing("tilework")
    if args.executor == "inline":
        if args.workers not in {None, 1}:
            msg = f"--executor inline has one worker, not {args.workers}: use --executor threads"
            raise CommandError(msg)
        return Context.make_with("inline")
    return Context.make_with(args.executor, cpus=args.workers)


@contextmanager
def open_context(args: argparse.Namespace) -> Iterator[Context]:
    """Give a context, closed at the end; but not waited for after Ctrl-C, when the process is about to end anyway."""
    context = make_context(args)
    try:
        yield context
    except Exception:
        context.close()
        raise
    else:
        context.close()


def count_workers(context: Context) -> int:
    """Return how many tasks run at a time."""
    return sum(worker.nthreads for worker in context.executor.get_available_workers())


def describe_executor(executor: dict[str, Any]) -> str:
    """Return the executor of a summary for people."""
    count = executor["workers"]
    if executor["name"] == "inline":
        return "inline"
    one, more = ("thread", "threads") if executor["name"] == "threads" else ("process", "processes")
    return f"{count} {one if count == 1 else more}"
