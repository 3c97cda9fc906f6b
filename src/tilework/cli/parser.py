"""The arguments of the ``tilework`` command. Imports nothing heavy: ``--help`` must be instant."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, NoReturn

from tilework import __version__
from tilework.cli.functions import BUILTIN
from tilework.cli.values import parse_length, parse_parameter, parse_point, parse_radius, parse_roi, parse_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FORMATS", "make_parser", "parse"]

FORMATS = ("npz", "h5", "zarr", "tif")

_EXAMPLES = """\
examples:
  tilework info scan.mib
  tilework run scan.mib --udf sum --udf com --out results
  tilework run scan.raw --dtype uint16 --nav-shape 256,256 --sig-shape 128,128 --udf disk --radius 12 --out bf
  tilework run scan.npy --udf com --center 63.5,64 --radius 20 --param scan_rotation=90 --out com
  tilework run scan.npy --udf stddev --roi disk:32,32,20 --out part
  tilework run scan.npy --udf fem --radius 30 --inner 25 --dark dark.npy --gain gain.npy --out fluctuation
  tilework run scan.npy --udf mymodule:MyUDF --param threshold=3 --out mine
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line, without the usage of the command before it, which is a screen long."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n'{self.prog} --help' lists all options\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="tilework",
        description="Run functions over every frame of pixelated STEM data, built-in ones and your own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tilework {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback when something fails")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_info(commands)
    _add_run(commands)
    _add_demo(commands)
    _add_warmup(commands)
    _add_worker(commands)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of a command line. One that cannot be parsed ends the program, with what may be meant."""
    args, unknown = parser.parse_known_args(_join_negative(arguments))
    if unknown:
        # argparse would name the program alone, whose help says nothing of the command's options.
        command = args.parser if args.command else parser
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, command)}")
    return args


def _meant(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return which options may be meant by misspelt ones, as the end of a sentence."""
    import difflib

    known = [option for action in parser._actions for option in action.option_strings]
    names = [argument.partition("=")[0] for argument in unknown if argument.startswith("-")]
    meant = [match for name in names for match in difflib.get_close_matches(name, known, 1)]
    return f"; did you mean {', '.join(meant)}?" if meant else ""


