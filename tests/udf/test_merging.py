"""`UDF.merge` gets its arguments by name, and sees the partition that is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.exceptions import UDFException
from tilework.udf import UDF

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = np.arange(6 * 5 * 4 * 3, dtype=np.float32).reshape(6, 5, 4, 3)
SUMS = DATA.sum(axis=(2, 3))
WEIGHTS = np.arange(30, dtype=np.float32)
ROI = np.eye(6, 5, dtype=bool)


@pytest.fixture(scope="module", params=["inline", "threads", "pipelined", "delayed"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    """Executors that merge at once, as results come, and in a graph."""
    with Context.make_with(request.param) as context:
        yield context


class Sums(UDF):
    """Sums of frames and of pixels."""

    def get_result_buffers(self) -> dict[str, Any]:
        return {"of_frame": self.buffer("nav"), "of_pixel": self.buffer("sig"), "weight": self.buffer("single")}

    def process_frame(self, frame: Any) -> None:
        self.results.of_frame[:] = frame.sum()
        self.results.of_pixel[:] += frame

    def merge(self, dest: Any, src: Any) -> None:
        dest.of_frame[:] = src.of_frame
        dest.of_pixel[:] += src.of_pixel


class SourceFirst(Sums):
    """Names its arguments in the other order."""

    def merge(self, src: Any, dest: Any) -> None:  # type: ignore[override]
        super().merge(dest, src)


class KeywordsOnly(Sums):
    """Takes them by name alone."""

    def merge(self, *, dest: Any, src: Any) -> None:  # type: ignore[override]
        super().merge(dest, src)


class AllKeywords(Sums):
    """Takes whatever is given by name."""

    def merge(self, **parts: Any) -> None:  # type: ignore[override]
        super().merge(parts["dest"], parts["src"])


class OtherNames(Sums):
    """Names them as it likes, in the usual order."""

    def merge(self, whole: Any, part: Any) -> None:
        super().merge(whole, part)


@pytest.mark.parametrize("cls", [SourceFirst, KeywordsOnly, AllKeywords, OtherNames])
def test_arguments(ctx: Context, cls: type[UDF]) -> None:
    """They go by name where the method has these names, else in the order destination, source."""
    dataset = ctx.load("memory", data=DATA, num_partitions=4)
    result = ctx.run_udf(dataset=dataset, udf=cls())
    np.testing.assert_array_equal(result["of_frame"].data, SUMS)
    np.testing.assert_array_equal(result["of_pixel"].data, DATA.sum(axis=(0, 1)))


class Weighted(Sums):
    """Uses auxiliary data of scan positions everywhere but in frames."""

    def postprocess(self) -> None:
        self.results.of_frame[:] *= self.params.w

    def merge(self, dest: Any, src: Any) -> None:
        assert self.results.of_frame.shape == src.of_frame.shape == self.params.w.shape
        self.results.of_frame[:] = src.of_frame * self.params.w
        dest.of_pixel[:] += src.of_pixel
        dest.weight[:] += self.params.w.sum()


@pytest.mark.parametrize("roi", [None, ROI])
def test_the_partition_is_seen(ctx: Context, roi: np.ndarray | None) -> None:
    """Auxiliary data and results are those of the partition, in postprocess and in merge."""
    dataset = ctx.load("memory", data=DATA, num_partitions=4)
    udf = Weighted(w=UDF.aux_data(WEIGHTS, "nav"))
    result = ctx.run_udf(dataset=dataset, udf=udf, roi=roi)
    selected = np.ones((6, 5), bool) if roi is None else roi
    weights = WEIGHTS.reshape(6, 5)
    np.testing.assert_allclose(result["of_frame"].data[selected], (SUMS * weights**2)[selected])
    assert result["weight"].data == weights[selected].sum()


class WrongShape(Sums):
    """Mixes up what it merges."""

    def merge(self, dest: Any, src: Any) -> None:
        dest.of_frame[:] = src.of_pixel


def test_an_error_shows_the_shapes() -> None:
    """The message of NumPy says shapes; the note says whose."""
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=DATA, num_partitions=5)
        with pytest.raises(ValueError, match="broadcast") as caught:
            ctx.run_udf(dataset=dataset, udf=WrongShape())
    notes = "\n".join(caught.value.__notes__)
    assert "in merge of WrongShape, partition part-0" in notes
    assert "dest is there: of_frame of shape (6,), float32, of_pixel of shape (4, 3), float32" in notes


class SomeNumbers(UDF):
    """Has as many numbers as a parameter says."""

    def get_result_buffers(self) -> Any:
        return {"numbers": self.buffer(kind="nav", extra_shape=(self.params.count,), dtype="f4")}

    def process_frame(self, frame: Any) -> None:
        self.results.numbers[:] = frame.sum()


def test_a_parameter_that_changes_the_shape_of_a_result() -> None:
    """It is said that this cannot be done during a run."""
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=DATA, num_partitions=5)
        parts = ctx.run_udf_iter(dataset=dataset, udf=SomeNumbers(count=2))
        next(parts)
        parts.update_parameters_experimental([{"count": 3}])
        with pytest.raises(ValueError, match="broadcast") as caught:
            list(parts)
    assert "shapes of results must not depend on parameters that are changed during a run" in caught.value.__notes__


class EndsIteration(Sums):
    """Raises what would end the iteration over partial results."""

    def merge(self, dest: Any, src: Any) -> None:
        raise StopIteration(7)


def test_an_end_of_iteration_is_an_error() -> None:
    """It names the UDF, and is not the generator's own error."""
    with Context.make_with("inline") as ctx:
        dataset = ctx.load("memory", data=DATA, num_partitions=5)
        with pytest.raises(UDFException, match=r"merge of EndsIteration raised StopIteration\(7\)") as caught:
            ctx.run_udf(dataset=dataset, udf=EndsIteration())
    assert caught.value.__notes__ == ["in merge of EndsIteration, partition part-0"]
