"""Worker processes, as the main process has them.

They are children of a process of their own, which forks them (see `zygote`). There is one for all pools, so that only
the first waits until it has imported what workers need. Nobody else waits for it: it is asked for a worker, which then
says over its own line that it is there. With that comes a descriptor of the worker (pidfd), which tells at once when it
ends, and can be trusted to mean that process for ever, unlike its number.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, ClassVar, Final

from tilework.common.callers import outside_level
from tilework.common.interrupts import interrupts_blocked
from tilework.exceptions import ExecutorSpecException
from tilework.executor.forked import modules_to_preload
from tilework.executor.pipelined.messages import Exited, Spawn, decode, encode
from tilework.executor.pipelined.wire import LONGEST_POLL, Wire, WireClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Patience", "WorkerProcess", "Zygote", "environ_of_workers", "modules_of_workers", "path_of_workers"]

log = logging.getLogger(__name__)

_SINGLE_THREADED: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_STATUS_SECONDS: Final = 0.2

WORKER_MODULES: Final = (
    "tilework.executor.pipelined.worker",
    "tilework.executor.forked",
    "tilework.common.backend",
    "cloudpickle",
)
"""What every worker imports."""


def modules_of_workers() -> list[str]:
    """Return the names of the modules that workers need which are started now."""
    return [*WORKER_MODULES, *modules_to_preload()]


def environ_of_workers() -> dict[str, str]:
    """Return this process's environment for workers, whose libraries have one thread unless it says otherwise."""
    return {**dict.fromkeys(_SINGLE_THREADED, "1"), **os.environ}


def path_of_workers() -> list[str]:
    """Return the module path for workers, but for what is no text, which Python ignores as well."""
    path: list[object] = [*sys.path]
    return [folder for folder in path if isinstance(folder, str)]


def _check_system() -> None:
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        msg = (
            f"the pipelined executor needs Linux (5.3 or newer), this is {sys.platform}: "
            "use the executor 'threads', or 'dask'"
        )
        raise ExecutorSpecException(msg)
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM, errno.EACCES}:  # an older Linux; some sandboxes
            msg = (
                f"the pipelined executor needs the system call pidfd_open, which is refused here ({error.strerror}): "
                "use the executor 'threads', or 'dask'"
            )
            raise ExecutorSpecException(msg) from error


def _find_interpreter() -> str:
    """Return the Python for workers: another one than ours where that is part of an application, which says so."""
    multiprocessing = sys.modules.get("multiprocessing.spawn")  # whoever has told it has loaded it
    found = sys.executable if multiprocessing is None else multiprocessing.get_executable()
    if not found:
        msg = (
            "the pipelined executor starts processes, but sys.executable does not say with which Python: name it with "
            "multiprocessing.set_executable(...), or use the executor 'threads'"
        )
        raise ExecutorSpecException(msg)
    return os.fsdecode(found)


@contextlib.contextmanager
def _beyond_standard_files(fd: int) -> Iterator[int]:
    """Lend a copy of a descriptor whose number is not that of a standard file, which a new process gets otherwise."""
    import fcntl

    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        yield copy
    finally:
        os.close(copy)


def _inherited(fd: int) -> int | None:
    """Return what `subprocess` takes for a standard file of ours; none where its number is free, or another file's."""
    with contextlib.suppress(OSError):
        if os.get_inheritable(fd):
            return None
    return subprocess.DEVNULL


