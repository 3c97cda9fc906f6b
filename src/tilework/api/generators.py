"""Iterators over the partial results of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilework.udf.results import UDFResultsLazy
    from tilework.udf.runner import ResultsForDataSet

__all__ = ["ResultGenerator", "WholeRun"]


class ResultGenerator(Iterator[Any]):
    """Partial results of a run, one after every merged partition.

    Each item has ``buffers``, always a tuple with one mapping per UDF, and ``damage``, the positions that are merged.
    Items share their arrays with the run: what was got from an earlier item changes as the run goes on.

    Parameters
    ----------
    steps
        The run.
    each
        Called with every partial result and whether it is the last; for plots.

    Examples
    --------
    >>> from tilework.udf.sum import SumUDF
    >>> for part in ctx.run_udf_iter(dataset=ds, udf=SumUDF()):
    ...     print(int(part.damage.data.sum()), "of 48 positions", part.buffers[0]["intensity"].data.shape)
    16 of 48 positions (32, 32)
    32 of 48 positions (32, 32)
    48 of 48 positions (32, 32)
    """

    def __init__(self, steps: ResultsForDataSet, each: Callable[[UDFResultsLazy, bool], None] | None = None) -> None:
        self._steps = steps
        self._each = each
        self._last: UDFResultsLazy | None = None

    def __iter__(self) -> ResultGenerator:
        return self

    def __next__(self) -> UDFResultsLazy:
        try:
            results = next(self._steps)
        except StopIteration:
            if self._each is not None and self._last is not None:
                self._each(self._last, True)
                self._last = None
            raise
        self._last = results
        if self._each is not None:
            self._each(results, False)
        return results

    def close(self) -> None:
        """End the run; tasks that run stop at their next tile."""
        self._steps.close()

    def throw(self, exc: BaseException) -> Any:
        """End the run with an exception."""
        return self._steps.throw(exc)

    def cancel(self) -> None:
        """Cancel the run; may be called from any thread."""
        self._steps.cancel()

    def update_parameters_experimental(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters while the run goes on; tasks that start later use them.

        Parameters
        ----------
        parameters
            One mapping per UDF, with only what changes.
        """
        self._steps.update_parameters_experimental(parameters)


class WholeRun(ResultGenerator):
    """A run in a single step, which gives the final result; plots see those before it."""

    def __next__(self) -> UDFResultsLazy:
        last = None
        while True:
            try:
                last = super().__next__()
            except StopIteration:
                if last is None:
                    raise
                return last
