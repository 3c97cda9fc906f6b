"""UDFs that are wrong in the ways that happen, and what has to be said about each.

Whoever writes an executor runs them on it: each has to end in the stated error, with the stated words in what a user
reads (message and notes), and the executor has to be as good as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.exceptions import MissingMergeError, MissingMethodError, UDFException, UndeclaredResultError
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CATALOGUE", "RAISING_METHODS", "RightUDF", "WrongUDF", "make_raising", "text_of"]


@dataclass(frozen=True)
class WrongUDF:
    """One wrong UDF, and how it has to end.

    Attributes
    ----------
    what
        What is wrong with it.
    make
        Makes it.
    error
        Type of the exception.
    words
        What a user has to read; the name of the UDF among it.
    reads
        Whether data has to be read to find out; otherwise it must fail before.
    """

    what: str
    make: Callable[[], UDF]
    error: type[Exception]
    words: tuple[str, ...]
    reads: bool = False

    @property
    def name(self) -> str:
        """Name of the UDF."""
        return getattr(self.make, "__name__", type(self.make()).__name__)


def text_of(error: BaseException) -> str:
    """Return what a user reads of an exception: its message and its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


class RightUDF(UDF):
    """One that is right: the maximum of each frame."""

    def get_result_buffers(self) -> Any:
        """Declare ``maximum``."""
        return {"maximum": self.buffer(kind="nav", dtype=np.float32)}

    def process_frame(self, frame: Any) -> None:
        """Compute it."""
        self.results.maximum[:] = frame.max()


def _raise(method: str) -> None:
    msg = f"a mistake in {method}"
    raise ZeroDivisionError(msg)


RAISING_METHODS = (
    "get_result_buffers", "get_task_data", "preprocess", "process_frame", "postprocess", "cleanup", "merge",
    "get_results", "get_preferred_input_dtype", "get_backends", "get_tiling_preferences",
)  # fmt: skip
"""Methods that `make_raising` knows."""


class _Raises(RightUDF):
    """Raises ZeroDivisionError in the method that it is told."""

    def __init__(self, method: str) -> None:
        super().__init__(method=method)

    def _check(self, method: str) -> None:
        if self.params.method == method:
            _raise(method)

    def get_result_buffers(self) -> Any:
        self._check("get_result_buffers")
        return super().get_result_buffers()

    def get_task_data(self) -> Any:
        self._check("get_task_data")
        return {}

    def preprocess(self) -> None:
        self._check("preprocess")

    def process_frame(self, frame: Any) -> None:
        self._check("process_frame")
        super().process_frame(frame)

    def postprocess(self) -> None:
        self._check("postprocess")

    def cleanup(self) -> None:
        self._check("cleanup")

    def merge(self, dest: Any, src: Any) -> None:
        self._check("merge")
        super().merge(dest, src)

    def get_results(self) -> Any:
        self._check("get_results")
        return super().get_results()

    def get_preferred_input_dtype(self) -> Any:
        self._check("get_preferred_input_dtype")
        return super().get_preferred_input_dtype()

    def get_backends(self) -> Any:
        self._check("get_backends")
        return super().get_backends()

    def get_tiling_preferences(self) -> Any:
        self._check("get_tiling_preferences")
        return super().get_tiling_preferences()


def make_raising(method: str) -> UDF:
    """Return a UDF that raises ZeroDivisionError, ``a mistake in METHOD``, in one of `RAISING_METHODS`."""
    return _Raises(method)


# -- declarations


