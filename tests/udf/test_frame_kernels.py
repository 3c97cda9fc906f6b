"""Compiled functions of one frame: right results, the same from every executor and from Python, errors that help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numba
import numpy as np
import pytest

import tilework
from tests_helpers import counts
from tilework.api import Context
from tilework.common.udf import UDFMethod
from tilework.exceptions import UDFException
from tilework.executor.concurrent import ConcurrentJobExecutor
from tilework.executor.inline import InlineJobExecutor
from tilework.udf import UDF
from tilework.udf.plan import KERNELS_VARIABLE
from tilework.udf.user_kernels import _compiled

if TYPE_CHECKING:
    from collections.abc import Iterator


def brightest(
    frame: Any, maximum: Any, position: Any, total: Any, frames: Any, threshold: Any, weight: Any, gain: Any
) -> None:
    """The brightest pixel of a frame and where it is; sums of all bright pixels, weighted."""
    maximum[0] = frame[0, 0]
    position[:] = 0
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            if frame[y, x] > maximum[0]:
                maximum[0] = frame[y, x]
                position[0] = y
                position[1] = x
            if frame[y, x] > threshold:
                total[y, x] += frame[y, x] * gain[y, x] * weight[0]
    frames[0] += 1


class Brightest(UDF):
    """Has buffers and parameters of all kinds."""

    def __init__(self, threshold: float, weight: Any, gain: Any) -> None:
        super().__init__(threshold=threshold, weight=weight, gain=gain)

    def get_result_buffers(self) -> Any:
        return {
            "maximum": self.buffer(kind="nav", dtype=np.float32),
            "position": self.buffer(kind="nav", extra_shape=(2,), dtype=np.int64),
            "total": self.buffer(kind="sig", dtype=np.float64),
            "frames": self.buffer(kind="single", dtype=np.int64),
        }

    def get_frame_kernel(self) -> Any:
        return brightest

    def merge(self, dest: Any, src: Any) -> None:
        dest.maximum[:] = src.maximum
        dest.position[:] = src.position
        dest.total[:] += src.total
        dest.frames[:] += src.frames


class CompiledByUser(Brightest):
    _kernel = staticmethod(numba.njit(brightest))

    def get_frame_kernel(self) -> Any:
        return self._kernel


class OnStoredNumbers(Brightest):
    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
        return dtype.kind in "ui"


@pytest.fixture(scope="module")
def contexts() -> Iterator[list[Context]]:
    made = [
        Context(executor=InlineJobExecutor(inline_threads=1)),
        Context(executor=InlineJobExecutor(debug=True)),
        Context(executor=ConcurrentJobExecutor.make_local(n_threads=3)),
    ]
    yield made
    for context in made:
        context.close()


SHAPE = (6, 5, 8, 7)


def arguments() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    weight = np.round(rng.random(SHAPE[:2]) * 8) / 8
    gain = np.round(rng.random(SHAPE[2:]) * 8) / 8
    return {
        "threshold": 30.0,
        "weight": UDF.aux_data(weight, kind="nav", dtype=np.float64),
        "gain": UDF.aux_data(gain, kind="sig", dtype=np.float64),
    }


def bits(result: Any) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(buffer.data).tobytes() for name, buffer in result.items()}


@pytest.mark.parametrize("cls", [Brightest, CompiledByUser, OnStoredNumbers])
@pytest.mark.parametrize("dtype", ["u2", ">u2"])
@pytest.mark.parametrize("with_roi", [False, True])
def test_results_are_right_and_the_same_everywhere(
    contexts: list[Context], monkeypatch: pytest.MonkeyPatch, cls: Any, dtype: str, with_roi: bool
) -> None:
    """Sums are of multiples of 1/64, so that the order of merging changes nothing."""
    data = counts(SHAPE, dtype)
    roi = np.random.default_rng(2).random(SHAPE[:2]) < 0.6 if with_roi else None
    results = []
    for choice in ("numba", "numpy"):
        monkeypatch.setenv(KERNELS_VARIABLE, choice)
        for context in contexts:
            ds = context.load("memory", data=data, num_partitions=4)
            results.append(context.run_udf(dataset=ds, udf=cls(**arguments()), roi=roi))
    assert all(bits(r) == bits(results[0]) for r in results[1:])
    result, chosen = results[0], np.ones(SHAPE[:2], dtype=bool) if roi is None else roi
    frames = data.astype("f8")[chosen]
    np.testing.assert_array_equal(result["maximum"].data[chosen], frames.max(axis=(1, 2)))
    where = np.stack(np.unravel_index(frames.reshape(len(frames), -1).argmax(axis=1), SHAPE[2:]), axis=-1)
    np.testing.assert_array_equal(result["position"].data[chosen], where)
    given = arguments()
    weight, gain = (np.asarray(given[k].data).reshape(s) for k, s in (("weight", SHAPE[:2]), ("gain", SHAPE[2:])))
    expected = (np.where(frames > 30, frames, 0) * weight[chosen][:, np.newaxis, np.newaxis]).sum(axis=0) * gain
    np.testing.assert_allclose(result["total"].data, expected, rtol=1e-12)
    assert result["frames"].data[0] == chosen.sum()


def test_the_function_is_compiled_in_large_runs_only(contexts: list[Context]) -> None:
    class Interpreted(UDF):
        def get_result_buffers(self) -> Any:
            return {"by": self.buffer(kind="nav", dtype=np.int64)}

        def get_frame_kernel(self) -> Any:
            return which

    for shape, compiled in (((4, 4, 8, 8), 0), ((9, 9, 64, 64), 1)):
        ds = contexts[0].load("memory", data=np.zeros(shape, dtype="f4"))
        assert (contexts[0].run_udf(dataset=ds, udf=Interpreted())["by"].data == compiled).all()


def which(frame: Any, by: Any) -> None:
    """Say 1 in compiled code, 0 in Python."""
    by[0] = is_compiled()


def is_compiled() -> int:
    return 0


@numba.extending.overload(is_compiled)
def _is_compiled() -> Any:
    return lambda: 1


def test_a_process_frame_is_what_small_runs_use(contexts: list[Context]) -> None:
    class Both(UDF):
        def get_result_buffers(self) -> Any:
            return {"by": self.buffer(kind="nav", dtype=np.int64)}

        def process_frame(self, frame: Any) -> None:
            self.results.by[:] = 7

        def get_frame_kernel(self) -> Any:
            return which

    assert Both().get_method() is UDFMethod.FRAME
    for shape, by in (((4, 4, 8, 8), 7), ((9, 9, 64, 64), 1)):
        ds = contexts[0].load("memory", data=np.zeros(shape, dtype="f4"))
        assert (contexts[0].run_udf(dataset=ds, udf=Both())["by"].data == by).all()


@pytest.mark.parametrize("choice", ["numba", "numpy"])
def test_what_the_function_asks_for_must_exist(
    contexts: list[Context], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    class Misspelt(UDF):
        def get_result_buffers(self) -> Any:
            return {"maximum": self.buffer(kind="nav")}

        def get_frame_kernel(self) -> Any:
            return lambda frame, maximun: None

    monkeypatch.setenv(KERNELS_VARIABLE, choice)
    ds = contexts[0].load("memory", data=counts())
    with pytest.raises(UDFException, match=r"'maximun'.*result maximum"):
        contexts[0].run_udf(dataset=ds, udf=Misspelt())


def too_bright(frame: Any, maximum: Any) -> None:
    if frame[0, 0] >= 0:
        raise ValueError("too bright")
    maximum[0] = 1


@pytest.mark.parametrize("choice", ["numba", "numpy"])
def test_an_error_in_the_function_ends_the_run(
    contexts: list[Context], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    class Fails(UDF):
        def get_result_buffers(self) -> Any:
            return {"maximum": self.buffer(kind="nav")}

        def get_frame_kernel(self) -> Any:
            return too_bright

    monkeypatch.setenv(KERNELS_VARIABLE, choice)
    for context in contexts:
        ds = context.load("memory", data=counts())
        with pytest.raises(ValueError, match="too bright"):
            context.run_udf(dataset=ds, udf=Fails())


def test_a_function_that_numba_cannot_compile_says_so(contexts: list[Context], monkeypatch: pytest.MonkeyPatch) -> None:
    def uses_files(frame: Any, maximum: Any) -> None:
        with open(maximum) as file:  # noqa: PTH123
            file.read()

    class Fails(UDF):
        def get_result_buffers(self) -> Any:
            return {"maximum": self.buffer(kind="nav")}

        def get_frame_kernel(self) -> Any:
            return uses_files

    monkeypatch.setenv(KERNELS_VARIABLE, "numba")
    ds = contexts[0].load("memory", data=counts())
    with pytest.raises(UDFException, match=r"(?s)Fails.*uses_files.*numba"):
        contexts[0].run_udf(dataset=ds, udf=Fails())


HELPER = "import numba\n\n@numba.njit\ndef helper(x):\n    return x + {}\n"
KERNEL = "from kernel_helper import helper\n\ndef kernel(frame, out):\n    out[0] = helper(frame[0, 0])\n"
PROGRAM = """
import importlib
from pathlib import Path