class Patience:
    """Asks for patience, once, when workers take long to start.

    Parameters
    ----------
    seconds
        How long is long.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.date = time.monotonic() + seconds

    def warn_if_slow(self) -> None:
        """Warn when it is time, and was not done."""
        if time.monotonic() >= self.date:
            self.date = math.inf
            warnings.warn("Slow worker startup, please be patient", RuntimeWarning, stacklevel=outside_level())


class WorkerProcess:
    """A worker's process; the part of `multiprocessing.Process` that makes sense for somebody else's child.

    Parameters
    ----------
    pid
        Its number.
    fd
        Its descriptor, which is closed by `close`.
    ask_status
        Returns how it ended, or None; called when it has.
    """

    def __init__(self, pid: int, fd: int, ask_status: Callable[[], int | None]) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._fd = fd
        self._ask_status = ask_status
        self._has_ended = False

    @property
    def sentinel(self) -> int:
        """Descriptor that is readable when the process has ended; -1 when it is closed."""
        return self._fd

    def wait_status(self) -> int | None:
        """Return how it ended, when it has; None when that is not to be known."""
        if self.exitcode is None:
            self.exitcode = self._ask_status()
        return self.exitcode

    def is_alive(self) -> bool:
        """Return whether the process has not ended."""
        return not self.join(0.0)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; returns whether it has."""
        if not self._has_ended:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            self._has_ended = bool(poll.poll(None if timeout is None else min(timeout, LONGEST_POLL) * 1e3))
        return self._has_ended

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing when it has ended."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptor."""
        self._has_ended = True
        # Before it is closed: a fork meanwhile must not close what is somebody else's by then.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Zygote:
    """The process that forks the workers of all pools of this process; see `shared`. Any number of threads may use it.

    Parameters
    ----------
    preload
        Names of modules that workers need.
    """

    _sharing: ClassVar = threading.Lock()
    _latest: ClassVar[Zygote | None] = None
    _tokens: ClassVar = itertools.count(1)

    def __init__(self, preload: list[str]) -> None:
        _check_system()
        interpreter = _find_interpreter()
        # What it does not take at once is kept, until `flush` or the next worker that is asked for: nobody waits.
        self._wire, there = Wire.pair(lambda _: None)
        self._exited: dict[int, int] = {}  # by token
        self._holders = 0
        self._is_lost = False
        self._preloaded = set(preload)
        self._lock = threading.Lock()
        code = (
            f"import sys; sys.path[:] = {path_of_workers()!r}\n"
            f"from tilework.executor.pipelined.zygote import main\n"
            f"main(int(sys.argv[1]), {os.getpid()}, {preload!r})"
        )
        # Its path is ours, and nothing is to be looked for in the current folder. Python 3.13 would do that whenever a
        # module lacks an attribute, and fail with a SystemError where the folder was removed.
        flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            # It ignores Ctrl-C, but must have come far enough to say so: until then the signal waits.
            with there, interrupts_blocked(), _beyond_standard_files(there.fileno()) as fd:
                self._process = subprocess.Popen(  # noqa: S603  (this interpreter, our own code)
                    [interpreter, *flags, "-c", code, str(fd)],
                    pass_fds=(fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=_inherited(1),
                    stderr=_inherited(2),
                    env=environ_of_workers(),
                )
        except BaseException:  # an interrupt comes at the end of that block
            self._close(0.0)
            raise

    @classmethod
    def shared(cls, preload: list[str]) -> Zygote:
        """Return the one that there is, or a new one; it lives until all who got it have called `release`."""
        with cls._sharing:
            zygote = cls._latest
            if zygote is None or not zygote.is_alive():
                zygote = cls._latest = cls(preload)
            zygote._holders += 1
            return zygote

    @classmethod
    @contextlib.contextmanager
    def ahead(cls, preload: Iterable[str]) -> Iterator[None]:
        """Let it import what workers need while this process does the same; who asks for it in the block keeps it.

        Parameters
        ----------
        preload
            Names of modules that tasks will need, and that this process may not have loaded yet.
        """
        zygote = cls.shared([*modules_of_workers(), *preload])
        try:
            yield
        finally:
            zygote.release(5.0)

    def release(self, timeout: float) -> None:
        """End it, and wait for that, unless another pool uses it."""
        with self._sharing:
            self._holders -= 1
            if self._holders:
                return
            if Zygote._latest is self:
                Zygote._latest = None
        self._close(timeout)

    def is_alive(self) -> bool:
        """Return whether it can fork."""
        return not self._is_lost and self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it without waiting, as it does not answer; its workers live on, and another one forks the next."""
        with self._lock:
            self._is_lost = True
            if self._process is not None:
                self._process.kill()  # before its line is closed, for then it would end its workers
            self._wire.close()

    def spawn(self, wire_fd: int, stderr_fd: int, preload: list[str]) -> int:
        """Ask for a worker, and return at once what stands for it; what becomes of that is seen on the worker's line.

        Parameters
        ----------
        wire_fd, stderr_fd
            The worker's end of its line, and where its stderr goes. When no worker comes of it, they are closed.
        preload
            Names of modules that it needs; those that are missing are imported first.

        Raises
        ------
        WireClosedError
            When this process has ended, or was given up.
        """
        with self._lock:
            token = next(self._tokens)
            missing = [name for name in preload if name not in self._preloaded]
            self._preloaded.update(missing)
            try:
                while self._take_next(0.0):  # what nobody waits for must not fill the line
                    pass
                self._wire.flush()
                self._wire.send(encode(Spawn(token, missing)), (wire_fd, stderr_fd))
            except WireClosedError:
                self._is_lost = True  # its process may not have ended quite yet
                raise
            return token

    def flush(self) -> None:
        """Send what it has not taken yet of many workers that were asked for, while it was importing."""
        with self._lock, contextlib.suppress(WireClosedError):  # as is seen on the lines of the workers
            self._wire.flush()

    def wait_status(self, token: int) -> int | None:
        """Return how a worker ended that has ended, waiting for a moment; None when that is not to be known."""
        with self._lock, contextlib.suppress(WireClosedError):
            until = time.monotonic() + _STATUS_SECONDS
            while token not in self._exited and self._take_next(until - time.monotonic()):
                pass
            return self._exited.pop(token, None)
        return None

    def _take_next(self, timeout: float) -> bool:
        if self._is_lost:
            raise WireClosedError
        frame = self._wire.receive(timeout)
        if frame is None:
            return False
        message = decode(frame.body)
        assert isinstance(message, Exited)
        self._exited[message.token] = message.status
        return True

    def _close(self, timeout: float) -> None:
        self._wire.close()
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Close this process's end of the line, in a process that was forked from the one that made it."""
        self._wire.forget()


def _forget_in_fork() -> None:
    Zygote._sharing = threading.Lock()
    Zygote._latest = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_fork)
