"""`Context`: the one object that a user's program needs; data is loaded, and functions are run, through it."""

from __future__ import annotations

import atexit
import weakref
from typing import TYPE_CHECKING, Any, Self, overload

from tilework.api.analyses import Analyses
from tilework.api.executors import ExecutorSpecType, make_executor
from tilework.api.submitted import SubmittedRuns
from tilework.common.run_options import Priority
from tilework.exceptions import ExecutorError, ExecutorSpecException

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Literal, Unpack

    from numpy.typing import NDArray

    from tilework.api.async_generators import ResultAsyncGenerator
    from tilework.api.display import UDFDisplay
    from tilework.api.generators import ResultGenerator
    from tilework.api.requests import RunArguments
    from tilework.api.runs import UDFRun
    from tilework.common.executor import GPUSpec, JobExecutor
    from tilework.common.progress import ProgressReporter
    from tilework.common.roi import RoiT
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.results import ResultBuffer, RunResult

__all__ = ["Context", "ExecutorSpecType"]


class Context(Analyses):
    """Loads data and runs user-defined functions on an executor.

    Parameters
    ----------
    executor
        Where the work is done; None: on a local Dask cluster with a worker for each CPU that the process may use, as
        of `DaskJobExecutor.make_local`; that needs the extra ``tilework[dask]``.
    plot_class
        Class of live plots; None: `tilework.viz.mpl.MPLLive2DPlot`.

    Examples
    --------
    >>> import numpy as np
    >>> from tilework.udf.sum import SumUDF
    >>> with Context.make_with("inline") as ctx:
    ...     ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype=np.uint16))
    ...     ctx.run_udf(dataset=ds, udf=SumUDF())["intensity"].data[0, 0]
    np.float32(16.0)
    """

    _is_closed = False

    def __init__(self, executor: JobExecutor | None = None, plot_class: Any = None) -> None:
        given: Any = executor
        if isinstance(given, str | type):
            msg = f"executor must be a JobExecutor, not {given!r}: Context.make_with('inline') makes one by its name"
            raise ExecutorSpecException(msg)
        self.executor: JobExecutor = self._create_local_executor() if executor is None else executor
        self._plot_class = plot_class
        self._submitted = SubmittedRuns()
        # The hook must not keep the context alive; a context that is dropped closes its executor by itself.
        reference = weakref.ref(self)
        self._exit_hook = lambda: _close_if_alive(reference)
        atexit.register(self._exit_hook)
        weakref.finalize(self, atexit.unregister, self._exit_hook).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _create_local_executor(self) -> JobExecutor:
        return make_executor("dask")

    @classmethod
    def make_with(
        cls,
        executor_spec: ExecutorSpecType = "dask",
        *,
        cpus: int | Iterable[int] | None = None,
        gpus: int | Iterable[int] | None = None,
        plot_class: Any = None,
        snooze_timeout: float | None = None,
        main_process_gpu: GPUSpec = None,
    ) -> Context:
        """Make a context with an executor of its own.

        Parameters
        ----------
        executor_spec
            ``"inline"`` (or ``"synchronous"``): in this thread, one partition after the other; ``"threads"``: on
            threads; ``"dask"``: on a local Dask cluster; ``"dask-make-default"``: the same, which also becomes the
            default of Dask and lives until the program ends; ``"dask-integration"``: where Dask works at the moment;
            ``"pipelined"``: in worker processes; ``"delayed"``: nowhere, results are Dask arrays.
        cpus
            Number of workers, or the CPUs they belong to; None: as many as the process may use. Not for ``"inline"``
            and ``"dask-integration"``.
        gpus
            CUDA devices, or how many workers to spread over them; None: all; for ``"pipelined"``, ``"dask"`` and
            ``"dask-make-default"`` only.
        plot_class
            Class of live plots.
        snooze_timeout
            Minutes (`DaskJobExecutor` counts seconds) after which idle workers are released, for ``"dask"``; the others
            keep theirs whatever it is.
        main_process_gpu
            CUDA device of the main process.

        Raises
        ------
        ExecutorSpecException
            When the arguments do not fit the executor, or the machine.
        """
        executor = make_executor(
            executor_spec, cpus=cpus, gpus=gpus, snooze_timeout=snooze_timeout, main_process_gpu=main_process_gpu
        )
        return cls(executor=executor, plot_class=plot_class)

    def close(self) -> None:
        """Close the executor; the context cannot be used afterwards."""
        self._is_closed = True
        self._submitted.cancel_all()
        atexit.unregister(self._exit_hook)
        self.executor.close()

    def _check_open(self) -> None:
        if self._is_closed:
            msg = "this Context is closed: make a new one, or run what is to be run within its `with`"
            raise ExecutorError(msg)

    @property
    def plot_class(self) -> Any:
        """Class of live plots."""
        if self._plot_class is None:
            from tilework.viz.mpl import MPLLive2DPlot

            self._plot_class = MPLLive2DPlot
        return self._plot_class

    @plot_class.setter
    def plot_class(self, value: Any) -> None:
        self._plot_class = value

    # -- data

    def load(self, filetype: str | type[DataSet], *args: Any, io_backend: Any = None, **kwargs: Any) -> DataSet:
        """Open a dataset.

        Parameters
        ----------
        filetype
            Name of the format, such as ``"raw"``, ``"npy"``, ``"mib"``, ``"blo"``, ``"empad"``, ``"memory"``;
            ``"auto"`` to find out from `path`, in which case your own parameters win over detected ones; or a class
            of your own.
        *args, **kwargs
            Parameters of the format, above all ``path``; those of its class in `tilework.io.dataset`.
        io_backend
            Accepted by file formats for compatibility.

        Raises
        ------
        DataSetException
            When it cannot be opened.
        ExecutorError
            When the context is closed.
        """
        from tilework.io.dataset import load

        self._check_open()
        if io_backend is not None:  # which formats of users need not know
            kwargs["io_backend"] = io_backend
        return load(filetype, *args, executor=self.executor, enable_async=False, **kwargs)

    def export_dataset(
        self,
        dataset: DataSet,
        *,
        path: str | bytes | os.PathLike[str],
        progress: bool | ProgressReporter = False,
        overwrite: bool = False,
    ) -> None:
        """Write a dataset into a ``.npy`` file, in its shape and dtype, corrected as its own corrections say.

        The file is there when it is complete: an error or an interruption leaves what was there before. Positions for
        which the source has no frame are NaN, or 0 for integers.

        Parameters
        ----------
        dataset
            What is written.
        path
            The file; its name ends in ``.npy``.
        progress
            True for a progress bar, or a `ProgressReporter`.
        overwrite
            Whether a file that is there is replaced.

        Raises
        ------
        ValueError
            When the name of the file ends otherwise.
        FileExistsError
            When the file is there, and `overwrite` is not set.
        OSError
            When the file cannot be written.
        """
        from tilework.api.export import export_dataset

        export_dataset(self, dataset, path, progress=progress, overwrite=overwrite)

    # -- running

    # The first overload of each has all parameters, for editors to show; the others take most of them by name only.

    @overload
    def run_udf(
        self, dataset: DataSet, udf: UDF, roi: RoiT = None, corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False, backends: str | Iterable[str] | None = None, plots: Any = None,
        sync: Literal[True] = True, *, priority: Priority | str = Priority.INTERACTIVE, timeout: float | None = None,
    ) -> RunResult: ...  # fmt: skip

    @overload
    def run_udf(
        self, dataset: DataSet, udf: Iterable[UDF], roi: RoiT = None, *, plots: Any = None, sync: Literal[True] = True,
        **more: Unpack[RunArguments],
    ) -> tuple[RunResult, ...]: ...  # fmt: skip

    @overload
    def run_udf(
        self, dataset: DataSet, udf: UDF, roi: RoiT = None, *, plots: Any = None, sync: Literal[False],
        **more: Unpack[RunArguments],
    ) -> Coroutine[Any, Any, RunResult]: ...  # fmt: skip

    @overload
    def run_udf(
        self, dataset: DataSet, udf: Iterable[UDF], roi: RoiT = None, *, plots: Any = None, sync: Literal[False],
        **more: Unpack[RunArguments],
    ) -> Coroutine[Any, Any, tuple[RunResult, ...]]: ...  # fmt: skip

    def run_udf(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False,
        backends: str | Iterable[str] | None = None,
        plots: Any = None,
        sync: bool = True,
        *,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout: float | None = None,
    ) -> Any:
        """Run one or several UDFs over a dataset and return the results.

        Parameters
        ----------
        dataset
            What is processed.
        udf
            One UDF, or several that share one pass over the data.
        roi
            Selected scan positions: a bool array of the shape of the scan, a sparse array, a coordinate ``(y, x)``,
            or pairs of a coordinate and whether it is selected; None: all.
        corrections
            Detector corrections, a `CorrectionSet`; None: those of the dataset; an empty one: none.
        progress
            True for a progress bar, or a `ProgressReporter`.
        backends
            Array backends that may be used; None: all.
        plots
            True for live plots of all two-dimensional results, a list of channels for each UDF, or a list of plots.
        sync
            False: return a coroutine instead, which gives the same.
        priority
            Which run goes first where several want the same workers: ``"live"``, ``"interactive"`` or ``"batch"``.
        timeout
            The longest that the run may take, in seconds; None for no limit.

        Returns
        -------
        RunResult or tuple of RunResult
            Results by name: one mapping for one UDF, a tuple of them for several.

        Raises
        ------
        UDFException
            When a UDF breaks the rules; before data is read wherever that is possible.
        UDFRunCancelled
            When the run is cancelled.
        DeadlineExceededError
            When it took longer than `timeout`.

        Examples
        --------
        Several functions share one pass over the data; here over a part of the scan:

        >>> from tilework.udf.stddev import StdDevUDF
        >>> from tilework.udf.sum import SumUDF
        >>> total, deviation = ctx.run_udf(dataset=ds, udf=[SumUDF(), StdDevUDF()], roi=ds.roi[1:4, ::2])
        >>> total["intensity"].data.shape, int(deviation["num_frames"].data[0])
        ((32, 32), 12)
        """
        from tilework.api.requests import make_request

        request = make_request(dataset, udf, roi, corrections, progress, backends, priority, timeout)
        if sync:
            return request.start(self, plots=plots).finish()
        from tilework.api.async_generators import ResultAsyncGenerator

        return ResultAsyncGenerator(lambda: request.start(self, plots=plots)).finish()

    @overload
    def run_udf_iter(
        self, dataset: DataSet, udf: UDF | Iterable[UDF], roi: RoiT = None, corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False, backends: str | Iterable[str] | None = None, plots: Any = None,
        sync: Literal[True] = True, *, priority: Priority | str = Priority.INTERACTIVE, timeout: float | None = None,
    ) -> ResultGenerator: ...  # fmt: skip

    @overload
    def run_udf_iter(
        self, dataset: DataSet, udf: UDF | Iterable[UDF], roi: RoiT = None, *, plots: Any = None, sync: Literal[False],
        **more: Unpack[RunArguments],
    ) -> ResultAsyncGenerator: ...  # fmt: skip

    def run_udf_iter(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False,
        backends: str | Iterable[str] | None = None,
        plots: Any = None,
        sync: bool = True,
        *,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout: float | None = None,
    ) -> ResultGenerator | ResultAsyncGenerator:
        """Run UDFs and iterate over partial results, one after every merged partition.

        Parameters are those of `run_udf`.

        Returns
        -------
        ResultGenerator or ResultAsyncGenerator
            Of items with ``buffers``, always a tuple with one mapping per UDF, and ``damage``, the positions they
            contain. Its attribute ``run`` is the run as other threads may see and cancel it, a `UDFRun`. With `sync`,
            the arrays in ``buffers`` are those of the run, and change with the next step: copy what you keep.
        """
        from tilework.api.requests import make_request

        request = make_request(dataset, udf, roi, corrections, progress, backends, priority, timeout)
        if sync:
            return request.start(self, plots=plots, iterate=True)
        from tilework.api.async_generators import ResultAsyncGenerator

        return ResultAsyncGenerator(lambda: request.start(self, plots=plots, iterate=True))

    @overload
    def submit_udf(
        self, dataset: DataSet, udf: UDF, roi: RoiT = None, corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False, backends: str | Iterable[str] | None = None, *,
        priority: Priority | str = Priority.INTERACTIVE, timeout: float | None = None,
    ) -> UDFRun[RunResult]: ...  # fmt: skip

    @overload
    def submit_udf(
        self, dataset: DataSet, udf: Iterable[UDF], roi: RoiT = None, **more: Unpack[RunArguments]
    ) -> UDFRun[tuple[RunResult, ...]]: ...

    def submit_udf(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: CorrectionSet | None = None,
        progress: bool | ProgressReporter = False,
        backends: str | Iterable[str] | None = None,
        *,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout: float | None = None,
    ) -> UDFRun[Any]:
        """Start a run that goes on in the background; any number may do so at a time, from any threads.

        Parameters are those of `run_udf`. The run works on copies of the UDFs, so that one instance may be submitted
        again at once.

        Returns
        -------
        UDFRun
            The run: a future that can be cancelled, and awaited, and that shows progress and what is merged by now.

        Raises
        ------
        UDFException
            When a UDF breaks the rules, as far as that shows before data is read; later errors are raised by
            `UDFRun.result`.

        Examples
        --------
        >>> import numpy as np
        >>> from tilework.udf.sum import SumUDF
        >>> with Context.make_with("threads") as ctx:
        ...     ds = ctx.load("memory", data=np.ones((4, 4, 8, 8), dtype=np.uint16))
        ...     run = ctx.submit_udf(dataset=ds, udf=SumUDF(), priority="batch", timeout=60)
        ...     run.result()["intensity"].data[0, 0]
        np.float32(16.0)
        """
        from tilework.api.generators import in_background
        from tilework.api.requests import make_request

        request = make_request(dataset, udf, roi, corrections, progress, backends, priority, timeout)
        run = in_background(request.with_copies().start(self))
        self._submitted.add(run)
        return run

    def map(
        self,
        dataset: DataSet,
        f: Callable[[NDArray[Any]], Any],
        roi: RoiT = None,
        progress: bool | ProgressReporter = False,
        corrections: CorrectionSet | None = None,
        backends: str | Iterable[str] | None = None,
    ) -> ResultBuffer:
        """Call a function with every frame and return what it returns, per scan position.

        Parameters
        ----------
        dataset
            What is processed.
        f
            Called with a frame; must return a number or an array, always of the same shape.
        roi, progress, corrections, backends
            As of `run_udf`.

        Returns
        -------
        ResultBuffer
            Of kind nav.

        Examples
        --------
        >>> import numpy as np
        >>> with Context.make_with("inline") as ctx:
        ...     ds = ctx.load("memory", data=np.ones((2, 2, 8, 8), dtype=np.uint16))
        ...     ctx.map(dataset=ds, f=np.sum).data
        array([[64., 64.],
               [64., 64.]], dtype=float32)
        """
        from tilework.api.requests import check_dataset
        from tilework.common.roi import normalize_roi
        from tilework.udf.auto import AutoUDF

        check_dataset(dataset)
        # Here, so that warnings are for the line that calls this method.
        roi = normalize_roi(roi, tuple(dataset.shape.nav))
        results = self.run_udf(
            dataset, AutoUDF(f=f), roi=roi, progress=progress, corrections=corrections, backends=backends
        )
        return results["result"]

    def display(self, dataset: DataSet, udf: UDF, roi: RoiT = None) -> UDFDisplay:
        """Return a description of what `udf` would compute for `dataset`, shown as a table in a notebook.

        Parameters
        ----------
        dataset
            What would be processed.
        udf
            The UDF.
        roi
            Selected positions.
        """
        from tilework.api.display import UDFDisplay
        from tilework.api.requests import check_dataset, check_udfs, find_corrections
        from tilework.udf.runner import UDFRunner

        check_dataset(dataset)
        (udf,) = check_udfs([udf])
        corrections = find_corrections(dataset, None)
        return UDFDisplay(dataset, udf, UDFRunner.inspect_udf(udf, dataset, roi, corrections))


def _close_if_alive(reference: weakref.ref[Context]) -> None:
    context = reference()
    if context is not None:
        context.close()