def _join_negative(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which an option and its value are one where the value begins with a negative number.

    argparse takes ``-3:,2:5`` and ``-1,-1`` for options, after ``--roi`` and ``--center`` as well; no option of ours
    begins like that.
    """
    joined: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*joined, *arguments[position:]]
        option = joined[-1] if joined else ""
        if re.match(r"-\.?[0-9]", argument) and option.startswith("--") and "=" not in option:
            joined[-1] = f"{option}={argument}"
        else:
            joined.append(argument)
    return joined


def _add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(parser=parser)
    parser.register("action", None, _Once)
    # SUPPRESS: a --debug before the command must not be undone by its default here.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback when something fails"
    )
    return parser


def _add_info(commands: Any) -> None:
    parser = _add_command(
        commands, "info", "say what a file is, its shape and type of numbers, and how that was found out"
    )
    _add_opening(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_run(commands: Any) -> None:
    parser = _add_command(
        commands, "run", "run functions over a file; write arrays, pictures and summary.json to a folder"
    )
    _add_opening(parser)
    what = parser.add_argument_group("what is computed")
    what.add_argument(
        "--udf",
        action=_AddUDF,
        dest="udfs",
        required=True,
        metavar="NAME",
        help=f"{' | '.join(BUILTIN)} | module:Class; repeatable, one pass",
    )
    what.add_argument(
        "--param",
        action=_AddParameter,
        type=parse_parameter,
        dest="udfs",
        metavar="K=V",
        help="parameter of the --udf before it: a number, text, list, or @array.npy; repeatable",
    )
    what.add_argument(
        "--roi",
        type=parse_roi,
        metavar="ROI",
        help="disk:cy,cx,r | rect:y,x,h,w | y0:y1,x0:x1 | mask.npy",
    )
    what.add_argument(
        "--center",
        type=parse_point,
        metavar="CY,CX",
        help="centre of disk, ring, com, fem on the detector (px)",
    )
    what.add_argument(
        "--radius",
        type=parse_radius,
        metavar="R",
        help="(outer) radius of disk, ring, com and fem; for crystallinity, of the beam that is masked out (px)",
    )
    what.add_argument("--inner", type=parse_radius, metavar="R", help="inner radius of ring, com and fem (px)")
    what.add_argument(
        "--masks",
        metavar="FILE.npy",
        help="for the UDF 'masks': a stack of masks (n, detector y, detector x)",
    )
    detector = parser.add_argument_group("how the detector is corrected: (frame - dark) * gain, then excluded pixels")
    detector.add_argument("--dark", metavar="FILE.npy", help="dark frame (detector y, detector x)")
    detector.add_argument("--gain", metavar="FILE.npy", help="gain map: a factor for each pixel")
    detector.add_argument(
        "--excluded",
        metavar="FILE.npy",
        help="bool map of pixels that are replaced by the mean of their neighbours",
    )
    where = parser.add_argument_group("where it is written")
    where.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the results; appears when everything is there"
    )
    where.add_argument("--overwrite", action="store_true", help="replace a folder that tilework wrote before")
    where.add_argument("--format", choices=FORMATS, default="npz", help="of the arrays (default: npz)")
    where.add_argument("--no-pictures", action="store_true", help="no PNG files")
    _add_scales(where)
    _add_execution(parser)


def _add_demo(commands: Any) -> None:
    parser = _add_command(commands, "demo", "simulate a 4D-STEM scan of two grains in a magnetic film, and analyse it")
    parser.add_argument(
        "--out", default="tilework-demo", metavar="DIR", help="folder for everything (default: tilework-demo)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that tilework wrote before")
    parser.add_argument(
        "--shape",
        type=parse_shape,
        default=(64, 64, 128, 128),
        metavar="SY,SX,DY,DX",
        help="scan and detector (default: 64,64,128,128)",
    )
    parser.add_argument("--seed", type=int, default=20, help="seed of the random numbers (default: 20)")
    _add_execution(parser)


def _add_warmup(commands: Any) -> None:
    parser = _add_command(
        commands, "warmup", "compile everything that is compiled on first use, so that the first run is fast"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="worker processes (default: one for each CPU)")
    parser.add_argument("--progress", action="store_true", help="show progress, even when stderr is no terminal")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_worker(commands: Any) -> None:
    parser = _add_command(commands, "worker", "start workers on this machine for a Dask scheduler that runs somewhere")
    parser.add_argument(
        "scheduler",
        nargs="?",
        default="tcp://localhost:8786",
        metavar="ADDRESS",
        help="of the scheduler (default: tcp://localhost:8786)",
    )
    parser.add_argument("-k", "--kind", choices=("dask",), default="dask", help="of cluster (default: dask)")
    parser.add_argument("-c", "--n-cpus", type=int, metavar="N", help="CPU workers (default: one for each CPU)")
    parser.add_argument(
        "-u", "--cudas", metavar="ID,ID", help="CUDA devices, one worker each; '' for none (default: all)"
    )
    parser.add_argument(
        "-p", "--has-cupy", choices=("yes", "no"), help="whether the CUDA workers can use CuPy (default: found out)"
    )
    parser.add_argument(
        "--services", type=int, default=1, metavar="N", help="workers that are reserved for functions (default: 1)"
    )
    parser.add_argument("-n", "--name", help="what the names of the workers begin with (default: name of the host)")
    parser.add_argument("-d", "--local-directory", metavar="DIR", help="where workers keep files (default: Dask's)")
    parser.add_argument("-l", "--log-level", default="WARNING", metavar="LEVEL", help="(default: WARNING)")
    parser.add_argument(
        "--preload", action="append", default=[], metavar="MODULE", help="what each worker loads first; repeatable"
    )


def _add_opening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="raw, npy, mib, hdr, blo or EMPAD xml")
    opening = parser.add_argument_group("how the file is read")
    opening.add_argument(
        "--type", default="auto", metavar="TYPE", help="format: auto | raw | npy | mib | blo | empad (default: auto)"
    )
    opening.add_argument(
        "--nav-shape", type=parse_shape, metavar="Y,X", help="shape of the scan, where the file does not say it"
    )
    opening.add_argument("--sig-shape", type=parse_shape, metavar="Y,X", help="shape of the detector")
    opening.add_argument(
        "--dtype", metavar="DTYPE", help="type of numbers of a raw file, such as uint16 or >u2; implies --type raw"
    )
    opening.add_argument(
        "--sync-offset", type=int, metavar="N", help="skip N frames at the start; negative: insert blanks"
    )


def _add_scales(group: Any) -> None:
    group.add_argument(
        "--scan-step", type=parse_length, metavar="STEP", help="distance of scan positions, such as 0.5nm"
    )
    group.add_argument(
        "--detector-pixel", type=parse_length, metavar="SIZE", help="size of a detector pixel, such as 0.3mrad"
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is run and reported")
    group.add_argument(
        "--executor",
        choices=("threads", "inline", "pipelined"),
        default="threads",
        help="threads, this thread, or worker processes (default: threads)",
    )
    group.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="number of threads or worker processes (default: what the process may use)",
    )
    group.add_argument("--report", action="store_true", help="say who did what: workers, their limits, what happened")
    group.add_argument("--progress", action="store_true", help="show progress, even when stderr is no terminal")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument("--json", action="store_true", help="print one JSON document, what summary.json holds")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        msg = f"{text} is not positive: write a number of workers, such as 2"
        raise argparse.ArgumentTypeError(msg)
    return value


class _Once(argparse.Action):
    """Keeps a value that holds for all UDFs: a second one would silently replace what was meant for another UDF.

    It is what options do that say nothing else.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given: set[str] = vars(namespace).setdefault("given", set())
        if self.dest in given:
            parser.error(
                f"{option_string} is given twice: it holds for all that is done; another value needs a run of its own"
            )
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class _AddUDF(argparse.Action):
    """Begins another UDF: parameters that follow belong to it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        namespace.udfs = [*(namespace.udfs or ()), (values, {})]


class _AddParameter(argparse.Action):
    """Adds a parameter to the last UDF."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        if not namespace.udfs:
            parser.error("--param belongs to the --udf before it: write --udf NAME --param K=V")
        key, value = values
        name, known = namespace.udfs[-1]
        if key in known:
            parser.error(f"--param {key} is given twice for --udf {name}: leave one out")
        namespace.udfs = [*namespace.udfs[:-1], (name, {**known, key: value})]
