"""The base class of user-defined functions.

A UDF declares its results (`UDF.get_result_buffers`), computes them from frames, tiles or partitions (exactly one of
``process_frame``, ``process_tile``, ``process_partition`` is used in a run; a function that numba compiles can stand in
for the first two), and says how results of partitions are put together (`UDF.merge`). Its parameters are the keyword
arguments of its constructor: every task makes a fresh instance from them, on whatever worker it runs, so a constructor
must accept what it passes to ``super().__init__``.

What the system does with instances is in `tilework.udf.instance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from tilework.common.array_backends import CUPY_BACKENDS, make_like
from tilework.common.buffers import (
    ArrayWithMask,
    AuxBufferWrapper,
    BufferKind,
    BufferUse,
    BufferWrapper,
    PlaceholderBufferWrapper,
)
from tilework.common.later import import_later
from tilework.exceptions import MissingMergeError, NoMetaError, UDFException, UDFRunCancelled
from tilework.udf.data import MergeAttrMapping, UDFData, UDFKwargsWrapper
from tilework.udf.instance import RunAttribute, UDFInstance, is_in_run
from tilework.udf.meta import UDFMeta
from tilework.udf.mixins import (
    UDFFrameMixin,
    UDFMergeAllMixin,
    UDFPartitionMixin,
    UDFPostprocessMixin,
    UDFPreprocessMixin,
    UDFRunEndMixin,
    UDFTileMixin,
)
from tilework.udf.params import RunCache, UDFParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import SupportsIndex

    from numpy.typing import DTypeLike

    from tilework.udf.backends import execution_plan, get_resources_for_backends
    from tilework.udf.noop import NoOpUDF
    from tilework.udf.results import UDFResults, UDFResultsLazy
    from tilework.udf.runner import UDFRunner
    from tilework.udf.task import GenericTask, UDFTask

__all__ = [
    "UDF",
    "GenericTask",
    "MergeAttrMapping",
    "NoOpUDF",
    "UDFData",
    "UDFFrameMixin",
    "UDFKwargsWrapper",
    "UDFMergeAllMixin",
    "UDFMeta",
    "UDFParams",
    "UDFPartitionMixin",
    "UDFPostprocessMixin",
    "UDFPreprocessMixin",
    "UDFResults",
    "UDFResultsLazy",
    "UDFRunCancelled",
    "UDFRunEndMixin",
    "UDFRunner",
    "UDFTask",
    "UDFTileMixin",
    "check_cast",
    "execution_plan",
    "get_resources_for_backends",
]

Array = np.ndarray[Any, np.dtype[Any]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
T = TypeVar("T")
# Names that programs import from here. Their modules import this one, so they are loaded when they are asked for.
_ELSEWHERE = {
    "GenericTask": "task",
    "NoOpUDF": "noop",
    "UDFResults": "results",
    "UDFResultsLazy": "results",
    "UDFRunner": "runner",
    "UDFTask": "task",
    "execution_plan": "backends",
    "get_resources_for_backends": "backends",
}


if not TYPE_CHECKING:  # for type checkers, only what is imported above exists
    __getattr__ = import_later(__name__, "tilework.udf", _ELSEWHERE)


def check_cast(fromvar: Any, tovar: Any) -> None:
    """Raise TypeError unless the dtype of `fromvar` can be cast safely to that of `tovar`.

    Examples
    --------
    >>> check_cast(np.zeros(1, dtype="uint16"), np.zeros(1, dtype="float32"))
    >>> check_cast(np.zeros(1, dtype="float64"), np.zeros(1, dtype="float32"))
    Traceback (most recent call last):
    TypeError: cannot safely cast float64 to float32
    """
    if not np.can_cast(fromvar.dtype, tovar.dtype, casting="safe"):
        msg = f"cannot safely cast {fromvar.dtype} to {tovar.dtype}"
        raise TypeError(msg)


_NO_DATA = UDFData({})


class UDF(UDFInstance):
    """Base class of user-defined functions.

    Parameters
    ----------
    **kwargs
        Parameters, readable as attributes of `params` in every method. They travel to the workers, so they must be
        picklable.

    Examples
    --------
    >>> import numpy as np
    >>> class Brightest(UDF):
    ...     def get_result_buffers(self):
    ...         return {"maximum": self.buffer(kind="nav", dtype=np.float32)}
    ...
    ...     def process_frame(self, frame):
    ...         self.results.maximum[:] = frame.max()
    """

    COMPILED_FROM_PIXELS: ClassVar[int] = 2**22
    """Size of a dataset, in pixels, from which `meta.compiled` is True (a quarter of it must be selected).

    Loading compiled kernels takes half a second, compiling them, once per machine, a few. What NumPy does nearly as
    fast can wait for larger datasets. Sums of integers, which are exact in any order, use them in small runs too, as
    soon as that pays.
    """

    # -- to implement

    def get_result_buffers(self) -> Mapping[str, BufferWrapper]:
        """Return the declarations of the results by name, made with `buffer`."""
        msg = f"{type(self).__name__} does not declare its results: implement get_result_buffers"
        raise NotImplementedError(msg)

    def get_task_data(self) -> Mapping[str, Any]:
        """Return what every task needs and can be made on the worker; readable as attributes of `task_data`."""
        return {}

    def get_preferred_input_dtype(self) -> Any:
        """Return the dtype in which frames are wanted; ``USE_NATIVE_DTYPE`` for that of the dataset.

        What comes is the dtype to which this and that of the dataset are promoted.
        """
        return np.float32

    def accepts_tile_dtype(self, dtype: np.dtype[Any]) -> bool:  # noqa: ARG002
        """Return whether `process_tile` takes tiles in the dataset's own dtype, native byte order, without conversion.

        `meta.input_dtype` and the declared results stay what they are.
        """
        return False

    def accepts_foreign_order(self) -> bool:
        """Return whether tiles that `accepts_tile_dtype` accepts may come in foreign byte order, as in some files.

        Asked for runs that use compiled kernels only. NumPy computes with such arrays, though slowly; functions that
        numba compiles do not take them.
        """
        return False

    def get_frame_kernel(self) -> Callable[..., None] | None:
        """Return a function of one frame that numba can compile; None: there is none.

        It is called for every frame, by compiled code and without the interpreter's lock, as
        ``function(frame, name, ...)``: the parameters after the frame are found by name among results, parameters and
        task data of the UDF; one that is none of these has its default. Results of kind nav are arrays for the frame,
        of shape ``(1,)`` or `extra_shape`, others are whole; all are written in place, nothing is returned. Nothing of
        ``self`` can be used in it.

        In runs too small for a compiler Python calls the function, or ``process_frame`` if there is one.

        Compiled code does not look whether an index is within its array: one that is not reads, or destroys, what lies
        elsewhere in memory. With ``InlineJobExecutor(debug=True)`` it looks, and raises IndexError, as Python does.

        Examples
        --------
        >>> def over_threshold(frame, counted, threshold):
        ...     for value in frame.flat:
        ...         if value > threshold:
        ...             counted[0] += 1
        >>> class Count(UDF):
        ...     def get_result_buffers(self):
        ...         return {"counted": self.buffer(kind="nav", dtype="int64")}
        ...
        ...     def get_frame_kernel(self):
        ...         return over_threshold
        >>> result = ctx.run_udf(dataset=ds, udf=Count(threshold=40))["counted"]
        >>> np.array_equal(result.data, (ds.data > 40).sum(axis=(2, 3)))
        True
        """
        return None

    def get_tile_kernel(self) -> Callable[..., None] | None:
        """Return a function of a tile that numba can compile; None: there is none.

        As `get_frame_kernel`, with what `process_tile` gets: ``function(tile, name, ...)`` is called for every tile, of
        shape ``(frames, *sig part)``. Results and auxiliary data of kind nav have the entries of these frames,
        ``(frames, *extra_shape)``, those of kind sig the pixels of this part of the detector. The other parts of the
        same frames come in other tiles, so nav results must be added up.

        A function that gives this and a frame kernel gets tiles, unless `get_method` says otherwise.

        Examples
        --------
        >>> def add_up(tile, total, pattern):
        ...     for i in range(tile.shape[0]):
        ...         for y in range(tile.shape[1]):
        ...             for x in range(tile.shape[2]):
        ...                 total[i] += tile[i, y, x]
        ...                 pattern[y, x] += tile[i, y, x]
        >>> class Sums(UDF):
        ...     def get_result_buffers(self):
        ...         return {
        ...             "total": self.buffer(kind="nav", dtype="float64"),
        ...             "pattern": self.buffer(kind="sig", dtype="float64"),
        ...         }
        ...
        ...     def get_tile_kernel(self):
        ...         return add_up
        ...
        ...     def merge(self, dest, src):
        ...         dest.total[:] = src.total
        ...         dest.pattern[:] += src.pattern
        >>> result = ctx.run_udf(dataset=ds, udf=Sums())
        >>> np.array_equal(result["total"].data, ds.data.sum(axis=(2, 3), dtype="float64"))
        True
        """
        return None

    def corrects_results(self) -> bool:
        """Return whether this UDF takes raw frames and corrects its results itself, with `meta.corrections`.

        That is possible, and much less work, where a result is linear in the frames. It matters only for tiles that
        `accepts_tile_dtype` takes; others come corrected.
        """
        return False

    def get_backends(self) -> str | Iterable[str]:
        """Return the array backends that are supported, best first.

        Which one a function gets depends on what the dataset offers and on the device; `meta.array_backend` says it.
        """
        return (self.BACKEND_NUMPY,)

    def cleanup(self) -> None:
        """Release what a task holds; called after every task, also when it failed."""

    def merge(self, dest: MergeAttrMapping, src: MergeAttrMapping) -> None:
        """Put the results of one partition into those of the whole.

        The default is right for nav buffers, where every partition has its own part.

        Parameters
        ----------
        dest
            Views of the whole: for nav buffers the part of this partition.
        src
            Results of the partition.

        Raises
        ------
        MissingMergeError
            By default, when there are results of another kind than nav.

        Examples
        --------
        >>> class Brightest(UDF):
        ...     def get_result_buffers(self):
        ...         return {"maximum": self.buffer(kind="sig", dtype="float32")}
        ...
        ...     def process_frame(self, frame):
        ...         self.results.maximum[:] = np.maximum(self.results.maximum, frame)
        ...
        ...     def merge(self, dest, src):
        ...         dest.maximum[:] = np.maximum(dest.maximum, src.maximum)
        >>> result = ctx.run_udf(dataset=ds, udf=Brightest())
        >>> np.array_equal(result["maximum"].data, ds.data.max(axis=(0, 1)))
        True
        """
        if self.requires_custom_merge:
            msg = (
                f"{type(self).__name__} has results that are not of kind 'nav', so tilework cannot know how partial "
                "results are put together: implement merge(self, dest, src), for a sum: dest.name[:] += src.name"
            )
            raise MissingMergeError(msg)
        for name in dest:
            getattr(dest, name)[:] = getattr(src, name)

    @property
    def _merge_needs_order(self) -> bool:
        """Whether the order of merging can change the bits of a result."""
        return type(self).merge is not UDF.merge

    def get_results(self) -> Mapping[str, Any]:
        """Return the results by name; called whenever somebody looks, so it must not change anything.

        The default returns all buffers that are not private.

        Raises
        ------
        UDFException
            When a ``result_only`` buffer is declared, which only an own implementation can fill.

        Examples
        --------
        The mean, of which only the sum is computed on the workers, and which does not hold where nothing was counted:

        >>> class Mean(UDF):
        ...     def get_result_buffers(self):
        ...         return {
        ...             "total": self.buffer(kind="nav", dtype="float32", use="private"),
        ...             "mean": self.buffer(kind="nav", dtype="float32", use="result_only"),
        ...         }
        ...
        ...     def process_frame(self, frame):
        ...         self.results.total[:] = frame.sum()
        ...
        ...     def get_results(self):
        ...         total = self.results.total
        ...         return {"mean": self.with_mask(total / self.meta.dataset_shape.sig.size, mask=total > 0)}
        >>> result = ctx.run_udf(dataset=ds, udf=Mean())
        >>> list(result), np.array_equal(result["mean"].data, ds.data.mean(axis=(2, 3)))
        (['mean'], True)
        """
        for name, buffer in self.results.items():
            if buffer.use == "result_only":
                msg = (
                    f"{type(self).__name__} declares the result {name!r} with use='result_only': "
                    "implement get_results() and return it from there"
                )
                raise UDFException(msg)
        return {name: getattr(self.results, name) for name, b in self.results.items() if b.use != "private"}

    # -- to use

    @RunAttribute
    def params(self) -> UDFKwargsWrapper:
        """The parameters; auxiliary data as the view that belongs to what is processed now."""
        params = vars(self)["params"] = UDFKwargsWrapper(self._kwargs)
        return params

    @RunAttribute
    def results(self) -> UDFData:
        """The result buffers, as the views that belong to what is processed now."""
        return _NO_DATA

    @RunAttribute
    def task_data(self) -> UDFData:
        """What `get_task_data` returned."""
        return _NO_DATA

    @RunAttribute
    def meta(self) -> UDFMeta:
        """Facts about the dataset, the run and what is processed now.

        Raises
        ------
        NoMetaError
            Outside of a run.
        """
        msg = f"{type(self).__name__}.meta is known in a run only; to look at a UDF before, use Context.display"
        raise NoMetaError(msg)

    @property
    def xp(self) -> Any:
        """The array library to compute with: cupy where tiles are on a GPU, else numpy.

        In `merge` and `get_results` it is cupy when the main process was given a GPU (``main_process_gpu``) and the UDF
        supports CuPy. Result buffers are in main memory there.
        """
        backend = self.meta.array_backend if is_in_run(self) else None
        if backend in CUPY_BACKENDS or (backend is None and self._tilework_cupy_on_main):
            import cupy

            return cupy
        return np

    def buffer(
        self,
        kind: BufferKind,
        extra_shape: Iterable[SupportsIndex] | int = (),
        dtype: DTypeLike = "float32",
        where: Literal["device"] | None = None,
        use: BufferUse = None,
    ) -> BufferWrapper:
        """Declare a result.

        Parameters
        ----------
        kind
            ``"nav"``: an entry per scan position, ``"sig"``: per detector pixel, ``"single"``: one.
        extra_shape
            Shape of an entry.
        dtype
            dtype of an entry.
        where
            ``"device"``: in the memory of the device that computes.
        use
            ``"private"``: not returned to the user; ``"result_only"``: made in `get_results`.
        """
        cls = PlaceholderBufferWrapper if use == "result_only" else BufferWrapper
        return cls(kind, extra_shape, dtype, where, use)

    @classmethod
    def aux_data(
        cls,
        data: Any,
        kind: BufferKind,
        extra_shape: Iterable[SupportsIndex] | int = (),
        dtype: DTypeLike = "float32",
    ) -> AuxBufferWrapper:
        """Declare a parameter that is cut like a result: one entry per position, per pixel, or one for all.

        See `AuxBufferWrapper` for an example.

        Parameters
        ----------
        data
            Array with one entry per position of the whole scan, or per pixel.
        kind, extra_shape, dtype
            As of `buffer`.
        """
        buffer = AuxBufferWrapper(kind, extra_shape, dtype)
        buffer.set_buffer(np.asarray(data))
        return buffer

    @staticmethod
    def with_mask(data: Array, mask: BoolArray | bool) -> ArrayWithMask:
        """Return a result with what of it is valid, for `get_results`."""
        return ArrayWithMask(data, mask)

    def forbuf(self, arr: Any, target: Any) -> Any:
        """Convert an array of any kind to the kind, and the shape, of the result `target`.

        Use it where a function supports several array backends:
        ``self.results.x[:] += self.forbuf(array, self.results.x)``.

        Raises
        ------
        ValueError
            When `arr` does not have as many entries as `target`.

        Examples
        --------
        A sum over frames that takes sparse arrays as well, whose sums are not NumPy arrays:

        >>> class Total(UDF):
        ...     def get_result_buffers(self):
        ...         return {"total": self.buffer(kind="sig", dtype="float32")}
        ...
        ...     def get_backends(self):
        ...         return ("numpy", "scipy.sparse.csr_matrix")
        ...
        ...     def process_tile(self, tile):
        ...         self.results.total[:] += self.forbuf(tile.sum(axis=0), self.results.total)
        ...
        ...     def merge(self, dest, src):
        ...         dest.total[:] += src.total
        >>> import sparse
        >>> dataset = ctx.load("memory", data=sparse.random((4, 4, 8, 8), density=0.1, random_state=0), sig_dims=2)
        >>> result = ctx.run_udf(dataset=dataset, udf=Total(), backends="scipy.sparse.csr_matrix")["total"]
        >>> bool(np.allclose(result.data, dataset.data.todense().sum(axis=(0, 1))))
        True
        """
        return make_like(arr, target)

    def cached(self, key: str, factory: Callable[[], T]) -> T:
        """Return what `factory` makes, made once per process and run, and shared by the tasks there.

        Use it for what is dear to make and the same for every partition, such as a stack of masks. It must not be
        changed.

        Parameters
        ----------
        key
            Name, unique within this class.
        factory
            Called without arguments when there is nothing under that name yet.
        """
        if self._tilework_cache is None:
            self._tilework_cache = RunCache()
        return self._tilework_cache.get((self._tilework_position, key), factory)
