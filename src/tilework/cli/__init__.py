"""The ``tilework`` command.

::

    app.py         main: from arguments to exit code; signals, messages, tracebacks
    parser.py      the arguments
    values.py      what the arguments say: shapes, points, lengths, scan positions, parameters
    contexts.py    where the work is done
    opening.py     a file becomes a dataset; what is known about its axes
    detector.py    detector corrections from files
    functions.py   names become UDFs
    output.py      the folder of results, which appears whole or not at all
    pictures.py    results become PNG files
    printing.py    standard output
    words.py       numbers and names for people; executor_report.py: what an executor tells of itself
    info.py run.py demo.py warmup.py worker.py    the subcommands

Exit codes: 0 done; 1 failed, with one line on stderr that says what and what to do; 2 wrong usage; 130 interrupted
(Ctrl-C); 143 terminated (129: the terminal was closed; 131: SIGQUIT). ``--help`` and ``--version`` import next to
nothing.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``tilework`` command.

    Parameters
    ----------
    argv
        Arguments; None: those of the process.

    Returns
    -------
    int
        Exit code.
    """
    try:
        from tilework.cli.app import run_command

        return run_command(argv)
    except KeyboardInterrupt:  # before anything was begun
        return 130
