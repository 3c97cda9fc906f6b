"""Any function of a frame as a UDF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tilework.common.buffers import BufferWrapper

__all__ = ["AutoUDF"]


class AutoUDF(UDF):
    """Apply a function to every frame; what `Context.map` does.

    Result: ``result``, of nav shape; what the function returns for a frame of ones decides shape and dtype of an entry.
    With `monitor` also ``monitor``: the entry of the last position that is finished, for plots while data comes in.

    Parameters
    ----------
    f
        Takes a frame, float32 (or what the dataset's dtype is promoted to with it) of sig shape, and returns a number
        or an array of always the same shape. It is sent to the workers, so it must be picklable.
    monitor
        Whether to have the result ``monitor``.

    Raises
    ------
    TypeError
        When `f` cannot be called.

    Examples
    --------
    >>> result = ctx.run_udf(dataset=ds, udf=AutoUDF(f=np.max))
    >>> result["result"].data.shape
    (6, 8)
    """

    def __init__(self, f: Callable[[NDArray[Any]], Any], monitor: bool = False) -> None:
        given: Any = f
        if not callable(given):
            msg = f"f must be a function of a frame, such as np.max, not {given!r}"
            raise TypeError(msg)
        super().__init__(f=f, monitor=monitor)

    def get_result_buffers(self) -> dict[str, BufferWrapper]:
        """Declare what the function returns for a frame of ones."""
        example = np.array(self.params.f(np.ones(tuple(self.meta.dataset_shape.sig), dtype=self.meta.input_dtype)))
        buffers = {"result": self.auto_buffer(example)}
        if self.params.monitor:
            buffers["monitor"] = self.auto_monitor_buffer(example)
        return buffers

    def auto_buffer(self, var: Any) -> BufferWrapper:
        """Declare a result that has, for each position, what `var` is, an array or a number; for derived classes."""
        example = np.asarray(var)
        return self.buffer(kind="nav", extra_shape=example.shape, dtype=example.dtype)

    def auto_monitor_buffer(self, var: Any) -> BufferWrapper:
        """Declare a result that is once what `var` is, and that `get_results` makes; for derived classes."""
        example = np.asarray(var)
        return self.buffer(kind="single", extra_shape=example.shape, dtype=example.dtype, use="result_only")

    def process_frame(self, frame: NDArray[Any]) -> None:
        """Apply the function."""
        self.results.result[:] = self.params.f(frame)

    def get_results(self) -> dict[str, Any]:
        """Return the results."""
        result = self.results.result
        results = {}
        if self.params.monitor:
            valid = self.meta.get_valid_nav_mask()
            finished = np.flatnonzero(valid) if valid is not None else np.arange(len(result))
            shape = self.results.get_buffer("monitor").shape
            # As a slice: of text, one entry by its number would have a dtype of its own length.
            results["monitor"] = (
                result[finished[-1] :][:1].reshape(shape) if len(finished) else np.zeros(shape, dtype=result.dtype)
            )
        return {**results, "result": result}
