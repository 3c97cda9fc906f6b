"""`Context`: the one object that a user's program needs; data is loaded, and functions are run, through it."""

from __future__ import annotations

import atexit
import weakref
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tilework.api.analyses import Analyses
from tilework.api.executors import ExecutorSpecType, make_executor
from tilework.api.generators import ResultGenerator, WholeRun
from tilework.api.plots import Plots
from tilework.common.executor import Priority, RunOptions
from tilework.exceptions import DataSetException
from tilework.io.corrections.corrset import CorrectionSet
from tilework.udf.base import UDF
from tilework.udf.runner import UDFRunner

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from tilework.api.runs import UDFRun
    from tilework.common.buffers import BufferWrapper
    from tilework.common.executor import GPUSpec, JobExecutor
    from tilework.common.progress import ProgressReporter
    from tilework.common.roi import RoiT
    from tilework.io.dataset.base import DataSet
    from tilework.udf.runner import ResultsForDataSet

__all__ = ["Context", "ExecutorSpecType"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


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

    def __init__(self, executor: JobExecutor | None = None, plot_class: Any = None) -> None:
        self.executor: JobExecutor = self._create_local_executor() if executor is None else executor
        self._plot_class = plot_class
        # The hook must not keep the context alive; a context that is dropped closes its executor by itself.
        reference = weakref.ref(self)
        self._exit_hook = lambda: _close_if_alive(reference)
        atexit.register(self._exit_hook)

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
            Minutes after which idle workers are released; for ``"dask"`` only.
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
        atexit.unregister(self._exit_hook)
        self.executor.close()

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

    def load(self, filetype: str, *args: Any, io_backend: Any = None, **kwargs: Any) -> Any:
        """Open a dataset.

        Parameters
        ----------
        filetype
            Name of the format, such as ``"raw"``, ``"npy"``, ``"mib"``, ``"blo"``, ``"empad"``, ``"memory"``;
            ``"auto"`` to find out from `path`, in which case your own parameters win over detected ones.
        *args, **kwargs
            Parameters of the format, above all ``path``; see ``docs/formats.md``.
        io_backend
            Accepted by file formats for compatibility.

        Returns
        -------
        DataSet

        Raises
        ------
        DataSetException
            When it cannot be opened.
        """
        from tilework.io.dataset import load

        return load(filetype, *args, io_backend=io_backend, executor=self.executor, enable_async=False, **kwargs)

    def export_dataset(
        self,
        dataset: DataSet,
        *,
        path: str | os.PathLike[str],
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

    def run_udf(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: Any = None,
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
        """
        single = isinstance(udf, UDF)
        options = make_options(priority, timeout)
        if not sync:
            return self._run_udf_async(dataset, udf, roi, corrections, progress, backends, plots, options)
        steps = self._start_whole(dataset, udf, roi, corrections, progress, backends, plots, options)
        try:
            last = next(steps)
        finally:
            steps.close()
        return last.buffers[0] if single else last.buffers

    def run_udf_iter(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: Any = None,
        progress: bool | ProgressReporter = False,
        backends: str | Iterable[str] | None = None,
        plots: Any = None,
        sync: bool = True,
        *,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout: float | None = None,
    ) -> Any:
        """Run UDFs and iterate over partial results, one after every merged partition.

        Parameters are those of `run_udf`.

        Returns
        -------
        ResultGenerator or ResultAsyncGenerator
            Of items with ``buffers``, always a tuple with one mapping per UDF, and ``damage``, the positions they
            contain.
        """
        options = make_options(priority, timeout)
        if not sync:
            from tilework.api.async_generators import ResultAsyncGenerator

            udfs = [udf] if isinstance(udf, UDF) else list(udf)
            return ResultAsyncGenerator(
                lambda: self._start(dataset, udfs, roi, corrections, progress, backends, plots, options)
            )
        return self._start(dataset, udf, roi, corrections, progress, backends, plots, options)

    def submit_udf(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT = None,
        corrections: Any = None,
        progress: bool | ProgressReporter = False,
        backends: str | Iterable[str] | None = None,
        *,
        priority: Priority | str = Priority.INTERACTIVE,
        timeout: float | None = None,
    ) -> UDFRun:
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
        from tilework.api.runs import UDFRun

        udfs = [each.copy() for each in self._check_udfs(udf)]
        corrections = self._corrections(dataset, corrections)
        steps = self._prepare(
            dataset, udfs, roi, corrections, progress, backends, make_options(priority, timeout), iterate=False
        )
        return UDFRun(steps, is_single=isinstance(udf, UDF))

    async def _run_udf_async(self, dataset: DataSet, udf: UDF | Iterable[UDF], *args: Any) -> Any:
        from tilework.api.async_generators import ResultAsyncGenerator

        udfs = [udf] if isinstance(udf, UDF) else list(udf)
        steps = ResultAsyncGenerator(lambda: self._start_whole(dataset, udfs, *args))
        try:
            last = await anext(steps)
        finally:
            await steps.aclose()
        return last.buffers[0] if isinstance(udf, UDF) else last.buffers

    def _start(
        self,
        dataset: DataSet,
        udf: UDF | Iterable[UDF],
        roi: RoiT,
        corrections: Any,
        progress: bool | ProgressReporter,
        backends: str | Iterable[str] | None,
        plots: Any,
        options: RunOptions,
        kind: type[ResultGenerator] = ResultGenerator,
    ) -> ResultGenerator:
        """Prepare a run; what is wrong with its arguments shows here."""
        udfs = self._check_udfs(udf)
        corrections = self._corrections(dataset, corrections)
        each = Plots.make(plots, lambda: self.plot_class, dataset, udfs, roi, corrections)
        # Plots show partial results also to those who do not ask for them.
        iterate = each is not None or kind is ResultGenerator
        steps = self._prepare(dataset, udfs, roi, corrections, progress, backends, options, iterate=iterate)
        return kind(steps, each)

    def _start_whole(self, dataset: DataSet, udf: UDF | Iterable[UDF], *args: Any) -> ResultGenerator:
        start: Callable[..., ResultGenerator] = self._start
        return start(dataset, udf, *args, kind=WholeRun)

    @staticmethod
    def _check_udfs(udf: UDF | Iterable[UDF]) -> list[UDF]:
        udfs: list[Any] = [udf] if isinstance(udf, UDF | type) else list(udf)
        strangers: list[Any] = [u for u in udfs if not isinstance(u, UDF)]
        if strangers:
            hint = " (an instance is wanted, not the class)" if isinstance(strangers[0], type) else ""
            msg = f"udf must be an instance of UDF, or several, got {strangers[0]!r}{hint}"
            raise TypeError(msg)
        return udfs

    def _prepare(
        self,
        dataset: DataSet,
        udfs: list[UDF],
        roi: RoiT,
        corrections: CorrectionSet | None,
        progress: bool | ProgressReporter,
        backends: str | Iterable[str] | None,
        options: RunOptions,
        *,
        iterate: bool,
    ) -> ResultsForDataSet:
        return UDFRunner(udfs).run_for_dataset_sync(
            dataset,
            self.executor,
            roi=roi,
            progress=progress,
            corrections=corrections,
            backends=backends,
            iterate=iterate,
            options=options,
        )

    @staticmethod
    def _corrections(dataset: DataSet, corrections: Any) -> CorrectionSet | None:
        """Return the corrections of a run; None when there is nothing to correct."""
        if corrections is None:
            corrections = dataset.get_correction_data()
        if not isinstance(corrections, CorrectionSet):
            msg = f"corrections must be a tilework.corrections.CorrectionSet, got {type(corrections).__name__}"
            raise TypeError(msg)
        if not corrections.have_corrections():
            return None
        if not dataset.supports_correction():
            msg = f"{type(dataset).__name__} does not support detector corrections: run without, or correct the results"
            raise DataSetException(msg)
        return corrections

    def map(
        self,
        dataset: DataSet,
        f: Callable[[Any], Any],
        roi: RoiT = None,
        progress: bool | ProgressReporter = False,
        corrections: Any = None,
        backends: str | Iterable[str] | None = None,
    ) -> BufferWrapper:
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
        BufferWrapper
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
        from tilework.udf.auto import AutoUDF

        results = self.run_udf(
            dataset, AutoUDF(f=f), roi=roi, progress=progress, corrections=corrections, backends=backends
        )
        return results["result"]  # type: ignore[no-any-return]

    def display(self, dataset: DataSet, udf: UDF, roi: RoiT = None) -> Any:
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

        corrections = self._corrections(dataset, None)
        return UDFDisplay(dataset, udf, UDFRunner.inspect_udf(udf, dataset, roi, corrections))


def make_options(priority: Priority | str, timeout: float | None) -> RunOptions:
    """Return the options of a run.

    Raises
    ------
    ValueError
        When there is no such priority, or the time is not positive.
    """
    if isinstance(priority, str):
        names = [each.name.lower() for each in Priority]
        if priority not in names:
            msg = f"priority must be one of {', '.join(map(repr, names))}, not {priority!r}"
            raise ValueError(msg)
        priority = Priority[priority.upper()]
    return RunOptions(priority=priority, timeout=timeout)


def _close_if_alive(reference: weakref.ref[Context]) -> None:
    context = reference()
    if context is not None:
        context.close()