import numpy as np

import kernel, kernel_helper
from tilework.api import Context
from tilework.udf import UDF


class Helped(UDF):
    def get_result_buffers(self):
        return {"out": self.buffer(kind="nav")}

    def get_frame_kernel(self):
        return kernel.kernel


def run():
    return context.run_udf(dataset=ds, udf=Helped())["out"].data[0, 0]


with Context.make_with("inline") as context:
    ds = context.load("memory", data=np.zeros((2, 2, 4, 4), dtype="f4"))
    first = run()
    path = Path(kernel_helper.__file__)
    path.write_text(path.read_text().replace("x + ", "x + 10 + "))
    importlib.reload(kernel_helper)
    importlib.reload(kernel)
    print(first, run())
"""


def test_a_changed_helper_of_the_function_is_compiled_again(tmp_path: Path) -> None:
    """Within a process, where its module is loaded again, and in another, which finds the old code on disk."""
    (tmp_path / "kernel.py").write_text(KERNEL, encoding="utf-8")
    sources = str(Path(tilework.__file__).parent.parent)
    environment = {
        **os.environ,
        KERNELS_VARIABLE: "numba",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), sources]),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file may be changed twice within the same second
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    for added in (1, 2):
        (tmp_path / "kernel_helper.py").write_text(HELPER.format(added), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"{added}.0", f"{added + 10}.0"]
    assert list((tmp_path / "__pycache__").glob("kernel.kernel-*.nbi"))


def test_a_function_that_comes_by_value_again_is_compiled_once() -> None:
    def scaled(frame: Any, out: Any) -> None:
        out[0] = frame[0, 0] * 2

    first, second = (
        _compiled.dispatcher(cloudpickle.loads(cloudpickle.dumps(scaled)), checked=False) for _ in range(2)
    )
    assert first is second
    user = numba.njit(scaled)
    assert _compiled.dispatcher(user, checked=False) is user
    assert "numba" in sys.modules
