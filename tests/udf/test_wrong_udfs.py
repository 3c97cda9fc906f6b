"""Whatever is wrong with a UDF ends in an error that names it and says what to do, and the executor lives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests_helpers import FrameMax, counts
from tilework.api import Context
from tilework.exceptions import UDFException
from tilework.udf import UDF


class Nothing(UDF):
    def get_result_buffers(self) -> Any:
        return {"x": self.buffer(kind="nav")}


class SaysTile(FrameMax):
    def get_method(self) -> Any:
        return self.UDF_METHOD.TILE


class SaysNonsense(FrameMax):
    def get_method(self) -> Any:
        return "frame"


class Undeclared(FrameMax):
    def get_results(self) -> Any:
        return {"minimum": self.results.maximum}


class ReturnsPrivate(FrameMax):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", use="private")}

    def get_results(self) -> Any:
        return {"maximum": self.results.maximum}


class ReturnsList(FrameMax):
    def get_results(self) -> Any:
        return [self.results.maximum]


class WrongKind(FrameMax):
    def get_results(self) -> Any:
        return {"maximum": self.results.maximum.astype(int)}


class WrongShape(FrameMax):
    def get_results(self) -> Any:
        return {"maximum": np.zeros(7, dtype=np.float32)}


class ForgetsResultOnly(FrameMax):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav"), "ratio": self.buffer(kind="nav", use="result_only")}


class NoMerge(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="sig")}

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] += frame


class Mutates(FrameMax):
    def process_frame(self, frame: Any) -> None:
        frame[:] = 0


class WritesWrongShape(FrameMax):
    def process_frame(self, frame: Any) -> None:
        self.results.maximum[:] = frame


class WritesUnknown(FrameMax):
    def process_frame(self, frame: Any) -> None:
        self.results.minimum[:] = 0


class UnknownBackend(FrameMax):
    def get_backends(self) -> Any:
        return ("tensorflow",)


class OnlyGPU(FrameMax):
    def get_backends(self) -> Any:
        return (self.BACKEND_CUPY,)


class StrangeDtype(FrameMax):
    def get_preferred_input_dtype(self) -> Any:
        return "M8[s]"


class NoDeclaration(FrameMax):
    def get_result_buffers(self) -> Any:
        return {"maximum": np.zeros(3)}


class InitTakesOther(FrameMax):
    def __init__(self, value: int) -> None:
        super().__init__(factor=value)


CATALOGUE = [
    (Nothing, UDFException, "Nothing has none of process_frame, process_tile and process_partition"),
    (SaysTile, UDFException, "SaysTile.get_method.* says 'tile', but there is no process_tile"),
    (SaysNonsense, UDFException, "SaysNonsense.get_method.* returned 'frame'"),
    (Undeclared, UDFException, "'minimum'.*declares maximum"),
    (ReturnsPrivate, UDFException, "'maximum', which is private"),
    (ReturnsList, UDFException, "ReturnsList.get_results.* returned list"),
    (WrongKind, UDFException, "'maximum' is declared as float32 but .* returned int64"),
    (WrongShape, UDFException, r"must have shape \(30,\) but .* \(7,\)"),
    (ForgetsResultOnly, UDFException, "'ratio' with use='result_only': implement get_results"),
    (NoMerge, NotImplementedError, "NoMerge has results that are not of kind 'nav'.*implement merge"),
    (Mutates, ValueError, "read-only"),
    (WritesWrongShape, ValueError, "could not broadcast"),
    (WritesUnknown, AttributeError, "no buffer or parameter named 'minimum'; there are: maximum"),
    (UnknownBackend, UDFException, "'tensorflow': not a known array backend"),
    (OnlyGPU, UDFException, "OnlyGPU can use cupy here, which needs a worker on a CUDA device"),
    (StrangeDtype, UDFException, "StrangeDtype: the preferred input dtype"),
    (NoDeclaration, UDFException, r"'maximum' is not made with self.buffer"),
]


@pytest.fixture(params=["inline", "threads"])
def ctx(request: pytest.FixtureRequest) -> Any:
    with Context.make_with(request.param) as context:
        yield context


@pytest.mark.parametrize(("cls", "error", "message"), CATALOGUE, ids=lambda v: getattr(v, "__name__", ""))
def test_the_error_names_the_udf_and_the_next_run_works(ctx: Context, cls: Any, error: Any, message: str) -> None:
    ds = ctx.load("memory", data=counts(), num_partitions=3)
    with pytest.raises(error, match=message):
        ctx.run_udf(dataset=ds, udf=cls())
    assert ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].valid_mask.all()


@pytest.mark.parametrize(
    "method", ["get_task_data", "preprocess", "process_frame", "postprocess", "merge", "get_results", "cleanup"]
)
def test_an_exception_of_any_method_arrives_as_it_is(ctx: Context, method: str) -> None:
    def raises(*args: Any) -> None:
        msg = f"from {method}"
        raise ZeroDivisionError(msg)

    cls = type("Raises", (FrameMax,), {method: raises})
    ds = ctx.load("memory", data=counts(), num_partitions=3)
    with pytest.raises(ZeroDivisionError, match=f"from {method}") as info:
        ctx.run_udf(dataset=ds, udf=cls())
    if method in {"process_frame", "postprocess", "get_task_data"}:
        assert any("Raises, partition part-" in note for note in info.value.__notes__)
    assert ctx.run_udf(dataset=ds, udf=FrameMax())["maximum"].valid_mask.all()


def test_a_constructor_that_cannot_take_its_own_parameters(ctx: Context) -> None:
    ds = ctx.load("memory", data=counts(), num_partitions=3)
    with pytest.raises(UDFException, match=r"InitTakesOther.*super\(\).__init__"):
        ctx.run_udf(dataset=ds, udf=InitTakesOther(value=3))


def test_wrong_arguments(ctx: Context) -> None:
    ds = ctx.load("memory", data=counts(), num_partitions=3)
    with pytest.raises(ValueError, match="empty list of UDFs"):
        ctx.run_udf(dataset=ds, udf=[])
    with pytest.raises(TypeError, match="not the class"):
        ctx.run_udf(dataset=ds, udf=FrameMax)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="roi: incompatible shapes"):
        ctx.run_udf(dataset=ds, udf=FrameMax(), roi=np.ones((2, 2), dtype=bool))
    with pytest.raises(UDFException, match="FrameMax supports numpy, and the run allows cupy"):
        ctx.run_udf(dataset=ds, udf=FrameMax(), backends="cupy")
