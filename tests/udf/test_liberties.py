"""What functions may do, and what they are told where they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tilework.api import Context
from tilework.common.buffers import BufferWrapper
from tilework.exceptions import NoBackendError, NoMetaError, UDFException
from tilework.udf import UDF, SumUDF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = np.arange(6 * 5 * 12 * 10, dtype=np.float32).reshape(6, 5, 12, 10)
SUMS = DATA.sum(axis=(2, 3))
ROI = np.eye(6, 5, dtype=bool)


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context.make_with("inline") as context:
        yield context


def run(ctx: Context, udf: UDF, data: Any = DATA, **options: Any) -> Any:
    return ctx.run_udf(dataset=ctx.load("memory", data=data, sig_dims=2, num_partitions=4), udf=udf, **options)


class Sums(UDF):
    """The sum of each frame, and of each pixel."""

    def get_result_buffers(self) -> Any:
        return {"of_frame": self.buffer("nav"), "of_pixel": self.buffer("sig")}

    def process_tile(self, tile: Any) -> None:
        self.results.of_frame[:] += tile.sum(axis=(1, 2))
        self.results.of_pixel[:] += tile.sum(axis=0)

    def merge(self, dest: Any, src: Any) -> None:
        dest.of_frame[:] = src.of_frame
        dest.of_pixel[:] += src.of_pixel


# -- what is known, and when


def test_tiling_and_method_may_depend_on_the_dataset(ctx: Context) -> None:
    """`meta` is there when they are asked for."""

    class Deep(Sums):
        def get_tiling_preferences(self) -> Any:
            frame = self.meta.dataset_shape.sig.size * self.meta.input_dtype.itemsize
            return {"depth": 4, "total_size": 4 * frame}

        def get_method(self) -> Any:
            assert self.meta.roi is None
            return self.UDF_METHOD.TILE

        def process_tile(self, tile: Any) -> None:
            assert len(tile) <= 4
            super().process_tile(tile)

    np.testing.assert_array_equal(run(ctx, Deep())["of_frame"].data, SUMS)


def test_tiling_may_depend_on_results_and_preprocess(ctx: Context) -> None:
    """They are there when it is asked for, so what was prepared on the way can be used."""

    class Prepared(Sums):
        def preprocess(self) -> None:
            self.depth = 3

        def get_tiling_preferences(self) -> Any:
            assert self.results.of_pixel.shape == (12, 10)
            return {"depth": self.depth, "total_size": self.depth * self.results.of_pixel.nbytes}

        def process_tile(self, tile: Any) -> None:
            assert len(tile) <= 3
            super().process_tile(tile)

    np.testing.assert_array_equal(run(ctx, Prepared())["of_frame"].data, SUMS)


def test_auxiliary_data_of_pixels_has_one_shape_everywhere(ctx: Context) -> None:
    """That of the detector, as results of pixels have it."""

    class Scaled(Sums):
        def process_frame(self, frame: Any) -> None:
            self.results.of_pixel[:] += frame * self.params.gain

        def get_method(self) -> Any:
            return self.UDF_METHOD.FRAME

        def merge(self, dest: Any, src: Any) -> None:
            dest.of_pixel[:] += src.of_pixel / self.params.gain

        def get_results(self) -> Any:
            return {"of_pixel": self.results.of_pixel * self.params.gain}

    gain = UDF.aux_data(np.full((12, 10), 2.0), "sig", dtype="float64")
    np.testing.assert_array_equal(run(ctx, Scaled(gain=gain))["of_pixel"].data, DATA.sum(axis=(0, 1)) * 2)


@pytest.mark.parametrize("wanted", [{}, {"depth": 4}, {"total_size": 2**20}, {"depth": 1, "total_size": 16}])
def test_preferences(ctx: Context, wanted: dict[str, int]) -> None:
    """What is left out has its default; the smallest tile that there is may be larger than what is wanted."""

    class Preferring(Sums):
        def get_tiling_preferences(self) -> Any:
            return self.params.wanted

    np.testing.assert_array_equal(run(ctx, Preferring(wanted=wanted))["of_frame"].data, SUMS)


def test_facts_outside_of_a_run(ctx: Context) -> None:
    """Whether there are any can be asked; nothing is None that a function looks into."""
    assert not hasattr(Sums(), "meta")
    with pytest.raises(NoMetaError, match=r"Sums\.meta is known in a run only"):
        _ = Sums().meta
    seen: list[Any] = []

    class Looking(Sums):
        def get_result_buffers(self) -> Any:
            assert list(self.results.keys()) == []
            return super().get_result_buffers()

        def get_results(self) -> Any:
            seen.append((self.meta.slice, "something" in self.task_data))
            return super().get_results()

    run(ctx, Looking())
    assert seen == [(None, False)]


def test_task_data_may_be_kept_on_the_function(ctx: Context) -> None:
    """A `get_task_data` without a return has made what it wanted elsewhere."""

    class Keeping(Sums):
        def get_task_data(self) -> Any:
            self.factor = 3

        def process_tile(self, tile: Any) -> None:
            assert list(self.task_data.keys()) == []
            super().process_tile(tile * self.factor)

    np.testing.assert_array_equal(run(ctx, Keeping())["of_frame"].data, 3 * SUMS)


# -- results


def test_objects_begin_as_zeros(ctx: Context) -> None:
    class Counts(UDF):
        def get_result_buffers(self) -> Any:
            return {"sum": self.buffer("nav", dtype=object), "untouched": self.buffer("nav", dtype=object)}

        def process_frame(self, frame: Any) -> None:
            self.results.sum[:] += int(frame.sum())

    result = run(ctx, Counts())
    assert (result["sum"].data == SUMS).all()
    assert (result["untouched"].data == 0).all()


def test_names_of_results(ctx: Context) -> None:
    """Any text; only one that no array is reached by may be that of a method."""

    class Quantiles(UDF):
        def get_result_buffers(self) -> Any:
            made = {"values": self.buffer("nav", use="result_only")}
            return {**{f"q={q}": self.buffer("nav") for q in (0.1, 0.5)}, **made}

        def process_frame(self, frame: Any) -> None:
            for q in (0.1, 0.5):
                getattr(self.results, f"q={q}")[:] = np.quantile(frame, q)

        def get_results(self) -> Any:
            return {"values": getattr(self.results, "q=0.5") * 2}

    result = run(ctx, Quantiles())
    assert set(result) == {"q=0.1", "q=0.5", "values"}
    np.testing.assert_allclose(result["values"].data, 2 * np.quantile(DATA, 0.5, axis=(2, 3)))


def test_results_of_the_whole_scan_under_a_roi(ctx: Context) -> None:
    class Embeds(Sums):
        def get_results(self) -> Any:
            whole = np.zeros((6, 5), np.float32)
            whole[self.meta.roi] = self.results.of_frame
            return {"of_frame": self.with_mask(whole, whole > 1e5)}

    result = run(ctx, Embeds(), roi=ROI)["of_frame"]
    np.testing.assert_array_equal(result.data[ROI], SUMS[ROI])
    assert np.isnan(result.data[~ROI]).all()
    np.testing.assert_array_equal(result.valid_mask, ROI & (SUMS > 1e5))


def test_masked_arrays_keep_their_mask(ctx: Context) -> None:
    class Masked(Sums):
        def get_results(self) -> Any:
            return {"of_frame": np.ma.array(self.results.of_frame, mask=self.results.of_frame > 1e5)}

    result = run(ctx, Masked())["of_frame"]
    np.testing.assert_array_equal(result.valid_mask, SUMS <= 1e5)
    np.testing.assert_array_equal(result.masked_data.mask, SUMS > 1e5)


def test_masked_records_keep_their_mask(ctx: Context) -> None:
    """A record of which any field is masked is no result."""
    dtype = np.dtype([("total", "f4"), ("pair", "f8", (2,))])

    class Masked(Sums):
        def get_result_buffers(self) -> Any:
            return {**super().get_result_buffers(), "record": self.buffer("nav", dtype=dtype, use="result_only")}

        def get_results(self) -> Any:
            records = np.ma.zeros(len(self.results.of_frame), dtype=dtype)
            records["total"] = self.results.of_frame
            records["total"][3] = np.ma.masked
            records["pair"][5, 1] = np.ma.masked
            records[7] = np.ma.masked
            return {"record": records}

    result = run(ctx, Masked())["record"]
    np.testing.assert_array_equal(np.flatnonzero(~result.valid_mask), [3, 5, 7])
    np.testing.assert_array_equal(result.raw_data["total"].reshape(6, 5), SUMS)


def test_results_that_are_no_arrays(ctx: Context) -> None:
    class Ragged(Sums):
        def get_results(self) -> Any:
            return {"of_frame": [[1], [2, 3]]}

    with pytest.raises(UDFException, match=r"Ragged: .* the result 'of_frame' as a list that is no array .* one array"):
        run(ctx, Ragged())


def test_nothing_of_each_frame(ctx: Context) -> None:
    """A result may have no entries."""
    result = ctx.map(dataset=ctx.load("memory", data=DATA, sig_dims=2), f=lambda frame: [])
    assert result.raw_masked_data.shape == (30, 0)


# -- backends


def test_a_gpu_that_is_missing_is_a_backend_that_is_missing(ctx: Context) -> None:
    """Whether a backend is unknown, or there is no worker for it: the same error, for those who catch it."""
    with pytest.raises(NoBackendError, match="needs a worker on a CUDA device"):
        run(ctx, SumUDF(), backends="cupy")


def test_backends_that_are_not_here_do_no_harm(ctx: Context) -> None:
    class Somewhere(Sums):
        def get_backends(self) -> Any:
            return self.params.names

    np.testing.assert_array_equal(run(ctx, Somewhere(names=("torch", "numpy")))["of_frame"].data, SUMS)
    with pytest.raises(NoBackendError, match="'torch'") as caught:
        run(ctx, Somewhere(names=("torch",)))
    assert isinstance(caught.value, RuntimeError | ValueError)
    with pytest.raises(UDFException, match=r"get_backends\(\) returned None: return the name"):
        run(ctx, Somewhere(names=None))


# -- what is refused


class Returning(Sums):
    """Returns what it is given."""

    def get_results(self) -> Any:
        return {"of_frame": self.results.of_frame, "of_pixel": self.params.make(self.results.of_pixel)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda array: array.T, r"'of_pixel' must have shape \(12, 10\) but get_results\(\) returned \(10, 12\)"),
        (lambda array: array.reshape(6, 20), r"returned \(6, 20\)"),
        (lambda array: None, "returned None as the result 'of_pixel'"),
    ],
)
def test_results_that_do_not_fit(ctx: Context, make: Callable[[Any], Any], message: str) -> None:
    """The same number of entries in another order would be other numbers."""
    with pytest.raises(UDFException, match=message):
        run(ctx, Returning(make=make))


@pytest.mark.parametrize("make", [np.ravel, lambda array: array[np.newaxis], lambda array: array.reshape(12, 1, 10)])
def test_results_that_fit(ctx: Context, make: Callable[[Any], Any]) -> None:
    np.testing.assert_array_equal(run(ctx, Returning(make=make))["of_pixel"].data, DATA.sum(axis=(0, 1)))


@pytest.mark.parametrize(("shape", "message"), [((2.7,), "integer"), ("12", "integer"), ("float64", "dtype='float64'")])
def test_extra_shapes_are_integers(shape: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"extra_shape .*{message}"):
        BufferWrapper("nav", extra_shape=shape)


def test_auxiliary_data_of_another_shape(ctx: Context) -> None:
    """The number of entries alone does not say that it fits."""
    of_detector = UDF.aux_data(np.zeros((10, 12), np.float32), "sig")
    of_scan = UDF.aux_data(np.zeros((5, 6), np.float32), "nav")
    for aux in (of_detector, of_scan):
        with pytest.raises(UDFException, match=r"'aux': auxiliary data of kind .* has the shape"):
            run(ctx, Sums(aux=aux))
    with pytest.raises(ValueError, match=r"extra_shape \(4,\) but has the shape \(3,\)"):
        UDF.aux_data(np.zeros(3), "single", extra_shape=(4,), dtype="f8")


@pytest.mark.parametrize(
    "method", ["get_method", "get_tiling_preferences", "get_backends", "get_preferred_input_dtype"]
)
def test_errors_before_data_is_read(ctx: Context, method: str) -> None:
    """They say whose they are."""

    def fail(self: Any) -> Any:
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea") as caught:
        run(ctx, type("Failing", (Sums,), {method: fail})())
    assert f"in {method} of Failing" in caught.value.__notes__


def test_an_iterator_that_has_no_more(ctx: Context) -> None:
    class Next(Sums):
        def process_tile(self, tile: Any) -> None:
            next(iter(()))

    with pytest.raises(UDFException, match=r"Next\.process_tile raised StopIteration"):
        run(ctx, Next())


@pytest.mark.parametrize("method", ["get_results", "get_result_buffers", "preprocess", "get_tiling_preferences"])
def test_an_iterator_that_has_no_more_before_and_after(ctx: Context, method: str) -> None:
    def fail(self: Any) -> Any:
        next(iter(()))

    with pytest.raises(UDFException, match=rf"{method} of Next.* raised StopIteration"):
        run(ctx, type("Next", (Sums,), {method: fail})())


def test_a_dtype_that_no_frame_has(ctx: Context) -> None:
    class Objects(Sums):
        def get_preferred_input_dtype(self) -> Any:
            return object

    with pytest.raises(UDFException, match=r"Objects: the preferred input dtype .* numeric dtype"):
        run(ctx, Objects())


def test_calls_with_something_else(ctx: Context) -> None:
    """Each is named, with what is wanted."""
    dataset: Any = ctx.load("memory", data=DATA, sig_dims=2)
    nothing: Any = None
    with pytest.raises(TypeError, match="udf must be an instance of UDF, or several, got None"):
        ctx.run_udf(dataset=dataset, udf=nothing)
    array: Any = DATA
    with pytest.raises(TypeError, match=r'what Context.load returns, got numpy.ndarray: ctx.load\("memory"'):
        ctx.run_udf(dataset=array, udf=Sums())
    with pytest.raises(TypeError, match="plots must be True, plots, or a list of channels for each UDF, got 3"):
        ctx.run_udf(dataset=dataset, udf=Sums(), plots=3)


def test_parameters_without_a_name() -> None:
    class Positional(Sums):
        def __init__(self, a: int) -> None:
            super().__init__(a)

    with pytest.raises(UDFException, match=r"Positional is made with 1 argument without a name"):
        Positional(3)


@pytest.mark.parametrize("name", ["meta", "params", "results", "task_data"])
def test_what_runs_set_is_not_replaced(name: str) -> None:
    """Also before the constructor of the base class has run; anything else may be assigned."""

    class Replacing(Sums):
        def __init__(self, **kwargs: Any) -> None:
            self.own = 1
            setattr(self, name, {})
            super().__init__(**kwargs)

    with pytest.raises(UDFException, match=rf"Replacing replaces self\.{name} by a dict"):
        Replacing()
