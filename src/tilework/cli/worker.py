"""``tilework worker``: workers on this machine for a Dask scheduler that runs somewhere."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from tilework.exceptions import CommandError

if TYPE_CHECKING:
    import argparse

__all__ = ["worker"]


def worker(args: argparse.Namespace) -> None:
    """Start workers, and wait until they are told to end: by Ctrl-C, by SIGTERM, or by their scheduler.

    Raises
    ------
    CommandError
        When the scheduler does not answer, or the arguments do not fit the machine.
    """
    from tilework.executor.dask.extra import require_dask
    from tilework.utils.devices import detect

    require_dask()
    level, levels = args.log_level.upper(), logging.getLevelNamesMapping()
    if level not in levels:
        msg = f"--log-level {args.log_level}: use one of {', '.join(levels)}"
        raise CommandError(msg)
    from tilework.executor.dask.spec import cluster_spec

    for option, number in (("--n-cpus", args.n_cpus), ("--services", args.services)):
        if number is not None and number < 0:
            msg = f"{option} must not be negative, it is {number}"
            raise CommandError(msg)
    found = detect()
    cpus = found["cpus"] if args.n_cpus is None else args.n_cpus
    cudas = found["cudas"] if args.cudas is None else _devices(args.cudas)
    missing = sorted(set(cudas) - set(found["cudas"]))
    if missing:
        msg = f"--cudas {args.cudas}: there is no CUDA device {missing[0]}, only {found['cudas']}"
        raise CommandError(msg)
    name = args.name or socket.gethostname()
    options = {"local_directory": args.local_directory} if args.local_directory else {}
    spec = cluster_spec(
        cpus,
        cudas,
        found["has_cupy"] if args.has_cupy is None else args.has_cupy == "yes",
        name=name,
        num_service=args.services,
        options=options,
        preload=tuple(args.preload),
    )
    if not spec:
        msg = "there is nothing to start: --n-cpus 0, no CUDA device, and no --services"
        raise CommandError(msg)
    from tilework.executor.dask.serve import serve

    serve(args.scheduler, spec, level)


def _devices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        msg = f"--cudas must be numbers of devices, such as 0,1, or '' for none, not {text!r}"
        raise CommandError(msg) from None
