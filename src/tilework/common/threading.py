"""Limits for the threads that numerical libraries start by themselves.

Parallelism comes from running several tasks at a time; a BLAS or OpenMP pool inside every task would start far more
threads than there are CPUs. So each task runs inside `set_num_threads`, and outside of tasks nothing is changed.

Who does what: there are two kinds of pools. *Process-wide* ones have one number for all threads (OpenBLAS, MKL,
pyFFTW, PyTorch): the first thread that enters sets it, the last one that leaves restores it, and what others ask for
in between is ignored, so that while blocks with different limits overlap the first one holds. *Per-thread* ones have a
number for each thread (OpenMP, numba): each thread sets it when it enters its outermost block and restores it when it
leaves that block. All counters are changed under one lock. A process that is forked has but one thread: it goes on with
the numbers that this one had set; environment variables stay as they were.

A block must be left in the thread that entered it. Nothing here imports a numerical library: pools are looked for
among what is loaded, and again whenever modules have been imported since.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tilework.common.callers import outside_level
from tilework.common.interrupts import interrupts_later

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType

__all__ = [
    "detect_pyfftw",
    "detect_pytorch",
    "leave_limits",
    "limits_entered",
    "mitigations",
    "set_fftw_threads",
    "set_num_threads",
    "set_num_threads_env",
    "set_numba_threads",
    "set_torch_threads",
]

_lock = threading.Lock()


def detect_pyfftw() -> ModuleType | None:
    """Return the module ``pyfftw`` when it is imported and was built with threads, otherwise None."""
    pyfftw = sys.modules.get("pyfftw")
    if hasattr(pyfftw, "config") and getattr(pyfftw, "_threading_type", None) is not None:
        return pyfftw
    return None


def detect_pytorch() -> ModuleType | None:
    """Return the module ``torch`` when it is imported, otherwise None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") else None


# ---- the pools that are loaded ----


@dataclass(frozen=True, eq=False, slots=True)
class _Pool:
    """One library's number of threads."""

    kind: str
    get: Callable[[], int]
    set: Callable[[int], Any]
    is_per_thread: bool = False