class NoProcess(UDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav")}


class NoDeclaration(UDF):
    def process_frame(self, frame: Any) -> None: ...


class ForgetsReturn(RightUDF):
    def get_result_buffers(self) -> Any:
        self.buffer(kind="nav")


class DeclaresArray(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": np.zeros(3)}


class UnknownKind(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="scan")}  # type: ignore[arg-type]


class UnknownUse(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", use="hidden")}  # type: ignore[arg-type]


class NegativeShape(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", extra_shape=(-1,))}


class MisspeltDtype(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", dtype="flaot32")}


class ReservedName(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"values": self.buffer(kind="nav")}


class NumberAsName(RightUDF):
    def get_result_buffers(self) -> Any:
        return {7: self.buffer(kind="nav")}


class TooLarge(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", extra_shape=(2**44,), dtype=np.float64)}


class MissingMerge(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="sig")}

    def process_frame(self, frame: Any) -> None:
        self.results.total[:] += frame


class NobodyMakesResult(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav"), "ratio": self.buffer(kind="nav", use="result_only")}


# -- what is asked before a run


class SaysTile(RightUDF):
    def get_method(self) -> Any:
        return self.UDF_METHOD.TILE


class SaysNonsense(RightUDF):
    def get_method(self) -> Any:
        return "frame"


class UnknownBackend(RightUDF):
    def get_backends(self) -> Any:
        return ("tensorflow",)


class NoBackend(RightUDF):
    def get_backends(self) -> Any:
        return ()


class OnlyOnGPU(RightUDF):
    def get_backends(self) -> Any:
        return (self.BACKEND_CUDA,)


class StrangeDtype(RightUDF):
    def get_preferred_input_dtype(self) -> Any:
        return "M8[s]"


class WordAsPreference(RightUDF):
    def get_tiling_preferences(self) -> Any:
        return {"depth": 16, "total_size": "1 MiB"}


# -- signatures


class NoArgument(RightUDF):
    def process_frame(self) -> None: ...  # type: ignore[override]


class MergeOfOne(RightUDF):
    def merge(self, dest: Any) -> None: ...  # type: ignore[override]


class Yields(RightUDF):
    def process_frame(self, frame: Any) -> Any:
        yield frame.max()


class IsAsync(RightUDF):
    async def process_frame(self, frame: Any) -> Any:  # type: ignore[override]
        return frame.max()


# -- constructors


class TakesOtherName(RightUDF):
    def __init__(self, threshold: float) -> None:
        super().__init__(level=threshold)


class ForgetsSuper(RightUDF):
    def __init__(self) -> None:
        self.threshold = 3


# -- processing


class ChangesFrame(RightUDF):
    def process_frame(self, frame: Any) -> None:
        frame -= frame.min()
        self.results.maximum[:] = frame.max()


class ChangesTile(RightUDF):
    def process_tile(self, tile: Any) -> None:
        tile[tile < 3] = 0


class FrameIntoNumber(RightUDF):
    def process_frame(self, frame: Any) -> None:
        self.results.maximum[:] = frame


class UnknownResult(RightUDF):
    def process_frame(self, frame: Any) -> None:
        self.results.maximun[:] = frame.max()


class ReplacesResults(RightUDF):
    def process_frame(self, frame: Any) -> None:
        self.results = {"maximum": frame.max()}  # type: ignore[assignment]


class FloatsIntoIntegers(UDF):
    def get_result_buffers(self) -> Any:
        return {"total": self.buffer(kind="nav", dtype=np.int64)}

    def process_tile(self, tile: Any) -> None:
        self.results.total[:] += tile.mean(axis=(1, 2))


class KeepsViewOfTile(UDF):
    def get_result_buffers(self) -> Any:
        return {"first": self.buffer(kind="nav", dtype=np.float32)}

    def process_partition(self, partition: Any) -> None:
        self.results.get_buffer("first").replace_array(partition[:, 0, 0])


class OldTileAttribute(RightUDF):
    def process_tile(self, tile: Any) -> None:
        self.results.maximum[:] = tile.tile_slice.origin[0]


class UnknownParameter(RightUDF):
    def process_frame(self, frame: Any) -> None:
        self.results.maximum[:] = self.params.threshold


class TaskDataList(RightUDF):
    def get_task_data(self) -> Any:
        return [1, 2]


class FillsResultOnly(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", use="result_only")}

    def process_frame(self, frame: Any) -> None:
        self.results.maximum = frame.max()

    def get_results(self) -> Any:
        return {}


class AuxOfOtherScan(RightUDF):
    def __init__(self, weights: Any = None) -> None:
        super().__init__(
            weights=self.aux_data(np.ones(7, dtype=np.float32), kind="nav") if weights is None else weights
        )


# -- merging and results


class MergesUnknown(RightUDF):
    def merge(self, dest: Any, src: Any) -> None:
        dest.minimum[:] = src.minimum


class ReturnsUndeclared(RightUDF):
    def get_results(self) -> Any:
        return {"minimum": self.results.maximum}


class ReturnsPrivate(RightUDF):
    def get_result_buffers(self) -> Any:
        return {"maximum": self.buffer(kind="nav", use="private")}

    def get_results(self) -> Any:
        return {"maximum": self.results.maximum}


class ReturnsList(RightUDF):
    def get_results(self) -> Any:
        return [self.results.maximum]


class ReturnsOtherKind(RightUDF):
    def get_results(self) -> Any:
        return {"maximum": self.results.maximum.astype(np.int64)}


class ReturnsOtherShape(RightUDF):
    def get_results(self) -> Any:
        return {"maximum": np.zeros(7, dtype=np.float32)}


class MasksWithNumbers(RightUDF):
    def get_results(self) -> Any:
        return {"maximum": self.with_mask(self.results.maximum, self.results.maximum)}


def _takes_other_name() -> UDF:
    return TakesOtherName(threshold=3)


CATALOGUE: tuple[WrongUDF, ...] = (
    WrongUDF("no method that processes", NoProcess, MissingMethodError, ("NoProcess", "process_frame", "implement")),
    WrongUDF("no declaration", NoDeclaration, NotImplementedError, ("NoDeclaration", "get_result_buffers")),
    WrongUDF("nothing returned", ForgetsReturn, UDFException, ("ForgetsReturn", "nothing", "return a dict")),
    WrongUDF("an array as declaration", DeclaresArray, UDFException, ("DeclaresArray", "'maximum'", "self.buffer")),
    WrongUDF("unknown kind", UnknownKind, ValueError, ("UnknownKind", "'scan'", "nav, sig, single")),
    WrongUDF("unknown use", UnknownUse, ValueError, ("UnknownUse", "'hidden'", "result_only")),
    WrongUDF("negative shape", NegativeShape, ValueError, ("NegativeShape", "extra shape", "at least 0")),
    WrongUDF("misspelt dtype", MisspeltDtype, TypeError, ("MisspeltDtype", "flaot32")),
    WrongUDF("a name that is taken", ReservedName, UDFException, ("ReservedName", "'values'", "another name")),
    WrongUDF("a number as name", NumberAsName, UDFException, ("NumberAsName", "called 7", "use a str")),
    WrongUDF("more than there is memory", TooLarge, UDFException, ("TooLarge", "'maximum'", "GiB", "roi")),
    WrongUDF("missing merge", MissingMerge, MissingMergeError, ("MissingMerge", "'total'", "merge(self, dest, src)")),
    WrongUDF(
        "a result that nobody makes", NobodyMakesResult, UDFException, ("NobodyMakesResult", "'ratio'", "get_results")
    ),
    WrongUDF("another method than it has", SaysTile, UDFException, ("SaysTile", "process_tile", "implement")),
    WrongUDF("a method that does not exist", SaysNonsense, UDFException, ("SaysNonsense", "'frame'", "UDF_METHOD")),
    WrongUDF("unknown backend", UnknownBackend, UDFException, ("UnknownBackend", "'tensorflow'", "numpy")),
    WrongUDF("no backend", NoBackend, UDFException, ("NoBackend", "no array backend", "get_backends")),
    WrongUDF("needs a GPU that is not there", OnlyOnGPU, UDFException, ("OnlyOnGPU", "cuda", "CUDA device")),
    WrongUDF("a dtype that is no number", StrangeDtype, UDFException, ("StrangeDtype", "M8[s]", "numeric")),
    WrongUDF("a word as preference", WordAsPreference, UDFException, ("WordAsPreference", "total_size", "numbers")),
    WrongUDF("no argument for the frame", NoArgument, UDFException, ("NoArgument.process_frame", "the frame")),
    WrongUDF("merge without source", MergeOfOne, UDFException, ("MergeOfOne.merge", "dest and src")),
    WrongUDF("yields", Yields, UDFException, ("Yields.process_frame", "yield", "ordinary method")),
    WrongUDF("async", IsAsync, UDFException, ("IsAsync.process_frame", "async")),
    WrongUDF(
        "constructor takes another name", _takes_other_name, UDFException, ("TakesOtherName", "level", "__init__")
    ),
    WrongUDF("no super().__init__()", ForgetsSuper, UDFException, ("ForgetsSuper", "super().__init__")),
    WrongUDF(
        "auxiliary data of another scan", AuxOfOtherScan, UDFException, ("AuxOfOtherScan", "'weights'", "30", "7")
    ),
    WrongUDF(
        "changes the frame", ChangesFrame, UDFException, ("ChangesFrame.process_frame", "read-only", "copy"), True
    ),
    WrongUDF("changes the tile", ChangesTile, UDFException, ("ChangesTile.process_tile", "read-only", "copy"), True),
    WrongUDF(
        "a frame into a number",
        FrameIntoNumber,
        ValueError,
        ("process_frame of FrameIntoNumber", "(8,7)", "maximum of shape (1,), float32", "partition part-"),
        True,
    ),
    WrongUDF(
        "misspelt result", UnknownResult, AttributeError, ("UnknownResult", "'maximun'", "there are: maximum"), True
    ),
    WrongUDF("replaces the results", ReplacesResults, UDFException, ("ReplacesResults", "self.results.name[:]"), True),
    WrongUDF(
        "floats into integers",
        FloatsIntoIntegers,
        TypeError,
        ("process_tile of FloatsIntoIntegers", "int64", "total of shape"),
        True,
    ),
    WrongUDF(
        "a result that is a view of the tile",
        KeepsViewOfTile,
        UDFException,
        ("KeepsViewOfTile", "'first'", "view of the input", "self.results.first[:]"),
        True,
    ),
    WrongUDF("what tiles had once", OldTileAttribute, AttributeError, ("OldTileAttribute", "self.meta.slice"), True),
    WrongUDF(
        "a parameter that is not there", UnknownParameter, AttributeError, ("UnknownParameter", "'threshold'"), True
    ),
    WrongUDF("task data is a list", TaskDataList, UDFException, ("TaskDataList", "get_task_data", "dict"), True),
    WrongUDF(
        "fills what only the result has",
        FillsResultOnly,
        AttributeError,
        ("FillsResultOnly", "'maximum'", "not a buffer that exists"),
        True,
    ),
    WrongUDF(
        "merges what is not there", MergesUnknown, AttributeError, ("MergesUnknown", "'minimum'", "maximum"), True
    ),
    WrongUDF(
        "returns what is not declared",
        ReturnsUndeclared,
        UndeclaredResultError,
        ("ReturnsUndeclared", "'minimum'", "declare"),
        True,
    ),
    WrongUDF("returns what is private", ReturnsPrivate, UDFException, ("ReturnsPrivate", "'maximum'", "private"), True),
    WrongUDF("returns a list", ReturnsList, UDFException, ("ReturnsList", "list", "dict"), True),
    WrongUDF(
        "returns another kind of number", ReturnsOtherKind, UDFException, ("ReturnsOtherKind", "float32", "int64"), True
    ),
    WrongUDF("returns another shape", ReturnsOtherShape, UDFException, ("ReturnsOtherShape", "(30,)", "(7,)"), True),
    WrongUDF("a mask of numbers", MasksWithNumbers, ValueError, ("MasksWithNumbers", "must be bool", "float32"), True),
)
"""For a scan of 30 positions with frames of 8 x 7 pixels, on an executor without GPU."""
