"""What is wrong with a function that is to be compiled is said as clearly, and in the same way, in small runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest

import tilework
from tests_helpers import counts
from tilework.api import Context
from tilework.exceptions import UDFException
from tilework.executor.inline import InlineJobExecutor
from tilework.io.dataset.memory import MemoryDataSet
from tilework.udf import UDF
from tilework.udf.plan import KERNELS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreadable(MemoryDataSet):
    def get_partitions(self) -> Any:
        raise AssertionError("data is read")


class With(UDF):
    """A UDF with a kernel."""

    def __init__(self, kernel: Any, **kwargs: Any) -> None:
        super().__init__(kernel=kernel, **kwargs)

    def get_result_buffers(self) -> Any:
        return {
            "found": self.buffer(kind="nav", dtype=np.float64),
            "later": self.buffer(kind="nav", dtype=np.float64, use="result_only"),
        }

    def get_results(self) -> Any:
        return {"found": self.results.found, "later": self.results.found}

    def get_frame_kernel(self) -> Any:
        return self.params.kernel


class WithTask(With):
    def get_task_data(self) -> Any:
        return {"table": np.arange(4.0)}


@pytest.fixture(scope="module")
def ctx() -> Iterator[Context]:
    with Context(executor=InlineJobExecutor(inline_threads=1)) as context:
        yield context


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KERNELS_VARIABLE, request.param)
    return str(request.param)


class Owner:
    def method(self, frame: Any, found: Any) -> None: ...


def none() -> None: ...
def many(frame: Any, *found: Any) -> None: ...
def named(frame: Any, *, found: Any) -> None: ...
def unknown(frame: Any, fuond: Any) -> None: ...
def too_early(frame: Any, later: Any) -> None: ...
def scaled(frame: Any, found: Any, scale: Any = 3.0) -> None:
    found[0] = frame[0, 0] * scale


def generating(frame: Any, found: Any) -> Any:
    yield found


@pytest.mark.parametrize(
    ("kernel", "kwargs", "match"),
    [
        (none, {}, "frame kernel none takes no argument"),
        (many, {}, r"frame kernel many takes \*found"),
        (named, {}, "frame kernel named takes found by keyword only"),
        (unknown, {}, r"frame kernel unknown .*'fuond'.*result found"),
        (too_early, {}, "frame kernel too_early .*'later'.*get_results"),
        (generating, {}, "frame kernel generating contains yield"),
        (5, {}, r"get_frame_kernel\(\) returned 5"),
        (Owner().method, {}, r"get_frame_kernel\(\) returned .*method.*self"),
        (np.max, {}, "get_frame_kernel"),
        (scaled, {"scale": {"x": 1}}, r"frame kernel scaled: the parameter 'scale' is \{'x': 1\}"),
        (scaled, {"scale": (1, {})}, "the parameter 'scale'"),
        (scaled, {"scale": []}, "the parameter 'scale' is a list"),
        (scaled, {"scale": 2**70}, "the parameter 'scale'"),
        (scaled, {"scale": np.ones(2, ">f8")}, "the parameter 'scale' is of >f8"),
        (scaled, {"scale": np.float16(1)}, "the parameter 'scale' is of float16"),
    ],
)
def test_it_is_said_before_data_is_read(ctx: Context, kernel: Any, kwargs: Any, match: str) -> None:
    with pytest.raises(UDFException, match=f"^With.*{match}") as caught:
        ctx.run_udf(dataset=Unreadable(data=counts()), udf=With(kernel, **kwargs))
    assert not hasattr(caught.value, "__notes__")


def test_results_have_types_of_numba(ctx: Context) -> None:
    class Half(With):
        def get_result_buffers(self) -> Any:
            return {"found": self.buffer(kind="nav", dtype=np.float16)}

    with pytest.raises(UDFException, match="frame kernel scaled: the result 'found' is of float16"):
        ctx.run_udf(dataset=Unreadable(data=counts()), udf=Half(scaled))


def returning(frame: Any, found: Any) -> int:
    found[0] = 1
    return 5


def writing(frame: Any, found: Any) -> None:
    frame[0, 0] = 1


def failing(frame: Any, found: Any) -> None:
    if frame[0, 0] >= 0:
        raise ValueError("boom")


@pytest.mark.parametrize(
    ("kernel", "match"), [(returning, "frame kernel returning returns"), (writing, "frame kernel writing changes its")]
)
def test_it_is_said_in_the_same_words(ctx: Context, kernel: Any, match: str) -> None:
    ds = ctx.load("memory", data=counts(), num_partitions=1)
    with pytest.raises(UDFException, match=f"^With: the {match}") as caught:
        ctx.run_udf(dataset=ds, udf=With(kernel))
    (note,) = caught.value.__notes__
    assert note.startswith(f"in the frame kernel {kernel.__name__} of With, partition")


def test_an_exception_of_its_own_has_a_note_that_says_where(ctx: Context) -> None:
    with pytest.raises(ValueError, match="boom") as caught:
        ctx.run_udf(dataset=ctx.load("memory", data=counts(), num_partitions=1), udf=With(failing))
    (note,) = caught.value.__notes__
    assert note.startswith("in the frame kernel failing of With, partition")


def of_table(frame: Any, found: Any, table: Any) -> None:
    found[0] = frame[0, 0] * table[3]


@numba.njit("void(f4[:,:], f8[:], f8)")
def decorated(frame: Any, found: Any, scale: Any) -> None:
    found[0] = frame[0, 0] * scale


@pytest.mark.parametrize(
    "udf",
    [
        With(scaled),
        With(scaled, scale=3),
        With(scaled, scale=np.float32(3)),
        With(decorated, scale=3),
        WithTask(of_table),
    ],
    ids=["default", "parameter", "NumPy parameter", "decorated with a signature", "task data"],
)
def test_what_a_function_may_use(ctx: Context, udf: Any) -> None:
    data = counts()
    result = ctx.run_udf(dataset=ctx.load("memory", data=data), udf=udf)
    np.testing.assert_array_equal(result["found"].data, data[:, :, 0, 0] * 3.0)


@pytest.mark.parametrize("wanted", [None, np.float16, UDF.USE_NATIVE_DTYPE])
def test_frames_are_converted_to_what_numba_has_a_type_for(ctx: Context, wanted: Any) -> None:
    class Half(With):
        def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:
            return True

        def get_preferred_input_dtype(self) -> Any:
            return np.float32 if wanted is None else wanted

    data = counts((4, 4, 8, 8), "f2")
    result = ctx.run_udf(dataset=ctx.load("memory", data=data), udf=Half(scaled))
    np.testing.assert_array_equal(result["found"].data, data[:, :, 0, 0].astype("f8") * 3)


OUT_OF_BOUNDS = """
import numpy as np
from tilework.api import Context
from tilework.executor.inline import InlineJobExecutor
from tilework.udf import UDF
import outside


