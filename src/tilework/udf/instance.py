"""The life of an instance of a UDF: who uses it, what it is told, and the copies that are made of it.

On the main side a run claims the instance that the user made (`claim`), and gives it back (`release`); it holds the
results of that run. Every task makes an instance of its own from the parameters (`UDFInstance.new_for_partition`), uses
it from one thread, and drops it. Where results are looked at while the run goes on, `snapshot` is used.

What users write shares the names of an instance: theirs may be called `reset` or `_cache`. So the class has the names
that LiberTEM's has, and those that are documented; all else are functions of this module, and what they keep is in
attributes whose names begin with ``_tilework``.

Who writes a UDF needs `tilework.udf.base` only.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from tilework.common.array_backends import CUPY_BACKENDS, as_names
from tilework.common.buffers import AuxBufferWrapper, BufferWrapper
from tilework.common.udf import UDFProtocol
from tilework.exceptions import UDFException
from tilework.udf.data import UDFData

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    import numpy as np

    from tilework.udf.meta import UDFMeta
    from tilework.udf.params import RunCache

    BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = [
    "RunAttribute",
    "UDFInstance",
    "claim",
    "is_in_run",
    "release",
    "reset",
    "set_cache",
    "snapshot",
    "update_kwargs",
]

T_co = TypeVar("T_co", covariant=True)

_MAPPINGS: Final = (dict, Mapping)
"""`dict` first, since asking for an abstract base class takes twice as long."""

_RUN_ATTRIBUTES: Final = frozenset(("meta", "params", "results", "task_data"))
"""What only runs may set."""

# An instance holds the results of its run on the main side; two runs must not share one.
_claim_lock = threading.Lock()


class RunAttribute(Generic[T_co]):
    """What a run puts into the dictionary of an instance itself, and what it is until then.

    Users read these for every frame: a property would take ten times as long. They cannot be assigned to.

    Parameters
    ----------
    otherwise
        Called with the instance when no run has put anything there.
    """

    def __init__(self, otherwise: Callable[[Any], T_co]) -> None:
        self._otherwise = otherwise
        self.__doc__ = otherwise.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T_co: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T_co:
        return self if instance is None else self._otherwise(instance)


class UDFInstance(UDFProtocol):
    """What the system does with an instance of a `UDF`; not for those who write one.

    Parameters
    ----------
    **kwargs
        Parameters of the UDF.
    """

    # What `UDF` has.
    meta: Any
    get_result_buffers: Any
    get_task_data: Any
    get_backends: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args:
            count = "1 argument" if len(args) == 1 else f"{len(args)} arguments"
            msg = (
                f"{type(self).__name__} is made with {count} without a name: give "
                "parameters of a UDF by name, also to super().__init__(name=...), since every task makes it again from "
                "them"
            )
            raise UDFException(msg)
        self._kwargs = kwargs
        self._tilework_cache: RunCache | None = None
        self._tilework_position = 0
        self._tilework_run: weakref.ref[object] | None = None
        self._tilework_cupy_on_main = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tilework_run": None}  # the run stays here

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RUN_ATTRIBUTES:
            what = "assign into its buffers, self.results.name[:] = ..." if name == "results" else "use another name"
            msg = f"{type(self).__name__} replaces self.{name} by a {type(value).__name__}: {what}"
            raise UDFException(msg)
        super().__setattr__(name, value)

    def copy(self) -> Any:
        """Return a fresh instance with the same parameters."""
        return type(self)(**self._kwargs)

    @classmethod
    def new_for_partition(cls, kwargs: Mapping[str, Any], partition: Any, roi: BoolArray | None) -> Any:
        """Return a fresh instance for one partition, with its part of the auxiliary data."""
        if any(isinstance(v, AuxBufferWrapper) for v in kwargs.values()):
            kwargs = {
                k: v.new_for_partition(partition, roi) if isinstance(v, AuxBufferWrapper) else v
                for k, v in kwargs.items()
            }
        return cls(**kwargs)

    def copy_for_partition(self, partition: Any, roi: BoolArray | None) -> Any:
        """Return a fresh instance for one partition, with its part of the auxiliary data."""
        return self.new_for_partition(self._kwargs, partition, roi)

    def set_meta(self, meta: UDFMeta) -> None:
        """Say what is processed."""
        vars(self)["meta"] = meta

    def set_main_process_gpu(self, gpu_id: int | None) -> None:
        """Say which CUDA device the main process uses; None for none."""
        self._tilework_cupy_on_main = gpu_id is not None and not CUPY_BACKENDS.isdisjoint(as_names(self.get_backends()))

    def init_result_buffers(self) -> None:
        """Declare the results."""
        declared = self.get_result_buffers()
        if not is_in_run(self) or self.meta.array_backend is None:  # once, on the main side
            _check_declared(type(self).__name__, declared)
        vars(self)["results"] = UDFData(declared)

    def init_task_data(self) -> None:
        """Make the task data."""
        data: Any = self.get_task_data()
        if data is None:  # a method without return: what it makes is kept elsewhere
            data = {}
        if not isinstance(data, _MAPPINGS):
            msg = f"{type(self).__name__}.get_task_data() returned {data!r}: return a dict of names and values"
            raise UDFException(msg)
        vars(self)["task_data"] = UDFData(data)

    @property
    def requires_custom_merge(self) -> bool:
        """Whether the default merge cannot work: there is a result that is not of kind nav."""
        return any(b.kind != "nav" and b.use != "result_only" for b in _declared(self).values())

    @property
    def requires_custom_merge_all(self) -> bool:
        """Whether the default of merging all at once cannot work."""
        return any(b.kind != "nav" for b in _declared(self).values())


def is_in_run(udf: UDFInstance) -> bool:
    """Return whether `meta` is known."""
    return "meta" in vars(udf)


def set_cache(udf: UDFInstance, cache: RunCache, position: int) -> None:
    """Share what the run computes once; `position` is that of this UDF in the run."""
    udf._tilework_cache = cache
    udf._tilework_position = position


def claim(udf: UDFInstance, run: object) -> Any:
    """Return the instance, or a copy when another run is using it; on the main side.

    Raises
    ------
    UDFException
        When no copy can be made from the parameters, so that no task could either.
    """
    if "_kwargs" not in vars(udf):
        msg = (
            f"{type(udf).__name__}.__init__ does not call super().__init__(...): call it, with all parameters as "
            "keyword arguments"
        )
        raise UDFException(msg)
    try:
        twin = udf.copy()
    except TypeError as e:
        name = type(udf).__name__
        msg = (
            f"{name} cannot be made again from its parameters ({', '.join(udf._kwargs) or 'none'}): {e}. Every "
            f"task makes a fresh {name} from the keyword arguments that its __init__ passes to super().__init__(), "
            "so __init__ must accept exactly those"
        )
        raise UDFException(msg) from e
    with _claim_lock:
        if udf._tilework_run is not None and udf._tilework_run() is not None:
            return twin
        udf._tilework_run = weakref.ref(run)
        return udf


def release(udf: UDFInstance, run: object) -> None:
    """Give the instance back; on the main side."""
    if udf._tilework_run is not None and udf._tilework_run() is run:
        udf._tilework_run = None


def reset(udf: UDFInstance, cache: RunCache, position: int) -> None:
    """Forget an earlier run; on the main side, where an instance may be used again."""
    vars(udf).pop("params", None)
    set_cache(udf, cache, position)


def snapshot(udf: UDFInstance, results: UDFData | None = None) -> Any:
    """Return a copy of an instance that can work elsewhere: with other results, and no run's own.

    Parameters
    ----------
    udf
        A main-side instance.
    results
        The buffers of the copy; None: it has none.
    """
    twin = copy.copy(udf)
    twin._kwargs = {k: copy.copy(v) if isinstance(v, AuxBufferWrapper) else v for k, v in udf._kwargs.items()}
    twin._tilework_run = None
    own = vars(twin)
    for name in _RUN_ATTRIBUTES - {"meta"}:
        own.pop(name, None)
    if "meta" in own:
        own["meta"] = copy.copy(own["meta"])
    if results is not None:
        own["results"] = results
    return twin


def update_kwargs(udf: UDFInstance, new: Mapping[str, Any]) -> None:
    """Change parameters, on the main side, and forget what was made of the old ones."""
    udf._kwargs = {**udf._kwargs, **new}
    udf._tilework_cache = None
    vars(udf).pop("params", None)


def _declared(udf: UDFInstance) -> Mapping[str, BufferWrapper]:
    results: UDFData | None = vars(udf).get("results")
    return results.as_dict() if results else udf.get_result_buffers()


def _check_declared(udf_name: str, declared: Any) -> None:
    """Raise UDFException when what `get_result_buffers` returned is no declaration of results."""
    if not isinstance(declared, Mapping):
        what = "nothing" if declared is None else f"a {type(declared).__name__}"
        msg = f"{udf_name}.get_result_buffers() returned {what}: return a dict of names and self.buffer(...)"
        raise UDFException(msg)
    for name, buffer in declared.items():
        if not isinstance(name, str):
            msg = f"{udf_name}: a result is called {name!r}: use a str as its name"
            raise UDFException(msg)
        if hasattr(UDFData, name) and getattr(buffer, "use", None) != "result_only":
            msg = (
                f"{udf_name}: a result cannot be called {name!r}, for self.results has a method of that name: choose "
                "another name"
            )
            raise UDFException(msg)
        if not isinstance(buffer, BufferWrapper):
            msg = (
                f"{udf_name}: the declaration of result {name!r} is not made with self.buffer(...), it is a "
                f"{type(buffer).__name__}"
            )
            raise UDFException(msg)
