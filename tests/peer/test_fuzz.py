"""Random programs beside LiberTEM, run as a black box in its own Python: the same names, shapes, dtypes and numbers.

    python -m pytest tests/peer/test_fuzz.py --peer /path/to/python

What is run is in ``peer_programs.py``, how in ``peer_runs.py``; here is how it is compared. With
``TILEWORK_FUZZ=5000:9000`` in the environment, programs of these seeds are run instead of the first few hundred, some
20 per second.
"""

from __future__ import annotations

import os
import pickle
import pprint
import subprocess
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pytest

import peer_programs
import peer_runs
from peer_cases import Library

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = range(*(int(s) for s in os.environ.get("TILEWORK_FUZZ", "0:240").split(":")))
AT_ONCE = 40


class Peer:
    """A process that runs programs with LiberTEM."""

    def __init__(self, python: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONWARNINGS"}}
        # Small programs of many dtypes: the peer would compile for minutes.
        environment["NUMBA_DISABLE_JIT"] = "1"
        self._process = subprocess.Popen(
            [python, "-W", "ignore", peer_runs.__file__, "libertem"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def start(self, program: dict[str, Any]) -> None:
        """Have it run a program meanwhile."""
        pipe = cast("IO[bytes]", self._process.stdin)
        pickle.dump(program, pipe)
        pipe.flush()

    def results(self) -> dict[str, Any]:
        """Return the results of the program that was started."""
        found: dict[str, Any] = pickle.load(cast("IO[bytes]", self._process.stdout))
        return found

    def close(self) -> None:
        """End the process."""
        cast("IO[bytes]", self._process.stdin).close()
        self._process.wait(timeout=30)
        cast("IO[bytes]", self._process.stdout).close()


@pytest.fixture(scope="module")
def peer(peer_python: str) -> Iterator[Peer]:
    process = Peer(peer_python)
    yield process
    process.close()


@pytest.fixture(scope="module")
def tilework() -> Iterator[Library]:
    lib = Library("tilework")
    yield lib
    for context in peer_runs.contexts(lib).values():
        context.close()


def is_known(program: dict[str, Any], name: str) -> bool:
    """Whether it is known that this result differs: on purpose, or for a defect of the peer; see docs/libertem.md."""
    if "analysis" in program:
        made_by = program["analysis"]["name"]
        # Which order dominates, its phase, and what it is relative to, where there is next to nothing.
        fourier = made_by == "radial_fourier" and name.startswith(("dominant", "phase", "complex"))
        of_complex = np.dtype(program["data"]["dtype"]).kind == "c" and made_by == "PICK_FFT_FRAME"
        return fourier or of_complex
    function = program["functions"][int(name.split(maxsplit=1)[0])] if name[0].isdigit() else {}
    if function.get("name") == "com":
        # The declared shape of one number per position; the length of complex vectors; what is fitted to nothing.
        nothing = "regression" in name and program["roi"] == "none"
        return name.endswith("raw_data") or "magnitude" in name or nothing
    if name == "seen" and program["data"]["kind"] == "dask":
        return True  # there may be other partitions
    # The number of one position, of a result that is declared as one number.
    return name.endswith("monitor: raw_data")


def difference(program: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Say what differs, if anything does."""
    if "raised" in ours or "raised" in theirs:
        # What the peer alone cannot do is its own affair; both must say that a selection does not fit.
        both = "raised" in ours and theirs.get("raised") in ours["is a"]
        if both or ("raised" not in ours and program["roi"] != "wrong"):
            return None
        told = [f"{results.get('raised')}: {results.get('message')}" for results in (ours, theirs)]
        return f"raised: {told[0]} instead of {told[1]}"
    if ours.keys() != theirs.keys():
        return f"results: {sorted(ours)} instead of {sorted(theirs)}"
    for name, array in ours.items():
        expected = theirs[name]
        if is_known(program, name):
            continue
        if not isinstance(array, np.ndarray):
            if array != expected:
                return f"{name}: {only_in(array, expected)} instead of {only_in(expected, array)}"
        elif (array.shape, array.dtype) != (expected.shape, expected.dtype):
            return f"{name}: {array.shape}, {array.dtype} instead of {expected.shape}, {expected.dtype}"
        elif array.dtype.kind in "fc":
            finite = np.abs(expected[np.isfinite(expected)])
            largest = max(float(finite.max(initial=0)), 1.0 if is_relative(program) else 1e-6)
            if not np.allclose(array, expected, rtol=1e-4, atol=3e-5 * largest, equal_nan=True):
                return f"{name}: {array} instead of {expected}"
        elif not np.array_equal(array, expected):
            return f"{name}: {array} instead of {expected}"
    return None


def only_in(ours: Any, theirs: Any) -> Any:
    """Return what is different of two lists, or the first."""
    return [line for line in ours if line not in theirs] if isinstance(ours, list) else ours


def is_relative(program: dict[str, Any]) -> bool:
    """Whether numbers are pixels relative to a centre."""
    used = [program["analysis"], *program.get("functions", [])] if "analysis" in program else program["functions"]
    return any(f["name"] == "com" for f in used)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", SEEDS[::AT_ONCE])
def test_random_programs(first: int, peer: Peer, tilework: Library) -> None:
    wrong = {}
    for seed in range(first, min(first + AT_ONCE, SEEDS.stop)):
        program = peer_programs.program(seed)
        peer.start(program)
        ours = peer_runs.run(tilework, program)
        found = difference(program, ours, peer.results())
        if found is not None:
            wrong[seed] = f"{found}\n{pprint.pformat(program, sort_dicts=False, width=110)}"
    assert not wrong, "\n\n".join(f"seed {seed}: {text}" for seed, text in wrong.items())