class Outside(UDF):
    def get_result_buffers(self):
        return {"found": self.buffer(kind="nav", dtype=np.float64)}

    def get_frame_kernel(self):
        return outside.kernel


context = Context(executor=InlineJobExecutor(debug=DEBUG))
ds = context.load("memory", data=np.zeros((4, 4, 8, 8), dtype="f4"))
try:
    context.run_udf(dataset=ds, udf=Outside())
    print("not seen")
except IndexError:
    print("seen")
"""


@pytest.mark.parametrize("choice", ["numba"], indirect=True)  # its processes are told themselves
def test_indices_are_looked_at_when_debugging(tmp_path: Path) -> None:
    """In a debugging executor, or by numba's variable; also when the same function was compiled without before.

    It reads one entry behind its array, which harms nobody, in a process of its own.
    """
    source = "def kernel(frame, found):\n    found[0] = frame[0, frame.shape[1]]\n"
    (tmp_path / "outside.py").write_text(source, encoding="utf-8")
    sources = str(Path(tilework.__file__).parent.parent)
    environment = {**os.environ, KERNELS_VARIABLE: "numba", "PYTHONPATH": os.pathsep.join([str(tmp_path), sources])}
    environment.pop("NUMBA_CACHE_DIR", None)
    for debug, variable, seen in ((False, "", False), (True, "", True), (False, "1", True), (False, "", False)):
        program = OUT_OF_BOUNDS.replace("DEBUG", str(debug))
        with_variable = {**environment, **({"NUMBA_BOUNDSCHECK": variable} if variable else {})}
        done = subprocess.run(
            [sys.executable, "-c", program], env=with_variable, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[-2] == ("seen" if seen else "not seen")