_SYMBOLS = {
    "openblas": [
        (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
        for prefix in ("", "scipy_")
        for suffix in ("", "64_", "_64")
    ],
    "mkl": [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")],
    "openmp": [("omp_get_max_threads", "omp_set_num_threads")],
}


def _native_pool(controller: Any) -> _Pool:
    """Return the pool behind one of threadpoolctl's library controllers.

    The functions are called directly where their names are known, and without releasing the GIL: they only read or
    write a number, while giving the GIL away twice in every task could mean to wait for another thread each time.
    """
    per_thread = controller.user_api == "openmp"
    library = ctypes.PyDLL(controller.filepath, mode=getattr(os, "RTLD_NOLOAD", ctypes.DEFAULT_MODE))
    for get_name, set_name in _SYMBOLS.get(controller.internal_api, ()):
        if hasattr(library, get_name) and hasattr(library, set_name):
            setter = library[set_name]
            setter.restype = None  # and no argtypes: an int is passed as a C int anyway, in half the time
            return _Pool(controller.user_api, library[get_name], setter, per_thread)
    return _Pool(controller.user_api, controller.get_num_threads, controller.set_num_threads, per_thread)


def _numba_pool() -> _Pool | None:
    """Return numba's pool when its threads are running.

    They are not started for the purpose of being limited: that costs tens of milliseconds, loads an OpenMP library
    and forbids the program to fork. So the block in which numba starts them is the only one that has no limit.
    """
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is None or not getattr(parallel, "_is_initialized", False):
        return None
    try:
        get_address = ctypes.cast(parallel._get_num_threads, ctypes.c_void_p).value
        set_address = ctypes.cast(parallel._set_num_threads, ctypes.c_void_p).value
    except (AttributeError, ctypes.ArgumentError):
        get_address = set_address = None
    if not get_address or not set_address:
        return _Pool("numba", parallel.get_num_threads, parallel.set_num_threads, is_per_thread=True)
    setter = ctypes.PYFUNCTYPE(None)(set_address)
    most = sys.modules["numba"].config.NUMBA_NUM_THREADS
    getter = ctypes.PYFUNCTYPE(ctypes.c_int)(get_address)
    return _Pool("numba", getter, lambda n: setter(min(n, most)), is_per_thread=True)


def _fftw_pool() -> _Pool | None:
    pyfftw = detect_pyfftw()
    if pyfftw is None:
        return None
    config = pyfftw.config
    return _Pool("fftw", lambda: int(config.NUM_THREADS), lambda n: setattr(config, "NUM_THREADS", n))


def _torch_pool() -> _Pool | None:
    torch = detect_pytorch()
    return None if torch is None else _Pool("torch", torch.get_num_threads, torch.set_num_threads)


class _LoadedPools:
    """All pools of the process; looked for again only when the number of imported modules has changed."""

    def __init__(self) -> None:
        self.generation = 0
        self.pools: dict[str, _Pool] = {}
        self.modules = -1

    def refresh(self) -> None:
        """Look for pools that have been loaded since; `generation` changes when there are any."""
        import threadpoolctl

        found: dict[str, _Pool | None] = {}
        for controller in threadpoolctl.ThreadpoolController().lib_controllers:
            if controller.filepath not in self.pools:
                found[controller.filepath] = _native_pool(controller)
        for key, find in (("numba", _numba_pool), ("fftw", _fftw_pool), ("torch", _torch_pool)):
            if key not in self.pools:
                found[key] = find()
        new = {key: pool for key, pool in found.items() if pool is not None}
        if new:
            self.pools = {**self.pools, **new}
            self.generation += 1
        self.modules = len(sys.modules)


_loaded = _LoadedPools()


# ---- limits ----


@dataclass(slots=True)
class _Held:
    """How often a limit is held by the process or by one thread, and the numbers to go back to.

    Ctrl-C may come anywhere in its methods: another call of `restore` undoes what `set` did, and ends what it began.
    """

    depth: int = 0
    limit: int = 0
    generation: int = -1
    saved: list[tuple[_Pool, int]] = field(default_factory=list)

    def set(self, pools: list[_Pool], n: int, generation: int) -> None:
        """Set all pools for the outermost entry, those loaded since for a later one; `depth` counts it already."""
        if self.depth == 1:
            self.limit = n
        elif self.generation == generation:
            return
        n = self.limit
        for pool in pools:
            value = pool.get()
            if value != n:
                self.saved.append((pool, value))
                pool.set(n)
        self.generation = generation

    def restore(self) -> None:
        """Set the numbers from before, when nobody is inside."""
        if self.depth == 0:
            self.generation = -1
            while self.saved:
                pool, value = self.saved[-1]  # the last first: a pool saved twice ends with its first number
                pool.set(value)
                self.saved.pop()


class _ThreadHeld(threading.local):
    def __init__(self) -> None:
        self.held = _Held()


class _Limiter:
    """Sets the pools of some kinds for as long as somebody is inside.

    Ctrl-C is raised where something is called or a loop goes round, and nowhere else. So it never comes between the
    changes of the two counters, of the process and of the thread, and the latter tells what is counted.
    """

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._generation = -1
        self._process_pools: list[_Pool] = []
        self._thread_pools: list[_Pool] = []
        self._process = _Held()
        self._thread = _ThreadHeld()

    @property
    def depth(self) -> int:
        """How often this thread is inside."""
        return self._thread.held.depth

    def enter(self, n: int) -> None:
        thread, process = self._thread.held, self._process
        before = thread.depth
        try:
            with _lock:
                if len(sys.modules) != _loaded.modules:
                    _loaded.refresh()
                generation = _loaded.generation
                if self._generation != generation:
                    pools = [pool for pool in _loaded.pools.values() if pool.kind in self._kinds]
                    self._process_pools = [pool for pool in pools if not pool.is_per_thread]
                    self._thread_pools = [pool for pool in pools if pool.is_per_thread]
                    self._generation = generation
                thread.depth += 1
                process.depth += 1
                # Per-thread pools come first here and last in `leave`, because some process-wide setters (OpenBLAS and
                # PyTorch on OpenMP) change the number of the calling thread as well.
                thread.set(self._thread_pools, n, generation)
                process.set(self._process_pools, n, generation)
        except BaseException:
            self.go_back(before)
            raise

    def leave(self) -> None:
        depth = self._thread.held.depth - 1
        try:
            self.go_back(depth)
        except BaseException:
            self.go_back(depth)
            raise

    def go_back(self, depth: int) -> None:
        """Leave what this thread has entered since it was inside this often; nothing when that is done already."""
        thread, process = self._thread.held, self._process
        with _lock:
            process.depth -= thread.depth - depth
            thread.depth = depth
            process.restore()
            thread.restore()

    def go_on_in_fork(self) -> None:
        """Leave, in a process that was forked, what all threads had entered that are not there."""
        self._process.depth = self._thread.held.depth
        self._process.restore()


class _Limit(AbstractContextManager[None]):
    """May be entered any number of times, nested, and by several threads at once."""

    __slots__ = ("_limiter", "_n")

    def __init__(self, limiter: _Limiter, n: int | None) -> None:
        if n is not None and n < 1:
            msg = f"a number of threads must be at least 1, or None for no limit; got {n}"
            raise ValueError(msg)
        self._limiter = limiter
        self._n = n

    def __enter__(self) -> None:
        if self._n is not None:
            self._limiter.enter(self._n)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._n is not None:
            self._limiter.leave()


_all = _Limiter(frozenset({"blas", "openmp", "numba", "fftw", "torch"}))
_fftw = _Limiter(frozenset({"fftw"}))
_torch = _Limiter(frozenset({"torch"}))
_numba = _Limiter(frozenset({"numba"}))


def _go_on_in_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for limiter in (_all, _fftw, _torch, _numba):
        limiter.go_on_in_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_go_on_in_fork)


def set_num_threads(n: int | None) -> AbstractContextManager[None]:
    """Let BLAS, OpenMP, numba, pyFFTW and PyTorch use `n` threads inside the block.

    What is not imported stays so; numba is limited from when its threads are running. Blocks may be nested and may
    overlap between threads: see the top of this module for which limit then holds. The returned object may be entered
    again and again, and costs a few microseconds each time.

    Parameters
    ----------
    n
        Number of threads, at least 1. ``None`` changes nothing.

    Raises
    ------
    ValueError
        When `n` is less than 1.

    Examples
    --------
    >>> from threadpoolctl import threadpool_info
    >>> with set_num_threads(1):
    ...     {pool["num_threads"] for pool in threadpool_info()}
    {1}
    """
    return _Limit(_all, n)


def limits_entered() -> int:
    """Return how often this thread is inside `set_num_threads`, for `leave_limits`."""
    return _all.depth


def leave_limits(depth: int) -> None:
    """Leave what this thread has entered since `limits_entered` returned this, and has not left.

    Ctrl-C that comes just as a block ends, before `__exit__` begins, lets nobody leave it.
    """
    _all.go_back(depth)


def set_fftw_threads(n: int | None) -> AbstractContextManager[None]:
    """Let pyFFTW use `n` threads inside the block; nothing when it is not imported or was built without threads."""
    return _Limit(_fftw, n)


def set_torch_threads(n: int | None) -> AbstractContextManager[None]:
    """Let PyTorch use `n` threads for one operation inside the block; nothing when it is not imported."""
    return _Limit(_torch, n)


def set_numba_threads(n: int | None) -> AbstractContextManager[None]:
    """Let parallel numba functions called by this thread use `n` threads inside the block.

    Nothing when numba is not imported; otherwise its threads are started if they are not running yet. A number above
    ``NUMBA_NUM_THREADS`` is lowered to it, with a warning.
    """
    numba = sys.modules.get("numba")
    if n is not None and numba is not None and hasattr(numba, "get_num_threads"):
        most = numba.config.NUMBA_NUM_THREADS
        if n > most:
            warnings.warn(
                f"numba has {most} threads, not {n}: using {most}", RuntimeWarning, stacklevel=outside_level()
            )
            n = most
        numba.get_num_threads()
    return _Limit(_numba, n)


# ---- settings that are not numbers of threads ----


class _Shared:
    """A setting of the process: the first one inside sets it, the last one to leave undoes that."""

    __slots__ = ("depth", "undo")

    def __init__(self) -> None:
        self.depth = 0
        self.undo: Callable[[], None] | None = None


class _SharedBlock(AbstractContextManager[None]):
    """Holds a setting; `change` makes it and returns what undoes it, if there is anything to undo."""

    __slots__ = ("_change", "_shared")

    def __init__(self, shared: _Shared, change: Callable[[], Callable[[], None] | None]) -> None:
        self._shared = shared
        self._change = change

    def __enter__(self) -> None:
        shared = self._shared
        is_counted = False
        try:
            with _lock:
                shared.depth += 1
                is_counted = True
                if shared.depth == 1:
                    with interrupts_later():
                        shared.undo = self._change()
        except BaseException:
            if is_counted:
                self.__exit__(None, None, None)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        shared = self._shared
        with _lock:
            shared.depth -= 1
            if shared.depth == 0 and shared.undo is not None:
                undo, shared.undo = shared.undo, None
                try:
                    undo()
                except BaseException:  # Ctrl-C: it may be half done
                    undo()
                    raise


_environment = _Shared()


def set_num_threads_env(n: int = 1, set_numba: bool | None = None) -> AbstractContextManager[None]:
    """Set the environment variables that limit the threads of processes started inside the block.

    ``MKL_NUM_THREADS``, ``OMP_NUM_THREADS``, ``OPENBLAS_NUM_THREADS`` and, if wanted, ``NUMBA_NUM_THREADS``. Re-entrant
    and shared between threads: the outermost block sets, the last one to leave restores or removes.

    Parameters
    ----------
    n
        Number of threads.
    set_numba
        Whether to set ``NUMBA_NUM_THREADS``. ``None``: only when numba is not imported here, since numba also
        watches the variable in a running process and fails when it changes after its threads were started.
    """

    def change() -> Callable[[], None]:
        names = ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
        if set_numba or (set_numba is None and "numba" not in sys.modules):
            names.append("NUMBA_NUM_THREADS")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, str(n)))

        def undo() -> None:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

        return undo

    return _SharedBlock(_environment, change)


def _disable_fftw_cache() -> Callable[[], None] | None:
    cache: Any = sys.modules.get("pyfftw.interfaces.cache")
    if cache is None or not cache.is_enabled():
        return None
    cache.disable()
    enable: Callable[[], None] = cache.enable
    return enable


_mitigations = _SharedBlock(_Shared(), _disable_fftw_cache)


def mitigations() -> AbstractContextManager[None]:
    """Switch off, inside the block, what is not safe with threads: the interface cache of pyFFTW.

    To be used around tasks that share their process with other tasks. Nothing when the cache is not in use. Blocks may
    be nested and may overlap between threads; the last one to leave switches it on again.
    """
    return _mitigations
